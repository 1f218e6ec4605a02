//! One connection through the proxy.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::conditions::{Birth, Conditions, Ending, Flow};

/// What is read at once.
const PARCEL: usize = 16 * 1024;
/// How many parcels are on their way in one direction, before the sender has to wait.
const ON_THE_WAY: usize = 64;
/// How much a throttled connection lets through at once, of a second's worth.
const PORTIONS: u64 = 50;

/// Serves a client until either side is done with it, or the conditions end it.
pub(super) async fn serve(mut client: TcpStream, conditions: watch::Receiver<Conditions>) {
    let birth = Birth::now(&conditions.borrow());
    let mut server = None;
    let ending = tokio::select! {
        ending = ended(conditions.clone(), birth) => ending,
        served = forward(&mut client, &mut server, conditions, birth) => match served {
            Ok(()) => Ending::Close,
            Err(_) => Ending::Reset,
        },
    };
    if ending == Ending::Reset {
        for stream in [Some(client), server].into_iter().flatten() {
            // With that, closing it sends RST. It fails for a connection that is gone already.
            let _ = stream.set_zero_linger();
        }
    }
}

/// How the connection was ended by the conditions.
async fn ended(mut conditions: watch::Receiver<Conditions>, birth: Birth) -> Ending {
    let ended = conditions.wait_for(|conditions| birth.ending(conditions).is_some()).await;
    // Without a proxy to say more it is at an end too.
    ended.ok().and_then(|conditions| birth.ending(&conditions)).unwrap_or_default()
}

async fn forward(
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    mut conditions: watch::Receiver<Conditions>,
    birth: Birth,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let gone = |_| io::Error::other("the proxy is gone");
    let now = conditions.wait_for(|now| now.flow != Flow::Hold).await.map_err(gone)?.clone();
    if birth.is_half_open(&now) {
        // The broker never hears of it.
        let mut nowhere = tokio::io::sink();
        tokio::io::copy(client, &mut nowhere).await?;
        return Ok(());
    }
    if now.flow == Flow::Refuse {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let upstream = now.upstream.ok_or(io::ErrorKind::ConnectionRefused)?;
    let server = server.insert(TcpStream::connect(&*upstream).await?);
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        one_way(from_client, to_server, conditions.clone(), birth),
        one_way(from_server, to_client, conditions, birth),
    )?;
    Ok(())
}

/// Carries bytes in one direction to their end, and tells the other side of it, unless half-open.
async fn one_way(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    conditions: watch::Receiver<Conditions>,
    birth: Birth,
) -> io::Result<()> {
    // Read ahead of writing, so that what is delayed is not throttled by it.
    let (sender, parcels) = mpsc::channel(ON_THE_WAY);
    let reading = read(from, sender, conditions.clone(), birth);
    tokio::try_join!(reading, write(parcels, to, conditions, birth))?;
    Ok(())
}

/// Bytes, and when they are due.
type Parcel = (Instant, Vec<u8>);

async fn read(
    mut from: impl AsyncRead + Unpin,
    parcels: mpsc::Sender<Parcel>,
    conditions: watch::Receiver<Conditions>,
    birth: Birth,
) -> io::Result<()> {
    let mut buffer = vec![0; PARCEL];
    loop {
        let length = match from.read(&mut buffer).await {
            // Nor does the other side hear how it ended.
            Err(_) if birth.is_half_open(&conditions.borrow()) => return Ok(()),
            read => read?,
        };
        let due = Instant::now() + conditions.borrow().delay;
        if length == 0 || parcels.send((due, buffer[..length].to_vec())).await.is_err() {
            return Ok(());
        }
    }
}

async fn write(
    mut parcels: mpsc::Receiver<Parcel>,
    mut to: impl AsyncWrite + Unpin,
    mut conditions: watch::Receiver<Conditions>,
    birth: Birth,
) -> io::Result<()> {
    while let Some((due, bytes)) = parcels.recv().await {
        sleep_until(due).await;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let passes = |now: &Conditions| now.flow != Flow::Hold || birth.is_half_open(now);
            let Ok(now) = conditions.wait_for(passes).await.map(|now| now.clone()) else {
                return Ok(());
            };
            if birth.is_half_open(&now) {
                break;
            }
            let Some(rate) = now.rate else {
                to.write_all(rest).await?;
                break;
            };
            let portion = usize::try_from((rate.get() / PORTIONS).max(1)).unwrap_or(usize::MAX);
            let (first, others) = rest.split_at(portion.min(rest.len()));
            to.write_all(first).await?;
            rest = others;
            sleep(Duration::from_secs_f64(first.len() as f64 / rate.get() as f64)).await;
        }
    }
    if !birth.is_half_open(&conditions.borrow()) {
        // It fails where the other side is gone already, which is what it would be told.
        let _ = to.shutdown().await;
    }
    Ok(())
}

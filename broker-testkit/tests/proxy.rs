//! The proxy, between clients and a server that echoes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use broker_testkit::proxy::Proxy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long silence has to last to count as one.
const SILENCE: Duration = Duration::from_millis(200);

/// How a connection of the server ended.
#[derive(Debug, PartialEq)]
enum Ended {
    Orderly,
    Broken,
}

/// A server that echoes, behind a proxy.
struct Echo {
    proxy: Proxy,
    ended: mpsc::UnboundedReceiver<Ended>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start().await.unwrap();
        proxy.forward_to(listener.local_addr().unwrap().to_string());
        let (sender, ended) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let sender = sender.clone();
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let ended = match tokio::io::copy(&mut from, &mut to).await {
                        Ok(_) => Ended::Orderly,
                        Err(_) => Ended::Broken,
                    };
                    let _ = sender.send(ended);
                });
            }
        });
        Self { proxy, ended }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.proxy.address()).await.unwrap()
    }

    /// A connection that has gone all the way through.
    async fn connected(&self) -> TcpStream {
        let mut stream = self.connect().await;
        assert_eq!(ask(&mut stream, "hello").await, "hello");
        stream
    }

    async fn server_ended(&mut self) -> Ended {
        timeout(PATIENCE, self.ended.recv()).await.expect("the server was told nothing").unwrap()
    }
}

async fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

async fn hear(stream: &mut TcpStream, length: usize) -> String {
    let mut answer = vec![0; length];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("no answer").unwrap();
    String::from_utf8(answer).unwrap()
}

async fn ask(stream: &mut TcpStream, text: &str) -> String {
    say(stream, text).await;
    hear(stream, text.len()).await
}

/// What the client reads at the end of its connection.
async fn end_of(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    let read = timeout(PATIENCE, stream.read(&mut [0])).await.expect("the client was told nothing");
    read.map_err(|error| error.kind())
}

async fn assert_silent(stream: &mut TcpStream) {
    let read = timeout(SILENCE, stream.read(&mut [0])).await;
    assert!(read.is_err(), "the client heard something: {read:?}");
}

#[tokio::test]
async fn bytes_go_through_both_ways_and_the_end_too() {
    let mut echo = Echo::start().await;
    let mut client = echo.connected().await;
    let long = "x".repeat(300_000);
    let (mut from, mut to) = client.split();
    // More than fits between them, so it has to be read while it is written.
    let mut answer = vec![0; long.len()];
    let (written, read) = tokio::join!(to.write_all(long.as_bytes()), from.read_exact(&mut answer));
    written.and(read).unwrap();
    assert_eq!(answer, long.as_bytes());
    assert_eq!(echo.proxy.connections(), 1);

    to.shutdown().await.unwrap();
    assert_eq!(echo.server_ended().await, Ended::Orderly);
    assert_eq!(end_of(&mut client).await, Ok(0));
}

#[tokio::test]
async fn without_a_server_clients_are_refused() {
    let proxy = Proxy::start().await.unwrap();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(end_of(&mut client).await, Err(ErrorKind::ConnectionReset));
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    proxy.forward_to(gone.to_string());
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(end_of(&mut client).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_cut_closes_what_is_there_and_nothing_else() {
    let mut echo = Echo::start().await;
    let mut client = echo.connected().await;
    echo.proxy.cut();
    assert_eq!(end_of(&mut client).await, Ok(0));
    assert_eq!(echo.server_ended().await, Ended::Orderly);
    echo.connected().await;
}

#[tokio::test]
async fn a_reset_breaks_what_is_there_and_nothing_else() {
    let mut echo = Echo::start().await;
    let mut client = echo.connected().await;
    echo.proxy.reset();
    assert_eq!(end_of(&mut client).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(echo.server_ended().await, Ended::Broken);
    echo.connected().await;
}

#[tokio::test]
async fn refusing_breaks_new_connections_too_until_it_is_healed() {
    let echo = Echo::start().await;
    let mut old = echo.connected().await;
    echo.proxy.refuse();
    assert_eq!(end_of(&mut old).await, Err(ErrorKind::ConnectionReset));
    let mut new = echo.connect().await;
    assert_eq!(end_of(&mut new).await, Err(ErrorKind::ConnectionReset));
    echo.proxy.heal();
    echo.connected().await;
}

#[tokio::test]
async fn what_is_held_comes_when_it_is_healed() {
    let echo = Echo::start().await;
    let mut old = echo.connected().await;
    echo.proxy.hold();
    let mut new = echo.connect().await;
    say(&mut old, "old").await;
    say(&mut new, "new").await;
    assert_silent(&mut old).await;
    assert_silent(&mut new).await;
    echo.proxy.heal();
    assert_eq!(hear(&mut old, 3).await, "old");
    assert_eq!(hear(&mut new, 3).await, "new");
}

#[tokio::test]
async fn a_half_open_connection_says_nothing_to_either_side_and_never_recovers() {
    let mut echo = Echo::start().await;
    let mut old = echo.connected().await;
    echo.proxy.half_open();
    let mut new = echo.connect().await;
    say(&mut old, "lost").await;
    say(&mut new, "lost").await;
    assert_silent(&mut old).await;
    assert_silent(&mut new).await;
    echo.proxy.heal();
    say(&mut old, "lost too").await;
    say(&mut new, "lost too").await;
    assert_silent(&mut old).await;
    assert_silent(&mut new).await;
    echo.connected().await;
    assert_eq!(echo.server_ended().await, Ended::Orderly, "of the connection just made");

    // The client gives up, and the server does not hear of it.
    drop(old);
    assert!(timeout(SILENCE, echo.ended.recv()).await.is_err(), "the server was told");
    echo.proxy.reset();
    assert_eq!(echo.server_ended().await, Ended::Broken);
}

#[tokio::test]
async fn a_delay_delays_each_way() {
    let echo = Echo::start().await;
    let mut client = echo.connected().await;
    let delay = Duration::from_millis(100);
    echo.proxy.delay(delay);
    let start = Instant::now();
    assert_eq!(ask(&mut client, "slow").await, "slow");
    let took = start.elapsed();
    assert!(took >= 2 * delay, "there and back took {took:?}");
    echo.proxy.heal();
    assert_eq!(ask(&mut client, "again").await, "again");
}

#[tokio::test]
async fn a_throttle_lets_no_more_through_than_it_says() {
    let echo = Echo::start().await;
    let mut client = echo.connected().await;
    echo.proxy.throttle(NonZeroU64::new(10_000).unwrap());
    let start = Instant::now();
    assert_eq!(ask(&mut client, &"x".repeat(5_000)).await.len(), 5_000);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(450), "5,000 bytes took {took:?}");
    echo.proxy.heal();
    assert_eq!(ask(&mut client, "again").await, "again");
}

#[tokio::test]
async fn dropping_the_proxy_closes_its_connections() {
    let mut echo = Echo::start().await;
    let mut client = echo.connected().await;
    let Echo { proxy, ended } = &mut echo;
    drop(std::mem::replace(proxy, Proxy::start().await.unwrap()));
    assert_eq!(end_of(&mut client).await, Ok(0));
    assert_eq!(timeout(PATIENCE, ended.recv()).await.unwrap(), Some(Ended::Orderly));
}

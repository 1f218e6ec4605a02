//! The first words of each protocol: the proof that a broker answers, and not only its port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a broker may take over its answer before it counts as none.
const PATIENCE: Duration = Duration::from_secs(1);

/// Which protocol to greet in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Protocol {
    Kafka,
    Amqp,
}

/// A port of this machine, and what is spoken there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Greeting {
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

impl Greeting {
    /// Whether the broker answers as its protocol says.
    pub(crate) async fn is_answered(self) -> bool {
        let answered = async {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
            let stream = TcpStream::connect(address).await?;
            match self.protocol {
                Protocol::Kafka => greet_kafka(stream).await,
                Protocol::Amqp => greet_amqp(stream).await,
            }
        };
        matches!(tokio::time::timeout(PATIENCE, answered).await, Ok(Ok(true)))
    }
}

/// ApiVersions, version 0, which every broker answers before any authentication.
async fn greet_kafka(mut stream: TcpStream) -> io::Result<bool> {
    const CORRELATION: [u8; 4] = *b"any!";
    let mut request = vec![0, 0, 0, 10, 0, 18, 0, 0];
    request.extend(CORRELATION);
    request.extend((-1_i16).to_be_bytes()); // no client id
    stream.write_all(&request).await?;

    let mut answer = [0; 10];
    stream.read_exact(&mut answer).await?;
    // After the size: our correlation id, then error code 0.
    Ok(answer[4..8] == CORRELATION && answer[8..10] == [0, 0])
}

/// The AMQP 0-9-1 protocol header, to which the server says Connection.Start.
async fn greet_amqp(mut stream: TcpStream) -> io::Result<bool> {
    stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
    let mut frame = [0; 11];
    stream.read_exact(&mut frame).await?;
    // A method frame on channel 0; after the size: class 10, method 10.
    Ok(frame[..3] == [1, 0, 0] && frame[7..] == [0, 10, 0, 10])
}

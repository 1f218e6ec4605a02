//! Connecting so that lapin reads through a [`Sieve`].

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::{AsyncRead, AsyncWrite, Stream};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

use super::Sieve;

/// As [`Connection::connect_uri_with_config`], through a [`Sieve`] behind TLS. To be called within a
/// runtime.
///
/// # Errors
/// lapin's.
pub(crate) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    tls: OwnedTLSConfig,
) -> lapin::Result<Connection> {
    let tokio = Tokio::current();
    let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), Sieved(tokio.clone())));
    let plain = Runtime::new(tokio);
    let connect = async move |uri: AMQPUri, _| {
        let connected = uri.connect_with_config_async(tls.as_ref(), &plain).await;
        match connected {
            Ok(stream) => Ok(AsyncTcpStream::Plain(Sieve::new(stream))),
            Err(error) => Err(lapin::ErrorKind::IOError(error.into()).into()),
        }
    };
    Connection::connector(uri, runtime, connect, properties).await
}

/// What lapin wants to be told is the type of its streams; everything else is tokio's.
#[derive(Debug, Clone)]
struct Sieved(Tokio);

impl Reactor for Sieved {
    type TcpStream = Sieve<AsyncTcpStream<<Tokio as Reactor>::TcpStream>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        // lapin has no sockets of its own to be registered.
        io::Result::<Self::TcpStream>::Err(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(Sieve::new(AsyncTcpStream::Plain(connecting.await?))) }
    }
}

//! A TCP proxy that breaks the network between a client and its broker.
//!
//! ```no_run
//! use broker_testkit::proxy::Proxy;
//! # async fn example(rabbitmq: &str) -> std::io::Result<()> {
//! let proxy = Proxy::start().await?;
//! proxy.forward_to(rabbitmq);
//! let url = format!("amqp://guest:guest@{}/%2f", proxy.address());
//! // ... a client is at work there ...
//! proxy.half_open(); // what it sends is gone, and nobody tells it
//! // ... it notices, and wants to reconnect ...
//! proxy.heal();
//! # Ok(())
//! # }
//! ```
//!
//! A Kafka tells its clients where to connect to, so it has to name the proxy:
//!
//! ```no_run
//! use broker_testkit::{local::{Kafka, KafkaConfig}, proxy::Proxy};
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let proxy = Proxy::start().await?;
//! let advertised = format!("PLAINTEXT://{}", proxy.address());
//! let config = KafkaConfig::default().property("advertised.listeners", advertised);
//! let kafka = Kafka::start(config).await?;
//! proxy.forward_to(kafka.bootstrap_servers());
//! # Ok(())
//! # }
//! ```

mod conditions;
mod link;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use self::conditions::{Conditions, Ending, Flow};

/// A proxy on a port of its own on this machine. It works, and ends, with the tokio runtime it was
/// started on; dropping it closes its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    conditions: watch::Sender<Conditions>,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts one. It knows no broker yet, and closes what connects.
    ///
    /// # Errors
    /// There is no port for it.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let conditions = watch::Sender::new(Conditions::default());
        let connections = Arc::new(AtomicUsize::new(0));
        let accepting = tokio::spawn(accept(listener, conditions.subscribe(), connections.clone()));
        Ok(Self { address, conditions, connections, accepting })
    }

    /// Where clients connect to, `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Sets the broker's address, `host:port`, for connections from now on.
    pub fn forward_to(&self, upstream: impl Into<Arc<str>>) {
        self.conditions.send_modify(|conditions| conditions.upstream = Some(upstream.into()));
    }

    /// How many connections of clients are open.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Closes all connections, orderly on both sides (FIN). New ones work.
    pub fn cut(&self) {
        self.conditions.send_modify(|conditions| conditions.end(Ending::Close));
    }

    /// Breaks all connections on both sides (RST). New ones work.
    pub fn reset(&self) {
        self.conditions.send_modify(|conditions| conditions.end(Ending::Reset));
    }

    /// Breaks all connections, and new ones too until [`heal`](Self::heal): the broker is gone.
    pub fn refuse(&self) {
        self.conditions.send_modify(|conditions| {
            conditions.flow = Flow::Refuse;
            conditions.end(Ending::Reset);
        });
    }

    /// Keeps everything back until [`heal`](Self::heal), and then lets it through, as when packets
    /// are lost for a while and sent again. Connections can be made, and hear nothing.
    pub fn hold(&self) {
        self.conditions.send_modify(|conditions| conditions.flow = Flow::Hold);
    }

    /// Swallows everything from now on, and tells nobody (no FIN, no RST), as when one side's
    /// machine, or a firewall's memory of the connection, is gone. Connections of this time stay so
    /// for ever, whoever closes them; after [`heal`](Self::heal) new ones work.
    pub fn half_open(&self) {
        self.conditions.send_modify(|conditions| {
            conditions.flow = Flow::Swallow;
            conditions.swallowings += 1;
        });
    }

    /// Everything takes so much longer, in each direction.
    pub fn delay(&self, by: Duration) {
        self.conditions.send_modify(|conditions| conditions.delay = by);
    }

    /// Lets at most so many bytes a second through, on each connection and in each direction.
    pub fn throttle(&self, bytes_per_second: NonZeroU64) {
        self.conditions.send_modify(|conditions| conditions.rate = Some(bytes_per_second));
    }

    /// Ends whatever was set; connections that were closed, broken or half-open stay so.
    pub fn heal(&self) {
        self.conditions.send_modify(|conditions| {
            conditions.flow = Flow::Pass;
            conditions.delay = Duration::ZERO;
            conditions.rate = None;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    conditions: watch::Receiver<Conditions>,
    connections: Arc<AtomicUsize>,
) {
    // Dropped with this task, which ends them.
    let mut links = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Too many open files, or a client that is gone already: others may fare better.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while links.try_join_next().is_some() {}
        let counted = Counted::new(connections.clone());
        let conditions = conditions.clone();
        links.spawn(async move {
            link::serve(client, conditions).await;
            drop(counted);
        });
    }
}

/// One of the connections that are counted.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

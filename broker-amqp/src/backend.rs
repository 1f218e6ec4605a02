//! RabbitMQ as a [`Backend`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use broker_api::{
    Backend, Capabilities, Capability, Connection, ConsumerHealth, Error, ErrorKind, GroupSpec,
    Health, Name, Outgoing, Read, Result, Source, Subscribe, TopicDescription, TopicSpec,
};
use tokio::sync::{OnceCell, watch};

use crate::config::{self, AmqpConfig};
use crate::consume::Membership;
use crate::link::{LastError, Link};
use crate::publish::Publishers;
use crate::read::Reading;
use crate::registry::Registry;
use crate::topology::{NO_STREAM, Topology};

/// RabbitMQ 3.10 or later, over two connections of its own: one to publish and one to consume, so
/// that a broker that takes no messages for a while still gets acknowledgements.
///
/// How topics and groups lie on RabbitMQ is told in the documentation of this crate.
pub struct Amqp {
    core: Arc<Core>,
    publishers: Publishers,
    closed: OnceCell<()>,
}

/// What publishing needs.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) publish: Link,
    pub(crate) registry: Arc<Registry>,
    pub(crate) topology: Arc<Topology>,
}

/// What all parts of the backend share. It lives as long as the backend or one of its sources.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: AmqpConfig,
    pub(crate) publish: Link,
    pub(crate) consume: Link,
    pub(crate) registry: Arc<Registry>,
    pub(crate) topology: Arc<Topology>,
    /// Everything that works in the background watches it, and holds a receiver as long as it does.
    pub(crate) closing: watch::Sender<bool>,
    pub(crate) last_error: Arc<LastError>,
    consumers: Mutex<BTreeMap<u64, ConsumerHealth>>,
    next_consumer: AtomicU64,
    not_flushed: Mutex<Option<Error>>,
}

impl Amqp {
    /// Connects.
    ///
    /// # Errors
    /// Within the connect timeout, in one line without a secret: [`ErrorKind::Configuration`] for
    /// an address that is malformed or names a virtual host that is not there,
    /// [`ErrorKind::Unavailable`] if nothing or something else answers there,
    /// [`ErrorKind::Unauthenticated`] for refused credentials, [`ErrorKind::Unauthorized`] if the
    /// user may not use the registry.
    pub async fn connect(config: AmqpConfig) -> Result<Self> {
        config.check()?;
        let patience = config.connect_timeout;
        let at = config::shown(&config.uri()?);
        let connected = tokio::time::timeout(patience, Self::connect_within(config)).await;
        let result = connected.unwrap_or_else(|_| {
            let text = format!("RabbitMQ did not answer within {patience:?}");
            Err(Error::new(ErrorKind::Unavailable, "connect", text).transient())
        });
        result.map_err(|error| error.with_operation("connect").with("url", at))
    }

    async fn connect_within(config: AmqpConfig) -> Result<Self> {
        let last_error = Arc::<LastError>::default();
        let consume = Link::connect(&config, "consume", last_error.clone()).await?;
        let publish = Link::connect(&config, "publish", last_error.clone()).await?;
        let closing = watch::Sender::new(false);
        let registry = Registry::open(
            &config.registry,
            consume.clone(),
            publish.clone(),
            last_error.clone(),
            closing.subscribe(),
        );
        let registry = registry.await?;
        let topology = Topology::new(consume.clone(), publish.clone(), registry.clone(), &config);
        let topology = Arc::new(topology);
        let parts = Parts {
            publish: publish.clone(),
            registry: registry.clone(),
            topology: topology.clone(),
        };
        let publishers = Publishers::new(parts, closing.clone());
        let core = Arc::new(Core {
            config,
            publish,
            consume,
            registry,
            topology,
            closing,
            last_error,
            consumers: Mutex::default(),
            next_consumer: AtomicU64::new(0),
            not_flushed: Mutex::default(),
        });
        Ok(Self { core, publishers, closed: OnceCell::new() })
    }

    fn check_open(&self, operation: &'static str) -> Result<()> {
        match *self.core.closing.borrow() {
            true => Err(crate::error::closed(operation)),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Backend for Amqp {
    fn system(&self) -> &'static str {
        "rabbitmq"
    }

    fn capabilities(&self, topic: Name) -> Capabilities {
        let mut capabilities = Capabilities::all()
            .without(Capability::Compaction, "a queue keeps every message")
            .without(
                Capability::Transactions,
                "RabbitMQ cannot publish a message and settle another as one step on quorum queues",
            )
            .without(
                Capability::Revocation,
                "a single active consumer keeps its queue until it has settled what it holds",
            )
            .without(
                Capability::Offsets,
                "messages of a queue have no offset; those of a replay have one in their topic",
            );
        // One that does not exist yet has a stream if its specification asks for it.
        let stream = self.core.registry.look(|s| s.topic(topic).is_none_or(|t| t.has_stream()));
        if !stream {
            capabilities = capabilities
                .without(Capability::Replay, NO_STREAM)
                .without(Capability::StartPosition, NO_STREAM);
        }
        match self.core.consume.version() {
            Some(version) if !version.has_consumer_priorities() => capabilities.without(
                Capability::Balance,
                format!(
                    "RabbitMQ {version} gives every partition to the first member; 4.0 does not"
                ),
            ),
            _ => capabilities,
        }
    }

    fn publish(&self, outgoing: Outgoing) {
        self.publishers.publish(outgoing);
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Source>> {
        self.check_open("subscribe")?;
        if subscribe.topics.is_empty() {
            let text = "a subscription needs at least one topic";
            return Err(Error::new(ErrorKind::Invalid, "subscribe", text));
        }
        let membership = Membership::join(self.core.clone(), subscribe).await?;
        Ok(Box::new(membership))
    }

    async fn read(&self, read: Read) -> Result<Box<dyn Source>> {
        self.check_open("read")?;
        Ok(Box::new(Reading::begin(self.core.clone(), read).await?))
    }

    async fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        self.check_open("create_topic")?;
        self.core.topology.create(spec).await
    }

    async fn describe_topic(&self, topic: Name) -> Result<TopicDescription> {
        self.check_open("describe_topic")?;
        self.core.topology.describe(topic).await
    }

    async fn add_partitions(&self, topic: Name, total: u32) -> Result<()> {
        self.check_open("add_partitions")?;
        self.core.topology.add_partitions(topic, total).await
    }

    async fn delete_topic(&self, topic: Name) -> Result<()> {
        self.check_open("delete_topic")?;
        self.core.topology.delete(topic).await
    }

    async fn declare_group(&self, topic: Name, group: &GroupSpec) -> Result<()> {
        self.check_open("declare_group")?;
        self.core.topology.declare_group(topic, group, "declare_group").await.map(drop)
    }

    async fn lag(&self, topic: Name, group: Name) -> Result<u64> {
        self.check_open("lag")?;
        self.core.topology.lag(topic, group).await
    }

    fn health(&self) -> Health {
        let core = &self.core;
        let connection = match *core.closing.borrow() {
            true => Connection::Closed,
            false => worse(core.publish.shown(), core.consume.shown()),
        };
        let mut health = Health::new(connection);
        health.consumers = core.consumers().values().cloned().collect();
        health.last_error = core.last_error.get();
        health
    }

    async fn close(&self) -> Result<()> {
        self.closed
            .get_or_init(|| async {
                let core = &self.core;
                core.closing.send_replace(true);
                // Members leave, and publishers wait for the broker's answers or their deadlines.
                core.closing.closed().await;
                tokio::join!(core.publish.close(), core.consume.close());
            })
            .await;
        let not_flushed =
            self.core.not_flushed.lock().unwrap_or_else(PoisonError::into_inner).take();
        not_flushed.map_or(Ok(()), Err)
    }
}

fn worse(one: Connection, other: Connection) -> Connection {
    let rank = |connection: &Connection| match connection {
        Connection::Refused(_) => 4,
        Connection::Reconnecting { .. } => 3,
        Connection::Connecting => 2,
        Connection::Blocked(_) => 1,
        _ => 0,
    };
    if rank(&other) > rank(&one) { other } else { one }
}

impl Core {
    /// A consumer that shows in the health; its number.
    pub(crate) fn add_consumer(&self, consumer: ConsumerHealth) -> u64 {
        let number = self.next_consumer.fetch_add(1, Ordering::Relaxed);
        self.consumers().insert(number, consumer);
        number
    }

    pub(crate) fn set_problem(&self, number: u64, problem: Option<String>) {
        if let Some(consumer) = self.consumers().get_mut(&number) {
            consumer.problem = problem;
        }
    }

    pub(crate) fn problem(&self, number: u64) -> Option<String> {
        self.consumers().get(&number)?.problem.clone()
    }

    pub(crate) fn remove_consumer(&self, number: u64) {
        self.consumers().remove(&number);
    }

    /// Keeps the first error of what was closed because the backend was.
    pub(crate) fn note_close(&self, result: Result<()>) {
        if let Err(error) = result {
            let mut noted = self.not_flushed.lock().unwrap_or_else(PoisonError::into_inner);
            noted.get_or_insert(error);
        }
    }

    fn consumers(&self) -> MutexGuard<'_, BTreeMap<u64, ConsumerHealth>> {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}

impl fmt::Debug for Amqp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amqp").field("config", &self.core.config).finish_non_exhaustive()
    }
}

//! The backend.

mod join;
mod members;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use broker_api::{
    Backend, Capabilities, Connection, Error, ErrorKind, GroupSpec, Health, Message, Name,
    Outgoing, Read, Result, Source, Subscribe, TopicDescription, TopicSpec, Transactions,
};
use members::Members;
use rdkafka::admin::AdminClient;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, DefaultConsumerContext};
use rdkafka::producer::Producer as _;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::Instant;

use crate::config::KafkaConfig;
use crate::delivered::Producer;
use crate::error::Report;
use crate::group;
use crate::known::Known;
use crate::lag::Lags;
use crate::link::Link;
use crate::lookup;
use crate::properties::creation_error;
use crate::publisher::Publisher;
use crate::reading::Reading;
use crate::stall;
use crate::topics::{Logged, Topics};

/// How long closing waits for the confirmations of what was published.
const FLUSH: Duration = Duration::from_secs(10);

/// A connection to a Kafka cluster.
///
/// Messages are published by one idempotent producer with `acks=all`. A group is a consumer group
/// of Kafka's; its position is committed each second, when partitions are given up and when the
/// group is left, and never beyond a message that was not settled.
///
/// It works within the tokio runtime that it was connected in. Dropping it without closing it
/// purges what is not confirmed yet.
pub struct Kafka {
    config: Arc<KafkaConfig>,
    link: Arc<Link>,
    publisher: Arc<Publisher>,
    /// `None` once closed.
    topics: Mutex<Option<Arc<Topics>>>,
    members: Arc<Members>,
    lags: Arc<Lags>,
    known: Known,
    tasks: Arc<[AbortHandle]>,
    runtime: Handle,
    /// Whether `close` was called: readings end.
    closed: watch::Sender<bool>,
    closing: OnceLock<watch::Receiver<Option<Result<(), Report>>>>,
}

impl Kafka {
    /// Connects: when it returns, a broker has answered.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`]; [`ErrorKind::Unauthenticated`] where the credentials are
    /// refused; [`ErrorKind::Unavailable`] where no broker answers within
    /// [`KafkaConfig::connect_timeout`]. All are one line that names what to look at.
    ///
    /// # Cancel safety
    /// Dropped before it returns, nothing stays behind.
    pub async fn connect(config: KafkaConfig) -> Result<Self> {
        config.check()?;
        let config = Arc::new(config);
        let deadline = Instant::now() + config.connect_timeout;
        let link = Arc::new(Link::new());
        let (publisher, producer) =
            Publisher::new(&config.producer(), config.lone_producer(), link.clone())?;
        let admin = AdminClient::from_config_and_context(&config.admin(), Logged);
        let admin = admin.map_err(|error| creation_error(error, "connect"))?;
        let topics = Arc::new(Topics::new(admin, producer.clone()));
        let probe = spawn_blocking({
            let (config, link) = (config.clone(), link.clone());
            move || {
                check_consumer(&config)?;
                probe(&config, &producer, &link, deadline)
            }
        });
        let stopped = |_| Error::new(ErrorKind::Closed, "connect", "the runtime is shut down");
        probe.await.map_err(stopped)??;
        let tasks = [
            tokio::spawn(lookup::run(publisher.clone(), topics.clone(), link.clone())),
            tokio::spawn(stall::run(publisher.clone(), topics.clone(), link.clone())),
            tokio::spawn({
                let publisher = publisher.clone();
                async move { publisher.keep_deadlines().await }
            }),
        ];
        Ok(Self {
            lags: Arc::new(Lags::new(config.clone())),
            config,
            link,
            publisher,
            topics: Mutex::new(Some(topics)),
            members: Arc::default(),
            known: Known::default(),
            tasks: tasks.iter().map(|task| task.abort_handle()).collect(),
            runtime: Handle::current(),
            closed: watch::Sender::new(false),
            closing: OnceLock::new(),
        })
    }

    fn topics(&self, operation: &'static str) -> Result<Arc<Topics>> {
        let closed = || Error::new(ErrorKind::Closed, operation, "the broker is closed");
        self.lock_topics().clone().ok_or_else(closed)
    }

    fn lock_topics(&self) -> MutexGuard<'_, Option<Arc<Topics>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl Backend for Kafka {
    fn system(&self) -> &'static str {
        "kafka"
    }

    fn capabilities(&self, _: Name) -> Capabilities {
        Capabilities::all()
    }

    fn publish(&self, outgoing: Outgoing) {
        self.publisher.publish(outgoing);
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Source>> {
        self.join(subscribe, None).await
    }

    async fn subscribe_exactly_once(
        &self,
        subscribe: Subscribe,
        transactions: Transactions,
    ) -> Result<Box<dyn Source>> {
        self.join(subscribe, Some(transactions)).await
    }

    async fn check_output(
        &self,
        _: Name,
        topic: Name,
        partition: Option<u32>,
        message: &Message,
    ) -> Result<()> {
        let topics = self.topics("publish")?;
        self.known.check(&topics, topic, partition, message).await
    }

    async fn read(&self, read: Read) -> Result<Box<dyn Source>> {
        let topics = self.topics("read")?;
        let count = topics.partition_count(read.topic, "read").await?;
        let (config, link) = (self.config.clone(), self.link.clone());
        let closed = self.closed.subscribe();
        let begun =
            blocking("read", move || Reading::begin(&config, link, closed, &read, count)).await?;
        Ok(Box::new(begun))
    }

    async fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        let created = self.topics("create_topic")?.create(spec).await;
        self.publisher.forget(spec.name);
        self.known.forget(spec.name);
        created
    }

    async fn describe_topic(&self, topic: Name) -> Result<TopicDescription> {
        self.topics("describe_topic")?.describe(topic).await
    }

    async fn add_partitions(&self, topic: Name, total: u32) -> Result<()> {
        let added = self.topics("add_partitions")?.add_partitions(topic, total).await;
        self.publisher.forget(topic);
        self.known.forget(topic);
        added
    }

    async fn delete_topic(&self, topic: Name) -> Result<()> {
        let deleted = self.topics("delete_topic")?.delete(topic).await;
        self.publisher.forget(topic);
        self.known.forget(topic);
        if deleted.is_ok() {
            self.members.lose(topic);
        }
        deleted
    }

    async fn declare_group(&self, topic: Name, group: &GroupSpec) -> Result<()> {
        const OPERATION: &str = "declare_group";
        let count = self.topics(OPERATION)?.partition_count(topic, OPERATION).await?;
        let (client, group) = (self.config.reader(group.name.as_str()), *group);
        blocking(OPERATION, move || {
            let consumer: BaseConsumer<DefaultConsumerContext> =
                client.create().map_err(|error| creation_error(error, OPERATION))?;
            group::declare(&consumer, topic, count, &group, OPERATION)
        })
        .await
    }

    async fn lag(&self, topic: Name, group: Name) -> Result<u64> {
        let count = self.topics("lag")?.partition_count(topic, "lag").await?;
        let lags = self.lags.clone();
        blocking("lag", move || lags.lag(topic, count, group)).await
    }

    fn health(&self) -> Health {
        let (connection, last_error) = self.link.health();
        let mut health = Health::new(connection);
        health.last_error = last_error;
        if health.connection != Connection::Closed {
            health.consumers = self.members.health();
        }
        health
    }

    async fn close(&self) -> Result<()> {
        let ended = self.closing.get_or_init(|| {
            let (done, ended) = watch::channel(None);
            self.closed.send_replace(true);
            self.lags.close();
            let (link, members) = (self.link.clone(), self.members.clone());
            let (publisher, tasks) = (self.publisher.clone(), self.tasks.clone());
            let topics = self.lock_topics().take();
            // A task of its own, so that it goes on when the first caller stops waiting.
            self.runtime.spawn(async move {
                let left = members.close().await;
                let flushed = flush(publisher.close()).await;
                tasks.iter().for_each(AbortHandle::abort);
                if let Some(topics) = topics.and_then(Arc::into_inner) {
                    topics.gone().await;
                }
                link.close();
                done.send_replace(Some(left.and(flushed).map_err(|error| Report::of(&error))));
            });
            ended
        });
        let mut ended = ended.clone();
        match ended.wait_for(Option::is_some).await.map(|ended| ended.clone()) {
            Ok(Some(done)) => done.map_err(|report| report.error("close")),
            _ => Err(Error::new(ErrorKind::Closed, "close", "the runtime is shut down")),
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        if self.closing.get().is_none() {
            // Drops the clients, elsewhere, which answers what they have.
            drop(self.publisher.close());
            self.link.close();
        }
    }
}

/// Runs what waits for the broker where that blocks nobody.
async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let stopped = |_| Error::new(ErrorKind::Closed, operation, "the runtime is shut down");
    spawn_blocking(work).await.map_err(stopped)?
}

/// Waits for the confirmations, and gives the clients up, which answers the rest.
async fn flush(producers: Vec<Arc<Producer>>) -> Result<()> {
    let mut flushed = Ok(());
    for producer in producers {
        let flushing = producer.clone();
        let result = blocking("close", move || {
            flushing.flush(FLUSH).map_err(|_| {
                let text = "not all messages were confirmed; those that were not are answered so";
                Error::new(ErrorKind::Timeout, "close", text).indeterminate()
            })
        });
        flushed = flushed.and(result.await);
        if let Some(producer) = Arc::into_inner(producer) {
            producer.gone().await;
        }
    }
    flushed
}

/// Checks the properties of consumers, which is done when one is made.
fn check_consumer(config: &KafkaConfig) -> Result<()> {
    let member = config.member(Name::new("anybroker-connecting"));
    let made: Result<BaseConsumer<DefaultConsumerContext>, _> = member.create();
    made.map(drop).map_err(|error| creation_error(error, "connect"))
}

/// Waits until a broker answers. Blocks.
fn probe(config: &KafkaConfig, producer: &Producer, link: &Link, deadline: Instant) -> Result<()> {
    const STEP: Duration = Duration::from_millis(200);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Any answer will do, also that there is no such topic.
        let answer = producer.client().fetch_metadata(Some("__consumer_offsets"), left.min(STEP));
        if answer.is_ok() {
            link.answered();
            return Ok(());
        }
        let (connection, last_error) = link.health();
        let because = |reason: Option<String>| reason.map_or(String::new(), |r| format!(" ({r})"));
        if let Connection::Refused(reason) = connection {
            let text = format!(
                "the broker refused the credentials: check the SASL user, password and \
                 mechanism{}",
                because(Some(reason))
            );
            let error = Error::new(ErrorKind::Unauthenticated, "connect", text);
            return Err(error.with("brokers", &config.brokers));
        }
        if left.is_zero() {
            let text = format!(
                "no broker answered within {:?}: check that Kafka is running there, and that \
                 address, port and security protocol are right{}",
                config.connect_timeout,
                because(last_error.map(|(_, reason)| reason))
            );
            let error = Error::new(ErrorKind::Unavailable, "connect", text).transient();
            return Err(error.with("brokers", &config.brokers));
        }
    }
}

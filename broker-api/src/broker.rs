//! What applications use: one broker, whatever is behind it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::backend::{
    Backend, DEFAULT_PUBLISH_TIMEOUT, GroupSpec, Read, Receipt, Subscribe, Transactions,
};
use crate::capabilities::Capabilities;
use crate::consumer::Watches;
use crate::error::{Error, ErrorKind, Result};
use crate::health::Health;
use crate::message::Message;
use crate::name::{Name, check_pair};
use crate::publish::Publish;
use crate::request::Requests;
use crate::schedule;
use crate::spec::{TopicDescription, TopicSpec};
use crate::stats::{Counts, Stats};
use crate::subscription::Subscription;
use crate::telemetry::Telemetry;
use crate::topic::Topic;

/// Settings that are the same for every backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long a publish may take in all, waiting for room and for the connection included.
    pub publish_timeout: Duration,
    /// How many bytes of messages may be published and not confirmed yet; publishers wait beyond
    /// that. At most `u32::MAX`.
    pub publish_buffer_bytes: usize,
    /// How long [`Broker::close`] waits for consumers to finish what they are handling.
    pub drain_timeout: Duration,
    /// How long a message may be in the hands of a consumer, its retries in place included, before
    /// [`Health::lost`] names the consumer; 10 minutes by default.
    pub stuck_after: Duration,
    /// What the names of the topics begin with in which messages wait that are to be delivered
    /// later, at most 60 bytes; `scheduled` by default. Applications that share a broker, but not
    /// their permissions, need different ones; all processes of one application need the same.
    pub scheduled: Name,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            publish_timeout: DEFAULT_PUBLISH_TIMEOUT,
            publish_buffer_bytes: 64 * 1024 * 1024,
            drain_timeout: Duration::from_secs(30),
            stuck_after: Duration::from_secs(600),
            scheduled: Name::new("scheduled"),
        }
    }
}

/// A broker to publish to and consume from. Cheap to clone; all clones are the same broker.
#[derive(Clone)]
pub struct Broker {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    /// What waits for answers. First, so that its readings are gone before the backend is.
    pub(crate) requests: Requests,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) settings: Settings,
    pub(crate) telemetry: Telemetry,
    pub(crate) counts: Arc<Counts>,
    /// One permit a byte that may be in flight.
    pub(crate) room: Arc<Semaphore>,
    /// Whether `close` was called; consumers stop when they see it.
    pub(crate) closing: watch::Sender<bool>,
    /// What is known of where messages wait that are to be delivered later.
    pub(crate) scheduled: schedule::Known,
    /// What keeps consumers from working that the backend cannot know.
    pub(crate) watches: Arc<Watches>,
}

impl Broker {
    /// A broker on this backend with the default settings.
    pub fn new(backend: impl Backend) -> Self {
        Self::with_settings(Arc::new(backend), Settings::default())
    }

    /// A broker on this backend with these settings.
    pub fn with_settings(backend: Arc<dyn Backend>, mut settings: Settings) -> Self {
        settings.publish_buffer_bytes = settings.publish_buffer_bytes.clamp(1, u32::MAX as usize);
        Self {
            inner: Arc::new(Inner {
                requests: Requests::default(),
                telemetry: Telemetry::new(backend.clone()),
                counts: Arc::default(),
                backend,
                settings,
                room: Arc::new(Semaphore::new(settings.publish_buffer_bytes)),
                closing: watch::Sender::new(false),
                scheduled: schedule::Known::default(),
                watches: Arc::default(),
            }),
        }
    }

    /// Publishes a value: validated, encoded and keyed by its topic, confirmed by the broker.
    ///
    /// Await the result for the confirmation, or [`Publish::enqueue`] it and await that later.
    /// Nothing is sent before one of the two is awaited.
    pub fn publish<T>(&self, topic: Topic<T>, value: &T) -> Publish {
        Publish::new(self.clone(), topic.name(), topic.encode(value))
    }

    /// Publishes a message without a type.
    pub fn publish_message(&self, topic: Name, message: Message) -> Publish {
        Publish::new(self.clone(), topic, Ok(message))
    }

    /// Publishes many values in their order, and says of each what became of it. One bad value
    /// does not keep the others from being published.
    ///
    /// Dropping the future leaves open which were published.
    pub async fn publish_all<'a, T: 'a>(
        &self,
        topic: Topic<T>,
        values: impl IntoIterator<Item = &'a T>,
    ) -> Vec<Result<Receipt>> {
        let mut confirmations = Vec::new();
        for value in values {
            confirmations.push(self.publish(topic, value).enqueue().await);
        }
        let mut results = Vec::with_capacity(confirmations.len());
        for confirmation in confirmations {
            results.push(match confirmation {
                Ok(confirmation) => confirmation.await,
                Err(error) => Err(error),
            });
        }
        results
    }

    /// Waits until everything that was handed over before is confirmed or has failed.
    pub async fn flush(&self) {
        // Permits are given in the order asked for, and every message holds some until answered.
        let all = self.inner.settings.publish_buffer_bytes as u32;
        drop(self.inner.room.acquire_many(all).await);
    }

    /// Joins a group, and gives a stream of deliveries that are settled one by one.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`], [`ErrorKind::Closed`], and those of [`Backend::subscribe`].
    pub async fn subscribe(&self, subscribe: Subscribe) -> Result<Subscription> {
        if subscribe.topics.is_empty() || subscribe.prefetch == 0 {
            let text = "a subscription needs at least one topic and a prefetch of at least 1";
            return Err(Error::new(ErrorKind::Invalid, "subscribe", text));
        }
        for topic in &subscribe.topics {
            check_pair(*topic, subscribe.group.name)?;
        }
        self.subscribe_unchecked(subscribe, None).await
    }

    /// Joins a group also in topics whose names are made from its own, for which the names that
    /// were checked leave room.
    pub(crate) async fn subscribe_unchecked(
        &self,
        subscribe: Subscribe,
        transactions: Option<Transactions>,
    ) -> Result<Subscription> {
        self.check_open("subscribe")?;
        let received = self.inner.telemetry.received(Some(subscribe.group.name), &subscribe.topics);
        let backend = &self.inner.backend;
        let source = match transactions {
            None => backend.subscribe(subscribe).await?,
            Some(transactions) => backend.subscribe_exactly_once(subscribe, transactions).await?,
        };
        Ok(Subscription::new(source, received, self.inner.counts.clone()))
    }

    /// Reads a topic without a group: nobody's position moves.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`], and those of [`Backend::read`].
    pub async fn read(&self, read: Read) -> Result<Subscription> {
        self.check_open("read")?;
        let received = self.inner.telemetry.received(None, &[read.topic]);
        let source = self.inner.backend.read(read).await?;
        Ok(Subscription::new(source, received, self.inner.counts.clone()))
    }

    /// Creates the topic if it does not exist. One that exists has to agree with the specification.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`], which lists the differences; those of [`Backend::create_topic`].
    pub async fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        self.check_open("create_topic")?;
        match self.inner.backend.create_topic(spec).await {
            Err(error) if error.kind() == ErrorKind::TopicExists => {}
            created => return created,
        }
        let existing = self.describe_topic(spec.name).await?;
        let differences = spec.differences(&existing);
        if differences.is_empty() {
            return Ok(());
        }
        let text = format!("the topic exists with other settings: {}", differences.join("; "));
        Err(Error::new(ErrorKind::Mismatch, "create_topic", text).with("topic", spec.name))
    }

    /// What the topic is.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`].
    pub async fn describe_topic(&self, topic: Name) -> Result<TopicDescription> {
        self.check_open("describe_topic")?;
        self.inner.backend.describe_topic(topic).await
    }

    /// Grows the topic to `total` partitions. Keys may move to other partitions by that.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it has as many or more; [`ErrorKind::UnknownTopic`].
    pub async fn add_partitions(&self, topic: Name, total: u32) -> Result<()> {
        self.check_open("add_partitions")?;
        self.inner.backend.add_partitions(topic, total).await
    }

    /// Deletes the topic with everything in it, and its groups' positions.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`].
    pub async fn delete_topic(&self, topic: Name) -> Result<()> {
        self.check_open("delete_topic")?;
        self.inner.backend.delete_topic(topic).await
    }

    /// Makes a group exist, so that what is published from now on waits for it. A group that
    /// exists is left as it is.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`], [`ErrorKind::UnknownTopic`], [`ErrorKind::Mismatch`].
    pub async fn declare_group(&self, topic: Name, group: &GroupSpec) -> Result<()> {
        self.check_open("declare_group")?;
        check_pair(topic, group.name)?;
        self.inner.backend.declare_group(topic, group).await
    }

    /// How many messages of the topic the group has not settled; 0 for a group that does not
    /// exist. On RabbitMQ without those that its members have in hand, which it does not count.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`], [`ErrorKind::Unsupported`].
    pub async fn lag(&self, topic: Name, group: Name) -> Result<u64> {
        self.check_open("lag")?;
        self.inner.backend.lag(topic, group).await
    }

    /// What the broker can do for this topic.
    pub fn capabilities(&self, topic: Name) -> Capabilities {
        self.inner.backend.capabilities(topic)
    }

    /// The broker's name: `kafka`, `rabbitmq`, `memory`.
    pub fn system(&self) -> &'static str {
        self.inner.backend.system()
    }

    /// Whether it works, as known now.
    pub fn health(&self) -> Health {
        let mut health = self.inner.backend.health();
        self.inner.watches.report(&mut health, self.inner.settings.stuck_after);
        health
    }

    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        self.inner.counts.snapshot()
    }

    /// Takes no more messages, lets consumers finish what they are handling (at most
    /// [`Settings::drain_timeout`]), waits for the confirmations, and gives up the connections.
    /// Calling it again, also at the same time, waits for the same end.
    ///
    /// # Errors
    /// What could not be flushed.
    pub async fn close(&self) -> Result<()> {
        self.inner.closing.send_replace(true);
        // Every consumer holds a receiver; the channel is closed when the last one has stopped.
        let drained = self.inner.closing.closed();
        let late = tokio::time::timeout(self.inner.settings.drain_timeout, drained).await.is_err();
        if late {
            tracing::warn!(
                "consumers did not finish within the drain time; their messages are handed back"
            );
        }
        self.flush().await;
        self.inner.backend.close().await
    }

    pub(crate) fn check_open(&self, operation: &'static str) -> Result<()> {
        match *self.inner.closing.borrow() {
            true => Err(Error::new(ErrorKind::Closed, operation, "the broker is closed")),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("system", &self.system()).finish_non_exhaustive()
    }
}

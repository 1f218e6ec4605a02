//! The contract: what a backend has to do.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::capabilities::{Capabilities, Capability};
use crate::confirm::Confirm;
use crate::delivery::Delivery;
use crate::error::{Error, ErrorKind, Result};
use crate::health::Health;
use crate::message::Message;
use crate::name::Name;
use crate::spec::{TopicDescription, TopicSpec};

/// A broker, as an implementer sees it. Applications use [`Broker`](crate::Broker), which is built
/// on any backend.
///
/// # Contract
/// The conformance suite in `broker-testkit` checks what is said here, on every backend.
///
/// - **Nothing is settled before the application settles it.** A backend never acknowledges, and
///   never moves a group's position, on its own.
/// - **A confirmed message is stored**: it outlives the broker's restart and reaches every group
///   that was declared before it was published.
/// - **Key order**: messages of one key published one after the other are in one partition, and
///   each group gets them in that order. The partition is
///   [`partition_for_key`](crate::partition_for_key), unless the publisher names one; a message
///   without a key may go to any.
/// - **Outages are the backend's business**: it reconnects for ever, and tells through
///   [`Backend::health`]. Only what a reconnection cannot mend is an error of a [`Source`].
/// - Every error names its operation and, where there is one, its topic, as
///   [`Error::context`](crate::Error::context) `topic`.
/// - No method panics on what comes from the broker. Every future may be dropped at any time
///   without losing a message.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The broker's name in logs, errors and telemetry: `kafka`, `rabbitmq`, `memory`.
    fn system(&self) -> &'static str;

    /// The broker that this topic is on, for a backend that stands for several.
    fn system_of(&self, topic: Name) -> &'static str {
        let _ = topic;
        self.system()
    }

    /// What it can do for this topic, as far as known without asking the broker.
    fn capabilities(&self, topic: Name) -> Capabilities;

    /// Takes over a message, at once, without blocking and in the order of the calls, and completes
    /// its [`Confirm`] once the broker has answered, or with an error by its deadline.
    ///
    /// Behaviour: it checks the size against the topic's limit
    /// ([`check_size`](crate::limits::check_size)) and the partition against the topic's
    /// ([`ErrorKind::Invalid`] where it does not exist, and for a message without a key on a
    /// compacted topic); an unknown topic is [`ErrorKind::UnknownTopic`] and is not created by it;
    /// a message that no group gets and that is not kept either
    /// ([`Capability::StartPosition`]) is [`ErrorKind::Unroutable`]; while the connection is lost the message waits for it
    /// until its deadline. An error's class tells the truth: transient and permanent mean that the
    /// message is certainly not stored. One bad message never fails its neighbours.
    ///
    /// The core bounds what is in flight, so a backend may queue without a bound of its own.
    fn publish(&self, outgoing: Outgoing);

    /// Joins a group, declaring it where it does not exist yet. What is published after this has
    /// returned reaches the group, also one that begins with [`Start::Latest`].
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`], [`ErrorKind::Mismatch`] where the group has another order,
    /// [`ErrorKind::Unsupported`], [`ErrorKind::Unauthorized`], or what the connection reports.
    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Source>>;

    /// Joins a group as [`Backend::subscribe`] does, with deliveries that are settled by
    /// transactions: what [`Settle::settle_with`] is given is published together with the
    /// settlement, both or neither, and a reader sees it when the transaction is committed.
    ///
    /// Behaviour: settlements are gathered as `transactions` says. What is settled in a partition
    /// is in no transaction before everything below it is settled too. Closing the source, and
    /// giving a partition up, commits what is settled. Whoever was replaced in the group commits
    /// nothing any more. A transaction that cannot be committed is an error of the source, and
    /// what was in it comes back to the group.
    ///
    /// # Errors
    /// As [`Backend::subscribe`]; by default [`ErrorKind::Unsupported`].
    async fn subscribe_exactly_once(
        &self,
        subscribe: Subscribe,
        transactions: Transactions,
    ) -> Result<Box<dyn Source>> {
        let _ = transactions;
        let topic = subscribe.topics.first().copied();
        let none = || Error::new(ErrorKind::Invalid, "subscribe", "no topic is named");
        Err(unsupported(self, topic.ok_or_else(none)?, Capability::Transactions))
    }

    /// Whether a message can be published to `topic` by the transaction that settles a delivery of
    /// `input`; it checks whatever [`Backend::publish`] would.
    ///
    /// # Errors
    /// Those that publishing would give, transient ones too; by default
    /// [`ErrorKind::Unsupported`].
    async fn check_output(
        &self,
        input: Name,
        topic: Name,
        partition: Option<u32>,
        message: &Message,
    ) -> Result<()> {
        let _ = (topic, partition, message);
        Err(unsupported(self, input, Capability::Transactions))
    }

    /// Reads a topic without a group: nobody's position moves, settling a delivery has no effect.
    /// The source ends by itself where [`Until::CaughtUp`] is asked for: after the last message
    /// that was stored when the call was made.
    ///
    /// # Errors
    /// As [`Backend::subscribe`]; by default [`ErrorKind::Unsupported`].
    async fn read(&self, read: Read) -> Result<Box<dyn Source>> {
        Err(unsupported(self, read.topic, Capability::Replay))
    }

    /// Creates a topic. When it returns, the topic can be published to.
    ///
    /// # Errors
    /// [`ErrorKind::TopicExists`], whatever the specification of the existing one;
    /// [`ErrorKind::Unsupported`] for what the backend cannot do; [`ErrorKind::Invalid`] for a
    /// value out of range (such as no partitions).
    async fn create_topic(&self, spec: &TopicSpec) -> Result<()>;

    /// What the topic is.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`].
    async fn describe_topic(&self, topic: Name) -> Result<TopicDescription>;

    /// Grows the topic to `total` partitions. Keys may move to other partitions by that, so their
    /// order across the change is not kept. Its groups get the new partitions too, members that
    /// are subscribed within seconds and without doing anything for it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it has as many or more; [`ErrorKind::UnknownTopic`]; by default
    /// [`ErrorKind::Unsupported`].
    async fn add_partitions(&self, topic: Name, total: u32) -> Result<()> {
        let _ = total;
        Err(unsupported(self, topic, Capability::AddPartitions))
    }

    /// Deletes the topic with its messages and the positions of its groups. Sources that consume it
    /// report [`ErrorKind::UnknownTopic`].
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`].
    async fn delete_topic(&self, topic: Name) -> Result<()>;

    /// Makes the group exist, so that it gets every message published from now on, or from its
    /// start position. For a group that exists it changes nothing, its position least of all.
    ///
    /// # Errors
    /// As [`Backend::subscribe`].
    async fn declare_group(&self, topic: Name, group: &GroupSpec) -> Result<()>;

    /// How many messages of the topic the group has not settled, for telemetry; 0 for a group that
    /// does not exist. On a broker whose offsets have gaps it may be higher; on one that does not
    /// count what members have in hand, lower by that.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`]; by default [`ErrorKind::Unsupported`].
    async fn lag(&self, topic: Name, group: Name) -> Result<u64> {
        let _ = group;
        Err(unsupported(self, topic, Capability::Lag))
    }

    /// The state as it is known now. Never stale: a lost connection or consumer shows.
    fn health(&self) -> Health;

    /// Gives up all connections. Sources are closed; messages not confirmed yet are answered.
    /// Calling it again, also at the same time, does nothing and waits for the first.
    ///
    /// # Errors
    /// What could not be flushed.
    async fn close(&self) -> Result<()>;
}

/// Where deliveries come from: a membership in a group, or a reading.
#[async_trait]
pub trait Source: Send {
    /// The next deliveries, at least one and at most `max`, as soon as there is one.
    /// `None` when the source has ended: it was closed, or a reading has caught up.
    ///
    /// Behaviour: cancel-safe, a delivery is either returned or still in the source. Of a group's
    /// deliveries no more than [`Subscribe::prefetch`] are handed out and unsettled at any time.
    /// A source that is not asked for long stays a member of its group.
    ///
    /// # Errors
    /// Only what the backend cannot mend by itself. After an error nothing more comes, and what
    /// was unsettled comes back to the group.
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>>;

    /// Makes sure that everything settled so far does not come back, hands back the rest, and
    /// leaves the group; [`Backend::close`] does this for every source. A broker that keeps one
    /// position for each partition repeats what was settled after its first unsettled message. Dropping the source hands back too, and may forget the last settlements.
    ///
    /// # Errors
    /// What could not be flushed.
    async fn close(&mut self) -> Result<()>;
}

/// How deliveries are settled; each [`Delivery`] has one with a token of the backend's.
///
/// The methods are called at most once for a token, from any thread, and neither block nor fail:
/// what goes wrong shows in [`Source::next`] or [`Source::close`]. After the partition was given up
/// they have no effect.
pub trait Settle: Send + Sync {
    /// The message is done: by acknowledging or by rejecting it.
    fn settle(&self, token: u64, settlement: Settlement);

    /// The message is done, together with these messages: they are published and it is settled, or
    /// neither, and then it comes again. Only for deliveries of
    /// [`Backend::subscribe_exactly_once`]; their deadlines do not count, and they are confirmed
    /// when the transaction is committed. Of others it settles nothing, so they come again.
    fn settle_with(&self, token: u64, settlement: Settlement, outputs: Vec<Outgoing>) {
        let _ = (settlement, outputs);
        tracing::error!(token, "a message that no transaction settles was to be settled by one");
    }

    /// The message is to be delivered again, before later messages of its partition that were not
    /// handed out yet; several of one partition in their order there. The message is given back,
    /// so nothing has to be kept for this.
    fn requeue(&self, token: u64, message: Message);

    /// Whether the partition is still to be worked on. `false` from the moment the backend wants
    /// to give it up, or has: what is not begun yet should be handed back, not begun. Where that
    /// would bring back later messages that were settled, it stays `true` for as long as the
    /// partition can be kept.
    ///
    /// It is asked right before a message is begun.
    fn is_live(&self, token: u64) -> bool {
        let _ = token;
        true
    }
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Handled.
    Ack,
    /// Not handled, and not wanted again.
    Reject,
}

/// A message on its way to the broker.
#[derive(Debug)]
pub struct Outgoing {
    /// Where to.
    pub topic: Name,
    /// The partition, where the publisher named one.
    pub partition: Option<u32>,
    /// The message; it has an id and a timestamp.
    pub message: Message,
    /// When the confirmation has to be answered at the latest.
    pub deadline: Instant,
    /// How to answer.
    pub confirm: Confirm,
}

/// Where a confirmed message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its partition.
    pub partition: u32,
    /// Its offset in the partition, where the broker has offsets.
    pub offset: Option<u64>,
}

/// Where a group that did not exist, or a reading, begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// With the oldest message that the broker has for it.
    ///
    /// RabbitMQ keeps nothing for a group that does not exist, unless the topic has a retention:
    /// there this is the same as [`Start::Latest`].
    #[default]
    Earliest,
    /// With the first message published from now on.
    Latest,
    /// With the first message whose timestamp is not before this.
    Time(SystemTime),
    /// With this offset, or the next one there is, in every partition.
    Offset(u64),
}

/// Where a reading ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Until {
    /// After the last message that is stored when it begins.
    #[default]
    CaughtUp,
    /// Never: it goes on with what is published.
    Followed,
}

/// In which order a group gets its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Order {
    /// Messages of one key in the order they were published, also when redelivered.
    #[default]
    Key,
    /// In any order: members compete for every message.
    None,
}

/// A consumer group of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSpec {
    /// Its name.
    pub name: Name,
    /// Where it begins if it does not exist yet.
    pub start: Start,
    /// Its order. It belongs to the group, and all members have to say the same.
    pub order: Order,
}

impl GroupSpec {
    /// A group that begins with the oldest message and keeps the order of keys.
    pub const fn new(name: Name) -> Self {
        Self { name, start: Start::Earliest, order: Order::Key }
    }
}

/// A membership in a group.
#[derive(Debug, Clone)]
pub struct Subscribe {
    /// The topics, at least one; all members of a group should name the same.
    pub topics: Vec<Name>,
    /// The group.
    pub group: GroupSpec,
    /// How many deliveries may be unsettled at a time, at least 1.
    pub prefetch: usize,
}

impl Subscribe {
    /// A membership in this group of one topic, with at most [`DEFAULT_PREFETCH`] unsettled.
    pub fn new(topic: Name, group: GroupSpec) -> Self {
        Self { topics: vec![topic], group, prefetch: DEFAULT_PREFETCH }
    }
}

/// When the transaction is committed that settles what a consumer has handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transactions {
    /// As soon as so many messages are done, at least 1.
    pub messages: usize,
    /// Or so long after the first of them.
    pub wait: Duration,
}

impl Default for Transactions {
    /// A thousand messages, or 100 ms.
    fn default() -> Self {
        Self { messages: 1_000, wait: Duration::from_millis(100) }
    }
}

/// A reading without a group.
#[derive(Debug, Clone)]
pub struct Read {
    /// The topic.
    pub topic: Name,
    /// Only these partitions; all where `None`.
    pub partitions: Option<Vec<u32>>,
    /// Where it begins.
    pub start: Start,
    /// Where it ends.
    pub until: Until,
}

impl Read {
    /// A reading of the whole topic, from its oldest message to the one that is the last now.
    pub const fn new(topic: Name) -> Self {
        Self { topic, partitions: None, start: Start::Earliest, until: Until::CaughtUp }
    }
}

/// The error for a missing capability, with the backend's own reason.
pub(crate) fn unsupported(
    backend: &(impl Backend + ?Sized),
    topic: Name,
    capability: Capability,
) -> Error {
    let capabilities = backend.capabilities(topic);
    let why = capabilities.why_not(capability).unwrap_or("this backend does not have it");
    let text = format!("{capability} is not supported by {}: {why}", backend.system());
    Error::new(ErrorKind::Unsupported, "capability", text).with("topic", topic)
}

#[async_trait]
impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn system(&self) -> &'static str {
        (**self).system()
    }
    fn system_of(&self, topic: Name) -> &'static str {
        (**self).system_of(topic)
    }
    fn capabilities(&self, topic: Name) -> Capabilities {
        (**self).capabilities(topic)
    }
    fn publish(&self, outgoing: Outgoing) {
        (**self).publish(outgoing);
    }
    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Source>> {
        (**self).subscribe(subscribe).await
    }
    async fn subscribe_exactly_once(
        &self,
        subscribe: Subscribe,
        transactions: Transactions,
    ) -> Result<Box<dyn Source>> {
        (**self).subscribe_exactly_once(subscribe, transactions).await
    }
    async fn check_output(
        &self,
        input: Name,
        topic: Name,
        partition: Option<u32>,
        message: &Message,
    ) -> Result<()> {
        (**self).check_output(input, topic, partition, message).await
    }
    async fn read(&self, read: Read) -> Result<Box<dyn Source>> {
        (**self).read(read).await
    }
    async fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        (**self).create_topic(spec).await
    }
    async fn describe_topic(&self, topic: Name) -> Result<TopicDescription> {
        (**self).describe_topic(topic).await
    }
    async fn add_partitions(&self, topic: Name, total: u32) -> Result<()> {
        (**self).add_partitions(topic, total).await
    }
    async fn delete_topic(&self, topic: Name) -> Result<()> {
        (**self).delete_topic(topic).await
    }
    async fn declare_group(&self, topic: Name, group: &GroupSpec) -> Result<()> {
        (**self).declare_group(topic, group).await
    }
    async fn lag(&self, topic: Name, group: Name) -> Result<u64> {
        (**self).lag(topic, group).await
    }
    fn health(&self) -> Health {
        (**self).health()
    }
    async fn close(&self) -> Result<()> {
        (**self).close().await
    }
}

/// How many deliveries may be unsettled where nothing is said.
pub const DEFAULT_PREFETCH: usize = 256;

/// How long a publish may take where nothing is said.
pub const DEFAULT_PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);

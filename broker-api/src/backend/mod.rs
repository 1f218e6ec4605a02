//! The contract: what a backend has to do.

mod asked;
mod shared;
mod source;

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

pub use asked::{DEFAULT_PREFETCH, GroupSpec, Order, Read, Start, Subscribe, Transactions, Until};
pub use source::{Settle, Settlement, Source};

use crate::capabilities::{Capabilities, Capability};
use crate::confirm::Confirm;
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

/// How long a publish may take where nothing is said.
pub const DEFAULT_PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);

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

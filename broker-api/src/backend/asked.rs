//! What a backend is asked for: memberships, and readings.

use std::time::{Duration, SystemTime};

use crate::name::Name;

/// How many deliveries may be unsettled where nothing is said.
pub const DEFAULT_PREFETCH: usize = 256;

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
    /// As soon as so many messages are done, at least 1; a backend may commit earlier where what they
    /// publish is large.
    pub messages: usize,
    /// Or so long after the first of them.
    pub wait: Duration,
}

impl Default for Transactions {
    /// Ten thousand messages, or 100 ms.
    fn default() -> Self {
        Self { messages: 10_000, wait: Duration::from_millis(100) }
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

//! The in-memory broker: a real broker in every respect but that it ends with the process.

mod connection;
mod group;
mod lease;
mod log;
mod member;
mod membership;
mod reader;
mod room;
mod server;
mod state;
mod topic;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use self::connection::Connection;
use self::member::Member;
use self::reader::Reader;
use self::server::Server;
use crate::backend::{Backend, GroupSpec, Outgoing, Read, Source, Subscribe};
use crate::capabilities::{Capabilities, Capability};
use crate::error::Result;
use crate::health::Health;
use crate::name::Name;
use crate::spec::{TopicDescription, TopicSpec};

/// How many bytes of messages an in-memory broker keeps where nothing else is said: 128 MiB.
pub const DEFAULT_LIMIT_BYTES: usize = 128 * 1024 * 1024;

/// A connection to an in-memory broker.
///
/// [`Memory::new`] makes a broker and the first connection to it; [`Memory::connect`] and `clone`
/// make further connections to the same broker, as other processes have them to a real one: closing
/// one does nothing to the others. The broker ends with its last connection.
///
/// # What it keeps
/// - **What a declared group has not settled is never dropped**, whatever the retention. (On Kafka
///   a group that is slower than the retention loses messages; on RabbitMQ it does not.)
/// - What all groups have settled, or what has no group, is kept for replay and for new groups: for
///   as long and as many bytes (of each partition) as the topic's retention says, else until the
///   room is needed, which takes the oldest messages of the largest partition first. Age counts
///   from publishing, whatever the message's own timestamp says.
/// - A compacted topic keeps the newest message of each key whatever the retention, and older
///   ones only until every group has settled them.
///
/// # Back-pressure
/// All messages together, with some 200 bytes for each besides its own, stay within a limit:
/// [`DEFAULT_LIMIT_BYTES`], or that of [`Memory::with_limit`]. When nothing more can be dropped,
/// publishing waits, on all topics and in order, until a group has settled something, and is refused
/// at its deadline with a transient [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) that names the
/// group that is furthest behind. Meanwhile [`Backend::health`] says
/// [`Connection::Blocked`](crate::Connection::Blocked). Waiting needs a tokio runtime with time.
///
/// # Groups
/// Under [`Order::Key`](crate::Order::Key) a partition belongs to one member at a time, as many to
/// each, give or take one. It moves to another member once the one that has it has nothing of it in
/// hand; until then its deliveries are not live. Under [`Order::None`](crate::Order::None) members
/// compete for every message.
///
/// Settling takes effect at once, so nothing is flushed, and nothing settled ever comes back.
pub struct Memory {
    connection: Arc<Connection>,
}

impl Memory {
    /// A new broker without topics, and a connection to it.
    pub fn new() -> Self {
        Self::with_limit(DEFAULT_LIMIT_BYTES)
    }

    /// A new broker that keeps at most so many bytes of messages. A message that is larger than
    /// this alone is refused as [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge).
    pub fn with_limit(bytes: usize) -> Self {
        Self { connection: Connection::new(Server::new(bytes)) }
    }

    /// Another connection to the same broker. It is open, whether this one is or not.
    pub fn connect(&self) -> Self {
        Self { connection: Connection::new(self.connection.server().clone()) }
    }

    /// Every topic, and how many messages each of its groups has not settled: for tests, which wait
    /// until all is handled.
    pub fn backlog(&self) -> Vec<(Name, Vec<(Name, u64)>)> {
        self.server().with(|state, _| {
            let groups = |topic: &topic::Topic| {
                topic.groups.iter().map(|group| (group.name, group.lag(&topic.logs))).collect()
            };
            state.topics.iter().map(|(_, topic)| (topic.name, groups(topic))).collect()
        })
    }

    fn server(&self) -> &Arc<Server> {
        self.connection.server()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for Memory {
    /// Another connection, as [`Memory::connect`] makes it.
    fn clone(&self) -> Self {
        self.connect()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

#[async_trait]
impl Backend for Memory {
    fn system(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self, _: Name) -> Capabilities {
        Capabilities::all()
            .without(
                Capability::Transactions,
                "the embedded broker settles a message and publishes others one after the other",
            )
            .without(
                Capability::Revocation,
                "a partition stays with its member as long as that holds messages of it",
            )
    }

    fn publish(&self, outgoing: Outgoing) {
        match self.connection.check_open("publish") {
            Ok(()) => self.server().publish(&self.connection, outgoing),
            Err(error) => outgoing.confirm.done(Err(error.with("topic", outgoing.topic))),
        }
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Source>> {
        let seat = self.server().with(|state, after| {
            self.connection.check_open("subscribe")?;
            state.join(self.connection.number(), &subscribe, after)
        })?;
        Ok(Box::new(Member::new(self.connection.clone(), seat)))
    }

    async fn read(&self, read: Read) -> Result<Box<dyn Source>> {
        Ok(Box::new(Reader::open(self.connection.clone(), &read)?))
    }

    async fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        self.server().with(|state, _| {
            self.connection.check_open("create_topic")?;
            state.create_topic(spec)
        })
    }

    async fn describe_topic(&self, topic: Name) -> Result<TopicDescription> {
        self.server().with(|state, _| {
            self.connection.check_open("describe_topic")?;
            let place = state.find(topic, "describe_topic")?;
            Ok(state.topics[place].describe())
        })
    }

    async fn add_partitions(&self, topic: Name, total: u32) -> Result<()> {
        self.server().with(|state, after| {
            self.connection.check_open("add_partitions")?;
            state.add_partitions(topic, total, after)
        })
    }

    async fn delete_topic(&self, topic: Name) -> Result<()> {
        self.server().with(|state, after| {
            self.connection.check_open("delete_topic")?;
            state.delete_topic(topic, after)
        })
    }

    async fn declare_group(&self, topic: Name, group: &GroupSpec) -> Result<()> {
        self.server().with(|state, _| {
            self.connection.check_open("declare_group")?;
            state.declare(topic, group, "declare_group").map(drop)
        })
    }

    async fn lag(&self, topic: Name, group: Name) -> Result<u64> {
        self.server().with(|state, _| {
            self.connection.check_open("lag")?;
            let topic = &state.topics[state.find(topic, "lag")?];
            let group = topic.group_named(group).map(|place| &topic.groups[place]);
            Ok(group.map_or(0, |group| group.lag(&topic.logs)))
        })
    }

    fn health(&self) -> Health {
        self.connection.health()
    }

    async fn close(&self) -> Result<()> {
        self.connection.close();
        Ok(())
    }
}

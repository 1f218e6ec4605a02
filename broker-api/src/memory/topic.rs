//! A topic: its partitions and its groups.

use super::group::Group;
use super::log::Log;
use crate::backend::Start;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::check_size;
use crate::message::Message;
use crate::name::Name;
use crate::partitioner::partition_for_key;
use crate::spec::{DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_PARTITIONS, TopicDescription, TopicSpec};

/// The most partitions of a topic; each costs memory whether used or not.
const MAX_PARTITIONS: u32 = 65_536;

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: Name,
    spec: TopicSpec,
    pub(super) logs: Vec<Log>,
    /// Groups stay until the topic is deleted, so their places are their identity.
    pub(super) groups: Vec<Group>,
    /// The readings of this topic.
    pub(super) readers: Vec<usize>,
    /// Spreads the messages without a key.
    turn: u32,
}

impl Topic {
    pub(super) fn new(spec: &TopicSpec) -> Result<Self> {
        let partitions = spec.partitions.unwrap_or(DEFAULT_PARTITIONS);
        check_partitions(spec.name, partitions, "create_topic")?;
        Ok(Self {
            name: spec.name,
            spec: *spec,
            logs: (0..partitions).map(|_| Log::new(spec.compacted)).collect(),
            groups: Vec::new(),
            readers: Vec::new(),
            turn: 0,
        })
    }

    pub(super) fn partitions(&self) -> u32 {
        self.logs.len() as u32
    }

    pub(super) fn describe(&self) -> TopicDescription {
        let mut description = TopicDescription::new(self.name, self.partitions());
        // There is one copy whatever was asked for; it is reported as asked, so that the same
        // specification agrees with itself here as on a cluster.
        description.replication = self.spec.replication;
        description.retention = self.spec.retention;
        description.retention_bytes = self.spec.retention_bytes;
        description.compacted = self.spec.compacted;
        description.max_message_bytes = Some(self.max_message_bytes());
        description
    }

    fn max_message_bytes(&self) -> usize {
        self.spec.max_message_bytes.unwrap_or(DEFAULT_MAX_MESSAGE_BYTES)
    }

    pub(super) fn add_partitions(&mut self, total: u32) -> Result<()> {
        let has = self.partitions();
        if total <= has {
            let text = format!("the topic has {has} partitions, it cannot grow to {total}");
            let error = Error::new(ErrorKind::Invalid, "add_partitions", text);
            return Err(error.with("topic", self.name));
        }
        check_partitions(self.name, total, "add_partitions")?;
        let compacted = self.spec.compacted;
        self.logs.resize_with(total as usize, || Log::new(compacted));
        for group in &mut self.groups {
            // Declared before anything was published there, so it gets everything.
            group.grow(&self.logs, Start::Earliest);
        }
        Ok(())
    }

    /// Checks a message against the topic's rules.
    pub(super) fn check(&self, message: &Message, partition: Option<u32>) -> Result<()> {
        check_size(message, self.max_message_bytes()).map_err(|e| e.with("topic", self.name))?;
        let wrong = match partition {
            Some(p) if p >= self.partitions() => {
                format!("there is no partition {p}, the topic has {}", self.partitions())
            }
            _ if self.spec.compacted && message.key().is_none() => {
                "the topic is compacted, so every message needs a key".into()
            }
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::Invalid, "publish", wrong).with("topic", self.name))
    }

    /// The partition of a message: of its key, or of its turn.
    pub(super) fn partition_of(&mut self, message: &Message) -> u32 {
        match message.key() {
            Some(key) => partition_for_key(key, self.partitions()),
            None => {
                self.turn = self.turn.wrapping_add(1);
                self.turn % self.partitions()
            }
        }
    }

    /// The lowest offset of a partition that a group has not settled; without groups, none.
    pub(super) fn floor(&self, partition: usize) -> u64 {
        let positions = self.groups.iter().map(|group| group.shares[partition].position());
        positions.min().unwrap_or(u64::MAX)
    }

    /// Whether it has to know when its messages came.
    pub(super) fn is_timed(&self) -> bool {
        self.spec.retention.is_some()
    }

    /// Drops what the compaction and the retention do not keep, and returns how many bytes.
    pub(super) fn tidy(&mut self, partition: usize, now: u64) -> usize {
        if self.spec.compacted {
            let floor = self.floor(partition);
            return self.logs[partition].compact(floor);
        }
        let age = self
            .spec
            .retention
            .map_or(u64::MAX, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let since = now.saturating_sub(age);
        let bytes = self
            .spec
            .retention_bytes
            .map_or(usize::MAX, |b| usize::try_from(b).unwrap_or(usize::MAX));
        // The floor costs a look at every group, so it is only asked for when it matters.
        match self.logs[partition].exceeds(since, bytes) {
            true => {
                let floor = self.floor(partition);
                self.logs[partition].retain(floor, since, bytes)
            }
            false => 0,
        }
    }

    pub(super) fn group_named(&self, name: Name) -> Option<usize> {
        self.groups.iter().position(|group| group.name == name)
    }
}

fn check_partitions(topic: Name, partitions: u32, operation: &'static str) -> Result<()> {
    if (1..=MAX_PARTITIONS).contains(&partitions) {
        return Ok(());
    }
    let text = format!("{partitions} partitions: a topic has 1 to {MAX_PARTITIONS} in memory");
    Err(Error::new(ErrorKind::Invalid, operation, text).with("topic", topic))
}

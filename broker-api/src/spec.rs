//! What a topic should be, what it is, and the differences in words.

use std::time::Duration;

use crate::name::Name;

/// How many partitions a topic gets where nothing else is said.
pub const DEFAULT_PARTITIONS: u32 = 6;

/// The largest message where nothing else is said, in bytes of payload, key and headers: 1 MiB.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_048_576;

/// What a topic should be. What is left out is the broker's default, and equal to anything when
/// compared with what exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicSpec {
    /// Its name.
    pub name: Name,
    /// Number of partitions; [`DEFAULT_PARTITIONS`] where `None`.
    pub partitions: Option<u32>,
    /// Number of copies that the broker keeps; the broker's default where `None`.
    pub replication: Option<u16>,
    /// How long messages are kept for replay; [`Duration::MAX`] is for ever. On RabbitMQ a topic keeps messages for replay (in a
    /// stream) only if this or `retention_bytes` is set.
    pub retention: Option<Duration>,
    /// How many bytes are kept for replay: on Kafka for each partition, on RabbitMQ in all.
    pub retention_bytes: Option<u64>,
    /// Whether only the newest message of each key is kept in the long run.
    pub compacted: bool,
    /// The largest message; [`DEFAULT_MAX_MESSAGE_BYTES`] where `None`.
    pub max_message_bytes: Option<usize>,
}

impl TopicSpec {
    /// A topic of this name with the defaults.
    pub const fn new(name: Name) -> Self {
        Self {
            name,
            partitions: None,
            replication: None,
            retention: None,
            retention_bytes: None,
            compacted: false,
            max_message_bytes: None,
        }
    }

    /// Sets the number of partitions, at least 1.
    pub const fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Sets the number of copies.
    pub const fn replication(mut self, copies: u16) -> Self {
        self.replication = Some(copies);
        self
    }

    /// Sets how long messages are kept for replay.
    pub const fn retention(mut self, time: Duration) -> Self {
        self.retention = Some(time);
        self
    }

    /// Sets how many bytes are kept for replay.
    pub const fn retention_bytes(mut self, bytes: u64) -> Self {
        self.retention_bytes = Some(bytes);
        self
    }

    /// Keeps only the newest message of each key in the long run. Every message then needs a key.
    pub const fn compacted(mut self) -> Self {
        self.compacted = true;
        self
    }

    /// Sets the size of the largest message, in bytes of payload, key and headers.
    pub const fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = Some(bytes);
        self
    }

    /// How `existing` differs from what this asks for, a sentence each; empty if it does not.
    pub fn differences(&self, existing: &TopicDescription) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, wanted: Option<String>, is: Option<String>| {
            // Where the broker does not tell, there is nothing to compare.
            if let (Some(wanted), Some(is)) = (wanted, is)
                && wanted != is
            {
                differences.push(format!("{what} is {is}, wanted {wanted}"));
            }
        };
        let text = |n: u64| n.to_string();
        let time = |t: Duration| format!("{t:?}");
        compare(
            "partitions",
            self.partitions.map(|n| text(n.into())),
            Some(text(existing.partitions.into())),
        );
        compare(
            "replication",
            self.replication.map(|n| text(n.into())),
            existing.replication.map(|n| text(n.into())),
        );
        compare("retention", self.retention.map(time), existing.retention.map(time));
        compare(
            "retention_bytes",
            self.retention_bytes.map(text),
            existing.retention_bytes.map(text),
        );
        compare(
            "compacted",
            Some(self.compacted.to_string()),
            Some(existing.compacted.to_string()),
        );
        compare(
            "max_message_bytes",
            self.max_message_bytes.map(|n| text(n as u64)),
            existing.max_message_bytes.map(|n| text(n as u64)),
        );
        differences
    }
}

/// What a topic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicDescription {
    /// Its name.
    pub name: Name,
    /// Number of partitions.
    pub partitions: u32,
    /// Number of copies, where the broker tells.
    pub replication: Option<u16>,
    /// How long messages are kept for replay; `None` where the broker does not tell or has no limit.
    pub retention: Option<Duration>,
    /// How many bytes are kept for replay; `None` where the broker does not tell or has no limit.
    pub retention_bytes: Option<u64>,
    /// Whether only the newest message of each key is kept in the long run.
    pub compacted: bool,
    /// The largest message, in bytes of payload, key and headers.
    pub max_message_bytes: Option<usize>,
}

impl TopicDescription {
    /// A topic with this number of partitions and nothing else known; set the other fields after.
    pub const fn new(name: Name, partitions: u32) -> Self {
        Self {
            name,
            partitions,
            replication: None,
            retention: None,
            retention_bytes: None,
            compacted: false,
            max_message_bytes: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_compared() {
        let mut is = TopicDescription::new(Name::new("t"), 6);
        is.retention = Some(Duration::from_secs(60));
        assert!(TopicSpec::new(is.name).differences(&is).is_empty());
        let spec =
            TopicSpec::new(is.name).partitions(3).retention(Duration::from_secs(5)).compacted();
        assert_eq!(
            spec.differences(&is),
            [
                "partitions is 6, wanted 3",
                "retention is 60s, wanted 5s",
                "compacted is false, wanted true"
            ]
        );
    }
}

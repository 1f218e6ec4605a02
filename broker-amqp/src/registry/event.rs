//! What is written into the log of the registry.

use broker_api::{Order, TopicSpec};
use serde::{Deserialize, Serialize};

/// A change, as it stands in the log. What a later version adds is skipped by an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// A topic was created. The first of several for one name counts.
    Topic {
        topic: String,
        partitions: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        copies: Option<u16>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retention_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retention_bytes: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_message_bytes: Option<u64>,
    },
    /// The topic has more partitions: all their queues are there.
    Partitions { topic: String, total: u32 },
    /// The topic is about to be deleted: nobody may use it any more.
    Deleting { topic: String },
    /// Nothing of the topic is left.
    Deleted { topic: String },
    /// A group is about to be made.
    Group { topic: String, group: String, order: LoggedOrder },
    /// The queues of the group are there; in these partitions there is a history before them.
    Ready {
        topic: String,
        group: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        history: Vec<u32>,
    },
    /// The history of this partition was consumed.
    Drained { topic: String, group: String, partition: u32 },
    /// Changes nothing. Who has read it back has read everything before it.
    Sync,
}

/// [`Order`] in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LoggedOrder {
    Key,
    None,
}

impl From<Order> for LoggedOrder {
    fn from(order: Order) -> Self {
        match order {
            Order::Key => Self::Key,
            Order::None => Self::None,
        }
    }
}

impl From<LoggedOrder> for Order {
    fn from(order: LoggedOrder) -> Self {
        match order {
            LoggedOrder::Key => Self::Key,
            LoggedOrder::None => Self::None,
        }
    }
}

impl Event {
    /// The creation of the topic that the specification asks for.
    pub(crate) fn creation(spec: &TopicSpec, default_partitions: u32) -> Self {
        Self::Topic {
            topic: spec.name.as_str().into(),
            partitions: spec.partitions.unwrap_or(default_partitions),
            copies: spec.replication,
            // `Duration::MAX`, for ever, is the largest number.
            retention_ms: spec
                .retention
                .map(|time| time.as_millis().try_into().unwrap_or(u64::MAX)),
            retention_bytes: spec.retention_bytes,
            max_message_bytes: spec.max_message_bytes.map(|bytes| bytes as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker_api::Name;
    use std::time::Duration;

    const T: Name = Name::new("t");

    #[test]
    fn what_is_in_the_log_stays_readable() {
        let logged = r#"{"event":"topic","topic":"t","partitions":3,"retention_ms":1000,"new":1}"#;
        let spec = TopicSpec::new(T).partitions(3).retention(Duration::from_secs(1));
        assert_eq!(serde_json::from_str::<Event>(logged).unwrap(), Event::creation(&spec, 6));
        let logged = r#"{"event":"group","topic":"t","group":"g","order":"key"}"#;
        let group = Event::Group { topic: "t".into(), group: "g".into(), order: LoggedOrder::Key };
        assert_eq!(serde_json::from_str::<Event>(logged).unwrap(), group);
        assert_eq!(serde_json::from_str::<Event>(r#"{"event":"sync"}"#).unwrap(), Event::Sync);
        assert!(serde_json::from_str::<Event>(r#"{"event":"later"}"#).is_err());
    }

    #[test]
    fn every_event_is_read_as_it_was_written() {
        let (topic, group) = (|| "t".to_owned(), || "g".to_owned());
        for event in [
            Event::creation(&TopicSpec::new(T).retention(Duration::MAX).replication(3), 6),
            Event::Partitions { topic: topic(), total: 9 },
            Event::Deleting { topic: topic() },
            Event::Deleted { topic: topic() },
            Event::Group { topic: topic(), group: group(), order: Order::None.into() },
            Event::Ready { topic: topic(), group: group(), history: vec![0, 2] },
            Event::Drained { topic: topic(), group: group(), partition: 2 },
            Event::Sync,
        ] {
            let logged = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&logged).unwrap(), event, "{logged}");
        }
    }
}

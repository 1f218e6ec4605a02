//! What a message that waits carries in its headers: where to, and when.

use std::time::SystemTime;

use super::clock;
use crate::dead_letter::headers::History;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::Name;

/// The topic that the message is to be published to.
const TOPIC: &str = "x-broker-scheduled-topic";
/// When, in milliseconds since 1970.
const DUE: &str = "x-broker-scheduled-ms";
/// The partition there, where the publisher named one.
const PARTITION: &str = "x-broker-scheduled-partition";
/// Since when it waits where it is, in milliseconds since 1970.
const SINCE: &str = "x-broker-scheduled-since-ms";
/// The timestamp that it is to have, in milliseconds since 1970, where the publisher set one.
const TIMESTAMP: &str = "x-broker-scheduled-timestamp-ms";

/// All of them; everything else in a message is the application's.
const ALL: [&str; 5] = [TOPIC, DUE, PARTITION, SINCE, TIMESTAMP];

/// Where and when a message is to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) topic: Name,
    pub(super) partition: Option<u32>,
    pub(super) due: SystemTime,
}

impl Ticket {
    /// The message as it waits. Its own timestamp is put aside, see [`stamp`].
    pub(super) fn put(&self, mut message: Message) -> Message {
        let timestamp = message.timestamp();
        let headers = message.headers_mut();
        headers.set(TOPIC, self.topic.as_str());
        headers.set_due(DUE, self.due);
        if let Some(partition) = self.partition {
            headers.set(PARTITION, partition.to_string());
        }
        if let Some(timestamp) = timestamp {
            headers.set_due(TIMESTAMP, timestamp);
        }
        stamp(message)
    }

    /// Reads the ticket of a message that waits. Anybody may have written it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] or [`ErrorKind::InvalidName`], which say what is wrong with it.
    pub(super) fn read(message: &Message) -> Result<Self> {
        let headers = message.headers();
        let missing = |name: &'static str| {
            let text = format!("the message has no header {name} that can be read");
            Error::new(ErrorKind::Invalid, "schedule", text)
        };
        let topic = headers.get_str(TOPIC).ok_or_else(|| missing(TOPIC))?;
        let due = headers.time(DUE).ok_or_else(|| missing(DUE))?;
        let partition = match headers.get(PARTITION) {
            None => None,
            Some(_) => Some(headers.number(PARTITION).ok_or_else(|| missing(PARTITION))?),
        };
        Ok(Self { topic: Name::received(topic)?, partition, due })
    }

    /// The message as it is to be published, without its ticket and without what having been a
    /// dead letter left on it.
    pub(super) fn take_off(message: Message) -> Message {
        let (_, mut message) = History::take(message);
        let timestamp = message.headers().time(TIMESTAMP);
        for name in ALL {
            message.headers_mut().remove(name);
        }
        message.with_timestamp(timestamp.unwrap_or_else(clock::now))
    }
}

/// The message as it begins to wait now. Its timestamp says so too, because by that brokers tell
/// what is too old to keep.
pub(super) fn stamp(mut message: Message) -> Message {
    let now = clock::now();
    message.headers_mut().set_due(SINCE, now);
    message.with_timestamp(now)
}

/// Since when the message waits where it is, if it says so.
pub(super) fn since(message: &Message) -> Option<SystemTime> {
    message.headers().time(SINCE)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use proptest::prelude::*;

    fn time(ms: u64) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_millis(ms))
    }

    proptest! {
        #[test]
        fn a_ticket_survives_its_way_through_headers(
            partition: Option<u32>, ms in 0u64..1 << 45, own in proptest::option::of(0u64..1 << 45),
        ) {
            let ticket = Ticket { topic: Name::new("t"), partition, due: time(ms).unwrap() };
            let mut message = Message::new("payload").with_key("key").with_header("own", "1");
            if let Some(own) = own {
                message = message.with_timestamp(time(own).unwrap());
            }
            let waiting = ticket.put(message.clone());
            prop_assert_eq!(Ticket::read(&waiting).unwrap(), ticket);
            let published = Ticket::take_off(waiting);
            prop_assert_eq!(own.and_then(time), own.and(published.timestamp()));
            let stamp = published.timestamp().unwrap();
            prop_assert_eq!(published, message.with_timestamp(stamp));
        }

        #[test]
        fn whatever_a_stranger_writes_into_the_headers_is_read_without_harm(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), ALL.len()),
        ) {
            let mut message = Message::new("x");
            for (name, value) in ALL.into_iter().zip(values) {
                message.headers_mut().append(name, value);
            }
            Ticket::read(&message).ok();
            since(&message);
            prop_assert!(Ticket::take_off(message).headers().is_empty());
        }
    }
}

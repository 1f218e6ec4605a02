//! The headers that a failed message carries, the same on every broker.

use std::fmt::Display;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::headers::Headers;
use crate::limits::RESERVED_PREFIX;
use crate::message::Message;

/// The topic that the message was published to.
pub const ORIGINAL_TOPIC: &str = "x-broker-original-topic";
/// Its partition there.
pub const ORIGINAL_PARTITION: &str = "x-broker-original-partition";
/// Its offset there, where the broker has offsets.
pub const ORIGINAL_OFFSET: &str = "x-broker-original-offset";
/// The group that could not handle it.
pub const GROUP: &str = "x-broker-group";
/// What went wrong, as the name of an [`ErrorKind`](crate::ErrorKind).
pub const ERROR_KIND: &str = "x-broker-error-kind";
/// What went wrong, in words; for an invalid message with the paths of its fields. At most 2 KiB.
pub const ERROR_MESSAGE: &str = "x-broker-error-message";
/// How often the handler was called for it in all.
pub const ATTEMPTS: &str = "x-broker-attempts";
/// When it failed first, in milliseconds since 1970.
pub const FIRST_FAILURE: &str = "x-broker-first-failure-ms";
/// When it failed last, in milliseconds since 1970.
pub const LAST_FAILURE: &str = "x-broker-last-failure-ms";
/// The identity of this dead letter; another one each time a message is dead-lettered.
pub const DEAD_LETTER_ID: &str = "x-broker-dead-letter-id";
/// How often it was put back to its group before.
pub const REDRIVES: &str = "x-broker-redrives";
/// How many delayed retries it has had since it was published or put back.
pub const DELAYS: &str = "x-broker-delays";
/// What was left out of this dead letter, in words, because it had no room in the dead-letter topic. Only
/// of messages that break the limits of what is published through this crate.
pub const LEFT_OUT: &str = "x-broker-left-out";
/// When the next delayed retry is due, in milliseconds since 1970.
pub const DUE: &str = "x-broker-due-ms";

/// The names this module knows; everything else in a message is the application's.
const ALL: [&str; 14] = [
    ORIGINAL_TOPIC,
    ORIGINAL_PARTITION,
    ORIGINAL_OFFSET,
    GROUP,
    ERROR_KIND,
    ERROR_MESSAGE,
    ATTEMPTS,
    FIRST_FAILURE,
    LAST_FAILURE,
    DEAD_LETTER_ID,
    REDRIVES,
    DELAYS,
    LEFT_OUT,
    DUE,
];

/// The longest error text that is kept.
const MAX_ERROR_BYTES: usize = 2048;

/// What has happened to a message so far, kept in its headers between its stations.
///
/// Anybody may have written them: what cannot be read counts as not there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct History {
    pub(crate) topic: Option<String>,
    pub(crate) partition: Option<u32>,
    pub(crate) offset: Option<u64>,
    pub(crate) group: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) attempts: u32,
    pub(crate) first_failure: Option<SystemTime>,
    pub(crate) last_failure: Option<SystemTime>,
    pub(crate) id: Option<String>,
    pub(crate) redrives: u32,
    pub(crate) delays: usize,
    pub(crate) left_out: Option<String>,
    pub(crate) due: Option<SystemTime>,
}

impl History {
    /// Takes the history out of a message; what remains is what the application published.
    pub(crate) fn take(mut message: Message) -> (Self, Message) {
        let headers = message.headers();
        if !headers.iter().any(|(name, _)| name.starts_with(RESERVED_PREFIX)) {
            return (Self::default(), message);
        }
        let history = Self::read(headers);
        for name in ALL {
            message.headers_mut().remove(name);
        }
        (history, message)
    }

    fn read(headers: &Headers) -> Self {
        let text = |name| headers.get_str(name).map(str::to_owned);
        Self {
            topic: text(ORIGINAL_TOPIC),
            partition: headers.number(ORIGINAL_PARTITION),
            offset: headers.number(ORIGINAL_OFFSET),
            group: text(GROUP),
            kind: text(ERROR_KIND),
            error: text(ERROR_MESSAGE),
            attempts: headers.number(ATTEMPTS).unwrap_or_default(),
            first_failure: headers.time(FIRST_FAILURE),
            last_failure: headers.time(LAST_FAILURE),
            id: text(DEAD_LETTER_ID),
            redrives: headers.number(REDRIVES).unwrap_or_default(),
            delays: headers.number(DELAYS).unwrap_or_default(),
            left_out: text(LEFT_OUT),
            due: headers.time(DUE),
        }
    }

    /// Puts the history behind the message's own headers, in place of one that a stranger wrote.
    pub(crate) fn put(&self, mut message: Message) -> Message {
        let headers = message.headers_mut();
        headers.retain(|name| !name.starts_with(RESERVED_PREFIX) || !ALL.contains(&name));
        let mut put = |name: &'static str, value: Option<String>| {
            if let Some(value) = value {
                headers.set(name, value);
            }
        };
        put(ORIGINAL_TOPIC, self.topic.clone());
        put(ORIGINAL_PARTITION, shown(self.partition));
        put(ORIGINAL_OFFSET, shown(self.offset));
        put(GROUP, self.group.clone());
        put(ERROR_KIND, self.kind.clone());
        put(ERROR_MESSAGE, self.error.as_deref().map(shortened));
        put(ATTEMPTS, shown(Some(self.attempts)));
        put(FIRST_FAILURE, self.first_failure.map(milliseconds));
        put(LAST_FAILURE, self.last_failure.map(milliseconds));
        put(DEAD_LETTER_ID, self.id.clone());
        put(REDRIVES, (self.redrives > 0).then(|| self.redrives.to_string()));
        put(DELAYS, (self.delays > 0).then(|| self.delays.to_string()));
        put(LEFT_OUT, self.left_out.clone());
        if let Some(due) = self.due {
            headers.set_due(DUE, due);
        }
        message
    }
}

fn shown(value: Option<impl Display>) -> Option<String> {
    value.map(|value| value.to_string())
}

fn milliseconds(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().to_string()
}

fn shortened(text: &str) -> String {
    let end = (0..=text.len().min(MAX_ERROR_BYTES)).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or_default()].to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_history_survives_its_way_through_headers(
            partition: Option<u32>, offset: Option<u64>, attempts: u32, delays: u16, redrives: u16,
            error in proptest::option::of(".{0,2000}"), due in proptest::option::of(0u64..1 << 45),
        ) {
            let history = History {
                topic: Some("t".into()), partition, offset, attempts, error: error.as_deref().map(shortened),
                delays: delays.into(), redrives: redrives.into(),
                due: due.map(|ms| UNIX_EPOCH + Duration::from_millis(ms)), ..History::default()
            };
            let message = Message::new("payload").with_key("key").with_header("own", "1");
            let (read, rest) = History::take(history.put(message.clone()));
            prop_assert_eq!(read, history);
            prop_assert_eq!(rest, message);
        }

        #[test]
        fn a_history_takes_the_place_of_one_that_a_stranger_wrote(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), ALL.len()),
        ) {
            let mut message = Message::new("x").with_header("own", "1");
            for (name, value) in ALL.into_iter().zip(values) {
                message.headers_mut().append(name, value);
            }
            let history = History { attempts: 1, ..History::default() };
            prop_assert_eq!(History::take(history.put(message)).0, history);
        }

        #[test]
        fn whatever_a_stranger_writes_into_the_headers_is_read_without_harm(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), ALL.len()),
        ) {
            let mut message = Message::new("x");
            for (name, value) in ALL.into_iter().zip(values) {
                message.headers_mut().append(name, value);
            }
            let (history, rest) = History::take(message);
            prop_assert!(rest.headers().is_empty());
            history.put(rest);
        }
    }
}

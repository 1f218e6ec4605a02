//! Dead letters: messages that a group could not handle.

pub mod headers;
mod letters;
mod shortened;

pub use letters::{DeadLetter, DeadLetters, Filter, Pace};
pub(crate) use shortened::make_room;

use std::time::Duration;

use crate::broker::Broker;
use crate::capabilities::Capability;
use crate::error::{ErrorKind, Result};
use crate::limits::MAX_HEADERS_BYTES;
use crate::name::Name;
use crate::spec::TopicSpec;

/// The topic that a group's dead letters go to where no other is named: `{topic}.{group}.dlt`.
///
/// # Errors
/// [`ErrorKind::InvalidName`] if both names together are too long.
pub fn dead_letter_topic(topic: Name, group: Name) -> Result<Name> {
    Name::intern(&format!("{topic}.{group}.dlt"))
}

/// The topic through which a single message is put back to one group: `{topic}.{group}.retry`, and
/// with a delay `{topic}.{group}.retry.{delay}`.
pub(crate) fn retry_topic(topic: Name, group: Name, delay: Duration) -> Result<Name> {
    if delay.is_zero() {
        return Name::intern(&format!("{topic}.{group}.retry"));
    }
    let delay = match (delay.as_millis(), delay.as_secs()) {
        (ms, _) if ms % 1000 != 0 => format!("{ms}ms"),
        (_, s) if s % 3600 == 0 => format!("{}h", s / 3600),
        (_, s) if s % 60 == 0 => format!("{}m", s / 60),
        (_, s) => format!("{s}s"),
    };
    Name::intern(&format!("{topic}.{group}.retry.{delay}"))
}

/// Creates a topic for failed messages of `original`, if it is not there, with room for the headers
/// that are added. `kept` is for what is read again and not consumed.
pub(crate) async fn create_topic(
    broker: &Broker,
    name: Name,
    original: Name,
    kept: bool,
) -> Result<()> {
    let backend = &broker.inner.backend;
    let mut spec = TopicSpec::new(name).partitions(1);
    if let Some(largest) = backend.describe_topic(original).await?.max_message_bytes {
        spec = spec.max_message_bytes(largest + MAX_HEADERS_BYTES);
    }
    if kept && backend.capabilities(name).supports(Capability::Replay) {
        spec = spec.retention(Duration::MAX);
    }
    match backend.create_topic(&spec).await {
        Err(error) if error.kind() == ErrorKind::TopicExists => Ok(()),
        created => created,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_topics_are_named_after_their_delay() {
        let name = |ms| {
            retry_topic(Name::new("t"), Name::new("g"), Duration::from_millis(ms)).unwrap().as_str()
        };
        assert_eq!(
            [0, 1_500, 10_000, 60_000, 90_000, 7_200_000].map(name),
            [
                "t.g.retry",
                "t.g.retry.1500ms",
                "t.g.retry.10s",
                "t.g.retry.1m",
                "t.g.retry.90s",
                "t.g.retry.2h"
            ]
        );
    }
}

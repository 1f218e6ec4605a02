//! The topics that messages wait in, each for a fixed time.

use std::time::Duration;

use crate::backend::GroupSpec;
use crate::broker::Broker;
use crate::dead_letter::{create_topic, dead_letter_topic, retry_topic};
use crate::error::{ErrorKind, Result};
use crate::limits::MAX_HEADERS_BYTES;
use crate::name::{Name, check_pair};
use crate::spec::{DEFAULT_MAX_MESSAGE_BYTES, TopicSpec};

const SECOND: Duration = Duration::from_secs(1);

/// How long messages wait in each topic, with the end of its name.
///
/// What waits in a topic waits as long as everything before it there, so the first one is always
/// the next. Only in the last topic may one be due before those ahead of it, by a second at most.
/// A longer time is made up of several waits: about twenty for any time below a day.
const WAITS: [(&str, Duration); 6] = [
    ("now", SECOND),
    ("1s", SECOND),
    ("10s", Duration::from_secs(10)),
    ("2m", Duration::from_secs(2 * 60)),
    ("20m", Duration::from_secs(20 * 60)),
    ("4h", Duration::from_secs(4 * 3600)),
];

/// What the schedulers of all processes are called in the names of their dead-letter topic and of
/// the one that dead letters come back by.
pub(super) const GROUP: Name = Name::new("scheduler");

/// The largest message that waits: as large as any that can be published, and its ticket.
pub(super) const MOST: usize = DEFAULT_MAX_MESSAGE_BYTES + MAX_HEADERS_BYTES;

/// A topic that messages wait in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tier {
    pub(super) topic: Name,
    /// The longest that a message waits here.
    pub(super) wait: Duration,
    /// Whether it is the last before the topic that the message is for.
    pub(super) last: bool,
}

/// All topics of a scheduler.
#[derive(Debug, Clone)]
pub(super) struct Tiers {
    /// What their names begin with.
    pub(super) base: Name,
    tiers: [Tier; WAITS.len()],
    /// Where messages go that cannot be published.
    pub(super) dead_letters: Name,
    /// Where they are put back from there.
    pub(super) redriven: Name,
}

impl Tier {
    /// The group of the schedulers there. Each topic has one of its own, with its name: on Kafka
    /// the members of a group are one, whatever topics they name, and would wait for each other.
    pub(super) fn group(&self) -> GroupSpec {
        GroupSpec::new(self.topic)
    }
}

impl Tiers {
    /// # Errors
    /// [`ErrorKind::InvalidName`] if the base is too long for the names that are made from it.
    pub(super) fn new(base: Name) -> Result<Self> {
        let mut tiers = [Tier { topic: base, wait: Duration::ZERO, last: false }; WAITS.len()];
        for (n, (end, wait)) in WAITS.into_iter().enumerate() {
            tiers[n] = Tier { topic: Name::intern(&format!("{base}.{end}"))?, wait, last: n == 0 };
        }
        let redriven = retry_topic(base, GROUP, Duration::ZERO)?;
        check_pair(redriven, tiers[0].group().name)?;
        tiers.iter().try_for_each(|tier| check_pair(tier.topic, tier.group().name))?;
        Ok(Self { base, tiers, dead_letters: dead_letter_topic(base, GROUP)?, redriven })
    }

    pub(super) fn all(&self) -> &[Tier] {
        &self.tiers
    }

    /// Where a message waits next that has so much time left.
    pub(super) fn next(&self, left: Duration) -> Tier {
        let (last, longer) = (self.tiers[0], &self.tiers[1..]);
        longer.iter().rev().find(|tier| tier.wait <= left).copied().unwrap_or(last)
    }

    /// Creates what is not there, the group included, so that nothing is ever unroutable.
    pub(super) async fn create(&self, broker: &Broker) -> Result<()> {
        let backend = &broker.inner.backend;
        let waiting = self.tiers.iter().map(|tier| (tier.topic, tier.group()));
        for (topic, group) in waiting.chain([(self.redriven, self.tiers[0].group())]) {
            // One partition, because only within one is the first message the next.
            let spec = TopicSpec::new(topic).partitions(1).max_message_bytes(MOST);
            match backend.create_topic(&spec).await {
                Err(error) if error.kind() == ErrorKind::TopicExists => {}
                created => created?,
            }
            backend.declare_group(topic, &group).await?;
        }
        create_topic(broker, self.dead_letters, self.tiers[0].topic, true).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_waits_in_the_longest_topic_that_is_not_too_long() {
        let tiers = Tiers::new(Name::new("scheduled")).unwrap();
        let next = |seconds| tiers.next(Duration::from_secs_f64(seconds)).topic.as_str();
        for (left, topic) in [
            (0.0, "now"),
            (0.999, "now"),
            (1.0, "1s"),
            (9.9, "1s"),
            (10.0, "10s"),
            (119.0, "10s"),
            (1199.0, "2m"),
            (4.0 * 3600.0 - 1.0, "20m"),
            (60.0 * 86400.0, "4h"),
        ] {
            assert_eq!(next(left), format!("scheduled.{topic}"), "{left}");
        }
    }

    #[test]
    fn a_base_that_leaves_no_room_for_the_names_made_from_it_is_refused() {
        let base = |length| Name::intern(&"b".repeat(length)).unwrap();
        assert!(Tiers::new(base(60)).is_ok());
        let error = Tiers::new(base(100)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidName);
    }

    proptest! {
        #[test]
        fn the_waits_of_a_message_make_up_its_time_and_are_few(ms in 0u64..30 * 86_400_000) {
            let tiers = Tiers::new(Name::new("scheduled")).unwrap();
            let (mut left, mut waits) = (Duration::from_millis(ms), 0);
            while !left.is_zero() {
                let tier = tiers.next(left);
                prop_assert!(tier.last || tier.wait <= left);
                left -= tier.wait.min(left);
                waits += 1;
            }
            prop_assert!(waits <= 6 * (ms / 86_400_000) + 1 + 9 + 11 + 9 + 11 + 6, "{} waits", waits);
        }
    }
}

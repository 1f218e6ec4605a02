//! The task that notices that the cluster takes no messages.
//!
//! librdkafka waits, and says nothing: too few replicas in sync, no leader, no controller are all
//! things that pass. So the oldest message in its hands is looked at, and when that does not change
//! the cluster is asked why.

use std::sync::Arc;
use std::time::Duration;

use broker_api::Name;
use tokio::time::{MissedTickBehavior, interval};

use crate::in_flight::Oldest;
use crate::link::Link;
use crate::publisher::Publisher;
use crate::topics::Topics;

/// How often the oldest message is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How many looks it may be the same. A node that is stopped in order costs less.
const PATIENCE: u32 = 3;

/// Runs for ever.
pub(crate) async fn run(publisher: Arc<Publisher>, topics: Arc<Topics>, link: Arc<Link>) {
    let (mut watch, mut blocked) = (Watch::default(), None::<Name>);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let stalled = watch.see(publisher.look());
        let Some(topic) = stalled.or(blocked) else { continue };
        // Nobody knows better at first, and the message waits all the same.
        let unanswered =
            stalled.map(|topic| format!("the broker does not answer what is published to {topic}"));
        if blocked.is_none() {
            link.block(unanswered.clone());
        }
        let why = topics.hindrance(topic).await.or(unanswered);
        blocked = why.is_some().then_some(topic);
        match &why {
            Some(why) => tracing::debug!(why, "the cluster takes no messages"),
            None => tracing::debug!("the cluster takes messages again"),
        }
        link.block(why);
    }
}

/// The oldest message, from one look to the next.
#[derive(Debug, Default)]
struct Watch {
    last: Option<Oldest>,
    /// For how many looks it is the same.
    same: u32,
}

impl Watch {
    /// The topic of the oldest message, if that is the same for too long. What is sent in order to a
    /// broker that is merely slow changes, however old it is.
    fn see(&mut self, oldest: Option<Oldest>) -> Option<Name> {
        let is_same = oldest.zip(self.last).is_some_and(|(now, last)| {
            now.topic == last.topic && now.looks == last.looks.wrapping_add(1)
        });
        self.same = if is_same { self.same + 1 } else { 0 };
        self.last = oldest;
        oldest.filter(|_| self.same >= PATIENCE).map(|oldest| oldest.topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: Name = Name::new("orders");

    fn aged(looks: u32) -> Option<Oldest> {
        Some(Oldest { topic: TOPIC, looks })
    }

    #[test]
    fn a_message_that_stays_the_oldest_is_stuck() {
        let mut watch = Watch::default();
        let seen: Vec<_> = (1..6).map(|looks| watch.see(aged(looks)).is_some()).collect();
        assert_eq!(seen, [false, false, false, true, true]);
        assert_eq!(watch.see(None), None);
        assert_eq!(watch.see(aged(1)), None);
    }

    #[test]
    fn old_messages_that_follow_one_another_are_not() {
        let mut watch = Watch::default();
        for _ in 0..20 {
            assert_eq!(watch.see(aged(7)), None);
        }
    }
}

//! What health is told of running consumers, which no backend can know.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::health::{ConsumerHealth, Health};
use crate::name::Name;

/// The consumers of a broker that run, and those that have ended with an error.
#[derive(Default)]
pub(crate) struct Watches(Mutex<Vec<Arc<Watch>>>);

/// One consumer, as its runner tells of it and as health sees it.
pub(crate) struct Watch {
    topic: Name,
    group: Name,
    /// Whether its circuit breaker lets no call through.
    open: AtomicBool,
    in_hand: Mutex<InHand>,
    /// Why it has ended, if not in order.
    ended: Mutex<Option<String>>,
}

/// When the messages in hand began.
#[derive(Default)]
struct InHand {
    /// In that order; `None` for those that have ended before an older one.
    since: VecDeque<Option<Instant>>,
    /// The number of the first of them.
    first: u64,
}

impl InHand {
    fn begin(&mut self) -> u64 {
        self.since.push_back(Some(Instant::now()));
        self.first + self.since.len() as u64 - 1
    }

    fn end(&mut self, number: u64) {
        let place = usize::try_from(number - self.first).unwrap_or(usize::MAX);
        if let Some(since) = self.since.get_mut(place) {
            *since = None;
        }
        while let Some(None) = self.since.front() {
            self.since.pop_front();
            self.first += 1;
        }
    }

    /// Since when the one has been in hand that has been longest.
    fn oldest(&self) -> Option<Instant> {
        self.since.front().copied().flatten()
    }
}

impl Watches {
    /// A consumer begins. It takes the place of those of the same topic and group that have failed.
    fn begin(&self, topic: Name, group: Name) -> Arc<Watch> {
        let (open, in_hand, ended) = Default::default();
        let watch = Arc::new(Watch { topic, group, open, in_hand, ended });
        let mut all = self.lock();
        all.retain(|old| (old.topic, old.group) != (topic, group) || old.ended().is_none());
        all.push(watch.clone());
        watch
    }

    /// Adds what the backend does not know. A message in hand for longer than `stuck_after` is
    /// one too long.
    pub(crate) fn report(&self, health: &mut Health, stuck_after: Duration) {
        for watch in self.lock().iter() {
            let listed = |problem| ConsumerHealth {
                topic: watch.topic,
                group: watch.group,
                problem: Some(problem),
            };
            if watch.open.load(Ordering::Relaxed) {
                let text = "the circuit breaker is open: the handler keeps failing";
                health.consumers.push(listed(text.to_owned()));
            }
            if let Some(why) = watch.ended().clone() {
                health.lost.push(listed(why));
            }
            let age = watch.in_hand().oldest().map(|oldest| oldest.elapsed());
            if let Some(age) = age.filter(|age| *age > stuck_after) {
                let text = format!("a message is in hand for {} s", age.as_secs());
                health.lost.push(listed(text));
            }
        }
    }

    fn remove(&self, watch: &Arc<Watch>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, watch));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Watch>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Whether the circuit breaker of the consumer is open.
    pub(super) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }

    /// A message is in hand from now on, until what this gives is dropped. To be called before the
    /// handler: one that blocks its thread is seen too.
    pub(super) fn hold(&self) -> Hold<'_> {
        Hold { watch: self, number: self.in_hand().begin() }
    }

    fn in_hand(&self) -> MutexGuard<'_, InHand> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> MutexGuard<'_, Option<String>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message in hand.
pub(super) struct Hold<'a> {
    watch: &'a Watch,
    number: u64,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.watch.in_hand().end(self.number);
    }
}

/// A consumer that is watched as long as it runs.
pub(super) struct Watched {
    watches: Arc<Watches>,
    watch: Arc<Watch>,
}

impl Watched {
    /// A consumer of this topic and group begins.
    pub(super) fn begin(watches: &Arc<Watches>, topic: Name, group: Name) -> Self {
        Self { watches: watches.clone(), watch: watches.begin(topic, group) }
    }

    pub(super) fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// The consumer has ended: with an error, which health shows from now on, or in order.
    pub(super) fn ended(self, error: Option<&Error>) {
        if let Some(error) = error {
            *self.watch.ended() = Some(format!("the consumer has ended: {error}"));
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.set_open(false);
        if self.watch.ended().is_none() {
            self.watches.remove(&self.watch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::health::Connection;

    const LIMIT: Duration = Duration::from_secs(60);
    const TOPIC: Name = Name::new("topic");
    const GROUP: Name = Name::new("group");

    fn lost(watches: &Watches) -> Vec<String> {
        let mut health = Health::new(Connection::Up);
        watches.report(&mut health, LIMIT);
        health.lost.into_iter().filter_map(|lost| lost.problem).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_in_hand_is_told_and_no_younger_one_that_ended() {
        let watches = Arc::<Watches>::default();
        let watched = Watched::begin(&watches, TOPIC, GROUP);
        let watch = watched.watch();
        let old = watch.hold();
        tokio::time::advance(LIMIT / 2).await;
        drop(watch.hold());
        assert_eq!(lost(&watches), [""; 0]);
        tokio::time::advance(LIMIT).await;
        assert_eq!(lost(&watches), ["a message is in hand for 90 s"]);
        let next = watch.hold();
        drop(old);
        assert_eq!(lost(&watches), [""; 0], "the next has only begun");
        tokio::time::advance(LIMIT * 2).await;
        assert_eq!(lost(&watches), ["a message is in hand for 120 s"]);
        drop(next);
        assert_eq!(lost(&watches), [""; 0]);
    }

    #[tokio::test]
    async fn an_error_stays_until_the_next_of_topic_and_group_begins() {
        let watches = Arc::<Watches>::default();
        Watched::begin(&watches, TOPIC, GROUP).ended(None);
        assert_eq!(lost(&watches), [""; 0], "it ended in order");
        let error = Error::new(ErrorKind::UnknownTopic, "consume", "deleted");
        Watched::begin(&watches, TOPIC, GROUP).ended(Some(&error));
        let told = lost(&watches);
        assert!(told.len() == 1 && told[0].contains("deleted"), "{told:?}");
        let other = Watched::begin(&watches, TOPIC, Name::new("other"));
        assert_eq!(lost(&watches), told, "another group");
        let next = Watched::begin(&watches, TOPIC, GROUP);
        assert_eq!(lost(&watches), [""; 0]);
        drop((other, next));
        assert!(watches.lock().is_empty(), "nothing is left of consumers that were dropped");
    }
}

//! What health is told of running consumers, which no backend can know.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::health::{ConsumerHealth, Health};
use crate::name::Name;

/// The consumers of a broker that run, and those that have ended with an error.
pub(crate) struct Watches {
    /// Times are counted from here, in milliseconds.
    epoch: Instant,
    all: Mutex<Vec<Arc<Watch>>>,
}

/// One consumer, as its runner tells of it and as health sees it.
pub(crate) struct Watch {
    topic: Name,
    group: Name,
    /// Whether its circuit breaker lets no call through.
    open: AtomicBool,
    /// When handling began of the message that is in hand longest; 0 if there is none.
    oldest: AtomicU64,
    /// Why it has ended, if not in order.
    ended: Mutex<Option<String>>,
}

impl Watches {
    pub(crate) fn new() -> Self {
        Self { epoch: Instant::now(), all: Mutex::default() }
    }

    /// A consumer begins. It takes the place of those of the same topic and group that have failed.
    fn begin(&self, topic: Name, group: Name) -> Arc<Watch> {
        let (open, oldest, ended) = Default::default();
        let watch = Arc::new(Watch { topic, group, open, oldest, ended });
        let mut all = self.lock();
        all.retain(|old| (old.topic, old.group) != (topic, group) || old.ended().is_none());
        all.push(watch.clone());
        watch
    }

    /// Adds what the backend does not know. A message in hand for longer than `stuck_after` is
    /// one too long.
    pub(crate) fn report(&self, health: &mut Health, stuck_after: Duration) {
        let now = self.now();
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
            let oldest = watch.oldest.load(Ordering::Relaxed);
            let age = Duration::from_millis(now.saturating_sub(oldest));
            if oldest > 0 && age > stuck_after {
                let text = format!("a message is in hand for {} s", age.as_secs());
                health.lost.push(listed(text));
            }
        }
    }

    /// Never 0, which stands for no time.
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn remove(&self, watch: &Arc<Watch>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, watch));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Watch>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Whether the circuit breaker of the consumer is open.
    pub(super) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }

    fn ended(&self) -> MutexGuard<'_, Option<String>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The messages that a runner has in hand. Only one runner tells of a watch.
pub(super) struct InHand {
    watches: Arc<Watches>,
    watch: Arc<Watch>,
    /// When each began, in that order; `None` for those that have ended before an older one.
    since: VecDeque<Option<u64>>,
    /// The number of the first of them.
    first: u64,
}

impl InHand {
    /// Of a consumer of this topic and group, which begins.
    pub(super) fn of(watches: &Arc<Watches>, topic: Name, group: Name) -> Self {
        let watch = watches.begin(topic, group);
        Self { watches: watches.clone(), watch, since: VecDeque::new(), first: 0 }
    }

    pub(super) fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// A message is begun, before its handler is called: one that blocks its thread is seen too.
    pub(super) fn begin(&mut self) -> u64 {
        let now = self.watches.now();
        if self.since.is_empty() {
            self.watch.oldest.store(now, Ordering::Relaxed);
        }
        self.since.push_back(Some(now));
        self.first + self.since.len() as u64 - 1
    }

    /// The message of this number is not in hand any more.
    pub(super) fn end(&mut self, number: u64) {
        let place = usize::try_from(number - self.first).unwrap_or(usize::MAX);
        if let Some(since) = self.since.get_mut(place) {
            *since = None;
        }
        while let Some(None) = self.since.front() {
            self.since.pop_front();
            self.first += 1;
        }
        let oldest = self.since.front().copied().flatten().unwrap_or_default();
        self.watch.oldest.store(oldest, Ordering::Relaxed);
    }

    /// The consumer has ended: with an error, which health shows from now on, or in order.
    pub(super) fn ended(self, error: Option<&Error>) {
        if let Some(error) = error {
            *self.watch.ended() = Some(format!("the consumer has ended: {error}"));
        }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.watch.set_open(false);
        self.watch.oldest.store(0, Ordering::Relaxed);
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
        let watches = Arc::new(Watches::new());
        let mut in_hand = InHand::of(&watches, TOPIC, GROUP);
        let old = in_hand.begin();
        tokio::time::advance(LIMIT / 2).await;
        let young = in_hand.begin();
        in_hand.end(young);
        assert_eq!(lost(&watches), [""; 0]);
        tokio::time::advance(LIMIT).await;
        assert_eq!(lost(&watches), ["a message is in hand for 90 s"]);
        let next = in_hand.begin();
        in_hand.end(old);
        assert_eq!(lost(&watches), [""; 0], "the next has only begun");
        tokio::time::advance(LIMIT * 2).await;
        assert_eq!(lost(&watches), ["a message is in hand for 120 s"]);
        in_hand.end(next);
        assert_eq!(lost(&watches), [""; 0]);
    }

    #[tokio::test]
    async fn an_error_stays_until_the_next_of_topic_and_group_begins() {
        let watches = Arc::new(Watches::new());
        InHand::of(&watches, TOPIC, GROUP).ended(None);
        assert_eq!(lost(&watches), [""; 0], "it ended in order");
        let error = Error::new(ErrorKind::UnknownTopic, "consume", "deleted");
        InHand::of(&watches, TOPIC, GROUP).ended(Some(&error));
        let told = lost(&watches);
        assert!(told.len() == 1 && told[0].contains("deleted"), "{told:?}");
        let other = InHand::of(&watches, TOPIC, Name::new("other"));
        assert_eq!(lost(&watches), told, "another group");
        let next = InHand::of(&watches, TOPIC, GROUP);
        assert_eq!(lost(&watches), [""; 0]);
        drop((other, next));
        assert!(watches.lock().is_empty(), "nothing is left of consumers that were dropped");
    }
}

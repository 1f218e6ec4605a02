//! What a broker has done so far, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many messages went through a [`Broker`](crate::Broker) since it was made, those included
/// that it moves itself: to retry and dead-letter topics, and from where they waited.
///
/// For numbers by topic and group, and for durations, see the feature `metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Messages that the broker confirmed.
    pub published: u64,
    /// Messages that were refused, or not confirmed in time.
    pub publish_failures: u64,
    /// Deliveries that were received; a message that is delivered again counts again.
    pub consumed: u64,
    /// Attempts of consumers that failed: the handler's, and payloads that could not be decoded.
    pub failures: u64,
}

/// The numbers while they are counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    published: AtomicU64,
    publish_failures: AtomicU64,
    consumed: AtomicU64,
    failures: AtomicU64,
}

impl Counts {
    pub(crate) fn published(&self, confirmed: bool) {
        let count = if confirmed { &self.published } else { &self.publish_failures };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn consumed(&self, deliveries: usize) {
        self.consumed.fetch_add(deliveries as u64, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Stats {
            published: read(&self.published),
            publish_failures: read(&self.publish_failures),
            consumed: read(&self.consumed),
            failures: read(&self.failures),
        }
    }
}

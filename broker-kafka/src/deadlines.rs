//! When to look at the deadlines of messages again.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The earliest deadline of many, kept without a timer for each: most messages are answered long
/// before theirs, and have the same time limit, so one look finds when the next is due.
#[derive(Debug)]
pub(crate) struct Deadlines {
    base: Instant,
    /// Microseconds after `base`; the largest number is never.
    next: AtomicU64,
    earlier: Notify,
}

impl Deadlines {
    pub(crate) fn new() -> Self {
        Self { base: Instant::now(), next: AtomicU64::new(u64::MAX), earlier: Notify::new() }
    }

    /// There is a message with this deadline.
    pub(crate) fn note(&self, deadline: Instant) {
        let after = deadline.saturating_duration_since(self.base).as_micros();
        let after = u64::try_from(after).unwrap_or(u64::MAX);
        // Mostly it is a later one than what is waited for, which costs this one read.
        if after < self.next.load(Ordering::Relaxed)
            && after < self.next.fetch_min(after, Ordering::AcqRel)
        {
            self.earlier.notify_one();
        }
    }

    /// Waits until one may have passed. What is still there then has to be noted again.
    pub(crate) async fn passed(&self) {
        loop {
            let next = self.next.load(Ordering::Acquire);
            if next == u64::MAX {
                self.earlier.notified().await;
                continue;
            }
            let due = self.base + std::time::Duration::from_micros(next);
            tokio::select! {
                () = sleep_until(due) => break,
                () = self.earlier.notified() => {}
            }
        }
        self.next.store(u64::MAX, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_earliest_deadline_is_waited_for_also_when_it_is_noted_later() {
        let deadlines = Deadlines::new();
        let start = Instant::now();
        deadlines.note(start + Duration::from_secs(30));
        let earlier = async {
            tokio::task::yield_now().await;
            deadlines.note(start + Duration::from_secs(1));
        };
        tokio::join!(deadlines.passed(), earlier);
        assert_eq!(start.elapsed().as_secs(), 1);
        deadlines.note(start + Duration::from_secs(30));
        deadlines.passed().await;
        assert_eq!(start.elapsed().as_secs(), 30);
    }
}

//! Messages waiting for a batch, with the keys that wait longer because one of them failed.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use tokio::time::Instant;

use super::lanes::Place;

/// A key within its partition.
pub(super) type Key = (Place, Bytes);

/// Jobs in their order. Those of a key that failed come again after its pause, before the later
/// ones of that key, and no other key waits for them.
pub(super) struct Backlog<J> {
    ready: VecDeque<(Option<Key>, J)>,
    failed: HashMap<Key, (Instant, VecDeque<J>)>,
}

impl<J> Backlog<J> {
    pub(super) fn new() -> Self {
        Self { ready: VecDeque::new(), failed: HashMap::new() }
    }

    /// How many could be in a batch now.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// When the next key that failed may come again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.failed.values().map(|(due, _)| *due).min()
    }

    /// Adds a job behind those of its key.
    pub(super) fn push(&mut self, key: Option<Key>, job: J) {
        if let Some(key) = &key
            && let Some((_, behind)) = self.failed.get_mut(key)
        {
            return behind.push_back(job);
        }
        self.ready.push_back((key, job));
    }

    /// Puts back jobs of one key that failed, to come again at `due`; and takes along the later
    /// ones of that key.
    pub(super) fn fail(&mut self, key: Key, due: Instant, jobs: impl IntoIterator<Item = J>) {
        let mut again: VecDeque<J> = jobs.into_iter().collect();
        let (later, ready) = std::mem::take(&mut self.ready)
            .into_iter()
            .partition(|(k, _)| k.as_ref() == Some(&key));
        self.ready = ready;
        let later: VecDeque<(Option<Key>, J)> = later;
        again.extend(later.into_iter().map(|(_, job)| job));
        self.failed.insert(key, (due, again));
    }

    /// Makes the keys whose pause is over ready, before all others.
    pub(super) fn release(&mut self, now: Instant) {
        let due: Vec<Key> = self
            .failed
            .iter()
            .filter(|(_, (due, _))| *due <= now)
            .map(|(k, _)| k.clone())
            .collect();
        for key in due {
            for job in self.failed.remove(&key).into_iter().flat_map(|(_, jobs)| jobs).rev() {
                self.ready.push_front((Some(key.clone()), job));
            }
        }
    }

    /// The next jobs, at most so many.
    pub(super) fn take(&mut self, most: usize) -> Vec<(Option<Key>, J)> {
        let count = most.min(self.ready.len());
        self.ready.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;
    use std::time::Duration;

    fn key(key: &'static str) -> Option<Key> {
        Some(((Name::new("t"), 0), Bytes::from(key)))
    }

    fn jobs(backlog: &mut Backlog<u32>) -> Vec<u32> {
        backlog.take(100).into_iter().map(|(_, job)| job).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_key_comes_again_in_order_and_holds_back_no_other() {
        let mut backlog = Backlog::new();
        for (k, n) in [("a", 1), ("b", 2), ("a", 3), ("b", 4)] {
            backlog.push(key(k), n);
        }
        let due = Instant::now() + Duration::from_secs(1);
        assert_eq!(backlog.take(1).len(), 1);
        backlog.fail(key("a").unwrap(), due, [1]);
        backlog.push(key("a"), 5);
        backlog.push(key("b"), 6);
        assert_eq!(jobs(&mut backlog), [2, 4, 6]);
        assert_eq!(backlog.next_due(), Some(due));
        backlog.release(Instant::now());
        assert_eq!(backlog.ready(), 0);
        backlog.release(due);
        assert_eq!(jobs(&mut backlog), [1, 3, 5]);
        assert_eq!(backlog.next_due(), None);
    }
}

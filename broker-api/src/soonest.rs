//! What waits for its time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Things in the order of their times, whatever order they came in.
pub(crate) struct Soonest<K, T>(BinaryHeap<Reverse<Entry<K, T>>>);

struct Entry<K, T> {
    time: K,
    thing: T,
}

impl<K: Ord, T> Soonest<K, T> {
    pub(crate) fn new() -> Self {
        Self(BinaryHeap::new())
    }

    pub(crate) fn push(&mut self, time: K, thing: T) {
        self.0.push(Reverse(Entry { time, thing }));
    }

    /// The time of the next one.
    pub(crate) fn next(&self) -> Option<&K> {
        self.0.peek().map(|Reverse(entry)| &entry.time)
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        self.0.pop().map(|Reverse(entry)| entry.thing)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

impl<K: Ord, T> PartialEq for Entry<K, T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<K: Ord, T> Eq for Entry<K, T> {}

impl<K: Ord, T> PartialOrd for Entry<K, T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Ord, T> Ord for Entry<K, T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.time.cmp(&other.time)
    }
}

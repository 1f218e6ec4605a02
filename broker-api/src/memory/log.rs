//! The messages of one partition.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::SystemTime;

use bytes::Bytes;

use crate::backend::Start;
use crate::message::Message;

/// What a kept message costs besides its own bytes: its place here and the heads of its buffers,
/// roughly.
const ENTRY_BYTES: usize = size_of::<Entry>() + 64;

/// Below this many empty places nothing is gained by closing the gaps.
const SLACK: usize = 32;

/// What a message counts against the limits of the broker, in bytes.
pub(super) fn cost(message: &Message) -> usize {
    message.byte_len() + ENTRY_BYTES
}

/// A partition: messages in the order of their offsets, oldest first.
///
/// Nothing is dropped from it from the *floor* on: the lowest offset that a declared group has not
/// settled. Only its user knows the floor, so it is passed in. What is dropped is returned in bytes
/// of [`cost`].
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Ascending offsets, with gaps only where the log is compacted.
    entries: VecDeque<Entry>,
    /// How many entries have lost their message.
    empty: usize,
    /// The offset that the next message gets.
    end: u64,
    bytes: usize,
    keys: Option<Keys>,
}

#[derive(Debug)]
struct Entry {
    offset: u64,
    /// When it was appended, in the user's milliseconds.
    at: u64,
    /// `None` once compacted away.
    message: Option<Message>,
}

/// What a compacted log knows of its keys.
#[derive(Debug, Default)]
struct Keys {
    newest: HashMap<Bytes, u64>,
    /// Offsets whose key has a newer message, and which are still there.
    superseded: BTreeSet<u64>,
}

impl Log {
    /// An empty log; a compacted one keeps the newest message of each key whatever the limits, and
    /// older ones only from the floor on.
    pub(super) fn new(compacted: bool) -> Self {
        Self { keys: compacted.then(Keys::default), ..Self::default() }
    }

    /// The offset that the next message gets.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// What its messages cost.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn append(&mut self, message: Message, at: u64) -> u64 {
        let offset = self.end;
        self.end += 1;
        self.bytes += cost(&message);
        if let (Some(keys), Some(key)) = (&mut self.keys, message.key()) {
            match keys.newest.get_mut(key) {
                Some(newest) => drop(keys.superseded.insert(std::mem::replace(newest, offset))),
                // Copied, because it may be a part of a larger buffer that is dropped before it.
                None => drop(keys.newest.insert(Bytes::copy_from_slice(key), offset)),
            }
        }
        self.entries.push_back(Entry { offset, at, message: Some(message) });
        offset
    }

    pub(super) fn get(&self, offset: u64) -> Option<&Message> {
        let entry = self.entries.get(self.place(offset))?;
        entry.message.as_ref().filter(|_| entry.offset == offset)
    }

    /// The messages from this offset on.
    pub(super) fn from(&self, offset: u64) -> impl Iterator<Item = (u64, &Message)> {
        let entries = self.entries.range(self.place(offset)..);
        entries.filter_map(|entry| Some((entry.offset, entry.message.as_ref()?)))
    }

    /// The offset at which `start` begins. One beyond the end is the end, so that no message
    /// published from now on is skipped.
    pub(super) fn offset_of(&self, start: Start) -> u64 {
        let not_before = |time: SystemTime| {
            let mut messages = self.from(0);
            messages.find(|(_, message)| message.timestamp().is_some_and(|t| t >= time))
        };
        match start {
            Start::Earliest => self.entries.front().map_or(self.end, |entry| entry.offset),
            Start::Latest => self.end,
            Start::Time(time) => not_before(time).map_or(self.end, |(offset, _)| offset),
            Start::Offset(offset) => offset.min(self.end),
        }
    }

    /// Whether [`Log::drop_oldest`] could drop anything.
    pub(super) fn can_drop(&self, floor: u64) -> bool {
        let oldest = self.entries.front();
        self.keys.is_none() && oldest.is_some_and(|entry| entry.offset < floor)
    }

    /// Drops the oldest messages until `wanted` bytes are free or the floor is reached.
    pub(super) fn drop_oldest(&mut self, floor: u64, wanted: usize) -> usize {
        let mut freed = 0;
        while freed < wanted && self.can_drop(floor) {
            freed += self.pop();
        }
        self.shrink();
        freed
    }

    /// Whether it has messages that were appended before `since`, or more than `bytes`.
    pub(super) fn exceeds(&self, since: u64, bytes: usize) -> bool {
        self.bytes > bytes || self.entries.front().is_some_and(|entry| entry.at < since)
    }

    /// Drops the oldest messages while it exceeds these limits.
    pub(super) fn retain(&mut self, floor: u64, since: u64, bytes: usize) -> usize {
        let mut freed = 0;
        while self.exceeds(since, bytes) && self.can_drop(floor) {
            freed += self.pop();
        }
        self.shrink();
        freed
    }

    /// Drops the superseded messages below the floor.
    pub(super) fn compact(&mut self, floor: u64) -> usize {
        let mut freed = 0;
        while let Some(offset) = self.next_superseded(floor) {
            let place = self.place(offset);
            let message = self.entries.get_mut(place).and_then(|entry| entry.message.take());
            self.empty += usize::from(message.is_some());
            freed += message.as_ref().map_or(0, cost);
        }
        self.bytes -= freed;
        // Costs as much as there were messages dropped since it was last done.
        if self.empty > self.entries.len() / 2 + SLACK {
            self.entries.retain(|entry| entry.message.is_some());
            self.empty = 0;
            self.shrink();
        }
        freed
    }

    fn next_superseded(&mut self, floor: u64) -> Option<u64> {
        let superseded = &mut self.keys.as_mut()?.superseded;
        superseded.first().is_some_and(|offset| *offset < floor).then(|| superseded.pop_first())?
    }

    fn pop(&mut self) -> usize {
        let message = self.entries.pop_front().and_then(|entry| entry.message);
        let freed = message.as_ref().map_or(0, cost);
        self.bytes -= freed;
        freed
    }

    /// Gives back the places of what was dropped, which another topic may need; so rarely that it
    /// costs as much as was dropped.
    fn shrink(&mut self) {
        let len = self.entries.len();
        if self.entries.capacity() > 4 * (len + SLACK) {
            self.entries.shrink_to(2 * (len + SLACK));
        }
    }

    /// The place of the first entry that is not before `offset`.
    fn place(&self, offset: u64) -> usize {
        let Some(first) = self.entries.front() else { return 0 };
        // Exact where nothing is missing, which is always so unless the log is compacted.
        let guess = usize::try_from(offset.saturating_sub(first.offset)).unwrap_or(usize::MAX);
        match self.entries.get(guess) {
            Some(entry) if entry.offset == offset => guess,
            _ => self.entries.partition_point(|entry| entry.offset < offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offsets(log: &Log) -> Vec<u64> {
        log.from(0).map(|(offset, _)| offset).collect()
    }

    #[test]
    fn nothing_is_dropped_from_the_floor_on() {
        let mut log = Log::new(false);
        for n in 0..10 {
            log.append(Message::new("x"), n);
        }
        assert_eq!(log.drop_oldest(4, usize::MAX), 4 * cost(&Message::new("x")));
        assert_eq!(log.retain(6, u64::MAX, 0), 2 * cost(&Message::new("x")));
        assert_eq!(offsets(&log), [6, 7, 8, 9]);
        assert_eq!(log.retain(u64::MAX, 8, usize::MAX), 2 * cost(&Message::new("x")));
        assert_eq!((offsets(&log), log.bytes()), (vec![8, 9], 2 * cost(&Message::new("x"))));
        assert!(log.get(7).is_none() && log.get(8).is_some() && log.get(10).is_none());
    }

    #[test]
    fn a_start_beyond_the_end_is_the_end() {
        let mut log = Log::new(false);
        let time = SystemTime::UNIX_EPOCH;
        log.append(Message::new("x").with_timestamp(time), 0);
        assert_eq!(log.offset_of(Start::Offset(7)), 1);
        assert_eq!(log.offset_of(Start::Time(time)), 0);
        assert_eq!(log.offset_of(Start::Time(SystemTime::now())), 1);
    }

    proptest! {
        #[test]
        fn a_compacted_log_keeps_the_newest_of_each_key_and_all_from_the_floor_on(
            keys in proptest::collection::vec(0u8..5, 1..200),
            floors in proptest::collection::vec(0u64..200, 1..10),
        ) {
            let mut log = Log::new(true);
            let mut highest = 0;
            for (n, key) in keys.iter().enumerate() {
                log.append(Message::new("x").with_key(vec![*key]), 0);
                if n % 20 == 0 {
                    highest = highest.max(floors[n / 20 % floors.len()].min(log.end()));
                    log.compact(highest);
                }
            }
            log.compact(highest);
            let newest = |n: usize| !keys[n + 1..].contains(&keys[n]);
            let expected: Vec<u64> =
                (0..keys.len()).filter(|n| *n as u64 >= highest || newest(*n)).map(|n| n as u64).collect();
            prop_assert_eq!(offsets(&log), expected.clone());
            prop_assert_eq!(log.bytes(), expected.len() * cost(&Message::new("x").with_key("k")));
            for n in 0..keys.len() as u64 {
                prop_assert_eq!(log.get(n).is_some(), expected.contains(&n));
                prop_assert_eq!(log.from(n).next().map(|(o, _)| o), expected.iter().copied().find(|o| *o >= n));
            }
            prop_assert_eq!(log.drop_oldest(u64::MAX, usize::MAX), 0);
        }
    }
}

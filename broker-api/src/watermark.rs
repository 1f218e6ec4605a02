//! The position of a group in a partition whose messages are settled in any order.

use std::collections::VecDeque;
use std::fmt;

/// Below this many places nothing is gained by giving memory back.
const SLACK: usize = 32;

/// Which offsets of one partition are handed out and not settled, and so the position below which
/// everything is settled: what may be committed.
///
/// Each offset carries a tag for whoever tracks it. Offsets may have gaps, as on Kafka after
/// compaction or around transactions; what is missing counts as settled.
///
/// Tracking is O(1); settling is O(1) amortised while the offsets have no gaps and are settled
/// roughly in order, else O(log n) of what is unsettled. Memory is proportional to what is
/// unsettled: one message that stays unsettled for ever does not make the millions settled after
/// it be remembered.
///
/// A late settlement, from before a partition was lost, has to be kept away by its user: begin a
/// new watermark with every ownership.
///
/// ```
/// let mut watermark = broker_api::Watermark::new(7);
/// for offset in [7, 8, 12] {
///     watermark.track(offset, ());
/// }
/// watermark.settle(8);
/// assert_eq!(watermark.position(), 7);
/// watermark.settle(7);
/// assert_eq!(watermark.position(), 12);
/// watermark.settle(12);
/// assert_eq!(watermark.position(), 13);
/// ```
#[derive(Clone)]
pub struct Watermark<T = ()> {
    /// Ascending; a settled one is `None` until it is at the front or too many of them are. The
    /// front is never settled.
    window: VecDeque<(u64, Option<T>)>,
    unsettled: usize,
    /// After the highest offset ever tracked: the position when nothing is unsettled.
    end: u64,
}

impl<T> Watermark<T> {
    /// Everything below `position` is settled and nothing is handed out.
    pub const fn new(position: u64) -> Self {
        Self { window: VecDeque::new(), unsettled: 0, end: position }
    }

    /// Everything below it is settled: the lowest unsettled offset, or the one after the highest
    /// tracked. It never moves back.
    pub fn position(&self) -> u64 {
        self.window.front().map_or(self.end, |(offset, _)| *offset)
    }

    /// How many offsets are unsettled.
    pub const fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// Takes note that `offset` is handed out. Offsets come ascending: one that is not above all
    /// before it changes nothing, and `false` is returned.
    pub fn track(&mut self, offset: u64, tag: T) -> bool {
        if offset < self.end {
            return false;
        }
        self.end = offset.saturating_add(1);
        self.window.push_back((offset, Some(tag)));
        self.unsettled += 1;
        true
    }

    /// Settles `offset` and returns its tag; `None` if it is not unsettled.
    pub fn settle(&mut self, offset: u64) -> Option<T> {
        let place = self.find(offset)?;
        let tag = self.window[place].1.take()?;
        self.unsettled -= 1;
        if place == 0 {
            while let Some((_, None)) = self.window.front() {
                self.window.pop_front();
            }
        }
        // Costs as much as there were settlements since it was last done.
        if self.window.len() > 2 * self.unsettled + SLACK {
            self.window.retain(|(_, tag)| tag.is_some());
            let enough = 2 * self.unsettled + SLACK;
            if self.window.capacity() > 4 * enough {
                self.window.shrink_to(enough);
            }
        }
        Some(tag)
    }

    /// The tag of an unsettled offset.
    pub fn get_mut(&mut self, offset: u64) -> Option<&mut T> {
        let place = self.find(offset)?;
        self.window[place].1.as_mut()
    }

    /// The unsettled offsets, ascending, with their tags.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.window.iter_mut().filter_map(|(offset, tag)| Some((*offset, tag.as_mut()?)))
    }

    /// The unsettled offsets, ascending, with their tags.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.window.iter().filter_map(|(offset, tag)| Some((*offset, tag.as_ref()?)))
    }

    fn find(&self, offset: u64) -> Option<usize> {
        let first = self.window.front()?.0;
        // Offsets ascend, so an offset is at most this far from the front: exactly so where
        // nothing between is missing, which is the common case.
        let at_most = usize::try_from(offset.checked_sub(first)?).unwrap_or(usize::MAX);
        match self.window.get(at_most) {
            Some((there, _)) if *there == offset => Some(at_most),
            _ => self.window.binary_search_by_key(&offset, |(there, _)| *there).ok(),
        }
    }
}

impl<T> fmt::Debug for Watermark<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watermark")
            .field("position", &self.position())
            .field("unsettled", &self.unsettled)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// The same by the definition.
    #[derive(Default)]
    struct Model {
        unsettled: BTreeMap<u64, u32>,
        end: u64,
    }

    impl Model {
        fn position(&self) -> u64 {
            self.unsettled.keys().next().copied().unwrap_or(self.end)
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Tracks the next offset after a gap of this size.
        Track(u64),
        /// Settles the unsettled offset of this rank, modulo how many there are.
        Settle(usize),
        /// Settles an offset that may not be there.
        SettleAnything(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0u64..2).prop_map(Step::Track),
            1 => (0u64..1_000_000).prop_map(Step::Track),
            7 => any::<usize>().prop_map(Step::Settle),
            1 => (0u64..2_000).prop_map(Step::SettleAnything),
        ]
    }

    proptest! {
        #[test]
        fn it_is_the_lowest_unsettled_offset_whatever_the_order(
            steps in proptest::collection::vec(step(), 0..400),
        ) {
            let (mut watermark, mut model) = (Watermark::new(0), Model::default());
            for (n, step) in steps.into_iter().enumerate() {
                let before = watermark.position();
                match step {
                    Step::Track(gap) => {
                        let offset = model.end + gap;
                        prop_assert!(watermark.track(offset, n as u32));
                        model.unsettled.insert(offset, n as u32);
                        model.end = offset + 1;
                        prop_assert!(!watermark.track(offset, 0));
                    }
                    Step::Settle(rank) => {
                        let count = model.unsettled.len().max(1);
                        if let Some(offset) = model.unsettled.keys().nth(rank % count).copied() {
                            prop_assert_eq!(watermark.get_mut(offset).copied(), model.unsettled.get(&offset).copied());
                            prop_assert_eq!(watermark.settle(offset), model.unsettled.remove(&offset));
                            prop_assert_eq!(watermark.settle(offset), None);
                        }
                    }
                    Step::SettleAnything(offset) => {
                        prop_assert_eq!(watermark.settle(offset), model.unsettled.remove(&offset));
                    }
                }
                prop_assert_eq!(watermark.position(), model.position());
                prop_assert!(watermark.position() >= before);
                prop_assert_eq!(watermark.unsettled(), model.unsettled.len());
                prop_assert!(watermark.iter().map(|(o, t)| (o, *t)).eq(model.unsettled.clone()));
                prop_assert!(watermark.window.len() <= 2 * model.unsettled.len() + SLACK);
            }
        }
    }

    #[test]
    fn one_message_that_is_never_settled_does_not_make_memory_grow() {
        let mut watermark = Watermark::new(0);
        watermark.track(0, ());
        for offset in 1..1_000_000 {
            watermark.track(offset, ());
            watermark.settle(offset);
        }
        assert_eq!((watermark.position(), watermark.unsettled()), (0, 1));
        assert!(watermark.window.capacity() < 512, "{}", watermark.window.capacity());
        watermark.settle(0);
        assert_eq!(watermark.position(), 1_000_000);
    }

    #[test]
    fn many_out_of_order_settlements_cost_little_each() {
        // 100,000 in flight, settled backwards, which would be quadratic with a linear search.
        let mut watermark = Watermark::new(0);
        for offset in 0..100_000 {
            watermark.track(offset, ());
        }
        for offset in (0..100_000).rev() {
            assert_eq!(watermark.settle(offset), Some(()));
        }
        assert_eq!(watermark.position(), 100_000);
    }
}

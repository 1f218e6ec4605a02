//! What was delivered on a channel and is not settled at the broker yet.

use std::collections::VecDeque;

use broker_api::{Message, Settlement};

/// What has to be sent to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    /// This delivery and all before it are done.
    AckUpTo(u64),
    /// This delivery is done.
    Ack(u64),
    /// This delivery is not wanted again.
    Reject(u64),
}

/// A message that was delivered, with what is said about it.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) tag: u64,
    pub(crate) message: Message,
    pub(crate) partition: u32,
    /// How often it was given back before.
    pub(crate) returned: u32,
}

/// The deliveries of one channel, from the first to be settled on; and those not handed out.
///
/// Delivery tags count up from 1 over all queues of the channel.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// The tag of the first slot.
    base: u64,
    slots: VecDeque<Slot>,
    lanes: Vec<Lane>,
    /// Where the next handing out begins, to be fair to all lanes.
    cursor: usize,
    /// How many may be handed out and unsettled.
    capacity: usize,
    handed: usize,
    waiting: usize,
    /// Settled, and the broker not told.
    untold: usize,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    state: State,
    lane: u32,
    partition: u32,
    returned: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not arrived yet: what comes for other queues may be seen earlier.
    Absent,
    /// Here, and not handed out; or a mark, which never is.
    Kept,
    Handed,
    Acked,
    Rejected,
    /// Settled, and the broker told.
    Told,
}

/// The deliveries of one queue.
#[derive(Debug, Default)]
struct Lane {
    /// To be handed out, in the order of their tags.
    waiting: VecDeque<(u64, Message)>,
    /// Waiting or handed out.
    unsettled: usize,
    /// Something of it was settled, so the broker has to be waited for on leaving.
    told: bool,
}

impl Ledger {
    pub(crate) fn new(capacity: usize, lanes: usize) -> Self {
        Self {
            base: 1,
            slots: VecDeque::new(),
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            cursor: 0,
            capacity,
            handed: 0,
            waiting: 0,
            untold: 0,
        }
    }

    /// One queue more; its number.
    pub(crate) fn add_lane(&mut self) -> usize {
        self.lanes.push(Lane::default());
        self.lanes.len() - 1
    }

    /// Takes in a delivery.
    pub(crate) fn deliver(&mut self, lane: usize, delivered: Delivered) {
        let Delivered { tag, message, partition, returned } = delivered;
        let slot = Slot { state: State::Kept, lane: lane as u32, partition, returned };
        self.put(tag, slot);
        self.waiting += 1;
        let lane = &mut self.lanes[lane];
        lane.unsettled += 1;
        lane.waiting.push_back((tag, message));
    }

    /// Takes in a delivery that is not for the application: it stays until [`Self::settle_mark`].
    pub(crate) fn deliver_mark(&mut self, lane: usize, tag: u64) {
        let slot = Slot { state: State::Kept, lane: lane as u32, partition: 0, returned: 0 };
        self.put(tag, slot);
    }

    fn put(&mut self, tag: u64, slot: Slot) {
        let Some(index) = tag.checked_sub(self.base).map(|index| index as usize) else { return };
        let absent = Slot { state: State::Absent, lane: 0, partition: 0, returned: 0 };
        while self.slots.len() <= index {
            self.slots.push_back(absent);
        }
        self.slots[index] = slot;
    }

    /// Hands out up to `max`, taking turns between the lanes.
    pub(crate) fn hand_out(
        &mut self,
        max: usize,
        mut take: impl FnMut(usize, u64, Message, u32, u32),
    ) {
        let mut room = max.min(self.capacity.saturating_sub(self.handed)).min(self.waiting);
        while room > 0 {
            let lane = self.cursor;
            self.cursor = (self.cursor + 1) % self.lanes.len();
            let Some((tag, message)) = self.lanes[lane].waiting.pop_front() else { continue };
            if let Some(slot) = self.slot(tag) {
                slot.state = State::Handed;
                let (partition, returned) = (slot.partition, slot.returned);
                take(lane, tag, message, partition, returned);
            }
            self.handed += 1;
            self.waiting -= 1;
            room -= 1;
        }
    }

    /// Whether something could be handed out now.
    pub(crate) fn has_more(&self) -> bool {
        self.waiting > 0 && self.handed < self.capacity
    }

    /// A delivery was settled; `false` if it was not handed out, or settled before.
    pub(crate) fn settle(&mut self, tag: u64, settlement: Settlement) -> bool {
        let Some(slot) = self.slot(tag).filter(|slot| slot.state == State::Handed) else {
            return false;
        };
        slot.state = match settlement {
            Settlement::Ack => State::Acked,
            Settlement::Reject => State::Rejected,
        };
        let lane = slot.lane as usize;
        self.handed -= 1;
        self.untold += 1;
        self.lanes[lane].unsettled -= 1;
        true
    }

    /// A delivery came back: it is the next one of its lane again.
    pub(crate) fn requeue(&mut self, tag: u64, message: Message) -> bool {
        let Some(slot) = self.slot(tag).filter(|slot| slot.state == State::Handed) else {
            return false;
        };
        slot.state = State::Kept;
        slot.returned = slot.returned.saturating_add(1);
        let lane = slot.lane as usize;
        self.handed -= 1;
        self.waiting += 1;
        let waiting = &mut self.lanes[lane].waiting;
        // Nearly always the first: what comes back is older than what was not handed out.
        let place = waiting.iter().position(|(other, _)| *other > tag).unwrap_or(waiting.len());
        waiting.insert(place, (tag, message));
        true
    }

    /// Whether nothing but marks is left of a lane.
    pub(crate) fn is_settled(&self, lane: usize) -> bool {
        self.lanes[lane].unsettled == 0
    }

    /// The mark is done.
    pub(crate) fn settle_mark(&mut self, tag: u64) {
        if let Some(slot) = self.slot(tag).filter(|slot| slot.state == State::Kept) {
            slot.state = State::Acked;
            self.untold += 1;
        }
    }

    /// What the broker has to be told: as few frames as possible for what is settled without a gap,
    /// and, if `all`, one for each of the others.
    pub(crate) fn tell(&mut self, all: bool, frames: &mut Vec<Frame>) {
        let mut acked = None;
        while let Some(slot) = self.slots.front() {
            match slot.state {
                State::Absent | State::Kept | State::Handed => break,
                State::Told => {}
                State::Acked => acked = Some(self.base),
                State::Rejected => {
                    frames.extend(acked.take().map(Frame::AckUpTo));
                    frames.push(Frame::Reject(self.base));
                }
            }
            if slot.state != State::Told {
                self.untold -= 1;
                self.lanes[slot.lane as usize].told = true;
            }
            self.slots.pop_front();
            self.base += 1;
        }
        frames.extend(acked.map(Frame::AckUpTo));
        if !all || self.untold == 0 {
            return;
        }
        for (tag, slot) in (self.base..).zip(&mut self.slots) {
            match slot.state {
                State::Acked => frames.push(Frame::Ack(tag)),
                State::Rejected => frames.push(Frame::Reject(tag)),
                _ => continue,
            }
            slot.state = State::Told;
            self.lanes[slot.lane as usize].told = true;
        }
        self.untold = 0;
    }

    /// Whether something is settled that the broker was not told.
    pub(crate) fn has_untold(&self) -> bool {
        self.untold > 0
    }

    /// The lanes of which something was settled.
    pub(crate) fn told_lanes(&self) -> Vec<usize> {
        let lanes = self.lanes.iter().enumerate();
        lanes.filter(|(_, lane)| lane.told).map(|(number, _)| number).collect()
    }

    fn slot(&mut self, tag: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(tag.checked_sub(self.base)?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn delivered(tag: u64) -> Delivered {
        Delivered { tag, message: Message::new(tag.to_string()), partition: 0, returned: 0 }
    }

    fn ledger(capacity: usize, tags: u64) -> Ledger {
        let mut ledger = Ledger::new(capacity, 2);
        (1..=tags).for_each(|tag| ledger.deliver((tag % 2) as usize, delivered(tag)));
        ledger
    }

    fn taken(ledger: &mut Ledger, max: usize) -> Vec<u64> {
        let mut tags = Vec::new();
        ledger.hand_out(max, |_, tag, _, _, _| tags.push(tag));
        tags
    }

    fn told(ledger: &mut Ledger, all: bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        ledger.tell(all, &mut frames);
        frames
    }

    #[test]
    fn what_is_settled_without_a_gap_takes_one_frame() {
        let mut ledger = ledger(10, 6);
        taken(&mut ledger, 10);
        for tag in [3, 1, 2, 5] {
            assert!(ledger.settle(tag, Settlement::Ack));
        }
        assert_eq!(told(&mut ledger, false), [Frame::AckUpTo(3)]);
        assert!(ledger.has_untold());
        assert_eq!(told(&mut ledger, true), [Frame::Ack(5)]);
        ledger.settle(4, Settlement::Ack);
        assert_eq!(told(&mut ledger, true), [Frame::AckUpTo(4)]);
        ledger.settle(6, Settlement::Reject);
        assert_eq!(told(&mut ledger, false), [Frame::Reject(6)]);
        assert!(!ledger.has_untold());
    }

    #[test]
    fn a_rejection_between_acknowledgements_keeps_its_place() {
        let mut ledger = ledger(10, 4);
        taken(&mut ledger, 10);
        for tag in 1..=4 {
            let settlement = if tag == 2 { Settlement::Reject } else { Settlement::Ack };
            ledger.settle(tag, settlement);
        }
        let frames = [Frame::AckUpTo(1), Frame::Reject(2), Frame::AckUpTo(4)];
        assert_eq!(told(&mut ledger, false), frames);
    }

    #[test]
    fn a_delivery_seen_late_is_not_acknowledged_with_later_ones() {
        let mut ledger = Ledger::new(10, 2);
        ledger.deliver(0, delivered(2));
        taken(&mut ledger, 10);
        ledger.settle(2, Settlement::Ack);
        assert_eq!(told(&mut ledger, false), []);
        ledger.deliver(1, delivered(1));
        assert_eq!(told(&mut ledger, true), [Frame::Ack(2)]);
    }

    #[test]
    fn no_more_are_handed_out_than_may_be_unsettled() {
        let mut ledger = ledger(2, 5);
        assert_eq!(taken(&mut ledger, 5).len(), 2);
        assert!(!ledger.has_more() && taken(&mut ledger, 5).is_empty());
        ledger.settle(1, Settlement::Ack);
        assert!(ledger.has_more());
        assert_eq!(taken(&mut ledger, 5).len(), 1);
    }

    #[test]
    fn lanes_take_turns() {
        let mut ledger = Ledger::new(10, 2);
        (1..=3).for_each(|tag| ledger.deliver(0, delivered(tag)));
        (4..=5).for_each(|tag| ledger.deliver(1, delivered(tag)));
        assert_eq!(taken(&mut ledger, 10), [1, 4, 2, 5, 3]);
    }

    #[test]
    fn what_comes_back_goes_before_what_was_not_handed_out_and_is_counted() {
        let mut ledger = ledger(10, 8);
        assert_eq!(taken(&mut ledger, 4), [2, 1, 4, 3]);
        for tag in [3, 1] {
            assert!(ledger.requeue(tag, Message::new("again")));
        }
        let mut seen = Vec::new();
        ledger.hand_out(10, |_, tag, _, _, returned| seen.push((tag, returned)));
        assert_eq!(seen, [(6, 0), (1, 1), (8, 0), (3, 1), (5, 0), (7, 0)]);
    }

    #[test]
    fn settling_twice_or_what_was_never_handed_out_has_no_effect() {
        let mut ledger = ledger(10, 3);
        assert!(!ledger.settle(1, Settlement::Ack) && !ledger.settle(99, Settlement::Ack));
        taken(&mut ledger, 1);
        assert!(ledger.settle(2, Settlement::Ack) && !ledger.settle(2, Settlement::Reject));
        assert!(!ledger.requeue(2, Message::new("x")));
    }

    proptest! {
        /// Whatever is done in whatever order: the broker is told of each settled delivery once,
        /// as it was settled, and never of another.
        #[test]
        fn the_broker_is_told_what_was_settled_and_nothing_else(
            steps in proptest::collection::vec((0u8..7, 0usize..8), 1..200),
        ) {
            let mut ledger = Ledger::new(8, 3);
            let (mut next, mut held) = (1u64, Vec::new());
            let (mut acked, mut rejected) = (BTreeSet::new(), BTreeSet::new());
            let (mut broker_acked, mut broker_rejected) = (BTreeSet::new(), BTreeSet::new());
            for (step, n) in steps {
                match step {
                    0 | 1 => {
                        ledger.deliver(n % 3, delivered(next));
                        next += 1;
                    }
                    2 => ledger.hand_out(n, |_, tag, _, _, _| held.push(tag)),
                    3 | 4 if !held.is_empty() => {
                        let tag = held.remove(n % held.len());
                        let reject = step == 4 && n > 5;
                        let settlement = if reject { Settlement::Reject } else { Settlement::Ack };
                        prop_assert!(ledger.settle(tag, settlement));
                        if reject { rejected.insert(tag) } else { acked.insert(tag) };
                    }
                    5 if !held.is_empty() => {
                        let tag = held.remove(n % held.len());
                        prop_assert!(ledger.requeue(tag, Message::new("x")));
                    }
                    _ => {
                        let mut frames = Vec::new();
                        ledger.tell(n > 3, &mut frames);
                        for frame in frames {
                            match frame {
                                Frame::AckUpTo(tag) => broker_acked.extend(
                                    (1..=tag).filter(|tag| !broker_rejected.contains(tag)),
                                ),
                                Frame::Ack(tag) => drop(broker_acked.insert(tag)),
                                Frame::Reject(tag) => drop(broker_rejected.insert(tag)),
                            }
                        }
                        prop_assert!(broker_acked.is_subset(&acked));
                        prop_assert!(broker_rejected.is_subset(&rejected));
                    }
                }
            }
            let mut frames = Vec::new();
            ledger.tell(true, &mut frames);
            for frame in frames {
                match frame {
                    Frame::AckUpTo(tag) => broker_acked
                        .extend((1..=tag).filter(|tag| !broker_rejected.contains(tag))),
                    Frame::Ack(tag) => drop(broker_acked.insert(tag)),
                    Frame::Reject(tag) => drop(broker_rejected.insert(tag)),
                }
            }
            prop_assert_eq!(broker_acked, acked);
            prop_assert_eq!(broker_rejected, rejected);
        }
    }
}

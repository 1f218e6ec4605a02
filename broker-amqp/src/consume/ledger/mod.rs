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
mod tests;

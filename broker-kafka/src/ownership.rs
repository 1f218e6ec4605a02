//! A partition while this member owns it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker_api::{Delivery, Message, Name, Outgoing, Received, Settle, Settlement, Watermark};

use crate::member::Member;
use crate::transactions::{Done, Pending};

/// What a buffered message costs besides its bytes, roughly.
const OVERHEAD_BYTES: usize = 192;

/// It is to be given up.
const REVOKED: u64 = 1 << 63;
/// It was given up or lost. Offsets are far below both.
const GONE: u64 = 1 << 62;

/// A partition from its assignment to its loss. A partition that comes back is another ownership,
/// so what was handed out before cannot settle anything in it: it settles through its own.
///
/// Tokens are offsets.
pub(crate) struct Ownership {
    pub(crate) topic: Name,
    pub(crate) partition: i32,
    /// After the highest offset that was asked for whether it is live, which is so before it is
    /// begun; with the two flags.
    begun: AtomicU64,
    member: Arc<Member>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The messages that were handed out, with how often they came back. `None` before the first.
    handed_out: Option<Watermark<u32>>,
    /// Fetched and not handed out yet, by offset.
    fetched: VecDeque<(u64, Message)>,
    fetched_bytes: usize,
    /// Handed out and come back, to go out again before all else.
    returned: BTreeMap<u64, Message>,
    /// Of a member that settles by transactions: what is done and in none yet, with its outputs.
    done: BTreeMap<u64, Vec<Outgoing>>,
    /// Whether a transaction with something of it was begun and has not come to be yet.
    in_transaction: bool,
    /// The position that librdkafka was last told.
    stored: u64,
    /// Whether fetching is paused because too much is buffered.
    paused: bool,
    /// Whether it was given up; nothing has an effect any more.
    gone: bool,
}

impl Ownership {
    pub(crate) fn new(topic: Name, partition: i32, member: Arc<Member>) -> Arc<Self> {
        let (begun, state) = (AtomicU64::new(0), Mutex::default());
        Arc::new(Self { topic, partition, begun, member, state })
    }

    /// Buffers fetched messages. `true` if fetching has to pause.
    pub(crate) fn buffer(&self, messages: &mut Vec<(u64, Message)>, room: usize) -> bool {
        if !self.is_kept() {
            messages.clear();
            return false;
        }
        let mut state = self.lock();
        let bytes = messages.iter().map(|(_, message)| size(message)).sum::<usize>();
        state.fetched_bytes += bytes;
        state.fetched.extend(messages.drain(..));
        if state.fetched_bytes <= room || state.paused {
            return false;
        }
        state.paused = true;
        true
    }

    /// Whether fetching was paused and may go on; it counts as going on then.
    pub(crate) fn resumes(&self, room: usize) -> bool {
        let mut state = self.lock();
        let resumes = state.paused && state.fetched_bytes <= room / 2 && !state.gone;
        state.paused &= !resumes;
        resumes
    }

    /// Hands out up to `max` messages, those that came back first. `true` if fetching may be to
    /// be resumed by that.
    pub(crate) fn hand_out(self: &Arc<Self>, max: usize, into: &mut Vec<Delivery>) -> bool {
        if !self.is_kept() {
            return false;
        }
        let mut state = self.lock();
        let State { handed_out, fetched, fetched_bytes, returned, paused, .. } = &mut *state;
        let mut room = max;
        while room > 0
            && let Some((offset, message)) = returned.pop_first()
        {
            let times = handed_out.as_mut().and_then(|out| out.get_mut(offset).copied());
            into.push(self.delivery(offset, message, times.unwrap_or_default()));
            room -= 1;
        }
        let fresh = self.member.pending.as_ref().is_none_or(Pending::has_room);
        let take = if fresh { room.min(fetched.len()) } else { 0 };
        for (offset, message) in fetched.drain(..take) {
            *fetched_bytes -= size(&message);
            handed_out.get_or_insert_with(|| Watermark::new(offset)).track(offset, 0);
            into.push(self.delivery(offset, message, 0));
        }
        *paused && take > 0
    }

    fn delivery(self: &Arc<Self>, offset: u64, message: Message, redeliveries: u32) -> Delivery {
        let received = Received {
            message,
            topic: self.topic,
            partition: u32::try_from(self.partition).unwrap_or_default(),
            offset: Some(offset),
            redeliveries: Some(redeliveries),
        };
        Delivery::new(received, self.clone(), offset)
    }

    /// The position to be stored, if it moved since it was last asked for.
    pub(crate) fn moved(&self) -> Option<u64> {
        let mut state = self.lock();
        let position = state.handed_out.as_ref()?.position();
        // The first offset handed out is the position before anything is settled: no news, but
        // storing it does no harm, for it is where the group is.
        let moved = position > state.stored && !state.gone;
        moved.then(|| {
            state.stored = position;
            position
        })
    }

    /// It is to be given up: nothing more is handed out, what is out may still be settled.
    pub(crate) fn revoke(&self) {
        self.begun.fetch_or(REVOKED, Ordering::AcqRel);
        let mut state = self.lock();
        state.fetched = VecDeque::new();
        state.fetched_bytes = 0;
    }

    /// Whether anything of it was ever fetched.
    pub(crate) fn has_begun(&self) -> bool {
        let state = self.lock();
        state.handed_out.is_some() || !state.fetched.is_empty()
    }

    /// Whether everything that is out was settled or came back.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.lock();
        let Some(out) = &state.handed_out else { return true };
        // What is done after something that came back is no transaction's: it comes again with it.
        let uncommitted = state.done.range(..out.position()).next().is_some();
        out.unsettled() == state.returned.len() && !uncommitted && !state.in_transaction
    }

    /// Whether something of it is here that was not handed out, or not settled.
    pub(crate) fn has_work(&self) -> bool {
        let waits = !self.lock().fetched.is_empty();
        waits || !self.is_drained()
    }

    /// What is done up to the position, for a transaction.
    pub(crate) fn take_done(self: &Arc<Self>) -> Option<Done> {
        let mut state = self.lock();
        let position = state.handed_out.as_ref()?.position();
        let later = state.done.split_off(&position);
        let done = std::mem::replace(&mut state.done, later);
        if done.is_empty() {
            return None;
        }
        state.in_transaction = true;
        drop(state);
        self.no_more_pending(&done);
        let outputs = done.into_values().flatten().collect();
        Some(Done { ownership: self.clone(), position, outputs })
    }

    /// This waits for no transaction any more.
    fn no_more_pending(&self, done: &BTreeMap<u64, Vec<Outgoing>>) {
        if let Some(pending) = &self.member.pending {
            pending.remove(done.len(), done.values().map(|outputs| bytes(outputs)).sum());
        }
    }

    /// The transaction with what was taken last was committed.
    pub(crate) fn is_committed(&self) {
        self.lock().in_transaction = false;
    }

    /// Whether it was given up or lost.
    pub(crate) fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// It was given up or lost.
    pub(crate) fn end(&self) {
        self.begun.fetch_or(GONE, Ordering::AcqRel);
        self.revoke();
        let mut state = self.lock();
        state.gone = true;
        state.returned = BTreeMap::new();
        state.handed_out = None;
        let done = std::mem::take(&mut state.done);
        self.no_more_pending(&done);
    }

    /// Whether it is not to be given up.
    pub(crate) fn is_kept(&self) -> bool {
        self.begun.load(Ordering::Acquire) & REVOKED == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Settle for Ownership {
    fn settle(&self, offset: u64, settlement: Settlement) {
        if self.member.pending.is_some() {
            return self.settle_with(offset, settlement, Vec::new());
        }
        // Kafka has nowhere to put what was rejected: both mean that it does not come again.
        if let Some(out) = &mut self.lock().handed_out {
            out.settle(offset);
        }
        self.member.came_back(self, false);
    }

    fn settle_with(&self, offset: u64, _: Settlement, outputs: Vec<Outgoing>) {
        let Some(pending) = &self.member.pending else {
            // Its outputs would be nobody's, so it stays unsettled.
            return tracing::error!(topic = %self.topic, offset, "no transaction settles it");
        };
        let bytes = bytes(&outputs);
        let settled = {
            let mut state = self.lock();
            let settled = state.handed_out.as_mut().and_then(|out| out.settle(offset)).is_some();
            if settled {
                state.done.insert(offset, outputs);
            }
            settled
        };
        if settled && pending.add(bytes) {
            self.member.work.notify_one();
        }
        self.member.came_back(self, false);
    }

    fn requeue(&self, offset: u64, message: Message) {
        {
            let mut state = self.lock();
            if let Some(times) = state.handed_out.as_mut().and_then(|out| out.get_mut(offset)) {
                *times = times.saturating_add(1);
                state.returned.insert(offset, message);
            }
        }
        self.member.came_back(self, true);
    }

    /// A group has one position in a partition: what is handed back takes everything behind it
    /// along. So while a partition is given up, its messages before the last one that was begun
    /// are still to be handled.
    fn is_live(&self, offset: u64) -> bool {
        let next = offset.saturating_add(1);
        let begin = |begun| (begun & REVOKED == 0).then_some(next.max(begun));
        match self.begun.fetch_update(Ordering::AcqRel, Ordering::Acquire, begin) {
            Ok(_) => true,
            Err(begun) => begun & GONE == 0 && next < begun & !REVOKED,
        }
    }
}

fn bytes(outputs: &[Outgoing]) -> usize {
    outputs.iter().map(|output| size(&output.message)).sum()
}

fn size(message: &Message) -> usize {
    message.byte_len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use broker_api::{GroupSpec, Subscribe};

    use super::*;
    use crate::link::Link;

    /// A partition of which these many messages are handed out.
    fn handed_out(count: u64) -> (Arc<Ownership>, Vec<Delivery>) {
        let topic = Name::new("topic");
        let subscribe = Subscribe::new(topic, GroupSpec::new(Name::new("group")));
        let timeout = std::time::Duration::from_secs(1);
        let member = Member::new(&subscribe, None, timeout, Arc::new(Link::new()));
        let ownership = Ownership::new(topic, 0, Arc::new(member));
        let mut messages = (0..count).map(|offset| (offset, Message::new("x"))).collect();
        ownership.buffer(&mut messages, 1 << 20);
        let mut deliveries = Vec::new();
        ownership.hand_out(100, &mut deliveries);
        (ownership, deliveries)
    }

    #[test]
    fn what_is_before_a_begun_message_is_still_handled_while_a_partition_is_given_up() {
        let (ownership, deliveries) = handed_out(5);
        assert!(deliveries[3].is_live(), "begun");
        ownership.revoke();
        let live: Vec<_> = deliveries.iter().map(Delivery::is_live).collect();
        assert_eq!(live, [true, true, true, false, false]);
        deliveries.into_iter().take(4).for_each(Delivery::ack);
        assert_eq!(ownership.moved(), Some(4));
        assert!(ownership.is_drained(), "the last one was handed back");
    }

    #[test]
    fn nothing_of_a_lost_partition_is_handled_any_more() {
        let (ownership, deliveries) = handed_out(2);
        assert!(deliveries[1].is_live(), "begun");
        ownership.end();
        assert!(!deliveries.iter().any(Delivery::is_live));
    }
}

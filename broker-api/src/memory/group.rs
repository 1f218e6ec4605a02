//! A group of a topic: how far it is in each partition, and who works on it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::lease::Lease;
use super::log::Log;
use crate::backend::{GroupSpec, Order, Start};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::Name;
use crate::watermark::Watermark;

#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: Name,
    pub(super) order: Order,
    /// One for each partition.
    pub(super) shares: Vec<Share>,
    /// The sources that are members, in the order they joined.
    pub(super) members: Vec<usize>,
}

/// A group's part of one partition.
#[derive(Debug)]
pub(super) struct Share {
    /// What was handed out at least once and is not settled, whoever has it now.
    unsettled: Watermark<Hold>,
    /// What of it was given back and waits to be handed out again.
    returned: BTreeSet<u64>,
    /// The first offset that was never handed out.
    fresh: u64,
    /// The one member that works on it, where the group keeps the order of keys.
    pub(super) owner: Option<Arc<Lease>>,
    /// The member that is to work on it; it waits for the owner to finish what it has in hand.
    pub(super) assigned: Option<usize>,
}

#[derive(Debug)]
struct Hold {
    /// The source that has it in hand; `None` while it waits to be handed out again.
    by: Option<usize>,
    redeliveries: u32,
}

impl Group {
    pub(super) fn new(spec: &GroupSpec, logs: &[Log]) -> Self {
        let (shares, members) = (Vec::with_capacity(logs.len()), Vec::new());
        let mut group = Self { name: spec.name, order: spec.order, shares, members };
        group.grow(logs, spec.start);
        group
    }

    /// Adds the shares of partitions that have none yet.
    pub(super) fn grow(&mut self, logs: &[Log], start: Start) {
        for log in &logs[self.shares.len()..] {
            self.shares.push(Share::new(log.offset_of(start)));
        }
    }

    /// How many messages of the topic are not settled.
    pub(super) fn lag(&self, logs: &[Log]) -> u64 {
        self.shares.iter().zip(logs).map(|(share, log)| share.lag(log)).sum()
    }

    /// Checks that a member wants the order that the group has.
    pub(super) fn check(&self, topic: Name, order: Order, operation: &'static str) -> Result<()> {
        if self.order == order {
            return Ok(());
        }
        let text = format!("the group has order {:?}, wanted {order:?}", self.order);
        let error = Error::new(ErrorKind::Mismatch, operation, text);
        Err(error.with("topic", topic).with("group", self.name))
    }

    /// Assigns every partition to a member: as many to each, give or take one, and as few moved as
    /// possible. `load` is what a member has to do elsewhere, for a choice between equals.
    pub(super) fn assign(&mut self, load: impl Fn(usize) -> usize) {
        let mut mine = vec![0usize; self.members.len()];
        let place = |member: usize| self.members.iter().position(|m| *m == member);
        let mut places: Vec<Option<usize>> =
            self.shares.iter().map(|share| share.assigned.and_then(place)).collect();
        places.iter().flatten().for_each(|place| mine[*place] += 1);

        let least = |mine: &[usize]| {
            (0..mine.len()).min_by_key(|place| (mine[*place], load(self.members[*place])))
        };
        for place in places.iter_mut().filter(|place| place.is_none()) {
            let Some(to) = least(&mine) else { break };
            (*place, mine[to]) = (Some(to), mine[to] + 1);
        }
        while let (Some(to), Some(most)) = (least(&mine), mine.iter().max().copied()) {
            if most - mine[to] <= 1 {
                break;
            }
            let Some(moved) = places.iter_mut().find(|p| p.is_some_and(|p| mine[p] == most)) else {
                break;
            };
            if let Some(from) = moved.replace(to) {
                mine[from] -= 1;
                mine[to] += 1;
            }
        }
        for (share, place) in self.shares.iter_mut().zip(places) {
            share.assigned = place.map(|place| self.members[place]);
        }
    }
}

impl Share {
    fn new(start: u64) -> Self {
        Self {
            unsettled: Watermark::new(start),
            returned: BTreeSet::new(),
            fresh: start,
            owner: None,
            assigned: None,
        }
    }

    /// Everything below it is settled.
    pub(super) fn position(&self) -> u64 {
        self.unsettled.position()
    }

    /// How many messages members have in hand.
    pub(super) fn in_hand(&self) -> usize {
        self.unsettled.unsettled() - self.returned.len()
    }

    /// How many messages of the log are not settled.
    fn lag(&self, log: &Log) -> u64 {
        log.end().saturating_sub(self.fresh) + self.unsettled.unsettled() as u64
    }

    /// How many messages [`Share::take`] could hand out, at most.
    pub(super) fn ready(&self, log: &Log) -> usize {
        let fresh = log.end().saturating_sub(self.fresh);
        usize::try_from(fresh).unwrap_or(usize::MAX).saturating_add(self.returned.len())
    }

    /// Hands out up to `max` messages to a source: what was returned first, in the order of the
    /// offsets. `give` gets offset, message and redeliveries.
    pub(super) fn take(
        &mut self,
        log: &Log,
        source: usize,
        max: usize,
        mut give: impl FnMut(u64, &Message, u32),
    ) {
        let mut room = max;
        while room > 0
            && let Some(offset) = self.returned.pop_first()
        {
            // The log keeps what is not settled, so the message is there.
            match (log.get(offset), self.unsettled.get_mut(offset)) {
                (Some(message), Some(hold)) => {
                    hold.by = Some(source);
                    give(offset, message, hold.redeliveries);
                    room -= 1;
                }
                _ => drop(self.unsettled.settle(offset)),
            }
        }
        for (offset, message) in log.from(self.fresh).take(room) {
            self.unsettled.track(offset, Hold { by: Some(source), redeliveries: 0 });
            self.fresh = offset + 1;
            give(offset, message, 0);
        }
    }

    /// Settles an offset; `false` if the source does not have it in hand.
    pub(super) fn settle(&mut self, offset: u64, source: usize) -> bool {
        let hold = self.unsettled.get_mut(offset);
        hold.is_some_and(|hold| hold.by == Some(source)) && self.unsettled.settle(offset).is_some()
    }

    /// Takes an offset back, to be handed out again; `false` if the source does not have it in hand.
    pub(super) fn give_back(&mut self, offset: u64, source: usize) -> bool {
        let Some(hold) = self.unsettled.get_mut(offset) else { return false };
        if hold.by.take_if(|by| *by == source).is_none() {
            return false;
        }
        hold.redeliveries = hold.redeliveries.saturating_add(1);
        self.returned.insert(offset)
    }

    /// Takes everything back that a source has in hand.
    pub(super) fn give_all_back(&mut self, source: usize) {
        for (offset, hold) in self.unsettled.iter_mut() {
            if hold.by.take_if(|by| *by == source).is_some() {
                hold.redeliveries = hold.redeliveries.saturating_add(1);
                self.returned.insert(offset);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn partitions_are_shared_evenly_and_moved_no_more_than_needed(
            partitions in 1usize..40,
            // Each step: whether a member joins, and else which one leaves.
            steps in proptest::collection::vec((any::<bool>(), any::<usize>()), 1..30),
        ) {
            let logs: Vec<Log> = (0..partitions).map(|_| Log::new(false)).collect();
            let mut group = Group::new(&GroupSpec::new(Name::new("g")), &logs);
            for (n, (joins, which)) in steps.into_iter().enumerate() {
                let before: Vec<_> = group.shares.iter().map(|share| share.assigned).collect();
                let members = group.members.len();
                if joins || members == 0 {
                    group.members.push(n);
                } else {
                    group.members.remove(which % members);
                }
                group.assign(|_| 0);
                let has = |m: usize| group.shares.iter().filter(|s| s.assigned == Some(m)).count();
                let loads: Vec<usize> = group.members.iter().map(|m| has(*m)).collect();
                let (least, most) = (loads.iter().min(), loads.iter().max());
                if let (Some(least), Some(most)) = (least, most) {
                    prop_assert!(most - least <= 1, "{loads:?}");
                    prop_assert_eq!(loads.iter().sum::<usize>(), partitions);
                }
                // Moved from one present member to another: only to a member that just joined.
                for (share, before) in group.shares.iter().zip(before) {
                    let stayed = before.is_some_and(|before| group.members.contains(&before));
                    if stayed && share.assigned != before {
                        prop_assert_eq!(share.assigned, Some(n));
                    }
                }
            }
        }
    }

    #[test]
    fn between_equals_the_member_with_less_to_do_elsewhere_gets_the_partition() {
        let mut group = Group::new(&GroupSpec::new(Name::new("g")), &[Log::new(false)]);
        group.members = vec![0, 1];
        group.assign(|member| usize::from(member == 0));
        assert_eq!(group.shares[0].assigned, Some(1));
    }
}

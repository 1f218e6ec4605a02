//! Sources, and how members of a group share its partitions.

use std::sync::Arc;
use std::task::{Poll, Waker};

use super::lease::Lease;
use super::server::After;
use super::state::{State, unknown_topic};
use crate::backend::{Order, Settle, Subscribe};
use crate::delivery::{Delivery, Received};
use crate::error::Result;
use crate::name::Name;

/// The broker's side of a source.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) connection: u64,
    /// What it consumes, the first topic of several.
    pub(super) topic: Name,
    /// Its group; `None` for a reading.
    pub(super) group: Option<Name>,
    /// The task that waits for something to come.
    pub(super) waker: Option<Waker>,
    pub(super) ended: Option<Ended>,
    /// The topic that it reads without a group.
    reading: Option<usize>,
    /// The groups that it is a member of: topic and group.
    joined: Vec<(usize, usize)>,
    leases: Vec<Arc<Lease>>,
    /// Where among the leases it looks first, so that all get their turn.
    turn: usize,
    prefetch: usize,
    in_hand: usize,
    /// It waits because it has as much in hand as it may.
    full: bool,
}

/// Why a source gives nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It, or its connection, was closed.
    Closed,
    /// This topic was deleted.
    Deleted(Name),
}

impl Seat {
    fn new(connection: u64, topic: Name) -> Self {
        Self {
            connection,
            topic,
            group: None,
            waker: None,
            ended: None,
            reading: None,
            joined: Vec::new(),
            leases: Vec::new(),
            turn: 0,
            prefetch: 0,
            in_hand: 0,
            full: false,
        }
    }

    /// What the source has to say once it has ended: why, if it did not end in peace.
    pub(super) fn end_of<T>(&self) -> Option<Result<Option<T>>> {
        match self.ended? {
            Ended::Closed => Some(Ok(None)),
            Ended::Deleted(topic) => Some(Err(unknown_topic(topic, "consume"))),
        }
    }

    /// Keeps the waker of the task that waits now.
    pub(super) fn sleep(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn put_down(&mut self, after: &mut After) {
        self.in_hand -= 1;
        if std::mem::take(&mut self.full) {
            after.wake(&mut self.waker);
        }
    }
}

impl State {
    /// Joins a group and returns the seat.
    pub(super) fn join(
        &mut self,
        connection: u64,
        subscribe: &Subscribe,
        after: &mut After,
    ) -> Result<usize> {
        let mut topics = subscribe.topics.clone();
        topics.sort_unstable();
        topics.dedup();
        // All or none: a group is declared only once it is known that nothing is wrong.
        for topic in &topics {
            let place = self.find(*topic, "subscribe")?;
            let topic = &self.topics[place];
            if let Some(group) = topic.group_named(subscribe.group.name) {
                topic.groups[group].check(topic.name, subscribe.group.order, "subscribe")?;
            }
        }
        let mut joined = Vec::with_capacity(topics.len());
        for topic in &topics {
            joined.push(self.declare(*topic, &subscribe.group, "subscribe")?);
        }
        let topic = subscribe.topics.first().copied().unwrap_or(subscribe.group.name);
        let mut seat = Seat::new(connection, topic);
        seat.group = Some(subscribe.group.name);
        seat.prefetch = subscribe.prefetch.max(1);
        seat.joined.clone_from(&joined);
        let source = self.seats.insert(seat);
        for (topic, group) in joined {
            self.topics[topic].groups[group].members.push(source);
            match subscribe.group.order {
                Order::Key => self.rebalance(topic, group, after),
                Order::None => {
                    for partition in 0..self.topics[topic].logs.len() {
                        self.lease(source, (topic, group, partition), after);
                    }
                }
            }
        }
        Ok(source)
    }

    /// Begins to read a topic without a group and returns the seat.
    pub(super) fn read(&mut self, connection: u64, topic: usize) -> usize {
        let mut seat = Seat::new(connection, self.topics[topic].name);
        seat.reading = Some(topic);
        let source = self.seats.insert(seat);
        self.topics[topic].readers.push(source);
        source
    }

    /// Ends a source: it leaves its groups, what it has in hand is handed back.
    pub(super) fn end(&mut self, source: usize, why: Ended, after: &mut After) {
        let seat = &mut self.seats[source];
        if seat.ended.replace(why).is_some() {
            return;
        }
        seat.in_hand = 0;
        after.wake(&mut seat.waker);
        if let Some(topic) = seat.reading.take() {
            self.topics[topic].readers.retain(|reader| *reader != source);
        }
        let joined = std::mem::take(&mut seat.joined);
        for lease in std::mem::take(&mut seat.leases) {
            lease.end();
            let share = &mut self.topics[lease.topic].groups[lease.group].shares[lease.partition];
            share.give_all_back(source);
            share.owner.take_if(|owner| owner.source == source);
        }
        for (topic, group) in joined {
            let found = &mut self.topics[topic].groups[group];
            found.members.retain(|member| *member != source);
            match found.order {
                Order::Key => self.rebalance(topic, group, after),
                Order::None => self.wake_members(topic, group, after),
            }
        }
    }

    /// Ends a source whose owner has dropped it, and forgets it.
    pub(super) fn remove(&mut self, source: usize, after: &mut After) {
        self.end(source, Ended::Closed, after);
        self.seats.remove(source);
    }

    /// The next deliveries of a member.
    pub(super) fn next(
        &mut self,
        source: usize,
        max: usize,
        waker: &Waker,
    ) -> Poll<Result<Option<Vec<Delivery>>>> {
        let seat = &mut self.seats[source];
        if let Some(end) = seat.end_of() {
            return Poll::Ready(end);
        }
        let room = max.max(1).min(seat.prefetch.saturating_sub(seat.in_hand));
        let mut batch = Vec::new();
        let leases = seat.leases.len();
        for _ in 0..leases {
            if batch.len() == room {
                break;
            }
            let lease = &seat.leases[seat.turn % leases];
            seat.turn = (seat.turn + 1) % leases;
            if !lease.is_live() {
                continue;
            }
            let topic = &mut self.topics[lease.topic];
            let log = &topic.logs[lease.partition];
            let share = &mut topic.groups[lease.group].shares[lease.partition];
            let name = topic.name;
            let wanted = share.ready(log).min(room - batch.len());
            batch.reserve(wanted);
            share.take(log, source, wanted, |offset, message, redeliveries| {
                let received = Received {
                    message: message.clone(),
                    topic: name,
                    partition: lease.partition as u32,
                    offset: Some(offset),
                    redeliveries: Some(redeliveries),
                };
                batch.push(Delivery::new(received, lease.clone() as Arc<dyn Settle>, offset));
            });
        }
        if batch.is_empty() {
            seat.full = room == 0;
            seat.sleep(waker);
            return Poll::Pending;
        }
        seat.in_hand += batch.len();
        Poll::Ready(Ok(Some(batch)))
    }

    pub(super) fn settle(&mut self, lease: &Lease, offset: u64, after: &mut After) {
        if lease.has_ended() {
            return;
        }
        let share = &mut self.topics[lease.topic].groups[lease.group].shares[lease.partition];
        let before = share.position();
        if !share.settle(offset, lease.source) {
            return;
        }
        let moved = share.position() != before;
        self.put_down(lease, after);
        if moved {
            self.reclaim(lease.topic, lease.partition, after);
        }
    }

    pub(super) fn requeue(&mut self, lease: &Lease, offset: u64, after: &mut After) {
        if lease.has_ended() {
            return;
        }
        let group = &mut self.topics[lease.topic].groups[lease.group];
        if !group.shares[lease.partition].give_back(offset, lease.source) {
            return;
        }
        match group.order {
            Order::Key => after.wake(&mut self.seats[lease.source].waker),
            Order::None => self.wake_members(lease.topic, lease.group, after),
        }
        self.put_down(lease, after);
    }

    /// A member has one message less in hand.
    fn put_down(&mut self, lease: &Lease, after: &mut After) {
        self.seats[lease.source].put_down(after);
        if !lease.is_live() {
            self.hand_over((lease.topic, lease.group, lease.partition), after);
        }
    }

    fn wake_members(&mut self, topic: usize, group: usize, after: &mut After) {
        for member in &self.topics[topic].groups[group].members {
            after.wake(&mut self.seats[*member].waker);
        }
    }

    /// Assigns the partitions to the members there are, and moves those that can move at once.
    pub(super) fn rebalance(&mut self, topic: usize, group: usize, after: &mut After) {
        let found = &mut self.topics[topic].groups[group];
        found.assign(|member| self.seats[member].leases.len());
        for partition in 0..found.shares.len() {
            self.hand_over((topic, group, partition), after);
        }
    }

    /// Gives a partition to whom it is assigned, unless somebody else has messages of it in hand:
    /// then that member is to stop, and this is called again when it has none left. So the
    /// messages of a key are never in two hands.
    fn hand_over(&mut self, place: (usize, usize, usize), after: &mut After) {
        let (topic, group, partition) = place;
        let share = &mut self.topics[topic].groups[group].shares[partition];
        if let Some(owner) = &share.owner {
            if share.assigned == Some(owner.source) {
                if !owner.is_live() {
                    owner.resume();
                    after.wake(&mut self.seats[owner.source].waker);
                }
                return;
            }
            owner.stop();
            if share.in_hand() > 0 {
                return;
            }
            owner.end();
            self.seats[owner.source].leases.retain(|lease| !Arc::ptr_eq(lease, owner));
            share.owner = None;
        }
        if let Some(source) = share.assigned {
            let lease = self.lease(source, place, after);
            self.topics[topic].groups[group].shares[partition].owner = lease;
        }
    }

    /// Lets a member work on a partition.
    pub(super) fn lease(
        &mut self,
        source: usize,
        place: (usize, usize, usize),
        after: &mut After,
    ) -> Option<Arc<Lease>> {
        // It is there: whoever got here holds it.
        let server = self.server.upgrade()?;
        let lease = Lease::new(server, source, place);
        let seat = &mut self.seats[source];
        seat.leases.push(lease.clone());
        after.wake(&mut seat.waker);
        Some(lease)
    }
}

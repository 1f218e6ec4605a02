//! Publishing, and the room there is for it.

use tokio::time::Instant;

use super::connection::Connection;
use super::log::cost;
use super::server::{After, Published};
use super::state::State;
use crate::backend::{Order, Outgoing, Receipt};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::Name;

/// A message that waits for room.
#[derive(Debug)]
pub(super) struct Waiting {
    connection: u64,
    outgoing: Outgoing,
}

impl State {
    pub(super) fn publish(&mut self, outgoing: Outgoing, after: &mut After) -> Published {
        let (topic, cost) = match self.check(&outgoing) {
            Ok(fine) => fine,
            Err(error) => return Published::Answered(outgoing.confirm, Err(error)),
        };
        // Nobody goes before one that waits, so the order of the calls is kept.
        if !self.waiting.is_empty() || !self.make_room(cost) {
            return Published::Full(outgoing);
        }
        let Outgoing { partition, message, confirm, .. } = outgoing;
        Published::Answered(confirm, Ok(self.append(topic, partition, message, after)))
    }

    /// Lets a message wait behind the others.
    pub(super) fn wait(&mut self, connection: &Connection, outgoing: Outgoing, after: &mut After) {
        // It may have been closed since it was asked last; then nobody would answer.
        if let Err(error) = connection.check_open("publish") {
            return after.answer(outgoing.confirm, Err(error.with("topic", outgoing.topic)));
        }
        // There may be room by now, as the lock was released.
        match self.publish(outgoing, after) {
            Published::Answered(confirm, answer) => after.answer(confirm, answer),
            Published::Full(outgoing) => {
                self.waiting.push_back(Waiting { connection: connection.number(), outgoing });
            }
        }
    }

    /// Stores the waiting messages for which there is room, and refuses those that became wrong.
    /// There is nothing left to drop while somebody waits, so none of it is searched for.
    pub(super) fn admit(&mut self, after: &mut After) {
        while let Some(first) = self.waiting.front() {
            let checked = self.check(&first.outgoing);
            if matches!(checked, Ok((_, cost)) if self.kept + cost > self.limit) {
                break;
            }
            let Some(Waiting { outgoing, .. }) = self.waiting.pop_front() else { break };
            let Outgoing { partition, message, confirm, .. } = outgoing;
            let answer = checked.map(|(topic, _)| self.append(topic, partition, message, after));
            after.answer(confirm, answer);
        }
    }

    /// Answers the waiting messages whose deadline has passed, and sets the alarm for the next.
    pub(super) fn expire(&mut self, now: Instant, after: &mut After) {
        let full = self.why_full();
        self.refuse(
            after,
            |waiting| waiting.outgoing.deadline <= now,
            || {
                let text = format!("no room within the time limit: {full}");
                Error::new(ErrorKind::Timeout, "publish", text).transient()
            },
        );
        self.alarm = self.waiting.iter().map(|waiting| waiting.outgoing.deadline).min();
    }

    /// Answers the waiting messages of a connection that is closed.
    pub(super) fn refuse_all(&mut self, connection: u64, after: &mut After) {
        self.refuse(
            after,
            |waiting| waiting.connection == connection,
            || {
                Error::new(
                    ErrorKind::Closed,
                    "publish",
                    "the broker was closed before there was room",
                )
            },
        );
    }

    fn refuse(
        &mut self,
        after: &mut After,
        which: impl Fn(&Waiting) -> bool,
        why: impl Fn() -> Error,
    ) {
        if !self.waiting.iter().any(&which) {
            return;
        }
        for waiting in std::mem::take(&mut self.waiting) {
            if which(&waiting) {
                let Outgoing { topic, confirm, .. } = waiting.outgoing;
                after.answer(confirm, Err(why().with("topic", topic)));
            } else {
                self.waiting.push_back(waiting);
            }
        }
        // A smaller one may stand in front now.
        self.admit(after);
    }

    /// Frees what a group has just settled of a partition for those that wait.
    pub(super) fn reclaim(&mut self, topic: usize, partition: usize, after: &mut After) {
        self.tidy(topic, partition);
        if self.waiting.is_empty() {
            return;
        }
        // There was nothing left to drop anywhere before this.
        let found = &mut self.topics[topic];
        let floor = found.floor(partition);
        self.kept -= found.logs[partition].drop_oldest(floor, usize::MAX);
        self.admit(after);
    }

    /// Whether the message may be stored; its topic and what it costs.
    fn check(&self, outgoing: &Outgoing) -> Result<(usize, usize)> {
        let topic = self.find(outgoing.topic, "publish")?;
        self.topics[topic].check(&outgoing.message, outgoing.partition)?;
        let cost = cost(&outgoing.message);
        if cost > self.limit {
            let text =
                format!("message in bytes: {cost}, the in-memory broker keeps {}", self.limit);
            let error = Error::new(ErrorKind::TooLarge, "publish", text);
            return Err(error.with("topic", outgoing.topic));
        }
        Ok((topic, cost))
    }

    fn append(
        &mut self,
        place: usize,
        partition: Option<u32>,
        message: Message,
        after: &mut After,
    ) -> Receipt {
        let now = self.now(place);
        let topic = &mut self.topics[place];
        let partition = partition.unwrap_or_else(|| topic.partition_of(&message));
        let at = partition as usize;
        self.kept += cost(&message);
        let offset = topic.logs[at].append(message, now);
        self.kept -= topic.tidy(at, now);
        for group in &topic.groups {
            match (group.order, &group.shares[at].owner) {
                (Order::Key, Some(owner)) => after.wake(&mut self.seats[owner.source].waker),
                (Order::Key, None) => {}
                // All of them: one alone might be given up before it has looked.
                (Order::None, _) => group.members.iter().for_each(|member| {
                    after.wake(&mut self.seats[*member].waker);
                }),
            }
        }
        topic.readers.iter().for_each(|reader| after.wake(&mut self.seats[*reader].waker));
        Receipt { partition, offset: Some(offset) }
    }

    /// Makes room for this many bytes by dropping what every group has settled, the oldest of the
    /// largest partition first. `false` if that is not enough.
    fn make_room(&mut self, cost: usize) -> bool {
        while self.kept + cost > self.limit {
            let Some((topic, partition, floor)) = self.largest() else { return false };
            // More than is needed now, so that the search is not made for every message.
            let wanted = cost.max(self.limit / 64);
            self.kept -= self.topics[topic].logs[partition].drop_oldest(floor, wanted);
        }
        true
    }

    /// The largest partition that something can be dropped of, with its floor.
    fn largest(&self) -> Option<(usize, usize, u64)> {
        let mut largest = None;
        let mut most = 0;
        for (place, topic) in &self.topics {
            for (partition, log) in topic.logs.iter().enumerate() {
                if log.bytes() <= most {
                    continue;
                }
                let floor = topic.floor(partition);
                if log.can_drop(floor) {
                    (largest, most) = (Some((place, partition, floor)), log.bytes());
                }
            }
        }
        largest
    }

    /// Why there is no room, in words; for whoever has to find the consumer that stands still.
    pub(super) fn why_full(&self) -> String {
        let mut slowest: Option<(u64, Name, Name)> = None;
        for (_, topic) in &self.topics {
            for group in &topic.groups {
                let lag = group.lag(&topic.logs);
                if lag > slowest.map_or(0, |(most, ..)| most) {
                    slowest = Some((lag, group.name, topic.name));
                }
            }
        }
        let Self { kept, limit, .. } = self;
        let full = format!("the in-memory broker is full ({kept} of {limit} bytes)");
        match slowest {
            Some((lag, group, topic)) => {
                format!("{full}; most waits for group {group} of topic {topic}: {lag} messages")
            }
            None => full,
        }
    }
}

//! Everything that the broker knows: its topics.

use std::collections::{HashMap, VecDeque};
use std::sync::Weak;
use std::time::Instant as StdInstant;

use foldhash::fast::RandomState;
use slab::Slab;
use tokio::time::Instant;

use super::group::Group;
use super::membership::{Ended, Seat};
use super::room::Waiting;
use super::server::{After, Server};
use super::topic::Topic;
use crate::backend::{GroupSpec, Order};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::spec::TopicSpec;

/// The state of a [`Server`]. Topics (here), memberships and room have a file each.
#[derive(Debug)]
pub(super) struct State {
    /// For leases, which settle through it.
    pub(super) server: Weak<Server>,
    names: HashMap<Name, usize, RandomState>,
    pub(super) topics: Slab<Topic>,
    /// All sources; a place is used again only after its source and its leases are gone.
    pub(super) seats: Slab<Seat>,
    /// How many bytes the logs may hold together, and hold.
    pub(super) limit: usize,
    pub(super) kept: usize,
    /// Messages that found no room, in the order they came.
    pub(super) waiting: VecDeque<Waiting>,
    /// When the timer looks for expired ones next; `None` if it does not run.
    pub(super) alarm: Option<Instant>,
    connections: u64,
    started: StdInstant,
}

impl State {
    pub(super) fn new(server: Weak<Server>, limit: usize) -> Self {
        Self {
            server,
            names: HashMap::default(),
            topics: Slab::new(),
            seats: Slab::new(),
            limit,
            kept: 0,
            waiting: VecDeque::new(),
            alarm: None,
            connections: 0,
            started: StdInstant::now(),
        }
    }

    /// A number that no connection had before.
    pub(super) fn next_connection(&mut self) -> u64 {
        self.connections += 1;
        self.connections
    }

    /// Milliseconds since the start, which unlike the time of day never go back; zero for a topic
    /// that does not ask, because the clock is not free.
    pub(super) fn now(&self, topic: usize) -> u64 {
        match self.topics[topic].is_timed() {
            true => u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            false => 0,
        }
    }

    /// The place of a topic.
    pub(super) fn find(&self, topic: Name, operation: &'static str) -> Result<usize> {
        self.names.get(&topic).copied().ok_or_else(|| unknown_topic(topic, operation))
    }

    pub(super) fn create_topic(&mut self, spec: &TopicSpec) -> Result<()> {
        if self.names.contains_key(&spec.name) {
            let error = Error::new(ErrorKind::TopicExists, "create_topic", "the topic exists");
            return Err(error.with("topic", spec.name));
        }
        let topic = Topic::new(spec)?;
        self.names.insert(spec.name, self.topics.insert(topic));
        Ok(())
    }

    pub(super) fn add_partitions(
        &mut self,
        name: Name,
        total: u32,
        after: &mut After,
    ) -> Result<()> {
        let place = self.find(name, "add_partitions")?;
        let topic = &mut self.topics[place];
        let old = topic.logs.len();
        topic.add_partitions(total)?;
        for group in 0..topic.groups.len() {
            self.share_out(place, group, old, after);
        }
        // A reading that follows begins to read the new ones when it is asked next.
        Ok(())
    }

    pub(super) fn delete_topic(&mut self, name: Name, after: &mut After) -> Result<()> {
        let place = self.find(name, "delete_topic")?;
        let topic = &self.topics[place];
        let members = topic.groups.iter().flat_map(|group| &group.members);
        let sources: Vec<usize> = members.chain(&topic.readers).copied().collect();
        for source in sources {
            self.end(source, Ended::Deleted(name), after);
        }
        self.names.remove(&name);
        let topic = self.topics.remove(place);
        self.kept -= topic.logs.iter().map(|log| log.bytes()).sum::<usize>();
        self.admit(after);
        Ok(())
    }

    /// The place of a group in its topic, which is declared if it does not exist.
    pub(super) fn declare(
        &mut self,
        topic: Name,
        spec: &GroupSpec,
        operation: &'static str,
    ) -> Result<(usize, usize)> {
        let place = self.find(topic, operation)?;
        self.tidy_all(place);
        let topic = &mut self.topics[place];
        if let Some(group) = topic.group_named(spec.name) {
            topic.groups[group].check(topic.name, spec.order, operation)?;
            return Ok((place, group));
        }
        let group = Group::new(spec, &topic.logs);
        topic.groups.push(group);
        Ok((place, topic.groups.len() - 1))
    }

    /// Drops what the topic's compaction and retention do not keep any more of a partition.
    pub(super) fn tidy(&mut self, topic: usize, partition: usize) {
        let now = self.now(topic);
        self.kept -= self.topics[topic].tidy(partition, now);
    }

    /// The same of all partitions, for whoever begins to read.
    pub(super) fn tidy_all(&mut self, topic: usize) {
        for partition in 0..self.topics[topic].logs.len() {
            self.tidy(topic, partition);
        }
    }

    /// Gives the partitions from `first` on, and those that have to move, to members.
    fn share_out(&mut self, topic: usize, group: usize, first: usize, after: &mut After) {
        match self.topics[topic].groups[group].order {
            Order::Key => self.rebalance(topic, group, after),
            Order::None => {
                for source in self.topics[topic].groups[group].members.clone() {
                    for partition in first..self.topics[topic].logs.len() {
                        self.lease(source, (topic, group, partition), after);
                    }
                }
            }
        }
    }
}

pub(super) fn unknown_topic(topic: Name, operation: &'static str) -> Error {
    let error = Error::new(ErrorKind::UnknownTopic, operation, "the topic does not exist");
    error.with("topic", topic)
}

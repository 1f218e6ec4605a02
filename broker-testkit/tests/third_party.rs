//! A stranger's backend, and the suite run on it in ten lines: what it takes to join the family.
//!
//! The broker is a queue in this process. It keeps nothing that no group waits for, and says so by
//! the capabilities that it lacks.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker_api::{
    Backend, Capabilities, Capability, Connection, ConsumerHealth, DEFAULT_MAX_MESSAGE_BYTES,
    DEFAULT_PARTITIONS, Delivery, Error, ErrorKind, GroupSpec, Health, Message, Name, Outgoing,
    Receipt, Received, Result, Settle, Settlement, Source, Subscribe, TopicDescription, TopicSpec,
    async_trait, limits, partition_for_key,
};
use broker_testkit::conformance::{self, Fixture};
use tokio::sync::Notify;

fn main() -> ExitCode {
    conformance::run("third-party", || async {
        let office = Arc::new(PostOffice::default());
        Ok(Fixture::new(move || {
            let counter = Counter::at(office.clone());
            async { Ok(counter) }
        }))
    })
}

/// What the broker is: one lock over everything, and a bell for whoever waits.
#[derive(Default)]
struct PostOffice {
    state: Mutex<State>,
    bell: Notify,
}

#[derive(Default)]
struct State {
    ids: u64,
    topics: HashMap<Name, Topic>,
    members: HashMap<u64, Member>,
    closed: Vec<u64>,
}

struct Topic {
    description: TopicDescription,
    groups: HashMap<Name, Vec<Queue>>,
    next: Vec<u64>,
}

/// The messages of one group in one partition, by their position.
#[derive(Default)]
struct Queue {
    waiting: BTreeMap<u64, (Message, u32)>,
    /// Who holds messages of it, which nobody else gets meanwhile: that is what keeps the order.
    holder: Option<u64>,
}

struct Member {
    counter: u64,
    subscribe: Subscribe,
    held: HashMap<u64, (Received, u64)>,
}

/// A connection.
struct Counter {
    office: Arc<PostOffice>,
    id: u64,
}

impl PostOffice {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a delivery back; `requeued` is what becomes of it.
    fn settle(&self, member: u64, token: u64, requeued: bool) {
        let mut state = self.state();
        let Some(held) = state.members.get_mut(&member) else { return };
        let group = held.subscribe.group.name;
        let Some((received, position)) = held.held.remove(&token) else { return };
        let same = |(r, _): &&(Received, u64)| {
            (r.topic, r.partition) == (received.topic, received.partition)
        };
        let more = held.held.values().any(|held| same(&held));
        let queues = state.topics.get_mut(&received.topic).and_then(|t| t.groups.get_mut(&group));
        let Some(queue) = queues.and_then(|q| q.get_mut(received.partition as usize)) else {
            return;
        };
        if requeued {
            let again = (received.message, received.redeliveries.unwrap_or(0) + 1);
            queue.waiting.insert(position, again);
        }
        queue.holder = more.then_some(member);
        self.bell.notify_waiters();
    }

    fn leave(&self, member: u64) {
        let held: Vec<u64> = self
            .state()
            .members
            .get(&member)
            .into_iter()
            .flat_map(|m| m.held.keys().copied())
            .collect();
        held.into_iter().for_each(|token| self.settle(member, token, true));
        self.state().members.remove(&member);
    }
}

impl State {
    fn topic(&mut self, topic: Name, operation: &'static str) -> Result<&mut Topic> {
        self.topics.get_mut(&topic).ok_or_else(|| {
            Error::new(ErrorKind::UnknownTopic, operation, "no such topic").with("topic", topic)
        })
    }

    fn new_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    fn accept(&mut self, topic: Name, partition: Option<u32>, message: Message) -> Result<Receipt> {
        let topic = self.topic(topic, "publish")?;
        let refuse = |kind, why| Err(Error::new(kind, "publish", why));
        limits::check_size(&message, topic.description.max_message_bytes.unwrap_or(usize::MAX))?;
        let partitions = topic.description.partitions;
        let partition = partition.unwrap_or_else(|| {
            partition_for_key(message.key().map_or(&[], |key| key.as_ref()), partitions)
        });
        if partition >= partitions {
            return refuse(ErrorKind::Invalid, "no such partition");
        }
        if topic.groups.is_empty() {
            return refuse(ErrorKind::Unroutable, "the topic has no group");
        }
        let offset = topic.next[partition as usize];
        topic.next[partition as usize] += 1;
        for queues in topic.groups.values_mut() {
            queues[partition as usize].waiting.insert(offset, (message.clone(), 0));
        }
        Ok(Receipt { partition, offset: Some(offset) })
    }

    /// What a member may have now.
    fn hand_out(&mut self, id: u64, max: usize) -> Result<Vec<(Received, u64)>> {
        let mut out = Vec::new();
        let member = &self.members[&id];
        let (held, subscribe) = (member.held.len(), member.subscribe.clone());
        let room = max.min(subscribe.prefetch - held);
        // One of each queue in turn, so that a long one does not keep the others waiting.
        loop {
            let before = out.len();
            for name in &subscribe.topics {
                let topic = self.topic(*name, "consume")?;
                let queues = topic.groups.entry(subscribe.group.name).or_default();
                for (partition, queue) in (0..).zip(queues) {
                    if out.len() == room || queue.holder.is_some_and(|holder| holder != id) {
                        continue;
                    }
                    let Some((offset, (message, times))) = queue.waiting.pop_first() else {
                        continue;
                    };
                    queue.holder = Some(id);
                    let (topic, redeliveries) = (*name, Some(times));
                    let received =
                        Received { message, topic, partition, offset: Some(offset), redeliveries };
                    out.push((received, offset));
                }
            }
            if out.len() == before {
                break;
            }
        }
        Ok(out)
    }
}

impl Counter {
    fn at(office: Arc<PostOffice>) -> Self {
        let id = office.state().new_id();
        Self { office, id }
    }
}

#[async_trait]
impl Backend for Counter {
    fn system(&self) -> &'static str {
        "post-office"
    }

    fn capabilities(&self, _: Name) -> Capabilities {
        use Capability::*;
        let lacks = [
            Replay,
            StartPosition,
            Balance,
            Revocation,
            Compaction,
            AddPartitions,
            Lag,
            Transactions,
        ];
        lacks
            .into_iter()
            .fold(Capabilities::all(), |c, lack| c.without(lack, "a post office only forwards"))
    }

    fn publish(&self, outgoing: Outgoing) {
        let Outgoing { topic, partition, message, confirm, .. } = outgoing;
        let accepted = self.office.state().accept(topic, partition, message);
        self.office.bell.notify_waiters();
        confirm.done(accepted);
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Source>> {
        for topic in &subscribe.topics {
            self.declare_group(*topic, &subscribe.group).await?;
        }
        let mut state = self.office.state();
        let id = state.new_id();
        state.members.insert(id, Member { counter: self.id, subscribe, held: HashMap::new() });
        Ok(Box::new(Postbox { office: self.office.clone(), counter: self.id, id }))
    }

    async fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        let refuse =
            |kind, why| Err(Error::new(kind, "create_topic", why).with("topic", spec.name));
        let partitions = spec.partitions.unwrap_or(DEFAULT_PARTITIONS);
        let mut state = self.office.state();
        if partitions == 0 {
            return refuse(ErrorKind::Invalid, "a topic has at least one partition");
        }
        if spec.compacted || spec.retention.is_some() || spec.retention_bytes.is_some() {
            return refuse(ErrorKind::Unsupported, "a post office only forwards");
        }
        if state.topics.contains_key(&spec.name) {
            return refuse(ErrorKind::TopicExists, "it exists already");
        }
        let mut description = TopicDescription::new(spec.name, partitions);
        description.max_message_bytes =
            Some(spec.max_message_bytes.unwrap_or(DEFAULT_MAX_MESSAGE_BYTES));
        let topic =
            Topic { description, groups: HashMap::new(), next: vec![0; partitions as usize] };
        state.topics.insert(spec.name, topic);
        Ok(())
    }

    async fn describe_topic(&self, topic: Name) -> Result<TopicDescription> {
        Ok(self.office.state().topic(topic, "describe_topic")?.description)
    }

    async fn delete_topic(&self, topic: Name) -> Result<()> {
        self.office.state().topic(topic, "delete_topic")?;
        self.office.state().topics.remove(&topic);
        self.office.bell.notify_waiters();
        Ok(())
    }

    async fn declare_group(&self, topic: Name, group: &GroupSpec) -> Result<()> {
        let mut state = self.office.state();
        let topic = state.topic(topic, "declare_group")?;
        let partitions = 0..topic.description.partitions;
        topic
            .groups
            .entry(group.name)
            .or_insert_with(|| partitions.map(|_| Queue::default()).collect());
        Ok(())
    }

    fn health(&self) -> Health {
        let state = self.office.state();
        let mut health = Health::new(match state.closed.contains(&self.id) {
            true => Connection::Closed,
            false => Connection::Up,
        });
        for member in state.members.values().filter(|member| member.counter == self.id) {
            let topic = member.subscribe.topics[0];
            let problem =
                (!state.topics.contains_key(&topic)).then(|| "the topic is gone".to_owned());
            health.consumers.push(ConsumerHealth {
                topic,
                group: member.subscribe.group.name,
                problem,
            });
        }
        health
    }

    async fn close(&self) -> Result<()> {
        let members: Vec<u64> = {
            let mut state = self.office.state();
            state.closed.push(self.id);
            state.members.iter().filter(|(_, m)| m.counter == self.id).map(|(id, _)| *id).collect()
        };
        members.into_iter().for_each(|member| self.office.leave(member));
        self.office.bell.notify_waiters();
        Ok(())
    }
}

/// A membership in a group.
struct Postbox {
    office: Arc<PostOffice>,
    counter: u64,
    id: u64,
}

#[async_trait]
impl Source for Postbox {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        loop {
            let rung = self.office.bell.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            {
                let mut state = self.office.state();
                if state.closed.contains(&self.counter) {
                    return Ok(None);
                }
                let out = state.hand_out(self.id, max)?;
                let settle: Arc<dyn Settle> =
                    Arc::new(Slip { office: self.office.clone(), member: self.id });
                let mut deliveries = Vec::new();
                for (received, position) in out {
                    let token = state.new_id();
                    if let Some(member) = state.members.get_mut(&self.id) {
                        member.held.insert(token, (received.clone(), position));
                    }
                    deliveries.push(Delivery::new(received, settle.clone(), token));
                }
                if !deliveries.is_empty() {
                    return Ok(Some(deliveries));
                }
            }
            rung.await;
        }
    }

    async fn close(&mut self) -> Result<()> {
        self.office.leave(self.id);
        Ok(())
    }
}

impl Drop for Postbox {
    fn drop(&mut self) {
        self.office.leave(self.id);
    }
}

/// What settles the deliveries of a member.
struct Slip {
    office: Arc<PostOffice>,
    member: u64,
}

impl Settle for Slip {
    fn settle(&self, token: u64, _: Settlement) {
        self.office.settle(self.member, token, false);
    }

    fn requeue(&self, token: u64, _: Message) {
        self.office.settle(self.member, token, true);
    }

    fn is_live(&self, token: u64) -> bool {
        self.office.state().members.get(&self.member).is_some_and(|m| m.held.contains_key(&token))
    }
}

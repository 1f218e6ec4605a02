//! The task of one membership: it consumes, settles at the broker, comes back after an outage, and
//! leaves in order.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use broker_api::{ConsumerHealth, Error, ErrorKind, Name, Order, Result, Subscribe};
use futures_util::future::try_join_all;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::backend::Core;
use crate::consume::balance::priorities;
use crate::consume::ledger::{Delivered, Frame};
use crate::consume::session::Session;
use crate::consume::source::Shared;
use crate::link::Link;
use crate::properties::{self, Mark};
use crate::registry::Topic;
use crate::{error, names};

const OPERATION: &str = "subscribe";

/// How long what is settled behind a gap waits for the gap to close: one frame then says it all.
const GAP: Duration = Duration::from_millis(2);

/// How long to wait before consuming is tried again after an error.
const PAUSE: Duration = Duration::from_millis(200);

/// How many deliveries are taken in at a time, before the application gets its turn.
const BATCH: usize = 512;

/// Below every member's priority: a consumer that only makes the broker catch up.
const LAST: i32 = -1_000;

type Leaving = oneshot::Receiver<oneshot::Sender<Result<()>>>;

/// A member of a group.
pub(crate) struct Member {
    core: Arc<Core>,
    /// The shared connection; or one of its own, after somebody's message had ended the shared one.
    link: Link,
    alone: bool,
    id: u64,
    subscribe: Subscribe,
    /// The topics, and which ones of those names.
    topics: Vec<(Name, u64)>,
    shared: Arc<Shared>,
    health: u64,
}

/// A queue that is consumed.
struct Lane {
    topic: Name,
    /// `None` where the queue has all partitions.
    partition: Option<u32>,
    queue: ShortString,
    history: bool,
    consumer: Consumer,
    /// The mark at the end of a history.
    mark: Option<u64>,
    ended: bool,
}

/// Consuming on one channel.
struct Attached {
    channel: Channel,
    session: Arc<Session>,
    lanes: Vec<Lane>,
    prefetch: u16,
    /// Lanes whose consumer was ended by the broker, to be looked after.
    ended: Vec<usize>,
}

/// Why consuming on a channel ended.
enum End {
    Leave(Option<oneshot::Sender<Result<()>>>),
    /// The channel is gone.
    Lost(Error, bool),
    /// The topic has changed so that the channel has to be made anew.
    Again,
    Failed(Error),
}

impl Member {
    pub(crate) fn new(
        core: Arc<Core>,
        subscribe: Subscribe,
        topics: Vec<(Name, u64)>,
        shared: Arc<Shared>,
    ) -> Self {
        let first = ConsumerHealth {
            topic: subscribe.topics[0],
            group: subscribe.group.name,
            problem: Some("joining".into()),
        };
        let health = core.add_consumer(first);
        let link = core.consume.clone();
        let id = Uuid::now_v7().as_u64_pair().1;
        Self { core, link, alone: false, id, subscribe, topics, shared, health }
    }

    /// Consumes until it is to leave, or can never go on.
    pub(crate) async fn run(mut self, mut leaving: Leaving, joined: oneshot::Sender<Result<()>>) {
        let mut joined = Some(joined);
        let core = self.core.clone();
        let mut closing = core.closing.subscribe();
        let (error, answer) = loop {
            let attached = tokio::select! {
                biased;
                answer = &mut leaving => break (None, answer.ok()),
                _ = closing.wait_for(|closing| *closing) => break (None, None),
                attached = self.attach() => attached,
            };
            let mut attached = match attached {
                Ok(attached) => attached,
                Err(error) if joined.is_some() || error.is_permanent() => {
                    break (Some(error), None);
                }
                Err(error) => {
                    self.troubled(&error);
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            core.set_problem(self.health, None);
            self.shared.set_session(Some(attached.session.clone()));
            if let Some(joined) = joined.take() {
                let _ = joined.send(Ok(()));
            }
            let end = tokio::select! {
                biased;
                answer = &mut leaving => End::Leave(answer.ok()),
                _ = closing.wait_for(|closing| *closing) => End::Leave(None),
                end = self.consume(&mut attached) => end,
            };
            self.shared.set_session(None);
            match end {
                End::Leave(answer) => {
                    let left = self.leave(attached).await;
                    match answer {
                        Some(answer) => drop(answer.send(left)),
                        None => core.note_close(left),
                    }
                    break (None, None);
                }
                End::Lost(error, unreadable) => {
                    attached.session.end();
                    self.troubled(&error);
                    if unreadable && let Err(error) = self.go_alone(error).await {
                        break (Some(error), None);
                    }
                }
                End::Again => {
                    let _ = self.leave(attached).await;
                }
                End::Failed(error) => {
                    let _ = self.leave(attached).await;
                    break (Some(error), None);
                }
            }
        };
        core.remove_consumer(self.health);
        match (error, joined) {
            (Some(error), Some(joined)) => drop(joined.send(Err(error))),
            (Some(error), None) if error.kind() == ErrorKind::Closed => self.shared.end(None),
            (error, _) => self.shared.end(error),
        }
        if let Some(answer) = answer {
            let _ = answer.send(Ok(()));
        }
    }

    fn troubled(&self, error: &Error) {
        self.core.last_error.note(error);
        self.core.set_problem(self.health, Some(error.to_string()));
        self.link.suspect();
    }

    /// A message that the client cannot read ends its connection. On one of its own each member
    /// finds out whether it is the one whose queue has the message; the others go on.
    async fn go_alone(&mut self, error: Error) -> Result<()> {
        if self.alone {
            return Err(error.with("group", self.subscribe.group.name));
        }
        match self.link.sibling().await {
            Ok(link) => {
                self.link = link;
                self.alone = true;
            }
            Err(error) if error.is_permanent() => return Err(error),
            // The shared connection comes back, is ended again by the message, and this is tried again.
            Err(error) => self.troubled(&error),
        }
        Ok(())
    }

    /// Makes a channel and consumes all queues on it.
    async fn attach(&self) -> Result<Attached> {
        let channel = self.link.channel(OPERATION).await?;
        let mut wanted = Vec::new();
        for (name, incarnation) in &self.topics {
            let topic = self.core.topology.topic(*name, OPERATION).await?;
            let known = topic.groups.get(&self.subscribe.group.name);
            if topic.incarnation != *incarnation || known.is_none() {
                return Err(error::unknown_topic(OPERATION, *name));
            }
            let (group, order) = (self.subscribe.group.name, self.subscribe.group.order);
            let restored = self.core.topology.restore(&channel, &topic, group, order).await;
            restored.map_err(|e| error::failed(OPERATION, e).with("topic", *name))?;
            wanted.extend(self.wanted(&topic));
        }
        // Of a queue that nobody else gets anything from, a little more than the application may
        // hold does no harm.
        let prefetch = (self.subscribe.prefetch / wanted.len().max(1)).clamp(1, 65_535) as u16;
        let topics = wanted.iter().map(|wanted| wanted.topic).collect();
        let signals = self.shared.signals.clone();
        let session = Arc::new(Session::new(self.subscribe.prefetch, topics, signals));
        let mut attached =
            Attached { channel, session, lanes: Vec::new(), prefetch, ended: Vec::new() };
        let lanes = attached.consume(wanted, self.id).await;
        attached.lanes = lanes.map_err(|e| error::failed(OPERATION, e))?;
        Ok(attached)
    }

    /// The queues that the group has for this topic.
    fn wanted(&self, topic: &Topic) -> Vec<Wanted> {
        let (group, order) = (self.subscribe.group.name, self.subscribe.group.order);
        let history = topic.groups.get(&group).map(|group| &group.history);
        let has_history = |partition| history.is_some_and(|h| h.contains(&partition));
        let lane = |partition: Option<u32>, history| Wanted {
            topic: topic.name,
            partition,
            of: topic.partitions,
            history,
            queue: match (partition, history) {
                (Some(partition), true) => names::history(topic.name, group, partition),
                (partition, _) => names::queue(topic.name, group, order, partition.unwrap_or(0)),
            },
        };
        match order {
            Order::None => vec![lane(None, false)],
            Order::Key => (0..topic.partitions).map(|p| lane(Some(p), has_history(p))).collect(),
        }
    }

    async fn consume(&mut self, attached: &mut Attached) -> End {
        let mut changes = self.core.registry.changes();
        changes.mark_changed();
        let shared = self.shared.clone();
        let (mut frames, mut behind) = (Vec::new(), false);
        loop {
            tokio::select! {
                biased;
                arrived = poll_fn(|cx| attached.poll_arrived(cx)) => match arrived {
                    Arrived::Some(arrived) => attached.take_in(arrived, self),
                    Arrived::Lost(e) => {
                        let unreadable = error::is_unreadable(&e);
                        return End::Lost(error::failed(OPERATION, e), unreadable);
                    }
                    Arrived::Ended(lane) => match self.ended(attached, lane).await {
                        Some(end) => return end,
                        None => continue,
                    },
                },
                _ = shared.signals.settled.notified() => {
                    behind = attached.tell(false, &mut frames);
                }
                _ = tokio::time::sleep(GAP), if behind => {
                    behind = attached.tell(true, &mut frames);
                }
                _ = changes.changed() => {
                    if let Some(end) = self.follow(attached).await {
                        return end;
                    }
                }
            }
            if let Some(end) = self.finish_histories(attached).await {
                return end;
            }
        }
    }

    /// The broker ended a consumer: its queue was deleted.
    async fn ended(&self, attached: &mut Attached, lane: usize) -> Option<End> {
        let Lane { topic, history, partition, .. } = attached.lanes[lane];
        if history && !self.has_history(topic, partition) {
            return None;
        }
        match self.core.topology.topic(topic, OPERATION).await {
            Ok(_) => Some(End::Again),
            Err(error) if error.is_permanent() => Some(End::Failed(error)),
            Err(error) => Some(End::Lost(error, false)),
        }
    }

    fn has_history(&self, topic: Name, partition: Option<u32>) -> bool {
        let group = self.subscribe.group.name;
        self.core.registry.look(|state| {
            let group = state.topic(topic).and_then(|topic| topic.groups.get(&group));
            group.is_some_and(|g| partition.is_some_and(|p| g.history.contains(&p)))
        })
    }

    /// Follows what was changed about the topics.
    async fn follow(&self, attached: &mut Attached) -> Option<End> {
        let mut missing = Vec::new();
        for (name, incarnation) in &self.topics {
            let topic = self.core.registry.topic(*name);
            let Some(topic) = topic.filter(|topic| topic.incarnation == *incarnation) else {
                return Some(End::Failed(error::unknown_topic(OPERATION, *name)));
            };
            let wanted = self.wanted(&topic);
            missing.extend(wanted.into_iter().filter(|wanted| !attached.has(wanted)));
        }
        if missing.is_empty() {
            return None;
        }
        match attached.consume(missing, self.id).await {
            Ok(lanes) => {
                for lane in &lanes {
                    attached.session.add_lane(lane.topic);
                }
                attached.lanes.extend(lanes);
                None
            }
            Err(e) => Some(End::Lost(error::failed(OPERATION, e), false)),
        }
    }

    /// Goes on to the present where a history is handled to its end.
    async fn finish_histories(&self, attached: &mut Attached) -> Option<End> {
        let done = |(number, lane): (usize, &Lane)| {
            lane.mark.filter(|_| attached.session.is_settled(number)).map(|mark| (number, mark))
        };
        let done: Vec<_> = attached.lanes.iter().enumerate().filter_map(done).collect();
        for (number, mark) in done {
            attached.session.settle_mark(mark);
            attached.tell(true, &mut Vec::new());
            let lane = &mut attached.lanes[number];
            lane.mark = None;
            let group = self.subscribe.group.name;
            let drained = self.core.topology.drained(lane.topic, group, lane.partition?).await;
            if let Err(error) = drained {
                return Some(End::Lost(error, false));
            }
        }
        None
    }

    /// Leaves so that everything settled stays settled, and the rest goes back in its order.
    async fn leave(&self, attached: Attached) -> Result<()> {
        let Attached { channel, session, lanes, .. } = attached;
        let (frames, told) = session.end();
        frames.into_iter().for_each(|frame| send(&channel, frame));
        let patience = self.core.config.operation_timeout;
        let result = tokio::time::timeout(patience, async {
            let queues = told.into_iter().map(|lane| &lanes[lane]).filter(|lane| !lane.ended);
            let barrier = barrier(&channel, queues.map(|lane| lane.queue.clone()).collect()).await;
            // Never by cancelling: the next member would get later messages before those that are
            // not settled here. The consumers go after the channel, because one that is dropped
            // before cancels itself.
            let closed = channel.close(200, "OK".into()).await;
            barrier.map(drop).and(closed)
        });
        let result = result.await;
        drop(lanes);
        let left = match result {
            Ok(left) => left.map_err(|e| error::failed("close", e)),
            Err(_) => {
                let text = format!("RabbitMQ did not answer within {patience:?}");
                Err(Error::new(ErrorKind::Timeout, "close", text))
            }
        };
        left.map_err(|e| e.indeterminate().with("group", self.subscribe.group.name))
    }
}

/// Makes sure that the broker has taken in all acknowledgements of the channel for these queues: a
/// consumer on a queue is known only after everything before it. Merely closing loses some.
async fn barrier(channel: &Channel, queues: Vec<ShortString>) -> lapin::Result<Vec<Consumer>> {
    if queues.is_empty() {
        return Ok(Vec::new());
    }
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongInt(LAST));
    let consume = |(number, queue)| {
        let tag: ShortString = format!("barrier-{number}").into();
        channel.basic_consume(queue, tag, BasicConsumeOptions::default(), arguments.clone())
    };
    let consumers = try_join_all(queues.into_iter().enumerate().map(consume)).await?;
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    Ok(consumers)
}

/// A queue to be consumed.
struct Wanted {
    topic: Name,
    partition: Option<u32>,
    of: u32,
    history: bool,
    queue: ShortString,
}

/// What comes from the consumers of a channel.
enum Arrived {
    Some(Vec<(usize, Delivery)>),
    Ended(usize),
    Lost(lapin::Error),
}

impl Attached {
    async fn consume(&self, wanted: Vec<Wanted>, member: u64) -> lapin::Result<Vec<Lane>> {
        self.channel.basic_qos(self.prefetch, BasicQosOptions::default()).await?;
        let each = |wanted: Wanted| async move {
            let mut arguments = FieldTable::default();
            if let Some(partition) = wanted.partition {
                let priority = priorities(member, wanted.of)[partition as usize];
                arguments.insert("x-priority".into(), AMQPValue::LongInt(priority));
            }
            let options = BasicConsumeOptions::default();
            let consumer = self
                .channel
                .basic_consume(wanted.queue.clone(), wanted.queue.clone(), options, arguments)
                .await?;
            let Wanted { topic, partition, history, queue, .. } = wanted;
            Ok(Lane { topic, partition, queue, history, consumer, mark: None, ended: false })
        };
        try_join_all(wanted.into_iter().map(each)).await
    }

    fn has(&self, wanted: &Wanted) -> bool {
        self.lanes.iter().any(|lane| lane.queue == wanted.queue)
    }

    fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<Arrived> {
        let mut arrived = Vec::new();
        for (number, lane) in self.lanes.iter_mut().enumerate().filter(|(_, lane)| !lane.ended) {
            while arrived.len() < BATCH {
                match lane.consumer.poll_next_unpin(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Some(Ok(delivery))) => arrived.push((number, delivery)),
                    // What has arrived of other queues is not worth more than it: the broker has it.
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Arrived::Lost(error)),
                    Poll::Ready(None) => {
                        lane.ended = true;
                        self.ended.push(number);
                        break;
                    }
                }
            }
        }
        if arrived.is_empty()
            && let Some(lane) = self.ended.pop()
        {
            return Poll::Ready(Arrived::Ended(lane));
        }
        match arrived.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(Arrived::Some(arrived)),
        }
    }

    fn take_in(&mut self, arrived: Vec<(usize, Delivery)>, member: &Member) {
        let read = |(number, delivery): (usize, Delivery)| {
            let lane = &mut self.lanes[number];
            let tag = delivery.delivery_tag;
            if Mark::of(&delivery.properties) == Some(Mark::EndOfHistory) && lane.history {
                lane.mark = Some(tag);
                return (number, Err(tag));
            }
            let read = properties::read(&delivery.properties, delivery.data);
            let partition = lane.partition.or(read.partition).unwrap_or_else(|| {
                let registry = &member.core.registry;
                let of = registry.look(|s| s.topic(lane.topic).map_or(0, |t| t.partitions));
                names::partition_of(delivery.routing_key.as_str(), of)
            });
            let (message, returned) = (read.message, read.returned);
            (number, Ok(Delivered { tag, message, partition, returned }))
        };
        let read: Vec<_> = arrived.into_iter().map(read).collect();
        self.session.deliver(read);
    }

    /// Tells the broker what was settled; whether something is left for later.
    fn tell(&self, all: bool, frames: &mut Vec<Frame>) -> bool {
        let behind = self.session.tell(all, frames);
        frames.drain(..).for_each(|frame| send(&self.channel, frame));
        behind
    }
}

/// Hands a frame to the client, which sends it in order. Waiting until it is written would cost
/// more than the rest, and tell nothing: a lost channel is noticed by its consumers.
fn send(channel: &Channel, frame: Frame) {
    let acknowledge =
        |tag, multiple| channel.basic_ack(tag, BasicAckOptions { multiple }).now_or_never();
    match frame {
        Frame::AckUpTo(tag) => drop(acknowledge(tag, true)),
        Frame::Ack(tag) => drop(acknowledge(tag, false)),
        Frame::Reject(tag) => {
            drop(channel.basic_reject(tag, BasicRejectOptions { requeue: false }).now_or_never());
        }
    }
}

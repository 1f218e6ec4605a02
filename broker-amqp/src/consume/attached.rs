//! Consuming on one channel.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use broker_api::{Error, ErrorKind, Name, Order, Result, Subscribe};
use futures_util::future::try_join_all;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer};

use crate::consume::balance::{priorities, seated};
use crate::consume::lane::{Lane, Wanted};
use crate::consume::ledger::{Delivered, Frame};
use crate::consume::seat::Seat;
use crate::consume::session::{Session, Signals};
use crate::properties::{self, Mark};
use crate::registry::Registry;
use crate::{error, names};

/// How many deliveries are taken in at a time, before the application gets its turn.
const BATCH: usize = 512;

/// Below every member's priority: a consumer that only makes the broker catch up.
const LAST: i32 = -1_000;

/// A channel with the queues that are consumed on it, and what was delivered on it.
pub(super) struct Attached {
    channel: Channel,
    pub(super) session: Arc<Session>,
    pub(super) lanes: Vec<Lane>,
    /// For each queue.
    prefetch: u16,
    member: u64,
    /// Its places among the members of the group, by topic.
    seats: Vec<(Name, Seat)>,
    /// Lanes whose consumer was ended by the broker, to be looked after.
    ended: Vec<usize>,
}

/// What comes from the consumers of a channel.
pub(super) enum Arrived {
    Some(Vec<(usize, Delivery)>),
    Ended(usize),
    Lost(lapin::Error),
}

impl Attached {
    /// Consumes these queues on a channel.
    pub(super) async fn attach(
        channel: Channel,
        wanted: Vec<Wanted>,
        member: u64,
        seats: Vec<(Name, Seat)>,
        subscribe: &Subscribe,
        signals: Arc<Signals>,
    ) -> lapin::Result<Self> {
        // Any partition may be the only one that has messages, so each may fill the whole of what
        // the application may hold; the session sees to it that it is not given more. Where members
        // compete, what is only kept here would be missing elsewhere.
        let prefetch = match subscribe.group.order {
            Order::Key => subscribe.prefetch,
            Order::None => subscribe.prefetch / wanted.len().max(1),
        };
        let prefetch = prefetch.clamp(1, 65_535) as u16;
        let topics = wanted.iter().map(|wanted| wanted.topic).collect();
        let session = Arc::new(Session::new(subscribe.prefetch, topics, signals));
        let mut attached = Self {
            channel,
            session,
            lanes: Vec::new(),
            prefetch,
            member,
            seats,
            ended: Vec::new(),
        };
        attached.lanes = attached.consume(wanted).await?;
        Ok(attached)
    }

    /// Consumes these queues too.
    pub(super) async fn add(&mut self, wanted: Vec<Wanted>) -> lapin::Result<()> {
        let lanes = self.consume(wanted).await?;
        for lane in lanes {
            self.session.add_lane(lane.topic);
            self.lanes.push(lane);
        }
        Ok(())
    }

    async fn consume(&self, wanted: Vec<Wanted>) -> lapin::Result<Vec<Lane>> {
        self.channel.basic_qos(self.prefetch, BasicQosOptions::default()).await?;
        let each = |wanted: Wanted| async move {
            let mut arguments = FieldTable::default();
            if let Some(partition) = wanted.partition {
                let seat = self.seats.iter().find(|(topic, _)| *topic == wanted.topic);
                let priorities = match seat {
                    Some((_, seat)) => seated(seat.number, self.member, wanted.of),
                    None => priorities(self.member, wanted.of),
                };
                let priority = priorities[partition as usize];
                arguments.insert("x-priority".into(), AMQPValue::LongInt(priority));
            }
            let (queue, tag) = (wanted.queue.clone(), wanted.queue.clone());
            let options = BasicConsumeOptions::default();
            let consumer = self.channel.basic_consume(queue, tag, options, arguments).await?;
            lapin::Result::Ok(wanted.consumed_by(consumer))
        };
        let mut lanes = pin!(try_join_all(wanted.into_iter().map(each)));
        // Dropped before the consumers if this is not waited for to its end.
        let unfinished = CloseFirst(Some(&self.channel));
        let lanes = lanes.as_mut().await?;
        unfinished.not();
        Ok(lanes)
    }

    pub(super) fn consumes(&self, wanted: &Wanted) -> bool {
        self.lanes.iter().any(|lane| lane.queue == wanted.queue)
    }

    /// What has arrived.
    pub(super) fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<Arrived> {
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

    /// Takes in what has arrived, to be handed out.
    pub(super) fn take_in(&mut self, arrived: Vec<(usize, Delivery)>, registry: &Registry) {
        let read = |(number, delivery): (usize, Delivery)| {
            let lane = &mut self.lanes[number];
            let tag = delivery.delivery_tag;
            if Mark::of(&delivery.properties) == Some(Mark::EndOfHistory) && lane.history {
                lane.mark = Some(tag);
                return (number, Err(tag));
            }
            let read = properties::read(&delivery.properties, delivery.data);
            let partition = lane.partition.or(read.partition).unwrap_or_else(|| {
                let of = registry.look(|s| s.topic(lane.topic).map_or(0, |t| t.partitions));
                names::partition_of(delivery.routing_key.as_str(), of)
            });
            let (message, returned) = (read.message, read.returned);
            (number, Ok(Delivered { tag, message, partition, returned }))
        };
        let read: Vec<_> = arrived.into_iter().map(read).collect();
        self.session.deliver(read);
    }

    /// The lanes whose history is handled to its end, and its mark.
    pub(super) fn handled_histories(&self) -> Vec<(usize, u64)> {
        let handled = |(number, lane): (usize, &Lane)| {
            lane.mark.filter(|_| self.session.is_settled(number)).map(|mark| (number, mark))
        };
        self.lanes.iter().enumerate().filter_map(handled).collect()
    }

    /// Tells the broker what was settled; whether something is left for later.
    pub(super) fn tell(&self, all: bool, frames: &mut Vec<Frame>) -> bool {
        let behind = self.session.tell(all, frames);
        frames.drain(..).for_each(|frame| send(&self.channel, frame));
        behind
    }

    /// Leaves so that everything settled stays settled, and the rest goes back in its order.
    pub(super) async fn leave(self, patience: Duration) -> Result<()> {
        let (frames, told) = self.session.end();
        let one_topic =
            told.windows(2).all(|two| self.lanes[two[0]].topic == self.lanes[two[1]].topic);
        frames.into_iter().for_each(|frame| send(&self.channel, frame));
        let left = tokio::time::timeout(patience, async {
            let queues = told.into_iter().map(|lane| &self.lanes[lane]).filter(|lane| !lane.ended);
            let queues = queues.map(|lane| lane.queue.clone()).collect();
            let barrier = barrier(&self.channel, queues).await;
            let closed = self.channel.close(200, "OK".into()).await;
            match barrier {
                // The topic was deleted, and nothing of it can come back.
                Err(error) if one_topic && error::is_missing(&error) => Ok(()),
                barrier => barrier.map(drop).and(closed),
            }
        });
        let left = match left.await {
            Ok(left) => left.map_err(|e| error::failed("close", e)),
            Err(_) => {
                let text = format!("RabbitMQ did not answer within {patience:?}");
                Err(Error::new(ErrorKind::Timeout, "close", text))
            }
        };
        left.map_err(Error::indeterminate)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        close(&self.channel);
    }
}

/// Closes a channel, without waiting for the answer, if it is not closed.
///
/// A consumer that is dropped before its channel is closed cancels itself; the next member would
/// then get later messages before those that are not settled here.
fn close(channel: &Channel) {
    let _ = channel.close(200, "OK".into()).now_or_never();
}

/// Closes a channel when it is dropped.
struct CloseFirst<'a>(Option<&'a Channel>);

impl CloseFirst<'_> {
    fn not(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseFirst<'_> {
    fn drop(&mut self) {
        self.0.into_iter().for_each(close);
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
    let mut consumers = pin!(try_join_all(queues.into_iter().enumerate().map(consume)));
    let unfinished = CloseFirst(Some(channel));
    let consumers = consumers.as_mut().await?;
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    unfinished.not();
    Ok(consumers)
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

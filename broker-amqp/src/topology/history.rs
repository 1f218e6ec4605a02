//! What a new group gets of the messages that are there already.

use std::collections::HashMap;
use std::task::Poll;

use broker_api::{Error, ErrorKind, GroupSpec, Order, Result};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};

use crate::error;
use crate::names;
use crate::properties::{self, Mark, copied};
use crate::registry::Topic;
use crate::stream::{Begin, Place, Stream, put_mark};
use crate::topology::{Topology, declare};

/// How many copies may be on their way at a time.
const WINDOW: usize = 1_000;

impl Topology {
    /// Copies what the stream has from the group's start on; the partitions that have something.
    ///
    /// The group's queues are bound already, and collect what is published from now on. The copies
    /// go into queues of their own, which members consume first; so the order is kept, and nothing
    /// is missed. What is published between the binding and the end of the copy comes twice, once
    /// in each. A group without order gets all in its one queue.
    pub(super) async fn copy_history(
        &self,
        topic: &Topic,
        group: &GroupSpec,
        operation: &'static str,
    ) -> Result<Vec<u32>> {
        let queue = names::stream(topic.name);
        let mut stream =
            Stream::new(self.link.clone(), queue.clone(), 1_000, Place::before(group.start));
        let mut begin = Begin::new(group.start);
        let mut copies = Copies::new(self, topic, group, operation).await?;
        // Two rounds: a message that another publisher's channel had routed just before the binding
        // may reach the stream just after the first mark, but not a round trip later.
        for _ in 0..2 {
            let fence = put_mark(&self.publish, &queue, Mark::Fence, operation).await?.to_string();
            loop {
                let (offset, delivery) = stream
                    .next(operation)
                    .await?
                    .ok_or_else(|| error::unknown_topic(operation, topic.name))?;
                let id = delivery.properties.message_id().as_ref().map(ShortString::as_str);
                match Mark::of(&delivery.properties) {
                    Some(_) if id == Some(&fence) => break,
                    Some(_) => continue,
                    None => {}
                }
                let key = delivery.routing_key.as_str();
                let partition = names::partition_of(key, topic.partitions);
                let at = properties::read(&delivery.properties, Vec::new()).message.timestamp();
                if begin.admits(partition, offset, at) {
                    copies.add(partition, delivery.properties, delivery.data).await?;
                }
            }
        }
        copies.finish().await
    }
}

/// Copies on their way into the queues of a group.
struct Copies<'a> {
    topology: &'a Topology,
    topic: &'a Topic,
    group: &'a GroupSpec,
    operation: &'static str,
    channel: std::sync::Arc<Channel>,
    queues: HashMap<u32, ShortString>,
    confirms: FuturesUnordered<BoxFuture<'static, lapin::Result<bool>>>,
}

impl<'a> Copies<'a> {
    async fn new(
        topology: &'a Topology,
        topic: &'a Topic,
        group: &'a GroupSpec,
        operation: &'static str,
    ) -> Result<Self> {
        let channel = topology.publish.channel(operation).await?;
        let select = channel.confirm_select(ConfirmSelectOptions::default()).await;
        select.map_err(|e| error::failed(operation, e))?;
        let queues = HashMap::new();
        let confirms = FuturesUnordered::new();
        let channel = channel.into();
        Ok(Self { topology, topic, group, operation, channel, queues, confirms })
    }

    async fn add(
        &mut self,
        partition: u32,
        properties: BasicProperties,
        payload: Vec<u8>,
    ) -> Result<()> {
        let queue = self.queue(partition).await?;
        let named = (self.group.order == Order::None).then_some(partition);
        let properties = copied(properties, named);
        let channel = self.channel.clone();
        let mut copy: BoxFuture<'static, _> = Box::pin(async move {
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let published =
                channel.basic_publish("".into(), queue, options, &payload, properties).await?;
            Ok(published.await? == Confirmation::Ack(None))
        });
        // Handed over now, so in this order.
        let polled = std::future::poll_fn(|cx| Poll::Ready(copy.as_mut().poll(cx))).await;
        match polled {
            Poll::Ready(done) => self.check(done)?,
            Poll::Pending => self.confirms.push(copy),
        }
        while self.confirms.len() >= WINDOW {
            self.one().await?;
        }
        Ok(())
    }

    async fn one(&mut self) -> Result<()> {
        match self.confirms.next().await {
            Some(done) => self.check(done),
            None => Ok(()),
        }
    }

    fn check(&self, done: lapin::Result<bool>) -> Result<()> {
        if done.map_err(|e| error::failed(self.operation, e))? {
            return Ok(());
        }
        let text = "RabbitMQ did not take the copy of an earlier message for the group";
        let error = Error::new(ErrorKind::Unavailable, self.operation, text).transient();
        Err(error.with("topic", self.topic.name).with("group", self.group.name))
    }

    async fn queue(&mut self, partition: u32) -> Result<ShortString> {
        if let Some(queue) = self.queues.get(&partition) {
            return Ok(queue.clone());
        }
        let (topic, group) = (self.topic, self.group.name);
        let queue = match self.group.order {
            Order::None => names::queue(topic.name, group, Order::None, 0),
            Order::Key => {
                let channel = self.topology.link.channel(self.operation).await?;
                declare::history(&channel, topic, group, partition)
                    .await
                    .map_err(|e| error::failed(self.operation, e))?
            }
        };
        self.queues.insert(partition, queue.clone());
        Ok(queue)
    }

    /// Waits for the rest, and puts a mark where members go on to the other queue.
    async fn finish(mut self) -> Result<Vec<u32>> {
        while !self.confirms.is_empty() {
            self.one().await?;
        }
        if self.group.order == Order::None {
            return Ok(Vec::new());
        }
        for queue in self.queues.values() {
            put_mark(&self.topology.publish, queue, Mark::EndOfHistory, self.operation).await?;
        }
        Ok(self.queues.into_keys().collect())
    }
}

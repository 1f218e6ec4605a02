//! How far a group is behind.

use broker_api::{Name, Order, Result};
use futures_util::future::try_join_all;
use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::{FieldTable, ShortString};

use super::Topology;
use crate::{error, names};

impl Topology {
    /// See [`Backend::lag`](broker_api::Backend::lag). RabbitMQ tells what is ready to be
    /// delivered, and not what members have in hand.
    pub(crate) async fn lag(&self, name: Name, group: Name) -> Result<u64> {
        const OPERATION: &str = "lag";
        self.bounded(OPERATION, name, async {
            let topic = self.topic(name, OPERATION).await?;
            let Some(known) = topic.groups.get(&group).filter(|group| group.ready) else {
                return Ok(0);
            };
            let queue = |partition| names::queue(name, group, known.order, partition);
            let mut queues: Vec<_> = match known.order {
                Order::None => vec![queue(0)],
                Order::Key => (0..topic.partitions).map(queue).collect(),
            };
            queues.extend(known.history.iter().map(|p| names::history(name, group, *p)));
            let channel = self.link.channel(OPERATION).await?;
            let ready = try_join_all(queues.into_iter().map(|queue| ready(&channel, queue))).await;
            Ok(ready.map_err(|e| error::failed(OPERATION, e).with("topic", name))?.iter().sum())
        })
        .await
    }
}

/// How many messages of a queue are ready to be delivered.
async fn ready(channel: &Channel, queue: ShortString) -> lapin::Result<u64> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let told = channel.queue_declare(queue, options, FieldTable::default()).await?;
    Ok(told.message_count().into())
}

//! Exchanges, queues and bindings of a topic. Everything here may be done again at any time.

use std::time::Duration;

use broker_api::{Name, Order};
use futures_util::future::try_join_all;
use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

use crate::error::is_missing;
use crate::names;
use crate::registry::{Group, Topic};

/// Without it RabbitMQ 3.10 puts a message that is given back behind the others, and 4.x drops it
/// when it comes back too often.
const DELIVERY_LIMIT: i64 = 2_147_483_647;

type Done = lapin::Result<()>;

/// The exchanges of a topic and, with retention, its stream.
pub(crate) async fn topic(channel: &Channel, topic: &Topic) -> Done {
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let unkeyed = names::unkeyed_exchange(topic.name);
    let declare = |name, kind, arguments| channel.exchange_declare(name, kind, durable, arguments);
    declare(unkeyed.clone(), ExchangeKind::Fanout, FieldTable::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), text(unkeyed.as_str()));
    declare(names::exchange(topic.name), ExchangeKind::Direct, arguments).await?;
    if topic.has_stream() {
        let queue = names::stream(topic.name);
        self::queue(channel, queue.clone(), stream_arguments(topic)).await?;
        bind_all(channel, topic, &queue, topic.partitions).await?;
    }
    Ok(())
}

/// The queues of a group up to `partitions`, and their bindings.
pub(crate) async fn group(
    channel: &Channel,
    topic: &Topic,
    group: Name,
    order: Order,
    partitions: u32,
) -> Done {
    if order == Order::None {
        let queue = names::queue(topic.name, group, order, 0);
        self::queue(channel, queue.clone(), work_arguments(topic, order)).await?;
        return bind_all(channel, topic, &queue, partitions).await;
    }
    let each = |partition| async move {
        let queue = names::queue(topic.name, group, order, partition);
        self::queue(channel, queue.clone(), work_arguments(topic, order)).await?;
        bind(channel, topic, &queue, partition).await
    };
    // Sent together: the broker does one after the other, but nobody waits in between.
    try_join_all((0..partitions).map(each)).await.map(drop)
}

/// The queue for what was published before the group was declared.
pub(crate) async fn history(
    channel: &Channel,
    topic: &Topic,
    group: Name,
    partition: u32,
) -> lapin::Result<ShortString> {
    let queue = names::history(topic.name, group, partition);
    // What an earlier attempt left behind would come twice.
    delete_queue(channel, queue.clone()).await?;
    self::queue(channel, queue.clone(), work_arguments(topic, Order::Key)).await?;
    Ok(queue)
}

/// Binds the stream under the keys of more partitions.
pub(crate) async fn grow_stream(channel: &Channel, topic: &Topic, total: u32) -> Done {
    match topic.has_stream() {
        true => bind_all(channel, topic, &names::stream(topic.name), total).await,
        false => Ok(()),
    }
}

/// Everything of a topic goes, the exchange first: a queue that is gone then means that the topic is.
pub(crate) async fn delete(channel: &Channel, topic: &Topic) -> Done {
    let options = ExchangeDeleteOptions::default();
    channel.exchange_delete(names::exchange(topic.name), options).await?;
    channel.exchange_delete(names::unkeyed_exchange(topic.name), options).await?;
    let mut queues = vec![names::stream(topic.name)];
    for (name, group) in &topic.groups {
        match group.order {
            Order::None => queues.push(names::queue(topic.name, *name, Order::None, 0)),
            Order::Key => {
                for partition in 0..topic.partitions {
                    queues.push(names::queue(topic.name, *name, Order::Key, partition));
                    queues.push(names::history(topic.name, *name, partition));
                }
            }
        }
    }
    let delete = |queue| delete_queue(channel, queue);
    try_join_all(queues.into_iter().map(delete)).await.map(drop)
}

/// Deletes a queue if it is there.
pub(crate) async fn delete_queue(channel: &Channel, queue: ShortString) -> Done {
    channel.queue_delete(queue, QueueDeleteOptions::default()).await.map(drop)
}

/// Whether the exchange of a topic, its stream and the queues of its groups are all there. The
/// channel is of no use afterwards if they are not.
///
/// # Errors
/// Also if a queue is there, and its broker has only just been started.
pub(crate) async fn all_there(channel: &Channel, topic: &Topic) -> lapin::Result<bool> {
    if !exchange_exists(channel, topic.name).await? {
        return Ok(false);
    }
    let mut queues = Vec::new();
    if topic.has_stream() {
        queues.push(names::stream(topic.name));
    }
    for (group, Group { order, .. }) in topic.groups.iter().filter(|(_, group)| group.ready) {
        let count = if *order == Order::Key { topic.partitions } else { 1 };
        queues.extend((0..count).map(|n| names::queue(topic.name, *group, *order, n)));
    }
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let asked = |queue| channel.queue_declare(queue, options, FieldTable::default());
    match try_join_all(queues.into_iter().map(asked)).await {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the exchange of a topic is there. The channel is of no use afterwards if it is not.
pub(crate) async fn exchange_exists(channel: &Channel, topic: Name) -> lapin::Result<bool> {
    let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let name = names::exchange(topic);
    let asked =
        channel.exchange_declare(name, ExchangeKind::Direct, options, FieldTable::default());
    match asked.await {
        Ok(()) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn queue(channel: &Channel, name: ShortString, arguments: FieldTable) -> Done {
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(name, options, arguments).await.map(drop)
}

/// Binds a queue to one partition; to the first also what has no partition.
async fn bind(channel: &Channel, topic: &Topic, queue: &ShortString, partition: u32) -> Done {
    let options = QueueBindOptions::default();
    let bind = |exchange, key| {
        channel.queue_bind(queue.clone(), exchange, key, options, FieldTable::default())
    };
    if partition == 0 {
        bind(names::unkeyed_exchange(topic.name), "".into()).await?;
    }
    bind(names::exchange(topic.name), names::routing_key(partition)).await
}

async fn bind_all(channel: &Channel, topic: &Topic, queue: &ShortString, partitions: u32) -> Done {
    let each = |partition| bind(channel, topic, queue, partition);
    try_join_all((0..partitions).map(each)).await.map(drop)
}

fn work_arguments(topic: &Topic, order: Order) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
    if order == Order::Key {
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    if let Some(copies) = topic.copies {
        arguments.insert("x-quorum-initial-group-size".into(), AMQPValue::LongInt(copies.into()));
    }
    arguments
}

fn stream_arguments(topic: &Topic) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("stream"));
    if let Some(retention) = topic.retention.filter(|time| *time != Duration::MAX) {
        // In whole seconds; what is shorter would keep nothing.
        let seconds = retention.as_millis().div_ceil(1_000).max(1);
        arguments.insert("x-max-age".into(), text(&format!("{seconds}s")));
    }
    if let Some(bytes) = topic.retention_bytes {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(bytes));
        // Only whole segments go; the default one of 500 MB would keep far more than asked for.
        let segment = (bytes / 8).clamp(65_536, 500_000_000);
        let name = "x-stream-max-segment-size-bytes";
        arguments.insert(name.into(), AMQPValue::LongLongInt(segment));
    }
    if let Some(copies) = topic.copies {
        arguments.insert("x-initial-cluster-size".into(), AMQPValue::LongInt(copies.into()));
    }
    arguments
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

//! The raw RabbitMQ client, on quorum queues.

mod best;
mod readme;

use broker_api::{BoxError, partition_for_key};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

pub(crate) use best::Best;
pub(crate) use readme::Readme;

/// Persistent, as a quorum queue keeps them anyway, and with the key where the consumer finds it.
fn properties(key: &str) -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2).with_message_id(key.into())
}

/// One queue for each partition, as anybody does who needs the order of keys and more than one
/// consumer.
fn queue(topic: &str, partition: u32) -> String {
    format!("{topic}.{partition}")
}

fn queue_of_key(topic: &str, key: &str, partitions: u32) -> String {
    queue(topic, partition_for_key(key.as_bytes(), partitions))
}

async fn connect(url: &str) -> Result<Connection, BoxError> {
    Ok(Connection::connect(url, ConnectionProperties::default()).await?)
}

async fn create(channel: &Channel, topic: &str, partitions: u32) -> Result<(), BoxError> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    for partition in 0..partitions {
        let name = queue(topic, partition).as_str().into();
        channel.queue_declare(name, QueueDeclareOptions::durable(), arguments.clone()).await?;
    }
    Ok(())
}

async fn delete(channel: &Channel, topic: &str, partitions: u32) -> Result<(), BoxError> {
    for partition in 0..partitions {
        let name = queue(topic, partition).as_str().into();
        channel.queue_delete(name, QueueDeleteOptions::default()).await?;
    }
    Ok(())
}

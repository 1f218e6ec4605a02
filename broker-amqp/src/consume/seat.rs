//! The places of the members of a group, by which they share its partitions.

use std::time::Duration;

use broker_api::Name;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};

use crate::consume::balance;
use crate::error::{code, reply_code};
use crate::link::Link;
use crate::names;

/// How long looking for a seat may take. A node of a cluster takes its seats with it when it dies,
/// and whoever asks for one of those then gets no answer for a minute, nor any message meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// A place among the members of a group, which nobody else has. It is empty again when this is
/// dropped, or its connection is gone.
///
/// Members cannot see each other: a queue with a single active consumer tells nobody how many wait,
/// nor which is the active one. But each can see which of these queues have a consumer, and so which
/// number it has itself.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) number: u32,
    // In this order: the queue deletes itself when its only consumer is gone.
    _consumer: Consumer,
    _channel: Channel,
}

impl Seat {
    /// Takes the first seat that is empty. `None` if there is none, or seats are not to be had:
    /// without one a member shares less evenly, which is no reason not to join.
    pub(super) async fn take(
        link: &Link,
        topic: Name,
        group: Name,
        partitions: u32,
    ) -> Option<Self> {
        let taken = Self::look_for(link, topic, group, partitions);
        tokio::time::timeout(PATIENCE, taken).await.unwrap_or_else(|_| {
            tracing::debug!(%topic, %group, "no seat within {PATIENCE:?}");
            None
        })
    }

    async fn look_for(link: &Link, topic: Name, group: Name, partitions: u32) -> Option<Self> {
        let mut unspoilt = None;
        for number in 0..balance::seats(partitions) {
            let channel = match unspoilt.take() {
                Some(channel) => channel,
                None => link.channel("subscribe").await.ok()?,
            };
            match sit_down(&channel, topic, group, number).await {
                Ok(Some(consumer)) => {
                    return Some(Self { number, _consumer: consumer, _channel: channel });
                }
                Ok(None) => unspoilt = Some(channel),
                Err(error) if is_taken(&error) => {}
                Err(error) => {
                    tracing::debug!(%error, %topic, %group, "no seat");
                    return None;
                }
            }
        }
        None
    }
}

/// Whether somebody else took it, or gave it up, in this moment.
fn is_taken(error: &lapin::Error) -> bool {
    match reply_code(error) {
        Some(code::NOT_FOUND) => true,
        // The same code says that the user may not do it.
        Some(code::ACCESS_REFUSED) => error.to_string().contains("exclusive use"),
        _ => false,
    }
}

/// `None` if the seat is taken. An error costs the channel, and lapin logs it as one.
async fn sit_down(
    channel: &Channel,
    topic: Name,
    group: Name,
    number: u32,
) -> lapin::Result<Option<Consumer>> {
    let name = names::seat(topic, group, number);
    let options = QueueDeclareOptions { durable: true, auto_delete: true, ..Default::default() };
    let mut arguments = FieldTable::default();
    // The default of the virtual host may be another one, which does not delete itself.
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let queue = channel.queue_declare(name.clone(), options, arguments).await?;
    if queue.consumer_count() > 0 {
        return Ok(None);
    }
    let options = BasicConsumeOptions { exclusive: true, ..Default::default() };
    let consumer = channel.basic_consume(name, "seat".into(), options, FieldTable::default());
    consumer.await.map(Some)
}

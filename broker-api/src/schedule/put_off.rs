//! Putting a message off: what it is checked for, and where it waits first.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::clock;
use super::ticket::Ticket;
use super::tiers::Tiers;
use crate::broker::Broker;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::check_size;
use crate::message::Message;
use crate::name::Name;

/// What this process has found out, so that it need not ask for each message.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<Found>);

#[derive(Debug, Default)]
struct Found {
    /// The topics that messages wait in, once they are known to exist.
    tiers: Option<Tiers>,
    /// The topics that messages are for, each with its limit on their size.
    topics: HashMap<Name, Option<usize>>,
}

/// Where to publish this message now, and as what, so that it is published to `topic` when due.
///
/// # Errors
/// What would else be found out only then: [`ErrorKind::UnknownTopic`], [`ErrorKind::TooLarge`],
/// [`ErrorKind::Invalid`] for the partition. [`ErrorKind::Unroutable`] if there never was a
/// scheduler.
pub(crate) async fn put_off(
    broker: &Broker,
    topic: Name,
    partition: Option<u32>,
    message: Message,
    due: SystemTime,
) -> Result<(Name, Message)> {
    let tiers = tiers(broker).await?;
    if let Some(limit) = limit(broker, topic, partition).await? {
        check_size(&message, limit)?;
    }
    let to = tiers.next(clock::left(due)).topic;
    Ok((to, Ticket { topic, partition, due }.put(message)))
}

async fn tiers(broker: &Broker) -> Result<Tiers> {
    if let Some(tiers) = &lock(broker).tiers {
        return Ok(tiers.clone());
    }
    let tiers = Tiers::new(broker.inner.settings.scheduled)?;
    // The one that a scheduler creates last.
    match broker.inner.backend.describe_topic(tiers.dead_letters).await {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::UnknownTopic => {
            let text = "no scheduler has run on this broker yet, so nothing would ever be delivered: \
                        run Broker::scheduler in one of the processes";
            return Err(Error::new(ErrorKind::Unroutable, "publish", text).with_source(error));
        }
        Err(error) => return Err(error),
    }
    lock(broker).tiers = Some(tiers.clone());
    Ok(tiers)
}

/// The most bytes that a message for this topic may have.
async fn limit(broker: &Broker, topic: Name, partition: Option<u32>) -> Result<Option<usize>> {
    let known = lock(broker).topics.get(&topic).copied();
    // The number of partitions grows, so it is asked for each time.
    if let (Some(limit), None) = (known, partition) {
        return Ok(limit);
    }
    let is = broker.inner.backend.describe_topic(topic).await?;
    if let Some(partition) = partition.filter(|partition| *partition >= is.partitions) {
        let text = format!("there is no partition {partition}, the topic has {}", is.partitions);
        return Err(Error::new(ErrorKind::Invalid, "publish", text));
    }
    lock(broker).topics.insert(topic, is.max_message_bytes);
    Ok(is.max_message_bytes)
}

fn lock(broker: &Broker) -> std::sync::MutexGuard<'_, Found> {
    broker.inner.scheduled.0.lock().unwrap_or_else(PoisonError::into_inner)
}

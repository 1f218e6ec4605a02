//! Where in a topic a group or a reading begins and ends.

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use broker_api::{Error, ErrorKind, Name, Result, Start};
use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset, TopicPartitionList};

use crate::error;
use crate::record::millis;

/// How long the questions asked here may take, one by one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Before asking again.
const PAUSE: Duration = Duration::from_millis(50);

/// The offsets that a partition has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) partition: i32,
    /// Of its oldest message.
    pub(crate) earliest: i64,
    /// Of its next message.
    pub(crate) latest: i64,
}

/// The bounds of some partitions of a topic. Blocks.
pub(crate) fn bounds<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: Name,
    partitions: &[i32],
    operation: &'static str,
) -> Result<Vec<Bounds>> {
    let earliest = ask(consumer, topic, partitions, Offset::Beginning, operation)?;
    let latest = ask(consumer, topic, partitions, Offset::End, operation)?;
    let both = earliest.into_iter().zip(latest).zip(partitions);
    let bounds = both.map(|((earliest, latest), partition)| {
        let earliest = known(earliest).unwrap_or_default();
        Bounds { partition: *partition, earliest, latest: known(latest).unwrap_or(earliest) }
    });
    Ok(bounds.collect())
}

/// Where `start` is in each of the partitions, in their order. Blocks.
pub(crate) fn resolve<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: Name,
    bounds: &[Bounds],
    start: Start,
    operation: &'static str,
) -> Result<Vec<i64>> {
    let time = match start {
        Start::Earliest => return Ok(bounds.iter().map(|bounds| bounds.earliest).collect()),
        Start::Latest => return Ok(bounds.iter().map(|bounds| bounds.latest).collect()),
        Start::Offset(offset) => {
            let offset = i64::try_from(offset).unwrap_or(i64::MAX);
            return Ok(bounds.iter().map(|b| offset.clamp(b.earliest, b.latest)).collect());
        }
        Start::Time(time) => time.max(SystemTime::UNIX_EPOCH),
    };
    let partitions: Vec<_> = bounds.iter().map(|bounds| bounds.partition).collect();
    let found = ask(consumer, topic, &partitions, Offset::Offset(millis(time)), operation)?;
    // Nothing is that young: the next message will be.
    let offsets = found.into_iter().zip(bounds);
    Ok(offsets.map(|(offset, bounds)| known(offset).unwrap_or(bounds.latest)).collect())
}

/// A list of partitions for one call. It may hold references to the consumer that it was used
/// with, which would keep that from being dropped: so no list outlives the call.
pub(crate) fn list(
    offsets: impl IntoIterator<Item = (Name, i32, Offset)>,
) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (topic, partition, offset) in offsets {
        list.add_partition_offset(topic.as_str(), partition, offset)?;
    }
    Ok(list)
}

/// Asks again while a leader is being elected, as for a topic that was just created, while the group's
/// coordinator is not ready, as on a new cluster, or while a node does not know the topic yet, which
/// the callers know to be there.
pub(crate) fn patiently<T>(mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Err(error)
                if (error.is_transient() || error::is_behind(&error))
                    && Instant::now() < deadline =>
            {
                sleep(PAUSE);
            }
            told => return told,
        }
    }
}

fn ask<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: Name,
    partitions: &[i32],
    what: Offset,
    operation: &'static str,
) -> Result<Vec<Offset>> {
    let failed = |e: KafkaError| error::error(e, operation).with("topic", topic);
    patiently(|| {
        let asked = list(partitions.iter().map(|p| (topic, *p, what))).map_err(failed)?;
        let told = consumer.offsets_for_times(asked, PATIENCE).map_err(failed)?;
        let mut offsets = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let told = told.find_partition(topic.as_str(), *partition).ok_or_else(|| {
                Error::new(ErrorKind::Other, operation, "the broker left a partition out")
            })?;
            told.error().map_err(failed)?;
            offsets.push(told.offset());
        }
        Ok(offsets)
    })
}

fn known(offset: Offset) -> Option<i64> {
    match offset {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

//! Making a group exist: it has a position in each partition.

use broker_api::{Error, GroupSpec, Name, Result};
use rdkafka::Offset;
use rdkafka::consumer::{CommitMode, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;

use crate::error;
use crate::offsets::{PATIENCE, bounds, list, patiently, resolve};

/// Commits the start position of a group that has none in this topic, so that the group gets what
/// is published from now on. A group that has one, or has members, is left as it is.
///
/// Partitions that are added later begin with their oldest message, whatever the start was:
/// nothing in them is older than the group. `consumer` is of this group and has not subscribed.
/// The topic is known to be there. Blocks.
pub(crate) fn declare<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: Name,
    partitions: u32,
    group: &GroupSpec,
    operation: &'static str,
) -> Result<()> {
    patiently(|| try_declare(consumer, topic, partitions, group, operation))
        .map_err(|error| error.with("group", group.name))
}

fn try_declare<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: Name,
    partitions: u32,
    group: &GroupSpec,
    operation: &'static str,
) -> Result<()> {
    let failed = |e: KafkaError| error::error(e, operation).with("topic", topic);
    let partitions: Vec<i32> = (0..i32::try_from(partitions).unwrap_or(i32::MAX)).collect();
    if has_position(consumer, topic, &partitions).map_err(failed)? {
        return Ok(());
    }
    let bounds = bounds(consumer, topic, &partitions, operation)?;
    let offsets = resolve(consumer, topic, &bounds, group.start, operation)?;
    let begin = partitions.into_iter().zip(offsets);
    let begin =
        list(begin.map(|(p, offset)| (topic, p, Offset::Offset(offset)))).map_err(failed)?;
    match consumer.commit(&begin, CommitMode::Sync) {
        Ok(()) => Ok(()),
        Err(error) if error::code(&error).is_some_and(error::is_not_member) => {
            // Others declared it, or it was made without us and has not committed anything yet.
            tracing::debug!(%topic, group = %group.name, "the group has members: it is left as it is");
            Ok(())
        }
        Err(error) => {
            let error: Error = failed(error);
            Err(error)
        }
    }
}

/// Whether the group has a position in any partition of the topic.
fn has_position<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    topic: Name,
    partitions: &[i32],
) -> Result<bool, KafkaError> {
    let asked = list(partitions.iter().map(|p| (topic, *p, Offset::Invalid)))?;
    let told = consumer.committed_offsets(asked, PATIENCE)?;
    for element in told.elements() {
        element.error()?;
        if matches!(element.offset(), Offset::Offset(_)) {
            return Ok(true);
        }
    }
    Ok(false)
}

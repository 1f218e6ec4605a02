//! What a node says of the partitions of a topic.

use std::sync::Arc;
use std::time::Duration;

use broker_api::Name;
use rdkafka::Offset;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaRespErr;
use tokio::task::spawn_blocking;

use crate::delivered::Producer;
use crate::native;
use crate::offsets::list;
use crate::patience::Patience;

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(2);

/// How long leaders may take until they serve their partitions.
const SERVED: Duration = Duration::from_secs(5);

/// A partition of a topic, as metadata tells.
#[derive(Debug, Clone)]
pub(crate) struct Partition {
    pub(crate) id: i32,
    pub(crate) has_leader: bool,
    pub(crate) replicas: usize,
    pub(crate) in_sync: usize,
}

/// Asks a node for the partitions of a topic. Blocks.
pub(crate) fn metadata(producer: &Producer, name: Name) -> Result<Vec<Partition>, KafkaError> {
    let metadata = producer.client().fetch_metadata(Some(name.as_str()), REQUEST)?;
    let topic = metadata.topics().iter().find(|topic| topic.name() == name.as_str());
    let topic = topic.ok_or(KafkaError::MetadataFetch(Code::UnknownTopicOrPartition))?;
    if let Some(error) = topic.error() {
        return Err(KafkaError::MetadataFetch(error.into()));
    }
    let leader = |error: Option<RDKafkaRespErr>, leader: i32| error.is_none() && leader >= 0;
    let partitions = topic.partitions().iter().map(|partition| Partition {
        id: partition.id(),
        in_sync: partition.isr().len(),
        has_leader: leader(partition.error(), partition.leader()),
        replicas: partition.replicas().len(),
    });
    Ok(partitions.collect())
}

/// Waits until the leaders of these partitions serve them, though not for long: one that will not is
/// no reason to publish nothing to the others.
///
/// A leader that has not learned that it is one refuses the first batch of an idempotent producer. It
/// may have learned it before the second one comes, which it takes, for it knows nothing of a first;
/// and that is lost then (KAFKA-15591).
pub(crate) async fn served(
    producer: &Arc<Producer>,
    topic: Name,
    partitions: Vec<Partition>,
) -> Vec<Partition> {
    let mut patience = Patience::new(SERVED);
    let partitions = Arc::new(partitions);
    loop {
        let (producer, asked) = (producer.clone(), partitions.clone());
        match spawn_blocking(move || are_served(&producer, topic, &asked)).await {
            Ok(Err(error)) if patience.wait().await => {
                tracing::debug!(%error, %topic, "not all leaders serve their partitions");
            }
            _ => return Arc::unwrap_or_clone(partitions),
        }
    }
}

/// Asks the leaders of a topic whether they serve its partitions, those that have none left out.
/// Blocks.
fn are_served(
    producer: &Producer,
    topic: Name,
    partitions: &[Partition],
) -> Result<(), KafkaError> {
    let led = partitions.iter().filter(|partition| partition.has_leader);
    let led = list(led.map(|partition| (topic, partition.id, Offset::End)))?;
    match led.count() {
        0 => Ok(()),
        _ => native::ask_leaders(producer.client(), &led, REQUEST),
    }
}

/// What keeps a partition from taking messages.
pub(crate) fn hindered(topic: Name, partitions: &[Partition], required: usize) -> Option<String> {
    partitions.iter().find_map(|partition| match partition {
        Partition { id, has_leader: false, .. } => {
            Some(format!("partition {id} of {topic} has no leader"))
        }
        Partition { id, in_sync, .. } if *in_sync < required => Some(format!(
            "too few replicas are in sync: partition {id} of {topic} has {in_sync}, and {required} \
             are required (min.insync.replicas)"
        )),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_without_leader_or_with_too_few_replicas_in_sync_takes_nothing() {
        let topic = Name::new("orders");
        let with = |id, has_leader, in_sync| Partition { id, has_leader, replicas: 3, in_sync };
        let told = |second, required| hindered(topic, &[with(0, true, 3), second], required);
        assert_eq!(told(with(1, true, 2), 2), None);
        let few = told(with(1, true, 1), 2).unwrap();
        assert!(few.contains("partition 1 of orders has 1, and 2 are required"), "{few}");
        let none = told(with(1, false, 1), 1).unwrap();
        assert_eq!(none, "partition 1 of orders has no leader");
    }
}

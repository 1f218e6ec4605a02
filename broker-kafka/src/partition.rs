//! What a node says of the partitions of a topic.

use std::time::Duration;

use broker_api::Name;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaRespErr;

use crate::delivered::Producer;

/// How long one request for metadata may take.
const METADATA: Duration = Duration::from_secs(2);

/// A partition of a topic, as metadata tells.
pub(crate) struct Partition {
    pub(crate) id: i32,
    pub(crate) has_leader: bool,
    pub(crate) replicas: usize,
    pub(crate) in_sync: usize,
}

/// Asks a node for the partitions of a topic. Blocks.
pub(crate) fn metadata(producer: &Producer, name: Name) -> Result<Vec<Partition>, KafkaError> {
    let metadata = producer.client().fetch_metadata(Some(name.as_str()), METADATA)?;
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

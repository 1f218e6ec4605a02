//! How far groups are behind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker_api::{Name, Result};
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer as _, DefaultConsumerContext};
use rdkafka::error::KafkaError;

use crate::config::KafkaConfig;
use crate::elsewhere::Elsewhere;
use crate::error;
use crate::offsets::{PATIENCE, bounds, list};
use crate::properties::creation_error;

const OPERATION: &str = "lag";

type Client = BaseConsumer<DefaultConsumerContext>;

/// Asks for the positions of groups. A client can only ask for its own group, so there is one for
/// each; they are kept, because lags are asked for again and again.
pub(crate) struct Lags {
    config: Arc<KafkaConfig>,
    clients: Mutex<HashMap<Name, Arc<Elsewhere<Client>>>>,
}

impl Lags {
    pub(crate) fn new(config: Arc<KafkaConfig>) -> Self {
        Self { config, clients: Mutex::default() }
    }

    /// How many messages lie between what the group has committed and the end of the topic; 0 for
    /// a group that has committed nothing. Blocks.
    pub(crate) fn lag(&self, topic: Name, partitions: u32, group: Name) -> Result<u64> {
        let failed =
            |e: KafkaError| error::error(e, OPERATION).with("topic", topic).with("group", group);
        let client = self.client(group)?;
        // Handles what librdkafka has to tell, which would pile up otherwise.
        drop(client.poll(Duration::ZERO));
        let partitions: Vec<i32> = (0..i32::try_from(partitions).unwrap_or(i32::MAX)).collect();
        let asked =
            list(partitions.iter().map(|p| (topic, *p, Offset::Invalid))).map_err(failed)?;
        let committed = client.committed_offsets(asked, PATIENCE).map_err(failed)?;
        let position = |partition| {
            let known = committed.find_partition(topic.as_str(), partition)?.offset();
            known.to_raw().filter(|offset| *offset >= 0)
        };
        if partitions.iter().all(|partition| position(*partition).is_none()) {
            return Ok(0);
        }
        let bounds = bounds(&**client, topic, &partitions, OPERATION)?;
        let behind = bounds.iter().map(|bounds| {
            // A partition without a position begins with its oldest message, as does one whose
            // position is of a message that is gone.
            let from = position(bounds.partition).unwrap_or_default().max(bounds.earliest);
            u64::try_from(bounds.latest - from).unwrap_or_default()
        });
        Ok(behind.sum())
    }

    /// Gives up all clients.
    pub(crate) fn close(&self) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn client(&self, group: Name) -> Result<Arc<Elsewhere<Client>>> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&group) {
            return Ok(client.clone());
        }
        let made: Result<Client, _> = self.config.reader(group.as_str()).create();
        let made = made.map_err(|error| creation_error(error, OPERATION))?;
        Ok(clients.entry(group).or_insert(Arc::new(Elsewhere::new(made))).clone())
    }
}

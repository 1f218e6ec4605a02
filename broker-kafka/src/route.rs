//! Which partition a message that was fetched is of.

use std::sync::Arc;

use broker_api::Message;
use rdkafka::message::{BorrowedMessage, Message as _};

use crate::chunk::Chunk;
use crate::member::Member;
use crate::ownership::Ownership;

/// Where messages go: consecutive ones mostly to the same partition.
#[derive(Default)]
pub(crate) struct Route {
    /// By the address of librdkafka's topic, which is cheaper to compare than its name.
    pub(crate) places: Vec<(usize, i32, Arc<Ownership>)>,
    pub(crate) changes: u64,
    pub(crate) current: usize,
    pub(crate) run: Vec<(u64, Message)>,
    pub(crate) chunk: Chunk,
}

impl Route {
    /// The place of a message's partition; `None` if it is not owned.
    pub(crate) fn find(&mut self, record: &BorrowedMessage<'_>, member: &Member) -> Option<usize> {
        let (topic, partition) = (record.topic_ptr() as usize, record.partition());
        let is_here =
            |place: &(usize, i32, Arc<Ownership>)| place.0 == topic && place.1 == partition;
        if self.places.get(self.current).is_some_and(is_here) {
            return Some(self.current);
        }
        if let Some(place) = self.places.iter().position(is_here) {
            return Some(place);
        }
        let owned = member.owned();
        let ownership = owned
            .into_iter()
            .find(|o| o.partition == partition && o.topic.as_str() == record.topic())?;
        self.places.push((topic, partition, ownership));
        Some(self.places.len() - 1)
    }
}

//! What is known of the topics that transactions publish to.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_api::{ErrorKind, Message, Name, Result};
use tokio::time::Instant;

use crate::topic::Topic;
use crate::topics::Topics;

/// How long it is believed.
const FRESH: Duration = Duration::from_secs(10);

/// What the broker would refuse in a transaction, with all else that is in it, is found before.
#[derive(Default)]
pub(crate) struct Known(Mutex<HashMap<Name, (Topic, Instant)>>);

impl Known {
    /// Whether the broker would take the message.
    ///
    /// # Errors
    /// Those of publishing.
    pub(crate) async fn check(
        &self,
        topics: &Topics,
        topic: Name,
        partition: Option<u32>,
        message: &Message,
    ) -> Result<()> {
        let known = self.lock().get(&topic).copied();
        let is_fresh = |since: Instant| since.elapsed() < FRESH;
        let there = match known {
            Some((known, since)) if is_fresh(since) => known,
            _ => match (self.look_up(topics, topic).await, known) {
                // The broker is away; what it was is better than nothing.
                (Err(error), Some((known, _))) if error.is_transient() => {
                    tracing::debug!(%error, "what was known of the topic is taken");
                    known
                }
                (found, _) => found?,
            },
        };
        there.check(message, partition).map_err(|error| error.with("topic", topic))
    }

    /// It may be another one now.
    pub(crate) fn forget(&self, topic: Name) {
        self.lock().remove(&topic);
    }

    async fn look_up(&self, topics: &Topics, topic: Name) -> Result<Topic> {
        let found = topics.find(topic, "publish").await;
        let mut known = self.lock();
        match &found {
            Ok(found) => drop(known.insert(topic, (*found, Instant::now()))),
            Err(error) if error.kind() == ErrorKind::UnknownTopic => drop(known.remove(&topic)),
            Err(_) => {}
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, (Topic, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

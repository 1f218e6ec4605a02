//! Handling each message once, as far as its id tells.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use crate::error::BoxError;
use crate::message::MessageId;
use crate::name::Name;

/// Remembers which messages a group has handled. A message without an id is always handled.
///
/// The look-up and the handler are two steps: where handling twice must be impossible and not only
/// unlikely, keep the ids in the same transaction as the handler's work.
#[async_trait]
pub trait Dedup: Send + Sync + 'static {
    /// Whether the group has handled this message.
    ///
    /// # Errors
    /// The message then counts as failed, and is tried again.
    async fn is_done(&self, group: Name, id: &MessageId) -> Result<bool, BoxError>;

    /// The group has handled this message; called before it is acknowledged.
    ///
    /// # Errors
    /// The message then counts as failed, and is tried again.
    async fn done(&self, group: Name, id: &MessageId) -> Result<(), BoxError>;
}

/// The most recent ids, in the memory of this process.
#[derive(Debug)]
pub struct RecentIds {
    most: usize,
    ids: Mutex<Ids>,
}

#[derive(Debug, Default)]
struct Ids {
    known: HashSet<(Name, MessageId)>,
    oldest_first: VecDeque<(Name, MessageId)>,
}

impl RecentIds {
    /// Remembers so many ids, of all groups together; about 100 bytes each.
    pub fn new(most: usize) -> Self {
        Self { most, ids: Mutex::default() }
    }
}

#[async_trait]
impl Dedup for RecentIds {
    async fn is_done(&self, group: Name, id: &MessageId) -> Result<bool, BoxError> {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(ids.known.contains(&(group, id.clone())))
    }

    async fn done(&self, group: Name, id: &MessageId) -> Result<(), BoxError> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.known.insert((group, id.clone())) {
            ids.oldest_first.push_back((group, id.clone()));
        }
        while ids.oldest_first.len() > self.most {
            if let Some(oldest) = ids.oldest_first.pop_front() {
                ids.known.remove(&oldest);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_ids_are_forgotten_first_and_groups_are_apart() {
        let (recent, group) = (RecentIds::new(2), Name::new("g"));
        for id in ["1", "2", "2", "3"] {
            recent.done(group, &id.into()).await.unwrap();
        }
        let mut known = Vec::new();
        for id in ["1", "2", "3"] {
            known.push(recent.is_done(group, &id.into()).await.unwrap());
        }
        assert_eq!(known, [false, true, true]);
        assert!(!recent.is_done(Name::new("other"), &"3".into()).await.unwrap());
    }
}

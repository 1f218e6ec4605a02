//! One change of a topic at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker_api::{Name, Result};
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::sync::OwnedMutexGuard;

use crate::error::{self, code, reply_code};
use crate::link::Link;
use crate::names;

/// How long to wait before asking again for a lock that somebody else has.
const PAUSE: Duration = Duration::from_millis(25);

/// The locks of the topics.
///
/// An exclusive queue is the only thing that AMQP gives to one connection at a time; it goes with
/// the connection, so a lock cannot be left behind. Within the connection, and to be fair to it,
/// there is a mutex as well.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    held_here: Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to change a topic; given up by dropping it.
pub(crate) struct Lock {
    // In this order: the queue deletes itself when its only consumer is gone.
    _consumer: Consumer,
    _channel: Channel,
    _here: OwnedMutexGuard<()>,
}

impl Locks {
    /// Waits until nobody else changes the topic.
    ///
    /// # Errors
    /// The connection is refused or closed, or the lock is not allowed.
    pub(crate) async fn lock(
        &self,
        link: &Link,
        topic: Name,
        operation: &'static str,
    ) -> Result<Lock> {
        let here = {
            let mut held = self.held_here.lock().unwrap_or_else(PoisonError::into_inner);
            held.retain(|_, lock| Arc::strong_count(lock) > 1);
            held.entry(topic).or_default().clone()
        };
        let here = here.lock_owned().await;
        loop {
            let channel = link.channel(operation).await?;
            match take(&channel, topic).await {
                Ok(consumer) => {
                    return Ok(Lock { _consumer: consumer, _channel: channel, _here: here });
                }
                Err(error) if reply_code(&error) == Some(code::RESOURCE_LOCKED) => {}
                Err(error) => {
                    let error = error::failed(operation, error);
                    if !error.is_transient() {
                        return Err(error.with("topic", topic));
                    }
                    link.suspect();
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn take(channel: &Channel, topic: Name) -> lapin::Result<Consumer> {
    let name = names::lock(topic);
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    channel.queue_declare(name.clone(), options, FieldTable::default()).await?;
    let options = BasicConsumeOptions::default();
    channel.basic_consume(name, "lock".into(), options, FieldTable::default()).await
}

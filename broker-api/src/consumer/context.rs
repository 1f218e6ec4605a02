//! What a handler knows about the message besides its value.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::Outgoing;
use crate::broker::Broker;
use crate::delivery::Received;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::Name;
use crate::publish::{Confirmation, Publish};
use crate::topic::Topic;

/// The message a handler was called for, and where it came from.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    received: Received,
    attempt: u32,
    broker: Broker,
    /// What the handler published.
    outputs: Mutex<Outputs>,
}

enum Outputs {
    /// Handed over, and not waited for yet.
    Published(Vec<Confirmation>),
    /// To be published by the transaction that settles the message.
    Kept(Vec<Outgoing>),
    /// Given to that transaction: nothing can be added.
    Given,
}

impl Context {
    /// `exactly_once` keeps what the handler publishes, for the transaction.
    pub(crate) fn new(
        received: Received,
        attempt: u32,
        broker: Broker,
        exactly_once: bool,
    ) -> Self {
        let outputs = Mutex::new(match exactly_once {
            true => Outputs::Kept(Vec::new()),
            false => Outputs::Published(Vec::new()),
        });
        Self(Arc::new(Inner { received, attempt, broker, outputs }))
    }

    /// The same message in its next attempt, of which nothing is published yet.
    pub(crate) fn next_attempt(&self, exactly_once: bool) -> Self {
        let Inner { received, attempt, broker, .. } = &*self.0;
        Self::new(received.clone(), attempt.saturating_add(1), broker.clone(), exactly_once)
    }

    pub(crate) fn received(&self) -> &Received {
        &self.0.received
    }

    /// The message as it came: key, headers, id, timestamp, payload.
    pub fn message(&self) -> &Message {
        &self.0.received.message
    }

    /// Its topic.
    pub fn topic(&self) -> Name {
        self.0.received.topic
    }

    /// Its partition.
    pub fn partition(&self) -> u32 {
        self.0.received.partition
    }

    /// Its offset in the partition, where the broker has offsets.
    pub fn offset(&self) -> Option<u64> {
        self.0.received.offset
    }

    /// Which call of the handler for this message it is, from 1, delayed retries and those after
    /// a redrive included. A consumer that died meanwhile may have called more often.
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// The broker it came from.
    pub fn broker(&self) -> &Broker {
        &self.0.broker
    }

    /// Publishes an outcome of this message: it is handed over now, and confirmed before this
    /// message is acknowledged; if it fails, so has the handler. It belongs to the same
    /// conversation: its correlation id is that of this message, or else this message's id.
    ///
    /// With [`Consumer::exactly_once`](crate::Consumer::exactly_once) it is kept until the handler
    /// has ended well, and published by the transaction that settles this message; of an attempt
    /// that failed nothing is published.
    ///
    /// # Errors
    /// Those of [`Publish::enqueue`](crate::Publish::enqueue). With `exactly_once` also those of
    /// publishing it, as far as they are known now; and [`ErrorKind::Closed`] after the handler
    /// has ended.
    pub async fn publish<T>(&self, topic: Topic<T>, value: &T) -> Result<()> {
        self.publish_outcome(self.0.broker.publish(topic, value)).await
    }

    /// Publishes an outcome of this message, as [`Context::publish`] does.
    pub(crate) async fn publish_outcome(&self, publish: Publish) -> Result<()> {
        let message = self.message();
        let id = || message.id().map(ToString::to_string);
        let conversation = message.correlation_id().map(str::to_owned).or_else(id);
        let publish = match conversation {
            Some(conversation) => publish.correlation_id(conversation),
            None => publish,
        };
        if matches!(*self.outputs(), Outputs::Published(_)) {
            let confirmation = publish.enqueue().await?;
            if let Outputs::Published(published) = &mut *self.outputs() {
                published.push(confirmation);
            }
            return Ok(());
        }
        let output = publish.prepare(self.topic()).await?;
        match &mut *self.outputs() {
            Outputs::Kept(kept) => {
                kept.push(output);
                Ok(())
            }
            _ => {
                let text = "the message is settled, and nothing can be published with it any more";
                Err(Error::new(ErrorKind::Closed, "publish", text).with("topic", output.topic))
            }
        }
    }

    /// Waits until everything published through this context is confirmed.
    pub(crate) async fn confirmed(&self) -> Result<()> {
        let published = match &mut *self.outputs() {
            Outputs::Published(published) => std::mem::take(published),
            _ => Vec::new(),
        };
        for confirmation in published {
            confirmation.await?;
        }
        Ok(())
    }

    /// What the transaction has to publish that settles the message.
    pub(crate) fn give_outputs(&self) -> Vec<Outgoing> {
        match std::mem::replace(&mut *self.outputs(), Outputs::Given) {
            Outputs::Kept(kept) => kept,
            _ => Vec::new(),
        }
    }

    fn outputs(&self) -> std::sync::MutexGuard<'_, Outputs> {
        self.0.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("received", &self.0.received)
            .field("attempt", &self.0.attempt)
            .finish_non_exhaustive()
    }
}

//! What a handler knows about the message besides its value.

use std::fmt;
use std::sync::Arc;

use crate::broker::Broker;
use crate::delivery::Received;
use crate::message::Message;
use crate::name::Name;

/// The message a handler was called for, and where it came from.
#[derive(Clone)]
pub struct Context {
    received: Arc<Received>,
    attempt: u32,
    broker: Broker,
}

impl Context {
    pub(crate) fn new(received: Arc<Received>, attempt: u32, broker: Broker) -> Self {
        Self { received, attempt, broker }
    }

    /// The message as it came: key, headers, id, timestamp, payload.
    pub fn message(&self) -> &Message {
        &self.received.message
    }

    /// Its topic.
    pub fn topic(&self) -> Name {
        self.received.topic
    }

    /// Its partition.
    pub fn partition(&self) -> u32 {
        self.received.partition
    }

    /// Its offset in the partition, where the broker has offsets.
    pub fn offset(&self) -> Option<u64> {
        self.received.offset
    }

    /// Which call of the handler for this delivery it is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The broker it came from, to publish to.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("received", &self.received)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

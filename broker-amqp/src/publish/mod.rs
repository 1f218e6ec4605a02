//! Publishing: per topic an outbox, a task and a channel.
//!
//! A channel for each topic, because the broker closes it when its exchange is gone, and everything
//! in flight on it becomes doubtful: so that happens only to messages of a topic that is deleted.

mod entry;
mod in_flight;
mod open;
mod outbox;
mod partitions;
mod publisher;
mod returns;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use broker_api::{Error, ErrorKind, Name, Outgoing};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::backend::Parts;
use outbox::Outbox;
use publisher::Publisher;

const OPERATION: &str = "publish";

/// The publishers of all topics in use.
#[derive(Debug)]
pub(crate) struct Publishers {
    outboxes: RwLock<HashMap<Name, Arc<Outbox>>>,
    parts: Parts,
    runtime: Handle,
    closing: watch::Sender<bool>,
}

impl Publishers {
    pub(crate) fn new(parts: Parts, closing: watch::Sender<bool>) -> Self {
        Self { outboxes: RwLock::default(), parts, runtime: Handle::current(), closing }
    }

    /// Takes a message over.
    pub(crate) fn publish(&self, outgoing: Outgoing) {
        let known = {
            let outboxes = self.outboxes.read().unwrap_or_else(PoisonError::into_inner);
            outboxes.get(&outgoing.topic).cloned()
        };
        let refused = match known {
            Some(outbox) => match outbox.put(outgoing) {
                Ok(()) => return,
                Err(refused) => refused,
            },
            None => outgoing,
        };
        self.publish_first(refused);
    }

    /// Takes over a message of a topic that has no task, or whose task has just ended.
    fn publish_first(&self, outgoing: Outgoing) {
        let topic = outgoing.topic;
        let mut outboxes = self.outboxes.write().unwrap_or_else(PoisonError::into_inner);
        let refused = match outboxes.get(&topic) {
            Some(outbox) => match outbox.put(outgoing) {
                Ok(()) => return,
                Err(refused) => refused,
            },
            None => outgoing,
        };
        if *self.closing.borrow() {
            let error = Error::new(ErrorKind::Closed, OPERATION, "the connection is closed");
            refused.confirm.done(Err(error.with("topic", topic)));
            return;
        }
        let outbox = Arc::new(Outbox::default());
        // A new one takes messages.
        let _ = outbox.put(refused);
        outboxes.retain(|_, outbox| Arc::strong_count(outbox) > 1);
        outboxes.insert(topic, outbox.clone());
        let publisher = Publisher::new(topic, outbox, self.parts.clone());
        self.runtime.spawn(publisher.run(self.closing.subscribe()));
    }
}

//! A message that was delivered, and how it is settled.

use std::fmt;
use std::sync::Arc;

use crate::backend::{Outgoing, Settle, Settlement};
use crate::message::Message;
use crate::name::Name;

/// A message and where it came from.
#[derive(Debug, Clone)]
pub struct Received {
    /// The message.
    pub message: Message,
    /// Its topic.
    pub topic: Name,
    /// Its partition.
    pub partition: u32,
    /// Its offset in the partition, where the broker has offsets.
    pub offset: Option<u64>,
    /// How often it was handed over before this time, where the broker counts. It counts returns
    /// of any cause, not failures of a handler.
    pub redeliveries: Option<u32>,
}

/// A message handed over, to be settled by value. Dropped unsettled, it is delivered again.
pub struct Delivery {
    // Both are there until the delivery is settled or taken apart.
    received: Option<Received>,
    settler: Option<Settler>,
}

/// What settles one delivery.
pub(crate) struct Settler {
    settle: Arc<dyn Settle>,
    token: u64,
}

impl Settler {
    pub(crate) fn done(self, settlement: Settlement) {
        self.settle.settle(self.token, settlement);
    }

    pub(crate) fn done_with(self, outputs: Vec<Outgoing>) {
        self.settle.settle_with(self.token, Settlement::Ack, outputs);
    }

    pub(crate) fn requeue(self, message: Message) {
        self.settle.requeue(self.token, message);
    }

    pub(crate) fn is_live(&self) -> bool {
        self.settle.is_live(self.token)
    }
}

impl Delivery {
    /// A delivery that is settled through `settle` with this token.
    pub fn new(received: Received, settle: Arc<dyn Settle>, token: u64) -> Self {
        Self { received: Some(received), settler: Some(Settler { settle, token }) }
    }

    /// A delivery of a reading, which needs no settling.
    pub fn unsettled(received: Received) -> Self {
        Self { received: Some(received), settler: None }
    }

    /// The message and where it came from.
    pub fn received(&self) -> &Received {
        // Only the methods that consume `self`, and `drop`, take it out.
        self.received.as_ref().expect("a delivery has its message until it is settled")
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.received().message
    }

    /// Whether its partition is still to be worked on; `false` once the member is losing it. What
    /// is not begun by then should be dropped.
    pub fn is_live(&self) -> bool {
        self.settler.as_ref().is_none_or(Settler::is_live)
    }

    /// It was handled and must not come again.
    pub fn ack(mut self) {
        if let Some(settler) = self.settler.take() {
            settler.done(Settlement::Ack);
        }
    }

    /// It was not handled and is not wanted again.
    pub fn reject(mut self) {
        if let Some(settler) = self.settler.take() {
            settler.done(Settlement::Reject);
        }
    }

    /// It is to be delivered again, to this or another member.
    pub fn requeue(self) {
        drop(self);
    }

    /// Settles through `wrap` of what settled it so far, for a backend that wraps another.
    pub fn map_settle(mut self, wrap: impl FnOnce(Arc<dyn Settle>) -> Arc<dyn Settle>) -> Self {
        let settler = self.settler.take();
        self.settler =
            settler.map(|Settler { settle, token }| Settler { settle: wrap(settle), token });
        self
    }

    /// Changes what was received, for a backend that wraps another.
    pub fn map_received(mut self, change: impl FnOnce(Received) -> Received) -> Self {
        self.received = self.received.take().map(change);
        self
    }

    pub(crate) fn into_parts(mut self) -> (Option<Received>, Option<Settler>) {
        (self.received.take(), self.settler.take())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let (Some(settler), Some(received)) = (self.settler.take(), self.received.take()) {
            settler.requeue(received.message);
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Delivery").field(&self.received).finish()
    }
}

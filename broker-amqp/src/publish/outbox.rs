//! Messages handed over and not looked at yet.

use std::sync::{Mutex, PoisonError};

use broker_api::Outgoing;
use tokio::sync::Notify;

/// The messages of one topic, from any thread to the one task that publishes them. The order is
/// that of the calls.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: Vec<Outgoing>,
    closed: bool,
}

impl Outbox {
    /// Puts a message in. It comes back if nobody takes messages out any more.
    #[expect(clippy::result_large_err, reason = "it is the message, rarely and right here")]
    pub(crate) fn put(&self, message: Outgoing) -> Result<(), Outgoing> {
        let mut queue = self.lock();
        if queue.closed {
            return Err(message);
        }
        queue.messages.push(message);
        let first = queue.messages.len() == 1;
        drop(queue);
        // Whoever is woken takes all there are.
        if first {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Waits until there is something in it.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes everything out, in exchange for an empty list.
    pub(crate) fn take(&self, empty: &mut Vec<Outgoing>) {
        std::mem::swap(&mut self.lock().messages, empty);
    }

    /// Closes it if it is empty; whether it is closed.
    pub(crate) fn close_if_empty(&self) -> bool {
        let mut queue = self.lock();
        queue.closed |= queue.messages.is_empty();
        queue.closed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

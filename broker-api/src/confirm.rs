//! The answer to a published message, completed by value.

use std::fmt;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::backend::Receipt;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Sending;

/// Completes one published message. A backend calls [`Confirm::done`] exactly once; a confirm
/// that is dropped unanswered tells the publisher that the message may or may not be stored.
pub struct Confirm {
    answer: Answer,
    // Memory of the message, given back when the broker has answered.
    permit: Option<OwnedSemaphorePermit>,
    sending: Option<Sending>,
}

enum Answer {
    Given,
    Channel(oneshot::Sender<Result<Receipt>>),
    Call(Box<dyn FnOnce(Result<Receipt>) + Send>),
}

impl Confirm {
    /// A confirm that is answered through a channel, holds `permit` until then, and tells `sending`.
    pub(crate) fn channel(
        permit: OwnedSemaphorePermit,
        sending: Option<Sending>,
    ) -> (Self, oneshot::Receiver<Result<Receipt>>) {
        let (sender, receiver) = oneshot::channel();
        (Self { answer: Answer::Channel(sender), permit: Some(permit), sending }, receiver)
    }

    /// A confirm of what a transaction publishes: only `sending` is told.
    pub(crate) fn of_output(sending: Sending) -> Self {
        Self { answer: Answer::Call(Box::new(drop)), permit: None, sending: Some(sending) }
    }

    /// A confirm that calls a function, for a backend that wraps others.
    pub fn from_fn(answer: impl FnOnce(Result<Receipt>) + Send + 'static) -> Self {
        Self { answer: Answer::Call(Box::new(answer)), permit: None, sending: None }
    }

    /// Answers.
    pub fn done(mut self, result: Result<Receipt>) {
        self.answer(result);
    }

    fn answer(&mut self, result: Result<Receipt>) {
        // Given back after the answer: who waits for all the memory finds all answers there.
        let permit = self.permit.take();
        if let Some(sending) = self.sending.take() {
            sending.answered(&result);
        }
        match std::mem::replace(&mut self.answer, Answer::Given) {
            Answer::Given => {}
            // The publisher may have stopped waiting; nobody is left to be told.
            Answer::Channel(sender) => drop(sender.send(result)),
            Answer::Call(answer) => answer(result),
        }
        drop(permit);
    }
}

impl Drop for Confirm {
    fn drop(&mut self) {
        if !matches!(self.answer, Answer::Given) {
            let text = "the backend gave up on the message without an answer";
            self.answer(Err(Error::new(ErrorKind::Other, "publish", text).indeterminate()));
        }
    }
}

impl fmt::Debug for Confirm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Confirm")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn a_dropped_confirm_is_indeterminate_and_gives_its_memory_back() {
        let memory = Arc::new(Semaphore::new(1));
        let permit = memory.clone().acquire_owned().await.unwrap();
        let (confirm, answer) = Confirm::channel(permit, None);
        drop(confirm);
        assert!(answer.await.unwrap().unwrap_err().is_indeterminate());
        assert_eq!(memory.available_permits(), 1);
    }
}

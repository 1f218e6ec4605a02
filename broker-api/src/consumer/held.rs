//! A message in the hands of a consumer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::backlog::Key;
use super::retry::Pauses;
use super::{Context, Failure, Retry};
use crate::backend::{Outgoing, Settlement};
use crate::broker::Broker;
use crate::dead_letter::headers::History;
use crate::delivery::{Delivery, Received, Settler};
use crate::error::{Error, ErrorKind};
use crate::message::Message;
use crate::name::Name;
use crate::schedule;
use crate::telemetry::Counted;

/// A delivery whose message is shared with its handler. Dropped unsettled it is delivered again.
pub(super) struct Held {
    /// As the application sees it: without our headers, from the topic it was published to.
    received: Arc<Received>,
    history: History,
    /// As it was delivered, where that is something else.
    delivered: Option<Box<Message>>,
    settler: Option<Settler>,
    /// The pauses that are left in place, from its first failure on.
    pauses: Option<Pauses>,
    /// That it is counted as being here, from when it may be handled.
    counted: Option<Counted>,
    /// The attempt that was begun last, where what it publishes is settled with the message.
    attempt: Option<Context>,
}

/// What a failure of the handler means.
pub(super) enum Verdict {
    /// Another attempt in place, after this pause.
    Again(Duration),
    /// Another attempt in place, after a delay for which nobody else is to wait.
    Later(Duration),
    /// No further attempt in place.
    ForGood {
        error: Error,
        /// Whether a delay may mend it.
        may_wait: bool,
    },
}

impl Held {
    /// A delivery of the topic itself.
    pub(super) fn new(delivery: Delivery) -> Option<Self> {
        let (received, settler) = delivery.into_parts();
        received.map(|received| Self {
            received: Arc::new(received),
            history: History::default(),
            delivered: None,
            settler,
            pauses: None,
            counted: None,
            attempt: None,
        })
    }

    /// A delivery of one of the retry topics, which stands for one of `topic`.
    pub(super) fn retried(delivery: Delivery, topic: Name) -> Option<Self> {
        let (received, settler) = delivery.into_parts();
        received.map(|received| {
            let delivered = Some(Box::new(received.message.clone()));
            let (history, message) = History::take(received.message);
            let received = Received {
                message,
                topic,
                partition: history.partition.unwrap_or_default(),
                offset: history.offset,
                redeliveries: received.redeliveries,
            };
            let received = Arc::new(received);
            let (pauses, counted, attempt) = (None, None, None);
            Self { received, history, delivered, settler, pauses, counted, attempt }
        })
    }

    /// The same, counted until it is gone.
    pub(super) fn counted(mut self, counted: Option<Counted>) -> Self {
        self.counted = counted;
        self
    }

    /// The key within its partition.
    pub(super) fn key(&self) -> Option<Key> {
        let key = self.received.message.key()?.clone();
        Some(((self.received.topic, self.received.partition), key))
    }

    /// Begins an attempt.
    pub(super) fn begin(&mut self, broker: &Broker, exactly_once: bool) -> Context {
        self.history.attempts = self.history.attempts.saturating_add(1);
        let (received, attempt) = (self.received.clone(), self.history.attempts);
        let context = Context::new(received, attempt, broker.clone(), exactly_once);
        self.attempt = exactly_once.then(|| context.clone());
        context
    }

    /// The attempt that was begun last has failed.
    pub(super) fn failed(&mut self, failure: Failure, retry: &Retry) -> Verdict {
        self.history.first_failure.get_or_insert_with(schedule::now);
        let pauses = self.pauses.get_or_insert_with(|| retry.pauses());
        let (received, attempt) = (&self.received, self.history.attempts);
        if let Some(pause) = pauses.next().filter(|_| !failure.is_permanent()) {
            let pause = failure.delay().unwrap_or(pause);
            tracing::warn!(topic = %received.topic, partition = received.partition,
                offset = received.offset, attempt, ?pause, error = %failure,
                "the handler failed and is called again after the pause");
            return Verdict::Again(pause);
        }
        if let Some(delay) =
            retry.delay_in_place(self.history.delays).filter(|_| !failure.is_permanent())
        {
            self.history.delays += 1;
            self.pauses = None;
            tracing::warn!(topic = %received.topic, partition = received.partition,
                offset = received.offset, attempt, ?delay, error = %failure,
                "the handler failed and is called again after the delay; its key waits");
            return Verdict::Later(delay);
        }
        let may_wait = !failure.is_permanent();
        let error =
            Error::new(ErrorKind::Handler, "consume", format!("the handler failed: {failure}"))
                .with("topic", received.topic)
                .with("attempts", attempt)
                .with_source(failure.into_error());
        Verdict::ForGood { error, may_wait }
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    pub(super) fn received(&self) -> &Received {
        &self.received
    }

    /// When it is to be handled, if not at once.
    pub(super) fn due(&self) -> Option<SystemTime> {
        self.history.due
    }

    pub(super) fn is_live(&self) -> bool {
        self.settler.as_ref().is_none_or(Settler::is_live)
    }

    /// It was handled by the last attempt.
    pub(super) fn handled(mut self) {
        match self.attempt.take().map(|attempt| attempt.give_outputs()) {
            Some(outputs) if !outputs.is_empty() => self.settle_with(outputs),
            _ => self.settle(Settlement::Ack),
        }
    }

    pub(super) fn settle(mut self, settlement: Settlement) {
        if let Some(settler) = self.settler.take() {
            settler.done(settlement);
        }
    }

    /// Settles it by the transaction that publishes these.
    pub(super) fn settle_with(mut self, outputs: Vec<Outgoing>) {
        if let Some(settler) = self.settler.take() {
            settler.done_with(outputs);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(settler) = self.settler.take() {
            let delivered = self.delivered.take().map(|message| *message);
            settler.requeue(delivered.unwrap_or_else(|| self.received.message.clone()));
        }
    }
}

//! A message in the hands of a consumer.

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
///
/// It is moved often on its way to the handler, so what most messages never have is boxed.
pub(super) struct Held {
    /// The message as the application sees it, without our headers and from the topic it was
    /// published to, in the attempt that was begun last or else is to come.
    context: Context,
    /// Whether that attempt was begun.
    begun: bool,
    /// Whether what an attempt publishes is settled with the message.
    exactly_once: bool,
    /// What happened to it before that attempt, if anything.
    history: Option<Box<History>>,
    /// As it was delivered, where that is something else.
    delivered: Option<Box<Message>>,
    settler: Option<Settler>,
    /// The pauses that are left in place, from its first failure on.
    pauses: Option<Box<Pauses>>,
    /// That it is counted as being here, from when it may be handled.
    counted: Option<Counted>,
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
    pub(super) fn new(delivery: Delivery, broker: &Broker, exactly_once: bool) -> Option<Self> {
        let (received, settler) = delivery.into_parts();
        received.map(|received| Self {
            context: Context::new(received, 1, broker.clone(), exactly_once),
            begun: false,
            exactly_once,
            history: None,
            delivered: None,
            settler,
            pauses: None,
            counted: None,
        })
    }

    /// A delivery of one of the retry topics, which stands for one of `topic`.
    pub(super) fn retried(
        delivery: Delivery,
        topic: Name,
        broker: &Broker,
        exactly_once: bool,
    ) -> Option<Self> {
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
            let attempt = history.attempts.saturating_add(1);
            let context = Context::new(received, attempt, broker.clone(), exactly_once);
            let (begun, history) = (false, Some(Box::new(history)));
            let (pauses, counted) = (None, None);
            Self { context, begun, exactly_once, history, delivered, settler, pauses, counted }
        })
    }

    /// The same, counted until it is gone.
    pub(super) fn counted(mut self, counted: Option<Counted>) -> Self {
        self.counted = counted;
        self
    }

    /// The key within its partition.
    pub(super) fn key(&self) -> Option<Key> {
        let received = self.received();
        let key = received.message.key()?.clone();
        Some(((received.topic, received.partition), key))
    }

    /// Begins an attempt.
    pub(super) fn begin(&mut self) -> Context {
        if self.begun {
            self.context = self.context.next_attempt(self.exactly_once);
        }
        self.begun = true;
        self.context.clone()
    }

    /// The attempt that was begun last has failed.
    pub(super) fn failed(&mut self, failure: Failure, retry: &Retry) -> Verdict {
        let history = self.history.get_or_insert_default();
        history.first_failure.get_or_insert_with(schedule::now);
        let pauses = self.pauses.get_or_insert_with(|| Box::new(retry.pauses()));
        let (received, attempt) = (self.context.received(), self.context.attempt());
        if let Some(pause) = pauses.next().filter(|_| !failure.is_permanent()) {
            let pause = failure.delay().unwrap_or(pause);
            tracing::warn!(topic = %received.topic, partition = received.partition,
                offset = received.offset, attempt, ?pause, error = %failure,
                "the handler failed and is called again after the pause");
            return Verdict::Again(pause);
        }
        if let Some(delay) =
            retry.delay_in_place(history.delays).filter(|_| !failure.is_permanent())
        {
            history.delays += 1;
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

    /// What has happened to it, the attempt that was begun last included.
    pub(super) fn history(&self) -> History {
        let history = self.history.as_deref().cloned().unwrap_or_default();
        match self.begun {
            true => History { attempts: self.context.attempt(), ..history },
            false => history,
        }
    }

    pub(super) fn received(&self) -> &Received {
        self.context.received()
    }

    /// When it is to be handled, if not at once.
    pub(super) fn due(&self) -> Option<SystemTime> {
        self.history.as_ref()?.due
    }

    /// Whether it is to be handled though its consumer stops, which has wound its source down.
    pub(super) fn holds_back_later_ones(&self) -> bool {
        self.delivered.is_none() && self.is_live()
    }

    pub(super) fn is_live(&self) -> bool {
        self.settler.as_ref().is_none_or(Settler::is_live)
    }

    /// It was handled by the last attempt.
    pub(super) fn handled(self) {
        let outputs = if self.exactly_once { self.context.give_outputs() } else { Vec::new() };
        match outputs.is_empty() {
            true => self.settle(Settlement::Ack),
            false => self.settle_with(outputs),
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
            settler.requeue(delivered.unwrap_or_else(|| self.context.message().clone()));
        }
    }
}

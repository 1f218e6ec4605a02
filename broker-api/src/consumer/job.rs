//! One message: decoded, handled, tried again, put off or given up, settled.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::breaker::Circuit;
use super::escalation::{Escalation, Next};
use super::{Context, Dedup, Failure, Retry};
use crate::backend::Settlement;
use crate::broker::Broker;
use crate::dead_letter::headers::History;
use crate::delivery::{Delivery, Received, Settler};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::Name;
use crate::topic::Topic;

/// How often a job that pauses between attempts looks whether its partition is still its own.
const LOOK: Duration = Duration::from_millis(200);

/// What all messages of a consumer share.
pub(super) struct Work<T: 'static, F> {
    pub(super) broker: Broker,
    pub(super) topic: Topic<T>,
    pub(super) retry: Retry,
    pub(super) handler_timeout: Option<Duration>,
    pub(super) circuit: Option<Circuit>,
    pub(super) dedup: Option<Arc<dyn Dedup>>,
    pub(super) group: Name,
    pub(super) escalation: Escalation,
    pub(super) handler: F,
    pub(super) stopping: Stopping,
}

/// Tells jobs that pause between attempts that there will be no further attempt.
#[derive(Default)]
pub(super) struct Stopping {
    stopped: AtomicBool,
    changed: Notify,
}

impl Stopping {
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// A delivery whose message is shared with its handler. Dropped unsettled it is delivered again.
pub(super) struct Held {
    /// As the application sees it: without our headers, from the topic it was published to.
    received: Arc<Received>,
    history: History,
    /// As it was delivered, where that is something else.
    delivered: Option<Box<Message>>,
    settler: Option<Settler>,
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
            Self { received: Arc::new(received), history, delivered, settler }
        })
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

    fn settle(mut self, settlement: Settlement) {
        if let Some(settler) = self.settler.take() {
            settler.done(settlement);
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

impl<T, F, Fut> Work<T, F>
where
    F: Fn(T, Context) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    /// Handles one message until it is settled or handed back.
    ///
    /// # Errors
    /// What has to stop the consumer; the message was handed back.
    pub(super) async fn handle(&self, mut held: Held) -> Result<()> {
        let mut pauses = self.retry.pauses();
        loop {
            let value = match self.topic.decode(&held.received.message) {
                Ok(value) => value,
                Err(error) => return self.give_up(held, error, false).await,
            };
            held.history.attempts = held.history.attempts.saturating_add(1);
            let attempt = held.history.attempts;
            let context = Context::new(held.received.clone(), attempt, self.broker.clone());
            let Some(ended) = self.attempt(&held, value, context).await else { return Ok(()) };
            let failure = match ended {
                Ok(()) => {
                    held.settle(Settlement::Ack);
                    return Ok(());
                }
                Err(failure) => failure,
            };
            held.history.first_failure.get_or_insert_with(SystemTime::now);
            let pause = match pauses.next() {
                Some(pause) if !failure.is_permanent() => failure.delay().unwrap_or(pause),
                _ => {
                    let permanent = failure.is_permanent();
                    let text = format!("the handler failed: {failure}");
                    let error = Error::new(ErrorKind::Handler, "consume", text)
                        .with("topic", self.topic.name())
                        .with("attempts", attempt)
                        .with_source(failure.into_error());
                    return self.give_up(held, error, !permanent).await;
                }
            };
            let received = held.received();
            tracing::warn!(topic = %received.topic, partition = received.partition,
                offset = received.offset, attempt, ?pause, error = %failure,
                "the handler failed and is called again after the pause");
            if !self.pause(&held, pause).await {
                return Ok(());
            }
        }
    }

    /// Makes one attempt, when the circuit breaker lets it; `None` if the consumer stops before.
    async fn attempt(
        &self,
        held: &Held,
        value: T,
        context: Context,
    ) -> Option<Result<(), Failure>> {
        let Some(circuit) = &self.circuit else {
            return Some(self.call_once(value, context).await);
        };
        let admitted = tokio::select! {
            biased;
            admitted = circuit.admit() => admitted,
            () = self.unwanted(held) => return None,
        };
        let ended = self.call_once(value, context).await;
        admitted.ended(ended.is_err());
        let problem =
            circuit.is_open().then_some("the circuit breaker is open: the handler keeps failing");
        self.broker.inner.set_problem(self.topic.name(), self.group, problem);
        Some(ended)
    }

    /// Calls the handler unless the group has handled the message, and sees that what it published
    /// is confirmed.
    async fn call_once(&self, value: T, context: Context) -> Result<(), Failure> {
        let message = context.message().clone();
        let known = self.dedup.as_deref().zip(message.id());
        if let Some((dedup, id)) = known
            && dedup.is_done(self.group, id).await?
        {
            return Ok(());
        }
        self.call(value, context.clone()).await?;
        context.confirmed().await?;
        if let Some((dedup, id)) = known {
            dedup.done(self.group, id).await?;
        }
        Ok(())
    }

    /// Calls the handler: its panic and its time-out are failures like any other.
    async fn call(&self, value: T, context: Context) -> Result<(), Failure> {
        let handling = async { (self.handler)(value, context).await };
        let caught = AssertUnwindSafe(handling).catch_unwind();
        let ended = match self.handler_timeout {
            None => caught.await,
            Some(limit) => match timeout(limit, caught).await {
                Ok(ended) => ended,
                Err(_) => return Err(format!("the handler took longer than {limit:?}").into()),
            },
        };
        ended.unwrap_or_else(|panic| Err(panic_text(panic.as_ref()).into()))
    }

    /// Waits before the next attempt; `false` if there is to be none.
    async fn pause(&self, held: &Held, pause: Duration) -> bool {
        timeout(pause, self.unwanted(held)).await.is_err()
    }

    /// Waits until the message is not to be handled here any more: the consumer stops, or the
    /// partition is given up.
    async fn unwanted(&self, held: &Held) {
        loop {
            let stopped = self.stopping.changed.notified();
            if self.stopping.is_stopped() || !held.is_live() {
                return;
            }
            // Whichever of the two it was, the loop looks again.
            let _ = timeout(LOOK, stopped).await;
        }
    }

    /// Puts the message off, or ends it, as the policy says.
    async fn give_up(&self, held: Held, error: Error, may_wait: bool) -> Result<()> {
        let received = held.received();
        let error = error.with("partition", received.partition);
        let error = match received.offset {
            Some(offset) => error.with("offset", offset),
            None => error,
        };
        match self.escalation.next(received, &held.history, &error, may_wait) {
            Next::Publish(to, message) => {
                tracing::warn!(%error, %to, "a message is put off or given up");
                self.move_on(held, to, message).await
            }
            Next::Discard => {
                tracing::error!(%error, "a message was discarded");
                held.settle(Settlement::Reject);
                Ok(())
            }
            Next::Stop => Err(error),
        }
    }

    /// Publishes the message to its next station, and settles it only when that is confirmed.
    async fn move_on(&self, held: Held, to: Name, message: Message) -> Result<()> {
        let mut pauses = Retry::forever().pauses();
        loop {
            let published = self.broker.publish_message(to, message.clone()).with_any_headers();
            let error = match published.await {
                Ok(_) => {
                    held.settle(Settlement::Ack);
                    return Ok(());
                }
                Err(error) if error.is_permanent() => return Err(error),
                Err(error) => error,
            };
            tracing::error!(%error, %to, "a failed message could not be moved on; it is tried again");
            if !self.pause(&held, pauses.next().unwrap_or(LOOK)).await {
                return Ok(());
            }
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("with something that is not text"))
}

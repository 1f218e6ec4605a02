//! One message: decoded, handled, tried again, put off or given up, settled.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::breaker::Circuit;
use super::escalation::{Escalation, Next};
use super::held::{Held, Verdict};
use super::watch::Watch;
use super::{Context, Dedup, Failure, Retry};
use crate::backend::{Outgoing, Settlement};
use crate::broker::Broker;
use crate::dead_letter::make_room;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::Name;
use crate::telemetry::Consuming;
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
    /// Whether messages are settled together with what is published for them.
    pub(super) exactly_once: bool,
    pub(super) escalation: Escalation,
    pub(super) handler: F,
    pub(super) stopping: Stopping,
    /// The places of handlers at work.
    pub(super) places: Semaphore,
    pub(super) telemetry: Consuming,
    pub(super) watch: Arc<Watch>,
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

impl<T, F, Fut> Work<T, F>
where
    F: Fn(T, Context) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    /// Handles one message until it is settled or handed back. While it waits for a delay its place
    /// is free for another, and it does not count as in hand.
    ///
    /// # Errors
    /// What has to stop the consumer; the message was handed back.
    pub(super) async fn handle<'a>(
        &'a self,
        mut held: Held,
        mut place: SemaphorePermit<'a>,
    ) -> Result<()> {
        let mut hold = self.watch.hold();
        loop {
            let value = match self.decode(&held) {
                Ok(value) => value,
                Err(error) => return self.give_up(held, error, false).await,
            };
            let context = held.begin();
            let Some(ended) = self.attempt(&held, value, context).await else { return Ok(()) };
            let failure = match ended {
                Ok(()) => {
                    held.handled();
                    return Ok(());
                }
                Err(failure) => failure,
            };
            let goes_on = match self.failed(&mut held, failure) {
                Verdict::Again(pause) => self.pause(&held, pause).await,
                Verdict::Later(delay) => {
                    drop((place, hold));
                    let Some(again) = self.wait(&held, delay).await else { return Ok(()) };
                    (place, hold) = (again, self.watch.hold());
                    true
                }
                Verdict::ForGood { error, may_wait } => {
                    return self.give_up(held, error, may_wait).await;
                }
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Waits for a delay and then for a place; `None` if there is to be no further attempt.
    async fn wait(&self, held: &Held, delay: Duration) -> Option<SemaphorePermit<'_>> {
        if !self.pause(held, delay).await {
            return None;
        }
        tokio::select! {
            biased;
            // It is never closed.
            place = self.places.acquire() => place.ok(),
            () = self.unwanted(held) => None,
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
        self.watch.set_open(circuit.is_open());
        Some(ended)
    }

    /// Calls the handler unless the group has handled the message, and sees that what it published
    /// is confirmed.
    async fn call_once(&self, value: T, context: Context) -> Result<(), Failure> {
        let handling = pin!(async {
            if self.is_done(&context).await? {
                return Ok(());
            }
            self.call(value, context.clone()).await?;
            context.confirmed().await?;
            self.done(&context).await
        });
        self.telemetry.call(&context, handling).await
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
}

impl<T, F> Work<T, F> {
    /// The value of a message.
    pub(super) fn decode(&self, held: &Held) -> Result<T> {
        let decoded = self.topic.decode(&held.received().message);
        decoded.inspect_err(|error| {
            self.broker.inner.counts.failed();
            self.telemetry.failed(error.kind());
        })
    }

    /// What a failure of the handler means for the message.
    pub(super) fn failed(&self, held: &mut Held, failure: Failure) -> Verdict {
        self.broker.inner.counts.failed();
        self.telemetry.failed(failure.kind());
        let failed = held.failed(failure, &self.retry);
        match failed {
            Verdict::Again(_) => self.telemetry.retried(),
            Verdict::Later(_) => self.telemetry.delayed(),
            Verdict::ForGood { .. } => {}
        }
        failed
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
    pub(super) async fn give_up(&self, held: Held, error: Error, may_wait: bool) -> Result<()> {
        let received = held.received();
        let error = error.with("partition", received.partition);
        let error = match received.offset {
            Some(offset) => error.with("offset", offset),
            None => error,
        };
        match self.escalation.next(received, &held.history(), &error, may_wait) {
            Next::Delay(to, message) => {
                tracing::warn!(%error, %to, "a message is put off");
                match self.move_on(&held, to, &message).await {
                    Ok(moved) => {
                        if moved.settle(held) {
                            self.telemetry.delayed();
                        }
                        Ok(())
                    }
                    // With what is added to it the message has no room there: it is given up.
                    Err(more) if more.kind() == ErrorKind::TooLarge => {
                        Box::pin(self.give_up(held, error, false)).await
                    }
                    Err(more) => Err(more),
                }
            }
            Next::DeadLetter(to, mut message) => {
                tracing::warn!(%error, %to, "a message is given up");
                let moved = loop {
                    match self.move_on(&held, to, &message).await {
                        Err(more) if more.kind() == ErrorKind::TooLarge => {
                            message = self.shortened(&held, message, more).await?;
                        }
                        moved => break moved?,
                    }
                };
                if moved.settle(held) {
                    self.telemetry.dead_lettered(error.kind());
                }
                Ok(())
            }
            Next::Discard => {
                tracing::error!(%error, "a message was discarded");
                held.settle(Settlement::Reject);
                self.telemetry.discarded(error.kind());
                Ok(())
            }
            Next::Stop => Err(error),
        }
    }

    /// A dead letter that had no room, without the largest part of it.
    ///
    /// # Errors
    /// The one that said so, where the message keeps to the limits of what is published through this
    /// crate: then the dead-letter topic is not made for it, and it is not settled.
    async fn shortened(&self, held: &Held, letter: Message, error: Error) -> Result<Message> {
        let backend = &self.broker.inner.backend;
        let limit = backend.describe_topic(self.topic.name()).await?.max_message_bytes;
        make_room(letter, &held.received().message, limit, error)
    }

    /// Publishes the message to its next station; it is to be settled only when that is confirmed,
    /// or by the transaction that does both.
    async fn move_on(&self, held: &Held, to: Name, message: &Message) -> Result<Moved> {
        let mut pauses = Retry::forever().pauses();
        loop {
            let published = self.broker.publish_message(to, message.clone()).with_any_headers();
            let moved = match self.exactly_once {
                true => published.prepare(held.received().topic).await.map(Some),
                false => published.await.map(|_| None),
            };
            let error = match moved {
                Ok(None) => return Ok(Moved::Confirmed),
                Ok(Some(output)) => return Ok(Moved::With(vec![output])),
                Err(error) if error.is_permanent() => return Err(error),
                Err(error) => error,
            };
            tracing::error!(%error, %to, "a failed message could not be moved on; it is tried again");
            if !self.pause(held, pauses.next().unwrap_or(LOOK)).await {
                return Ok(Moved::Stopped);
            }
        }
    }

    /// Whether the group has handled this message before, as far as is remembered.
    pub(super) async fn is_done(&self, context: &Context) -> Result<bool, Failure> {
        match self.dedup.as_deref().zip(context.message().id()) {
            Some((dedup, id)) => Ok(dedup.is_done(self.group, id).await?),
            None => Ok(false),
        }
    }

    /// Remembers that the group has handled this message.
    pub(super) async fn done(&self, context: &Context) -> Result<(), Failure> {
        match self.dedup.as_deref().zip(context.message().id()) {
            Some((dedup, id)) => Ok(dedup.done(self.group, id).await?),
            None => Ok(()),
        }
    }
}

/// What became of a message that goes to its next station.
enum Moved {
    Confirmed,
    /// It is published by the transaction that settles it.
    With(Vec<Outgoing>),
    /// The consumer stopped before.
    Stopped,
}

impl Moved {
    /// Settles the message here, if it has moved.
    fn settle(self, held: Held) -> bool {
        match self {
            Self::Confirmed => held.settle(Settlement::Ack),
            Self::With(outputs) => held.settle_with(outputs),
            Self::Stopped => return false,
        }
        true
    }
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("with something that is not text"))
}

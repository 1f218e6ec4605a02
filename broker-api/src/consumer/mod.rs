//! A consumer: decode, validate, handle, settle.

mod backlog;
mod batch;
mod breaker;
mod context;
mod control;
mod dedup;
mod delayed;
mod escalation;
mod exactly_once;
mod failure;
mod group;
mod held;
mod job;
mod lanes;
mod membership;
mod retry;
mod runner;
mod service;
mod session;
#[cfg(test)]
mod tests;
mod watch;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use batch::Batches;
pub use breaker::Breaker;
pub use context::Context;
pub use control::Control;
pub use dedup::{Dedup, RecentIds};
pub use failure::{Failure, Permanent};
pub use group::Group;
pub(crate) use membership::Membership;
pub use retry::Retry;
pub use service::{Failed, Handler, Handling, Layered, Request};
pub(crate) use watch::Watches;

use crate::backend::{GroupSpec, Order, Start, Subscribe, Transactions};
use crate::broker::Broker;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::stop::Until;
use crate::subscription::Subscription;
use crate::topic::Topic;

/// What becomes of a message that cannot be handled: its payload cannot be decoded or is invalid,
/// the handler says that it never will be, or its attempts are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unprocessable {
    /// It goes to the dead-letter topic, with the reason in its headers, and the next one follows.
    #[default]
    DeadLetter,
    /// It is rejected, and the error logged.
    Discard,
    /// The consumer stops with the error; the message stays, and comes again.
    Stop,
}

/// A consumer of one topic in one group, to be configured and then run.
///
/// ```
/// # use broker_api::{Broker, Topic};
/// # const USAGE: Topic<bytes::Bytes> = Topic::raw("usage");
/// # async fn store(_: bytes::Bytes) -> std::io::Result<()> { Ok(()) }
/// # async fn consume(broker: Broker) -> broker_api::Result<()> {
/// broker
///     .consumer(USAGE, "billing")
///     .concurrency(16)
///     .run(|usage, _| async move { Ok(store(usage).await?) })
///     .await
/// # }
/// ```
#[must_use = "nothing is consumed before `run` or `subscribe`"]
pub struct Consumer<T: 'static> {
    broker: Broker,
    topic: Topic<T>,
    group: Result<GroupSpec>,
    prefetch: Option<usize>,
    concurrency: usize,
    retry: Retry,
    unprocessable: Unprocessable,
    dead_letters: Result<Option<Name>>,
    handler_timeout: Option<Duration>,
    control: Control,
    breaker: Option<Breaker>,
    dedup: Option<Arc<dyn Dedup>>,
    exactly_once: Option<Transactions>,
    stop: Option<Until>,
}

impl Broker {
    /// A consumer of a topic in a group. Without further settings it handles one message at a
    /// time, tries a failed one again as [`Retry::exponential`] says, and moves one that still
    /// fails, or cannot be decoded, to the dead-letter topic `{topic}.{group}.dlt`.
    pub fn consumer<T>(&self, topic: Topic<T>, group: &str) -> Consumer<T> {
        Consumer {
            broker: self.clone(),
            topic,
            group: Name::intern(group).map(GroupSpec::new),
            prefetch: None,
            concurrency: 1,
            retry: Retry::default(),
            unprocessable: Unprocessable::default(),
            dead_letters: Ok(None),
            handler_timeout: None,
            control: Control::new(),
            breaker: None,
            dedup: None,
            exactly_once: None,
            stop: None,
        }
    }
}

impl<T: 'static> Consumer<T> {
    /// Sets where the group begins if it does not exist yet; with the oldest message otherwise.
    pub fn start(mut self, start: Start) -> Self {
        self.group = self.group.map(|group| GroupSpec { start, ..group });
        self
    }

    /// Sets the order of the group; messages of one key stay in order otherwise.
    pub fn order(mut self, order: Order) -> Self {
        self.group = self.group.map(|group| GroupSpec { order, ..group });
        self
    }

    /// Sets how many messages may be unsettled at a time; otherwise 4 for each that may be
    /// handled at once, and at least [`DEFAULT_PREFETCH`](crate::DEFAULT_PREFETCH).
    pub fn prefetch(mut self, messages: usize) -> Self {
        self.prefetch = Some(messages);
        self
    }

    /// Sets how many messages may be handled at a time, at least 1; 1 otherwise. Messages of one
    /// key are still handled one after the other, unless the group's order is [`Order::None`].
    /// They share the task that runs the consumer; for more cores run more consumers.
    pub fn concurrency(mut self, messages: usize) -> Self {
        self.concurrency = messages.max(1);
        self
    }

    /// Sets when a failed message is tried again.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Sets what becomes of a message that cannot be handled.
    pub fn unprocessable(mut self, unprocessable: Unprocessable) -> Self {
        self.unprocessable = unprocessable;
        self
    }

    /// Sets the dead-letter topic, which may be shared by many topics and groups.
    pub fn dead_letter_topic(mut self, topic: &str) -> Self {
        self.dead_letters = Name::intern(topic).map(Some);
        self
    }

    /// Sets how long one call of the handler may take; for ever otherwise. A call that takes longer
    /// is cancelled (its future is dropped) and counts as failed.
    pub fn handler_timeout(mut self, limit: Duration) -> Self {
        self.handler_timeout = Some(limit);
        self
    }

    /// Lets `control` pause and resume the consumer.
    pub fn control(mut self, control: &Control) -> Self {
        self.control = control.clone();
        self
    }

    /// Sets a circuit breaker; there is none otherwise.
    pub fn breaker(mut self, breaker: Breaker) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// Sets what remembers the messages handled, so that each is handled once.
    pub fn dedup(mut self, dedup: impl Dedup) -> Self {
        self.dedup = Some(Arc::new(dedup));
        self
    }

    /// Stops the consumer when this future ends: what is being handled is finished (at most
    /// [`Settings::drain_timeout`](crate::Settings)), the rest is handed back.
    pub fn until(mut self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        self.stop = Some(Box::pin(stop));
        self
    }

    /// Stops also when this future ends.
    fn or_until(mut self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        self.stop = Some(match self.stop.take() {
            None => Box::pin(stop),
            Some(first) => Box::pin(async move {
                tokio::select! {
                    () = first => {}
                    () = stop => {}
                }
            }),
        });
        self
    }

    /// Joins the group and gives its deliveries to be settled by hand.
    ///
    /// # Errors
    /// Those of [`Broker::subscribe`]; [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) with
    /// [`Consumer::exactly_once`].
    pub async fn subscribe(self) -> Result<Subscription> {
        if self.exactly_once.is_some() {
            return Err(exactly_once::refused(
                "there is no handler whose outcomes it could settle",
            )
            .with("topic", self.topic.name()));
        }
        let subscribe = self.subscription()?;
        self.broker.subscribe(subscribe).await
    }

    /// Joins the group and calls `handler` for each message, in the caller's own task: `Ok`
    /// acknowledges the message, an error or a panic has it tried again, see [`Retry`].
    ///
    /// Returns `Ok` when it was stopped, by [`Consumer::until`] or by [`Broker::close`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the handlers, and hands back every message not acknowledged.
    ///
    /// # Errors
    /// Those of [`Broker::subscribe`]; what ended the subscription and cannot be mended by
    /// joining again; with [`Unprocessable::Stop`] the first message that cannot be handled.
    pub async fn run<F, Fut>(self, handler: F) -> Result<()>
    where
        F: Fn(T, Context) -> Fut,
        Fut: Future<Output = Result<(), Failure>>,
    {
        runner::run(self, handler).await
    }

    fn subscription(&self) -> Result<Subscribe> {
        let group = *self.group.as_ref().map_err(|error| self.bad_name(error))?;
        let mut subscribe = Subscribe::new(self.topic.name(), group);
        subscribe.prefetch =
            self.prefetch.unwrap_or_else(|| subscribe.prefetch.max(4 * self.concurrency));
        Ok(subscribe)
    }

    fn escalation(&self) -> Result<escalation::Escalation> {
        let group = *self.group.as_ref().map_err(|error| self.bad_name(error))?;
        let dead_letters = *self.dead_letters.as_ref().map_err(|error| self.bad_name(error))?;
        let delays = self.retry.delays_elsewhere();
        let topic = self.topic.name();
        escalation::Escalation::new(topic, group, delays, self.unprocessable, dead_letters)
    }

    /// An error that a setter met, told when the consumer is started.
    fn bad_name(&self, error: &Error) -> Error {
        Error::new(error.kind(), "consume", error.message().to_owned())
            .with("topic", self.topic.name())
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("topic", &self.topic)
            .field("group", &self.group)
            .field("concurrency", &self.concurrency)
            .field("retry", &self.retry)
            .field("unprocessable", &self.unprocessable)
            .finish_non_exhaustive()
    }
}

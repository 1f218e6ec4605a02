//! What a consuming runtime with a flaw makes of what it is told.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use broker_api::consumer::Batches;
use broker_api::dead_letter::Pace;
use broker_api::{Breaker, Consumer, Control, Failure, Retry, Settings};
use futures_util::FutureExt as _;

/// What is done instead of what a case asks for, behind its back; what is `None` is done as asked.
/// Only for the tests of the suite itself: a runtime that does otherwise than it was told has to
/// fail the case made for that.
#[doc(hidden)]
#[derive(Debug, Clone, Default)]
pub struct Tamper {
    pub drain_timeout: Option<Duration>,
    pub concurrency: Option<usize>,
    pub handler_timeout: Option<Duration>,
    pub control: Option<Control>,
    pub breaker: Option<Breaker>,
    pub retry: Option<Retry>,
    pub batch_size: Option<usize>,
    pub batch_wait: Option<Duration>,
    pub answer_timeout: Option<Duration>,
    pub pace: Option<Pace>,
    pub failure: Option<fn(Failure) -> Failure>,
    /// Outputs are published beside the settlements.
    pub plain: bool,
    /// A panic of a handler is taken for success.
    pub swallows_panics: bool,
    /// Consumers that are to run together run each for itself.
    pub apart: bool,
    /// Nobody hears that consumers which run together are to be stopped.
    pub deaf: bool,
}

impl Tamper {
    pub(crate) fn settings(&self, settings: Settings) -> Settings {
        let drain_timeout = self.drain_timeout.unwrap_or(settings.drain_timeout);
        Settings { drain_timeout, ..settings }
    }

    pub(crate) fn consumer<T>(&self, mut consumer: Consumer<T>) -> Consumer<T> {
        if let Some(concurrency) = self.concurrency {
            consumer = consumer.concurrency(concurrency);
        }
        if let Some(limit) = self.handler_timeout {
            consumer = consumer.handler_timeout(limit);
        }
        if let Some(control) = &self.control {
            consumer = consumer.control(control);
        }
        if let Some(breaker) = self.breaker {
            consumer = consumer.breaker(breaker);
        }
        if let Some(retry) = &self.retry {
            consumer = consumer.retry(retry.clone());
        }
        consumer
    }

    pub(crate) fn exactly_once<T>(&self, consumer: Consumer<T>) -> Consumer<T> {
        if self.plain { consumer } else { consumer.exactly_once() }
    }

    pub(crate) fn batches<T>(
        &self,
        consumer: Consumer<T>,
        size: usize,
        wait: Duration,
    ) -> Batches<T> {
        let size = self.batch_size.unwrap_or(size);
        self.consumer(consumer).batches(size, self.batch_wait.unwrap_or(wait))
    }

    pub(crate) async fn handle(
        &self,
        handling: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let handled = match self.swallows_panics {
            true => AssertUnwindSafe(handling).catch_unwind().await.unwrap_or(Ok(())),
            false => handling.await,
        };
        match self.failure {
            Some(failure) => handled.map_err(failure),
            None => handled,
        }
    }

    pub(crate) fn answer_timeout(&self, limit: Duration) -> Duration {
        self.answer_timeout.unwrap_or(limit)
    }

    pub(crate) fn pace(&self, pace: Pace) -> Pace {
        self.pace.unwrap_or(pace)
    }
}

//! Handlers that take many messages at once.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until, timeout};

use super::backlog::{Backlog, Key};
use super::held::{Held, Verdict};
use super::job::{Work, panic_text};
use super::session::{Input, Session};
use super::{Consumer, Context, Failure};
use crate::error::Result;
use crate::message::MessageId;

/// A consumer whose handler takes batches.
#[must_use = "nothing is consumed before `run`"]
#[derive(Debug)]
pub struct Batches<T: 'static> {
    consumer: Consumer<T>,
    size: usize,
    wait: Duration,
}

impl<T: 'static> Consumer<T> {
    /// Hands messages over in batches of at most `size`, as soon as there are so many, or `wait`
    /// after the first of a batch has come. The prefetch should be at least twice the size.
    pub fn batches(self, size: usize, wait: Duration) -> Batches<T> {
        Batches { consumer: self, size: size.max(1), wait }
    }
}

impl<T: 'static> Batches<T> {
    /// Calls `handler` with one batch after the other; it gives one outcome for each message, in
    /// their order. Each is then acknowledged, tried again in a later batch, or given up, as by
    /// [`Consumer::run`]. [`Consumer::concurrency`] and [`Consumer::breaker`] have no effect.
    ///
    /// Messages of one key are in order, within a batch and over all. To keep it so, the messages
    /// of a key that follow a failed one in its batch are handled again, whatever their outcome.
    ///
    /// A handler that panics, or takes longer than its limit, has failed for the whole batch; one
    /// that gives fewer outcomes than messages, for the rest.
    ///
    /// # Cancel safety
    /// As [`Consumer::run`].
    ///
    /// # Errors
    /// As [`Consumer::run`].
    pub async fn run<F, Fut>(self, handler: F) -> Result<()>
    where
        F: Fn(Vec<(T, Context)>) -> Fut,
        Fut: Future<Output = Vec<Result<(), Failure>>>,
    {
        let Self { consumer, size, wait } = self;
        let session = Session::open(consumer, handler).await?;
        let Session { work, mut inputs, mut stop, watched, control, keyed, .. } = session;
        let mut backlog = Backlog::new();
        let mut full_at = None;
        let outcome = loop {
            backlog.release(Instant::now());
            let paused = control.is_paused();
            let complete =
                backlog.ready() >= size || full_at.is_some_and(|at| at <= Instant::now());
            if backlog.ready() > 0 && complete && !paused {
                full_at = None;
                let batch = backlog.take(size);
                let hold = work.watch.hold();
                let handling = work.handle_batch(batch, &mut backlog);
                tokio::pin!(handling);
                let handled = tokio::select! {
                    biased;
                    handled = &mut handling => handled,
                    // As with single messages, what is at hand is finished, within the drain time.
                    () = stop.wait() => {
                        let limit = work.broker.inner.settings.drain_timeout;
                        break timeout(limit, handling).await.unwrap_or_else(|_| {
                            tracing::warn!(?limit, "a batch did not end within the drain time; it is handed back");
                            Ok(())
                        });
                    }
                };
                drop(hold);
                if let Err(error) = handled {
                    break Err(error);
                }
                tokio::task::consume_budget().await;
                continue;
            }
            if backlog.ready() > 0 && full_at.is_none() {
                full_at = Some(Instant::now() + wait);
            }
            let wake =
                [full_at.filter(|_| !paused), backlog.next_due()].into_iter().flatten().min();
            tokio::select! {
                biased;
                () = stop.wait() => break Ok(()),
                () = control.running(), if paused => {}
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
                input = inputs.next(paused) => match input {
                    Ok(Input::Messages(messages)) => for held in messages {
                        let key = if keyed { held.key() } else { None };
                        backlog.push(key, held);
                    },
                    Ok(Input::Rejoined) => backlog = Backlog::new(),
                    Ok(Input::Ended) => break Ok(()),
                    Err(error) => break Err(error),
                },
            }
        };
        drop(backlog);
        let outcome = outcome.and(inputs.close().await);
        watched.ended(outcome.as_ref().err());
        outcome
    }
}

impl<T, F, Fut> Work<T, F>
where
    F: Fn(Vec<(T, Context)>) -> Fut,
    Fut: Future<Output = Vec<Result<(), Failure>>>,
{
    /// Handles one batch: each message is settled, given up, or put back into the backlog.
    ///
    /// # Errors
    /// What has to stop the consumer; the messages not settled were handed back.
    async fn handle_batch(
        &self,
        batch: Vec<(Option<Key>, Held)>,
        backlog: &mut Backlog<Held>,
    ) -> Result<()> {
        let (mut values, mut begun) = (Vec::new(), Vec::new());
        for (key, mut held) in batch {
            if !held.is_live() {
                continue;
            }
            match self.decode(&held) {
                Ok(value) => {
                    let context = held.begin();
                    let known = self.is_done(&context).await;
                    if matches!(known, Ok(false)) {
                        values.push((value, context));
                    }
                    begun.push((key, held, known));
                }
                Err(error) => self.give_up(held, error, false).await?,
            }
        }
        let mut outcomes = match values.is_empty() {
            true => Vec::new().into_iter(),
            false => {
                let contexts: Vec<_> = values.iter().map(|(_, context)| context.clone()).collect();
                let handling = pin!(self.call_batch(values, &contexts));
                self.telemetry.call_batch(&contexts, handling).await.into_iter()
            }
        };
        // The keys of which a message failed, with those to come again and when.
        let mut again: HashMap<Key, (Duration, Vec<Held>)> = HashMap::new();
        for (key, mut held, known) in begun {
            let outcome = match known {
                Ok(true) => Ok(()),
                Ok(false) => outcomes.next().unwrap_or_else(|| {
                    Err("the handler gave fewer outcomes than the batch has messages".into())
                }),
                Err(failure) => Err(failure),
            };
            if let Some((_, behind)) = key.as_ref().and_then(|key| again.get_mut(key)) {
                behind.push(held);
                continue;
            }
            let Err(failure) = outcome else {
                held.handled();
                continue;
            };
            match (self.failed(&mut held, failure), key) {
                (Verdict::Again(pause) | Verdict::Later(pause), Some(key)) => {
                    drop(again.insert(key, (pause, vec![held])))
                }
                // Without a key nothing waits behind it; a key of its own lets it come again.
                (Verdict::Again(pause) | Verdict::Later(pause), None) => {
                    let key = Bytes::from(MessageId::new().to_string());
                    let place = (held.received().topic, held.received().partition);
                    again.insert((place, key), (pause, vec![held]));
                }
                (Verdict::ForGood { error, may_wait }, _) => {
                    self.give_up(held, error, may_wait).await?;
                }
            }
        }
        for (key, (pause, held)) in again {
            backlog.fail(key, Instant::now() + pause, held);
        }
        Ok(())
    }

    /// The outcomes that the handler gives, with what it published confirmed.
    async fn call_batch(
        &self,
        values: Vec<(T, Context)>,
        contexts: &[Context],
    ) -> Vec<Result<(), Failure>> {
        let all = |text: String| contexts.iter().map(|_| Err(text.clone().into())).collect();
        let handling = async { (self.handler)(values).await };
        let caught = AssertUnwindSafe(handling).catch_unwind();
        let ended = match self.handler_timeout {
            None => caught.await,
            Some(limit) => match timeout(limit, caught).await {
                Ok(ended) => ended,
                Err(_) => return all(format!("the handler took longer than {limit:?}")),
            },
        };
        let mut outcomes: Vec<_> = match ended {
            Ok(outcomes) => outcomes,
            Err(panic) => return all(panic_text(panic.as_ref())),
        };
        for (outcome, context) in outcomes.iter_mut().zip(contexts) {
            if outcome.is_err() {
                continue;
            }
            if let Err(error) = context.confirmed().await {
                *outcome = Err(error.into());
            } else {
                *outcome = self.done(context).await;
            }
        }
        outcomes
    }
}

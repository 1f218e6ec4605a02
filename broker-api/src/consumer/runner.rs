//! The loop of a consumer: takes deliveries, starts handlers, stops in order.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{sleep, timeout};

use super::job::{Held, Stopping, Work};
use super::lanes::{Lane, Lanes};
use super::{Consumer, Context, Failure};
use crate::backend::{Order, Subscribe};
use crate::broker::Broker;
use crate::delivery::Delivery;
use crate::error::{Error, Result};
use crate::subscription::Subscription;

/// How many deliveries are taken at once.
const BATCH: usize = 256;

/// A handler at work, with the lane to free when it is done.
type Handling<'a> = Pin<Box<dyn Future<Output = (Option<Lane>, Result<()>)> + 'a>>;

pub(super) async fn run<T, F, Fut>(mut consumer: Consumer<T>, handler: F) -> Result<()>
where
    F: Fn(T, Context) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    let subscribe = consumer.subscription()?;
    consumer.broker.check_open("consume")?;
    // `Broker::close` waits until this receiver is gone.
    let mut closing = consumer.broker.inner.closing.subscribe();
    let until = consumer.stop.take();
    let stop = async move {
        let until = async {
            match until {
                Some(until) => until.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = until => {}
            // The sender lives in the broker, of which this consumer holds a clone.
            _ = closing.wait_for(|closing| *closing) => {}
        }
        closing
    };
    let work = Work {
        broker: consumer.broker.clone(),
        topic: consumer.topic,
        retry: consumer.retry,
        unprocessable: consumer.unprocessable,
        handler,
        stopping: Stopping::default(),
    };
    let mut membership = Membership::new(consumer.broker.clone(), subscribe.clone());
    let mut runner = Runner {
        work: &work,
        lanes: Lanes::new(),
        handling: FuturesUnordered::new(),
        concurrency: consumer.concurrency,
        keyed: subscribe.group.order == Order::Key,
    };

    tokio::pin!(stop);
    let mut guard = None;
    let outcome = loop {
        if let Err(error) = runner.start().await {
            break Err(error);
        }
        tokio::select! {
            biased;
            closing = &mut stop => {
                guard = Some(closing);
                break Ok(());
            }
            Some((lane, handled)) = runner.handling.next() => {
                runner.finish(lane);
                if let Err(error) = handled {
                    break Err(error);
                }
            }
            batch = membership.next() => match batch {
                Ok(Some(batch)) => runner.take(batch),
                Ok(None) => break Ok(()),
                Err(error) => {
                    // Nothing of this membership can be settled any more: it all comes again.
                    runner.lanes.drain();
                    if !error.is_transient() {
                        break Err(error);
                    }
                    membership.rejoin(&error);
                }
            },
        }
    };
    let drained = runner.drain().await;
    drop(runner);
    let closed = membership.close().await;
    drop(guard);
    outcome.and(drained).and(closed)
}

struct Runner<'a, T: 'static, F> {
    work: &'a Work<T, F>,
    lanes: Lanes<Held>,
    handling: FuturesUnordered<Handling<'a>>,
    concurrency: usize,
    keyed: bool,
}

impl<'a, T, F, Fut> Runner<'a, T, F>
where
    F: Fn(T, Context) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    fn take(&mut self, batch: Vec<Delivery>) {
        for held in batch.into_iter().filter_map(Held::new) {
            let received = held.received();
            let key = if self.keyed { received.message.key().cloned() } else { None };
            self.lanes.push((received.topic, received.partition), key, held);
        }
    }

    /// Starts as many handlers as may run at a time.
    ///
    /// # Errors
    /// That of a handler that has to stop the consumer.
    async fn start(&mut self) -> Result<()> {
        while self.handling.len() < self.concurrency {
            let Some((lane, held)) = self.lanes.pop() else { break };
            if !held.is_live() {
                drop(held);
                self.finish(lane);
                continue;
            }
            let work = self.work;
            let mut handling: Handling<'a> = Box::pin(async move {
                let handled = work.handle(held).await;
                (lane, handled)
            });
            // Most handlers that do not wait are done at the first poll, and then it is cheaper
            // not to keep them among those that wait.
            match std::future::poll_fn(|cx| Poll::Ready(handling.as_mut().poll(cx))).await {
                Poll::Ready((lane, handled)) => {
                    self.finish(lane);
                    handled?;
                }
                Poll::Pending => self.handling.push(handling),
            }
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    fn finish(&mut self, lane: Option<Lane>) {
        if let Some(lane) = lane {
            self.lanes.done(lane);
        }
    }

    /// Hands back what was not begun, and waits for the rest, within the drain time.
    async fn drain(&mut self) -> Result<()> {
        self.lanes.drain();
        self.work.stopping.stop();
        let limit = self.work.broker.inner.settings.drain_timeout;
        let mut outcome = Ok(());
        let rest = async {
            while let Some((_, handled)) = self.handling.next().await {
                outcome = std::mem::replace(&mut outcome, Ok(())).and(handled);
            }
        };
        if timeout(limit, rest).await.is_err() {
            let left = self.handling.len();
            tracing::warn!(
                left,
                ?limit,
                "handlers did not end within the drain time; their messages are handed back"
            );
            self.handling.clear();
        }
        outcome
    }
}

/// The membership in the group, joined again when it was lost.
struct Membership {
    broker: Broker,
    subscribe: Subscribe,
    state: State,
    failures: u32,
}

enum State {
    Joining(BoxFuture<'static, Result<Subscription>>),
    Joined(Subscription),
}

impl Membership {
    fn new(broker: Broker, subscribe: Subscribe) -> Self {
        let state = State::Joining(join(broker.clone(), subscribe.clone(), 0));
        Self { broker, subscribe, state, failures: 0 }
    }

    /// The next deliveries. Cancel-safe.
    async fn next(&mut self) -> Result<Option<Vec<Delivery>>> {
        loop {
            match &mut self.state {
                State::Joined(subscription) => {
                    let batch = subscription.next_batch(BATCH).await?;
                    self.failures = 0;
                    return Ok(batch);
                }
                State::Joining(joining) => self.state = State::Joined(joining.await?),
            }
        }
    }

    fn rejoin(&mut self, error: &Error) {
        tracing::warn!(%error, group = %self.subscribe.group.name, "the consumer joins its group again");
        self.failures += 1;
        self.state =
            State::Joining(join(self.broker.clone(), self.subscribe.clone(), self.failures));
    }

    async fn close(self) -> Result<()> {
        match self.state {
            State::Joining(_) => Ok(()),
            State::Joined(subscription) => subscription.close().await,
        }
    }
}

fn join(
    broker: Broker,
    subscribe: Subscribe,
    failures: u32,
) -> BoxFuture<'static, Result<Subscription>> {
    Box::pin(async move {
        if let Some(before) = failures.checked_sub(1) {
            let pause = super::Retry::exponential().pauses().nth(before.min(16) as usize);
            sleep(pause.unwrap_or_default()).await;
        }
        broker.subscribe(subscribe).await
    })
}

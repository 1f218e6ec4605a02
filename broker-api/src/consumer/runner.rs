//! The loop of a consumer: takes deliveries, starts handlers, stops in order.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;

use super::breaker::Circuit;
use super::delayed::Delayed;
use super::job::{Held, Stopping, Work};
use super::lanes::{Lane, Lanes};
use super::membership::Membership;
use super::{Consumer, Context, Control, Failure};
use crate::backend::Order;
use crate::delivery::Delivery;
use crate::error::Result;
use crate::name::Name;

/// How a handler ended, with the lane to free.
type Handled = (Option<Lane>, Result<()>);

pub(super) async fn run<T, F, Fut>(mut consumer: Consumer<T>, handler: F) -> Result<()>
where
    F: Fn(T, Context) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    let mut subscribe = consumer.subscription()?;
    let escalation = consumer.escalation()?;
    let broker = consumer.broker.clone();
    broker.check_open("consume")?;
    // `Broker::close` waits until this receiver is gone, which is at the end of this function.
    let mut closing = broker.inner.closing.subscribe();
    let until = consumer.stop.take();
    let stop = async {
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
    };
    tokio::pin!(stop);

    escalation.create(&broker).await?;
    subscribe.topics.extend(escalation.immediate());
    let mut membership = Membership::new(broker.clone(), subscribe.clone());
    let delayed = escalation.delayed(subscribe.prefetch);
    let mut delayed = Delayed::new(
        consumer.topic.name(),
        delayed.map(|subscribe| Membership::new(broker.clone(), subscribe)),
    );
    let work = Work {
        broker,
        topic: consumer.topic,
        retry: consumer.retry,
        handler_timeout: consumer.handler_timeout,
        circuit: consumer.breaker.map(Circuit::new),
        dedup: consumer.dedup,
        group: subscribe.group.name,
        escalation,
        handler,
        stopping: Stopping::default(),
    };
    let mut runner = Runner {
        // The type of its future stays known, so the whole consumer is `Send` if the handler is.
        begin: |lane, held| async {
            let handled = work.handle(held).await;
            (lane, handled)
        },
        topic: work.topic.name(),
        stopping: &work.stopping,
        control: consumer.control,
        drain_timeout: work.broker.inner.settings.drain_timeout,
        lanes: Lanes::new(),
        handling: FuturesUnordered::new(),
        concurrency: consumer.concurrency,
        keyed: subscribe.group.order == Order::Key,
    };

    let outcome = loop {
        if let Err(error) = runner.start().await {
            break Err(error);
        }
        let paused = runner.control.is_paused();
        tokio::select! {
            biased;
            () = &mut stop => break Ok(()),
            Some((lane, handled)) = runner.handling.next() => {
                runner.finish(lane);
                if let Err(error) = handled {
                    break Err(error);
                }
            }
            () = runner.control.running(), if paused => {}
            due = delayed.next() => match due {
                Ok(due) => due.into_iter().for_each(|held| runner.push(held)),
                Err(error) => break Err(error),
            },
            batch = membership.next(), if !paused => match batch {
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
    // A consumer that is gone has no problem.
    work.broker.inner.set_problem(work.topic.name(), work.group, None);
    let closed = membership.close().await.and(delayed.close().await);
    outcome.and(drained).and(closed)
}

struct Runner<'a, B, H> {
    /// Begins to handle a message.
    begin: B,
    topic: Name,
    stopping: &'a Stopping,
    control: Control,
    drain_timeout: Duration,
    lanes: Lanes<Held>,
    handling: FuturesUnordered<Pin<Box<H>>>,
    concurrency: usize,
    keyed: bool,
}

impl<B, H> Runner<'_, B, H>
where
    B: Fn(Option<Lane>, Held) -> H,
    H: Future<Output = Handled>,
{
    fn take(&mut self, batch: Vec<Delivery>) {
        let topic = self.topic;
        for delivery in batch {
            let held = match delivery.received().topic == topic {
                true => Held::new(delivery),
                // Put back from the dead letters.
                false => Held::retried(delivery, topic),
            };
            if let Some(held) = held {
                self.push(held);
            }
        }
    }

    fn push(&mut self, held: Held) {
        let received = held.received();
        let key = if self.keyed { received.message.key().cloned() } else { None };
        self.lanes.push((received.topic, received.partition), key, held);
    }

    /// Starts as many handlers as may run at a time.
    ///
    /// # Errors
    /// That of a handler that has to stop the consumer.
    async fn start(&mut self) -> Result<()> {
        while self.handling.len() < self.concurrency && !self.control.is_paused() {
            let Some((lane, held)) = self.lanes.pop() else { break };
            if !held.is_live() {
                drop(held);
                self.finish(lane);
                continue;
            }
            let mut handling = Box::pin((self.begin)(lane, held));
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
        self.stopping.stop();
        let limit = self.drain_timeout;
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

//! The loop of a consumer: takes deliveries, starts handlers, stops in order.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::OptionFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::held::Held;
use super::job::Stopping;
use super::lanes::{Lane, Lanes};
use super::session::{Input, Session};
use super::{Consumer, Context, Control, Failure};
use crate::error::Result;

/// How a handler ended, with the lane to free.
type Handled = (Option<Lane>, Result<()>);

/// A place for a handler that runs, to be used again for another one: it is too large for memory to
/// be had cheaply.
type Place<H> = Pin<Box<OptionFuture<H>>>;

pub(super) async fn run<T, F, Fut>(consumer: Consumer<T>, handler: F) -> Result<()>
where
    F: Fn(T, Context) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    let session = Session::open(consumer, handler).await?;
    let Session { work, mut inputs, mut stop, watched, control, keyed } = session;
    let work = &work;
    let mut runner = Runner {
        // The type of its future stays known, so the whole consumer is `Send` if the handler is.
        begin: |lane, held, place| async move { (lane, work.handle(held, place).await) },
        stopping: &work.stopping,
        places: &work.places,
        control,
        drain_timeout: work.broker.inner.settings.drain_timeout,
        lanes: Lanes::new(),
        handling: FuturesUnordered::new(),
        spare: None,
        keyed,
        winds_down: false,
    };

    let outcome = loop {
        if let Err(error) = runner.start().await {
            break Err(error);
        }
        let paused = runner.control.is_paused();
        tokio::select! {
            biased;
            () = stop.wait() => {
                runner.winds_down = inputs.wind_down();
                break Ok(());
            }
            Some(Some((lane, handled))) = runner.handling.next() => {
                runner.free(lane);
                if let Err(error) = handled {
                    break Err(error);
                }
            }
            () = runner.control.running(), if paused => {}
            // A message that waits for a delay has left its place.
            place = work.places.acquire(), if !paused && runner.lanes.has_ready() => drop(place),
            input = inputs.next(paused) => match input {
                Ok(Input::Messages(messages)) => messages.into_iter().for_each(|m| runner.push(m)),
                Ok(Input::Rejoined) => drop(runner.lanes.drain()),
                Ok(Input::Ended) => break Ok(()),
                Err(error) => break Err(error),
            },
        }
    };
    let drained = runner.drain().await;
    drop(runner);
    let outcome = outcome.and(drained).and(inputs.close().await);
    watched.ended(outcome.as_ref().err());
    outcome
}

struct Runner<'a, B, H> {
    /// Begins to handle a message.
    begin: B,
    stopping: &'a Stopping,
    /// The places of handlers that may run at a time.
    places: &'a Semaphore,
    control: Control,
    drain_timeout: Duration,
    lanes: Lanes<Held>,
    handling: FuturesUnordered<Place<H>>,
    /// The place of a handler that was done at once.
    spare: Option<Place<H>>,
    keyed: bool,
    /// Whether the consumer stops, and messages say whether they are still to be begun.
    winds_down: bool,
}

impl<'a, B, H> Runner<'a, B, H>
where
    B: Fn(Option<Lane>, Held, SemaphorePermit<'a>) -> H,
    H: Future<Output = Handled>,
{
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
        while !self.control.is_paused()
            && self.lanes.has_ready()
            && let Ok(place) = self.places.try_acquire()
            && let Some((lane, held)) = self.lanes.pop()
        {
            let wanted =
                if self.winds_down { held.holds_back_later_ones() } else { held.is_live() };
            if !wanted {
                drop(held);
                self.free(lane);
                continue;
            }
            let mut handling = self.spare.take().unwrap_or_else(|| Box::pin(None.into()));
            handling.set(Some((self.begin)(lane, held, place)).into());
            // Most handlers that do not wait are done at the first poll, and then it is cheaper
            // not to keep them among those that wait.
            match std::future::poll_fn(|cx| Poll::Ready(handling.as_mut().poll(cx))).await {
                Poll::Ready(ended) => {
                    handling.set(None.into());
                    self.spare = Some(handling);
                    let Some((lane, handled)) = ended else { continue };
                    self.free(lane);
                    handled?;
                }
                Poll::Pending => self.handling.push(handling),
            }
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    fn free(&mut self, lane: Option<Lane>) {
        if let Some(lane) = lane {
            self.lanes.done(lane);
        }
    }

    /// Hands back what was not begun, unless later messages that were settled would come back with
    /// it, and waits for the rest, within the drain time.
    async fn drain(&mut self) -> Result<()> {
        if !self.winds_down {
            self.lanes.drain();
        }
        self.stopping.stop();
        let limit = self.drain_timeout;
        let mut outcome = Ok(());
        let rest = async {
            loop {
                let begun = self.start().await;
                outcome = std::mem::replace(&mut outcome, Ok(())).and(begun);
                let Some(Some((lane, handled))) = self.handling.next().await else { break };
                outcome = std::mem::replace(&mut outcome, Ok(())).and(handled);
                self.free(lane);
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

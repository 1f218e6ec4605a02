//! Messages that wait for their time, in the group's own retry topics and then here.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{BoxStream, SelectAll, StreamExt, select_all, unfold};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::held::Held;
use super::membership::Membership;
use crate::broker::Broker;
use crate::delivery::Delivery;
use crate::error::Result;
use crate::name::Name;
use crate::schedule;
use crate::soonest::Soonest;

/// The deliveries of the retry topics whose messages wait, each topic with a prefetch of its own,
/// so that long waits do not keep short ones out.
pub(super) struct Delayed {
    /// The topic whose messages they are.
    topic: Name,
    broker: Broker,
    exactly_once: bool,
    deliveries: SelectAll<BoxStream<'static, Result<Vec<Delivery>>>>,
    /// The longest of the delays. Whatever a message says of its time, it waits no longer here.
    longest: Duration,
    /// What is here and not due yet, the next one first.
    waiting: Soonest<Instant, Held>,
    stop: watch::Sender<bool>,
}

impl Delayed {
    pub(super) fn new(
        topic: Name,
        broker: &Broker,
        exactly_once: bool,
        longest: Duration,
        memberships: impl Iterator<Item = Membership>,
    ) -> Self {
        let stop = watch::Sender::new(false);
        let stream = |membership| deliveries(membership, stop.subscribe()).boxed();
        Self {
            topic,
            broker: broker.clone(),
            exactly_once,
            deliveries: select_all(memberships.map(stream)),
            longest,
            waiting: Soonest::new(),
            stop,
        }
    }

    /// The next messages whose time has come; pending for ever where no retry is delayed.
    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Vec<Held>> {
        loop {
            let next_due = self.waiting.next().copied();
            tokio::select! {
                () = sleep_until(next_due.unwrap_or_else(Instant::now)), if next_due.is_some() => {
                    return Ok(self.waiting.pop().into_iter().collect());
                }
                Some(batch) = self.deliveries.next() => {
                    let due: Vec<Held> = batch?.into_iter().filter_map(|d| self.keep(d)).collect();
                    if !due.is_empty() {
                        return Ok(due);
                    }
                }
                else => std::future::pending().await,
            }
        }
    }

    /// Keeps a message until it is due; gives it back at once if it is due already.
    fn keep(&mut self, delivery: Delivery) -> Option<Held> {
        let held = Held::retried(delivery, self.topic, &self.broker, self.exactly_once)?;
        let left = held.due().and_then(|due| due.duration_since(schedule::now()).ok());
        let left = left.map(|left| left.min(self.longest));
        let Some(due) = left.and_then(|left| Instant::now().checked_add(left)) else {
            return Some(held);
        };
        self.waiting.push(due, held);
        None
    }

    /// Hands back what waits, and leaves the group in all retry topics.
    pub(super) async fn close(self) -> Result<()> {
        let Self { deliveries, waiting, stop, .. } = self;
        drop(waiting);
        stop.send_replace(true);
        let rest = deliveries.into_iter().map(|stream| stream.collect::<Vec<_>>());
        for last in join_all(rest).await.into_iter().flatten() {
            drop(last?);
        }
        Ok(())
    }
}

/// What one membership delivers until it is told to stop; its last item is what closing it said.
fn deliveries(
    membership: Membership,
    stop: watch::Receiver<bool>,
) -> impl futures_util::Stream<Item = Result<Vec<Delivery>>> + Send + 'static {
    unfold(Some((membership, stop)), |state| async move {
        let (mut membership, mut stop) = state?;
        loop {
            let batch = tokio::select! {
                biased;
                // An error means that the sender is gone, which is the same.
                _ = stop.wait_for(|stop| *stop) => Ok(None),
                batch = membership.next() => batch,
            };
            match batch {
                Ok(Some(batch)) => return Some((Ok(batch), Some((membership, stop)))),
                Ok(None) => return Some((membership.close().await.map(|()| Vec::new()), None)),
                Err(error) if error.is_transient() => membership.rejoin(&error),
                Err(error) => return Some((Err(error), None)),
            }
        }
    })
}

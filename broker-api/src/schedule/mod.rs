//! Messages that are published later.
//!
//! Until its time a message waits in topics that belong to the schedulers of all processes, over
//! the contract that every topic is used by: it is a message like any other there, as safe as any
//! other, and no broker knows of schedules. A [`Scheduler`] moves it from one of them to the next,
//! and in the end to the topic that it is for.

mod clock;
mod mover;
mod put_off;
#[cfg(test)]
mod tests;
mod ticket;
mod tiers;

use std::fmt;
use std::future::Future;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;

pub(crate) use clock::now;
pub(crate) use put_off::{Known, put_off};

use crate::broker::Broker;
use crate::error::Result;
use crate::stop::{Stop, Until};
use mover::Mover;
use tiers::Tiers;

/// Publishes what was put off by [`Publish::deliver_at`](crate::Publish::deliver_at) or
/// [`Publish::deliver_after`](crate::Publish::deliver_after) when its time has come.
///
/// At least one has to be running for the broker, in any process; where several do, they share the
/// work, and the others go on when one of them is gone. Until one has run for the first time,
/// publishing later is an error. While none is running the messages wait, and come late.
///
/// - A message is published once its time has come, never before, and within a second of it. It
///   is published again, with the same id, where a scheduler dies between publishing it and
///   noting that.
/// - Times are compared with the clock of the scheduler's host.
/// - Messages that are put off come in the order of their times, to the second, unless they are late
///   because no scheduler was running; those that are not put off pass them.
/// - They wait in topics of their own, `{scheduled}.now` to `{scheduled}.4h`, where `{scheduled}` is
///   [`Settings::scheduled`](crate::Settings). These topics keep what is in them as long as the
///   broker's topics do by default (7 days on a Kafka with default settings): no longer than that
///   may all schedulers be down at the same time.
/// - What cannot be published when its time has come (its topic was deleted, or on RabbitMQ has no
///   group) goes to the dead-letter topic `{scheduled}.scheduler.dlt`, from which it can be
///   [redriven](crate::dead_letter::DeadLetters::redrive).
///
/// ```
/// # use broker_api::{Broker, Topic};
/// # use std::time::Duration;
/// # const REMINDERS: Topic<bytes::Bytes> = Topic::raw("reminders");
/// # async fn remind(broker: Broker, reminder: bytes::Bytes) -> broker_api::Result<()> {
/// // In one process, or several: broker.scheduler().run().await
/// broker.publish(REMINDERS, &reminder).deliver_after(Duration::from_secs(3600)).await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is published before `run`"]
pub struct Scheduler {
    broker: Broker,
    stop: Option<Until>,
}

impl Broker {
    /// What publishes the messages that are to be delivered later; see [`Scheduler`].
    pub fn scheduler(&self) -> Scheduler {
        Scheduler { broker: self.clone(), stop: None }
    }
}

impl Scheduler {
    /// Stops the scheduler when this future ends.
    pub fn until(mut self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        self.stop = Some(Box::pin(stop));
        self
    }

    /// Creates what is needed, and publishes messages as their time comes, in the caller's own
    /// task. Returns `Ok` when it was stopped, by [`Scheduler::until`] or by [`Broker::close`].
    ///
    /// # Cancel safety
    /// Dropping the future hands back what waits. What is being published at that moment may be
    /// published again.
    ///
    /// # Errors
    /// Those of [`Broker::create_topic`] and [`Broker::subscribe`], and what ended the
    /// subscription and cannot be mended by joining again.
    pub async fn run(self) -> Result<()> {
        let Self { broker, stop: until } = self;
        broker.check_open("schedule")?;
        let mut stop = Stop::new(until, &broker);
        let tiers = Tiers::new(broker.inner.settings.scheduled)?;
        tiers.create(&broker).await?;
        let stopping = watch::Sender::new(false);
        let movers = tiers.all().iter().map(|tier| Mover::new(&broker, &tiers, *tier));
        let mut moving: FuturesUnordered<_> =
            movers.map(|mover| mover.run(stopping.subscribe())).collect();
        let mut outcome = Ok(());
        loop {
            tokio::select! {
                () = stop.wait(), if !*stopping.borrow() => {}
                ended = moving.next() => match ended {
                    None => return outcome,
                    Some(ended) => outcome = outcome.and(ended),
                }
            }
            // The end of any of them is the end of all.
            stopping.send_replace(true);
        }
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler")
            .field("scheduled", &self.broker.inner.settings.scheduled)
            .finish_non_exhaustive()
    }
}

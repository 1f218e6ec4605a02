//! What a running consumer has, however it calls its handler.

use tokio::sync::Semaphore;

use super::breaker::Circuit;
use super::delayed::Delayed;
use super::held::Held;
use super::job::{Stopping, Work};
use super::membership::Membership;
use super::watch::Watched;
use super::{Consumer, Control, exactly_once};
use crate::backend::Order;
use crate::broker::Broker;
use crate::error::Result;
use crate::name::Name;
use crate::stop::Stop;
use crate::telemetry::Consuming;

/// A consumer that has begun.
pub(super) struct Session<T: 'static, F> {
    pub(super) work: Work<T, F>,
    pub(super) inputs: Inputs,
    pub(super) stop: Stop,
    pub(super) watched: Watched,
    pub(super) control: Control,
    /// Whether messages of one key are handled one after the other.
    pub(super) keyed: bool,
}

impl<T: 'static, F> Session<T, F> {
    /// Creates what the consumer needs. Nothing is consumed before the inputs are asked.
    pub(super) async fn open(consumer: Consumer<T>, handler: F) -> Result<Self> {
        let mut subscribe = consumer.subscription()?;
        let escalation = consumer.escalation()?;
        let broker = consumer.broker;
        broker.check_open("consume")?;
        let transactions = consumer.exactly_once;
        if transactions.is_some() {
            exactly_once::check(&broker, consumer.topic.name(), consumer.dedup.is_some())?;
        }
        let stop = Stop::new(consumer.stop, &broker);

        let topic = consumer.topic.name();
        let (group, keyed) = (subscribe.group.name, subscribe.group.order == Order::Key);
        let watched = Watched::begin(&broker.inner.watches, topic, group);
        let created = async {
            escalation.create(&broker).await?;
            match transactions {
                Some(_) => escalation.check_outputs(&broker).await,
                None => Ok(()),
            }
        };
        if let Err(error) = created.await {
            watched.ended(Some(&error));
            return Err(error);
        }
        subscribe.topics.extend(escalation.immediate());
        let longest = consumer.retry.delays_elsewhere().iter().max().copied().unwrap_or_default();
        let delayed = escalation.delayed(subscribe.prefetch);
        let delayed =
            delayed.map(|subscribe| Membership::new(broker.clone(), subscribe, transactions));
        let telemetry = broker.inner.telemetry.consuming(topic, group);
        let inputs = Inputs {
            topic,
            telemetry: telemetry.clone(),
            broker: broker.clone(),
            exactly_once: transactions.is_some(),
            delayed: Delayed::new(topic, &broker, transactions.is_some(), longest, delayed),
            membership: Membership::new(broker.clone(), subscribe, transactions),
        };
        let work = Work {
            broker,
            topic: consumer.topic,
            retry: consumer.retry,
            handler_timeout: consumer.handler_timeout,
            circuit: consumer.breaker.map(Circuit::new),
            dedup: consumer.dedup,
            group,
            exactly_once: transactions.is_some(),
            escalation,
            handler,
            stopping: Stopping::default(),
            places: Semaphore::new(consumer.concurrency),
            telemetry,
            watch: watched.watch(),
        };
        Ok(Self { work, inputs, stop, watched, control: consumer.control, keyed })
    }
}

/// Where the messages of a consumer come from: its topic, what was put back to its group, and what
/// waited for a delayed retry.
pub(super) struct Inputs {
    topic: Name,
    telemetry: Consuming,
    broker: Broker,
    exactly_once: bool,
    membership: Membership,
    delayed: Delayed,
}

/// What the inputs say next.
pub(super) enum Input {
    Messages(Vec<Held>),
    /// The membership was lost and is joined again: what was not begun comes again.
    Rejoined,
    /// The broker was closed.
    Ended,
}

impl Inputs {
    /// The next messages. A paused consumer takes only those whose delay is over. Cancel-safe.
    ///
    /// # Errors
    /// What cannot be mended by joining again.
    pub(super) async fn next(&mut self, paused: bool) -> Result<Input> {
        let batch = tokio::select! {
            biased;
            due = self.delayed.next() => return due.map(|due| self.messages(due)),
            batch = self.membership.next(), if !paused => batch,
        };
        match batch {
            Ok(Some(batch)) => {
                let Self { topic, ref broker, exactly_once, .. } = *self;
                let held = batch.into_iter().filter_map(|delivery| {
                    match delivery.received().topic == topic {
                        true => Held::new(delivery, broker, exactly_once),
                        // Put back from the dead letters.
                        false => Held::retried(delivery, topic, broker, exactly_once),
                    }
                });
                Ok(self.messages(held.collect()))
            }
            Ok(None) => Ok(Input::Ended),
            Err(error) if error.is_transient() => {
                self.membership.rejoin(&error);
                Ok(Input::Rejoined)
            }
            Err(error) => Err(error),
        }
    }

    fn messages(&self, held: Vec<Held>) -> Input {
        let counted = held.into_iter().map(|held| held.counted(self.telemetry.hold()));
        Input::Messages(counted.collect())
    }

    /// As [`Source::wind_down`](crate::Source::wind_down), of the topic itself.
    pub(super) fn wind_down(&mut self) -> bool {
        self.membership.wind_down()
    }

    /// Leaves the group, everywhere.
    pub(super) async fn close(self) -> Result<()> {
        self.membership.close().await.and(self.delayed.close().await)
    }
}

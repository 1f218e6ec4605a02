//! Backends that are broken on purpose: the matrix has to find each of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use broker_api::{
    Backend, Confirm, Connection, Delivery, ErrorKind, Health, Outgoing, Receipt, Result, Source,
    Subscribe, async_trait,
};
use broker_testkit::wrapped::{Wrapped, Wraps};
use serde::{Deserialize, Serialize};

use crate::faults::Fault;
use crate::subject::Kind;

/// How often a source that forgets looks whether there is an outage.
const LOOK: Duration = Duration::from_millis(20);

/// How long a message is kept that is confirmed before it is sent, settled before it is handled, or
/// overtaken.
const KEPT: Duration = Duration::from_millis(100);
/// One in so many messages is overtaken.
const OVERTAKEN: usize = 16;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Flaw {
    SettlesBeforeHandling,
    ForgetsToSubscribeAgain,
    AlwaysUp,
    CallsUnknownStored,
    ConfirmsBeforeSending,
    Overtakes,
    TakesAbsenceForGood,
    IgnoresDeletion,
}

/// A flaw, and the row that has to find it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sabotage {
    pub(crate) flaw: Flaw,
    pub(crate) kind: Kind,
    pub(crate) fault: Fault,
    /// What that says.
    pub(crate) found: &'static str,
}

impl Sabotage {
    /// One for each fault at least.
    pub(crate) const ALL: [Self; 24] = {
        use Fault as F;
        use Flaw::*;
        use Kind::{Kafka, RabbitMq};
        const SILENT: &str = "no message through every key and group";
        const STUCK: &str = "no progress";
        const UP: &str = "no health DOWN of all clients";
        const UNNAMED: &str = "no health that names";
        [
            Self::of(ForgetsToSubscribeAgain, Kafka, F::Stopped, SILENT),
            Self::of(AlwaysUp, RabbitMq, F::Killed, UP),
            Self::of(ForgetsToSubscribeAgain, RabbitMq, F::Paused, SILENT),
            Self::of(ForgetsToSubscribeAgain, RabbitMq, F::Cut, STUCK),
            Self::of(ForgetsToSubscribeAgain, RabbitMq, F::Reset, STUCK),
            Self::of(ForgetsToSubscribeAgain, RabbitMq, F::Refused, SILENT),
            Self::of(AlwaysUp, Kafka, F::Refused, UP),
            Self::of(Overtakes, Kafka, F::Held, " Reordered"),
            Self::of(CallsUnknownStored, RabbitMq, F::HalfOpen, " Lost"),
            Self::of(Overtakes, RabbitMq, F::Delayed, " Reordered"),
            Self::of(Overtakes, Kafka, F::Throttled, " Reordered"),
            Self::of(ForgetsToSubscribeAgain, RabbitMq, F::ClosedByOperator, STUCK),
            Self::of(IgnoresDeletion, Kafka, F::Deleted, "no the end of all members"),
            Self::of(SettlesBeforeHandling, Kafka, F::RebalanceStorm, " Lost"),
            Self::of(SettlesBeforeHandling, RabbitMq, F::MemberKilled, " Lost"),
            Self::of(ConfirmsBeforeSending, RabbitMq, F::PublisherKilled, " Lost"),
            Self::of(SettlesBeforeHandling, Kafka, F::HandlerHung, " SettledEarly"),
            Self::of(TakesAbsenceForGood, Kafka, F::Absent, "is taken for good"),
            Self::of(AlwaysUp, RabbitMq, F::DiskAlarm, UNNAMED),
            Self::of(ForgetsToSubscribeAgain, RabbitMq, F::NodeKilled, STUCK),
            Self::of(ForgetsToSubscribeAgain, RabbitMq, F::NodesRestarted, STUCK),
            Self::of(AlwaysUp, Kafka, F::MajorityKilled, UP),
            Self::of(AlwaysUp, Kafka, F::TooFewInSync, UNNAMED),
            Self::of(TakesAbsenceForGood, RabbitMq, F::NameUnknown, "ended by itself"),
        ]
    };

    const fn of(flaw: Flaw, kind: Kind, fault: Fault, found: &'static str) -> Self {
        Self { flaw, kind, fault, found }
    }

    /// Whether it is run as a test too, and not only by `scripts/chaos`: one of each kind of harm.
    pub(crate) fn is_short(&self) -> bool {
        matches!(self.fault, Fault::Refused | Fault::HalfOpen | Fault::HandlerHung)
    }
}

/// A backend with a flaw.
pub(crate) struct Flawed {
    inner: Arc<dyn Backend>,
    flaw: Flaw,
    /// How many messages were published.
    published: AtomicUsize,
}

impl Flawed {
    pub(crate) fn around(inner: impl Backend, flaw: Flaw) -> Wrapped<Self> {
        Wrapped(Self { inner: Arc::new(inner), flaw, published: AtomicUsize::new(0) })
    }

    /// Publishes it, but not now.
    fn publish_later(&self, outgoing: Outgoing) {
        let inner = self.inner.clone();
        tokio::spawn(async move {
            tokio::time::sleep(KEPT).await;
            inner.publish(outgoing);
        });
    }
}

#[async_trait]
impl Wraps for Flawed {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }

    fn publish(&self, mut outgoing: Outgoing) {
        if self.flaw == Flaw::CallsUnknownStored {
            let confirm = outgoing.confirm;
            outgoing.confirm = Confirm::from_fn(move |told| match told {
                Err(error) if error.is_indeterminate() => {
                    confirm.done(Ok(Receipt { partition: 0, offset: None }));
                }
                told => confirm.done(told),
            });
        }
        if self.flaw == Flaw::ConfirmsBeforeSending {
            outgoing.confirm.done(Ok(Receipt { partition: 0, offset: None }));
            outgoing.confirm = Confirm::from_fn(drop);
            return self.publish_later(outgoing);
        }
        let number = self.published.fetch_add(1, Ordering::Relaxed);
        match self.flaw == Flaw::Overtakes && number.is_multiple_of(OVERTAKEN) {
            true => self.publish_later(outgoing),
            false => self.inner.publish(outgoing),
        }
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Source>> {
        let inner = self.inner.subscribe(subscribe).await?;
        let (backend, flaw) = (self.inner.clone(), self.flaw);
        Ok(Box::new(FlawedSource { inner, backend, flaw, forgotten: false }))
    }

    fn health(&self) -> Health {
        let mut health = self.inner.health();
        if self.flaw == Flaw::AlwaysUp {
            health.connection = Connection::Up;
            health.consumers.iter_mut().for_each(|consumer| consumer.problem = None);
        }
        health
    }
}

struct FlawedSource {
    inner: Box<dyn Source>,
    backend: Arc<dyn Backend>,
    flaw: Flaw,
    /// There was an outage.
    forgotten: bool,
}

#[async_trait]
impl Source for FlawedSource {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        if self.flaw == Flaw::ForgetsToSubscribeAgain {
            while !self.forgotten {
                tokio::select! {
                    next = self.inner.next(max) => return next,
                    () = tokio::time::sleep(LOOK) => {
                        self.forgotten = self.backend.health().connection != Connection::Up;
                    }
                }
            }
            return std::future::pending().await;
        }
        let settled = |delivery: Delivery| match self.flaw {
            Flaw::SettlesBeforeHandling => {
                let received = delivery.received().clone();
                delivery.ack();
                Delivery::unsettled(received)
            }
            _ => delivery,
        };
        let batch = match self.inner.next(max).await {
            Err(error)
                if self.flaw == Flaw::IgnoresDeletion
                    && error.kind() == ErrorKind::UnknownTopic =>
            {
                return std::future::pending().await;
            }
            batch => batch?,
        };
        let batch = batch.map(|batch| batch.into_iter().map(settled).collect());
        if self.flaw == Flaw::SettlesBeforeHandling {
            // Long enough to be killed with them.
            tokio::time::sleep(KEPT).await;
        }
        Ok(batch)
    }

    async fn close(&mut self) -> Result<()> {
        self.inner.close().await
    }
}

//! Backends that are broken on purpose: the matrix has to find each of them.

use std::sync::Arc;
use std::time::Duration;

use broker_api::{
    Backend, Confirm, Connection, Delivery, Health, Outgoing, Receipt, Result, Source, Subscribe,
    async_trait,
};
use broker_testkit::wrapped::{Wrapped, Wraps};
use serde::{Deserialize, Serialize};

use crate::faults::Fault;
use crate::subject::Kind;

/// How often a source that forgets looks whether there is an outage.
const LOOK: Duration = Duration::from_millis(20);

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Flaw {
    SettlesBeforeHandling,
    ForgetsToSubscribeAgain,
    AlwaysUp,
    CallsUnknownStored,
}

impl Flaw {
    pub(crate) const ALL: [Self; 4] = [
        Self::SettlesBeforeHandling,
        Self::ForgetsToSubscribeAgain,
        Self::AlwaysUp,
        Self::CallsUnknownStored,
    ];

    /// The row that has to find it, and what that says.
    pub(crate) fn found_by(self) -> (Kind, Fault, &'static str) {
        match self {
            Self::SettlesBeforeHandling => (Kind::Kafka, Fault::HandlerHung, " SettledEarly"),
            Self::ForgetsToSubscribeAgain => {
                (Kind::RabbitMq, Fault::Refused, "no message through every key and group")
            }
            Self::AlwaysUp => (Kind::Kafka, Fault::Refused, "no health DOWN of all clients"),
            Self::CallsUnknownStored => (Kind::RabbitMq, Fault::HalfOpen, " Lost"),
        }
    }
}

/// A backend with a flaw.
pub(crate) struct Flawed {
    inner: Arc<dyn Backend>,
    flaw: Flaw,
}

impl Flawed {
    pub(crate) fn around(inner: impl Backend, flaw: Flaw) -> Wrapped<Self> {
        Wrapped(Self { inner: Arc::new(inner), flaw })
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
        self.inner.publish(outgoing);
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
        let batch = self.inner.next(max).await?;
        Ok(batch.map(|batch| batch.into_iter().map(settled).collect()))
    }

    async fn close(&mut self) -> Result<()> {
        self.inner.close().await
    }
}

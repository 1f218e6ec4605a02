//! A membership in the group, joined again when it was lost.

use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::Retry;
use crate::backend::{Subscribe, Transactions};
use crate::broker::Broker;
use crate::delivery::Delivery;
use crate::error::{Error, Result};
use crate::subscription::Subscription;

/// How many deliveries are taken at once.
const BATCH: usize = 256;

/// The membership in the group, joined again when it was lost.
pub(crate) struct Membership {
    broker: Broker,
    subscribe: Subscribe,
    /// How it settles by transactions, if it does.
    transactions: Option<Transactions>,
    state: State,
    failures: u32,
}

enum State {
    Joining(BoxFuture<'static, Result<Subscription>>),
    Joined(Subscription),
}

impl Membership {
    pub(crate) fn new(
        broker: Broker,
        subscribe: Subscribe,
        transactions: Option<Transactions>,
    ) -> Self {
        let state = State::Joining(join(broker.clone(), subscribe.clone(), transactions, 0));
        Self { broker, subscribe, transactions, state, failures: 0 }
    }

    /// The next deliveries. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Delivery>>> {
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

    pub(crate) fn rejoin(&mut self, error: &Error) {
        tracing::warn!(%error, group = %self.subscribe.group.name, "the consumer joins its group again");
        self.failures += 1;
        let (broker, subscribe) = (self.broker.clone(), self.subscribe.clone());
        self.state = State::Joining(join(broker, subscribe, self.transactions, self.failures));
    }

    /// As [`Source::wind_down`](crate::Source::wind_down).
    pub(crate) fn wind_down(&mut self) -> bool {
        match &mut self.state {
            State::Joining(_) => false,
            State::Joined(subscription) => subscription.wind_down(),
        }
    }

    pub(crate) async fn close(self) -> Result<()> {
        match self.state {
            State::Joining(_) => Ok(()),
            State::Joined(subscription) => subscription.close().await,
        }
    }
}

fn join(
    broker: Broker,
    subscribe: Subscribe,
    transactions: Option<Transactions>,
    failures: u32,
) -> BoxFuture<'static, Result<Subscription>> {
    Box::pin(async move {
        if let Some(before) = failures.checked_sub(1) {
            let pause = Retry::forever().pauses().nth(before.min(16) as usize);
            sleep(pause.unwrap_or_default()).await;
        }
        broker.subscribe_unchecked(subscribe, transactions).await
    })
}

//! A subscription as a case reads it: with patience, and as texts.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use broker_api::{Broker, Delivery, Message, Received, Subscription};
use futures_util::FutureExt;
use tokio::time::timeout;

use super::fault::{Fault, Verdict, ensure};

/// What [`super::bench::Bench::mark`] publishes.
pub(crate) const MARKER: &str = "marker";

/// A subscription, or a reading, with a limit for how long anything may take.
pub(crate) struct Inbox {
    subscription: Subscription,
    patience: Duration,
    /// A subscription needs its connection; without handles that would be a process that is gone.
    _connection: Broker,
}

impl Inbox {
    pub(crate) fn new(subscription: Subscription, connection: Broker, patience: Duration) -> Self {
        Self { subscription, patience, _connection: connection }
    }

    /// The next delivery, which has to come.
    pub(crate) async fn next(&mut self) -> Result<Delivery, Fault> {
        match timeout(self.patience, self.subscription.next()).await {
            Ok(Ok(Some(delivery))) => Ok(delivery),
            Ok(Ok(None)) => Err(Fault::failed("the subscription ended, a message was expected")),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Fault::failed(format!("no message within {:?}", self.patience))),
        }
    }

    /// The next so many deliveries, unsettled; the prefetch has to allow for them.
    pub(crate) async fn take(&mut self, count: usize) -> Result<Vec<Delivery>, Fault> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let next = self.next().await;
            taken.push(next.map_err(|fault| {
                let texts: Vec<_> = taken.iter().map(|d: &Delivery| text(d.message())).collect();
                came_only(&texts, count, &fault)
            })?);
        }
        Ok(taken)
    }

    /// The texts of the next so many deliveries, each acknowledged before the next is asked for.
    pub(crate) async fn handle(&mut self, count: usize) -> Result<Vec<String>, Fault> {
        let mut texts = Vec::with_capacity(count);
        while texts.len() < count {
            let delivery = self.next().await.map_err(|fault| came_only(&texts, count, &fault))?;
            texts.push(text(delivery.message()));
            delivery.ack();
        }
        Ok(texts)
    }

    /// Everything that comes before the markers of so many partitions, all acknowledged.
    pub(crate) async fn before_markers(&mut self, partitions: u32) -> Result<Vec<Received>, Fault> {
        let mut before = Vec::new();
        let mut marked = HashSet::new();
        while marked.len() < partitions as usize {
            let delivery = self.next().await.map_err(|fault| {
                let missing: Vec<_> = (0..partitions).filter(|p| !marked.contains(p)).collect();
                Fault::failed(format!("{fault}, waiting for the markers of partitions {missing:?}"))
            })?;
            let received = delivery.received().clone();
            delivery.ack();
            match received.message.payload() == MARKER {
                true => drop(marked.insert(received.partition)),
                false => before.push(received),
            }
        }
        Ok(before)
    }

    /// The texts of [`Inbox::before_markers`].
    pub(crate) async fn texts_before_markers(
        &mut self,
        partitions: u32,
    ) -> Result<Vec<String>, Fault> {
        let before = self.before_markers(partitions).await?;
        Ok(before.iter().map(|received| text(&received.message)).collect())
    }

    /// Everything until the source ends by itself, as a reading does.
    pub(crate) async fn rest(&mut self) -> Result<Vec<Received>, Fault> {
        let mut all = Vec::new();
        loop {
            match timeout(self.patience, self.subscription.next()).await {
                Ok(Ok(Some(delivery))) => all.push(delivery.received().clone()),
                Ok(Ok(None)) => return Ok(all),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => {
                    let (n, patience) = (all.len(), self.patience);
                    let text = format!("no message and no end within {patience:?}, after {n}");
                    return Err(Fault::failed(text));
                }
            }
        }
    }

    /// Waits for the source to end without another delivery.
    pub(crate) async fn end(&mut self) -> Verdict {
        let rest = self.rest().await?;
        ensure!(rest.is_empty(), "the source went on, the end was expected: {rest:?}");
        Ok(())
    }

    /// A delivery that is there already, without waiting for one.
    pub(crate) fn try_next(&mut self) -> Result<Option<Delivery>, Fault> {
        // Without tokio's budget, which would now and then hide what is there.
        match tokio::task::unconstrained(self.subscription.next()).now_or_never() {
            None => Ok(None),
            Some(Ok(Some(delivery))) => Ok(Some(delivery)),
            Some(Ok(None)) => Err(Fault::failed("the subscription ended")),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// The subscription, to use it as an application does.
    pub(crate) fn subscription(&mut self) -> &mut Subscription {
        &mut self.subscription
    }

    /// Leaves the group.
    pub(crate) async fn close(self) -> Verdict {
        match timeout(self.patience, self.subscription.close()).await {
            Ok(closed) => Ok(closed?),
            Err(_) => Err(Fault::failed(format!("leaving took more than {:?}", self.patience))),
        }
    }
}

/// The fault of a wait that got a part only.
fn came_only(texts: &[String], count: usize, fault: &Fault) -> Fault {
    let last = &texts[texts.len().saturating_sub(10)..];
    Fault::failed(format!("{fault}; {} of {count} had come, the last were {last:?}", texts.len()))
}

/// The payload as text.
pub(crate) fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.payload()).into_owned()
}

/// `count` texts that sort in their order: `a-0000`, `a-0001` ...
pub(crate) fn texts(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n:04}")).collect()
}

/// Sorted, for what may come in any order.
pub(crate) fn sorted(texts: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut texts: Vec<_> = texts.into_iter().collect();
    texts.sort();
    texts
}

/// The texts of each partition, in the order they came.
pub(crate) fn by_partition<'a>(
    received: impl IntoIterator<Item = &'a Received>,
) -> HashMap<u32, Vec<String>> {
    let mut partitions: HashMap<u32, Vec<String>> = HashMap::new();
    for received in received {
        partitions.entry(received.partition).or_default().push(text(&received.message));
    }
    partitions
}

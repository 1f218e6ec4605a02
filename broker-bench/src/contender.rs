//! Whoever is measured.

use std::collections::VecDeque;

use async_trait::async_trait;
use broker_api::BoxError;
use futures_util::future::try_join_all;
use tokio::time::Instant;

use crate::cost::Latencies;
use crate::load::{Item, Ledger, Load};
use crate::row::Work;

/// How messages are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Publishing {
    /// Each is handed over without awaiting the one before; at most [`IN_FLIGHT`] are unconfirmed.
    Pipelined,
    /// So many tasks, each awaiting every confirmation.
    Tasks(usize),
    /// So many a second, as if pipelined.
    Paced(u32),
}

/// How many messages are unconfirmed at most where they are pipelined.
pub(crate) const IN_FLIGHT: usize = 5_000;

/// The consumer group of every topic.
pub(crate) const GROUP: &str = "bench";

/// One way to use one broker.
#[async_trait]
pub(crate) trait Contender: Send + Sync {
    /// As it stands in the table.
    fn name(&self) -> &'static str;

    /// Whether it does this kind of work.
    fn does(&self, _: Work) -> bool {
        true
    }

    /// By how much less it is given to do, because it is so slow.
    fn slowness(&self) -> usize {
        1
    }

    /// Creates a topic with so many partitions, and a group of it where a broker wants to know it
    /// before messages come.
    async fn create(&self, topic: &str, partitions: u32) -> Result<(), BoxError>;

    /// Publishes the load; every message is confirmed when this returns. How long each confirmation
    /// took that was awaited by itself is noted.
    async fn publish(
        &self,
        topic: &str,
        load: Load,
        how: Publishing,
        latencies: &mut Latencies,
    ) -> Result<(), BoxError>;

    /// Consumes until the ledger is complete, settling each message; all is settled when this
    /// returns the ledger.
    async fn consume(&self, topic: &str, ledger: Ledger) -> Result<Ledger, BoxError>;

    /// Deletes what [`Contender::create`] made.
    async fn delete(&self, topic: &str) -> Result<(), BoxError>;
}

/// Confirmations that are awaited in order, so many at a time.
pub(crate) struct Window<F> {
    open: VecDeque<F>,
    size: usize,
}

impl<F, T, E> Window<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    pub(crate) fn new(size: usize) -> Self {
        Self { open: VecDeque::with_capacity(size), size }
    }

    /// Adds a confirmation; waits for the older half once the window is full.
    pub(crate) async fn push(&mut self, confirmation: F) -> Result<(), BoxError> {
        self.open.push_back(confirmation);
        if self.open.len() == self.size { self.confirm(self.size / 2).await } else { Ok(()) }
    }

    /// Waits for all.
    pub(crate) async fn finish(mut self) -> Result<(), BoxError> {
        self.confirm(self.open.len()).await
    }

    async fn confirm(&mut self, count: usize) -> Result<(), BoxError> {
        for confirmation in self.open.drain(..count) {
            confirmation.await.map_err(Into::into)?;
        }
        Ok(())
    }
}

/// Publishes the load from so many tasks at a time, each awaiting every confirmation, and notes how
/// long each took. The order of a key is kept, as one task has it.
pub(crate) async fn by_tasks<F, E>(
    load: Load,
    tasks: usize,
    latencies: &mut Latencies,
    publish: impl Fn(Item) -> F + Clone + Send + 'static,
) -> Result<(), BoxError>
where
    F: Future<Output = Result<(), E>> + Send,
    E: Into<BoxError>,
{
    let noted = try_join_all(load.shared_by(tasks).into_iter().map(|items| {
        let publish = publish.clone();
        tokio::spawn(async move {
            let mut took = Vec::with_capacity(items.len());
            for item in items {
                let began = Instant::now();
                publish(item).await.map_err(Into::into)?;
                took.push(began.elapsed());
            }
            Ok::<_, BoxError>(took)
        })
    }));
    for took in noted.await? {
        took?.into_iter().for_each(|latency| latencies.note(latency));
    }
    Ok(())
}

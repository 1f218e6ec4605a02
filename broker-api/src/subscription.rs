//! A stream of deliveries.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::backend::Source;
use crate::delivery::Delivery;
use crate::error::Result;
use crate::stats::Counts;
use crate::telemetry::Received;

/// How many deliveries are taken from the backend at once.
const BATCH: usize = 256;

/// Deliveries of a group or of a reading, one by one.
pub struct Subscription {
    source: Box<dyn Source>,
    ready: VecDeque<Delivery>,
    received: Received,
    counts: Arc<Counts>,
}

impl Subscription {
    pub(crate) fn new(source: Box<dyn Source>, received: Received, counts: Arc<Counts>) -> Self {
        Self { source, ready: VecDeque::new(), received, counts }
    }

    /// The next delivery; `None` when a reading has caught up or the broker was closed.
    ///
    /// # Cancel safety
    /// Safe: a delivery is either returned or still here.
    ///
    /// # Errors
    /// Those of [`Source::next`]; after one nothing more comes.
    pub async fn next(&mut self) -> Result<Option<Delivery>> {
        if let Some(delivery) = self.ready.pop_front() {
            return Ok(Some(delivery));
        }
        match self.take(BATCH).await? {
            Some(batch) => self.ready.extend(batch),
            None => return Ok(None),
        }
        Ok(self.ready.pop_front())
    }

    /// The next deliveries that are there together, at least one and at most `max`; `None` as for
    /// [`Subscription::next`]. Cancel-safe, with the same errors.
    ///
    /// # Errors
    /// Those of [`Source::next`].
    pub async fn next_batch(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        let max = max.max(1);
        if self.ready.is_empty() {
            return self.take(max).await;
        }
        let take = max.min(self.ready.len());
        Ok(Some(self.ready.drain(..take).collect()))
    }

    async fn take(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        let batch = self.source.next(max).await?;
        let taken = batch.as_deref().unwrap_or_default();
        self.received.count(taken);
        self.counts.consumed(taken.len());
        Ok(batch)
    }

    /// As [`Source::wind_down`].
    pub(crate) fn wind_down(&mut self) -> bool {
        self.hand_back();
        self.source.wind_down()
    }

    /// Leaves the group: what was settled does not come back, the rest does.
    ///
    /// # Errors
    /// What could not be flushed.
    pub async fn close(mut self) -> Result<()> {
        self.hand_back();
        self.source.close().await
    }

    /// Returns what was not given out yet, in its order.
    fn hand_back(&mut self) {
        self.ready.drain(..).for_each(Delivery::requeue);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hand_back();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}

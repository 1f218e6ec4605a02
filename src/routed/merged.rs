//! The deliveries of several brokers as one source.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use broker_api::{Delivery, Message, Result, Settle, Settlement, Source, async_trait};
use futures_util::future::join_all;
use tokio::sync::Semaphore;

/// Takes from each source in turn what is there.
///
/// Every source may have the whole prefetch on its way; what is handed out is bounded here.
pub(super) struct Merged {
    sources: Vec<Box<dyn Source>>,
    /// A permit for each delivery that may be handed out.
    room: Arc<Semaphore>,
    /// Which source is asked first the next time, so that a busy one does not starve the others.
    first: usize,
    /// Whether one of them failed: nothing more comes then, from any.
    failed: bool,
}

impl Merged {
    pub(super) fn new(sources: Vec<Box<dyn Source>>, prefetch: usize) -> Self {
        let room = Arc::new(Semaphore::new(prefetch.min(Semaphore::MAX_PERMITS)));
        Self { sources, room, first: 0, failed: false }
    }

    /// What the first source gives that has something, and which one that is. Cancel-safe, as the
    /// sources are.
    async fn any(&mut self, max: usize) -> (usize, Result<Option<Vec<Delivery>>>) {
        let count = self.sources.len();
        let mut nexts: Vec<_> = self.sources.iter_mut().map(|source| source.next(max)).collect();
        poll_fn(|cx| {
            for i in (self.first..self.first + count).map(|i| i % count) {
                if let Poll::Ready(result) = nexts[i].as_mut().poll(cx) {
                    return Poll::Ready((i, result));
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[async_trait]
impl Source for Merged {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        while !self.failed && !self.sources.is_empty() {
            let room = self.room.clone();
            // Nobody closes the semaphore.
            let Ok(mut permits) = room.acquire().await else { return Ok(None) };
            let more = room.available_permits().min(max.saturating_sub(1));
            if let Ok(more) = room.try_acquire_many(u32::try_from(more).unwrap_or(u32::MAX)) {
                permits.merge(more);
            }
            let (index, result) = self.any(permits.num_permits()).await;
            self.first = index + 1;
            match result {
                Ok(Some(deliveries)) => {
                    // One given back for every delivery settled; what is left over, now.
                    if let Some(taken) = permits.split(deliveries.len()) {
                        taken.forget();
                    }
                    let counted = deliveries.into_iter().map(|delivery| {
                        delivery
                            .map_settle(|settle| Arc::new(Counted { settle, room: room.clone() }))
                    });
                    return Ok(Some(counted.collect()));
                }
                Ok(None) => drop(self.sources.remove(index)),
                Err(error) => {
                    self.failed = true;
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// Only where all of them do: of the others nothing says what is to be handed back.
    fn wind_down(&mut self) -> bool {
        self.sources.iter_mut().map(|source| source.wind_down()).fold(true, |all, one| all & one)
    }

    async fn close(&mut self) -> Result<()> {
        close_all(&mut self.sources).await
    }
}

/// Closes all, at the same time, whatever one of them says.
pub(super) async fn close_all(sources: &mut [Box<dyn Source>]) -> Result<()> {
    join_all(sources.iter_mut().map(|source| source.close())).await.into_iter().collect()
}

/// Makes room when a delivery is settled.
struct Counted {
    settle: Arc<dyn Settle>,
    room: Arc<Semaphore>,
}

impl Settle for Counted {
    fn settle(&self, token: u64, settlement: Settlement) {
        self.settle.settle(token, settlement);
        self.room.add_permits(1);
    }

    fn requeue(&self, token: u64, message: Message) {
        self.settle.requeue(token, message);
        self.room.add_permits(1);
    }

    fn is_live(&self, token: u64) -> bool {
        self.settle.is_live(token)
    }
}

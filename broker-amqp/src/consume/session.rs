//! What the application holds of one channel.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker_api::{Delivery, Message, Name, Received, Settle, Settlement};
use tokio::sync::Notify;

use crate::consume::ledger::{Delivered, Frame, Ledger};

/// How the application and the task of a membership wake each other.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// There is something to hand out, or it has ended.
    pub(crate) ready: Notify,
    /// Something was settled.
    pub(crate) settled: Notify,
}

/// The deliveries of one channel. When the channel ends they are the broker's again, and settling
/// them has no effect any more: the next channel has a session of its own.
#[derive(Debug)]
pub(crate) struct Session {
    inner: Mutex<Inner>,
    signals: Arc<Signals>,
}

#[derive(Debug)]
struct Inner {
    live: bool,
    ledger: Ledger,
    /// The topic of each lane.
    topics: Vec<Name>,
}

impl Session {
    pub(crate) fn new(capacity: usize, topics: Vec<Name>, signals: Arc<Signals>) -> Self {
        let ledger = Ledger::new(capacity, topics.len());
        Self { inner: Mutex::new(Inner { live: true, ledger, topics }), signals }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One queue more; its number.
    pub(crate) fn add_lane(&self, topic: Name) -> usize {
        let mut inner = self.lock();
        inner.topics.push(topic);
        inner.ledger.add_lane()
    }

    /// Takes in what has arrived: a message, or a mark by its tag.
    pub(crate) fn deliver(
        &self,
        arrived: impl IntoIterator<Item = (usize, Result<Delivered, u64>)>,
    ) {
        let mut inner = self.lock();
        for (lane, delivered) in arrived {
            match delivered {
                Ok(delivered) => inner.ledger.deliver(lane, delivered),
                Err(mark) => inner.ledger.deliver_mark(lane, mark),
            }
        }
        if inner.ledger.has_more() {
            self.signals.ready.notify_one();
        }
    }

    /// Hands out up to `max` deliveries.
    pub(crate) fn hand_out(self: &Arc<Self>, max: usize) -> Vec<Delivery> {
        let mut inner = self.lock();
        let Inner { live: true, ledger, topics } = &mut *inner else { return Vec::new() };
        let settle: Arc<dyn Settle> = self.clone();
        let mut batch = Vec::new();
        ledger.hand_out(max, |lane, tag, message, partition, returned| {
            let topic = topics[lane];
            let redeliveries = Some(returned);
            let received = Received { message, topic, partition, offset: None, redeliveries };
            batch.push(Delivery::new(received, settle.clone(), tag));
        });
        batch
    }

    /// Whether everything of a lane is settled, so that its mark can be.
    pub(crate) fn is_settled(&self, lane: usize) -> bool {
        self.lock().ledger.is_settled(lane)
    }

    pub(crate) fn settle_mark(&self, tag: u64) {
        self.lock().ledger.settle_mark(tag);
    }

    /// What the broker has to be told; whether something is left for later.
    pub(crate) fn tell(&self, all: bool, frames: &mut Vec<Frame>) -> bool {
        let mut inner = self.lock();
        inner.ledger.tell(all, frames);
        inner.ledger.has_untold()
    }

    /// Ends it: nothing is handed out or settled from now on. What is left to be told, and the
    /// lanes of which anything was settled.
    pub(crate) fn end(&self) -> (Vec<Frame>, Vec<usize>) {
        let mut inner = self.lock();
        inner.live = false;
        let mut frames = Vec::new();
        inner.ledger.tell(true, &mut frames);
        (frames, inner.ledger.told_lanes())
    }
}

impl Settle for Session {
    fn settle(&self, token: u64, settlement: Settlement) {
        let mut inner = self.lock();
        if !inner.live || !inner.ledger.settle(token, settlement) {
            return;
        }
        let more = inner.ledger.has_more();
        drop(inner);
        self.signals.settled.notify_one();
        if more {
            self.signals.ready.notify_one();
        }
    }

    fn requeue(&self, token: u64, message: Message) {
        let mut inner = self.lock();
        // Handed out again from here, and not given back to the broker: that would put it behind
        // what was delivered since, and some versions then stop delivering at all.
        if inner.live && inner.ledger.requeue(token, message) {
            drop(inner);
            self.signals.ready.notify_one();
        }
    }

    fn is_live(&self, _token: u64) -> bool {
        self.lock().live
    }
}

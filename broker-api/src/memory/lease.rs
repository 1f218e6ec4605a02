//! A member's hold on a partition.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::server::Server;
use crate::backend::{Settle, Settlement};
use crate::message::Message;

/// What lets one member work on one partition, and settles what it got of it. Once it has ended,
/// settling through it does nothing: that is what keeps a late settlement from counting.
pub(super) struct Lease {
    pub(super) source: usize,
    pub(super) topic: usize,
    pub(super) group: usize,
    pub(super) partition: usize,
    /// Written under the server's lock only.
    phase: AtomicU8,
    server: Arc<Server>,
}

/// The member works on the partition.
const LIVE: u8 = 0;
/// It is to finish what it has in hand, and gets no more.
const STOPPING: u8 = 1;
/// It has lost the partition.
const ENDED: u8 = 2;

impl Lease {
    pub(super) fn new(
        server: Arc<Server>,
        source: usize,
        (topic, group, partition): (usize, usize, usize),
    ) -> Arc<Self> {
        Arc::new(Self { source, topic, group, partition, phase: AtomicU8::new(LIVE), server })
    }

    pub(super) fn is_live(&self) -> bool {
        self.phase.load(Ordering::Acquire) == LIVE
    }

    pub(super) fn has_ended(&self) -> bool {
        self.phase.load(Ordering::Acquire) == ENDED
    }

    pub(super) fn stop(&self) {
        self.phase.store(STOPPING, Ordering::Release);
    }

    /// The partition was assigned to the same member again before it had finished.
    pub(super) fn resume(&self) {
        self.phase.store(LIVE, Ordering::Release);
    }

    pub(super) fn end(&self) {
        self.phase.store(ENDED, Ordering::Release);
    }
}

/// The token is the offset.
impl Settle for Lease {
    fn settle(&self, token: u64, _: Settlement) {
        // A rejected message is not wanted again, so it is as settled as an acknowledged one.
        self.server.with(|state, after| state.settle(self, token, after));
    }

    fn requeue(&self, token: u64, _: Message) {
        // The log still has the message.
        self.server.with(|state, after| state.requeue(self, token, after));
    }

    fn is_live(&self, _: u64) -> bool {
        Lease::is_live(self)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("source", &self.source)
            .field("partition", &self.partition)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

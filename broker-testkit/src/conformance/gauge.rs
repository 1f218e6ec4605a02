//! A backend that measures how much was handed to it and not answered yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use broker_api::{Backend, Confirm, Outgoing};

use crate::wrapped::{Wrapped, Wraps};

/// The bytes of messages between publishing and confirming, on their way through here.
pub(crate) struct Gauge {
    inner: Arc<dyn Backend>,
    level: Arc<Level>,
}

/// How many bytes there are, and the most that there were.
#[derive(Default)]
pub(crate) struct Level {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Level {
    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }

    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

impl Gauge {
    pub(crate) fn around(inner: Arc<dyn Backend>) -> (Wrapped<Self>, Arc<Level>) {
        let level = Arc::<Level>::default();
        (Wrapped(Self { inner, level: level.clone() }), level)
    }
}

impl Wraps for Gauge {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }

    fn publish(&self, outgoing: Outgoing) {
        let bytes = outgoing.message.byte_len();
        let now = self.level.now.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.level.most.fetch_max(now, Ordering::SeqCst);
        let (level, outer) = (self.level.clone(), outgoing.confirm);
        let confirm = Confirm::from_fn(move |result| {
            level.now.fetch_sub(bytes, Ordering::SeqCst);
            outer.done(result);
        });
        self.inner.publish(Outgoing { confirm, ..outgoing });
    }
}

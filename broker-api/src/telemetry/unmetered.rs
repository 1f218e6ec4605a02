//! What `metered.rs` does, without the feature `metrics`: nothing.

use tokio::time::Instant;

use crate::delivery::Delivery;
use crate::name::Name;

pub(crate) struct Telemetry {
    pub(super) system: &'static str,
}

impl Telemetry {
    pub(crate) fn new(system: &'static str) -> Self {
        Self { system }
    }

    pub(super) fn publisher(&self, _: Name) -> PublisherMeters {
        PublisherMeters
    }

    pub(super) fn consumer(&self, _: Name, _: Name) -> ConsumerMeters {
        ConsumerMeters
    }

    pub(crate) fn received(&self, _: Option<Name>) -> Received {
        Received
    }
}

pub(super) struct PublisherMeters;

impl PublisherMeters {
    pub(super) fn handed_over(&self) {}
    pub(super) fn answered(&self, _: Instant, _: Option<&'static str>) {}
    pub(super) fn ended(&self, _: Instant, _: Option<&'static str>) {}
}

pub(super) struct ConsumerMeters;

impl ConsumerMeters {
    pub(super) fn holds(&self, _: f64) {}
    pub(super) fn called(&self, _: Started, _: Option<&'static str>) {}
    pub(super) fn failed(&self, _: &'static str) {}
    pub(super) fn retried(&self, _: &'static str) {}
    pub(super) fn dead_lettered(&self, _: &'static str) {}
    pub(super) fn discarded(&self, _: &'static str) {}
}

#[derive(Clone, Copy)]
pub(super) struct Started;

impl Started {
    pub(super) fn now() -> Self {
        Self
    }
}

pub(crate) struct Received;

impl Received {
    pub(crate) fn count(&mut self, _: &[Delivery]) {}
}

//! What `metered.rs` does, without the feature `metrics`: nothing.

use std::sync::Arc;

use tokio::time::Instant;

use crate::backend::Backend;
use crate::delivery::Delivery;
use crate::name::Name;

pub(crate) struct Telemetry {
    backend: Arc<dyn Backend>,
}

impl Telemetry {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend }
    }

    pub(super) fn system(&self, topic: Name) -> &'static str {
        self.backend.system_of(topic)
    }

    pub(super) fn publisher(&self, _: Name) -> PublisherMeters {
        PublisherMeters
    }

    pub(super) fn consumer(&self, _: Name, _: Name) -> ConsumerMeters {
        ConsumerMeters
    }

    pub(crate) fn received(&self, _: Option<Name>, _: &[Name]) -> Received {
        Received
    }
}

pub(super) struct PublisherMeters;

impl PublisherMeters {
    pub(super) fn handed_over(&self) {}
    pub(super) fn answered(&self, _: Option<&'static str>) {}
    pub(super) fn ended(&self, _: Started, _: Option<&'static str>) {}
}

pub(super) struct ConsumerMeters;

impl ConsumerMeters {
    pub(super) fn are_heard(&self) -> bool {
        false
    }

    pub(super) fn call(&self) -> Started {
        Started
    }

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
    pub(super) fn at(_: Instant) -> Self {
        Self
    }
}

pub(crate) struct Received;

impl Received {
    pub(crate) fn count(&self, _: &[Delivery]) {}
}

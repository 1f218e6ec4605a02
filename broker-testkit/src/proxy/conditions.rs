//! How the network is.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

/// What becomes of bytes and of new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Flow {
    #[default]
    Pass,
    Hold,
    Swallow,
    Refuse,
}

/// How connections are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Ending {
    #[default]
    Close,
    Reset,
}

/// How the network is, for all connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions {
    pub(super) upstream: Option<Arc<str>>,
    pub(super) flow: Flow,
    pub(super) delay: Duration,
    /// Bytes a second.
    pub(super) rate: Option<NonZeroU64>,
    /// How often all were made half-open.
    pub(super) swallowings: u64,
    /// How often all connections were ended. A number, and not a state, so that one that is made
    /// right after is not ended too, and one that looks late does not miss it.
    endings: u64,
    ending: Ending,
}

impl Conditions {
    pub(super) fn end(&mut self, how: Ending) {
        self.endings += 1;
        self.ending = how;
    }
}

/// What a connection was born into, which says what concerns it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Birth {
    swallowings: u64,
    endings: u64,
}

impl Birth {
    pub(super) fn now(conditions: &Conditions) -> Self {
        // One made while everything is swallowed is half-open like those made before.
        let swallowing = u64::from(conditions.flow == Flow::Swallow);
        Self { swallowings: conditions.swallowings - swallowing, endings: conditions.endings }
    }

    pub(super) fn is_half_open(&self, conditions: &Conditions) -> bool {
        conditions.swallowings > self.swallowings
    }

    /// How it was ended, if it was.
    pub(super) fn ending(&self, conditions: &Conditions) -> Option<Ending> {
        (conditions.endings > self.endings).then_some(conditions.ending)
    }
}

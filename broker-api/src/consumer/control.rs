//! Pausing a consumer by hand.

use std::fmt;

use tokio::sync::watch;

/// Pauses and resumes the consumers it was given to. Cheap to clone; all clones are the same.
///
/// A paused consumer stays a member of its group and keeps its partitions: it finishes the
/// handlers at work, begins none, and takes no more than its prefetch from the broker.
#[derive(Clone)]
pub struct Control(watch::Sender<bool>);

impl Control {
    /// A control that is not paused.
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Begins no more handlers from now on.
    pub fn pause(&self) {
        self.0.send_replace(true);
    }

    /// Goes on.
    pub fn resume(&self) {
        self.0.send_replace(false);
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is not paused. Cancel-safe.
    pub(crate) async fn running(&self) {
        // The sender is this one, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|paused| !paused).await;
    }
}

impl Default for Control {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("paused", &self.is_paused()).finish()
    }
}

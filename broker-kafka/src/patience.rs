//! Waiting for something that is about to happen.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Between two looks at something that is about to happen: at first, and at most.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Asking again and again, ever more seldom, until it has lasted too long.
pub(crate) struct Patience {
    deadline: Instant,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new(lasts: Duration) -> Self {
        Self { deadline: Instant::now() + lasts, pause: PAUSE }
    }

    /// Waits before the next question; false if there is to be none.
    pub(crate) async fn wait(&mut self) -> bool {
        if Instant::now() + self.pause > self.deadline {
            return false;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

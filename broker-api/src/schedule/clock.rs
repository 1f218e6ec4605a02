//! The time of day that schedules go by.

use std::time::{Duration, SystemTime};

/// Now.
#[cfg(not(test))]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// Now, by tokio's clock: a test that pauses that one has paused the time of day too.
#[cfg(test)]
pub(crate) fn now() -> SystemTime {
    use tokio::time::Instant;
    static START: std::sync::LazyLock<(SystemTime, Instant)> =
        std::sync::LazyLock::new(|| (SystemTime::now(), Instant::now()));
    let (time, instant) = *START;
    let now = Instant::now();
    time + now.saturating_duration_since(instant) - instant.saturating_duration_since(now)
}

/// How long it is until then; zero if it is over.
pub(crate) fn left(until: SystemTime) -> Duration {
    until.duration_since(now()).unwrap_or_default()
}

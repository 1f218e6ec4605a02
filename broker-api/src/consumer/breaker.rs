//! A circuit breaker: no calls of a handler that keeps failing.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// When a consumer stops calling a handler that keeps failing, and for how long.
///
/// After the pause one message is tried; if that works the consumer goes on, else it pauses again.
/// While it pauses, [`Health`](crate::Health) says so. The numbers to start from are
/// MassTransit's kill switch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Breaker {
    /// The part of the calls that has to fail, from 0 to 1; 0.1 by default.
    pub ratio: f64,
    /// How many calls there have to be within the window before the ratio counts; 100 by default.
    pub calls: usize,
    /// Over which time calls are counted; 1 minute by default.
    pub window: Duration,
    /// How long it pauses; 1 minute by default.
    pub pause: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { ratio: 0.1, calls: 100, window: minute, pause: minute }
    }
}

/// The breaker of one consumer at work.
pub(super) struct Circuit {
    breaker: Breaker,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// The calls within the window, and whether each failed.
    calls: VecDeque<(Instant, bool)>,
    failed: usize,
}

#[derive(Default, Clone, Copy, PartialEq, Debug)]
enum Phase {
    #[default]
    Closed,
    Open {
        until: Instant,
    },
    /// One call is being tried.
    Probing,
}

impl Circuit {
    pub(super) fn new(breaker: Breaker) -> Self {
        Self { breaker, state: Mutex::default(), changed: Notify::new() }
    }

    /// Waits until a call may be made.
    pub(super) async fn admit(&self) -> Admitted<'_> {
        loop {
            let changed = self.changed.notified();
            match self.try_admit() {
                Ok(admitted) => return admitted,
                Err(Some(until)) => sleep_until(until).await,
                Err(None) => changed.await,
            }
        }
    }

    /// Whether no calls are made now.
    pub(super) fn is_open(&self) -> bool {
        self.lock().phase != Phase::Closed
    }

    /// Leave to make a call, or else how long to wait: until then, or until something changes.
    fn try_admit(&self) -> Result<Admitted<'_>, Option<Instant>> {
        let mut state = self.lock();
        let probe = match state.phase {
            Phase::Closed => false,
            Phase::Open { until } if until <= Instant::now() => true,
            Phase::Open { until } => return Err(Some(until)),
            Phase::Probing => return Err(None),
        };
        if probe {
            state.phase = Phase::Probing;
        }
        Ok(Admitted { circuit: self, probe, answered: false })
    }

    fn ended(&self, failed: bool, probe: bool) {
        let now = Instant::now();
        let mut state = self.lock();
        let before = state.phase;
        match state.phase {
            Phase::Probing if probe && failed => {
                state.phase = Phase::Open { until: now + self.breaker.pause }
            }
            Phase::Probing if probe => *state = State::default(),
            // A call that began before the breaker opened says nothing new.
            Phase::Open { .. } | Phase::Probing => {}
            Phase::Closed => {
                state.count(now, failed, self.breaker.window);
                let enough = state.calls.len() >= self.breaker.calls.max(1);
                let part = state.failed as f64 / state.calls.len() as f64;
                if enough && failed && part >= self.breaker.ratio {
                    state.phase = Phase::Open { until: now + self.breaker.pause };
                    tracing::error!(failed = state.failed, calls = state.calls.len(),
                        pause = ?self.breaker.pause, "the handler keeps failing: the consumer pauses");
                }
            }
        }
        let after = state.phase;
        drop(state);
        if before != after {
            self.changed.notify_waiters();
        }
    }

    /// The probe was never made, or never ended: the next one may be made at once.
    fn abandoned(&self) {
        self.lock().phase = Phase::Open { until: Instant::now() };
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self, now: Instant, failed: bool, window: Duration) {
        self.calls.push_back((now, failed));
        self.failed += usize::from(failed);
        while let Some((at, failed)) = self.calls.front()
            && now.duration_since(*at) > window
        {
            self.failed -= usize::from(*failed);
            self.calls.pop_front();
        }
    }
}

/// Leave to make one call; dropped unanswered, another may make it.
pub(super) struct Admitted<'a> {
    circuit: &'a Circuit,
    /// Whether it is the one call that is being tried.
    probe: bool,
    answered: bool,
}

impl Admitted<'_> {
    pub(super) fn ended(mut self, failed: bool) {
        self.answered = true;
        self.circuit.ended(failed, self.probe);
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if self.probe && !self.answered {
            self.circuit.abandoned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn breaker() -> Circuit {
        let second = Duration::from_secs(1);
        Circuit::new(Breaker { ratio: 0.5, calls: 4, window: 10 * second, pause: 5 * second })
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_at_the_ratio_probes_after_the_pause_and_closes_on_success() {
        let circuit = breaker();
        for failed in [false, true, false] {
            circuit.admit().await.ended(failed);
            assert!(!circuit.is_open(), "too few calls");
        }
        circuit.admit().await.ended(true);
        assert!(circuit.is_open());

        let opened = Instant::now();
        let probe = circuit.admit().await;
        assert_eq!(opened.elapsed(), Duration::from_secs(5));
        assert!(circuit.admit().now_or_never().is_none(), "one probe at a time");
        probe.ended(true);
        let opened = Instant::now();
        circuit.admit().await.ended(false);
        assert_eq!((opened.elapsed(), circuit.is_open()), (Duration::from_secs(5), false));
    }

    #[tokio::test(start_paused = true)]
    async fn what_began_before_it_opened_is_not_taken_for_the_probe() {
        let circuit = breaker();
        let (slow, dropped) = (circuit.admit().await, circuit.admit().await);
        for _ in 0..4 {
            circuit.admit().await.ended(true);
        }
        let probe = circuit.admit().await;
        slow.ended(false);
        drop(dropped);
        assert!(circuit.is_open(), "the probe has not ended");
        assert!(circuit.admit().now_or_never().is_none(), "one probe at a time");
        probe.ended(false);
        assert!(!circuit.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_abandoned_leaves_its_place_to_another() {
        let circuit = breaker();
        for _ in 0..4 {
            circuit.admit().await.ended(true);
        }
        drop(circuit.admit().await);
        circuit.admit().await.ended(false);
        assert!(!circuit.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_older_than_the_window_do_not_count() {
        let circuit = breaker();
        for _ in 0..3 {
            circuit.admit().await.ended(true);
        }
        tokio::time::advance(Duration::from_secs(11)).await;
        circuit.admit().await.ended(true);
        assert!(!circuit.is_open());
    }
}

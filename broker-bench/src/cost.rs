//! What work costs: time, and the CPU time of this process, in which only the clients run.

use std::time::{Duration, Instant};

use broker_api::BoxError;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

/// Where the clocks stood when the work began.
pub(crate) struct Watch {
    began: Instant,
    cpu: Duration,
}

/// What a number of messages cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) messages: usize,
    pub(crate) elapsed: Duration,
    pub(crate) cpu: Duration,
}

impl Watch {
    pub(crate) fn start() -> Self {
        Self { began: Instant::now(), cpu: cpu_time() }
    }

    pub(crate) fn stop(self, messages: usize) -> Cost {
        let cpu = cpu_time().saturating_sub(self.cpu);
        Cost { messages, elapsed: self.began.elapsed(), cpu }
    }
}

impl Cost {
    /// Messages per second.
    pub(crate) fn rate(self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds of CPU time for each message.
    pub(crate) fn cpu_micros(self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.messages as f64
    }
}

/// CPU time of all threads of this process so far; the brokers are other processes.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// How long each of many calls took, from a microsecond to a minute, to three digits.
pub(crate) struct Latencies(Histogram<u32>);

impl Latencies {
    pub(crate) fn new() -> Result<Self, BoxError> {
        Ok(Self(Histogram::new_with_bounds(1, 60_000_000, 3)?))
    }

    pub(crate) fn note(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In microseconds.
    pub(crate) fn percentile(&self, percent: f64) -> u64 {
        self.0.value_at_percentile(percent)
    }
}

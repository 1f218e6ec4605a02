//! What work costs: time, CPU time and memory of this process, in which only the clients run.

use std::fs;
use std::time::{Duration, Instant};

use broker_api::BoxError;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use crate::allocations;

/// Where the clocks stood when the work began.
pub(crate) struct Watch {
    began: Instant,
    cpu: Duration,
    allocations: u64,
}

/// What a number of messages cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) messages: usize,
    pub(crate) elapsed: Duration,
    pub(crate) cpu: Duration,
    /// Where they were counted.
    pub(crate) allocations: u64,
}

impl Watch {
    pub(crate) fn start() -> Self {
        let (cpu, allocations) = (cpu_time(), allocations::counted());
        Self { began: Instant::now(), cpu, allocations }
    }

    pub(crate) fn stop(&self, messages: usize) -> Cost {
        Cost {
            messages,
            elapsed: self.began.elapsed(),
            cpu: cpu_time().saturating_sub(self.cpu),
            allocations: allocations::counted() - self.allocations,
        }
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

/// Has the largest memory measured from now on.
pub(crate) fn forget_peak() -> Result<(), BoxError> {
    Ok(fs::write("/proc/self/clear_refs", "5")?)
}

/// The most memory that this process had in use since [`forget_peak`], in MiB.
pub(crate) fn peak_mib() -> Result<f64, BoxError> {
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.split_whitespace().next()).ok_or("no VmHWM in /proc")?;
    Ok(kib.parse::<f64>()? / 1_024.0)
}

/// How long each of many things took, from a microsecond to a minute, to three digits.
pub(crate) struct Latencies(Histogram<u32>);

impl Latencies {
    pub(crate) fn new() -> Result<Self, BoxError> {
        Ok(Self(Histogram::new_with_bounds(1, 60_000_000, 3)?))
    }

    pub(crate) fn note(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn add(&mut self, others: &Self) -> Result<(), BoxError> {
        Ok(self.0.add(&others.0)?)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In microseconds.
    pub(crate) fn percentile(&self, percent: f64) -> u64 {
        self.0.value_at_percentile(percent)
    }
}

/// The middle one of some figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_memory_is_seen_and_forgotten() {
        const MIB: usize = 1 << 20;
        forget_peak().unwrap();
        let before = peak_mib().unwrap();
        let large = std::hint::black_box(vec![1_u8; 64 * MIB]);
        let with = peak_mib().unwrap();
        assert!(with > before + 60.0, "{before} {with} {}", large.len());
        drop(large);
        forget_peak().unwrap();
        assert!(peak_mib().unwrap() < with - 60.0);
    }
}

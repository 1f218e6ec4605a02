//! When a failed message is tried again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// How a handler that failed is called again: after pauses that grow exponentially to a cap, with
/// a jitter that only ever lengthens them. The message stays unsettled meanwhile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    attempts: Option<u32>,
    initial: Duration,
    factor: f32,
    max: Duration,
    jitter: bool,
}

impl Retry {
    /// Without end: 100 ms, doubled up to 30 s, with jitter.
    pub const fn exponential() -> Self {
        Self {
            attempts: None,
            initial: Duration::from_millis(100),
            factor: 2.0,
            max: Duration::from_secs(30),
            jitter: true,
        }
    }

    /// Not at all: the first failure is the last.
    pub const fn none() -> Self {
        Self::exponential().attempts(1)
    }

    /// Sets how often the handler is called at most, the first time included; at least once.
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// Sets the first pause.
    pub const fn initial(mut self, pause: Duration) -> Self {
        self.initial = pause;
        self
    }

    /// Sets what each pause is multiplied by to get the next; below 1 it counts as 1.
    pub const fn factor(mut self, factor: f32) -> Self {
        self.factor = factor;
        self
    }

    /// Sets the longest pause, before jitter.
    pub const fn max(mut self, pause: Duration) -> Self {
        self.max = pause;
        self
    }

    /// Sets whether up to the first pause is added at random, so that many do not retry at once.
    pub const fn jitter(mut self, jitter: bool) -> Self {
        self.jitter = jitter;
        self
    }

    /// The pauses after each failed attempt; at its end the message is given up.
    pub(crate) fn pauses(&self) -> Pauses {
        let builder = ExponentialBuilder::default()
            .with_min_delay(self.initial)
            .with_max_delay(self.max.max(self.initial))
            .with_factor(self.factor.max(1.0));
        let builder = match self.attempts {
            None => builder.without_max_times(),
            Some(attempts) => builder.with_max_times(attempts.saturating_sub(1) as usize),
        };
        Pauses(if self.jitter { builder.with_jitter() } else { builder }.build())
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self::exponential()
    }
}

/// The pauses of one message.
pub(crate) struct Pauses(ExponentialBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(pauses: Pauses, n: usize) -> Vec<u128> {
        pauses.take(n).map(|pause| pause.as_millis()).collect()
    }

    #[test]
    fn pauses_grow_to_the_cap_and_end_with_the_attempts() {
        let retry = Retry::exponential().jitter(false).max(Duration::from_millis(500));
        assert_eq!(ms(retry.pauses(), 5), [100, 200, 400, 500, 500]);
        assert_eq!(ms(retry.attempts(3).pauses(), 5), [100, 200]);
        assert_eq!(ms(Retry::none().pauses(), 5), [0; 0]);
        assert_eq!(ms(retry.attempts(0).pauses(), 5), [0; 0]);
    }

    #[test]
    fn jitter_only_ever_lengthens_a_pause() {
        let plain = Retry::exponential().jitter(false).attempts(12);
        for _ in 0..100 {
            for (with, without) in plain.jitter(true).pauses().zip(plain.pauses()) {
                assert!(with >= without && with <= without * 2, "{with:?} {without:?}");
            }
        }
    }
}

//! When a failed message is tried again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// How a handler that failed is called again.
///
/// First in place, after pauses that grow exponentially to a cap, with a jitter that only ever
/// lengthens them. The message stays unsettled meanwhile, and later ones of its key wait.
///
/// Then, where [`Retry::delays`] are set, later: the message waits in a topic of the group's own,
/// and blocks nobody. Later messages of its key pass it, unless it is to keep its place
/// ([`Retry::in_order`]).
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    attempts: Option<u32>,
    initial: Duration,
    factor: f32,
    max: Duration,
    jitter: bool,
    total: Option<Duration>,
    delays: Vec<Duration>,
    in_order: bool,
}

impl Retry {
    /// Ten attempts with pauses from 100 ms, doubled up to 30 s, with jitter: a minute in all.
    pub const fn exponential() -> Self {
        Self {
            attempts: Some(10),
            initial: Duration::from_millis(100),
            factor: 2.0,
            max: Duration::from_secs(30),
            jitter: true,
            total: None,
            delays: Vec::new(),
            in_order: false,
        }
    }

    /// The same without end.
    pub const fn forever() -> Self {
        let mut retry = Self::exponential();
        retry.attempts = None;
        retry
    }

    /// Not at all: the first failure is the last.
    pub const fn none() -> Self {
        let mut retry = Self::exponential();
        retry.attempts = Some(1);
        retry
    }

    /// Sets how often the handler is called in place, the first time included; at least once. After
    /// each of the delays it is called as often again.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// Sets the first pause.
    pub fn initial(mut self, pause: Duration) -> Self {
        self.initial = pause;
        self
    }

    /// Sets what each pause is multiplied by to get the next; below 1 it counts as 1.
    pub fn factor(mut self, factor: f32) -> Self {
        self.factor = factor;
        self
    }

    /// Sets the longest pause, before jitter.
    pub fn max(mut self, pause: Duration) -> Self {
        self.max = pause;
        self
    }

    /// Sets whether up to the first pause is added at random, so that many do not retry at once.
    pub fn jitter(mut self, jitter: bool) -> Self {
        self.jitter = jitter;
        self
    }

    /// Sets how long the pauses in place may take together; they end before they would exceed it.
    pub fn total(mut self, total: Duration) -> Self {
        self.total = Some(total);
        self
    }

    /// Sets the delays of the retries that follow those in place, such as 10 s, 1 min, 10 min. Each
    /// needs a topic of its own, `{topic}.{group}.retry.{delay}`, which the consumer creates, unless
    /// [`Retry::in_order`] is set.
    pub fn delays(mut self, delays: impl IntoIterator<Item = Duration>) -> Self {
        self.delays = delays.into_iter().collect();
        self
    }

    /// Keeps the order of keys during [`Retry::delays`] too: the message waits unsettled where it is,
    /// later ones of its key wait behind it, and no other key does, whatever
    /// [`Consumer::concurrency`](super::Consumer::concurrency) is. In a group without order no
    /// other message does.
    ///
    /// No more than the prefetch waits; where that is all of one key, the consumer takes no more
    /// until the delay is over. When the consumer is stopped or dies during a delay the message is
    /// handled at once by the next one, with its attempts counted anew. On RabbitMQ with its
    /// default settings no delay may come near 30 minutes.
    pub fn in_order(mut self) -> Self {
        self.in_order = true;
        self
    }

    /// The delays for which a message waits in a topic of the group's own.
    pub(crate) fn delays_elsewhere(&self) -> &[Duration] {
        if self.in_order { &[] } else { &self.delays }
    }

    /// The delay for which a message that had so many before waits where it is.
    pub(crate) fn delay_in_place(&self, before: usize) -> Option<Duration> {
        self.delays.get(before).copied().filter(|_| self.in_order)
    }

    /// The pauses after each failed attempt; at its end the message is given up.
    pub(crate) fn pauses(&self) -> Pauses {
        let builder = ExponentialBuilder::default()
            .with_min_delay(self.initial)
            .with_max_delay(self.max.max(self.initial))
            .with_factor(self.factor.max(1.0))
            .with_total_delay(self.total);
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
        let retry = Retry::forever().jitter(false).max(Duration::from_millis(500));
        assert_eq!(ms(retry.pauses(), 5), [100, 200, 400, 500, 500]);
        assert_eq!(ms(retry.clone().attempts(3).pauses(), 5), [100, 200]);
        assert_eq!(ms(Retry::none().pauses(), 5), [0; 0]);
        assert_eq!(ms(retry.attempts(0).pauses(), 5), [0; 0]);
    }

    #[test]
    fn pauses_end_before_they_take_longer_together_than_they_may() {
        let retry = Retry::forever().jitter(false);
        let total = |total| ms(retry.clone().total(Duration::from_millis(total)).pauses(), 5);
        assert_eq!(total(701), [100, 200, 400]);
        assert_eq!(total(699), [100, 200]);
        assert_eq!(total(99), [0; 0]);
    }

    #[test]
    fn jitter_only_ever_lengthens_a_pause() {
        let plain = Retry::exponential().jitter(false).attempts(12);
        for _ in 0..100 {
            for (with, without) in plain.clone().jitter(true).pauses().zip(plain.pauses()) {
                assert!(with >= without && with <= without * 2, "{with:?} {without:?}");
            }
        }
    }
}

//! What is sent, and the proof that all of it came, once and in order.

use std::ops::Range;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use broker_api::BoxError;
use bytes::Bytes;
use tokio::time::{Interval, interval};

use crate::contender::Publishing;
use crate::cost::{Cost, Latencies, Watch};

/// Bytes at the start of each payload that say which message of its key it is.
const SEQUENCE_BYTES: usize = 8;

/// Bytes behind them that say when it was made, where that is asked for.
const STAMP_BYTES: usize = 8;

/// How long ages are not noted after the first message came: others wait behind it while the
/// consumer joins its group.
const WARM_UP: Duration = Duration::from_millis(200);

/// From when stamps count, in microseconds.
static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);

/// So many messages over so many keys, in turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) messages: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) keys: usize,
}

/// One message of a load.
pub(crate) struct Item {
    /// The number of its key, and the number of the message among those of its key.
    pub(crate) place: (usize, u64),
    pub(crate) key: String,
    pub(crate) payload: Bytes,
}

impl Load {
    /// A load of fewer messages, for a contender that would take all day.
    pub(crate) fn divided_by(self, divisor: usize) -> Self {
        Self { messages: (self.messages / divisor).max(1), ..self }
    }

    /// The messages, made as they are asked for: making them costs every contender the same.
    pub(crate) fn items(self) -> impl Iterator<Item = Item> + Send {
        (0..self.messages).map(move |number| self.item(number))
    }

    fn item(self, number: usize) -> Item {
        let place = (number % self.keys, (number / self.keys) as u64);
        let mut payload = vec![b'x'; self.payload_bytes.max(SEQUENCE_BYTES + STAMP_BYTES)];
        payload[..SEQUENCE_BYTES].copy_from_slice(&place.1.to_le_bytes());
        Item { place, key: place.0.to_string(), payload: payload.into() }
    }

    /// The messages dealt out to so many tasks, each key to one of them.
    pub(crate) fn shared_by(self, tasks: usize) -> Vec<Vec<Item>> {
        let mut shares: Vec<_> = (0..tasks).map(|_| Vec::new()).collect();
        for (number, item) in self.items().enumerate() {
            shares[number % self.keys % tasks].push(item);
        }
        shares
    }

    /// The messages at their pace. One that has a pace has the time when it was made, too.
    pub(crate) fn paced(self, how: Publishing) -> Paced {
        let pace = match how {
            Publishing::Paced(rate) => Some(interval(Duration::from_secs(1) / rate)),
            Publishing::Pipelined | Publishing::Tasks(_) => None,
        };
        Paced { numbers: 0..self.messages, load: self, pace }
    }

    /// An empty ledger for these messages.
    pub(crate) fn ledger(self) -> Ledger {
        let Self { messages: expected, keys, .. } = self;
        Ledger { next: vec![0; keys], received: 0, expected, watch: None, cost: None, took: None }
    }

    /// An empty ledger that notes how old each message is when it comes.
    ///
    /// # Errors
    /// None that is known.
    pub(crate) fn timing_ledger(self) -> Result<Ledger, BoxError> {
        Ok(Ledger { took: Some((Latencies::new()?, None)), ..self.ledger() })
    }
}

/// The messages of a load at their pace.
pub(crate) struct Paced {
    numbers: Range<usize>,
    load: Load,
    /// Who is late catches up: what waits meanwhile is late, and that counts.
    pace: Option<Interval>,
}

impl Paced {
    /// The next one, when it is due.
    pub(crate) async fn next(&mut self) -> Option<Item> {
        let mut item = self.load.item(self.numbers.next()?);
        if let Some(pace) = &mut self.pace {
            pace.tick().await;
            let mut payload = Vec::from(item.payload);
            let stamp = &mut payload[SEQUENCE_BYTES..SEQUENCE_BYTES + STAMP_BYTES];
            stamp.copy_from_slice(&(BASE.elapsed().as_micros() as u64).to_le_bytes());
            item.payload = payload.into();
        }
        Some(item)
    }
}

/// What was received so far.
pub(crate) struct Ledger {
    /// By key, the sequence number that has to come next.
    next: Vec<u64>,
    received: usize,
    expected: usize,
    /// Started by the first message: what joining a group costs is not what a message costs.
    watch: Option<Watch>,
    /// Of everything from the first message to the last.
    cost: Option<Cost>,
    /// How old messages were, where that is noted, and from when on.
    took: Option<(Latencies, Option<Duration>)>,
}

impl Ledger {
    /// Notes a message; whether it was the last one. What is not the next of its key is an error:
    /// no figure counts whose messages were lost, doubled or reordered.
    pub(crate) fn note(&mut self, key: &[u8], payload: &[u8]) -> Result<bool, BoxError> {
        let number = std::str::from_utf8(key)?.parse()?;
        let sequence = payload.first_chunk().ok_or("a payload without its sequence number")?;
        if let Some((latencies, from)) = &mut self.took {
            let stamp = payload[SEQUENCE_BYTES..].first_chunk();
            let sent = u64::from_le_bytes(*stamp.ok_or("a payload without its time")?);
            let (sent, now) = (Duration::from_micros(sent), BASE.elapsed());
            if sent >= *from.get_or_insert(now + WARM_UP) {
                latencies.note(now.saturating_sub(sent));
            }
        }
        self.note_place((number, u64::from_le_bytes(*sequence)))
    }

    /// The same, of a message that says its place in its own way.
    pub(crate) fn note_place(&mut self, (key, sequence): (usize, u64)) -> Result<bool, BoxError> {
        if self.received == self.expected {
            return Err(format!("key {key}: a message came after all that were sent").into());
        }
        let watch = self.watch.get_or_insert_with(Watch::start);
        let next = self.next.get_mut(key).ok_or("a key that was never sent")?;
        if *next != sequence {
            return Err(format!("key {key}: message {sequence} came where {next} was due").into());
        }
        *next += 1;
        self.received += 1;
        let complete = self.received == self.expected;
        if complete {
            self.cost = Some(watch.stop(self.expected));
        }
        Ok(complete)
    }

    /// What it cost from the first message to the last, and how old messages were where that was
    /// noted.
    ///
    /// # Errors
    /// When not all came.
    pub(crate) fn complete(self) -> Result<(Cost, Option<Latencies>), BoxError> {
        let (received, expected) = (self.received, self.expected);
        let cost = self.cost.ok_or_else(|| format!("{received} of {expected} messages came"))?;
        Ok((cost, self.took.map(|(latencies, _)| latencies)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load { messages: 4, payload_bytes: 16, keys: 2 };

    fn note_all(order: &[usize]) -> Result<bool, BoxError> {
        let items: Vec<_> = LOAD.items().collect();
        let mut ledger = LOAD.ledger();
        let mut complete = false;
        for &number in order {
            complete = ledger.note(items[number].key.as_bytes(), &items[number].payload)?;
        }
        Ok(complete)
    }

    #[test]
    fn keys_may_pass_each_other_and_the_last_message_completes() {
        assert!(note_all(&[0, 2, 1, 3]).is_ok_and(|complete| complete));
        assert!(note_all(&[0, 1, 2]).is_ok_and(|complete| !complete));
    }

    #[test]
    fn what_is_lost_doubled_or_reordered_is_an_error() {
        for order in [&[0, 0][..], &[2], &[0, 2, 0], &[0, 2, 1, 3, 3]] {
            assert!(note_all(order).is_err(), "{order:?}");
        }
    }

    #[test]
    fn no_cost_is_told_before_all_is_there() {
        let mut ledger = LOAD.ledger();
        for (count, item) in LOAD.items().enumerate() {
            let complete = ledger.note(item.key.as_bytes(), &item.payload).unwrap();
            assert_eq!(complete, count == 3);
        }
        assert_eq!(ledger.complete().unwrap().0.messages, 4);
        assert!(LOAD.ledger().complete().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pace_is_kept_and_ages_are_noted() {
        let (mut paced, mut ledger) =
            (LOAD.paced(Publishing::Paced(10)), LOAD.timing_ledger().unwrap());
        let began = tokio::time::Instant::now();
        while let Some(item) = paced.next().await {
            ledger.note(item.key.as_bytes(), &item.payload).unwrap();
        }
        assert_eq!(began.elapsed().as_millis(), 300);
        assert!(ledger.complete().is_ok());
    }
}

//! What is sent, and the proof that all of it came, once and in order.

use broker_api::BoxError;
use bytes::Bytes;

/// Bytes at the start of each payload that say which message of its key it is.
pub(crate) const SEQUENCE_BYTES: usize = 8;

/// So many messages over so many keys, in turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) messages: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) keys: usize,
}

/// One message of a load.
pub(crate) struct Item {
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
        (0..self.messages).map(move |number| {
            let (key, sequence) = (number % self.keys, (number / self.keys) as u64);
            let mut payload = vec![b'x'; self.payload_bytes.max(SEQUENCE_BYTES)];
            payload[..SEQUENCE_BYTES].copy_from_slice(&sequence.to_le_bytes());
            Item { key: key.to_string(), payload: payload.into() }
        })
    }

    /// The messages dealt out to so many tasks, each key to one of them.
    pub(crate) fn shared_by(self, tasks: usize) -> Vec<Vec<Item>> {
        let mut shares: Vec<_> = (0..tasks).map(|_| Vec::new()).collect();
        for (number, item) in self.items().enumerate() {
            shares[number % self.keys % tasks].push(item);
        }
        shares
    }

    /// An empty ledger for these messages.
    pub(crate) fn ledger(self) -> Ledger {
        Ledger { next: vec![0; self.keys], received: 0, expected: self.messages }
    }
}

/// What was received so far.
pub(crate) struct Ledger {
    /// By key, the sequence number that has to come next.
    next: Vec<u64>,
    received: usize,
    expected: usize,
}

impl Ledger {
    /// Notes a message; whether it was the last one. What is not the next of its key is an error:
    /// no figure counts whose messages were lost, doubled or reordered.
    pub(crate) fn note(&mut self, key: &[u8], payload: &[u8]) -> Result<bool, BoxError> {
        let key = std::str::from_utf8(key)?;
        let number: usize = key.parse()?;
        let sequence = payload.first_chunk().ok_or("a payload without its sequence number")?;
        let sequence = u64::from_le_bytes(*sequence);
        let next = self.next.get_mut(number).ok_or("a key that was never sent")?;
        if *next != sequence {
            return Err(format!("key {key}: message {sequence} came where {next} was due").into());
        }
        *next += 1;
        self.received += 1;
        Ok(self.received == self.expected)
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
        for order in [&[0, 0][..], &[2], &[0, 2, 0]] {
            assert!(note_all(order).is_err(), "{order:?}");
        }
    }
}

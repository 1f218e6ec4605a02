//! Which partition a message goes to.

use broker_api::{Error, ErrorKind, Result, partition_for_key};
use bytes::Bytes;
use lapin::types::ShortString;

use crate::names;
use crate::publish::OPERATION;

/// Chooses partitions, and knows their routing keys.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    /// For messages without a key: the next one.
    next: u32,
    routing_keys: Vec<ShortString>,
}

impl Partitions {
    /// The partition among `of`: the one that the publisher has named, else that of the key, else
    /// each in turn.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the named one does not exist.
    pub(super) fn choose(
        &mut self,
        of: u32,
        named: Option<u32>,
        key: Option<&Bytes>,
    ) -> Result<u32> {
        match (named, key) {
            (Some(partition), _) if partition >= of => {
                let text = format!("partition {partition} does not exist, the topic has {of}");
                Err(Error::new(ErrorKind::Invalid, OPERATION, text))
            }
            (Some(partition), _) => Ok(partition),
            (None, Some(key)) => Ok(partition_for_key(key, of)),
            (None, None) => {
                let partition = self.next % of;
                self.next = partition + 1;
                Ok(partition)
            }
        }
    }

    pub(super) fn routing_key(&mut self, partition: u32) -> ShortString {
        let index = partition as usize;
        while self.routing_keys.len() <= index {
            self.routing_keys.push(names::routing_key(self.routing_keys.len() as u32));
        }
        self.routing_keys[index].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_partition_wins_over_the_key_and_has_to_exist() {
        let mut partitions = Partitions::default();
        let key = Bytes::from_static(b"key");
        assert_eq!(partitions.choose(3, Some(2), Some(&key)).unwrap(), 2);
        assert_eq!(partitions.choose(3, Some(3), None).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_key_has_the_partition_that_it_has_on_kafka() {
        // As Kafka's own tests of its default partitioner have it: murmur2("21") is -973932308.
        let expected = (-973_932_308_i32 & 0x7fff_ffff) as u32 % 7;
        let chosen = Partitions::default().choose(7, None, Some(&Bytes::from_static(b"21")));
        assert_eq!(chosen.unwrap(), expected);
    }

    #[test]
    fn messages_without_a_key_go_round_also_when_partitions_are_added() {
        let mut partitions = Partitions::default();
        let mut next = |of| partitions.choose(of, None, None).unwrap();
        assert_eq!([next(2), next(2), next(2), next(3), next(3), next(3)], [0, 1, 0, 1, 2, 0]);
    }

    #[test]
    fn routing_keys_are_the_numbers() {
        let mut partitions = Partitions::default();
        assert_eq!([12, 0, 3].map(|p| partitions.routing_key(p).to_string()), ["12", "0", "3"]);
    }
}

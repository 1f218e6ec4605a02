//! Which partition a key belongs to, the same on every broker.

/// The partition of a key among `partitions`: what the Java client of Kafka computes for a keyed
/// record, so a key has the same partition number on Kafka, on RabbitMQ and in memory.
///
/// Zero partitions count as one. Source of the rule: `BuiltInPartitioner.partitionForKey` of
/// Apache Kafka, which is `toPositive(murmur2(key)) % partitions`.
pub fn partition_for_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

/// MurmurHash2 with the seed that Kafka uses (`Utils.murmur2` of Apache Kafka).
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    // Kafka hashes Java arrays, whose length is a 32-bit integer; keys are far below it.
    let mut hash = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The vectors of Apache Kafka's own `UtilsTest.testMurmur2`, and the empty key.
    #[test]
    fn hashes_are_those_of_the_java_client() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
            ("", 275_646_681),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key:?}");
        }
    }

    proptest! {
        #[test]
        fn a_key_always_has_one_partition_within_the_count(
            key in proptest::collection::vec(any::<u8>(), 0..64),
            partitions in 0u32..100,
        ) {
            let partition = partition_for_key(&key, partitions);
            prop_assert!(partition < partitions.max(1));
            prop_assert_eq!(partition, partition_for_key(&key, partitions));
        }
    }
}

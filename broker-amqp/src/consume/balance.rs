//! Which member of a group wants which partition how much.

use std::hash::{DefaultHasher, Hash, Hasher};

/// The priority with which a member consumes each of `partitions`; the highest one among the
/// members gets a partition.
///
/// Members do not know each other. Each puts the partitions in an order of its own, at random, and
/// gives the highest priority to the first. Compared with independent random numbers (rendezvous
/// hashing) two members then rarely differ by more than two partitions of six, and that one of them
/// gets nothing has a probability of 1 in 400 instead of 1 in 32.
pub(crate) fn priorities(member: u64, partitions: u32) -> Vec<i32> {
    let hash = |partition: u32| {
        let mut hasher = DefaultHasher::new();
        (member, partition).hash(&mut hasher);
        hasher.finish()
    };
    let mut order: Vec<u32> = (0..partitions).collect();
    order.sort_by_key(|partition| hash(*partition));
    let mut priorities = vec![0; partitions as usize];
    for (rank, partition) in (0..).zip(order) {
        // The lower digits decide between members that rank a partition the same.
        priorities[partition as usize] = rank * 1_000 + (hash(partition) % 1_000) as i32;
    }
    priorities
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_member_nearly_always_gets_its_part() {
        let (mut nothing, mut uneven) = (0, 0);
        for member in 0..10_000 {
            let (one, two) = (priorities(member * 2, 6), priorities(member * 2 + 1, 6));
            let won = one.iter().zip(&two).filter(|(one, two)| one < two).count();
            nothing += usize::from(won == 0 || won == 6);
            uneven += usize::from(!(2..=4).contains(&won));
        }
        assert!(nothing < 100, "{nothing} of 10,000 pairs leave one with nothing");
        assert!(uneven < 2_500, "{uneven} of 10,000 pairs are uneven");
    }

    #[test]
    fn a_member_always_wants_the_same() {
        assert_eq!(priorities(7, 12), priorities(7, 12));
        assert_ne!(priorities(7, 12), priorities(8, 12));
    }
}

//! Which member of a group wants which partition how much.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Between what two seats want, and above all that a member without a seat does.
const STEP: i32 = 1_000_000;
/// Beyond this many a partition more makes no difference to the balance.
const SEATS: u32 = 1_000;

/// How many members of a group can have a seat: with more, some get nothing anyway.
pub(crate) fn seats(partitions: u32) -> u32 {
    partitions.min(SEATS)
}

/// The priority with which the member in this seat consumes each of `partitions`; the highest one
/// among the members gets a partition.
///
/// Who takes a seat, wants as many partitions as are its due, more than any seat before it does,
/// and from those that have the most. So members in the first seats without a gap share evenly; the
/// partitions of an empty seat fall to whom it took them from.
pub(crate) fn seated(seat: u32, member: u64, partitions: u32) -> Vec<i32> {
    let mut owners = vec![0; partitions as usize];
    for taker in 1..=seat {
        for _ in 0..partitions / (taker + 1) {
            let count = |owner: u32| owners.iter().filter(|o| **o == owner).count();
            let richest = (0..taker).rev().max_by_key(|owner| count(*owner));
            let taken = owners.iter().rposition(|owner| Some(*owner) == richest);
            if let Some(taken) = taken {
                owners[taken] = taker;
            }
        }
    }
    let others = priorities(member, partitions);
    let wanted = |(owner, other)| match owner == seat {
        true => STEP.saturating_mul(1 + seat as i32),
        false => other,
    };
    owners.into_iter().zip(others).map(wanted).collect()
}

/// The same for a member without a seat.
///
/// Members do not know each other then. Each puts the partitions in an order of its own, at random,
/// and gives the highest priority to the first. Compared with independent random numbers
/// (rendezvous hashing) two members then rarely differ by more than two partitions of six, and that
/// one of them gets nothing has a probability of 1 in 400 instead of 1 in 32; but of four members
/// one gets nothing in 1 of 15 groups.
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

    /// Which of these seats gets each partition.
    fn shared(seats: &[u32], partitions: u32) -> Vec<u32> {
        let wants: Vec<_> =
            seats.iter().map(|s| seated(*s, 7 + u64::from(*s), partitions)).collect();
        let winner = |p| (0..seats.len()).max_by_key(|s| wants[*s][p]).unwrap();
        (0..partitions as usize).map(|p| seats[winner(p)]).collect()
    }

    #[test]
    fn members_in_seats_share_evenly() {
        for partitions in [1, 2, 3, 6, 12, 13, 50] {
            for members in 1..=partitions {
                let seats: Vec<_> = (0..members).collect();
                let shared = shared(&seats, partitions);
                for seat in seats {
                    let part = shared.iter().filter(|s| **s == seat).count() as u32;
                    let even = partitions / members..=partitions.div_ceil(members);
                    assert!(even.contains(&part), "{members} share {partitions}: {shared:?}");
                }
            }
        }
    }

    #[test]
    fn who_takes_a_seat_takes_partitions_from_others_only_for_itself() {
        for members in 1..6 {
            let before = shared(&(0..members).collect::<Vec<_>>(), 6);
            let after = shared(&(0..=members).collect::<Vec<_>>(), 6);
            let moved = before.iter().zip(&after).filter(|(b, a)| b != a);
            assert!(moved.clone().count() as u32 == 6 / (members + 1));
            assert!(moved.into_iter().all(|(_, after)| *after == members));
        }
    }

    #[test]
    fn an_empty_seat_leaves_no_partition_without_an_owner() {
        for empty in 0..4 {
            let seats: Vec<_> = (0..4).filter(|seat| *seat != empty).collect();
            let shared = shared(&seats, 6);
            assert!(seats.iter().all(|seat| shared.contains(seat)), "{seats:?}: {shared:?}");
        }
    }

    #[test]
    fn a_member_always_wants_the_same() {
        assert_eq!(priorities(7, 12), priorities(7, 12));
        assert_ne!(priorities(7, 12), priorities(8, 12));
    }
}

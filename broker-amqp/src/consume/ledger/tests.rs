use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn delivered(tag: u64) -> Delivered {
    Delivered { tag, message: Message::new(tag.to_string()), partition: 0, returned: 0 }
}

fn ledger(capacity: usize, tags: u64) -> Ledger {
    let mut ledger = Ledger::new(capacity, 2);
    (1..=tags).for_each(|tag| ledger.deliver((tag % 2) as usize, delivered(tag)));
    ledger
}

fn taken(ledger: &mut Ledger, max: usize) -> Vec<u64> {
    let mut tags = Vec::new();
    ledger.hand_out(max, |_, tag, _, _, _| tags.push(tag));
    tags
}

fn told(ledger: &mut Ledger, all: bool) -> Vec<Frame> {
    let mut frames = Vec::new();
    ledger.tell(all, &mut frames);
    frames
}

#[test]
fn what_is_settled_without_a_gap_takes_one_frame() {
    let mut ledger = ledger(10, 6);
    taken(&mut ledger, 10);
    for tag in [3, 1, 2, 5] {
        assert!(ledger.settle(tag, Settlement::Ack));
    }
    assert_eq!(told(&mut ledger, false), [Frame::AckUpTo(3)]);
    assert!(ledger.has_untold());
    assert_eq!(told(&mut ledger, true), [Frame::Ack(5)]);
    ledger.settle(4, Settlement::Ack);
    assert_eq!(told(&mut ledger, true), [Frame::AckUpTo(4)]);
    ledger.settle(6, Settlement::Reject);
    assert_eq!(told(&mut ledger, false), [Frame::Reject(6)]);
    assert!(!ledger.has_untold());
}

#[test]
fn a_rejection_between_acknowledgements_keeps_its_place() {
    let mut ledger = ledger(10, 4);
    taken(&mut ledger, 10);
    for tag in 1..=4 {
        let settlement = if tag == 2 { Settlement::Reject } else { Settlement::Ack };
        ledger.settle(tag, settlement);
    }
    let frames = [Frame::AckUpTo(1), Frame::Reject(2), Frame::AckUpTo(4)];
    assert_eq!(told(&mut ledger, false), frames);
}

#[test]
fn a_delivery_seen_late_is_not_acknowledged_with_later_ones() {
    let mut ledger = Ledger::new(10, 2);
    ledger.deliver(0, delivered(2));
    taken(&mut ledger, 10);
    ledger.settle(2, Settlement::Ack);
    assert_eq!(told(&mut ledger, false), []);
    ledger.deliver(1, delivered(1));
    assert_eq!(told(&mut ledger, true), [Frame::Ack(2)]);
}

#[test]
fn no_more_are_handed_out_than_may_be_unsettled() {
    let mut ledger = ledger(2, 5);
    assert_eq!(taken(&mut ledger, 5).len(), 2);
    assert!(!ledger.has_more() && taken(&mut ledger, 5).is_empty());
    ledger.settle(1, Settlement::Ack);
    assert!(ledger.has_more());
    assert_eq!(taken(&mut ledger, 5).len(), 1);
}

#[test]
fn lanes_take_turns() {
    let mut ledger = Ledger::new(10, 2);
    (1..=3).for_each(|tag| ledger.deliver(0, delivered(tag)));
    (4..=5).for_each(|tag| ledger.deliver(1, delivered(tag)));
    assert_eq!(taken(&mut ledger, 10), [1, 4, 2, 5, 3]);
}

#[test]
fn what_comes_back_goes_before_what_was_not_handed_out_and_is_counted() {
    let mut ledger = ledger(10, 8);
    assert_eq!(taken(&mut ledger, 4), [2, 1, 4, 3]);
    for tag in [3, 1] {
        assert!(ledger.requeue(tag, Message::new("again")));
    }
    let mut seen = Vec::new();
    ledger.hand_out(10, |_, tag, _, _, returned| seen.push((tag, returned)));
    assert_eq!(seen, [(6, 0), (1, 1), (8, 0), (3, 1), (5, 0), (7, 0)]);
}

#[test]
fn settling_twice_or_what_was_never_handed_out_has_no_effect() {
    let mut ledger = ledger(10, 3);
    assert!(!ledger.settle(1, Settlement::Ack) && !ledger.settle(99, Settlement::Ack));
    taken(&mut ledger, 1);
    assert!(ledger.settle(2, Settlement::Ack) && !ledger.settle(2, Settlement::Reject));
    assert!(!ledger.requeue(2, Message::new("x")));
}

proptest! {
    /// Whatever is done in whatever order: the broker is told of each settled delivery once,
    /// as it was settled, and never of another.
    #[test]
    fn the_broker_is_told_what_was_settled_and_nothing_else(
        steps in proptest::collection::vec((0u8..7, 0usize..8), 1..200),
    ) {
        let mut ledger = Ledger::new(8, 3);
        let (mut next, mut held) = (1u64, Vec::new());
        let (mut acked, mut rejected) = (BTreeSet::new(), BTreeSet::new());
        let (mut broker_acked, mut broker_rejected) = (BTreeSet::new(), BTreeSet::new());
        for (step, n) in steps {
            match step {
                0 | 1 => {
                    ledger.deliver(n % 3, delivered(next));
                    next += 1;
                }
                2 => ledger.hand_out(n, |_, tag, _, _, _| held.push(tag)),
                3 | 4 if !held.is_empty() => {
                    let tag = held.remove(n % held.len());
                    let reject = step == 4 && n > 5;
                    let settlement = if reject { Settlement::Reject } else { Settlement::Ack };
                    prop_assert!(ledger.settle(tag, settlement));
                    if reject { rejected.insert(tag) } else { acked.insert(tag) };
                }
                5 if !held.is_empty() => {
                    let tag = held.remove(n % held.len());
                    prop_assert!(ledger.requeue(tag, Message::new("x")));
                }
                _ => {
                    let mut frames = Vec::new();
                    ledger.tell(n > 3, &mut frames);
                    for frame in frames {
                        match frame {
                            Frame::AckUpTo(tag) => broker_acked.extend(
                                (1..=tag).filter(|tag| !broker_rejected.contains(tag)),
                            ),
                            Frame::Ack(tag) => drop(broker_acked.insert(tag)),
                            Frame::Reject(tag) => drop(broker_rejected.insert(tag)),
                        }
                    }
                    prop_assert!(broker_acked.is_subset(&acked));
                    prop_assert!(broker_rejected.is_subset(&rejected));
                }
            }
        }
        let mut frames = Vec::new();
        ledger.tell(true, &mut frames);
        for frame in frames {
            match frame {
                Frame::AckUpTo(tag) => broker_acked
                    .extend((1..=tag).filter(|tag| !broker_rejected.contains(tag))),
                Frame::Ack(tag) => drop(broker_acked.insert(tag)),
                Frame::Reject(tag) => drop(broker_rejected.insert(tag)),
            }
        }
        prop_assert_eq!(broker_acked, acked);
        prop_assert_eq!(broker_rejected, rejected);
    }
}

//! Members of a group: who gets what, and when it moves.

use super::*;
use broker_api::{Connection, ErrorKind, Settlement, Start};

fn filled(partitions: u32, each: u64) -> Memory {
    let memory = Memory::new();
    create(&memory, TopicSpec::new(TOPIC).partitions(partitions));
    for n in 0..each {
        for partition in 0..partitions {
            assert_eq!(publish(&memory, partition, Message::new("x")).offset, Some(n));
        }
    }
    memory
}

#[test]
fn a_partition_moves_only_after_its_member_has_nothing_of_it_in_hand() {
    let memory = filled(2, 3);
    let mut old = join(&memory, Order::Key, 100);
    let mut held = take(&mut old, 4);
    let mut new = join(&memory, Order::Key, 100);
    assert!(take(&mut new, 10).is_empty(), "the old member still works on both");

    let moving = held.iter().find(|d| !d.is_live()).map(place).expect("one is to move").0;
    assert!(held.iter().all(|d| d.is_live() == (place(d).0 != moving)));
    let given: Vec<_> = held.extract_if(.., |d| place(d).0 == moving).collect();
    let count = given.len();
    for (n, delivery) in given.into_iter().enumerate() {
        assert!(take(&mut new, 10).is_empty(), "{n} of {count} are done");
        // The first is done, what was not begun is handed back.
        if n == 0 { delivery.ack() } else { delivery.requeue() }
    }
    let got = take(&mut new, 10);
    assert_eq!(places(&got), (1..3).map(|n| (moving, n)).collect::<Vec<_>>());
    let again = |d: &Delivery| d.received().redeliveries;
    assert_eq!(again(&got[0]), Some(u32::from(count > 1)));
    // The old member goes on with the other partition and gets nothing of the one it lost.
    assert!(take(&mut old, 10).iter().all(|d| place(d).0 != moving));
}

#[test]
fn a_member_that_is_gone_hands_over_at_once_and_its_late_settlements_do_nothing() {
    for close in [false, true] {
        let memory = filled(1, 4);
        let mut gone = join(&memory, Order::Key, 100);
        let mut new = join(&memory, Order::Key, 100);
        let mut held = take(&mut gone, 3);
        assert_eq!(places(&held), [(0, 0), (0, 1), (0, 2)]);
        held.remove(1).ack();
        if close {
            now(gone.close()).unwrap();
            assert!(now(gone.next(1)).unwrap().is_none());
        } else {
            drop(gone);
        }
        assert!(held.iter().all(|d| !d.is_live()));
        let got = take(&mut new, 1);
        // The last of the old member settles late, while the new one has the first in hand.
        held.into_iter().for_each(Delivery::ack);
        assert_eq!(places(&got), [(0, 0)]);
        let rest = take(&mut new, 10);
        assert_eq!(places(&rest), [(0, 2), (0, 3)], "settled ones do not come back");
    }
}

#[test]
fn a_member_that_gets_its_partition_back_before_it_had_to_give_it_up_goes_on() {
    let memory = filled(1, 2);
    let mut first = join(&memory, Order::Key, 100);
    let held = take(&mut first, 1);
    let second = join(&memory, Order::Key, 100);
    assert!(held[0].is_live(), "with one partition there is nothing to share");
    drop(second);
    assert!(held[0].is_live());

    now(memory.add_partitions(TOPIC, 2)).unwrap();
    let third = join(&memory, Order::Key, 100);
    drop(third);
    assert!(held[0].is_live());
    assert_eq!(places(&take(&mut first, 10)), [(0, 1)]);
}

#[test]
fn members_share_the_partitions_evenly_and_all_members_get_something() {
    let memory = filled(6, 10);
    let mut members: Vec<_> = (0..4).map(|_| join(&memory, Order::Key, 100)).collect();
    let owned = |members: &mut Vec<Box<dyn Source>>| -> Vec<usize> {
        let batches: Vec<_> = members.iter_mut().map(|member| take(member, 1000)).collect();
        let mut all: Vec<_> = batches.iter().flatten().map(place).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 60, "each message is with one member");
        let count = |batch: &Vec<Delivery>| batch.len() / 10;
        batches.iter().map(count).collect()
    };
    let mut counts = owned(&mut members);
    counts.sort_unstable();
    assert_eq!(counts, [1, 1, 2, 2]);
    members.truncate(2);
    assert_eq!(owned(&mut members), [3, 3]);
}

#[test]
fn without_key_order_members_compete_for_one_partition() {
    let memory = filled(1, 10);
    let (mut a, mut b) = (join(&memory, Order::None, 3), join(&memory, Order::None, 3));
    let (mut of_a, of_b) = (take(&mut a, 10), take(&mut b, 10));
    assert_eq!(
        (places(&of_a), places(&of_b)),
        (vec![(0, 0), (0, 1), (0, 2)], vec![(0, 3), (0, 4), (0, 5)])
    );
    of_a.pop().unwrap().requeue();
    of_b.into_iter().for_each(Delivery::ack);
    assert_eq!(places(&take(&mut b, 2)), [(0, 2), (0, 6)], "what came back comes first");
    drop(a);
    drop(of_a);
    let got = take(&mut b, 10);
    assert_eq!(places(&got), [(0, 0), (0, 1), (0, 2)], "both of a, and what b has just dropped");
    assert!(got.iter().all(|d| d.received().redeliveries >= Some(1)));
}

#[test]
fn prefetch_bounds_a_source_over_all_its_partitions() {
    let memory = filled(3, 10);
    let mut source = join(&memory, Order::Key, 4);
    let mut held = take(&mut source, 100);
    assert_eq!(held.len(), 4);
    assert!(take(&mut source, 100).is_empty());
    held.pop().unwrap().ack();
    held.pop().unwrap().requeue();
    held.extend(take(&mut source, 100));
    assert_eq!(held.len(), 4);
}

#[test]
fn all_partitions_get_their_turn_with_the_smallest_prefetch() {
    let memory = filled(3, 100);
    let mut source = join(&memory, Order::Key, 1);
    let mut seen = [0; 3];
    for _ in 0..30 {
        let delivery = take(&mut source, 10).pop().unwrap();
        seen[place(&delivery).0 as usize] += 1;
        delivery.ack();
    }
    assert_eq!(seen, [10, 10, 10]);
}

#[test]
fn a_group_of_many_topics_is_one_member_with_one_prefetch() {
    let other = Name::new("other");
    let memory = filled(1, 5);
    create(&memory, TopicSpec::new(other).partitions(1));
    let subscribe =
        Subscribe { topics: vec![TOPIC, other, TOPIC], group: GroupSpec::new(GROUP), prefetch: 3 };
    let mut source = now(memory.subscribe(subscribe.clone())).unwrap();
    assert_eq!(take(&mut source, 10).len(), 3);
    let unknown = Subscribe { topics: vec![TOPIC, Name::new("unknown")], ..subscribe };
    let group = GroupSpec::new(Name::new("undeclared"));
    let error = now(memory.subscribe(Subscribe { group, ..unknown })).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::UnknownTopic);

    now(memory.delete_topic(other)).unwrap();
    let error = now(source.next(1)).err().unwrap();
    assert_eq!((error.kind(), error.context("topic")), (ErrorKind::UnknownTopic, Some("other")));
    assert!(now(source.next(1)).unwrap().is_none(), "after an error nothing more comes");
    let mut next = join(&memory, Order::Key, 10);
    assert_eq!(take(&mut next, 10).len(), 5, "what was unsettled is back in the group");
}

#[test]
fn a_group_keeps_its_order_for_ever() {
    let memory = filled(1, 1);
    let declare = |order| GroupSpec { order, ..GroupSpec::new(GROUP) };
    now(memory.declare_group(TOPIC, &declare(Order::None))).unwrap();
    let error = now(memory.declare_group(TOPIC, &declare(Order::Key))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let subscribe = Subscribe { topics: vec![TOPIC], group: declare(Order::Key), prefetch: 1 };
    assert_eq!(now(memory.subscribe(subscribe)).err().unwrap().kind(), ErrorKind::Mismatch);
}

#[test]
fn declaring_a_group_again_moves_nothing() {
    let memory = filled(1, 3);
    let mut source = join(&memory, Order::Key, 10);
    take(&mut source, 2).into_iter().for_each(Delivery::ack);
    for start in [Start::Earliest, Start::Latest, Start::Offset(0)] {
        let spec = GroupSpec { start, ..GroupSpec::new(GROUP) };
        now(memory.declare_group(TOPIC, &spec)).unwrap();
    }
    assert_eq!(places(&take(&mut source, 10)), [(0, 2)]);
}

#[test]
fn deliveries_of_a_deleted_topic_do_not_settle_in_its_namesake() {
    let memory = filled(1, 3);
    let mut old = join(&memory, Order::Key, 10);
    let held = take(&mut old, 10);
    now(memory.delete_topic(TOPIC)).unwrap();
    create(&memory, TopicSpec::new(TOPIC).partitions(1));
    let mut new = join(&memory, Order::Key, 10);
    assert_eq!(publish(&memory, 0, Message::new("x")).offset, Some(0), "offsets begin again");
    held.into_iter().for_each(Delivery::ack);
    let got = take(&mut new, 10);
    assert_eq!(places(&got), [(0, 0)]);
    drop(old);
    assert!(got[0].is_live());
}

#[test]
fn health_shows_the_connection_and_its_own_consumers() {
    let memory = filled(1, 1);
    let other = memory.connect();
    let mut source = join(&memory, Order::Key, 10);
    assert!(memory.health().is_up());
    assert_eq!((memory.health().consumers.len(), other.health().consumers.len()), (1, 0));
    now(other.delete_topic(TOPIC)).unwrap();
    let health = memory.health();
    assert!(!health.is_up() && health.consumers[0].problem.is_some());
    now(source.close()).unwrap();
    assert!(memory.health().is_up());
    now(memory.close()).unwrap();
    assert_eq!(memory.health().connection, Connection::Closed);
    assert!(other.health().is_up());
}

#[test]
fn a_closed_connection_ends_its_sources_and_hands_back_to_the_others() {
    let memory = filled(1, 2);
    let other = memory.clone();
    let mut source = join(&memory, Order::Key, 10);
    let held = take(&mut source, 10);
    now(memory.close()).unwrap();
    now(memory.close()).unwrap();
    assert!(now(source.next(1)).unwrap().is_none());
    assert_eq!(now(memory.describe_topic(TOPIC)).unwrap_err().kind(), ErrorKind::Closed);
    let mut next = join(&other, Order::Key, 10);
    assert_eq!(take(&mut next, 10).len(), 2);
    held.into_iter().for_each(Delivery::ack);
    assert!(memory.connect().health().is_up(), "a new connection is open");
}

#[test]
fn settling_through_what_settles_twice_counts_once() {
    use broker_api::Settle;
    struct Twice(std::sync::Arc<dyn Settle>);
    impl Settle for Twice {
        fn settle(&self, token: u64, settlement: Settlement) {
            self.0.settle(token, settlement);
            self.0.settle(token, settlement);
        }
        fn requeue(&self, token: u64, message: Message) {
            self.0.requeue(token, message.clone());
            self.0.requeue(token, message);
            self.0.settle(token, Settlement::Ack);
        }
    }
    let memory = filled(1, 5);
    let mut source = join(&memory, Order::Key, 2);
    let mut held = take(&mut source, 10);
    let twice =
        |delivery: Delivery| delivery.map_settle(|settle| std::sync::Arc::new(Twice(settle)));
    twice(held.pop().unwrap()).requeue();
    twice(held.pop().unwrap()).ack();
    let held = take(&mut source, 10);
    assert_eq!(places(&held), [(0, 1), (0, 2)]);
    assert!(take(&mut source, 10).is_empty());
}

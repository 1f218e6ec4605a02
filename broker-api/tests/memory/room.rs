//! Limits: what is kept, what is dropped, and publishers that wait.

use super::*;
use broker_api::{Broker, Connection, ErrorKind, Read, Start, Until};

const LONG: Duration = Duration::from_secs(3600);

/// A limit that some ten messages of `large()` fit into.
const LIMIT: usize = 100_000;

fn large() -> Message {
    Message::new(vec![b'x'; 9_500])
}

fn small(spec: TopicSpec) -> Memory {
    let memory = Memory::with_limit(LIMIT);
    create(&memory, spec.partitions(1));
    memory
}

fn kept(memory: &Memory) -> Vec<u64> {
    let read =
        Read { topic: TOPIC, partitions: None, start: Start::Earliest, until: Until::CaughtUp };
    let mut reading = now(memory.read(read)).unwrap();
    let mut kept = Vec::new();
    while let Some(batch) = now(reading.next(1000)).unwrap() {
        kept.extend(batch.iter().map(|delivery| place(delivery).1));
    }
    kept
}

/// Publishes until there is no room, and returns how many were stored and the one that waits.
fn fill(memory: &Memory) -> (u64, Answer) {
    for n in 0..1000 {
        let given = hand_over(memory, None, large(), LONG);
        match answer(&given) {
            Some(result) => assert_eq!(result.unwrap().offset, Some(n)),
            None => return (n, given),
        }
    }
    panic!("it is never full");
}

#[tokio::test(start_paused = true)]
async fn what_no_group_waits_for_makes_room_and_the_newest_stays() {
    let memory = small(TopicSpec::new(TOPIC));
    for _ in 0..1000 {
        publish(&memory, 0, large());
    }
    let kept = kept(&memory);
    assert!((5..11).contains(&kept.len()), "{kept:?}");
    assert_eq!(kept.last(), Some(&999));
}

#[tokio::test(start_paused = true)]
async fn what_a_group_has_not_settled_stays_and_publishers_wait_in_order() {
    let memory = small(TopicSpec::new(TOPIC));
    let mut member = join(&memory, Order::Key, 100);
    let (stored, first) = fill(&memory);
    let second = hand_over(&memory, None, Message::new("small, yet not before the first"), LONG);
    assert!(answer(&second).is_none());
    assert!(
        matches!(memory.health().connection, Connection::Blocked(why) if why.contains("group"))
    );

    let mut held = take(&mut member, 100);
    assert_eq!(held.len() as u64, stored);
    held.remove(1).ack();
    assert!(answer(&first).is_none(), "the oldest is still needed");
    held.remove(0).ack();
    let answers = (answer(&first).unwrap().unwrap(), answer(&second).unwrap().unwrap());
    assert_eq!((answers.0.offset, answers.1.offset), (Some(stored), Some(stored + 1)));
    assert!(memory.health().is_up());
    held.extend(take(&mut member, 100));
    assert_eq!(held.len() as u64, stored, "all others and the two that waited");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_finds_no_room_is_refused_at_its_deadline_though_nothing_happens() {
    let memory = small(TopicSpec::new(TOPIC));
    now(memory.declare_group(TOPIC, &GroupSpec::new(GROUP))).unwrap();
    let (_, far) = fill(&memory);
    let near = hand_over(&memory, None, large(), Duration::from_secs(2));
    let begun = Instant::now();
    while near.lock().unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(begun.elapsed() < LONG);
    }
    assert!((2..3).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let error = answer(&near).unwrap().unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Timeout, true));
    assert!(error.message().contains("group group of topic topic"), "{error}");
    tokio::time::sleep(LONG).await;
    assert_eq!(answer(&far).unwrap().unwrap_err().kind(), ErrorKind::Timeout);
    // The timer ended with the last; it comes back for the next.
    let next = hand_over(&memory, None, large(), Duration::from_secs(1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(answer(&next).unwrap().unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_smaller_message_goes_on_when_the_one_before_it_has_expired() {
    let memory = small(TopicSpec::new(TOPIC));
    now(memory.declare_group(TOPIC, &GroupSpec::new(GROUP))).unwrap();
    let (stored, _) = fill(&memory);
    let tiny = hand_over(&memory, None, Message::new("x"), 2 * LONG);
    assert!(answer(&tiny).is_none());
    tokio::time::sleep(LONG + Duration::from_secs(1)).await;
    assert_eq!(answer(&tiny).unwrap().unwrap().offset, Some(stored));
}

#[tokio::test(start_paused = true)]
async fn waiting_messages_are_answered_when_their_topic_or_connection_goes() {
    let memory = small(TopicSpec::new(TOPIC));
    now(memory.declare_group(TOPIC, &GroupSpec::new(GROUP))).unwrap();
    let (_, waiting) = fill(&memory);
    let other = memory.connect();
    let of_other = hand_over(&other, None, large(), LONG);
    now(other.close()).unwrap();
    assert_eq!(answer(&of_other).unwrap().unwrap_err().kind(), ErrorKind::Closed);
    let dropped = memory.connect();
    let of_dropped = hand_over(&dropped, None, large(), LONG);
    drop(dropped);
    assert_eq!(answer(&of_dropped).unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert!(answer(&waiting).is_none());
    now(memory.delete_topic(TOPIC)).unwrap();
    let error = answer(&waiting).unwrap().unwrap_err();
    assert_eq!((error.kind(), error.is_permanent()), (ErrorKind::UnknownTopic, true));
    create(&memory, TopicSpec::new(TOPIC).partitions(1));
    publish(&memory, 0, large());
}

#[test]
fn without_a_runtime_a_message_that_would_wait_is_refused_at_once() {
    let memory = small(TopicSpec::new(TOPIC));
    now(memory.declare_group(TOPIC, &GroupSpec::new(GROUP))).unwrap();
    for _ in 0..100 {
        if let Some(Err(error)) = answer(&hand_over(&memory, None, large(), LONG)) {
            assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unavailable, true));
            return;
        }
    }
    panic!("it is never full");
}

#[test]
fn the_timer_of_a_runtime_that_is_gone_is_replaced() {
    let memory = small(TopicSpec::new(TOPIC));
    now(memory.declare_group(TOPIC, &GroupSpec::new(GROUP))).unwrap();
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let first = runtime().unwrap();
    let (_, old) = first.block_on(async { fill(&memory) });
    drop(first);
    assert!(answer(&old).is_none());
    runtime().unwrap().block_on(async {
        let new = hand_over(&memory, None, large(), Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(answer(&new).unwrap().unwrap_err().kind(), ErrorKind::Timeout);
    });
}

#[tokio::test(start_paused = true)]
async fn a_publisher_through_the_broker_waits_for_a_slow_group_and_loses_nothing() {
    let memory = Memory::with_limit(LIMIT);
    let broker = Broker::new(memory.clone());
    create(&memory, TopicSpec::new(TOPIC).partitions(2));
    let mut member = join(&memory, Order::Key, 1);
    let publisher = tokio::spawn(async move {
        for n in 0..200u64 {
            let message = large().with_key(n.to_string());
            broker.publish_message(TOPIC, message).await.unwrap();
        }
    });
    for _ in 0..200 {
        for delivery in member.next(1).await.unwrap().unwrap() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            delivery.ack();
        }
    }
    publisher.await.unwrap();
    assert!(take(&mut member, 10).is_empty());
}

#[test]
fn a_message_that_can_never_fit_is_too_large() {
    let memory = Memory::with_limit(1_000);
    create(&memory, TopicSpec::new(TOPIC));
    let error = answer(&hand_over(&memory, None, large(), LONG)).unwrap().unwrap_err();
    assert_eq!((error.kind(), error.is_permanent()), (ErrorKind::TooLarge, true));
}

#[test]
fn retention_in_bytes_drops_the_oldest_that_all_groups_have_settled() {
    let memory = small(TopicSpec::new(TOPIC).retention_bytes(30_000));
    let mut member = join(&memory, Order::Key, 100);
    for _ in 0..6 {
        publish(&memory, 0, large());
    }
    assert_eq!(kept(&memory), [0, 1, 2, 3, 4, 5], "the group has not settled them");
    let mut held = take(&mut member, 100);
    held.drain(..5).for_each(Delivery::ack);
    assert_eq!(kept(&memory), [3, 4, 5]);
    held.into_iter().for_each(Delivery::ack);
    publish(&memory, 0, large());
    assert_eq!(kept(&memory), [4, 5, 6]);
}

#[test]
fn retention_in_time_drops_what_is_old_whatever_its_timestamp() {
    let memory = small(TopicSpec::new(TOPIC).retention(Duration::ZERO));
    publish(&memory, 0, large());
    let begun = std::time::Instant::now();
    while !kept(&memory).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::yield_now();
    }
    let memory = small(TopicSpec::new(TOPIC).retention(LONG));
    publish(&memory, 0, large().with_timestamp(std::time::SystemTime::UNIX_EPOCH));
    assert_eq!(kept(&memory), [0]);
}

#[test]
fn a_compacted_topic_keeps_the_newest_of_each_key_and_what_a_group_still_needs() {
    let memory = small(TopicSpec::new(TOPIC).compacted());
    let keyed = |key: &'static str| Message::new("x").with_key(key);
    for key in ["a", "b", "a"] {
        publish(&memory, 0, keyed(key));
    }
    assert_eq!(kept(&memory), [1, 2]);
    let mut member = join(&memory, Order::Key, 100);
    publish(&memory, 0, keyed("b"));
    publish(&memory, 0, keyed("b"));
    let held = take(&mut member, 100);
    assert_eq!(places(&held), [(0, 1), (0, 2), (0, 3), (0, 4)]);
    assert_eq!(kept(&memory), [1, 2, 3, 4]);
    held.into_iter().for_each(Delivery::ack);
    assert_eq!(kept(&memory), [2, 4]);
    let error = answer(&hand_over(&memory, None, Message::new("x"), LONG)).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn topics_that_cannot_be_are_refused_and_a_topic_is_reported_as_asked_for() {
    let memory = Memory::new();
    for partitions in [0, u32::MAX] {
        let spec = TopicSpec::new(TOPIC).partitions(partitions);
        assert_eq!(now(memory.create_topic(&spec)).unwrap_err().kind(), ErrorKind::Invalid);
    }
    let spec =
        TopicSpec::new(TOPIC).partitions(3).replication(2).retention(LONG).retention_bytes(9);
    create(&memory, spec);
    assert_eq!(now(memory.create_topic(&spec)).unwrap_err().kind(), ErrorKind::TopicExists);
    let described = now(memory.describe_topic(TOPIC)).unwrap();
    assert_eq!(
        (spec.differences(&described), described.max_message_bytes),
        (vec![], Some(1 << 20))
    );
    for total in [2, 3, u32::MAX] {
        let error = now(memory.add_partitions(TOPIC, total)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

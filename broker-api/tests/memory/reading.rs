//! Reading a topic without a group, and where groups and readings begin.

use std::time::SystemTime;

use super::*;
use broker_api::{ErrorKind, Read, Start, Until};

fn read(memory: &Memory, start: Start, until: Until) -> Box<dyn Source> {
    now(memory.read(Read { topic: TOPIC, partitions: None, start, until })).unwrap()
}

/// Everything until the source ends.
fn all(source: &mut Box<dyn Source>) -> Vec<(u32, u64)> {
    let mut all = Vec::new();
    while let Some(batch) = now(source.next(2)).unwrap() {
        assert!(batch.len() <= 2);
        all.extend(batch.iter().map(place));
    }
    all
}

#[test]
fn groups_and_readings_begin_where_they_are_told_to() {
    let memory = Memory::new();
    create(&memory, TopicSpec::new(TOPIC).partitions(1));
    let time = |n: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + n);
    for n in 0..5 {
        publish(&memory, 0, Message::new("x").with_timestamp(time(n)));
    }
    for (n, (start, first)) in [
        (Start::Earliest, 0),
        (Start::Latest, 5),
        (Start::Time(time(2)), 2),
        (Start::Time(time(9)), 5),
        (Start::Offset(3), 3),
        (Start::Offset(99), 5),
    ]
    .into_iter()
    .enumerate()
    {
        let expected: Vec<_> = (first..5).map(|offset| (0, offset)).collect();
        assert_eq!(all(&mut read(&memory, start, Until::CaughtUp)), expected, "{start:?}");
        let name = Name::intern(&format!("group-{n}")).unwrap();
        let group = GroupSpec { start, ..GroupSpec::new(name) };
        let subscribe = Subscribe { topics: vec![TOPIC], group, prefetch: 10 };
        let mut source = now(memory.subscribe(subscribe)).unwrap();
        assert_eq!(places(&take(&mut source, 10)), expected, "{start:?}");
    }
}

#[test]
fn a_bounded_reading_ends_after_what_was_there_when_it_began() {
    let memory = Memory::new();
    create(&memory, TopicSpec::new(TOPIC).partitions(2));
    publish(&memory, 0, Message::new("x"));
    let mut reading = read(&memory, Start::Earliest, Until::CaughtUp);
    publish(&memory, 0, Message::new("later"));
    publish(&memory, 1, Message::new("later"));
    assert_eq!(all(&mut reading), [(0, 0)]);
    assert!(now(reading.next(1)).unwrap().is_none());
    let mut nothing = read(&memory, Start::Latest, Until::CaughtUp);
    assert!(all(&mut nothing).is_empty());
}

#[test]
fn a_following_reading_goes_on_also_in_partitions_that_are_added() {
    let memory = Memory::new();
    create(&memory, TopicSpec::new(TOPIC).partitions(1));
    let mut reading = read(&memory, Start::Latest, Until::Followed);
    assert!(take(&mut reading, 10).is_empty());
    publish(&memory, 0, Message::new("x"));
    now(memory.add_partitions(TOPIC, 2)).unwrap();
    publish(&memory, 1, Message::new("x"));
    assert_eq!(places(&take(&mut reading, 10)), [(0, 0), (1, 0)]);
    assert!(take(&mut reading, 10).is_empty());
    now(memory.delete_topic(TOPIC)).unwrap();
    assert_eq!(now(reading.next(1)).err().unwrap().kind(), ErrorKind::UnknownTopic);
    assert!(now(reading.next(1)).unwrap().is_none());
}

#[test]
fn a_reading_of_some_partitions_reads_no_others_and_no_partition_starves() {
    let memory = Memory::new();
    create(&memory, TopicSpec::new(TOPIC).partitions(3));
    for partition in [0, 1, 2, 0, 1, 2] {
        publish(&memory, partition, Message::new("x"));
    }
    let some = |partitions: &[u32]| {
        let partitions = Some(partitions.to_vec());
        let (start, until) = (Start::Earliest, Until::CaughtUp);
        now(memory.read(Read { topic: TOPIC, partitions, start, until }))
    };
    let mut reading = some(&[2, 0, 2]).unwrap();
    let mut first: Vec<u32> = Vec::new();
    while let Some(batch) = now(reading.next(1)).unwrap() {
        first.push(place(&batch[0]).0);
    }
    assert!(first == [0, 2, 0, 2] || first == [2, 0, 2, 0], "{first:?}");
    for wrong in [&[3][..], &[]] {
        assert_eq!(some(wrong).err().unwrap().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn reading_and_settling_what_was_read_leaves_groups_alone() {
    let memory = Memory::new();
    create(&memory, TopicSpec::new(TOPIC).partitions(1));
    let mut member = join(&memory, Order::Key, 10);
    publish(&memory, 0, Message::new("x"));
    for delivery in take(&mut read(&memory, Start::Earliest, Until::Followed), 10) {
        assert!(delivery.is_live());
        delivery.ack();
    }
    assert_eq!(places(&take(&mut member, 10)), [(0, 0)]);
}

//! Whoever waits is woken by whatever may end the waiting.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use super::*;
use broker_api::{Read, Start, Until};

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Waits with this source, and tells later whether it was woken.
struct Waiting<'a>(&'a mut Box<dyn Source>, Arc<Flag>);

impl<'a> Waiting<'a> {
    fn new(source: &'a mut Box<dyn Source>) -> Self {
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(flag.clone());
        let polled = source.next(10).poll_unpin(&mut Context::from_waker(&waker));
        assert!(polled.is_pending(), "it has something already");
        Self(source, flag)
    }

    fn is_woken(&self) -> bool {
        self.1.0.load(Ordering::SeqCst)
    }

    /// It was woken, and this is what it finds and acknowledges.
    fn finds(self) -> Vec<(u32, u64)> {
        assert!(self.is_woken());
        let found = take(self.0, 10);
        let at = places(&found);
        found.into_iter().for_each(Delivery::ack);
        at
    }

    fn finds_the_end(self) {
        assert!(self.is_woken());
        assert!(!matches!(now(self.0.next(1)), Ok(Some(_))));
    }
}

fn memory(partitions: u32) -> Memory {
    let memory = Memory::new();
    create(&memory, TopicSpec::new(TOPIC).partitions(partitions));
    memory
}

#[test]
fn a_message_wakes_the_member_that_has_its_partition_and_nobody_else() {
    let memory = memory(2);
    let (mut a, mut b) = (join(&memory, Order::Key, 10), join(&memory, Order::Key, 10));
    let (a, b) = (Waiting::new(&mut a), Waiting::new(&mut b));
    publish(&memory, 0, Message::new("x"));
    assert_ne!(a.is_woken(), b.is_woken());
    publish(&memory, 1, Message::new("x"));
    assert_eq!([a.finds(), b.finds()].concat().len(), 2);
}

#[test]
fn a_message_wakes_all_who_compete_for_it() {
    let memory = memory(1);
    let (mut a, mut b) = (join(&memory, Order::None, 10), join(&memory, Order::None, 10));
    let (a, b) = (Waiting::new(&mut a), Waiting::new(&mut b));
    publish(&memory, 0, Message::new("x"));
    assert!(a.is_woken() && b.is_woken(), "one of them may have stopped waiting");
    assert_eq!([a.finds(), b.finds()].concat(), [(0, 0)]);
}

#[test]
fn a_message_wakes_readings_that_follow() {
    let memory = memory(1);
    let (start, until) = (Start::Earliest, Until::Followed);
    let read = Read { topic: TOPIC, partitions: None, start, until };
    let mut reading = now(memory.read(read)).unwrap();
    let waiting = Waiting::new(&mut reading);
    publish(&memory, 0, Message::new("x"));
    assert_eq!(waiting.finds(), [(0, 0)]);
}

#[test]
fn what_comes_back_wakes() {
    for order in [Order::Key, Order::None] {
        let memory = memory(1);
        let mut source = join(&memory, order, 10);
        publish(&memory, 0, Message::new("x"));
        let held = take(&mut source, 1);
        let waiting = Waiting::new(&mut source);
        drop(held);
        assert_eq!(waiting.finds(), [(0, 0)]);
    }
}

#[test]
fn settling_wakes_a_source_that_had_its_hands_full() {
    let memory = memory(1);
    let mut source = join(&memory, Order::Key, 1);
    publish(&memory, 0, Message::new("x"));
    publish(&memory, 0, Message::new("x"));
    let held = take(&mut source, 10).pop().unwrap();
    let waiting = Waiting::new(&mut source);
    held.ack();
    assert_eq!(waiting.finds(), [(0, 1)]);
}

#[test]
fn a_partition_that_moves_wakes_its_new_member() {
    for order in [Order::Key, Order::None] {
        let memory = memory(1);
        let mut old = join(&memory, order, 10);
        publish(&memory, 0, Message::new("x"));
        let held = take(&mut old, 1);
        let mut new = join(&memory, order, 10);
        let waiting = Waiting::new(&mut new);
        drop(old);
        assert_eq!(waiting.finds(), [(0, 0)]);
        drop(held);
    }
}

#[test]
fn the_last_settlement_of_a_partition_that_moves_wakes_its_new_member() {
    let memory = memory(2);
    let mut old = join(&memory, Order::Key, 10);
    for partition in [0, 1] {
        publish(&memory, partition, Message::new("x"));
    }
    let held = take(&mut old, 2);
    for partition in [0, 1] {
        publish(&memory, partition, Message::new("x"));
    }
    let mut new = join(&memory, Order::Key, 10);
    let waiting = Waiting::new(&mut new);
    held.into_iter().for_each(Delivery::ack);
    assert_eq!(waiting.finds().len(), 1);
}

#[test]
fn closing_and_deleting_wake() {
    let memory = memory(1);
    let connection = memory.connect();
    let mut source = join(&connection, Order::Key, 10);
    let waiting = Waiting::new(&mut source);
    now(connection.close()).unwrap();
    waiting.finds_the_end();

    let mut source = join(&memory, Order::Key, 10);
    let waiting = Waiting::new(&mut source);
    now(memory.delete_topic(TOPIC)).unwrap();
    waiting.finds_the_end();
}

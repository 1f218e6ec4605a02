//! What is particular to the in-memory broker, and what the conformance suite cannot see from
//! outside: exact hand-overs, limits, and a model that random steps are compared with.

#![allow(clippy::unwrap_used, reason = "all of this crate is a test")]

mod groups;
mod model;
mod reading;
mod room;
mod threads;
mod waking;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker_api::{
    Backend, Confirm, Delivery, GroupSpec, Memory, Message, Name, Order, Outgoing, Receipt, Result,
    Source, Subscribe, TopicSpec,
};
use futures_util::FutureExt;
use tokio::time::Instant;

const TOPIC: Name = Name::new("topic");
const GROUP: Name = Name::new("group");

/// The answer to a message, once there is one.
type Answer = Arc<Mutex<Option<Result<Receipt>>>>;

/// Everything in memory happens at once or has to wait for something else, so one poll tells.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the in-memory broker does this at once")
}

fn create(memory: &Memory, spec: TopicSpec) {
    now(memory.create_topic(&spec)).unwrap();
}

fn hand_over(memory: &Memory, partition: Option<u32>, message: Message, time: Duration) -> Answer {
    let answer = Answer::default();
    let slot = answer.clone();
    memory.publish(Outgoing {
        topic: TOPIC,
        partition,
        message,
        deadline: Instant::now() + time,
        confirm: Confirm::from_fn(move |result| *slot.lock().unwrap() = Some(result)),
    });
    answer
}

fn answer(answer: &Answer) -> Option<Result<Receipt>> {
    answer.lock().unwrap().take()
}

/// Publishes what is taken at once.
fn publish(memory: &Memory, partition: u32, message: Message) -> Receipt {
    let given = hand_over(memory, Some(partition), message, Duration::from_secs(60));
    answer(&given).expect("there is room").unwrap()
}

fn join(memory: &Memory, order: Order, prefetch: usize) -> Box<dyn Source> {
    let group = GroupSpec { order, ..GroupSpec::new(GROUP) };
    now(memory.subscribe(Subscribe { topics: vec![TOPIC], group, prefetch })).unwrap()
}

/// What the source has now; nothing if it would wait.
fn take(source: &mut Box<dyn Source>, max: usize) -> Vec<Delivery> {
    match source.next(max).now_or_never() {
        None => Vec::new(),
        Some(batch) => batch.unwrap().expect("the source has not ended"),
    }
}

/// Partition and offset.
fn place(delivery: &Delivery) -> (u32, u64) {
    let received = delivery.received();
    (received.partition, received.offset.expect("the in-memory broker has offsets"))
}

fn places(batch: &[Delivery]) -> Vec<(u32, u64)> {
    let mut places: Vec<_> = batch.iter().map(place).collect();
    places.sort_unstable();
    places
}

//! Schedules by a clock that is paused: hours pass in an instant.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::clock::now;
use crate::dead_letter::Filter;
use crate::{
    Broker, ErrorKind, GroupSpec, Memory, Message, Name, Received, Result, Subscribe, Topic,
};

const WORK: Topic<Bytes> = Topic::raw("work");
const HOUR: Duration = Duration::from_secs(3600);

async fn broker() -> Broker {
    let broker = Broker::new(Memory::new());
    broker.create_topic(&WORK.spec().partitions(2)).await.unwrap();
    broker
}

/// A scheduler at work, and how to stop it.
fn schedule(broker: &Broker) -> (JoinHandle<Result<()>>, oneshot::Sender<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let scheduler = broker.scheduler().until(async move { drop(stopped.await) });
    (tokio::spawn(scheduler.run()), stop)
}

/// A broker that a scheduler has run on, and has stopped.
async fn known(broker: &Broker) {
    let (running, stop) = schedule(broker);
    drop(stop);
    running.await.unwrap().unwrap();
}

/// The next so many messages of the topic, each with the time it came.
async fn take(broker: &Broker, count: usize) -> Vec<(Received, SystemTime)> {
    let subscribe = Subscribe::new(WORK.name(), GroupSpec::new(Name::new("workers")));
    let mut work = broker.subscribe(subscribe).await.unwrap();
    let mut taken = Vec::new();
    while taken.len() < count {
        let delivery = work.next().await.unwrap().unwrap();
        taken.push((delivery.received().clone(), now()));
        delivery.ack();
    }
    taken
}

fn paused<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(test())
}

fn delay() -> impl Strategy<Value = Duration> {
    // As many short ones as long ones.
    (0u32..29, 0u64..1 << 28).prop_map(|(shift, ms)| Duration::from_millis(ms >> shift))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_mix_of_delays_is_delivered_in_the_order_of_the_times_and_on_time(
        messages in proptest::collection::vec((delay(), delay()), 1..40),
        stops in proptest::collection::vec(delay(), 0..3),
    ) {
        paused(|| async {
            let broker = broker().await;
            known(&broker).await;
            let mut due = Vec::new();
            for (n, (delay, pause)) in messages.iter().enumerate() {
                let published = broker.publish(WORK, &Bytes::from(n.to_string())).partition(1);
                due.push((now() + *delay, n.to_string()));
                published.id(n.to_string().as_str()).deliver_after(*delay).await.unwrap();
                sleep((*pause).min(*delay / 2).min(Duration::from_millis(100))).await;
            }
            let schedulers = async {
                // One that stops is followed by another.
                for stop in stops {
                    let (running, end) = schedule(&broker);
                    sleep(stop).await;
                    drop(end);
                    running.await.unwrap().unwrap();
                }
                broker.scheduler().run().await.unwrap();
            };
            let began = now();
            let taken = tokio::select! {
                taken = take(&broker, messages.len()) => taken,
                () = schedulers => unreachable!("it runs for ever"),
            };
            due.sort();
            let mut ids = HashSet::new();
            for ((due, _), (received, came)) in due.iter().zip(&taken) {
                let id = received.message.id().unwrap().to_string();
                prop_assert_eq!(received.message.payload(), id.as_bytes());
                prop_assert!(received.message.headers().is_empty());
                prop_assert_eq!(received.partition, 1);
                ids.insert(id);
                prop_assert!(came >= due, "early by {:?}", due.duration_since(*came));
                let late = came.duration_since((*due).max(began)).unwrap();
                prop_assert!(late < Duration::from_millis(100), "late by {:?}", late);
            }
            prop_assert_eq!(ids.len(), messages.len());
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn more_messages_than_are_held_come_within_a_second_of_their_times() {
    let broker = broker().await;
    let (_running, _stop) = schedule(&broker);
    sleep(Duration::from_millis(1)).await;
    let mut due = Vec::new();
    for n in 0..5_000u64 {
        // Up to four seconds, in an order far from that of the times.
        let delay = Duration::from_millis(n * 7_919 % 4_000);
        due.push(now() + delay);
        broker.publish(WORK, &Bytes::from(n.to_string())).deliver_after(delay).await.unwrap();
    }
    for (received, came) in take(&broker, due.len()).await {
        let n: usize = str::from_utf8(received.message.payload()).unwrap().parse().unwrap();
        let late = came.duration_since(due[n]).expect("not before its time");
        assert!(late <= Duration::from_secs(1), "{n} is late by {late:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_not_held_unsettled_for_longer_than_a_broker_allows() {
    let broker = broker().await;
    let (running, stop) = schedule(&broker);
    sleep(Duration::from_millis(1)).await;
    broker.publish(WORK, &Bytes::from("x")).deliver_after(6 * HOUR).await.unwrap();
    sleep(HOUR).await;
    drop(stop);
    running.await.unwrap().unwrap();
    let name = Name::new("scheduled.4h");
    let subscribe = Subscribe::new(name, GroupSpec::new(name));
    let mut waiting = broker.subscribe(subscribe).await.unwrap();
    let redeliveries = waiting.next().await.unwrap().unwrap().received().redeliveries;
    assert!(redeliveries >= Some(5), "handed back {redeliveries:?} times in an hour");
}

#[tokio::test(start_paused = true)]
async fn the_timestamp_is_that_of_publishing_unless_the_message_has_one() {
    let broker = broker().await;
    let (_running, _stop) = schedule(&broker);
    sleep(Duration::from_millis(1)).await;
    let own = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234);
    let message = Message::new("own").with_timestamp(own);
    broker.publish_message(WORK.name(), message).deliver_after(HOUR).await.unwrap();
    let due = now() + 2 * HOUR;
    broker.publish(WORK, &Bytes::from("none")).deliver_at(due).await.unwrap();
    let taken = take(&broker, 2).await;
    assert_eq!(taken[0].0.message.timestamp(), Some(own));
    let stamp = taken[1].0.message.timestamp().unwrap();
    assert!(stamp + Duration::from_millis(1) > due && stamp <= taken[1].1, "{stamp:?} {due:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_delivered_is_an_error_now() {
    let broker = broker().await;
    let later = |publish: crate::Publish| publish.deliver_after(HOUR);
    let small = Bytes::from("x");
    let error = later(broker.publish(WORK, &small)).await.unwrap_err();
    assert_eq!((error.kind(), error.context("topic")), (ErrorKind::Unroutable, Some("work")));
    assert!(error.to_string().contains("no scheduler has run"), "{error}");

    known(&broker).await;
    let error = later(broker.publish(Topic::raw("missing"), &small)).await.unwrap_err();
    assert_eq!((error.kind(), error.context("topic")), (ErrorKind::UnknownTopic, Some("missing")));
    let error = later(broker.publish(WORK, &small).partition(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let large = Bytes::from(vec![0; crate::DEFAULT_MAX_MESSAGE_BYTES + 1]);
    let error = later(broker.publish(WORK, &large)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let error = broker.publish(WORK, &small).deliver_after(Duration::MAX).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    // As large as it may be, although it waits with more headers.
    let largest = large.slice(1..);
    later(broker.publish(WORK, &largest)).await.unwrap();
    broker.close().await.unwrap();
    let error = later(broker.publish(WORK, &small)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_published_when_due_becomes_a_dead_letter_and_can_be_put_back() {
    let broker = broker().await;
    let (_running, _stop) = schedule(&broker);
    sleep(Duration::from_millis(1)).await;
    // Somebody else's, without a ticket, in each of the topics.
    for topic in ["scheduled.now", "scheduled.4h"] {
        let foreign = Message::new("foreign");
        broker.publish_message(Name::new(topic), foreign).await.unwrap();
    }
    broker.publish(WORK, &Bytes::from("x")).id("1").deliver_after(HOUR).await.unwrap();
    broker.delete_topic(WORK.name()).await.unwrap();
    sleep(2 * HOUR).await;

    let letters = broker.dead_letters(Name::new("scheduled.scheduler.dlt"));
    let all = letters.list(&Filter::default()).await.unwrap();
    let kinds: Vec<_> = all.iter().map(|letter| letter.kind.as_deref().unwrap()).collect();
    assert_eq!(kinds, ["Invalid", "Invalid", "UnknownTopic"]);
    assert!(all[2].error.as_deref().unwrap().contains("topic=work"), "{:?}", all[2].error);

    broker.create_topic(&WORK.spec()).await.unwrap();
    let filter = Filter { kind: Some("UnknownTopic".into()), ..Filter::default() };
    letters.redrive(&filter, crate::dead_letter::Pace::Unlimited).await.unwrap();
    let taken = take(&broker, 1).await;
    let message = &taken[0].0.message;
    assert_eq!((message.id(), message.headers().len()), (Some(&"1".into()), 0));
    assert_eq!(letters.list(&Filter::default()).await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_scheduler_stops_with_its_group_and_with_the_broker() {
    let broker = broker().await;
    let group = broker.group("g").scheduler();
    group.run(sleep(HOUR)).await.unwrap();
    let (running, _stop) = schedule(&broker);
    sleep(HOUR).await;
    broker.close().await.unwrap();
    running.await.unwrap().unwrap();
    let error = broker.scheduler().run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

//! Two brokers as one: where topics are, and how one group consumes from both.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anybroker::{
    Backend, Broker, Connection, ErrorKind, GroupSpec, Memory, Message, Name, Routed, Subscribe,
    Subscription, TopicSpec, Transactions,
};
use tokio::time::timeout;

const HERE: Name = Name::new("here");
const THERE: Name = Name::new("there");
const GROUP: Name = Name::new("group");

/// A broker whose topic `there`, and what is made from its name, is on the second of the two.
async fn routed() -> (Broker, Memory, Memory) {
    let (first, second) = (Memory::new(), Memory::new());
    let there: Arc<dyn Backend> = Arc::new(second.connect());
    let routed = Routed::new(Arc::new(first.connect())).route("there", &there).unwrap();
    let broker = Broker::new(routed);
    for topic in [HERE, THERE] {
        broker.create_topic(&TopicSpec::new(topic)).await.unwrap();
        broker.declare_group(topic, &GroupSpec::new(GROUP)).await.unwrap();
    }
    (broker, first, second)
}

async fn publish(broker: &Broker, topic: Name, count: usize) {
    for n in 0..count {
        let message = Message::new(n.to_string()).with_key("k");
        broker.publish_message(topic, message).await.unwrap();
    }
}

fn both(prefetch: usize) -> Subscribe {
    let mut subscribe = Subscribe::new(HERE, GroupSpec::new(GROUP));
    subscribe.topics.push(THERE);
    subscribe.prefetch = prefetch;
    subscribe
}

async fn next(subscription: &mut Subscription) -> anybroker::Delivery {
    let next = timeout(Duration::from_secs(10), subscription.next());
    next.await.expect("a delivery within the time").unwrap().expect("a delivery")
}

#[tokio::test]
async fn no_transaction_spans_two_brokers() {
    let there: Arc<dyn Backend> = Arc::new(Memory::new());
    let routed = Routed::new(Arc::new(Memory::new())).route("there", &there).unwrap();
    let output = routed.check_output(HERE, THERE, None, &Message::new("x")).await;
    let input = routed.subscribe_exactly_once(both(10), Transactions::default()).await.map(drop);
    for error in [output.unwrap_err(), input.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("on another broker"), "{error}");
    }
    // One broker alone speaks for itself.
    let alone = Subscribe::new(THERE, GroupSpec::new(GROUP));
    let input = routed.subscribe_exactly_once(alone, Transactions::default()).await.map(drop);
    let error = input.unwrap_err();
    assert!(error.to_string().contains("the embedded broker"), "{error}");
}

#[tokio::test]
async fn each_topic_is_on_its_own_broker_and_only_there() {
    let (broker, first, second) = routed().await;
    publish(&broker, HERE, 1).await;
    publish(&broker, THERE, 1).await;
    assert!(first.describe_topic(HERE).await.is_ok() && first.describe_topic(THERE).await.is_err());
    assert!(
        second.describe_topic(THERE).await.is_ok() && second.describe_topic(HERE).await.is_err()
    );

    let made_from_it = Name::new("there.group.dlt");
    broker.create_topic(&TopicSpec::new(made_from_it)).await.unwrap();
    assert!(second.describe_topic(made_from_it).await.is_ok());
}

#[tokio::test]
async fn a_subscription_to_topics_of_both_brokers_gets_all_of_both_in_order() {
    let (broker, ..) = routed().await;
    publish(&broker, HERE, 300).await;
    publish(&broker, THERE, 300).await;
    let mut subscription = broker.subscribe(both(50)).await.unwrap();
    let mut seen: HashMap<Name, Vec<String>> = HashMap::new();
    for _ in 0..600 {
        let delivery = next(&mut subscription).await;
        let payload = String::from_utf8(delivery.message().payload().to_vec()).unwrap();
        seen.entry(delivery.received().topic).or_default().push(payload);
        delivery.ack();
    }
    let expected: Vec<_> = (0..300).map(|n| n.to_string()).collect();
    assert_eq!(seen[&HERE], expected);
    assert_eq!(seen[&THERE], expected);
    subscription.close().await.unwrap();
}

#[tokio::test]
async fn the_prefetch_bounds_both_together_and_settling_makes_room() {
    let (broker, ..) = routed().await;
    publish(&broker, HERE, 10).await;
    publish(&broker, THERE, 10).await;
    let mut subscription = broker.subscribe(both(3)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&mut subscription).await);
    }
    // There is more on both brokers, but no room: whatever the scheduler does, nothing comes.
    for _ in 0..1000 {
        let next = subscription.next();
        assert!(futures_util::FutureExt::now_or_never(next).is_none());
        tokio::task::yield_now().await;
    }
    held.pop().unwrap().ack();
    let one_more = next(&mut subscription).await;
    assert!(futures_util::FutureExt::now_or_never(subscription.next()).is_none());
    drop((one_more, held));
    let mut left = 19;
    while left > 0 {
        next(&mut subscription).await.ack();
        left -= 1;
    }
}

#[tokio::test]
async fn a_busy_broker_does_not_starve_the_other() {
    let (broker, ..) = routed().await;
    publish(&broker, HERE, 100).await;
    publish(&broker, THERE, 100).await;
    let mut subscription = broker.subscribe(both(10)).await.unwrap();
    let mut taken: HashMap<Name, usize> = HashMap::new();
    for _ in 0..100 {
        let delivery = next(&mut subscription).await;
        *taken.entry(delivery.received().topic).or_default() += 1;
        delivery.ack();
    }
    assert_eq!((taken[&HERE], taken[&THERE]), (50, 50));
}

#[tokio::test]
async fn what_was_settled_does_not_come_back_and_the_rest_does() {
    let (broker, ..) = routed().await;
    publish(&broker, HERE, 2).await;
    publish(&broker, THERE, 2).await;
    let mut subscription = broker.subscribe(both(10)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        let delivery = next(&mut subscription).await;
        match &delivery.message().payload()[..] {
            b"0" => delivery.ack(),
            _ => held.push(delivery),
        }
    }
    drop(held);
    subscription.close().await.unwrap();
    let mut again = broker.subscribe(both(10)).await.unwrap();
    let mut topics = Vec::new();
    for _ in 0..2 {
        let delivery = next(&mut again).await;
        assert_eq!(&delivery.message().payload()[..], b"1");
        topics.push(delivery.received().topic);
        delivery.ack();
    }
    topics.sort();
    assert_eq!(topics, [HERE, THERE]);
}

#[tokio::test]
async fn a_subscription_that_fails_on_one_broker_leaves_no_member_on_the_other() {
    let (broker, first, _) = routed().await;
    broker.delete_topic(THERE).await.unwrap();
    broker.subscribe(both(10)).await.expect_err("one of its topics is gone");
    assert!(first.health().consumers.is_empty());
    // A member that was left behind would have the only partition of this key.
    publish(&broker, HERE, 1).await;
    let mut alone = broker.subscribe(Subscribe::new(HERE, GroupSpec::new(GROUP))).await.unwrap();
    next(&mut alone).await.ack();
}

#[tokio::test]
async fn health_is_that_of_the_worse_broker_and_has_the_consumers_of_both() {
    let (first, second) = (Memory::new(), Memory::new());
    let there: Arc<dyn Backend> = Arc::new(second);
    let routed = Routed::new(Arc::new(first)).route("there*", &there).unwrap();
    for topic in [HERE, THERE] {
        routed.create_topic(&TopicSpec::new(topic)).await.unwrap();
    }
    let source = routed.subscribe(both(10)).await.unwrap();
    let health = routed.health();
    assert!(health.is_up());
    assert_eq!(health.consumers.len(), 2);
    drop(source);
    there.close().await.unwrap();
    assert_eq!(routed.health().connection, Connection::Closed);
    routed.close().await.unwrap();
    assert_eq!(routed.health().connection, Connection::Closed);
}

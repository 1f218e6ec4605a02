//! What publishing promises.

use broker_api::{ErrorKind, GroupSpec, Message, Settings, partition_for_key};
use futures_util::FutureExt;

use crate::conformance::bench::Bench;
use crate::conformance::case::cases;
use crate::conformance::fault::{Verdict, ensure, ensure_eq, ensure_kind};
use crate::conformance::inbox::{sorted, texts};

cases! { "publish";
    a_confirmed_message_is_there_after_the_publisher_has_gone,
    pipelined_messages_keep_their_order,
    a_message_whose_confirmation_nobody_awaits_is_published,
    nothing_arrives_twice,
    flush_waits_for_every_confirmation,
    a_key_has_the_partition_that_kafka_gives_it,
    an_explicit_partition_is_taken_whatever_the_key,
    a_partition_that_does_not_exist_is_an_error,
    a_message_without_a_key_goes_to_some_partition,
    an_unknown_topic_is_an_error_and_does_not_come_to_be,
    one_bad_message_among_pipelined_ones_fails_alone,
}

async fn a_confirmed_message_is_there_after_the_publisher_has_gone(bench: &Bench) -> Verdict {
    let topic = bench.topic("publish", 2).await?;
    let groups = [bench.declared(topic, "one").await?, bench.declared(topic, "two").await?];
    let publisher = bench.connect().await?;
    let wanted = texts("a", 20);
    for (n, text) in wanted.iter().enumerate() {
        let message = Message::new(text.clone()).with_key(n.to_string());
        publisher.publish_message(topic, message).await?;
    }
    drop(publisher);
    for group in groups {
        let came = bench.join(topic, group).await?.handle(20).await?;
        ensure_eq!(sorted(came), wanted, "confirmed before the publisher was gone");
    }
    Ok(())
}

async fn pipelined_messages_keep_their_order(bench: &Bench) -> Verdict {
    let topic = bench.topic("publish", 3).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.broker().await?;
    let wanted = texts("a", 2_000);
    let mut confirmations = Vec::new();
    for text in &wanted {
        let message = Message::new(text.clone()).with_key("the same");
        confirmations.push(broker.publish_message(topic, message).enqueue().await?);
    }
    let partition = partition_for_key(b"the same", 3);
    for confirmation in confirmations {
        let receipt = bench.within("a confirmation", confirmation).await??;
        ensure_eq!(receipt.partition, partition, "the partition of the key");
    }
    let came = bench.join(topic, group).await?.handle(wanted.len()).await?;
    ensure_eq!(came, wanted, "published without waiting for confirmations");
    Ok(())
}

async fn a_message_whose_confirmation_nobody_awaits_is_published(bench: &Bench) -> Verdict {
    let topic = bench.topic("publish", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.broker().await?;
    for text in texts("a", 10) {
        drop(broker.publish_message(topic, Message::new(text)).enqueue().await?);
    }
    let came = bench.join(topic, group).await?.handle(10).await?;
    ensure_eq!(came, texts("a", 10), "enqueued, and the confirmation dropped");
    Ok(())
}

async fn nothing_arrives_twice(bench: &Bench) -> Verdict {
    let topic = bench.topic("publish", 2).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("a", 50)).await?;
    bench.publish(topic, 1, texts("b", 50)).await?;
    bench.mark(topic, 2).await?;
    let came = bench.join(topic, group).await?.texts_before_markers(2).await?;
    ensure_eq!(sorted(came), [texts("a", 50), texts("b", 50)].concat(), "published once each");
    Ok(())
}

async fn flush_waits_for_every_confirmation(bench: &Bench) -> Verdict {
    let topic = bench.topic("publish", 2).await?;
    bench.declared(topic, "group").await?;
    let broker = bench.broker().await?;
    let mut confirmations = Vec::new();
    for text in texts("a", 500) {
        let message = Message::new(text.clone()).with_key(text);
        confirmations.push(broker.publish_message(topic, message).enqueue().await?);
    }
    bench.within("flush", broker.flush()).await?;
    for (n, confirmation) in confirmations.into_iter().enumerate() {
        match tokio::task::unconstrained(confirmation).now_or_never() {
            Some(result) => drop(result?),
            None => ensure!(false, "flush returned, and message {n} is not confirmed"),
        }
    }
    Ok(())
}

async fn a_key_has_the_partition_that_kafka_gives_it(bench: &Bench) -> Verdict {
    const PARTITIONS: u32 = 7;
    let topic = bench.topic("publish", PARTITIONS).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.broker().await?;
    let mut keys: Vec<Vec<u8>> = (0..40).map(|n| format!("user-{n}").into_bytes()).collect();
    keys.extend([
        vec![],
        vec![0],
        vec![0xff, 0xfe, 0xfd, 0xfc, 0xfb],
        "größe".into(),
        b"21".to_vec(),
    ]);
    for key in &keys {
        let message = Message::new("x").with_key(key.clone());
        let receipt = broker.publish_message(topic, message).await?;
        let wanted = partition_for_key(key, PARTITIONS);
        ensure_eq!(receipt.partition, wanted, "the partition of the key {key:?}");
    }
    for delivery in bench.join(topic, group).await?.take(keys.len()).await? {
        let key = delivery.message().key().ok_or("the key is lost")?;
        let wanted = partition_for_key(key, PARTITIONS);
        ensure_eq!(delivery.received().partition, wanted, "the partition that {key:?} came from");
        delivery.ack();
    }
    Ok(())
}

async fn an_explicit_partition_is_taken_whatever_the_key(bench: &Bench) -> Verdict {
    let topic = bench.topic("publish", 4).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.broker().await?;
    for partition in 0..4 {
        let message = Message::new(partition.to_string()).with_key("the same");
        let receipt = broker.publish_message(topic, message).partition(partition).await?;
        ensure_eq!(receipt.partition, partition, "the receipt");
    }
    for delivery in bench.join(topic, group).await?.take(4).await? {
        let wanted = delivery.received().partition.to_string();
        ensure_eq!(delivery.message().payload(), &wanted, "in the partition {wanted}");
        ensure_eq!(delivery.message().key().map(AsRef::as_ref), Some(&b"the same"[..]), "its key");
        delivery.ack();
    }
    Ok(())
}

async fn a_partition_that_does_not_exist_is_an_error(bench: &Bench) -> Verdict {
    let topic = bench.topic("publish", 2).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.broker().await?;
    for partition in [2, 1_000_000, u32::MAX] {
        let sent = broker.publish_message(topic, Message::new("lost")).partition(partition).await;
        let error = ensure_kind!(sent, Invalid, "to partition {partition} of 2");
        ensure!(error.is_permanent(), "that is permanent: {error:?}");
    }
    bench.mark(topic, 2).await?;
    let came = bench.join(topic, group).await?.texts_before_markers(2).await?;
    ensure_eq!(came, Vec::<String>::new(), "refused messages");
    Ok(())
}

async fn a_message_without_a_key_goes_to_some_partition(bench: &Bench) -> Verdict {
    let topic = bench.topic("publish", 3).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.broker().await?;
    for text in texts("a", 30) {
        let receipt = broker.publish_message(topic, Message::new(text)).await?;
        ensure!(receipt.partition < 3, "partition {} of 3", receipt.partition);
    }
    let came = bench.join(topic, group).await?.handle(30).await?;
    ensure_eq!(sorted(came), texts("a", 30), "messages without a key");
    Ok(())
}

async fn an_unknown_topic_is_an_error_and_does_not_come_to_be(bench: &Bench) -> Verdict {
    let unknown = bench.name("unknown")?;
    let broker = bench.broker().await?;
    for _ in 0..2 {
        let sent = broker.publish_message(unknown, Message::new("x")).await;
        let error = ensure_kind!(sent, UnknownTopic, "publishing to a topic that does not exist");
        ensure!(!error.is_indeterminate(), "nothing was published: {error:?}");
        let described = broker.describe_topic(unknown).await;
        ensure_kind!(described, UnknownTopic, "describing it afterwards");
    }
    // It is no reason to refuse it later.
    broker.create_topic(&broker_api::TopicSpec::new(unknown).partitions(1)).await?;
    broker.declare_group(unknown, &GroupSpec::new(bench.group("group")?)).await?;
    broker.publish_message(unknown, Message::new("x")).await?;
    Ok(())
}

async fn one_bad_message_among_pipelined_ones_fails_alone(bench: &Bench) -> Verdict {
    let topic = bench.topic("publish", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let unknown = bench.name("unknown")?;
    let broker = bench.connect_with(Settings::default()).await?;
    let mut confirmations = Vec::new();
    for n in 0..100 {
        let publish = match n {
            20 => broker.publish_message(topic, Message::new(vec![0; 2 << 20])),
            40 => broker.publish_message(unknown, Message::new("nowhere")),
            60 => broker.publish_message(topic, Message::new("nowhere")).partition(9),
            _ => broker.publish_message(topic, Message::new(format!("a-{n:04}"))),
        };
        confirmations.push(publish.enqueue().await?);
    }
    let bad = [(20, ErrorKind::TooLarge), (40, ErrorKind::UnknownTopic), (60, ErrorKind::Invalid)];
    for (n, confirmation) in confirmations.into_iter().enumerate() {
        let result = bench.within("a confirmation", confirmation).await?;
        let wanted = bad.iter().find(|(bad, _)| *bad == n).map(|(_, kind)| *kind);
        let is = result.as_ref().err().map(broker_api::Error::kind);
        ensure_eq!(is, wanted, "the result of message {n} ({result:?})");
    }
    let mut wanted = texts("a", 100);
    wanted.retain(|text| !["a-0020", "a-0040", "a-0060"].contains(&text.as_str()));
    let came = bench.join(topic, group).await?.handle(97).await?;
    ensure_eq!(came, wanted, "the neighbours of the bad ones");
    Ok(())
}

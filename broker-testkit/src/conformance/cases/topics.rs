//! Topics: created, described, grown, deleted.

use broker_api::{
    DEFAULT_PARTITIONS, ErrorKind, GroupSpec, Message, Read, Subscribe, TopicSpec,
    partition_for_key,
};
use futures_util::future::join_all;

use crate::conformance::bench::Bench;
use crate::conformance::case::cases;
use crate::conformance::fault::{Verdict, ensure, ensure_eq, ensure_kind};
use crate::conformance::inbox::{sorted, texts};

cases! { "topics";
    creating_a_topic_twice_is_no_error,
    a_backend_says_that_a_topic_exists_already,
    a_topic_can_be_created_by_many_at_once,
    a_description_says_what_was_asked_for,
    a_topic_has_six_partitions_where_nothing_is_said,
    a_different_specification_is_told_in_words,
    a_topic_without_partitions_is_refused,
    a_topic_just_created_takes_messages_from_every_connection,
    an_unknown_topic_is_unknown_to_everything,
    a_longest_name_with_every_sign_is_a_topic,
    partitions_are_added_and_used [AddPartitions],
    a_running_member_gets_added_partitions [AddPartitions],
    partitions_are_not_taken_away [AddPartitions],
    a_deleted_topic_is_gone,
    a_topic_created_again_is_new,
    deleting_a_topic_ends_its_consumers_with_an_error,
    leaving_a_topic_while_it_is_deleted_is_no_error,
    a_compacted_topic_refuses_a_message_without_a_key [Compaction],
}

async fn creating_a_topic_twice_is_no_error(bench: &Bench) -> Verdict {
    let spec = TopicSpec::new(bench.name("twice")?).partitions(2);
    bench.create(&spec).await?;
    let group = bench.declared(spec.name, "group").await?;
    bench.publish(spec.name, 1, ["a"]).await?;
    bench.create(&spec).await?;
    bench.connect().await?.create_topic(&TopicSpec::new(spec.name)).await?;
    let came = bench.join(spec.name, group).await?.handle(1).await?;
    ensure_eq!(came, ["a"], "published before the topic was created again");
    Ok(())
}

async fn a_backend_says_that_a_topic_exists_already(bench: &Bench) -> Verdict {
    let topic = bench.topic("twice", 2).await?;
    let backend = bench.backend().await?;
    for spec in [TopicSpec::new(topic).partitions(2), TopicSpec::new(topic).partitions(3)] {
        let created = backend.create_topic(&spec).await;
        let error =
            ensure_kind!(created, TopicExists, "creating {:?} partitions again", spec.partitions);
        ensure!(error.is_permanent(), "that is permanent: {error:?}");
    }
    Ok(())
}

async fn a_topic_can_be_created_by_many_at_once(bench: &Bench) -> Verdict {
    let spec = TopicSpec::new(bench.name("many")?).partitions(3);
    let mut brokers = Vec::new();
    for _ in 0..4 {
        brokers.push(bench.connect().await?);
    }
    for created in join_all(brokers.iter().map(|broker| broker.create_topic(&spec))).await {
        created?;
    }
    ensure_eq!(brokers[0].describe_topic(spec.name).await?.partitions, 3, "partitions");
    Ok(())
}

async fn a_description_says_what_was_asked_for(bench: &Bench) -> Verdict {
    let spec = TopicSpec::new(bench.name("described")?).partitions(5).max_message_bytes(50_000);
    bench.create(&spec).await?;
    for broker in [bench.broker().await?, bench.connect().await?] {
        let is = broker.describe_topic(spec.name).await?;
        ensure_eq!(
            (is.name, is.partitions, is.compacted),
            (spec.name, 5, false),
            "the description"
        );
        let differences = spec.differences(&is);
        ensure!(differences.is_empty(), "the topic just created differs: {differences:?}");
    }
    Ok(())
}

async fn a_topic_has_six_partitions_where_nothing_is_said(bench: &Bench) -> Verdict {
    let spec = TopicSpec::new(bench.name("default")?);
    bench.create(&spec).await?;
    let is = bench.broker().await?.describe_topic(spec.name).await?.partitions;
    ensure_eq!(is, DEFAULT_PARTITIONS, "partitions");
    Ok(())
}

async fn a_different_specification_is_told_in_words(bench: &Bench) -> Verdict {
    let topic = bench.topic("different", 2).await?;
    for broker in [bench.broker().await?, bench.connect().await?] {
        let created = broker.create_topic(&TopicSpec::new(topic).partitions(3)).await;
        let error = ensure_kind!(created, Mismatch, "creating it with 3 partitions instead of 2");
        let text = error.to_string();
        ensure!(text.contains("partitions is 2, wanted 3"), "the difference is not told: {text}");
        ensure_eq!(broker.describe_topic(topic).await?.partitions, 2, "partitions afterwards");
    }
    Ok(())
}

async fn a_topic_without_partitions_is_refused(bench: &Bench) -> Verdict {
    let broker = bench.broker().await?;
    let spec = TopicSpec::new(bench.name("none")?).partitions(0);
    ensure_kind!(broker.create_topic(&spec).await, Invalid, "a topic of no partitions");
    ensure_kind!(broker.describe_topic(spec.name).await, UnknownTopic, "describing it afterwards");
    Ok(())
}

async fn a_topic_just_created_takes_messages_from_every_connection(bench: &Bench) -> Verdict {
    let others = [bench.connect().await?, bench.connect().await?];
    let spec = TopicSpec::new(bench.name("fresh")?).partitions(3);
    // One of them has heard that it does not exist.
    ensure_kind!(others[0].describe_topic(spec.name).await, UnknownTopic, "before it is created");
    let sent = others[0].publish_message(spec.name, Message::new("too early")).await;
    ensure_kind!(sent, UnknownTopic, "publishing before it is created");
    bench.create(&spec).await?;
    let group = bench.declared(spec.name, "group").await?;
    for (n, broker) in others.iter().enumerate() {
        broker.publish_message(spec.name, Message::new(n.to_string())).partition(2).await?;
    }
    let mut inbox = bench.join_at(&others[0], spec.name, group, 10).await?;
    ensure_eq!(inbox.handle(2).await?, ["0", "1"], "published right after it was created");
    Ok(())
}

async fn an_unknown_topic_is_unknown_to_everything(bench: &Bench) -> Verdict {
    let unknown = bench.name("unknown")?;
    let group = GroupSpec::new(bench.group("group")?);
    let broker = bench.broker().await?;
    ensure_kind!(broker.describe_topic(unknown).await, UnknownTopic, "describing it");
    let subscribed = broker.subscribe(Subscribe::new(unknown, group)).await;
    let error = ensure_kind!(subscribed, UnknownTopic, "subscribing to it");
    let text = error.to_string();
    ensure!(text.contains(unknown.as_str()), "the error does not name the topic: {text}");
    ensure_kind!(
        broker.declare_group(unknown, &group).await,
        UnknownTopic,
        "declaring a group of it"
    );
    ensure_kind!(broker.delete_topic(unknown).await, UnknownTopic, "deleting it");
    ensure_kind!(broker.describe_topic(unknown).await, UnknownTopic, "describing it afterwards");
    let capabilities = broker.capabilities(unknown);
    if capabilities.supports(broker_api::Capability::AddPartitions) {
        ensure_kind!(broker.add_partitions(unknown, 3).await, UnknownTopic, "adding partitions");
    }
    if capabilities.supports(broker_api::Capability::Replay) {
        ensure_kind!(broker.read(Read::new(unknown)).await, UnknownTopic, "reading it");
    }
    Ok(())
}

async fn a_longest_name_with_every_sign_is_a_topic(bench: &Bench) -> Verdict {
    let short = bench.name("Az09._-")?;
    let long = format!("{short}{}", "x".repeat(broker_api::MAX_NAME_BYTES - short.as_str().len()));
    let topic = bench.named(&long)?;
    bench.create(&TopicSpec::new(topic).partitions(1)).await?;
    let group = GroupSpec::new(broker_api::Name::new("g_1-2.Zz90"));
    bench.broker().await?.declare_group(topic, &group).await?;
    bench.publish(topic, 0, ["a"]).await?;
    ensure_eq!(bench.join(topic, group.name).await?.handle(1).await?, ["a"], "a name of 200 bytes");
    Ok(())
}

async fn partitions_are_added_and_used(bench: &Bench) -> Verdict {
    let topic = bench.topic("grown", 2).await?;
    let group = bench.declared(topic, "group").await?;
    let publisher = bench.connect().await?;
    publisher.publish_message(topic, Message::new("before").with_key("k")).await?;
    bench.broker().await?.add_partitions(topic, 5).await?;
    ensure_eq!(
        publisher.describe_topic(topic).await?.partitions,
        5,
        "partitions as another sees them"
    );
    // The one that grew it knows at once.
    let broker = bench.broker().await?;
    for key in ["a", "b", "c", "d", "e", "f", "g"] {
        let receipt = broker.publish_message(topic, Message::new(key).with_key(key)).await?;
        ensure_eq!(
            receipt.partition,
            partition_for_key(key.as_bytes(), 5),
            "the partition of {key}"
        );
    }
    bench.publish(topic, 4, ["last"]).await?;
    let came = bench.join(topic, group).await?.handle(9).await?;
    let wanted = ["a", "b", "before", "c", "d", "e", "f", "g", "last"];
    ensure_eq!(sorted(came), wanted, "before and after the topic grew");
    Ok(())
}

async fn a_running_member_gets_added_partitions(bench: &Bench) -> Verdict {
    let topic = bench.topic("grown", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let other = bench.connect().await?;
    let mut inbox = bench.join_at(&other, topic, group, 100).await?;
    bench.publish(topic, 0, ["before"]).await?;
    ensure_eq!(inbox.handle(1).await?, ["before"], "before the topic grew");
    bench.broker().await?.add_partitions(topic, 3).await?;
    for partition in 0..3 {
        bench.publish(topic, partition, [partition.to_string()]).await?;
    }
    let came = inbox.handle(3).await?;
    ensure_eq!(sorted(came), ["0", "1", "2"], "to a member that joined before the topic grew");
    Ok(())
}

async fn partitions_are_not_taken_away(bench: &Bench) -> Verdict {
    let topic = bench.topic("grown", 3).await?;
    let broker = bench.broker().await?;
    for total in [3, 2, 0] {
        ensure_kind!(
            broker.add_partitions(topic, total).await,
            Invalid,
            "{total} instead of 3 partitions"
        );
    }
    ensure_eq!(broker.describe_topic(topic).await?.partitions, 3, "partitions afterwards");
    Ok(())
}

async fn a_deleted_topic_is_gone(bench: &Bench) -> Verdict {
    let topic = bench.topic("deleted", 2).await?;
    bench.declared(topic, "group").await?;
    bench.publish(topic, 0, ["a"]).await?;
    let broker = bench.broker().await?;
    broker.delete_topic(topic).await?;
    ensure_kind!(broker.describe_topic(topic).await, UnknownTopic, "describing it");
    ensure_kind!(broker.delete_topic(topic).await, UnknownTopic, "deleting it again");
    let sent = broker.publish_message(topic, Message::new("b")).await;
    ensure_kind!(sent, UnknownTopic, "publishing to it");
    Ok(())
}

async fn a_topic_created_again_is_new(bench: &Bench) -> Verdict {
    let topic = bench.topic("again", 2).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("old", 10)).await?;
    let mut inbox = bench.join_at(&bench.broker().await?, topic, group, 1).await?;
    ensure_eq!(inbox.handle(5).await?, texts("old", 10)[..5], "before it was deleted");
    inbox.close().await?;
    let broker = bench.broker().await?;
    broker.delete_topic(topic).await?;
    bench.create(&TopicSpec::new(topic).partitions(1)).await?;
    broker.declare_group(topic, &GroupSpec::new(group)).await?;
    bench.publish(topic, 0, texts("new", 3)).await?;
    let came = bench.join(topic, group).await?.handle(3).await?;
    ensure_eq!(
        came,
        texts("new", 3),
        "to the group of the same name, after the topic was created again"
    );
    Ok(())
}

async fn deleting_a_topic_ends_its_consumers_with_an_error(bench: &Bench) -> Verdict {
    let topic = bench.topic("deleted", 2).await?;
    let group = bench.declared(topic, "group").await?;
    let other = bench.connect().await?;
    let mut inbox = bench.join_at(&other, topic, group, 10).await?;
    bench.publish(topic, 0, ["a"]).await?;
    ensure_eq!(inbox.handle(1).await?, ["a"], "before it was deleted");
    bench.broker().await?.delete_topic(topic).await?;
    let next = bench
        .within("the end of a consumer of a deleted topic", inbox.subscription().next())
        .await?;
    let error = ensure_kind!(next, UnknownTopic, "consuming a topic that was deleted");
    ensure!(error.is_permanent(), "that is permanent: {error:?}");
    ensure!(error.kind() == ErrorKind::UnknownTopic, "{error}");
    Ok(())
}

async fn leaving_a_topic_while_it_is_deleted_is_no_error(bench: &Bench) -> Verdict {
    let (broker, other) = (bench.broker().await?, bench.connect().await?);
    for round in 0..12 {
        let topic = bench.topic(&format!("deleted-{round}"), 2).await?;
        let group = bench.declared(topic, "group").await?;
        let mut inbox = bench.join_at(&other, topic, group, 10).await?;
        bench.publish(topic, 0, ["a"]).await?;
        ensure_eq!(inbox.handle(1).await?, ["a"], "before it was deleted");
        // At the same time, and after; and nobody waits for the end of the last one.
        match round % 4 {
            0 => {
                let (left, deleted) = tokio::join!(inbox.close(), broker.delete_topic(topic));
                left.and(Ok(deleted?))?;
            }
            1 | 2 => {
                broker.delete_topic(topic).await?;
                inbox.close().await?;
            }
            _ => {
                drop(inbox);
                broker.delete_topic(topic).await?;
            }
        }
    }
    // Nothing of it can come back, so whatever was settled last is settled.
    Ok(bench.within("closing", other.close()).await??)
}

async fn a_compacted_topic_refuses_a_message_without_a_key(bench: &Bench) -> Verdict {
    let spec = TopicSpec::new(bench.name("compacted")?).partitions(1).compacted();
    bench.create(&spec).await?;
    let group = bench.declared(spec.name, "group").await?;
    let broker = bench.broker().await?;
    ensure!(broker.describe_topic(spec.name).await?.compacted, "described as not compacted");
    let mut confirmations = Vec::new();
    for n in 0..10 {
        let message = Message::new(format!("a-{n:04}"));
        let message = if n == 5 { message } else { message.with_key(n.to_string()) };
        confirmations.push(broker.publish_message(spec.name, message).enqueue().await?);
    }
    for (n, confirmation) in confirmations.into_iter().enumerate() {
        let result = bench.within("a confirmation", confirmation).await?;
        let wanted = (n == 5).then_some(ErrorKind::Invalid);
        ensure_eq!(result.as_ref().err().map(|e| e.kind()), wanted, "message {n} ({result:?})");
    }
    let mut wanted = texts("a", 10);
    wanted.remove(5);
    ensure_eq!(bench.join(spec.name, group).await?.handle(9).await?, wanted, "the others");
    Ok(())
}

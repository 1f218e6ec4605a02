//! The right error, nothing lost by it, and everything usable afterwards.

use std::time::Duration;

use broker_api::{
    Capability, DEFAULT_MAX_MESSAGE_BYTES, ErrorKind, GroupSpec, Message, Name, Read, Subscribe,
    TopicSpec,
};

use crate::conformance::bench::Bench;
use crate::conformance::case::cases;
use crate::conformance::fault::{Verdict, ensure, ensure_eq, ensure_kind};
use crate::conformance::inbox::{text, texts};

cases! { "errors";
    a_message_over_the_size_limit_is_refused_with_limit_and_size,
    a_message_of_exactly_the_limit_passes,
    a_topics_own_size_limit_holds_on_every_connection,
    a_topic_can_allow_larger_messages,
    bad_names_are_refused_before_anything_is_sent,
    bad_headers_are_refused_before_anything_is_sent,
    an_error_names_operation_and_topic,
    what_is_not_supported_says_so_in_words,
    a_subscription_to_nothing_or_of_nothing_is_refused,
    a_time_limit_that_passes_tells_the_truth,
}

async fn a_message_over_the_size_limit_is_refused_with_limit_and_size(bench: &Bench) -> Verdict {
    let topic = bench.topic("size", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.broker().await?;
    let over = DEFAULT_MAX_MESSAGE_BYTES + 1;
    for message in [
        Message::new(vec![0; over]),
        Message::new(vec![0; over - 3]).with_key("key"),
        Message::new(vec![0; over - 10]).with_header("name", "header"),
        Message::new(vec![0; 40 << 20]),
    ] {
        let size = message.byte_len();
        let error =
            ensure_kind!(broker.publish_message(topic, message).await, TooLarge, "{size} bytes");
        ensure!(error.is_permanent(), "that is permanent: {error:?}");
        let text = error.to_string();
        let (is, limit) = (size.to_string(), DEFAULT_MAX_MESSAGE_BYTES.to_string());
        ensure!(text.contains(&is) && text.contains(&limit), "size and limit are not told: {text}");
    }
    broker.publish_message(topic, Message::new("after")).await?;
    ensure_eq!(
        bench.join(topic, group).await?.handle(1).await?,
        ["after"],
        "after messages too large"
    );
    Ok(())
}

async fn a_message_of_exactly_the_limit_passes(bench: &Bench) -> Verdict {
    let topic = bench.topic("size", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.broker().await?;
    let plain = Message::new(vec![b'x'; DEFAULT_MAX_MESSAGE_BYTES]);
    // Headers cost more on the wire than they count.
    let headers = (0..500).map(|n| (format!("{n:04}"), "v")).collect();
    let dressed = Message::new(vec![b'x'; DEFAULT_MAX_MESSAGE_BYTES - 2_503])
        .with_key("key")
        .with_headers(headers);
    ensure_eq!(dressed.byte_len(), DEFAULT_MAX_MESSAGE_BYTES, "the size that the case has made");
    broker.publish_message(topic, plain).await?;
    broker.publish_message(topic, dressed).await?;
    let sizes: Vec<_> =
        bench.join(topic, group).await?.handle(2).await?.iter().map(String::len).collect();
    ensure_eq!(
        sizes,
        [DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_MAX_MESSAGE_BYTES - 2_503],
        "payload sizes"
    );
    Ok(())
}

async fn a_topics_own_size_limit_holds_on_every_connection(bench: &Bench) -> Verdict {
    let spec = TopicSpec::new(bench.name("small")?).partitions(1).max_message_bytes(10_000);
    bench.create(&spec).await?;
    let group = bench.declared(spec.name, "group").await?;
    for broker in [bench.broker().await?, bench.connect().await?] {
        broker.publish_message(spec.name, Message::new(vec![b'x'; 10_000])).await?;
        let sent = broker.publish_message(spec.name, Message::new(vec![b'x'; 10_001])).await;
        let text = ensure_kind!(sent, TooLarge, "10001 of 10000 bytes").to_string();
        ensure!(text.contains("10000"), "the limit is not told: {text}");
    }
    ensure_eq!(
        bench.join(spec.name, group).await?.handle(2).await?.len(),
        2,
        "messages within the limit"
    );
    Ok(())
}

async fn a_topic_can_allow_larger_messages(bench: &Bench) -> Verdict {
    let spec = TopicSpec::new(bench.name("large")?).partitions(1).max_message_bytes(3 << 20);
    bench.create(&spec).await?;
    let group = bench.declared(spec.name, "group").await?;
    let payload: Vec<u8> = (0..3_u32 << 20).map(|n| (n % 251) as u8).collect();
    bench.connect().await?.publish_message(spec.name, Message::new(payload.clone())).await?;
    let delivery = bench.join(spec.name, group).await?.next().await?;
    ensure!(delivery.message().payload() == &payload, "a payload of 3 MiB was changed");
    delivery.ack();
    Ok(())
}

async fn bad_names_are_refused_before_anything_is_sent(bench: &Bench) -> Verdict {
    for bad in ["", ".", "..", "with space", "größe", "a/b", "a,b", "line\nbreak", &"x".repeat(201)]
    {
        ensure_kind!(Name::intern(bad), InvalidName, "the name {bad:?}");
    }
    let topic = bench.named(&"t".repeat(200))?;
    let group = GroupSpec::new(Name::intern(&"g".repeat(21))?);
    let broker = bench.broker().await?;
    let subscribed = broker.subscribe(Subscribe::new(topic, group)).await;
    ensure_kind!(
        subscribed,
        InvalidName,
        "a topic of 200 and a group of 21 bytes, names too long together"
    );
    ensure_kind!(broker.declare_group(topic, &group).await, InvalidName, "declaring that group");
    Ok(())
}

async fn bad_headers_are_refused_before_anything_is_sent(bench: &Bench) -> Verdict {
    let topic = bench.topic("headers", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.broker().await?;
    for name in ["", "message-id", "content-type", "x-broker-anything", "x-death", "CC"] {
        let message = Message::new("x").with_header(name, "v");
        let sent = broker.publish_message(topic, message).await;
        ensure_kind!(sent, InvalidName, "a header named {name:?}");
    }
    for message in [
        Message::new("x").with_header("n".repeat(256), "v"),
        Message::new("x").with_header("n", vec![0; 70_000]),
        Message::new("x").with_headers((0..5_000).map(|n| (n.to_string(), "")).collect()),
        Message::new("x").with_id("i".repeat(256).as_str()),
        Message::new("x").with_correlation_id("c".repeat(256)),
        Message::new("x").with_content_type("c".repeat(256)),
    ] {
        let sent = broker.publish_message(topic, message.clone()).await;
        ensure_kind!(
            sent,
            TooLarge,
            "a message of {} bytes and {} headers",
            message.byte_len(),
            message.headers().len()
        );
    }
    broker.publish_message(topic, Message::new("after")).await?;
    ensure_eq!(bench.join(topic, group).await?.handle(1).await?, ["after"], "after bad headers");
    Ok(())
}

async fn an_error_names_operation_and_topic(bench: &Bench) -> Verdict {
    let unknown = bench.name("unknown")?;
    let group = GroupSpec::new(bench.group("group")?);
    let broker = bench.broker().await?;
    for (operation, error) in [
        ("publish", broker.publish_message(unknown, Message::new("x")).await.err()),
        ("subscribe", broker.subscribe(Subscribe::new(unknown, group)).await.err()),
        ("describe_topic", broker.describe_topic(unknown).await.err()),
        ("delete_topic", broker.delete_topic(unknown).await.err()),
        ("declare_group", broker.declare_group(unknown, &group).await.err()),
    ] {
        let error = error.ok_or_else(|| format!("{operation} of an unknown topic succeeded"))?;
        // Joining declares, and declaring may be part of joining.
        let said = error.operation().replace("declare_group", "subscribe");
        let wanted = operation.replace("declare_group", "subscribe");
        ensure_eq!(said, wanted, "the operation of {error}");
        ensure_eq!(error.context("topic"), Some(unknown.as_str()), "the topic of {error}");
        let text = error.to_string();
        ensure!(!text.contains('\n'), "the error is more than a line: {text}");
    }
    Ok(())
}

async fn what_is_not_supported_says_so_in_words(bench: &Bench) -> Verdict {
    let topic = bench.topic("plain", 1).await?;
    let broker = bench.broker().await?;
    let capabilities = broker.capabilities(topic);
    let why = |capability| capabilities.why_not(capability).map(str::to_owned);
    if let Some(why) = why(Capability::Replay) {
        let text =
            ensure_kind!(broker.read(Read::new(topic)).await, Unsupported, "reading").to_string();
        ensure!(!why.is_empty() && text.contains(&why), "the reason ({why}) is not told: {text}");
    }
    if let Some(why) = why(Capability::AddPartitions) {
        let added = broker.add_partitions(topic, 5).await;
        let text = ensure_kind!(added, Unsupported, "adding partitions").to_string();
        ensure!(!why.is_empty() && text.contains(&why), "the reason ({why}) is not told: {text}");
        ensure_eq!(broker.describe_topic(topic).await?.partitions, 1, "partitions afterwards");
    }
    if why(Capability::Compaction).is_some() {
        let spec = TopicSpec::new(bench.name("compacted")?).partitions(1).compacted();
        ensure_kind!(broker.create_topic(&spec).await, Unsupported, "a compacted topic");
        ensure_kind!(
            broker.describe_topic(spec.name).await,
            UnknownTopic,
            "describing it afterwards"
        );
    }
    Ok(())
}

async fn a_subscription_to_nothing_or_of_nothing_is_refused(bench: &Bench) -> Verdict {
    let topic = bench.topic("nothing", 1).await?;
    let group = GroupSpec::new(bench.declared(topic, "group").await?);
    let broker = bench.broker().await?;
    let none = Subscribe { topics: Vec::new(), group, prefetch: 1 };
    ensure_kind!(broker.subscribe(none).await, Invalid, "a subscription to no topic");
    let none = Subscribe { prefetch: 0, ..Subscribe::new(topic, group) };
    ensure_kind!(broker.subscribe(none).await, Invalid, "a subscription that prefetches nothing");
    Ok(())
}

async fn a_time_limit_that_passes_tells_the_truth(bench: &Bench) -> Verdict {
    let topic = bench.topic("late", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.broker().await?;
    broker.publish_message(topic, Message::new("first")).await?;
    let (mut stored, mut not_stored) = (vec!["first".to_owned()], Vec::new());
    for (n, text) in texts("a", 200).into_iter().enumerate() {
        // From no time at all to a few milliseconds: some of them in the middle of everything.
        let limit = Duration::from_micros(20 * n as u64);
        match broker.publish_message(topic, Message::new(text.clone())).timeout(limit).await {
            Ok(_) => stored.push(text),
            Err(error) => {
                ensure_eq!(error.kind(), ErrorKind::Timeout, "after {limit:?} ({error})");
                if !error.is_indeterminate() {
                    not_stored.push(text);
                }
            }
        }
    }
    bench.within("flush", broker.flush()).await?;
    bench.mark(topic, 1).await?;
    let came: Vec<_> = bench.join(topic, group).await?.before_markers(1).await?;
    let came: Vec<_> = came.iter().map(|received| text(&received.message)).collect();
    for text in &stored {
        ensure!(came.contains(text), "{text} was confirmed and did not come");
    }
    for text in &not_stored {
        ensure!(!came.contains(text), "{text} was refused for certain by its time limit, and came");
    }
    let mut once = came.clone();
    once.dedup();
    ensure_eq!(came, once, "nothing is published twice by a time limit");
    Ok(())
}

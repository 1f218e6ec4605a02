//! Values instead of bytes: encoded, validated, keyed.

use broker_api::{ErrorKind, Message, Topic, partition_for_key};
use garde::Validate;
use serde::{Deserialize, Serialize};

use crate::conformance::bench::Bench;
use crate::conformance::case::cases;
use crate::conformance::fault::{Verdict, ensure, ensure_eq, ensure_kind};
use crate::conformance::inbox::text;

cases! { "typed";
    a_value_comes_back_as_it_was,
    a_value_goes_to_the_partition_of_its_key,
    an_invalid_value_is_refused_with_its_path_and_not_published,
    one_invalid_value_of_a_batch_is_told_and_the_rest_is_published,
    a_payload_that_cannot_be_decoded_is_reported_and_the_next_one_comes,
    a_payload_that_is_invalid_is_reported_with_its_path,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate)]
struct Order {
    #[garde(length(min = 1))]
    user: String,
    #[garde(length(max = 3), dive)]
    items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate)]
struct Item {
    #[garde(range(min = 1))]
    count: u32,
    #[garde(skip)]
    note: Option<String>,
}

const ORDERS: Topic<Order> = Topic::new("orders").keyed(|order| &order.user);

fn order(user: &str, count: u32) -> Order {
    let note = Some("grün \u{1f600} \"\\ \0".to_owned());
    Order { user: user.into(), items: vec![Item { count, note }, Item { count: 1, note: None }] }
}

async fn a_value_comes_back_as_it_was(bench: &Bench) -> Verdict {
    let topic = ORDERS.named(bench.topic("orders", 3).await?);
    let group = bench.declared(topic.name(), "group").await?;
    let sent = order("ann", 7);
    bench.broker().await?.publish(topic, &sent).header("h", "1").await?;
    let delivery = bench.join(topic.name(), group).await?.next().await?;
    ensure_eq!(topic.decode(delivery.message())?, sent, "the value");
    ensure_eq!(delivery.message().content_type(), Some("application/json"), "its content type");
    ensure_eq!(delivery.message().headers().get_str("h"), Some("1"), "its header");
    delivery.ack();
    Ok(())
}

async fn a_value_goes_to_the_partition_of_its_key(bench: &Bench) -> Verdict {
    let topic = ORDERS.named(bench.topic("orders", 5).await?);
    let group = bench.declared(topic.name(), "group").await?;
    let broker = bench.broker().await?;
    for user in ["ann", "bob", "eve", "größe"] {
        let receipt = broker.publish(topic, &order(user, 1)).await?;
        ensure_eq!(
            receipt.partition,
            partition_for_key(user.as_bytes(), 5),
            "the partition of {user}"
        );
    }
    let receipt = broker.publish(topic, &order("ann", 1)).key("another").await?;
    ensure_eq!(
        receipt.partition,
        partition_for_key(b"another", 5),
        "the partition of a key set by hand"
    );
    let keys = bench.join(topic.name(), group).await?.take(5).await?;
    ensure!(keys.iter().all(|d| d.message().key().is_some()), "a key is lost");
    Ok(())
}

async fn an_invalid_value_is_refused_with_its_path_and_not_published(bench: &Bench) -> Verdict {
    let topic = ORDERS.named(bench.topic("orders", 1).await?);
    let group = bench.declared(topic.name(), "group").await?;
    let broker = bench.broker().await?;
    let error =
        ensure_kind!(broker.publish(topic, &order("ann", 0)).await, Invalid, "a count of 0");
    let paths: Vec<_> = error.fields().iter().map(|field| field.path.as_str()).collect();
    ensure_eq!(paths, ["items[0].count"], "the paths of {error}");
    ensure!(error.is_permanent(), "that is permanent: {error:?}");
    bench.mark(topic.name(), 1).await?;
    let came = bench.join(topic.name(), group).await?.texts_before_markers(1).await?;
    ensure_eq!(came, Vec::<String>::new(), "an invalid value");
    Ok(())
}

async fn one_invalid_value_of_a_batch_is_told_and_the_rest_is_published(bench: &Bench) -> Verdict {
    let topic = ORDERS.named(bench.topic("orders", 1).await?);
    let group = bench.declared(topic.name(), "group").await?;
    let orders: Vec<_> = (0..20).map(|n| order("ann", if n == 13 { 0 } else { n + 1 })).collect();
    let all = bench.broker().await?;
    let results = bench.within("publishing a batch", all.publish_all(topic, &orders)).await?;
    for (n, result) in results.iter().enumerate() {
        let wanted = (n == 13).then_some(ErrorKind::Invalid);
        ensure_eq!(
            result.as_ref().err().map(|e| e.kind()),
            wanted,
            "the result of value {n} ({result:?})"
        );
    }
    ensure_eq!(results.len(), 20, "results");
    let mut counts = Vec::new();
    let mut inbox = bench.join(topic.name(), group).await?;
    for delivery in inbox.take(19).await? {
        counts.push(topic.decode(delivery.message())?.items[0].count);
        delivery.ack();
    }
    let wanted: Vec<_> = (1..=20).filter(|n| *n != 14).collect();
    ensure_eq!(counts, wanted, "the rest of the batch");
    Ok(())
}

async fn a_payload_that_cannot_be_decoded_is_reported_and_the_next_one_comes(
    bench: &Bench,
) -> Verdict {
    let topic = ORDERS.named(bench.topic("orders", 1).await?);
    let group = bench.declared(topic.name(), "group").await?;
    let broker = bench.broker().await?;
    for bad in ["", "{", "[]", "{\"user\": 1, \"items\": []}", "\u{0}"] {
        broker.publish_message(topic.name(), Message::new(bad)).await?;
    }
    broker.publish(topic, &order("ann", 1)).await?;
    let mut inbox = bench.join(topic.name(), group).await?;
    for delivery in inbox.take(5).await? {
        let payload = text(delivery.message());
        ensure_kind!(topic.decode(delivery.message()), Codec, "decoding {payload:?}");
        delivery.reject();
    }
    let delivery = inbox.next().await?;
    ensure_eq!(topic.decode(delivery.message())?, order("ann", 1), "after five bad ones");
    delivery.ack();
    Ok(())
}

async fn a_payload_that_is_invalid_is_reported_with_its_path(bench: &Bench) -> Verdict {
    let topic = ORDERS.named(bench.topic("orders", 1).await?);
    let group = bench.declared(topic.name(), "group").await?;
    let payload = r#"{"user": "", "items": [{"count": 1}, {"count": 0}]}"#;
    bench.broker().await?.publish_message(topic.name(), Message::new(payload)).await?;
    let delivery = bench.join(topic.name(), group).await?.next().await?;
    let error = ensure_kind!(topic.decode(delivery.message()), Invalid, "an invalid payload");
    let mut paths: Vec<_> = error.fields().iter().map(|field| field.path.as_str()).collect();
    paths.sort_unstable();
    ensure_eq!(paths, ["items[1].count", "user"], "the paths of {error}");
    delivery.reject();
    Ok(())
}

//! An orderly end.

use broker_api::{Connection, GroupSpec, Message, Read, Start, Subscribe, TopicSpec, Until};
use futures_util::future::join_all;

use crate::conformance::bench::Bench;
use crate::conformance::case::cases;
use crate::conformance::fault::{Verdict, ensure, ensure_eq, ensure_kind};
use crate::conformance::inbox::texts;

cases! { "close";
    closing_waits_for_the_confirmations,
    closing_twice_and_at_the_same_time_is_no_error,
    a_closed_connection_refuses_everything_as_closed,
    closing_a_connection_ends_its_subscriptions,
    closing_one_connection_leaves_the_others_alone,
    dropping_a_connection_without_closing_loses_nothing_confirmed,
    waiting_for_a_message_can_be_cancelled_at_any_time,
}

async fn closing_waits_for_the_confirmations(bench: &Bench) -> Verdict {
    let topic = bench.topic("close", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.connect().await?;
    let mut confirmations = Vec::new();
    for text in texts("a", 500) {
        confirmations.push(broker.publish_message(topic, Message::new(text)).enqueue().await?);
    }
    bench.within("closing", broker.close()).await??;
    for confirmation in confirmations {
        bench.within("a confirmation", confirmation).await??;
    }
    let came = bench.join(topic, group).await?.handle(500).await?;
    ensure_eq!(came, texts("a", 500), "enqueued before the connection was closed");
    Ok(())
}

async fn closing_twice_and_at_the_same_time_is_no_error(bench: &Bench) -> Verdict {
    let topic = bench.topic("close", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.connect().await?;
    let _inbox = bench.join_at(&broker, topic, group, 10).await?;
    let closing = join_all((0..5).map(|_| broker.close()));
    for closed in bench.within("closing five times at once", closing).await? {
        closed?;
    }
    bench.within("closing once more", broker.close()).await??;
    Ok(())
}

async fn a_closed_connection_refuses_everything_as_closed(bench: &Bench) -> Verdict {
    let topic = bench.topic("close", 1).await?;
    let group = GroupSpec::new(bench.declared(topic, "group").await?);
    let broker = bench.connect().await?;
    broker.publish_message(topic, Message::new("before")).await?;
    broker.close().await?;
    let sent = broker.publish_message(topic, Message::new("after")).await;
    let error = ensure_kind!(sent, Closed, "publishing");
    ensure!(!error.is_indeterminate(), "nothing was published: {error:?}");
    let subscribe = Subscribe { topics: vec![topic], group, prefetch: 1 };
    ensure_kind!(broker.subscribe(subscribe).await, Closed, "subscribing");
    let read = Read { topic, partitions: None, start: Start::Earliest, until: Until::CaughtUp };
    ensure_kind!(broker.read(read).await, Closed, "reading");
    let spec = TopicSpec::new(bench.name("other")?);
    ensure_kind!(broker.create_topic(&spec).await, Closed, "creating a topic");
    ensure_kind!(broker.describe_topic(topic).await, Closed, "describing a topic");
    ensure_kind!(broker.declare_group(topic, &group).await, Closed, "declaring a group");
    ensure_kind!(broker.delete_topic(topic).await, Closed, "deleting a topic");
    ensure_eq!(broker.health().connection, Connection::Closed, "the health");
    ensure!(!broker.health().is_up(), "a closed connection is not up");
    Ok(())
}

async fn closing_a_connection_ends_its_subscriptions(bench: &Bench) -> Verdict {
    let topic = bench.topic("close", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.connect().await?;
    let mut waiting = bench.join_at(&broker, topic, group, 10).await?;
    let (ended, closed) = tokio::join!(waiting.end(), broker.close());
    closed?;
    ended
}

async fn closing_one_connection_leaves_the_others_alone(bench: &Bench) -> Verdict {
    let topic = bench.topic("close", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let mut inbox = bench.join(topic, group).await?;
    let other = bench.connect().await?;
    other.publish_message(topic, Message::new("a")).await?;
    other.close().await?;
    bench.publish(topic, 0, ["b"]).await?;
    ensure_eq!(inbox.handle(2).await?, ["a", "b"], "published before and after another was closed");
    ensure!(bench.broker().await?.health().is_up(), "the other connection is not up any more");
    Ok(())
}

async fn dropping_a_connection_without_closing_loses_nothing_confirmed(bench: &Bench) -> Verdict {
    let topic = bench.topic("close", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.connect().await?;
    let inbox = bench.join_at(&broker, topic, group, 10).await?;
    let mut confirmed = Vec::new();
    for text in texts("a", 50) {
        broker.publish_message(topic, Message::new(text.clone())).await?;
        confirmed.push(text);
    }
    drop((inbox, broker));
    let came = bench.join(topic, group).await?.handle(50).await?;
    ensure_eq!(came, confirmed, "confirmed before the connection was dropped");
    Ok(())
}

async fn waiting_for_a_message_can_be_cancelled_at_any_time(bench: &Bench) -> Verdict {
    let topic = bench.topic("close", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let mut inbox = bench.join(topic, group).await?;
    let publisher = bench.connect().await?;
    let wanted = texts("a", 300);
    let publish = async {
        for text in &wanted {
            publisher.publish_message(topic, Message::new(text.clone())).await?;
        }
        Ok(())
    };
    let consume = async {
        let mut came = Vec::new();
        while came.len() < wanted.len() {
            // Polled once and dropped, over and over: at every point where a message may just come.
            match inbox.try_next()? {
                Some(delivery) => {
                    came.push(crate::conformance::inbox::text(delivery.message()));
                    delivery.ack();
                }
                None => tokio::task::yield_now().await,
            }
        }
        ensure_eq!(came, wanted, "received by waits that were cancelled");
        Ok(())
    };
    let (published, consumed): (Verdict, Verdict) =
        bench.within("all messages", async { tokio::join!(publish, consume) }).await?;
    published.and(consumed)
}

//! What health says is how it is.

use broker_api::{Broker, Connection};

use crate::conformance::bench::Bench;
use crate::conformance::case::cases;
use crate::conformance::fault::{Verdict, ensure, ensure_eq};

cases! { "health";
    a_connection_that_works_is_up,
    a_closed_connection_is_closed_and_not_up,
    every_consumer_is_listed_until_it_leaves,
    a_consumer_of_a_deleted_topic_is_not_healthy,
    every_connection_has_a_health_of_its_own,
}

async fn a_connection_that_works_is_up(bench: &Bench) -> Verdict {
    let topic = bench.topic("health", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, ["a"]).await?;
    bench.join(topic, group).await?.handle(1).await?;
    let health = bench.broker().await?.health();
    ensure!(health.is_up(), "after publishing and consuming: {health:?}");
    Ok(())
}

async fn a_closed_connection_is_closed_and_not_up(bench: &Bench) -> Verdict {
    let broker = bench.connect().await?;
    broker.close().await?;
    let health = broker.health();
    ensure_eq!(health.connection, Connection::Closed, "a closed connection");
    ensure!(!health.is_up(), "a closed connection is not up: {health:?}");
    Ok(())
}

/// Waits until the health has so many consumers and is up.
async fn until_up_with(bench: &Bench, broker: &Broker, consumers: usize) -> Verdict {
    bench
        .until(&format!("health that is up with {consumers} consumers"), || {
            let health = broker.health();
            match health.is_up() && health.consumers.len() == consumers {
                true => Ok(()),
                false => Err(format!("{health:?}")),
            }
        })
        .await
}

async fn every_consumer_is_listed_until_it_leaves(bench: &Bench) -> Verdict {
    let topic = bench.topic("health", 2).await?;
    let (one, two) = (bench.declared(topic, "one").await?, bench.declared(topic, "two").await?);
    let broker = bench.connect().await?;
    until_up_with(bench, &broker, 0).await?;
    let first = bench.join_at(&broker, topic, one, 10).await?;
    let second = bench.join_at(&broker, topic, two, 10).await?;
    until_up_with(bench, &broker, 2).await?;
    let mut groups: Vec<_> = broker.health().consumers.iter().map(|c| (c.topic, c.group)).collect();
    groups.sort();
    let mut wanted = vec![(topic, one), (topic, two)];
    wanted.sort();
    ensure_eq!(groups, wanted, "topics and groups of the consumers");
    first.close().await?;
    until_up_with(bench, &broker, 1).await?;
    drop(second);
    until_up_with(bench, &broker, 0).await
}

async fn a_consumer_of_a_deleted_topic_is_not_healthy(bench: &Bench) -> Verdict {
    let topic = bench.topic("health", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.connect().await?;
    let inbox = bench.join_at(&broker, topic, group, 10).await?;
    until_up_with(bench, &broker, 1).await?;
    bench.broker().await?.delete_topic(topic).await?;
    bench
        .until("health that shows the loss of a consumer's topic", || {
            let health = broker.health();
            match health.is_up() {
                true => Err(format!("{health:?}")),
                false => Ok(()),
            }
        })
        .await?;
    drop(inbox);
    until_up_with(bench, &broker, 0).await
}

async fn every_connection_has_a_health_of_its_own(bench: &Bench) -> Verdict {
    let topic = bench.topic("health", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let (one, two) = (bench.connect().await?, bench.connect().await?);
    let inbox = bench.join_at(&one, topic, group, 10).await?;
    until_up_with(bench, &one, 1).await?;
    until_up_with(bench, &two, 0).await?;
    drop(inbox);
    one.close().await?;
    until_up_with(bench, &two, 0).await
}

//! How far a group is behind.

use std::time::Duration;

use broker_api::{ErrorKind, Name};
use tokio::time::sleep;

use crate::conformance::bench::Bench;
use crate::conformance::case::cases;
use crate::conformance::fault::{Verdict, ensure_eq};

cases! { "lag";
    the_lag_of_a_group_is_what_it_has_not_settled [Lag],
    a_group_that_does_not_exist_has_no_lag [Lag],
}

/// Brokers count in the background, so it may take a moment.
async fn until_lag(bench: &Bench, topic: Name, group: Name, wanted: u64) -> Verdict {
    let broker = bench.broker().await?;
    let counted = async {
        while broker.lag(topic, group).await? != wanted {
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    bench.within(&format!("a lag of {wanted}"), counted).await?
}

async fn the_lag_of_a_group_is_what_it_has_not_settled(bench: &Bench) -> Verdict {
    let topic = bench.topic("lag", 2).await?;
    let (one, two) = (bench.declared(topic, "one").await?, bench.declared(topic, "two").await?);
    until_lag(bench, topic, one, 0).await?;
    bench.publish(topic, 0, ["a", "b", "c"]).await?;
    bench.publish(topic, 1, ["d", "e"]).await?;
    until_lag(bench, topic, one, 5).await?;
    let mut inbox = bench.join(topic, one).await?;
    let mut taken = inbox.take(5).await?;
    for text in [b"a", b"b", b"d"] {
        let place = taken.iter().position(|delivery| delivery.message().payload().as_ref() == text);
        if let Some(place) = place {
            taken.swap_remove(place).ack();
        }
    }
    drop(taken);
    inbox.close().await?;
    until_lag(bench, topic, one, 2).await?;
    until_lag(bench, topic, two, 5).await
}

async fn a_group_that_does_not_exist_has_no_lag(bench: &Bench) -> Verdict {
    let topic = bench.topic("lag", 1).await?;
    bench.declared(topic, "other").await?;
    bench.publish(topic, 0, ["a"]).await?;
    let broker = bench.broker().await?;
    ensure_eq!(broker.lag(topic, bench.group("group")?).await?, 0, "the lag of no group");
    let unknown = broker.lag(bench.name("unknown")?, bench.group("group")?).await;
    let kind = unknown.err().map(|error| error.kind());
    ensure_eq!(kind, Some(ErrorKind::UnknownTopic), "the lag in a topic that is not there");
    Ok(())
}

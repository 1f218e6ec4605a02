//! Where a new group begins.

use std::time::{Duration, SystemTime};

use broker_api::{ErrorKind, GroupSpec, Message, Name, Start, Subscribe};

use crate::conformance::bench::{Bench, an_hour_ago};
use crate::conformance::case::cases;
use crate::conformance::fault::{Fault, Verdict, ensure, ensure_eq};
use crate::conformance::inbox::{Inbox, sorted, texts};

cases! { "start";
    a_group_that_begins_with_the_latest_gets_only_what_comes_after,
    joining_with_the_latest_misses_nothing_after_it_returned,
    a_message_without_any_group_is_kept_or_refused,
    a_new_group_begins_with_the_oldest_message [StartPosition],
    a_new_group_begins_at_a_time [StartPosition],
    a_new_group_begins_at_an_offset [StartPosition, Offsets],
    a_new_group_that_begins_in_the_future_gets_only_what_comes_after [StartPosition],
    a_declared_start_holds_for_whoever_joins_first [StartPosition],
}

async fn join_from(bench: &Bench, topic: Name, start: Start) -> Result<Inbox, Fault> {
    let group = GroupSpec { start, ..GroupSpec::new(bench.group("group")?) };
    bench.subscribe(&bench.broker().await?, Subscribe::new(topic, group)).await
}

/// Publishes `count` texts to partition 0 with timestamps a minute apart, beginning an hour ago.
async fn aged(bench: &Bench, topic: Name, count: u32) -> Result<Vec<SystemTime>, Fault> {
    let mut times = Vec::new();
    for (n, text) in texts("a", count as usize).into_iter().enumerate() {
        let time = an_hour_ago() + Duration::from_secs(60 * n as u64);
        let message = Message::new(text).with_timestamp(time);
        times.push(message.timestamp().ok_or("it was just set")?);
        bench.broker().await?.publish_message(topic, message).partition(0).await?;
    }
    Ok(times)
}

async fn a_group_that_begins_with_the_latest_gets_only_what_comes_after(bench: &Bench) -> Verdict {
    let topic = bench.topic("start", 2).await?;
    bench.declared(topic, "other").await?;
    for partition in 0..2 {
        bench.publish(topic, partition, texts("old", 5)).await?;
    }
    let group = GroupSpec { start: Start::Latest, ..GroupSpec::new(bench.group("late")?) };
    bench.broker().await?.declare_group(topic, &group).await?;
    for partition in 0..2 {
        bench.publish(topic, partition, [format!("new-{partition}")]).await?;
    }
    bench.mark(topic, 2).await?;
    let came = bench.join(topic, group.name).await?.texts_before_markers(2).await?;
    ensure_eq!(sorted(came), ["new-0", "new-1"], "what a group got that begins with the latest");
    Ok(())
}

async fn joining_with_the_latest_misses_nothing_after_it_returned(bench: &Bench) -> Verdict {
    let topic = bench.topic("start", 3).await?;
    bench.declared(topic, "other").await?;
    bench.publish(topic, 0, texts("old", 5)).await?;
    let mut inbox = join_from(bench, topic, Start::Latest).await?;
    for partition in 0..3 {
        bench.publish(topic, partition, [format!("new-{partition}")]).await?;
    }
    bench.mark(topic, 3).await?;
    let came = inbox.texts_before_markers(3).await?;
    ensure_eq!(sorted(came), ["new-0", "new-1", "new-2"], "published after joining had returned");
    Ok(())
}

async fn a_message_without_any_group_is_kept_or_refused(bench: &Bench) -> Verdict {
    let topic = bench.topic("start", 1).await?;
    let broker = bench.broker().await?;
    let keeps = broker.capabilities(topic).supports(broker_api::Capability::StartPosition);
    match broker.publish_message(topic, Message::new("a")).await {
        Ok(_) => {
            ensure!(
                keeps,
                "confirmed without a group, although messages without a group are not kept"
            );
            let came = join_from(bench, topic, Start::Earliest).await?.handle(1).await?;
            ensure_eq!(came, ["a"], "confirmed without a group");
        }
        Err(error) => {
            ensure_eq!(error.kind(), ErrorKind::Unroutable, "refused without a group ({error})");
            ensure!(!keeps, "refused without a group, although such messages are kept: {error}");
            ensure!(!error.is_indeterminate(), "it is certain that nobody gets it: {error:?}");
        }
    }
    Ok(())
}

async fn a_new_group_begins_with_the_oldest_message(bench: &Bench) -> Verdict {
    let topic = bench.topic("start", 2).await?;
    bench.publish(topic, 0, &texts("a", 10)[..5]).await?;
    bench.publish(topic, 1, &texts("a", 10)[5..]).await?;
    let came = join_from(bench, topic, Start::Earliest).await?.handle(10).await?;
    ensure_eq!(sorted(came), texts("a", 10), "published before there was a group");
    Ok(())
}

async fn a_new_group_begins_at_a_time(bench: &Bench) -> Verdict {
    let topic = bench.topic("start", 1).await?;
    let times = aged(bench, topic, 10).await?;
    let mut inbox = join_from(bench, topic, Start::Time(times[6])).await?;
    ensure_eq!(inbox.handle(4).await?, texts("a", 10)[6..], "from the timestamp of the seventh");
    let between = times[6] + Duration::from_secs(1);
    let mut inbox = join_from(bench, topic, Start::Time(between)).await?;
    ensure_eq!(inbox.handle(3).await?, texts("a", 10)[7..], "from a second after the seventh");
    Ok(())
}

async fn a_new_group_begins_at_an_offset(bench: &Bench) -> Verdict {
    let topic = bench.topic("start", 1).await?;
    let broker = bench.broker().await?;
    let mut offsets = Vec::new();
    for text in texts("a", 10) {
        let receipt = broker.publish_message(topic, Message::new(text)).await?;
        offsets.push(receipt.offset.ok_or("the receipt has no offset")?);
    }
    let mut inbox = join_from(bench, topic, Start::Offset(offsets[3])).await?;
    ensure_eq!(inbox.handle(7).await?, texts("a", 10)[3..], "from the offset of the fourth");
    Ok(())
}

async fn a_new_group_that_begins_in_the_future_gets_only_what_comes_after(
    bench: &Bench,
) -> Verdict {
    let topic = bench.topic("start", 1).await?;
    bench.publish(topic, 0, texts("old", 3)).await?;
    let future = SystemTime::now() + Duration::from_secs(24 * 3600);
    let mut inbox = join_from(bench, topic, Start::Time(future)).await?;
    bench.mark(topic, 1).await?;
    let came = inbox.texts_before_markers(1).await?;
    ensure_eq!(came, Vec::<String>::new(), "older than the start");
    Ok(())
}

async fn a_declared_start_holds_for_whoever_joins_first(bench: &Bench) -> Verdict {
    let topic = bench.topic("start", 1).await?;
    let times = aged(bench, topic, 10).await?;
    let group = GroupSpec { start: Start::Time(times[8]), ..GroupSpec::new(bench.group("group")?) };
    bench.broker().await?.declare_group(topic, &group).await?;
    bench.publish(topic, 0, ["new"]).await?;
    let came = bench.join(topic, group.name).await?.handle(3).await?;
    ensure_eq!(
        came,
        ["a-0008", "a-0009", "new"],
        "declared from the ninth on, joined from the oldest"
    );
    Ok(())
}

//! Reading a topic again, without a group.

use std::time::Duration;

use broker_api::{Delivery, Message, Name, Read, Start, Until};

use crate::conformance::bench::{Bench, an_hour_ago};
use crate::conformance::case::cases;
use crate::conformance::fault::{Verdict, ensure, ensure_eq};
use crate::conformance::inbox::{by_partition, sorted, text, texts};

cases! { "replay";
    a_reading_gives_every_message_in_order_and_ends [Replay],
    a_topic_can_be_read_again_and_again [Replay],
    an_empty_topic_is_read_to_its_end_at_once [Replay],
    what_is_published_after_the_reading_began_is_not_part_of_it [Replay],
    a_reading_that_follows_goes_on_with_what_is_published [Replay],
    a_reading_from_the_latest_begins_with_what_comes_after [Replay],
    a_reading_of_some_partitions_gives_only_those [Replay],
    a_reading_begins_at_a_time [Replay],
    a_reading_begins_at_an_offset [Replay, Offsets],
    a_reading_from_beyond_the_end_ends_at_once [Replay, Offsets],
    a_reading_leaves_groups_alone [Replay],
    a_reading_gives_what_groups_have_settled [Replay],
    settling_in_a_reading_has_no_effect [Replay],
    a_reading_does_not_wait_for_anything_to_be_settled [Replay],
    a_replayed_message_is_the_same_message [Replay],
    a_reading_can_be_given_up_at_any_time [Replay],
}

/// A topic of two partitions with ten texts in each, and a group so that every broker takes them.
async fn filled(bench: &Bench) -> Result<Name, crate::conformance::fault::Fault> {
    let topic = bench.topic("replay", 2).await?;
    bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("a", 10)).await?;
    bench.publish(topic, 1, texts("b", 10)).await?;
    Ok(topic)
}

async fn whole(bench: &Bench, topic: Name) -> Verdict {
    let all = bench.read(Read::new(topic)).await?.rest().await?;
    let partitions = by_partition(&all);
    ensure_eq!(partitions.get(&0), Some(&texts("a", 10)), "what was read of partition 0");
    ensure_eq!(partitions.get(&1), Some(&texts("b", 10)), "what was read of partition 1");
    ensure!(all.iter().all(|r| r.topic == topic), "a reading gave another topic's message");
    Ok(())
}

async fn a_reading_gives_every_message_in_order_and_ends(bench: &Bench) -> Verdict {
    let topic = filled(bench).await?;
    whole(bench, topic).await
}

async fn a_topic_can_be_read_again_and_again(bench: &Bench) -> Verdict {
    let topic = filled(bench).await?;
    for _ in 0..3 {
        whole(bench, topic).await?;
    }
    Ok(())
}

async fn an_empty_topic_is_read_to_its_end_at_once(bench: &Bench) -> Verdict {
    let topic = bench.topic("replay", 3).await?;
    bench.read(Read::new(topic)).await?.end().await
}

async fn what_is_published_after_the_reading_began_is_not_part_of_it(bench: &Bench) -> Verdict {
    let topic = filled(bench).await?;
    let mut reading = bench.read(Read::new(topic)).await?;
    bench.publish(topic, 0, ["later"]).await?;
    let read = reading.rest().await?;
    let came = sorted(read.iter().map(|received| text(&received.message)));
    ensure_eq!(
        came,
        [texts("a", 10), texts("b", 10)].concat(),
        "read, with one published meanwhile"
    );
    Ok(())
}

async fn a_reading_that_follows_goes_on_with_what_is_published(bench: &Bench) -> Verdict {
    let topic = filled(bench).await?;
    let read = Read { until: Until::Followed, ..Read::new(topic) };
    let mut reading = bench.read(read).await?;
    ensure_eq!(reading.handle(20).await?.len(), 20, "what was there");
    for round in ["c", "d"] {
        bench.publish(topic, 1, texts(round, 5)).await?;
        ensure_eq!(
            reading.handle(5).await?,
            texts(round, 5),
            "published while the reading follows"
        );
    }
    Ok(())
}

async fn a_reading_from_the_latest_begins_with_what_comes_after(bench: &Bench) -> Verdict {
    let topic = filled(bench).await?;
    let read = Read { start: Start::Latest, ..Read::new(topic) };
    bench.read(read.clone()).await?.end().await?;
    let mut following = bench.read(Read { until: Until::Followed, ..read }).await?;
    bench.publish(topic, 0, ["new"]).await?;
    ensure_eq!(following.handle(1).await?, ["new"], "the first of a reading from the latest");
    Ok(())
}

async fn a_reading_of_some_partitions_gives_only_those(bench: &Bench) -> Verdict {
    let topic = bench.topic("replay", 4).await?;
    bench.declared(topic, "group").await?;
    for partition in 0..4 {
        bench.publish(topic, partition, [partition.to_string()]).await?;
    }
    let read = Read { partitions: Some(vec![3, 1]), ..Read::new(topic) };
    let all = bench.read(read).await?.rest().await?;
    ensure_eq!(sorted(all.iter().map(|r| text(&r.message))), ["1", "3"], "partitions 1 and 3 of 4");
    Ok(())
}

async fn a_reading_begins_at_a_time(bench: &Bench) -> Verdict {
    let topic = bench.topic("replay", 1).await?;
    bench.declared(topic, "group").await?;
    let broker = bench.broker().await?;
    let begin = an_hour_ago();
    for (n, text) in texts("a", 10).into_iter().enumerate() {
        let time = begin + Duration::from_secs(60 * n as u64);
        broker.publish_message(topic, Message::new(text).with_timestamp(time)).await?;
    }
    let read = Read { start: Start::Time(begin + Duration::from_secs(290)), ..Read::new(topic) };
    let all = bench.read(read).await?.rest().await?;
    let came: Vec<_> = all.iter().map(|r| text(&r.message)).collect();
    ensure_eq!(came, texts("a", 10)[5..], "from ten seconds before the sixth");
    Ok(())
}

async fn a_reading_begins_at_an_offset(bench: &Bench) -> Verdict {
    let topic = filled(bench).await?;
    let all = bench.read(Read::new(topic)).await?.rest().await?;
    let seventh = all.iter().find(|r| text(&r.message) == "a-0006").and_then(|r| r.offset);
    let start = Start::Offset(seventh.ok_or("a delivery of a reading has no offset")?);
    let read = Read { start, partitions: Some(vec![0]), ..Read::new(topic) };
    let all = bench.read(read).await?.rest().await?;
    let came: Vec<_> = all.iter().map(|r| text(&r.message)).collect();
    ensure_eq!(came, texts("a", 10)[6..], "from the offset of the seventh");
    Ok(())
}

async fn a_reading_from_beyond_the_end_ends_at_once(bench: &Bench) -> Verdict {
    let topic = filled(bench).await?;
    let read = Read { start: Start::Offset(1_000_000), ..Read::new(topic) };
    bench.read(read).await?.end().await
}

async fn a_reading_leaves_groups_alone(bench: &Bench) -> Verdict {
    let topic = bench.topic("replay", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("a", 10)).await?;
    let broker = bench.broker().await?;
    let mut inbox = bench.join_at(&broker, topic, group, 1).await?;
    ensure_eq!(inbox.handle(4).await?, texts("a", 10)[..4], "before the reading");
    ensure_eq!(bench.read(Read::new(topic)).await?.rest().await?.len(), 10, "all is read");
    ensure_eq!(inbox.handle(2).await?, texts("a", 10)[4..6], "after a reading, by the same member");
    inbox.close().await?;
    ensure_eq!(bench.read(Read::new(topic)).await?.rest().await?.len(), 10, "all is read");
    bench.mark(topic, 1).await?;
    let rest = bench.join(topic, group).await?.texts_before_markers(1).await?;
    ensure_eq!(rest, texts("a", 10)[6..], "after a reading, by the next member");
    Ok(())
}

async fn a_reading_gives_what_groups_have_settled(bench: &Bench) -> Verdict {
    let topic = bench.topic("replay", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("a", 10)).await?;
    let mut inbox = bench.join(topic, group).await?;
    inbox.take(5).await?.into_iter().for_each(Delivery::reject);
    inbox.handle(5).await?;
    inbox.close().await?;
    let all = bench.read(Read::new(topic)).await?.rest().await?;
    let came: Vec<_> = all.iter().map(|r| text(&r.message)).collect();
    ensure_eq!(came, texts("a", 10), "rejected and acknowledged by the only group");
    Ok(())
}

async fn settling_in_a_reading_has_no_effect(bench: &Bench) -> Verdict {
    let topic = filled(bench).await?;
    let mut reading = bench.read(Read::new(topic)).await?;
    for (n, delivery) in reading.take(20).await?.into_iter().enumerate() {
        match n % 4 {
            0 => delivery.ack(),
            1 => delivery.reject(),
            2 => delivery.requeue(),
            _ => drop(delivery),
        }
    }
    reading.end().await?;
    whole(bench, topic).await
}

async fn a_reading_does_not_wait_for_anything_to_be_settled(bench: &Bench) -> Verdict {
    let topic = bench.topic("replay", 1).await?;
    bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("a", 2_000)).await?;
    let mut reading = bench.read(Read::new(topic)).await?;
    let held = reading.take(2_000).await?;
    reading.end().await?;
    ensure_eq!(held.len(), 2_000, "held");
    Ok(())
}

async fn a_replayed_message_is_the_same_message(bench: &Bench) -> Verdict {
    let topic = bench.topic("replay", 3).await?;
    let group = bench.declared(topic, "group").await?;
    let message = Message::new((0..=255).collect::<Vec<u8>>())
        .with_key("key")
        .with_id("an id")
        .with_timestamp(an_hour_ago())
        .with_content_type("text/plain")
        .with_correlation_id("c")
        .with_header("größe", "1")
        .with_header("h", broker_api::HeaderValue::Null)
        .with_header("größe", "");
    bench.broker().await?.publish_message(topic, message.clone()).await?;
    let mut inbox = bench.join(topic, group).await?;
    let consumed = inbox.next().await?;
    let all = bench.read(Read::new(topic)).await?.rest().await?;
    let replayed = all.first().ok_or("nothing was read")?;
    ensure_eq!(replayed.message, message, "the message that was read");
    let (is, was) = (replayed, consumed.received());
    ensure_eq!((is.topic, is.partition), (was.topic, was.partition), "topic and partition");
    // A broker without offsets may still have places in what it replays.
    if was.offset.is_some() {
        ensure_eq!(is.offset, was.offset, "the offset");
    }
    consumed.ack();
    Ok(())
}

async fn a_reading_can_be_given_up_at_any_time(bench: &Bench) -> Verdict {
    let topic = filled(bench).await?;
    drop(bench.read(Read::new(topic)).await?);
    let mut reading = bench.read(Read::new(topic)).await?;
    let held = reading.take(3).await?;
    drop(reading);
    drop(held);
    let mut reading = bench.read(Read { until: Until::Followed, ..Read::new(topic) }).await?;
    reading.handle(3).await?;
    reading.close().await?;
    whole(bench, topic).await
}

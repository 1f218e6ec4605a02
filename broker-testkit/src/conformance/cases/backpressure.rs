//! What is in flight is bounded, and who is slow holds up nobody else.

use std::sync::Arc;

use broker_api::{Broker, GroupSpec, Message, Settings, Subscribe};

use crate::conformance::bench::Bench;
use crate::conformance::case::cases;
use crate::conformance::fault::{Verdict, ensure, ensure_eq};
use crate::conformance::gauge::Gauge;
use crate::conformance::inbox::{sorted, text, texts};

cases! { "backpressure";
    prefetch_bounds_what_is_handed_out,
    prefetch_bounds_all_partitions_and_topics_together,
    settling_makes_room_for_as_many,
    what_is_published_and_not_confirmed_is_bounded,
    a_message_larger_than_the_buffer_still_passes,
    a_consumer_that_stands_still_does_not_stop_another_group,
    a_consumer_that_stands_still_does_not_stop_another_topic,
    a_consumer_that_stands_still_does_not_stop_publishing,
    a_backlog_is_worked_off_in_small_steps,
}

async fn prefetch_bounds_what_is_handed_out(bench: &Bench) -> Verdict {
    let topic = bench.topic("bound", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let witness = bench.declared(topic, "witness").await?;
    let broker = bench.broker().await?;
    let mut inbox = bench.join_at(&broker, topic, group, 5).await?;
    let mut other = bench.join_at(&broker, topic, witness, 100).await?;
    bench.publish(topic, 0, texts("a", 20)).await?;
    let mut held = inbox.take(5).await?;
    // By the time that another group has everything, a sixth had every opportunity to come.
    other.handle(20).await?;
    let sixth = inbox.try_next()?.map(|delivery| text(delivery.message()));
    ensure_eq!(sixth, None, "handed out beyond a prefetch of 5");

    held.remove(0).ack();
    held.push(inbox.next().await?);
    bench.publish(topic, 0, ["more"]).await?;
    other.handle(1).await?;
    let seventh = inbox.try_next()?.map(|delivery| text(delivery.message()));
    ensure_eq!(
        seventh,
        None,
        "handed out beyond a prefetch of 5, after one was settled and one more came"
    );
    Ok(())
}

async fn prefetch_bounds_all_partitions_and_topics_together(bench: &Bench) -> Verdict {
    let topics = [bench.topic("one", 3).await?, bench.topic("two", 3).await?];
    let (group, witness) =
        (GroupSpec::new(bench.group("group")?), GroupSpec::new(bench.group("witness")?));
    let broker = bench.broker().await?;
    let subscribe = |group, prefetch| Subscribe { topics: topics.to_vec(), group, prefetch };
    let mut inbox = bench.subscribe(&broker, subscribe(group, 4)).await?;
    let mut other = bench.subscribe(&broker, subscribe(witness, 100)).await?;
    for topic in topics {
        for partition in 0..3 {
            bench.publish(topic, partition, texts(&partition.to_string(), 3)).await?;
        }
    }
    let held = inbox.take(4).await?;
    other.handle(18).await?;
    let fifth = inbox.try_next()?.map(|delivery| text(delivery.message()));
    ensure_eq!(fifth, None, "handed out beyond a prefetch of 4, over six partitions of two topics");
    drop(held);
    ensure_eq!(inbox.handle(18).await?.len(), 18, "everything in the end");
    Ok(())
}

async fn settling_makes_room_for_as_many(bench: &Bench) -> Verdict {
    let topic = bench.topic("bound", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish(topic, 0, texts("a", 30)).await?;
    let mut inbox = bench.join_at(&bench.broker().await?, topic, group, 3).await?;
    let mut came = Vec::new();
    for round in 0..10 {
        for (n, delivery) in inbox.take(3).await?.into_iter().enumerate() {
            came.push(text(delivery.message()));
            match (round + n) % 2 {
                0 => delivery.ack(),
                _ => delivery.reject(),
            }
        }
    }
    ensure_eq!(came, texts("a", 30), "in rounds of three");
    Ok(())
}

async fn what_is_published_and_not_confirmed_is_bounded(bench: &Bench) -> Verdict {
    const BUFFER: usize = 64 * 1024;
    let topic = bench.topic("bound", 3).await?;
    let group = bench.declared(topic, "group").await?;
    let (gauge, level) = Gauge::around(bench.backend().await?);
    let settings = Settings { publish_buffer_bytes: BUFFER, ..Settings::default() };
    let broker = Broker::with_settings(Arc::new(gauge), settings);
    let mut tasks = Vec::new();
    for task in 0..4 {
        let broker = broker.clone();
        tasks.push(tokio::spawn(async move {
            let mut confirmations = Vec::new();
            for n in 0..100 {
                let mut payload = format!("{task}-{n:04}").into_bytes();
                payload.resize(4_000, b'.');
                let message = Message::new(payload).with_key(task.to_string());
                confirmations.push(broker.publish_message(topic, message).enqueue().await?);
            }
            for confirmation in confirmations {
                confirmation.await?;
            }
            Verdict::Ok(())
        }));
    }
    for task in tasks {
        bench.within("publishing with a small buffer", task).await???;
    }
    ensure!(
        level.most() <= BUFFER,
        "{} bytes were in flight, the buffer has {BUFFER}",
        level.most()
    );
    ensure_eq!(level.now(), 0, "bytes in flight when everything is confirmed");
    let came = bench.join(topic, group).await?.handle(400).await?;
    let came = came.into_iter().map(|text| text.trim_end_matches('.').to_owned());
    let wanted = (0..4).flat_map(|task| (0..100).map(move |n| format!("{task}-{n:04}")));
    ensure_eq!(sorted(came), sorted(wanted), "published with a small buffer");
    Ok(())
}

async fn a_message_larger_than_the_buffer_still_passes(bench: &Bench) -> Verdict {
    let topic = bench.topic("bound", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let settings = Settings { publish_buffer_bytes: 1_000, ..Settings::default() };
    let broker = bench.connect_with(settings).await?;
    for size in [5_000, 100, 20_000] {
        broker.publish_message(topic, Message::new(vec![b'x'; size])).await?;
    }
    let sizes: Vec<_> =
        bench.join(topic, group).await?.handle(3).await?.iter().map(String::len).collect();
    ensure_eq!(sizes, [5_000, 100, 20_000], "sizes, through a buffer of 1000 bytes");
    Ok(())
}

async fn a_consumer_that_stands_still_does_not_stop_another_group(bench: &Bench) -> Verdict {
    let topic = bench.topic("still", 2).await?;
    let (one, two) = (bench.declared(topic, "still").await?, bench.declared(topic, "busy").await?);
    let broker = bench.broker().await?;
    let mut still = bench.join_at(&broker, topic, one, 2).await?;
    let mut never_asked =
        bench.join_at(&broker, topic, bench.declared(topic, "mute").await?, 10).await?;
    let mut busy = bench.join_at(&broker, topic, two, 10).await?;
    bench.publish(topic, 0, texts("a", 300)).await?;
    let held = still.take(2).await?;
    ensure_eq!(busy.handle(300).await?, texts("a", 300), "beside a group that stands still");
    drop(held);
    ensure_eq!(still.handle(300).await?, texts("a", 300), "when it goes on");
    ensure_eq!(
        never_asked.handle(300).await?,
        texts("a", 300),
        "of one that was not asked for long"
    );
    Ok(())
}

async fn a_consumer_that_stands_still_does_not_stop_another_topic(bench: &Bench) -> Verdict {
    let (one, two) = (bench.topic("still", 1).await?, bench.topic("busy", 1).await?);
    let group = bench.declared(one, "group").await?;
    let other = bench.declared(two, "other").await?;
    let broker = bench.broker().await?;
    let mut still = bench.join_at(&broker, one, group, 1).await?;
    let mut busy = bench.join_at(&broker, two, other, 10).await?;
    bench.publish(one, 0, texts("a", 100)).await?;
    bench.publish(two, 0, texts("b", 100)).await?;
    let held = still.next().await?;
    ensure_eq!(busy.handle(100).await?, texts("b", 100), "of another topic on the same connection");
    held.ack();
    ensure_eq!(still.handle(99).await?, texts("a", 100)[1..], "when it goes on");
    Ok(())
}

async fn a_consumer_that_stands_still_does_not_stop_publishing(bench: &Bench) -> Verdict {
    let topic = bench.topic("still", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let mut still = bench.join_at(&bench.broker().await?, topic, group, 1).await?;
    let payload = "x".repeat(10_000);
    bench.publish(topic, 0, (0..500).map(|_| &payload)).await?;
    ensure_eq!(still.handle(500).await?.len(), 500, "published while nobody consumed");
    Ok(())
}

async fn a_backlog_is_worked_off_in_small_steps(bench: &Bench) -> Verdict {
    let topic = bench.topic("backlog", 3).await?;
    let group = bench.declared(topic, "group").await?;
    for partition in 0..3 {
        bench.publish(topic, partition, texts(&partition.to_string(), 400)).await?;
    }
    let mut inbox = bench.join_at(&bench.broker().await?, topic, group, 7).await?;
    let mut came = Vec::new();
    while came.len() < 1_200 {
        let batch = bench.within("a batch", inbox.subscription().next_batch(5)).await??;
        let batch = batch.ok_or("the subscription ended")?;
        ensure!(
            (1..=5).contains(&batch.len()),
            "a batch of {}, at most 5 were asked for",
            batch.len()
        );
        for delivery in batch {
            came.push(text(delivery.message()));
            delivery.ack();
        }
    }
    let wanted = (0..3).flat_map(|partition| texts(&partition.to_string(), 400));
    ensure_eq!(sorted(came), sorted(wanted), "a backlog of 1200");
    Ok(())
}

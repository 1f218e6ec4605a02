//! Handlers that take many messages at once.

use std::cell::RefCell;
use std::time::Duration;

use broker_api::{Bytes, Context, Failure, Message, RecentIds, Retry, Topic};

use super::super::bench::Bench;
use super::super::case::cases;
use super::super::fault::{Fault, Verdict, ensure, ensure_eq};
use super::super::handling::{Seen, stopper};
use super::super::inbox::texts;

cases! { "batch";
    a_batch_has_at_most_its_size_and_the_messages_are_in_order,
    a_batch_that_does_not_fill_up_comes_after_its_time,
    each_message_has_its_own_outcome,
    a_key_with_a_failure_comes_again_in_order_and_no_other_does,
    outcomes_that_are_missing_are_failures,
    a_handler_that_panics_or_takes_too_long_has_failed_for_the_whole_batch,
    a_batch_being_handled_is_finished_and_the_rest_handed_back,
    what_was_handled_before_is_not_in_a_batch,
}

const RAW: Topic<Bytes> = Topic::raw("raw");
const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(50);

type Batch = Vec<(Bytes, Context)>;

async fn topic(bench: &Bench) -> Result<(Topic<Bytes>, broker_api::Name), Fault> {
    let topic = RAW.named(bench.topic("work", 1).await?);
    let group = bench.declared(topic.name(), "group").await?;
    for made in ["retry", "dlt", "dlt.done"] {
        bench.made_by_consumer(topic.name(), group, made)?;
    }
    Ok((topic, group))
}

fn payloads(batch: &Batch) -> Vec<String> {
    batch.iter().map(|(payload, _)| String::from_utf8_lossy(payload).into_owned()).collect()
}

fn quick() -> Retry {
    Retry::forever().initial(Duration::from_millis(1)).max(Duration::from_millis(5))
}

async fn a_batch_has_at_most_its_size_and_the_messages_are_in_order(bench: &Bench) -> Verdict {
    let (topic, group) = topic(bench).await?;
    let broker = bench.broker().await?;
    let wanted = texts("m", 10);
    bench.publish(topic.name(), 0, &wanted).await?;
    let (stop, stopped) = stopper();
    let seen = RefCell::new(Vec::new());
    let handler = async |batch: Batch| {
        ensure_size(&seen, &batch, 5);
        if seen.borrow().len() >= 10 {
            stop.now();
        }
        batch.iter().map(|_| Ok(())).collect()
    };
    let consumer = broker.consumer(topic, group.as_str()).until(stopped);
    let running = bench.tamper().batches(consumer, 5, LONG).run(handler);
    bench.within("the batches", running).await??;
    ensure_eq!(seen.into_inner(), wanted, "the messages of all batches");
    Ok(())
}

fn ensure_size(seen: &RefCell<Vec<String>>, batch: &Batch, most: usize) {
    // A larger batch spoils the list, which the case compares.
    let size = batch.len();
    seen.borrow_mut().extend(payloads(batch));
    if size > most {
        seen.borrow_mut().push(format!("a batch of {size}"));
    }
}

async fn a_batch_that_does_not_fill_up_comes_after_its_time(bench: &Bench) -> Verdict {
    let (topic, group) = topic(bench).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["only one"]).await?;
    let (stop, stopped) = stopper();
    let handler = async |batch: Batch| {
        stop.now();
        batch.iter().map(|_| Ok(())).collect()
    };
    let consumer = broker.consumer(topic, group.as_str()).until(stopped);
    let running = bench.tamper().batches(consumer, 100, SHORT).run(handler);
    bench.within("the batch", running).await??;
    bench.mark(topic.name(), 1).await?;
    let rest = bench.join(topic.name(), group).await?.texts_before_markers(1).await?;
    ensure!(rest.is_empty(), "it was acknowledged and came again: {rest:?}");
    Ok(())
}

async fn each_message_has_its_own_outcome(bench: &Bench) -> Verdict {
    bench.require_replay().await?;
    let (topic, group) = topic(bench).await?;
    let broker = bench.broker().await?;
    let letters = bench.made_by_consumer(topic.name(), group, "dlt")?;
    bench.publish(topic.name(), 0, ["1", "2", "3"]).await?;
    let (stop, stopped) = stopper();
    let handler = async |batch: Batch| {
        stop.now();
        let outcome = |payload: &String| match payload.as_str() {
            "2" => Err(Failure::permanent("never")),
            _ => Ok(()),
        };
        payloads(&batch).iter().map(outcome).collect()
    };
    let consumer = broker.consumer(topic, group.as_str()).until(stopped).batches(3, LONG);
    bench.within("the batch", consumer.run(handler)).await??;
    let letters = bench.dead_letters(&broker, letters, 1).await?;
    let payloads: Vec<_> = letters.iter().map(|letter| letter.message.payload().clone()).collect();
    ensure_eq!(payloads, ["2"], "the dead letters");
    bench.mark(topic.name(), 1).await?;
    let rest = bench.join(topic.name(), group).await?.texts_before_markers(1).await?;
    ensure!(rest.is_empty(), "what was acknowledged came again: {rest:?}");
    Ok(())
}

async fn a_key_with_a_failure_comes_again_in_order_and_no_other_does(bench: &Bench) -> Verdict {
    let (topic, group) = topic(bench).await?;
    let broker = bench.broker().await?;
    for (payload, key) in [("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b")] {
        broker.publish_message(topic.name(), Message::new(payload).with_key(key)).await?;
    }
    let seen = Seen::default();
    let handler = async |batch: Batch| {
        let first = seen.all().is_empty();
        payloads(&batch).into_iter().for_each(|payload| seen.add(payload));
        let fails = |payload: String| match first && payload == "a1" {
            true => Err("not now".into()),
            false => Ok(()),
        };
        payloads(&batch).into_iter().map(fails).collect()
    };
    let (stop, stopped) = stopper();
    let consumer = broker.consumer(topic, group.as_str()).retry(quick()).until(stopped);
    let running = consumer.batches(4, SHORT).run(handler);
    let done = async {
        let done = bench.within("six messages", seen.count(6)).await;
        stop.now();
        done?
    };
    let (ran, done) = tokio::join!(running, done);
    done?;
    ran?;
    ensure_eq!(seen.all(), ["a1", "b1", "a2", "b2", "a1", "a2"], "what the handler saw");
    Ok(())
}

async fn outcomes_that_are_missing_are_failures(bench: &Bench) -> Verdict {
    let (topic, group) = topic(bench).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["1", "2"]).await?;
    let seen = Seen::default();
    let (stop, stopped) = stopper();
    let handler = async |batch: Batch| {
        seen.add(payloads(&batch).join(" "));
        if seen.all().len() == 2 {
            stop.now();
        }
        vec![Ok(())]
    };
    let consumer = broker.consumer(topic, group.as_str()).retry(quick()).until(stopped);
    let running = bench.tamper().batches(consumer, 2, SHORT).run(handler);
    bench.within("two batches", running).await??;
    ensure_eq!(seen.all(), ["1 2", "2"], "the batches");
    Ok(())
}

async fn a_handler_that_panics_or_takes_too_long_has_failed_for_the_whole_batch(
    bench: &Bench,
) -> Verdict {
    let (topic, group) = topic(bench).await?;
    let broker = bench.broker().await?;
    for payload in ["1", "2"] {
        broker.publish_message(topic.name(), Message::new(payload).with_key("k")).await?;
    }
    let seen = Seen::default();
    let (stop, stopped) = stopper();
    let handler = async |batch: Batch| {
        seen.add(payloads(&batch).join(" "));
        match seen.all().len() {
            1 => panic!("a panic that the case wants"),
            2 => std::future::pending().await,
            _ => stop.now(),
        }
        batch.iter().map(|_| Ok(())).collect()
    };
    let consumer = broker.consumer(topic, group.as_str()).retry(quick()).until(stopped);
    let consumer = consumer.handler_timeout(4 * SHORT);
    let running = bench.tamper().batches(consumer, 2, LONG).run(handler);
    bench.within("three batches", running).await??;
    ensure_eq!(seen.all(), ["1 2", "1 2", "1 2"], "the batches");
    Ok(())
}

async fn a_batch_being_handled_is_finished_and_the_rest_handed_back(bench: &Bench) -> Verdict {
    let (topic, group) = topic(bench).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["1", "2", "3"]).await?;
    let seen = Seen::default();
    let (stop, stopped) = stopper();
    let handler = async |batch: Batch| {
        stop.now();
        tokio::time::sleep(SHORT).await;
        seen.add(payloads(&batch).join(" "));
        batch.iter().map(|_| Ok(())).collect()
    };
    let consumer = broker.consumer(topic, group.as_str()).until(stopped).batches(2, LONG);
    bench.within("stopping", consumer.run(handler)).await??;
    ensure_eq!(seen.all(), ["1 2"], "the batches");
    bench.mark(topic.name(), 1).await?;
    let rest = bench.join(topic.name(), group).await?.texts_before_markers(1).await?;
    ensure_eq!(rest, ["3"], "what is left");
    Ok(())
}

async fn what_was_handled_before_is_not_in_a_batch(bench: &Bench) -> Verdict {
    let (topic, group) = topic(bench).await?;
    let broker = bench.broker().await?;
    for (payload, id) in [("1", "x"), ("again", "x"), ("2", "y")] {
        broker.publish_message(topic.name(), Message::new(payload)).id(id).partition(0).await?;
    }
    let seen = Seen::default();
    let (stop, stopped) = stopper();
    let handler = async |batch: Batch| {
        payloads(&batch).into_iter().for_each(|payload| seen.add(payload));
        if seen.all().len() == 2 {
            stop.now();
        }
        batch.iter().map(|_| Ok(())).collect()
    };
    let consumer = broker.consumer(topic, group.as_str()).dedup(RecentIds::new(10)).until(stopped);
    bench.within("the batches", consumer.batches(1, LONG).run(handler)).await??;
    ensure_eq!(seen.all(), ["1", "2"], "what the handler saw");
    Ok(())
}

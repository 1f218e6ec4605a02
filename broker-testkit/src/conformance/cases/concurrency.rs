//! Many handlers at the same time.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Duration;

use broker_api::{Bytes, Context, GroupSpec, Message, Order};
use tokio::time::sleep;

use super::super::bench::Bench;
use super::super::case::cases;
use super::super::fault::{Fault, Verdict, ensure, ensure_eq};
use super::super::handling::Seen;
use super::super::inbox::{sorted, texts};
use super::handler::{quick, work};

cases! { "concurrency";
    as_many_handlers_run_as_allowed_and_no_more,
    a_slow_key_delays_only_itself,
    keys_stay_in_order_while_some_of_their_messages_fail,
    an_unordered_group_handles_a_key_at_the_same_time,
    a_partition_that_stands_still_does_not_stop_another,
    a_partition_with_much_to_do_lets_another_have_its_turn,
}

const MOMENT: Duration = Duration::from_millis(1);

fn word(payload: &Bytes) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

async fn as_many_handlers_run_as_allowed_and_no_more(bench: &Bench) -> Verdict {
    const ALLOWED: usize = 3;
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    let all = texts("m", 30);
    bench.publish(topic.name(), 0, &all).await?;
    let (running, most) = (Cell::new(0), Cell::new(0));
    let seen = Seen::default();
    let handler = async |payload: Bytes, _| {
        running.set(running.get() + 1);
        most.set(most.get().max(running.get()));
        // Nobody ends before so many have begun.
        while most.get() < ALLOWED {
            sleep(MOMENT).await;
        }
        sleep(MOMENT).await;
        running.set(running.get() - 1);
        seen.add(word(&payload));
        Ok(())
    };
    let consumer = broker.consumer(topic, group.as_str()).concurrency(ALLOWED);
    bench.consume(consumer, handler, seen.count(all.len())).await?;
    ensure_eq!(most.get(), ALLOWED, "handlers at the same time");
    ensure_eq!(sorted(seen.all()), all, "what was handled");
    Ok(())
}

async fn a_slow_key_delays_only_itself(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    for (payload, key) in
        [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c"), ("b3", "b")]
    {
        broker.publish_message(topic.name(), Message::new(payload).with_key(key)).await?;
    }
    let seen = Seen::default();
    let handler = async |payload: Bytes, _| {
        // As slow as it takes for everything else to be done.
        if payload == "a1" {
            seen.count(4).await.map_err(|fault| fault.to_string())?;
        }
        seen.add(word(&payload));
        Ok(())
    };
    let consumer = broker.consumer(topic, group.as_str()).concurrency(2);
    bench.consume(consumer, handler, seen.count(6)).await?;
    let seen = seen.all();
    ensure_eq!(seen[4..], ["a1", "a2"], "the slow key, after all others");
    let of_b: Vec<_> = seen.iter().filter(|seen| seen.starts_with('b')).collect();
    ensure_eq!(of_b, ["b1", "b2", "b3"], "another key");
    Ok(())
}

async fn keys_stay_in_order_while_some_of_their_messages_fail(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 3).await?;
    let broker = bench.broker().await?;
    let keys = ["a", "b", "c", "d", "e"];
    let mut wanted: HashMap<String, Vec<String>> = HashMap::new();
    for n in 0..60 {
        let key = keys[n % keys.len()];
        let payload = format!("{key} {n:02}");
        wanted.entry(key.to_owned()).or_default().push(payload.clone());
        broker.publish_message(topic.name(), Message::new(payload).with_key(key)).await?;
    }
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        sleep(MOMENT).await;
        let fails = u32::from(payload.last().copied().unwrap_or_default()) % 3;
        if context.attempt() <= fails {
            return Err("not now".into());
        }
        seen.add(word(&payload));
        Ok(())
    };
    let consumer = broker.consumer(topic, group.as_str()).concurrency(4).retry(quick());
    bench.consume(consumer, handler, seen.count(60)).await?;
    let mut came: HashMap<String, Vec<String>> = HashMap::new();
    for payload in seen.all() {
        came.entry(payload[..1].to_owned()).or_default().push(payload);
    }
    for key in keys {
        ensure_eq!(came.get(key), wanted.get(key), "the order of key {key}");
    }
    Ok(())
}

async fn an_unordered_group_handles_a_key_at_the_same_time(bench: &Bench) -> Verdict {
    let (topic, _) = work(bench, 1).await?;
    let group = GroupSpec { order: Order::None, ..GroupSpec::new(bench.group("unordered")?) };
    let broker = bench.broker().await?;
    broker.declare_group(topic.name(), &group).await?;
    for made in ["retry", "dlt"] {
        bench.made_by_consumer(topic.name(), group.name, made)?;
    }
    for payload in ["1", "2"] {
        broker.publish_message(topic.name(), Message::new(payload).with_key("k")).await?;
    }
    let (begun, ended) = (Seen::default(), Seen::default());
    let handler = async |payload: Bytes, _| {
        begun.add(word(&payload));
        // Neither ends before both have begun.
        begun.count(2).await.map_err(|fault| fault.to_string())?;
        ended.add(word(&payload));
        Ok(())
    };
    let consumer = broker.consumer(topic, group.name.as_str()).order(Order::None).concurrency(2);
    bench.consume(consumer, handler, ended.count(2)).await?;
    ensure_eq!(sorted(ended.all()), ["1", "2"], "what was handled");
    Ok(())
}

async fn a_partition_that_stands_still_does_not_stop_another(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 2).await?;
    let broker = bench.broker().await?;
    let lively = texts("lively", 50);
    // The same key, so that all but one of them wait.
    for n in 0..20 {
        let message = Message::new(format!("still-{n}")).with_key("k");
        broker.publish_message(topic.name(), message).partition(0).await?;
    }
    bench.publish(topic.name(), 1, &lively).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, _| {
        if payload.starts_with(b"still") {
            std::future::pending::<()>().await;
        }
        seen.add(word(&payload));
        Ok(())
    };
    let (stop, stopped) = super::super::handling::stopper();
    let consumer = broker.consumer(topic, group.as_str()).concurrency(2).until(stopped);
    let running = consumer.run(handler);
    let all = bench.within("the messages of the other partition", seen.count(lively.len()));
    // Dropping the consumer cancels the handler that stands still.
    tokio::select! {
        ran = running => ensure!(false, "the consumer ended: {ran:?}"),
        all = all => all??,
    }
    stop.now();
    ensure_eq!(seen.all(), lively, "what was handled of the other partition");
    Ok::<_, Fault>(())
}

async fn a_partition_with_much_to_do_lets_another_have_its_turn(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 2).await?;
    let broker = bench.broker().await?;
    let (many, few) = (texts("many", 1_000), texts("few", 5));
    bench.publish(topic.name(), 0, &many).await?;
    bench.publish(topic.name(), 1, &few).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, _| {
        // Long enough for both partitions to be fetched before all of the first are handled.
        sleep(MOMENT).await;
        seen.add(word(&payload));
        Ok(())
    };
    let is_few = |payload: &&String| payload.starts_with("few");
    let handled = async {
        seen.until(|seen| seen.iter().filter(is_few).count() == few.len()).await;
        Ok(())
    };
    let consumer = broker.consumer(topic, group.as_str()).prefetch(100);
    bench.consume(consumer, handler, handled).await?;
    let seen = seen.all();
    let few_of_them: Vec<_> = seen.iter().filter(is_few).cloned().collect();
    ensure_eq!(few_of_them, few, "what was handled of the partition with little to do");
    let before = seen.iter().take_while(|payload| !payload.starts_with(&few[4])).count();
    ensure!(before < many.len() * 3 / 4, "{before} messages came before the last of five");
    Ok(())
}

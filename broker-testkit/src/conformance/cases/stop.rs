//! How a consumer ends.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use broker_api::{Bytes, ErrorKind, Message, Retry, Settings, Topic, Unprocessable};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::super::bench::Bench;
use super::super::case::cases;
use super::super::fault::{Fault, Verdict, ensure, ensure_eq};
use super::super::handling::{Add, Seen, stopper};
use super::super::inbox::sorted;
use super::handler::work;

cases! { "stop";
    what_is_being_handled_is_finished_and_the_rest_handed_back,
    what_was_handled_does_not_come_back_with_what_was_not,
    what_takes_longer_than_the_drain_time_is_handed_back,
    a_pause_between_attempts_does_not_hold_up_the_end,
    a_consumer_that_is_dropped_settles_nothing,
    closing_the_broker_stops_its_consumers,
    consumers_that_run_together_stop_together,
    the_first_error_of_one_consumer_stops_all,
    a_consumer_that_stops_on_failure_says_why_and_leaves_the_message,
    what_is_to_be_discarded_is_gone,
}

const HOUR: Duration = Duration::from_secs(3600);

/// What a handler still has to do when the consumer is to stop.
const MOMENT: Duration = Duration::from_millis(100);

fn word(payload: &Bytes) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

/// What the group has left, in order.
async fn left(
    bench: &Bench,
    topic: Topic<Bytes>,
    group: broker_api::Name,
) -> Result<Vec<String>, Fault> {
    bench.mark(topic.name(), 1).await?;
    bench.join(topic.name(), group).await?.texts_before_markers(1).await
}

async fn what_is_being_handled_is_finished_and_the_rest_handed_back(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["1", "2"]).await?;
    let (begun, ended) = (Seen::default(), Seen::default());
    let go = Notify::new();
    let handler = async |payload: Bytes, _| {
        begun.add(word(&payload));
        go.notified().await;
        sleep(MOMENT).await;
        ended.add(word(&payload));
        Ok(())
    };
    let (stop, stopped) = stopper();
    let running = broker.consumer(topic, group.as_str()).until(stopped).run(handler);
    let stopping = async {
        begun.count(1).await?;
        stop.now();
        // It has stopped taking messages before the handler ends.
        tokio::task::yield_now().await;
        go.notify_one();
        Ok::<_, Fault>(())
    };
    let (ran, stopped) = tokio::join!(bench.within("stopping", running), stopping);
    stopped?;
    ran??;
    ensure_eq!((begun.all(), ended.all()), (vec!["1".into()], vec!["1".into()]), "begun and ended");
    ensure_eq!(left(bench, topic, group).await?, ["2"], "what is left");
    Ok(())
}

async fn what_was_handled_does_not_come_back_with_what_was_not(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    // The second of each key waits for the first, and is before what is handled meanwhile.
    let all = ["slow 1", "slow 2", "quick 1", "quick 2", "quick 3"];
    for payload in all {
        let (key, _) = payload.split_at(5);
        broker.publish_message(topic.name(), Message::new(payload).with_key(key)).await?;
    }
    let seen = Seen::default();
    let go = Notify::new();
    let handler = async |payload: Bytes, _| {
        if payload == "slow 1" {
            go.notified().await;
        }
        seen.add(word(&payload));
        Ok(())
    };
    let (stop, stopped) = stopper();
    let consumer = bench.tamper().consumer(broker.consumer(topic, group.as_str()).concurrency(2));
    let running = consumer.until(stopped).run(handler);
    let stopping = async {
        let quick = bench.within("the quick ones", seen.count(3)).await;
        stop.now();
        tokio::task::yield_now().await;
        go.notify_one();
        quick?
    };
    let (ran, stopped) = tokio::join!(bench.within("stopping", running), stopping);
    stopped?;
    ran??;
    let handled = seen.all();
    ensure!(handled.contains(&"slow 1".to_owned()), "what was begun is finished: {handled:?}");
    let left = left(bench, topic, group).await?;
    // Whether the other slow one is handled or handed back, nothing comes twice.
    ensure_eq!(sorted([handled, left].concat()), sorted(all.map(str::to_owned)), "handled or left");
    Ok(())
}

async fn what_takes_longer_than_the_drain_time_is_handed_back(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let settings = Settings { drain_timeout: Duration::from_millis(200), ..Settings::default() };
    let broker = bench.connect_with(settings).await?;
    bench.publish(topic.name(), 0, ["job"]).await?;
    let (stop, stopped) = stopper();
    let handler = async |_, _| {
        stop.now();
        pending().await
    };
    let running = broker.consumer(topic, group.as_str()).until(stopped).run(handler);
    bench.within("stopping", running).await??;
    ensure_eq!(left(bench, topic, group).await?, ["job"], "what is left");
    Ok(broker.close().await?)
}

async fn a_pause_between_attempts_does_not_hold_up_the_end(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["job"]).await?;
    let (stop, stopped) = stopper();
    let handler = async |_, _| {
        stop.now();
        Err("not now".into())
    };
    let retry = Retry::forever().initial(HOUR).max(HOUR);
    let running = broker.consumer(topic, group.as_str()).retry(retry).until(stopped).run(handler);
    bench.within("stopping", running).await??;
    ensure_eq!(left(bench, topic, group).await?, ["job"], "what is left");
    Ok(())
}

async fn a_consumer_that_is_dropped_settles_nothing(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["1", "2"]).await?;
    let begun = Seen::default();
    let handler = async |payload: Bytes, _| {
        begun.add(word(&payload));
        pending().await
    };
    let running = broker.consumer(topic, group.as_str()).run(handler);
    tokio::select! {
        ran = running => ensure!(false, "the consumer ended: {ran:?}"),
        begun = bench.within("the first call", begun.count(1)) => begun??,
    }
    ensure_eq!(left(bench, topic, group).await?, ["1", "2"], "what is left");
    Ok(())
}

async fn closing_the_broker_stops_its_consumers(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.connect().await?;
    bench.publish(topic.name(), 0, ["1"]).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, _| {
        seen.add(word(&payload));
        Ok(())
    };
    let running = broker.consumer(topic, group.as_str()).run(handler);
    let closing = async {
        seen.count(1).await?;
        Ok::<_, Fault>(broker.close().await?)
    };
    let both = async { tokio::join!(running, closing) };
    let (ran, closed) = bench.within("closing", both).await?;
    closed?;
    ran?;
    ensure!(left(bench, topic, group).await?.is_empty(), "what was handled came again");
    Ok(())
}

async fn consumers_that_run_together_stop_together(bench: &Bench) -> Verdict {
    let (one, group) = work(bench, 1).await?;
    let (two, _) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    for made in ["retry", "dlt"] {
        bench.made_by_consumer(two.name(), group, made)?;
    }
    broker.declare_group(two.name(), &broker_api::GroupSpec::new(group)).await?;
    bench.publish(one.name(), 0, ["one"]).await?;
    bench.publish(two.name(), 0, ["two"]).await?;
    let seen = Arc::new(Seen::default());
    let consumer = |topic| -> Add {
        let seen = seen.clone();
        let handler = move |payload: Bytes, _| {
            seen.add(word(&payload));
            async { Ok(()) }
        };
        Box::new(move |group| group.on(topic, handler))
    };
    let (stop, stopped) = stopper();
    let together = bench.together(&broker, group, [one, two].map(consumer), stopped);
    let stopping = async {
        seen.count(2).await?;
        stop.now();
        Ok::<_, Fault>(())
    };
    let both = async { tokio::join!(together, stopping) };
    let (ran, stopped) = bench.within("stopping both", both).await?;
    stopped?;
    ran?;
    ensure!(left(bench, one, group).await?.is_empty(), "the first has something left");
    ensure!(left(bench, two, group).await?.is_empty(), "the second has something left");
    Ok(())
}

async fn the_first_error_of_one_consumer_stops_all(bench: &Bench) -> Verdict {
    let (one, group) = work(bench, 1).await?;
    let (two, other) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(one.name(), 0, ["one"]).await?;
    let fails = broker
        .consumer(one, group.as_str())
        .retry(Retry::none())
        .unprocessable(Unprocessable::Stop);
    let idle = broker.consumer(two, other.as_str());
    let consumers: [Add; 2] = [
        Box::new(|group| group.with(fails, |_, _| async { Err("out of paper".into()) })),
        Box::new(|group| group.with(idle, |_, _| async { Ok(()) })),
    ];
    let together = bench.together(&broker, group, consumers, pending());
    let ran = bench.within("stopping both", together).await?;
    let Err(error) = ran else { return Err(Fault::failed("the error of one was lost")) };
    ensure!(error.to_string().contains("out of paper"), "another error: {error}");
    ensure_eq!(left(bench, one, group).await?, ["one"], "what is left");
    Ok(())
}

async fn a_consumer_that_stops_on_failure_says_why_and_leaves_the_message(
    bench: &Bench,
) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["job"]).await?;
    let consumer = broker
        .consumer(topic, group.as_str())
        .retry(Retry::none())
        .unprocessable(Unprocessable::Stop);
    let ran =
        bench.within("stopping", consumer.run(async |_, _| Err("out of paper".into()))).await?;
    let Err(error) = ran else { return Err(Fault::failed("the consumer did not stop")) };
    ensure_eq!(error.kind(), ErrorKind::Handler, "the kind of {error}");
    ensure!(error.to_string().contains("out of paper"), "the reason is missing: {error}");
    ensure_eq!(left(bench, topic, group).await?, ["job"], "what is left");
    Ok(())
}

async fn what_is_to_be_discarded_is_gone(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let letters = bench.made_by_consumer(topic.name(), group, "dlt")?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["1", "2"]).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, _| {
        seen.add(word(&payload));
        if payload == "1" { Err("never".into()) } else { Ok(()) }
    };
    let consumer = broker
        .consumer(topic, group.as_str())
        .retry(Retry::none())
        .unprocessable(Unprocessable::Discard);
    bench.consume(consumer, handler, seen.count(2)).await?;
    ensure!(left(bench, topic, group).await?.is_empty(), "what was discarded came again");
    ensure_eq!(seen.all(), ["1", "2"], "what was handled");
    let kept = broker.describe_topic(letters).await;
    ensure!(kept.is_err(), "there is a dead-letter topic for what is discarded: {kept:?}");
    Ok(())
}

//! Messages are settled together with what their handlers publish.

use std::time::Duration;

use broker_api::{
    Broker, Bytes, Capability, Consumer, Context, Name, Permanent, Read, RecentIds, Retry, Topic,
    Until,
};
use tokio::sync::Notify;

use super::super::bench::Bench;
use super::super::case::cases;
use super::super::fault::{Fault, Verdict, ensure, ensure_eq, ensure_kind};
use super::super::handling::{Seen, stopper};
use super::super::inbox::{sorted, text, texts};
use super::handler::{quick, seen_as, work};

cases! { "exactly_once";
    asking_for_what_cannot_be_is_an_error_at_start,
    outputs_and_settlements_come_together [Transactions],
    an_attempt_that_failed_publishes_nothing [Transactions],
    outputs_come_in_the_order_of_their_messages_whatever_is_done_first [Transactions],
    what_is_done_is_committed_when_the_consumer_stops [Transactions],
    what_is_not_committed_is_not_seen_and_comes_again [Transactions],
    an_output_that_cannot_be_published_is_a_failure_of_its_handler [Transactions],
    a_dead_letter_and_its_settlement_come_together [Transactions],
    a_delayed_retry_and_its_settlement_come_together [Transactions],
    a_batch_is_settled_with_its_outputs [Transactions],
}

const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(20);

/// `a` of `a-0001`.
fn key(text: &Bytes) -> String {
    String::from_utf8_lossy(text).split('-').next().unwrap_or_default().to_owned()
}

/// What the cases work with: a topic and a group of it, and a topic for outputs.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) input: Topic<Bytes>,
    pub(super) output: Topic<Bytes>,
    pub(super) group: Name,
}

impl Place {
    pub(super) async fn new(bench: &Bench, partitions: u32) -> Result<Self, Fault> {
        let (input, group) = work(bench, partitions).await?;
        bench.require(&bench.broker().await?, input.name(), Capability::Transactions)?;
        let output = bench.topic("outputs", 1).await?;
        let (input, output) = (input.keyed_owned(key), input.named(output).keyed_owned(key));
        Ok(Self { input, output, group })
    }

    /// Commits soon.
    pub(super) fn consumer(&self, broker: &Broker) -> Consumer<Bytes> {
        let consumer = broker.consumer(self.input, self.group.as_str()).retry(quick());
        consumer.transactions(1_000, SOON)
    }

    /// Waits until so many outputs can be seen.
    pub(super) async fn see(&self, bench: &Bench, count: usize) -> Verdict {
        let read = Read { until: Until::Followed, ..Read::new(self.output.name()) };
        bench.read(read).await?.take(count).await.map(drop)
    }

    /// All outputs that can be seen, in their order.
    pub(super) async fn outputs(&self, bench: &Bench) -> Result<Vec<String>, Fault> {
        let all = bench.read(Read::new(self.output.name())).await?.rest().await?;
        Ok(all.iter().map(|received| text(&received.message)).collect())
    }

    /// What the group has not settled.
    pub(super) async fn left(&self, bench: &Bench, partitions: u32) -> Result<Vec<String>, Fault> {
        bench.mark(self.input.name(), partitions).await?;
        bench.join(self.input.name(), self.group).await?.texts_before_markers(partitions).await
    }

    /// Publishes texts in their order, each to the partition of its key.
    pub(super) async fn fill(&self, broker: &Broker, texts: &[String]) -> Verdict {
        let payloads: Vec<Bytes> = texts.iter().map(|text| Bytes::from(text.clone())).collect();
        for published in broker.publish_all(self.input, &payloads).await {
            published?;
        }
        Ok(())
    }

    /// Runs a consumer at a connection until so many outputs can be seen.
    async fn run<Fut>(
        &self,
        bench: &Bench,
        consumer: Consumer<Bytes>,
        handler: impl Fn(Bytes, Context) -> Fut,
        count: usize,
    ) -> Verdict
    where
        Fut: Future<Output = Result<(), broker_api::Failure>>,
    {
        bench.consume(consumer, handler, self.see(bench, count)).await
    }

    /// A handler that publishes each message.
    pub(super) async fn pass_on(
        self,
        payload: Bytes,
        context: Context,
    ) -> Result<(), broker_api::Failure> {
        Ok(context.publish(self.output, &payload).await?)
    }

    /// A handler that publishes each attempt, and fails those of `job` before this one.
    async fn fail_until(
        self,
        attempt: u32,
        payload: Bytes,
        context: Context,
    ) -> Result<(), broker_api::Failure> {
        context.publish(self.output, &Bytes::from(seen_as(&payload, &context))).await?;
        match payload == "job" && context.attempt() < attempt {
            true => Err("not now".into()),
            false => Ok(()),
        }
    }
}

async fn asking_for_what_cannot_be_is_an_error_at_start(bench: &Bench) -> Verdict {
    let (input, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    let tamper = bench.tamper();
    let consumer = || tamper.exactly_once(broker.consumer(input, group.as_str()));
    let by_hand = bench.within("subscribing", consumer().subscribe()).await?;
    ensure_kind!(by_hand.map(drop), Invalid, "settling by hand");
    let handler = async |_, _| Ok(());
    let running = consumer().dedup(RecentIds::new(1)).run(handler);
    let ran = bench.within("the end of a consumer with a dedup hook", running).await?;
    ensure_kind!(ran, Invalid, "a dedup hook");
    let capabilities = broker.capabilities(input.name());
    let Some(why) = capabilities.why_not(Capability::Transactions) else { return Ok(()) };
    let ran = bench.within("the end of the consumer", consumer().run(handler)).await?;
    let error = ensure_kind!(ran, Unsupported, "a broker without transactions");
    ensure!(error.to_string().contains(why), "the reason is missing: {error}");
    let letters = bench.made_by_consumer(input.name(), group, "dlt")?;
    ensure_kind!(broker.describe_topic(letters).await, UnknownTopic, "what it would have made");
    Ok(())
}

async fn outputs_and_settlements_come_together(bench: &Bench) -> Verdict {
    let place = Place::new(bench, 3).await?;
    let broker = bench.broker().await?;
    let inputs = ["a", "b", "c", "d"].map(|key| texts(key, 25)).concat();
    place.fill(&broker, &inputs).await?;
    // Larger than one transaction.
    let consumer = place.consumer(&broker).transactions(30, SOON).concurrency(8);
    let handler = |payload, context| place.pass_on(payload, context);
    place.run(bench, consumer, handler, 100).await?;
    let outputs = place.outputs(bench).await?;
    ensure_eq!(sorted(outputs.clone()), inputs, "the outputs");
    for key in ["a", "b", "c", "d"] {
        let of_key: Vec<_> = outputs.iter().filter(|o| o.starts_with(key)).cloned().collect();
        ensure_eq!(of_key, texts(key, 25), "the outputs of one key");
    }
    let left = place.left(bench, 3).await?;
    ensure!(left.is_empty(), "not settled although it was published: {left:?}");
    Ok(())
}

async fn an_attempt_that_failed_publishes_nothing(bench: &Bench) -> Verdict {
    let place = Place::new(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(place.input.name(), 0, ["job", "next"]).await?;
    let handler = |payload, context| place.fail_until(3, payload, context);
    let done = async { place.see(bench, 2).await };
    bench.consume(place.consumer(&broker), handler, done).await?;
    ensure_eq!(place.outputs(bench).await?, ["job 3", "next 1"], "payload and attempt");
    Ok(())
}

async fn outputs_come_in_the_order_of_their_messages_whatever_is_done_first(
    bench: &Bench,
) -> Verdict {
    let place = Place::new(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(place.input.name(), 0, ["slow", "b", "c", "d"]).await?;
    let (seen, go) = (Seen::default(), Notify::new());
    let handler = async |payload: Bytes, context: Context| {
        if payload == "slow" {
            go.notified().await;
        }
        place.pass_on(payload.clone(), context).await?;
        seen.add(String::from_utf8_lossy(&payload));
        Ok(())
    };
    let done = async {
        seen.count(3).await?;
        // More than the time after which what is done is committed.
        tokio::time::sleep(10 * SOON).await;
        let early = place.outputs(bench).await;
        // Whatever that was, the consumer can only end when its handlers do.
        go.notify_one();
        let early = early?;
        ensure!(early.is_empty(), "seen before what comes before it was done: {early:?}");
        place.see(bench, 4).await
    };
    bench.consume(place.consumer(&broker).concurrency(4), handler, done).await?;
    ensure_eq!(place.outputs(bench).await?, ["slow", "b", "c", "d"], "the outputs");
    Ok(())
}

async fn what_is_done_is_committed_when_the_consumer_stops(bench: &Bench) -> Verdict {
    let place = Place::new(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(place.input.name(), 0, texts("a", 5)).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        place.pass_on(payload, context).await?;
        seen.add("done");
        Ok(())
    };
    // By itself it would not be committed while the case lasts.
    let consumer = place.consumer(&broker).transactions(1_000, HOUR);
    bench.consume(consumer, handler, seen.count(5)).await?;
    ensure_eq!(place.outputs(bench).await?, texts("a", 5), "the outputs");
    let left = place.left(bench, 1).await?;
    ensure!(left.is_empty(), "not settled although it was done: {left:?}");
    Ok(())
}

async fn what_is_not_committed_is_not_seen_and_comes_again(bench: &Bench) -> Verdict {
    let place = Place::new(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(place.input.name(), 0, ["a-0000", "stuck", "a-0002"]).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        let stuck = payload == "stuck";
        place.pass_on(payload, context).await?;
        seen.add("published");
        match stuck {
            true => std::future::pending().await,
            false => Ok(()),
        }
    };
    let consumer = place.consumer(&broker).transactions(1_000, HOUR).concurrency(3);
    let running = consumer.run(handler);
    tokio::select! {
        ended = running => ended?,
        seen = bench.within("three calls of the handler", seen.count(3)) => seen??,
    }
    // What was done before the message that never was may have been committed by the end.
    let early = place.outputs(bench).await?;
    let wrong: Vec<_> = early.iter().filter(|output| *output != "a-0000").collect();
    ensure!(wrong.is_empty(), "seen without having been committed: {wrong:?}");
    let handler = |payload, context| place.pass_on(payload, context);
    place.run(bench, place.consumer(&broker), handler, 3).await?;
    ensure_eq!(place.outputs(bench).await?, ["a-0000", "stuck", "a-0002"], "the outputs");
    Ok(())
}

async fn an_output_that_cannot_be_published_is_a_failure_of_its_handler(bench: &Bench) -> Verdict {
    let place = Place::new(bench, 1).await?;
    let broker = bench.broker().await?;
    let nowhere = place.output.named(bench.name("nowhere")?);
    let letters = bench.made_by_consumer(place.input.name(), place.group, "dlt")?;
    bench.publish(place.input.name(), 0, ["lost", "huge", "fine"]).await?;
    let huge = Bytes::from(vec![b'x'; 2 << 20]);
    let handler = async |payload: Bytes, context: Context| {
        context.publish(place.output, &payload).await?;
        match &*payload {
            b"lost" => context.publish(nowhere, &payload).await?,
            b"huge" => context.publish(place.output, &huge).await?,
            _ => {}
        }
        Ok(())
    };
    let consumer = place.consumer(&broker).retry(Retry::none());
    place.run(bench, consumer, handler, 1).await?;
    ensure_eq!(place.outputs(bench).await?, ["fine"], "the outputs");
    let letters = bench.dead_letters(&broker, letters, 2).await?;
    let failed: Vec<_> = letters.iter().map(|letter| text(&letter.message)).collect();
    ensure_eq!(failed, ["lost", "huge"], "the dead letters");
    let reasons: Vec<_> = letters.iter().map(|l| l.error.as_deref().unwrap_or_default()).collect();
    ensure!(reasons[0].contains("does not exist"), "the reason is not told: {reasons:?}");
    Ok(())
}

async fn a_dead_letter_and_its_settlement_come_together(bench: &Bench) -> Verdict {
    let place = Place::new(bench, 1).await?;
    let broker = bench.broker().await?;
    let letters = bench.made_by_consumer(place.input.name(), place.group, "dlt")?;
    bench.publish(place.input.name(), 0, ["good", "bad", "fine"]).await?;
    let handler = async |payload: Bytes, context: Context| {
        let bad = payload == "bad";
        place.pass_on(payload, context).await?;
        if bad { Err("it is bad").permanent() } else { Ok(()) }
    };
    // All three are in one transaction.
    let consumer = place.consumer(&broker).transactions(3, HOUR);
    place.run(bench, consumer, handler, 2).await?;
    ensure_eq!(place.outputs(bench).await?, ["good", "fine"], "the outputs");
    let letters = bench.dead_letters(&broker, letters, 1).await?;
    let failed: Vec<_> = letters.iter().map(|letter| text(&letter.message)).collect();
    ensure_eq!(failed, ["bad"], "the dead letters");
    let left = place.left(bench, 1).await?;
    ensure!(left.is_empty(), "not settled although it is in the dead letters: {left:?}");
    Ok(())
}

async fn a_delayed_retry_and_its_settlement_come_together(bench: &Bench) -> Verdict {
    let place = Place::new(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(place.input.name(), 0, ["job", "next"]).await?;
    let handler = |payload, context| place.fail_until(2, payload, context);
    let retry = Retry::none().delays([Duration::from_millis(200)]);
    place.run(bench, place.consumer(&broker).retry(retry), handler, 2).await?;
    ensure_eq!(place.outputs(bench).await?, ["next 1", "job 2"], "payload and attempt");
    let left = place.left(bench, 1).await?;
    ensure!(left.is_empty(), "not settled although it was put off: {left:?}");
    Ok(())
}

async fn a_batch_is_settled_with_its_outputs(bench: &Bench) -> Verdict {
    let place = Place::new(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(place.input.name(), 0, texts("a", 10)).await?;
    let (stop, stopped) = stopper();
    let handler = async |batch: Vec<(Bytes, Context)>| {
        let mut outcomes = Vec::new();
        for (payload, context) in batch {
            let fails = payload == "a-0004" && context.attempt() == 1;
            outcomes.push(match place.pass_on(payload, context).await {
                Ok(()) if fails => Err("not now".into()),
                published => published,
            });
        }
        outcomes
    };
    let running = place.consumer(&broker).until(stopped).batches(4, SOON).run(handler);
    let seen = async {
        let seen = place.see(bench, 10).await;
        stop.now();
        seen
    };
    let (ran, seen) = tokio::join!(running, seen);
    seen?;
    ran?;
    ensure_eq!(place.outputs(bench).await?, texts("a", 10), "the outputs");
    let left = place.left(bench, 1).await?;
    ensure!(left.is_empty(), "not settled although it was published: {left:?}");
    Ok(())
}

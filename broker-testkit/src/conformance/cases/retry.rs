//! What a consumer does with a message that fails for now.

use std::time::Duration;

use broker_api::{Bytes, Context, ErrorKind, Message, Name, Retry, Topic, Unprocessable};

use super::super::bench::Bench;
use super::super::case::cases;
use super::super::fault::{Fault, Verdict, ensure, ensure_eq};
use super::super::handling::Seen;

cases! { "retry";
    a_delayed_retry_lets_later_messages_pass_and_keeps_count,
    a_delayed_retry_survives_the_consumer_that_asked_for_it,
    delays_follow_each_other_and_then_comes_the_dead_letter,
    a_failing_key_holds_back_only_itself,
    a_handler_past_its_time_limit_has_failed,
    what_a_handler_publishes_is_confirmed_before_its_message_is_settled,
    a_consumer_that_stops_on_failure_says_why_and_leaves_the_message,
    a_paused_consumer_begins_nothing_and_goes_on_when_resumed,
}

const RAW: Topic<Bytes> = Topic::raw("raw");
const SHORT: Duration = Duration::from_millis(200);

async fn topic(bench: &Bench, partitions: u32) -> Result<(Topic<Bytes>, Name), Fault> {
    let topic = RAW.named(bench.topic("work", partitions).await?);
    let group = bench.declared(topic.name(), "group").await?;
    for made in ["retry", "retry.200ms", "retry.400ms", "dlt", "dlt.done"] {
        bench.made_by_consumer(topic.name(), group, made)?;
    }
    Ok((topic, group))
}

/// What a handler saw: the payload and the attempt.
fn seen_as(payload: &Bytes, context: &Context) -> String {
    format!("{} {}", String::from_utf8_lossy(payload), context.attempt())
}

async fn a_delayed_retry_lets_later_messages_pass_and_keeps_count(bench: &Bench) -> Verdict {
    let (topic, group) = topic(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["first", "second"]).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        seen.add(seen_as(&payload, &context));
        match payload == "first" && context.attempt() == 1 {
            true => Err("not now".into()),
            false => Ok(()),
        }
    };
    let consumer = broker.consumer(topic, group.as_str()).retry(Retry::none().delays([SHORT]));
    bench.consume(consumer, handler, seen.count(3)).await?;
    ensure_eq!(seen.all(), ["first 1", "second 1", "first 2"], "what the handler saw");
    bench.mark(topic.name(), 1).await?;
    let rest = bench.join(topic.name(), group).await?.texts_before_markers(1).await?;
    ensure!(rest.is_empty(), "it came again: {rest:?}");
    Ok(())
}

async fn a_delayed_retry_survives_the_consumer_that_asked_for_it(bench: &Bench) -> Verdict {
    let (topic, group) = topic(bench, 1).await?;
    let message = Message::new("job").with_key("k").with_header("own", "kept");
    bench.broker().await?.publish_message(topic.name(), message).await?;
    let retry = Retry::none().delays([SHORT]);

    let first = bench.connect().await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        seen.add(seen_as(&payload, &context));
        Err("not now".into())
    };
    let consumer = first.consumer(topic, group.as_str()).retry(retry.clone());
    bench.consume(consumer, handler, seen.count(1)).await?;
    first.close().await?;

    let second = bench.connect().await?;
    let handler = async |payload: Bytes, context: Context| {
        let own = context.message().headers().get_str("own").unwrap_or_default().to_owned();
        let (at, headers) = (context.topic() == topic.name(), context.message().headers().len());
        seen.add(format!("{} {own} {at} {headers}", seen_as(&payload, &context)));
        Ok(())
    };
    let consumer = second.consumer(topic, group.as_str()).retry(retry);
    bench.consume(consumer, handler, seen.count(2)).await?;
    let wanted = ["job 1", "job 2 kept true 1"];
    ensure_eq!(
        seen.all(),
        wanted,
        "payload, attempt, header, whether the topic is the original, headers"
    );
    Ok(second.close().await?)
}

async fn delays_follow_each_other_and_then_comes_the_dead_letter(bench: &Bench) -> Verdict {
    bench.require_replay().await?;
    let (topic, group) = topic(bench, 1).await?;
    let broker = bench.broker().await?;
    let letters = bench.made_by_consumer(topic.name(), group, "dlt")?;
    bench.publish(topic.name(), 0, ["job"]).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        seen.add(seen_as(&payload, &context));
        Err("never".into())
    };
    let retry = Retry::none().delays([SHORT, 2 * SHORT]);
    let consumer = broker.consumer(topic, group.as_str()).retry(retry);
    let arrived = async { bench.dead_letters(&broker, letters, 1).await.map(drop) };
    bench.consume(consumer, handler, arrived).await?;
    ensure_eq!(seen.all(), ["job 1", "job 2", "job 3"], "the attempts");
    let letter = &bench.dead_letters(&broker, letters, 1).await?[0];
    ensure_eq!(letter.attempts, 3, "attempts in the dead letter");
    ensure_eq!(letter.partition, Some(0), "the partition it was published to");
    ensure!(letter.message.headers().is_empty(), "headers were added: {letter:?}");
    Ok(())
}

async fn a_failing_key_holds_back_only_itself(bench: &Bench) -> Verdict {
    let (topic, group) = topic(bench, 1).await?;
    let broker = bench.broker().await?;
    for (payload, key) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        broker.publish_message(topic.name(), Message::new(payload).with_key(key)).await?;
    }
    let seen = Seen::default();
    let handler = async |payload: Bytes, _| {
        // The other key can only come while this one fails.
        if payload == "a1" && !seen.all().iter().any(|seen| seen == "b1") {
            return Err("not before b1".into());
        }
        seen.add(String::from_utf8_lossy(&payload));
        Ok(())
    };
    let retry = Retry::forever().initial(Duration::from_millis(1)).max(Duration::from_millis(10));
    let consumer = broker.consumer(topic, group.as_str()).retry(retry).concurrency(4);
    bench.consume(consumer, handler, seen.count(3)).await?;
    ensure_eq!(seen.all(), ["b1", "a1", "a2"], "the order in which they were handled");
    Ok(())
}

async fn a_handler_past_its_time_limit_has_failed(bench: &Bench) -> Verdict {
    let (topic, group) = topic(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["job"]).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        seen.add(seen_as(&payload, &context));
        if context.attempt() == 1 {
            std::future::pending::<()>().await;
        }
        Ok(())
    };
    let consumer = broker
        .consumer(topic, group.as_str())
        .handler_timeout(SHORT)
        .retry(Retry::forever().initial(Duration::from_millis(1)));
    bench.consume(consumer, handler, seen.count(2)).await?;
    ensure_eq!(seen.all(), ["job 1", "job 2"], "the attempts");
    Ok(())
}

async fn what_a_handler_publishes_is_confirmed_before_its_message_is_settled(
    bench: &Bench,
) -> Verdict {
    let (topic, group) = topic(bench, 1).await?;
    let output = RAW.named(bench.topic("output", 1).await?);
    let listeners = bench.declared(output.name(), "listeners").await?;
    let missing = RAW.named(bench.name("missing")?);
    let broker = bench.broker().await?;
    let message = Message::new("job").with_correlation_id("talk");
    broker.publish_message(topic.name(), message).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        seen.add(seen_as(&payload, &context));
        // What is not confirmed is a failure of the handler, though it returns `Ok`.
        let to = if context.attempt() == 1 { missing } else { output };
        context.publish(to, &payload).await?;
        Ok(())
    };
    let retry = Retry::forever().initial(Duration::from_millis(1));
    let consumer = broker.consumer(topic, group.as_str()).retry(retry);
    bench.consume(consumer, handler, seen.count(2)).await?;
    ensure_eq!(seen.all(), ["job 1", "job 2"], "the attempts");
    let delivery = bench.join(output.name(), listeners).await?.next().await?;
    ensure_eq!(delivery.message().payload(), "job", "the output");
    ensure_eq!(delivery.message().correlation_id(), Some("talk"), "the conversation");
    delivery.ack();
    Ok(())
}

async fn a_consumer_that_stops_on_failure_says_why_and_leaves_the_message(
    bench: &Bench,
) -> Verdict {
    let (topic, group) = topic(bench, 1).await?;
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
    let texts = bench.join(topic.name(), group).await?.handle(1).await?;
    ensure_eq!(texts, ["job"], "what is left");
    Ok(())
}

async fn a_paused_consumer_begins_nothing_and_goes_on_when_resumed(bench: &Bench) -> Verdict {
    let (topic, group) = topic(bench, 1).await?;
    let broker = bench.broker().await?;
    let control = broker_api::Control::new();
    let seen = Seen::default();
    let handler = async |payload: Bytes, _| {
        // Paused from within, so that nothing can slip through between the two.
        if payload == "1" {
            control.pause();
        }
        seen.add(String::from_utf8_lossy(&payload));
        Ok(())
    };
    let consumer = broker.consumer(topic, group.as_str()).control(&control);
    let done = async {
        bench.publish(topic.name(), 0, ["1", "2"]).await?;
        seen.count(1).await?;
        // Another group getting both shows that the second one is there to be had.
        let other = bench.group("other")?;
        let spec = broker_api::GroupSpec::new(other);
        broker.declare_group(topic.name(), &spec).await?;
        bench.publish(topic.name(), 0, ["3"]).await?;
        let mut inbox = bench.join(topic.name(), other).await?;
        while inbox.handle(1).await? != ["3"] {}
        ensure_eq!(seen.all(), ["1"], "what was handled while paused");
        control.resume();
        seen.count(3).await
    };
    bench.consume(consumer, handler, done).await?;
    ensure_eq!(seen.all(), ["1", "2", "3"], "what was handled in all");
    Ok(())
}

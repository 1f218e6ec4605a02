//! What a consumer does with a message that fails for now.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use broker_api::{Broker, Bytes, Consumer, Context, GroupSpec, Message, Retry, Unprocessable};

use super::super::bench::Bench;
use super::super::case::cases;
use super::super::fault::{Verdict, ensure, ensure_eq};
use super::super::handling::Seen;
use super::handler::{quick, seen_as, work};

cases! { "retry";
    a_delayed_retry_lets_later_messages_pass_and_keeps_count,
    a_delayed_retry_does_not_come_before_its_time,
    a_delayed_retry_concerns_no_other_group,
    a_delayed_retry_survives_the_consumer_that_asked_for_it,
    delays_follow_each_other_and_then_comes_the_dead_letter,
    attempts_in_place_end_with_their_total_time,
    attempts_in_place_leave_the_member_in_its_group,
    a_failing_key_holds_back_only_itself,
    a_delay_in_order_holds_back_its_key_and_no_other,
    a_paused_consumer_begins_nothing_and_goes_on_when_resumed,
}

const SHORT: Duration = Duration::from_millis(200);

async fn a_delayed_retry_lets_later_messages_pass_and_keeps_count(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
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

async fn a_delayed_retry_does_not_come_before_its_time(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["job"]).await?;
    let seen = Seen::default();
    let calls = RefCell::new(Vec::new());
    let handler = async |payload: Bytes, context: Context| {
        calls.borrow_mut().push(Instant::now());
        seen.add(seen_as(&payload, &context));
        if context.attempt() == 1 { Err("not now".into()) } else { Ok(()) }
    };
    let consumer = broker.consumer(topic, group.as_str()).retry(Retry::none().delays([SHORT]));
    bench.consume(consumer, handler, seen.count(2)).await?;
    ensure_eq!(seen.all(), ["job 1", "job 2"], "the attempts");
    let calls = calls.into_inner();
    let waited = calls[1].duration_since(calls[0]);
    // Times in headers are whole milliseconds.
    let least = SHORT - Duration::from_millis(2);
    ensure!(waited >= least, "it came after {waited:?} already");
    Ok(())
}

async fn a_delayed_retry_concerns_no_other_group(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let other = bench.group("other")?;
    let broker = bench.broker().await?;
    broker.declare_group(topic.name(), &GroupSpec::new(other)).await?;
    bench.publish(topic.name(), 0, ["job"]).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        seen.add(seen_as(&payload, &context));
        if seen.all().len() == 1 { Err("not now".into()) } else { Ok(()) }
    };
    let consumer = broker.consumer(topic, group.as_str()).retry(Retry::none().delays([SHORT]));
    bench.consume(consumer, handler, seen.count(2)).await?;
    bench.mark(topic.name(), 1).await?;
    let others = bench.join(topic.name(), other).await?.texts_before_markers(1).await?;
    ensure_eq!(others, ["job"], "what the other group got, in all");
    Ok(())
}

async fn a_delayed_retry_survives_the_consumer_that_asked_for_it(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
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
    let (topic, group) = work(bench, 1).await?;
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
    let (first, last) = (letter.first_failure, letter.last_failure);
    ensure!(first.is_some_and(|at| Some(at + 2 * SHORT) <= last), "no delay between: {letter:?}");
    ensure!(letter.message.headers().is_empty(), "headers were added: {letter:?}");
    Ok(())
}

async fn attempts_in_place_end_with_their_total_time(bench: &Bench) -> Verdict {
    bench.require_replay().await?;
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    let letters = bench.made_by_consumer(topic.name(), group, "dlt")?;
    bench.publish(topic.name(), 0, ["job"]).await?;
    // Pauses of 10, 20 and 40 ms fit into 100 ms together, one of 80 ms more does not.
    let retry = Retry::forever()
        .initial(Duration::from_millis(10))
        .jitter(false)
        .total(Duration::from_millis(100));
    let consumer = broker.consumer(topic, group.as_str()).retry(retry);
    let arrived = async { bench.dead_letters(&broker, letters, 1).await.map(drop) };
    bench.consume(consumer, async |_, _| Err("never".into()), arrived).await?;
    let letter = &bench.dead_letters(&broker, letters, 1).await?[0];
    ensure_eq!(letter.attempts, 4, "attempts in the dead letter");
    Ok(())
}

async fn attempts_in_place_leave_the_member_in_its_group(bench: &Bench) -> Verdict {
    // Seven seconds together: longer than the shortest time for which a member can be silent
    // where that is limited.
    const ATTEMPTS: u32 = 8;
    let pause = Duration::from_secs(1);
    let retry = Retry::forever().initial(pause).max(pause).jitter(false);
    let (topic, group) = work(bench, 1).await?;
    bench.publish(topic.name(), 0, ["job"]).await?;
    let seen = Seen::default();
    let handler = async |name: &str, context: Context| {
        seen.add(format!("{name} {}", context.attempt()));
        if context.attempt() < ATTEMPTS { Err("not now".into()) } else { Ok(()) }
    };
    let (one, other) = (bench.connect().await?, bench.connect().await?);
    let consumer = |broker: &Broker| {
        let consumer = broker.consumer(topic, group.as_str()).retry(retry.clone());
        // So there is no second topic: a member with one partition keeps it when another joins.
        consumer.unprocessable(Unprocessable::Discard)
    };
    let (busy, idle) = (consumer(&one), consumer(&other));
    let all = async {
        seen.count(1).await?;
        let all = seen.count(ATTEMPTS as usize);
        bench.consume(idle, async |_, context| handler("another", context).await, all).await
    };
    bench.consume(busy, async |_, context| handler("it", context).await, all).await?;
    let wanted: Vec<_> = (1..=ATTEMPTS).map(|attempt| format!("it {attempt}")).collect();
    ensure_eq!(seen.all(), wanted, "who made which attempt");
    bench.mark(topic.name(), 1).await?;
    let rest = bench.join(topic.name(), group).await?.texts_before_markers(1).await?;
    ensure!(rest.is_empty(), "it came again: {rest:?}");
    Ok(())
}

async fn a_failing_key_holds_back_only_itself(bench: &Bench) -> Verdict {
    holds_back_its_key_alone(bench, |consumer| consumer.retry(quick()).concurrency(4)).await
}

async fn a_delay_in_order_holds_back_its_key_and_no_other(bench: &Bench) -> Verdict {
    let retry = Retry::none().delays([SHORT; 100]).in_order();
    holds_back_its_key_alone(bench, |consumer| consumer.retry(retry)).await
}

async fn holds_back_its_key_alone(
    bench: &Bench,
    configured: impl FnOnce(Consumer<Bytes>) -> Consumer<Bytes>,
) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
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
    let consumer = configured(broker.consumer(topic, group.as_str()));
    bench.consume(consumer, handler, seen.count(3)).await?;
    ensure_eq!(seen.all(), ["b1", "a1", "a2"], "the order in which they were handled");
    Ok(())
}

async fn a_paused_consumer_begins_nothing_and_goes_on_when_resumed(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
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

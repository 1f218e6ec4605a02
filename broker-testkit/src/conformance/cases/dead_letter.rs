//! What cannot be handled ends in the dead-letter topic, and comes back from there.

use std::sync::atomic::{AtomicBool, Ordering};

use broker_api::dead_letter::{Filter, Pace};
use broker_api::{Broker, Consumer, GroupSpec, Message, Name, Permanent, Retry, Topic};

use super::super::bench::Bench;
use super::super::case::cases;
use super::super::fault::{Fault, Verdict, ensure, ensure_eq};
use super::super::handling::Seen;
use super::super::inbox::text;

cases! { "dead_letter";
    what_cannot_be_decoded_goes_there_at_once_and_the_next_message_is_handled,
    what_fails_for_good_goes_there_at_the_first_attempt,
    what_fails_every_attempt_goes_there_with_the_number_of_attempts,
    payload_key_and_headers_are_kept_and_the_origin_is_told,
    the_original_is_settled_once_the_dead_letter_is_stored,
    several_topics_can_share_one,
    redriving_reaches_the_group_that_failed_and_no_other,
    what_fails_again_after_a_redrive_is_a_new_dead_letter_with_its_history,
    what_was_redriven_or_discarded_is_off_the_list,
    a_filter_picks_by_topic_key_and_kind,
}

const NUMBERS: Topic<u32> = Topic::unchecked("numbers");

/// A topic of numbers with one partition, and a group of it.
async fn numbers(bench: &Bench) -> Result<(Topic<u32>, Name, Name), Fault> {
    bench.require_replay().await?;
    let topic = NUMBERS.named(bench.topic("numbers", 1).await?);
    let group = bench.declared(topic.name(), "group").await?;
    bench.made_by_consumer(topic.name(), group, "retry")?;
    let letters = bench.made_by_consumer(topic.name(), group, "dlt")?;
    bench.made_by_consumer(topic.name(), group, "dlt.done")?;
    Ok((topic, group, letters))
}

fn consumer(broker: &Broker, topic: Topic<u32>, group: Name) -> Consumer<u32> {
    broker.consumer(topic, group.as_str()).retry(Retry::none())
}

async fn what_cannot_be_decoded_goes_there_at_once_and_the_next_message_is_handled(
    bench: &Bench,
) -> Verdict {
    let (topic, group, letters) = numbers(bench).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["not a number", "7"]).await?;
    let seen = Seen::default();
    let handler = async |number: u32, _| {
        seen.add(number.to_string());
        Ok(())
    };
    bench.consume(consumer(&broker, topic, group), handler, seen.count(1)).await?;
    ensure_eq!(seen.all(), ["7"], "what the handler saw");
    let letters = bench.dead_letters(&broker, letters, 1).await?;
    ensure_eq!(letters.len(), 1, "dead letters: {letters:?}");
    ensure_eq!(letters[0].kind.as_deref(), Some("Codec"), "the kind of the error");
    ensure_eq!(text(&letters[0].message), "not a number", "the payload");
    ensure_eq!(letters[0].attempts, 0, "attempts of a handler that was never called");
    Ok(())
}

async fn what_fails_for_good_goes_there_at_the_first_attempt(bench: &Bench) -> Verdict {
    let (topic, group, letters) = numbers(bench).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["1"]).await?;
    let consumer = consumer(&broker, topic, group).retry(Retry::forever());
    let handler = async |_, _| Err("no such account").permanent();
    let arrived = async { bench.dead_letters(&broker, letters, 1).await.map(drop) };
    bench.consume(consumer, handler, arrived).await?;
    let letter = &bench.dead_letters(&broker, letters, 1).await?[0];
    ensure_eq!((letter.attempts, letter.kind.as_deref()), (1, Some("Handler")), "{letter:?}");
    let error = letter.error.as_deref().unwrap_or_default();
    ensure!(error.contains("no such account"), "the reason is missing: {error:?}");
    Ok(())
}

async fn what_fails_every_attempt_goes_there_with_the_number_of_attempts(bench: &Bench) -> Verdict {
    let (topic, group, letters) = numbers(bench).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["1"]).await?;
    let seen = Seen::default();
    let handler = async |_, context: broker_api::Context| {
        seen.add(context.attempt().to_string());
        Err("not now".into())
    };
    let retry = Retry::exponential().initial(std::time::Duration::from_millis(1)).attempts(3);
    let arrived = async { bench.dead_letters(&broker, letters, 1).await.map(drop) };
    bench.consume(consumer(&broker, topic, group).retry(retry), handler, arrived).await?;
    ensure_eq!(seen.all(), ["1", "2", "3"], "the attempts that the handler was told");
    let letter = &bench.dead_letters(&broker, letters, 1).await?[0];
    ensure_eq!(letter.attempts, 3, "attempts");
    ensure!(letter.first_failure <= letter.last_failure, "first after last failure: {letter:?}");
    ensure!(letter.first_failure.is_some(), "no time of the first failure: {letter:?}");
    Ok(())
}

async fn payload_key_and_headers_are_kept_and_the_origin_is_told(bench: &Bench) -> Verdict {
    let (topic, group, letters) = numbers(bench).await?;
    let broker = bench.broker().await?;
    let message = Message::new(vec![0xff, 0, 0xfe])
        .with_key(vec![0, 0xff])
        .with_header("b", "1")
        .with_header("a", vec![0xff])
        .with_header("b", "2")
        .with_content_type("application/x-odd")
        .with_correlation_id("talk");
    broker.publish_message(topic.name(), message.clone()).id("the-id").partition(0).await?;
    let arrived = async { bench.dead_letters(&broker, letters, 1).await.map(drop) };
    bench.consume(consumer(&broker, topic, group), async |_, _| Ok(()), arrived).await?;
    let letter = bench.dead_letters(&broker, letters, 1).await?.remove(0);
    let kept = &letter.message;
    ensure_eq!(kept.payload(), message.payload(), "the payload");
    ensure_eq!(kept.key(), message.key(), "the key");
    ensure_eq!(kept.headers(), message.headers(), "the headers");
    ensure_eq!(kept.content_type(), message.content_type(), "the content type");
    ensure_eq!(kept.correlation_id(), message.correlation_id(), "the correlation id");
    ensure_eq!(kept.id().map(ToString::to_string).as_deref(), Some("the-id"), "the id");
    ensure_eq!(letter.topic.as_deref(), Some(topic.name().as_str()), "the original topic");
    ensure_eq!(letter.group.as_deref(), Some(group.as_str()), "the group");
    ensure_eq!(letter.partition, Some(0), "the original partition");
    Ok(())
}

async fn the_original_is_settled_once_the_dead_letter_is_stored(bench: &Bench) -> Verdict {
    let (topic, group, letters) = numbers(bench).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["bad"]).await?;
    let arrived = async { bench.dead_letters(&broker, letters, 1).await.map(drop) };
    bench.consume(consumer(&broker, topic, group), async |_, _| Ok(()), arrived).await?;
    bench.mark(topic.name(), 1).await?;
    let rest = bench.join(topic.name(), group).await?.texts_before_markers(1).await?;
    ensure!(rest.is_empty(), "it came again although it is in the dead letters: {rest:?}");
    Ok(())
}

async fn several_topics_can_share_one(bench: &Bench) -> Verdict {
    let shared = bench.name("failed-events")?;
    bench.delete_afterwards(Name::intern(&format!("{shared}.done"))?);
    let broker = bench.broker().await?;
    for n in 1..=2 {
        let (topic, group, _) = numbers(bench).await?;
        bench.publish(topic.name(), 0, ["bad"]).await?;
        let consumer = consumer(&broker, topic, group).dead_letter_topic(shared.as_str());
        let arrived = async { bench.dead_letters(&broker, shared, n).await.map(drop) };
        bench.consume(consumer, async |_, _| Ok(()), arrived).await?;
        let filter = Filter { topic: Some(topic.name().as_str().into()), ..Filter::default() };
        let own = broker.dead_letters(shared).list(&filter).await?;
        ensure_eq!(own.len(), 1, "dead letters of one of the topics");
    }
    Ok(())
}

async fn redriving_reaches_the_group_that_failed_and_no_other(bench: &Bench) -> Verdict {
    let (topic, group, letters) = numbers(bench).await?;
    let other = bench.group("other")?;
    let broker = bench.broker().await?;
    broker.declare_group(topic.name(), &GroupSpec::new(other)).await?;
    bench.publish(topic.name(), 0, ["7"]).await?;

    let mended = AtomicBool::new(false);
    let seen = Seen::default();
    let handler = async |number: u32, context: broker_api::Context| {
        if !mended.load(Ordering::SeqCst) {
            return Err("not mended").permanent();
        }
        seen.add(format!("{number} at attempt {}", context.attempt()));
        Ok(())
    };
    let redriven = async {
        bench.dead_letters(&broker, letters, 1).await?;
        mended.store(true, Ordering::SeqCst);
        let redriven =
            broker.dead_letters(letters).redrive(&Filter::default(), Pace::PerSecond(100)).await?;
        ensure_eq!(redriven.len(), 1, "redriven dead letters");
        seen.count(1).await
    };
    bench.consume(consumer(&broker, topic, group), handler, redriven).await?;
    ensure_eq!(seen.all(), ["7 at attempt 2"], "what the failed group handled");

    bench.mark(topic.name(), 1).await?;
    let others = bench.join(topic.name(), other).await?.texts_before_markers(1).await?;
    ensure_eq!(others, ["7"], "what the other group got, in all");
    Ok(())
}

async fn what_fails_again_after_a_redrive_is_a_new_dead_letter_with_its_history(
    bench: &Bench,
) -> Verdict {
    let (topic, group, letters) = numbers(bench).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["7"]).await?;
    let again = async {
        let first = bench.dead_letters(&broker, letters, 1).await?.remove(0);
        broker.dead_letters(letters).redrive(&Filter::default(), Pace::Unlimited).await?;
        loop {
            let second = bench.dead_letters(&broker, letters, 1).await?.remove(0);
            if second.id != first.id {
                ensure_eq!((first.redrives, second.redrives), (0, 1), "redrives");
                ensure_eq!((first.attempts, second.attempts), (1, 2), "attempts");
                ensure_eq!(second.first_failure, first.first_failure, "the first failure");
                ensure_eq!(second.message.id(), first.message.id(), "the message's id");
                ensure_eq!(second.topic, first.topic, "the original topic");
                return Ok(());
            }
        }
    };
    let handler = async |_, _| Err("still not").permanent();
    bench.consume(consumer(&broker, topic, group), handler, again).await
}

async fn what_was_redriven_or_discarded_is_off_the_list(bench: &Bench) -> Verdict {
    let (topic, group, letters) = numbers(bench).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["one", "two", "three"]).await?;
    let arrived = async { bench.dead_letters(&broker, letters, 3).await.map(drop) };
    bench.consume(consumer(&broker, topic, group), async |_, _| Ok(()), arrived).await?;

    let all = bench.dead_letters(&broker, letters, 3).await?;
    let only = |n: usize| Filter { ids: Some([all[n].id.clone()].into()), ..Filter::default() };
    let left = async || -> Result<Vec<String>, Fault> {
        let left = broker.dead_letters(letters).list(&Filter::default()).await?;
        Ok(left.iter().map(|letter| text(&letter.message)).collect())
    };
    broker.dead_letters(letters).redrive(&only(1), Pace::Unlimited).await?;
    ensure_eq!(left().await?, ["one", "three"], "after the redrive of one");
    broker.dead_letters(letters).discard(&only(0)).await?;
    ensure_eq!(left().await?, ["three"], "after the discard of one");
    let again = broker.dead_letters(letters).redrive(&only(1), Pace::Unlimited).await?;
    ensure!(again.is_empty(), "a dead letter was redriven twice: {again:?}");
    Ok(())
}

async fn a_filter_picks_by_topic_key_and_kind(bench: &Bench) -> Verdict {
    let (topic, group, letters) = numbers(bench).await?;
    let broker = bench.broker().await?;
    for (payload, key) in [("bad", "a"), ("1", "b")] {
        let message = Message::new(payload).with_key(key);
        broker.publish_message(topic.name(), message).await?;
    }
    let arrived = async { bench.dead_letters(&broker, letters, 2).await.map(drop) };
    let handler = async |_, _| Err("no").permanent();
    bench.consume(consumer(&broker, topic, group), handler, arrived).await?;

    let list = async |filter: Filter| -> Result<Vec<String>, Fault> {
        let letters = broker.dead_letters(letters).list(&filter).await?;
        Ok(letters.iter().map(|letter| text(&letter.message)).collect())
    };
    let any = Filter::default;
    ensure_eq!(list(Filter { key: Some(b"b".into()), ..any() }).await?, ["1"], "by key");
    ensure_eq!(list(Filter { kind: Some("Codec".into()), ..any() }).await?, ["bad"], "by kind");
    let elsewhere = Filter { topic: Some("elsewhere".into()), ..any() };
    ensure!(list(elsewhere).await?.is_empty(), "by a topic that none is of");
    let later = Filter { since: Some(std::time::SystemTime::now()), ..any() };
    ensure!(list(later).await?.is_empty(), "by a time after all");
    Ok(())
}

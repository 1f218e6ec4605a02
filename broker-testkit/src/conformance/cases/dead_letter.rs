//! What cannot be handled ends in the dead-letter topic.

use broker_api::dead_letter::Filter;
use broker_api::{Broker, Consumer, Message, Name, Permanent, Read, Retry, Topic, TopicSpec};
use garde::Validate;
use serde::{Deserialize, Serialize};

use super::super::bench::Bench;
use super::super::case::cases;
use super::super::fault::{Fault, Verdict, ensure, ensure_eq, ensure_kind};
use super::super::handling::{Seen, stopper};
use super::super::inbox::text;

cases! { "dead_letter";
    what_cannot_be_decoded_goes_there_at_once_and_the_next_message_is_handled,
    what_fails_for_good_goes_there_at_the_first_attempt,
    what_fails_every_attempt_goes_there_with_the_number_of_attempts,
    payload_key_and_headers_are_kept_and_the_origin_is_told,
    what_is_invalid_goes_there_with_the_paths_of_its_fields,
    the_names_of_the_added_headers_are_the_same_everywhere,
    the_original_is_settled_once_the_dead_letter_is_stored,
    what_cannot_be_stored_there_is_not_settled,
    several_topics_can_share_one,
}

const NUMBERS: Topic<u32> = Topic::unchecked("numbers");

/// A topic of numbers with one partition, and a group of it.
pub(super) async fn numbers(bench: &Bench) -> Result<(Topic<u32>, Name, Name), Fault> {
    bench.require_replay().await?;
    let topic = NUMBERS.named(bench.topic("numbers", 1).await?);
    let group = bench.declared(topic.name(), "group").await?;
    bench.made_by_consumer(topic.name(), group, "retry")?;
    let letters = bench.made_by_consumer(topic.name(), group, "dlt")?;
    bench.made_by_consumer(topic.name(), group, "dlt.done")?;
    Ok((topic, group, letters))
}

pub(super) fn consumer(broker: &Broker, topic: Topic<u32>, group: Name) -> Consumer<u32> {
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

#[derive(Deserialize, Serialize, Validate)]
struct Person {
    #[garde(length(min = 1))]
    name: String,
    #[garde(range(max = 150))]
    age: u32,
}

const PEOPLE: Topic<Person> = Topic::new("people");

async fn what_is_invalid_goes_there_with_the_paths_of_its_fields(bench: &Bench) -> Verdict {
    let (topic, group, letters) = numbers(bench).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, [r#"{"name":"","age":200}"#]).await?;
    let people = PEOPLE.named(topic.name());
    let consumer = broker.consumer(people, group.as_str()).retry(Retry::forever());
    let arrived = async { bench.dead_letters(&broker, letters, 1).await.map(drop) };
    bench.consume(consumer, async |_, _| Ok(()), arrived).await?;
    let letter = &bench.dead_letters(&broker, letters, 1).await?[0];
    ensure_eq!((letter.attempts, letter.kind.as_deref()), (0, Some("Invalid")), "{letter:?}");
    let error = letter.error.as_deref().unwrap_or_default();
    let paths = ["name: ", "age: "].map(|path| error.contains(path));
    ensure_eq!(paths, [true, true], "whether the paths name and age are in: {error}");
    Ok(())
}

async fn the_names_of_the_added_headers_are_the_same_everywhere(bench: &Bench) -> Verdict {
    let (topic, group, letters) = numbers(bench).await?;
    let broker = bench.broker().await?;
    let message = Message::new("7").with_header("own", "1");
    broker.publish_message(topic.name(), message).await?;
    let arrived = async { bench.dead_letters(&broker, letters, 1).await.map(drop) };
    let handler = async |_, _| Err("no").permanent();
    bench.consume(consumer(&broker, topic, group), handler, arrived).await?;
    let raw = bench.read(Read::new(letters)).await?.rest().await?.remove(0);
    let mut names: Vec<_> = raw.message.headers().iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    // Not every broker has offsets.
    names.retain(|name| *name != "x-broker-original-offset");
    let wanted = [
        "own",
        "x-broker-attempts",
        "x-broker-dead-letter-id",
        "x-broker-error-kind",
        "x-broker-error-message",
        "x-broker-first-failure-ms",
        "x-broker-group",
        "x-broker-last-failure-ms",
        "x-broker-original-partition",
        "x-broker-original-topic",
    ];
    ensure_eq!(names, wanted, "the names of the headers");
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

async fn what_cannot_be_stored_there_is_not_settled(bench: &Bench) -> Verdict {
    let (topic, group, _) = numbers(bench).await?;
    let broker = bench.broker().await?;
    // The added headers alone are more than this.
    let small = TopicSpec::new(bench.name("small")?).partitions(1).max_message_bytes(200);
    bench.create(&small).await?;
    bench.publish(topic.name(), 0, ["bad", "7"]).await?;
    let (stop, stopped) = stopper();
    let handler = async |_, _| {
        stop.now();
        Ok(())
    };
    let consumer = consumer(&broker, topic, group).dead_letter_topic(small.name.as_str());
    let running = consumer.until(stopped).run(handler);
    let ran = bench.within("the end of the consumer", running).await?;
    ensure_kind!(ran, TooLarge, "a consumer that cannot store a dead letter");
    let left = bench.join(topic.name(), group).await?.handle(2).await?;
    ensure_eq!(left, ["bad", "7"], "what is left");
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

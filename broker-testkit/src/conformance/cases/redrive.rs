//! Dead letters are looked at, put back, and discarded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use broker_api::dead_letter::{Filter, Pace};
use broker_api::{
    BoxError, Dedup, GroupSpec, Message, MessageId, Name, Permanent, RecentIds, async_trait,
};

use super::super::bench::Bench;
use super::super::case::cases;
use super::super::fault::{Fault, Verdict, ensure, ensure_eq};
use super::super::handling::Seen;
use super::super::inbox::{sorted, text};
use super::dead_letter::{consumer, numbers};

cases! { "redrive";
    redriving_reaches_the_group_that_failed_and_no_other,
    what_fails_again_after_a_redrive_is_a_new_dead_letter_with_its_history,
    an_interrupted_redrive_loses_nothing_and_goes_on,
    a_message_that_is_redriven_twice_is_known_by_its_id,
    a_redrive_keeps_to_its_pace,
    what_was_redriven_or_discarded_is_off_the_list,
    a_filter_picks_by_topic_key_and_kind,
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
    bench.mark(topic.name(), 1).await?;
    let others = bench.join(topic.name(), other).await?.texts_before_markers(1).await?;
    ensure_eq!(others, ["7"], "what the other group got, in all");
    ensure_eq!(seen.all(), ["7 at attempt 2"], "what the failed group handled");
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

async fn an_interrupted_redrive_loses_nothing_and_goes_on(bench: &Bench) -> Verdict {
    let (topic, group, letters) = numbers(bench).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["1", "2", "3"]).await?;
    let mended = AtomicBool::new(false);
    let seen = Seen::default();
    let handler = async |number: u32, _| {
        if !mended.load(Ordering::SeqCst) {
            return Err("not mended").permanent();
        }
        seen.add(number.to_string());
        Ok(())
    };
    let redriven = async {
        bench.dead_letters(&broker, letters, 3).await?;
        mended.store(true, Ordering::SeqCst);
        let (letters, all) = (broker.dead_letters(letters), Filter::default());
        // Interrupted between the first and the last.
        tokio::select! {
            done = letters.redrive(&all, Pace::PerSecond(1)) => drop(done?),
            first = seen.count(1) => first?,
        }
        letters.redrive(&all, Pace::Unlimited).await?;
        // The one at hand may have been put back twice.
        let all_of = |seen: &[String]| ["1", "2", "3"].iter().all(|n| seen.iter().any(|s| s == n));
        seen.until(all_of).await;
        let left = letters.list(&all).await?;
        ensure!(left.is_empty(), "still on the list: {left:?}");
        Ok(())
    };
    bench.consume(consumer(&broker, topic, group), handler, redriven).await?;
    let mut came = sorted(seen.all());
    came.dedup();
    ensure_eq!(came, ["1", "2", "3"], "what came back");
    Ok(())
}

/// Tells which ids it was asked for.
struct Asked {
    ids: Arc<Seen>,
    recent: RecentIds,
}

#[async_trait]
impl Dedup for Asked {
    async fn is_done(&self, group: Name, id: &MessageId) -> Result<bool, BoxError> {
        self.ids.add(id.to_string());
        self.recent.is_done(group, id).await
    }

    async fn done(&self, group: Name, id: &MessageId) -> Result<(), BoxError> {
        self.recent.done(group, id).await
    }
}

async fn a_message_that_is_redriven_twice_is_known_by_its_id(bench: &Bench) -> Verdict {
    let (topic, group, letters) = numbers(bench).await?;
    let broker = bench.broker().await?;
    broker.publish_message(topic.name(), Message::new("7")).id("the-id").await?;
    let mended = AtomicBool::new(false);
    let (handled, ids) = (Seen::default(), Arc::new(Seen::default()));
    let handler = async |number: u32, _| {
        if !mended.load(Ordering::SeqCst) {
            return Err("not mended").permanent();
        }
        handled.add(number.to_string());
        Ok(())
    };
    let twice = async {
        bench.dead_letters(&broker, letters, 1).await?;
        mended.store(true, Ordering::SeqCst);
        for copy in 2..=3 {
            let all = Filter::default();
            let redriven = broker.dead_letters(letters).redrive(&all, Pace::Unlimited).await?;
            ensure_eq!(redriven.len(), 1, "redriven dead letters");
            ids.count(copy).await?;
            // As if the process had ended before it was noted.
            broker.delete_topic(Name::intern(&format!("{letters}.done"))?).await?;
        }
        Ok(())
    };
    let dedup = Asked { ids: ids.clone(), recent: RecentIds::new(10) };
    let consumer = consumer(&broker, topic, group).dedup(dedup);
    bench.consume(consumer, handler, twice).await?;
    ensure_eq!(ids.all(), ["the-id"; 3], "the ids of the message, of its copy, and of the other");
    ensure_eq!(handled.all(), ["7"], "what the handler saw");
    Ok(())
}

async fn a_redrive_keeps_to_its_pace(bench: &Bench) -> Verdict {
    let (topic, group, letters) = numbers(bench).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["one", "two", "three"]).await?;
    let arrived = async { bench.dead_letters(&broker, letters, 3).await.map(drop) };
    bench.consume(consumer(&broker, topic, group), async |_, _| Ok(()), arrived).await?;
    let begun = Instant::now();
    let pace = bench.tamper().pace(Pace::PerSecond(10));
    let redriven = broker.dead_letters(letters).redrive(&Filter::default(), pace).await?;
    let took = begun.elapsed();
    let order: Vec<_> = redriven.iter().map(|letter| text(&letter.message)).collect();
    ensure_eq!(order, ["one", "two", "three"], "what was put back");
    ensure!(took >= Duration::from_millis(200), "three at ten in a second took {took:?} only");
    Ok(())
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
    let soon = Some(std::time::SystemTime::now() + Duration::from_secs(1));
    ensure_eq!(list(Filter { before: soon, ..any() }).await?, ["bad", "1"], "by a time before");
    let own = Filter { group: Some(group.as_str().into()), ..any() };
    ensure_eq!(list(own).await?, ["bad", "1"], "by the group");
    let others = Filter { group: Some("others".into()), ..any() };
    ensure!(list(others).await?.is_empty(), "by a group that none is of");
    Ok(())
}

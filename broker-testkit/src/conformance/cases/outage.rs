//! The broker stops and comes back. These cases run alone.

use std::time::Duration;

use broker_api::{Broker, Bytes, Context, Message, Name, Retry};

use super::exactly_once_churn::outputs_of_transactions_are_seen_once_through_an_outage;
use super::request::a_request_survives_an_outage;
use super::schedule::a_scheduled_message_survives_an_outage;
use crate::conformance::bench::Bench;
use crate::conformance::case::cases;
use crate::conformance::fault::{Verdict, ensure, ensure_eq};
use crate::conformance::handling::Seen;
use crate::conformance::inbox::{sorted, texts};
use crate::conformance::journal::{Journal, Member};

use super::handler::{seen_as, work};

cases! { super::OUTAGE;
    nothing_confirmed_is_lost_and_consuming_goes_on_by_itself,
    what_is_published_during_an_outage_waits_for_its_end,
    health_shows_an_outage_and_its_end,
    a_time_limit_that_passes_during_an_outage_tells_the_truth,
    what_was_unsettled_comes_back_after_an_outage,
    what_was_settled_before_closing_stays_settled_after_an_outage,
    a_delayed_retry_survives_an_outage,
    a_second_outage_is_survived_as_the_first,
    closing_during_an_outage_ends,
    a_scheduled_message_survives_an_outage,
    a_request_survives_an_outage,
    outputs_of_transactions_are_seen_once_through_an_outage [Transactions],
}

/// How long a publish may take here: longer than any broker takes to start.
const LIMIT: Duration = Duration::from_secs(100);

/// Publishes texts one after the other, each confirmed, of one key.
async fn publish(broker: &Broker, topic: Name, texts: &[String]) -> Verdict {
    for text in texts {
        let message = Message::new(text.clone()).with_key("the same");
        broker.publish_message(topic, message).timeout(LIMIT).await?;
    }
    Ok(())
}

/// Waits until the broker is known to be gone, or to be there.
async fn until_up(bench: &Bench, broker: &Broker, up: bool) -> Verdict {
    let what = if up { "health that is up again" } else { "health that is not up" };
    let look = || {
        let health = broker.health();
        if health.is_up() == up { Ok(()) } else { Err(format!("{health:?}")) }
    };
    bench.until(what, look).await
}

async fn nothing_confirmed_is_lost_and_consuming_goes_on_by_itself(bench: &Bench) -> Verdict {
    bench.require_outage()?;
    let topic = bench.topic("outage", 3).await?;
    let group = bench.declared(topic, "group").await?;
    let journal = Journal::new(bench.patience());
    let broker = bench.connect().await?;
    let member = Member::start(0, bench.join_at(&broker, topic, group, 50).await?, &journal);
    let publisher = bench.broker().await?;
    let (stopped, mut seen) = tokio::sync::watch::channel(0);
    // Four streams of messages that never pause; what is indeterminate is repeated, as an
    // application would, so that only duplicates are allowed.
    let stream = async |key: usize| -> Result<Vec<String>, crate::conformance::fault::Fault> {
        let mut confirmed = Vec::new();
        for n in 0.. {
            let text = format!("{key}-{n:06}");
            loop {
                let message = Message::new(text.clone()).with_key(format!("key-{key}"));
                match publisher.publish_message(topic, message).timeout(LIMIT).await {
                    Ok(_) => break,
                    Err(error) if error.is_permanent() => return Err(error.into()),
                    Err(_) => {}
                }
            }
            confirmed.push(text);
            // Twenty more after the broker is back.
            if *stopped.borrow() == 2 && n % 20 == 19 {
                break;
            }
        }
        Ok(confirmed)
    };
    let outage = async {
        journal.wait_for(100).await?;
        bench.stop_broker().await?;
        until_up(bench, &publisher, false).await?;
        bench.start_broker().await?;
        until_up(bench, &publisher, true).await?;
        let handled = journal.entries().len();
        journal.wait("consuming to go on", |entries| entries.len() > handled + 20).await?;
        stopped.send_replace(2);
        Verdict::Ok(())
    };
    let (a, b, c, d, outage) = tokio::join!(stream(0), stream(1), stream(2), stream(3), outage);
    outage?;
    let confirmed = [a?, b?, c?, d?].concat();
    seen.mark_unchanged();
    journal.wait_for(confirmed.len()).await?;
    member.leave().await?;
    let mut came = sorted(journal.texts());
    came.dedup();
    ensure_eq!(
        came.len(),
        sorted(confirmed.clone()).len(),
        "different messages handled, of those confirmed"
    );
    ensure_eq!(came, sorted(confirmed), "what was confirmed and what was handled");
    journal.ensure_key_order()
}

async fn what_is_published_during_an_outage_waits_for_its_end(bench: &Bench) -> Verdict {
    bench.require_outage()?;
    let topic = bench.topic("outage", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.connect().await?;
    publish(&broker, topic, &["before".into()]).await?;
    bench.stop_broker().await?;
    until_up(bench, &broker, false).await?;
    let mut confirmations = Vec::new();
    for text in texts("a", 20) {
        let publish = broker.publish_message(topic, Message::new(text)).timeout(LIMIT);
        confirmations.push(publish.enqueue().await?);
    }
    bench.start_broker().await?;
    for confirmation in confirmations {
        bench.within("the confirmation of a message that waited", confirmation).await??;
    }
    let wanted = [vec!["before".to_owned()], texts("a", 20)].concat();
    let came = bench.join_at(&broker, topic, group, 50).await?.handle(21).await?;
    ensure_eq!(came, wanted, "published before and during the outage");
    Ok(())
}

async fn health_shows_an_outage_and_its_end(bench: &Bench) -> Verdict {
    bench.require_outage()?;
    let topic = bench.topic("outage", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let publisher = bench.connect().await?;
    let consumer = bench.connect().await?;
    let mut inbox = bench.join_at(&consumer, topic, group, 10).await?;
    publish(&publisher, topic, &["a".into()]).await?;
    ensure_eq!(inbox.handle(1).await?, ["a"], "before the outage");
    ensure!(publisher.health().is_up(), "before: {:?}", publisher.health());
    bench.stop_broker().await?;
    until_up(bench, &publisher, false).await?;
    until_up(bench, &consumer, false).await?;
    bench.start_broker().await?;
    until_up(bench, &publisher, true).await?;
    until_up(bench, &consumer, true).await?;
    publish(&publisher, topic, &["b".into()]).await?;
    // What was settled and not flushed may come again.
    loop {
        let text = inbox.handle(1).await?;
        if text == ["b"] {
            return Ok(());
        }
        ensure_eq!(text, ["a"], "after the outage");
    }
}

async fn a_time_limit_that_passes_during_an_outage_tells_the_truth(bench: &Bench) -> Verdict {
    bench.require_outage()?;
    let topic = bench.topic("outage", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.connect().await?;
    publish(&broker, topic, &["before".into()]).await?;
    bench.stop_broker().await?;
    let mut certain = Vec::new();
    for text in texts("lost", 3) {
        let publish = broker.publish_message(topic, Message::new(text.clone()));
        match publish.timeout(Duration::from_millis(500)).await {
            Ok(_) => ensure!(false, "{text} was confirmed although the broker is stopped"),
            Err(error) => {
                ensure!(!error.is_permanent(), "an outage is not permanent: {error:?}");
                if error.is_transient() {
                    certain.push(text);
                }
            }
        }
    }
    bench.start_broker().await?;
    publish(&broker, topic, &["after".into()]).await?;
    bench.mark(topic, 1).await?;
    let came = bench.join_at(&broker, topic, group, 50).await?.texts_before_markers(1).await?;
    let wrong: Vec<_> = came.iter().filter(|text| certain.contains(text)).collect();
    ensure!(wrong.is_empty(), "refused for certain, and published all the same: {wrong:?}");
    for text in ["before", "after"] {
        ensure!(came.iter().any(|came| came == text), "{text} the outage is lost: {came:?}");
    }
    Ok(())
}

async fn what_was_unsettled_comes_back_after_an_outage(bench: &Bench) -> Verdict {
    bench.require_outage()?;
    let topic = bench.topic("outage", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.connect().await?;
    publish(&broker, topic, &texts("a", 10)).await?;
    let mut inbox = bench.join_at(&broker, topic, group, 100).await?;
    let held = inbox.take(10).await?;
    bench.stop_broker().await?;
    until_up(bench, &broker, false).await?;
    bench.start_broker().await?;
    until_up(bench, &broker, true).await?;
    drop(held);
    let journal = Journal::new(bench.patience());
    let member = Member::start(0, inbox, &journal);
    journal.wait_for(10).await?;
    journal.ensure_key_order()?;
    member.leave().await?;
    bench.mark(topic, 1).await?;
    let rest = bench.join(topic, group).await?.texts_before_markers(1).await?;
    ensure_eq!(rest, Vec::<String>::new(), "handled after the outage and before the member left");
    Ok(())
}

async fn what_was_settled_before_closing_stays_settled_after_an_outage(bench: &Bench) -> Verdict {
    bench.require_outage()?;
    let topic = bench.topic("outage", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.connect().await?;
    publish(&broker, topic, &texts("a", 10)).await?;
    let mut inbox = bench.join_at(&broker, topic, group, 1).await?;
    ensure_eq!(inbox.handle(6).await?, texts("a", 10)[..6], "before the outage");
    inbox.close().await?;
    bench.stop_broker().await?;
    until_up(bench, &broker, false).await?;
    bench.start_broker().await?;
    publish(&broker, topic, &["after".into()]).await?;
    let came = bench.join_at(&broker, topic, group, 50).await?.handle(5).await?;
    ensure_eq!(came, [&texts("a", 10)[6..], &["after".to_owned()]].concat(), "after the outage");
    Ok(())
}

async fn a_delayed_retry_survives_an_outage(bench: &Bench) -> Verdict {
    bench.require_outage()?;
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.connect().await?;
    bench.publish(topic.name(), 0, ["job", "next"]).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        seen.add(seen_as(&payload, &context));
        match payload == "job" && context.attempt() == 1 {
            true => Err("not now".into()),
            false => Ok(()),
        }
    };
    let delay = Duration::from_secs(3);
    let consumer = broker.consumer(topic, group.as_str()).retry(Retry::none().delays([delay]));
    let outage = async {
        // The next message is only begun when the first one has been put off.
        seen.until(|seen| seen.iter().any(|seen| seen == "next 1")).await;
        bench.stop_broker().await?;
        until_up(bench, &broker, false).await?;
        bench.start_broker().await?;
        seen.until(|seen| seen.iter().any(|seen| seen == "job 2")).await;
        Ok(())
    };
    bench.consume(consumer, handler, outage).await?;
    Ok(broker.close().await?)
}

async fn a_second_outage_is_survived_as_the_first(bench: &Bench) -> Verdict {
    bench.require_outage()?;
    let topic = bench.topic("outage", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.connect().await?;
    let journal = Journal::new(bench.patience());
    let member = Member::start(0, bench.join_at(&broker, topic, group, 50).await?, &journal);
    for round in 0..3 {
        let texts = texts(&round.to_string(), 10);
        publish(&broker, topic, &texts).await?;
        journal.wait_for((round + 1) * 10).await?;
        if round < 2 {
            bench.stop_broker().await?;
            until_up(bench, &broker, false).await?;
            bench.start_broker().await?;
        }
    }
    journal.ensure_key_order()?;
    until_up(bench, &broker, true).await?;
    member.leave().await
}

async fn closing_during_an_outage_ends(bench: &Bench) -> Verdict {
    bench.require_outage()?;
    let topic = bench.topic("outage", 1).await?;
    let group = bench.declared(topic, "group").await?;
    let broker = bench.connect().await?;
    publish(&broker, topic, &["a".into()]).await?;
    let mut inbox = bench.join_at(&broker, topic, group, 10).await?;
    let held = inbox.next().await?;
    bench.stop_broker().await?;
    until_up(bench, &broker, false).await?;
    let late = broker.publish_message(topic, Message::new("late")).timeout(Duration::from_secs(2));
    let late = late.enqueue().await?;
    held.ack();
    // It may say that not everything could be flushed, but it has to end.
    let closed = bench.within("closing while the broker is away", broker.close()).await?;
    bench.start_broker().await?;
    let late = bench.within("the answer to a message of then", late).await?;
    if let Err(error) = closed {
        ensure!(!error.to_string().is_empty(), "an error without words");
    }
    if let Err(error) = late {
        ensure!(!error.is_permanent(), "an outage is not permanent: {error:?}");
    }
    Ok(())
}

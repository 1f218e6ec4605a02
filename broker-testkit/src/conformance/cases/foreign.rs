//! Messages of other clients.

use std::time::Duration;

use broker_api::{Bytes, Context, Name, Retry};

use crate::conformance::bench::Bench;
use crate::conformance::case::cases;
use crate::conformance::fault::{Verdict, ensure, ensure_eq};
use crate::conformance::fixture::Dress;
use crate::conformance::handling::Seen;
use crate::conformance::inbox::{sorted, text, texts};

use super::handler::{seen_as, work};

cases! { "foreign";
    a_message_with_nothing_but_a_payload_is_consumed,
    a_message_with_odd_headers_is_consumed_and_the_next_one_too,
    a_foreign_message_can_be_requeued_and_published_again,
    what_a_stranger_says_of_attempts_counts_for_nothing,
    what_a_stranger_puts_into_a_retry_topic_is_handled_and_does_no_harm,
}

/// The headers of a message that was tried before, with numbers that are as large as can be, and
/// with values that are none.
const FORGED: [&[(&str, &str)]; 2] = [
    &[
        ("x-broker-original-partition", "4294967295"),
        ("x-broker-original-offset", "18446744073709551615"),
        ("x-broker-attempts", "4294967295"),
        ("x-broker-first-failure-ms", "18446744073709551615"),
        ("x-broker-last-failure-ms", "18446744073709551615"),
        ("x-broker-redrives", "4294967295"),
        ("x-broker-delays", "18446744073709551615"),
        ("x-broker-due-ms", "18446744073709551615"),
    ],
    &[
        ("x-broker-original-topic", "no name!"),
        ("x-broker-group", "somebody else's"),
        ("x-broker-attempts", "many"),
        ("x-broker-first-failure-ms", "-1"),
        ("x-broker-redrives", "1e3"),
        ("x-broker-delays", "-1"),
        ("x-broker-due-ms", "soon"),
        ("x-broker-dead-letter-id", "no id"),
        ("x-broker-left-out", "nothing"),
        ("traceparent", "00-00000000000000000000000000000000-0000000000000000-ff"),
    ],
];

async fn a_message_with_nothing_but_a_payload_is_consumed(bench: &Bench) -> Verdict {
    let topic = bench.topic("foreign", 2).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish_foreign(topic, 1, b"\0bare\xff", Dress::Bare).await?;
    let delivery = bench.join(topic, group).await?.next().await?;
    let received = delivery.received();
    ensure_eq!(received.message.payload().as_ref(), b"\0bare\xff", "the payload");
    ensure_eq!(received.partition, 1, "the partition");
    ensure_eq!(received.message.key(), None, "the key");
    ensure!(received.message.headers().is_empty(), "headers: {:?}", received.message.headers());
    ensure_eq!(received.message.id(), None, "the id");
    delivery.ack();
    Ok(())
}

async fn a_message_with_odd_headers_is_consumed_and_the_next_one_too(bench: &Bench) -> Verdict {
    let topic = bench.topic("foreign", 1).await?;
    let group = bench.declared(topic, "group").await?;
    for text in texts("odd", 3) {
        bench.publish_foreign(topic, 0, text.as_bytes(), Dress::Odd).await?;
    }
    bench.publish(topic, 0, ["ours"]).await?;
    let mut inbox = bench.join(topic, group).await?;
    let odd = inbox.take(3).await?;
    for (delivery, wanted) in odd.into_iter().zip(texts("odd", 3)) {
        ensure_eq!(text(delivery.message()), wanted, "the payload");
        ensure!(!delivery.message().headers().is_empty(), "all headers of {wanted} are lost");
        delivery.ack();
    }
    ensure_eq!(inbox.handle(1).await?, ["ours"], "after foreign messages");
    Ok(())
}

async fn a_foreign_message_can_be_requeued_and_published_again(bench: &Bench) -> Verdict {
    let topic = bench.topic("foreign", 1).await?;
    let group = bench.declared(topic, "group").await?;
    bench.publish_foreign(topic, 0, b"odd", Dress::Odd).await?;
    let mut inbox = bench.join(topic, group).await?;
    let first = inbox.next().await?;
    let message = first.message().clone();
    first.requeue();
    let second = inbox.next().await?;
    ensure_eq!(second.message(), &message, "after it was requeued");
    second.ack();
    // A forwarder sends on what it got; the headers that only this crate may set are none of those.
    let sent = bench.broker().await?.publish_message(topic, message.clone()).await;
    sent.map_err(|error| format!("sending on a foreign message: {error:?}"))?;
    let third = inbox.next().await?;
    ensure_eq!(third.message().headers(), message.headers(), "headers of the message sent on");
    ensure_eq!(third.message().payload(), message.payload(), "payload of the message sent on");
    third.ack();
    Ok(())
}

async fn what_a_stranger_says_of_attempts_counts_for_nothing(bench: &Bench) -> Verdict {
    bench.require_replay().await?;
    let (topic, group) = work(bench, 1).await?;
    let letters = bench.made_by_consumer(topic.name(), group, "dlt")?;
    for headers in FORGED {
        bench.publish_foreign(topic.name(), 0, b"forged", Dress::Headers(headers)).await?;
    }
    let (broker, seen) = (bench.broker().await?, Seen::default());
    let handler = async |payload: Bytes, context: Context| {
        seen.add(seen_as(&payload, &context));
        Err("never".into())
    };
    let retry = Retry::exponential().initial(Duration::from_millis(1)).attempts(2);
    let consumer = broker.consumer(topic, group.as_str()).retry(retry);
    let arrived = async { bench.dead_letters(&broker, letters, FORGED.len()).await.map(drop) };
    bench.consume(consumer, handler, arrived).await?;
    let attempts = ["forged 1", "forged 1", "forged 2", "forged 2"];
    ensure_eq!(sorted(seen.all()), attempts, "the attempts");
    for letter in bench.dead_letters(&broker, letters, FORGED.len()).await? {
        ensure_eq!(letter.attempts, 2, "attempts of {letter:?}");
        ensure_eq!(letter.redrives, 0, "redrives of {letter:?}");
        ensure_eq!(letter.left_out, None, "what was left out of {letter:?}");
        ensure_eq!(letter.kind.as_deref(), Some("Handler"), "the kind of {letter:?}");
    }
    Ok(())
}

async fn what_a_stranger_puts_into_a_retry_topic_is_handled_and_does_no_harm(
    bench: &Bench,
) -> Verdict {
    bench.require_replay().await?;
    let (topic, group) = work(bench, 1).await?;
    let letters = bench.made_by_consumer(topic.name(), group, "dlt")?;
    let retries = Name::intern(&format!("{}.{group}.retry.200ms", topic.name()))?;
    let (broker, seen) = (bench.broker().await?, Seen::default());
    let handler = async |payload: Bytes, _| {
        seen.add(String::from_utf8_lossy(&payload).into_owned());
        Err("never".into())
    };
    let delay = Duration::from_millis(200);
    let consumer = broker.consumer(topic, group.as_str()).retry(Retry::none().delays([delay]));
    bench.publish(topic.name(), 0, ["ours"]).await?;
    let arrived = async {
        // The retry topic is there, with the group, before anything is handled.
        seen.count(1).await?;
        for headers in FORGED {
            bench.publish_foreign(retries, 0, b"forged", Dress::Headers(headers)).await?;
        }
        bench.publish_foreign(retries, 0, b"bare", Dress::Bare).await?;
        bench.dead_letters(&broker, letters, FORGED.len() + 2).await.map(drop)
    };
    bench.consume(consumer, handler, arrived).await?;
    let letters = bench.dead_letters(&broker, letters, FORGED.len() + 2).await?;
    let payloads: Vec<_> = letters.iter().map(|letter| text(&letter.message)).collect();
    ensure_eq!(sorted(payloads), ["bare", "forged", "forged", "ours"], "the dead letters");
    for payload in ["bare", "forged", "ours"] {
        ensure!(seen.all().iter().any(|seen| seen == payload), "{payload} was not handled");
    }
    Ok(())
}

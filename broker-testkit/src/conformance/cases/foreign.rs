//! Messages of other clients.

use crate::conformance::bench::Bench;
use crate::conformance::case::cases;
use crate::conformance::fault::{Verdict, ensure, ensure_eq};
use crate::conformance::fixture::Dress;
use crate::conformance::inbox::{text, texts};

cases! { "foreign";
    a_message_with_nothing_but_a_payload_is_consumed,
    a_message_with_odd_headers_is_consumed_and_the_next_one_too,
    a_foreign_message_can_be_requeued_and_published_again,
}

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

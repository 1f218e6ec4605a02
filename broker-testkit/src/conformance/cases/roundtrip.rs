//! What was published is what is consumed, byte for byte.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broker_api::{HeaderValue, Headers, Message, MessageId, Name, limits};

use crate::conformance::bench::{Bench, an_hour_ago};
use crate::conformance::case::cases;
use crate::conformance::fault::{Fault, Verdict, ensure, ensure_eq};

cases! { "roundtrip";
    a_payload_arrives_byte_for_byte,
    a_payload_of_one_megabyte_arrives,
    no_key_an_empty_key_and_a_binary_key_stay_what_they_are,
    headers_keep_their_order_repetitions_and_values,
    very_many_headers_arrive,
    as_many_bytes_of_headers_as_are_allowed_arrive,
    id_timestamp_content_type_and_correlation_id_arrive,
    an_id_of_any_text_arrives,
    a_message_without_id_and_timestamp_gets_both,
    a_delivery_says_where_it_was_published,
    a_receipt_and_its_delivery_have_the_same_offset [Offsets],
    a_redelivered_message_is_the_same_message,
    a_timestamp_before_1970_or_in_the_past_does_no_harm,
}

/// Publishes messages one after the other to one partition, and gives what is delivered for them.
async fn round(bench: &Bench, messages: &[Message]) -> Result<Vec<Message>, Fault> {
    let (topic, mut inbox) = ready(bench).await?;
    let broker = bench.broker().await?;
    for message in messages {
        broker.publish_message(topic, message.clone()).partition(0).await?;
    }
    let mut delivered = Vec::new();
    for delivery in inbox.take(messages.len()).await? {
        delivered.push(delivery.message().clone());
        delivery.ack();
    }
    Ok(delivered)
}

async fn ready(bench: &Bench) -> Result<(Name, crate::conformance::inbox::Inbox), Fault> {
    let topic = bench.topic("round", 1).await?;
    let group = bench.declared(topic, "readers").await?;
    Ok((topic, bench.join(topic, group).await?))
}

async fn a_payload_arrives_byte_for_byte(bench: &Bench) -> Verdict {
    let every_byte: Vec<u8> = (0..=255).collect();
    let payloads: [&[u8]; 5] = [b"", b"\0", &every_byte, "größer".as_bytes(), b"{\"json\": 1}\r\n"];
    let messages = payloads.map(|payload| Message::new(payload.to_vec()));
    for (message, delivered) in messages.iter().zip(round(bench, &messages).await?) {
        ensure_eq!(delivered.payload(), message.payload(), "the payload was changed");
    }
    Ok(())
}

async fn a_payload_of_one_megabyte_arrives(bench: &Bench) -> Verdict {
    let payload: Vec<u8> =
        (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let delivered = round(bench, &[Message::new(payload.clone())]).await?;
    ensure!(delivered[0].payload() == &payload, "a payload of 1,000,000 bytes was changed");
    Ok(())
}

async fn no_key_an_empty_key_and_a_binary_key_stay_what_they_are(bench: &Bench) -> Verdict {
    let keyless = Message::new("x");
    let messages = [
        keyless.clone(),
        keyless.clone().with_key(""),
        keyless.clone().with_key("plain"),
        keyless.clone().with_key((0..=255).collect::<Vec<u8>>()),
        keyless.clone().with_key(vec![0xff; 1_000]),
        keyless,
    ];
    for (message, delivered) in messages.iter().zip(round(bench, &messages).await?) {
        ensure_eq!(delivered.key(), message.key(), "the key was changed");
    }
    Ok(())
}

async fn headers_keep_their_order_repetitions_and_values(bench: &Bench) -> Verdict {
    let message = Message::new("x")
        .with_header("b", "1")
        .with_header("a", "2")
        .with_header("b", "3")
        .with_header("empty", "")
        .with_header("null", HeaderValue::Null)
        .with_header("größe", "日本語")
        .with_header("binary", (0..=255).collect::<Vec<u8>>())
        .with_header("With Spaces: and;signs", "\r\n\0")
        .with_header("n".repeat(255), "the longest name")
        .with_header("b", "3")
        .with_header("key", "k")
        .with_header("timestamp", "t")
        .with_header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let delivered = round(bench, &[message.clone(), Message::new("none")]).await?;
    ensure_eq!(delivered[0].headers(), message.headers(), "the headers were changed");
    ensure_eq!(delivered[1].headers(), &Headers::new(), "a message without headers got some");
    Ok(())
}

async fn very_many_headers_arrive(bench: &Bench) -> Verdict {
    let headers: Headers =
        (0..limits::MAX_HEADERS).map(|n| (format!("h{n}"), format!("{n}"))).collect();
    let delivered = round(bench, &[Message::new("x").with_headers(headers.clone())]).await?;
    ensure!(delivered[0].headers() == &headers, "{} headers were changed", limits::MAX_HEADERS);
    Ok(())
}

async fn as_many_bytes_of_headers_as_are_allowed_arrive(bench: &Bench) -> Verdict {
    let value = vec![7; limits::MAX_HEADERS_BYTES - 1];
    let message = Message::new("x").with_header("h", value);
    let delivered = round(bench, std::slice::from_ref(&message)).await?;
    ensure!(
        delivered[0].headers() == message.headers(),
        "{} bytes of headers were changed",
        limits::MAX_HEADERS_BYTES
    );
    Ok(())
}

async fn id_timestamp_content_type_and_correlation_id_arrive(bench: &Bench) -> Verdict {
    let message = Message::new("x")
        .with_id(MessageId::new())
        .with_timestamp(an_hour_ago() + Duration::from_millis(7))
        .with_content_type("application/x-größe; charset=utf-8")
        .with_correlation_id("conversation 日本 1");
    let longest = Message::new("x")
        .with_content_type("c".repeat(limits::MAX_SHORT_TEXT_BYTES))
        .with_correlation_id("d".repeat(limits::MAX_SHORT_TEXT_BYTES));
    let delivered = round(bench, &[message.clone(), longest.clone(), Message::new("x")]).await?;
    ensure_eq!(delivered[0].id(), message.id(), "the id was changed");
    ensure_eq!(delivered[0].timestamp(), message.timestamp(), "the timestamp was changed");
    for (delivered, message) in delivered.iter().zip([message, longest, Message::new("x")]) {
        ensure_eq!(
            delivered.content_type(),
            message.content_type(),
            "the content type was changed"
        );
        ensure_eq!(
            delivered.correlation_id(),
            message.correlation_id(),
            "the correlation id was changed"
        );
    }
    Ok(())
}

async fn an_id_of_any_text_arrives(bench: &Bench) -> Verdict {
    let ids = [
        "0192F0C1-2B1C-7E3A-9D7E-000000000001".into(),
        "42".into(),
        "größe".into(),
        "i".repeat(255),
    ];
    let messages = ids.map(|id: String| Message::new("x").with_id(id.as_str()));
    for (message, delivered) in messages.iter().zip(round(bench, &messages).await?) {
        ensure_eq!(delivered.id(), message.id(), "the id was changed");
    }
    Ok(())
}

async fn a_message_without_id_and_timestamp_gets_both(bench: &Bench) -> Verdict {
    // Brokers keep whole milliseconds.
    let millis = |t: SystemTime| t.duration_since(UNIX_EPOCH).map(|d| d.as_millis());
    let before = millis(SystemTime::now())?;
    let delivered = round(bench, &[Message::new("x"), Message::new("y")]).await?;
    let after = millis(SystemTime::now())?;
    for message in &delivered {
        let at = millis(message.timestamp().ok_or("a delivery has no timestamp")?)?;
        ensure!(
            (before..=after).contains(&at),
            "the timestamp {at} is not from {before} to {after}"
        );
        let id = message.id();
        ensure!(
            matches!(id, Some(MessageId::Uuid(uuid)) if uuid.get_version_num() == 7),
            "the id is no UUID of version 7: {id:?}"
        );
    }
    ensure!(delivered[0].id() != delivered[1].id(), "two messages have the same id");
    Ok(())
}

async fn a_delivery_says_where_it_was_published(bench: &Bench) -> Verdict {
    let topic = bench.topic("round", 3).await?;
    let group = bench.declared(topic, "readers").await?;
    let mut inbox = bench.join(topic, group).await?;
    for partition in 0..3 {
        let publish =
            bench.broker().await?.publish_message(topic, Message::new(partition.to_string()));
        let receipt = publish.partition(partition).await?;
        ensure_eq!(receipt.partition, partition, "the receipt names another partition");
        let delivery = inbox.next().await?;
        let received = delivery.received();
        ensure_eq!(
            (received.topic, received.partition),
            (topic, partition),
            "topic and partition of the delivery"
        );
        delivery.ack();
    }
    Ok(())
}

async fn a_receipt_and_its_delivery_have_the_same_offset(bench: &Bench) -> Verdict {
    let (topic, mut inbox) = ready(bench).await?;
    let mut last = None;
    for n in 0..5 {
        let receipt =
            bench.broker().await?.publish_message(topic, Message::new(n.to_string())).await?;
        let offset = receipt.offset.ok_or("the receipt has no offset")?;
        let delivery = inbox.next().await?;
        ensure_eq!(delivery.received().offset, Some(offset), "the offset of the delivery");
        ensure!(last < Some(offset), "offsets do not grow: {offset} after {last:?}");
        last = Some(offset);
        delivery.ack();
    }
    Ok(())
}

async fn a_redelivered_message_is_the_same_message(bench: &Bench) -> Verdict {
    let (topic, mut inbox) = ready(bench).await?;
    let message = Message::new("again")
        .with_key("k")
        .with_id("an id")
        .with_timestamp(an_hour_ago())
        .with_content_type("text/plain")
        .with_correlation_id("c")
        .with_header("h", "1")
        .with_header("h", HeaderValue::Null);
    bench.broker().await?.publish_message(topic, message.clone()).await?;
    for round in 1..=3 {
        let delivery = inbox.next().await?;
        ensure_eq!(
            delivery.message().payload(),
            message.payload(),
            "the payload of delivery {round}"
        );
        ensure_eq!(delivery.message(), &message, "delivery {round}");
        match round {
            3 => delivery.ack(),
            _ => delivery.requeue(),
        }
    }
    Ok(())
}

async fn a_timestamp_before_1970_or_in_the_past_does_no_harm(bench: &Bench) -> Verdict {
    let times = [
        UNIX_EPOCH - Duration::from_secs(5),
        UNIX_EPOCH,
        UNIX_EPOCH + Duration::from_millis(1),
        an_hour_ago(),
    ];
    let messages = times.map(|time| Message::new("x").with_timestamp(time));
    for (message, delivered) in messages.iter().zip(round(bench, &messages).await?) {
        ensure_eq!(delivered.timestamp(), message.timestamp(), "the timestamp was changed");
    }
    Ok(())
}

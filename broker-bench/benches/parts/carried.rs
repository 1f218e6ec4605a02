//! What is made of each message on its way: partition, payload, headers.

use broker_api::{Message, MessageId, Topic, partition_for_key};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use garde::Validate;
use lapin::types::FieldTable;
use serde::{Deserialize, Serialize};

use crate::{headers, record};

#[divan::bench(args = [8, 36, 256])]
fn partition(bencher: Bencher, bytes: usize) {
    let key = vec![b'k'; bytes];
    bencher
        .counter(BytesCount::new(bytes))
        .bench(|| partition_for_key(black_box(&key), black_box(6)));
}

#[derive(Clone, Serialize, Deserialize, Validate)]
struct Usage {
    #[garde(length(min = 1, max = 64))]
    user: String,
    #[garde(range(min = 1))]
    count: u64,
    #[garde(ascii)]
    text: String,
}

const CHECKED: Topic<Usage> = Topic::new("usage").keyed(|usage| &usage.user);
const UNCHECKED: Topic<Usage> = Topic::unchecked("usage").keyed(|usage| &usage.user);

fn usage() -> Usage {
    Usage { user: "user-4711".into(), count: 3, text: "x".repeat(200) }
}

/// A message of about 256 bytes of JSON, with its validation and without.
#[divan::bench(args = [true, false])]
fn encode(bencher: Bencher, validated: bool) {
    let (topic, usage) = (if validated { CHECKED } else { UNCHECKED }, usage());
    bencher.bench(|| topic.encode(black_box(&usage)));
}

#[divan::bench(args = [true, false])]
fn decode(bencher: Bencher, validated: bool) {
    let topic = if validated { CHECKED } else { UNCHECKED };
    let message = CHECKED.encode(&usage()).unwrap_or_default();
    bencher.bench(|| topic.decode(black_box(&message)));
}

/// A message with an id and so many headers.
fn message(count: usize) -> Message {
    let message = Message::new("payload").with_id(MessageId::new());
    (0..count).fold(message, |message, n| message.with_header(format!("header-{n:02}"), "value"))
}

#[divan::bench(args = [0, 4, 16])]
fn headers_for_kafka(bencher: Bencher, count: usize) {
    let message = message(count);
    bencher.bench(|| record::headers(black_box(&message)));
}

#[divan::bench(args = [0, 4, 16])]
fn headers_for_rabbitmq(bencher: Bencher, count: usize) {
    let message = message(count);
    bencher.bench(|| {
        let mut table = FieldTable::default();
        headers::write(black_box(&message).headers(), false, &mut table);
        table
    });
}

/// A new id for a message.
#[divan::bench]
fn message_id() -> MessageId {
    MessageId::new()
}

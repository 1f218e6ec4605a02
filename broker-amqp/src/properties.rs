//! A message as AMQP properties and payload, and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broker_api::limits::MAX_SHORT_TEXT_BYTES;
use broker_api::{Error, ErrorKind, HeaderValue, Message, MessageId, Result};
use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use crate::{foreign, headers};

/// The key of the message. Absent without one; an empty key is an empty header.
pub(crate) const KEY: &str = "x-broker-key";
/// The partition, where neither queue nor routing key tell it: in copies for a group.
pub(crate) const PARTITION: &str = "x-broker-partition";
/// Marks a message that no application has published, see [`Mark`].
pub(crate) const MARK: &str = "x-broker-mark";
/// The timestamp with milliseconds; the property has seconds only.
const MILLIS: &str = "timestamp_in_ms";
/// How often a quorum queue took the message back.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// The offset in a stream.
const STREAM_OFFSET: &str = "x-stream-offset";

const PERSISTENT: u8 = 2;

/// What stands around the headers in the frame that carries the properties: the frame's own head
/// and end, and the other properties at their longest.
const PROPERTIES_BESIDES: usize = 8 + 14 + 4 * (1 + MAX_SHORT_TEXT_BYTES) + 64;

/// What stands in a queue without being a message of an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// In a stream: everything before it was there when a reading began.
    Fence,
    /// In a history: nothing more comes.
    EndOfHistory,
}

impl Mark {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Fence => "fence",
            Self::EndOfHistory => "end-of-history",
        }
    }

    /// The mark that a message is, if it is one.
    pub(crate) fn of(properties: &BasicProperties) -> Option<Self> {
        let table = properties.headers().as_ref()?.inner();
        let text = table.get(MARK)?.as_long_string()?;
        [Self::Fence, Self::EndOfHistory]
            .into_iter()
            .find(|m| m.text().as_bytes() == text.as_bytes())
    }
}

/// The properties of a message that is published to a topic with or without a stream.
///
/// # Errors
/// [`ErrorKind::TooLarge`] if they do not fit the one frame that AMQP has for them.
pub(crate) fn write(
    message: &Message,
    for_stream: bool,
    frame_max: usize,
) -> Result<BasicProperties> {
    check_fit(message, frame_max)?;
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let mut table = FieldTable::default();
    if let Some(timestamp) = message.timestamp() {
        let since = timestamp.duration_since(UNIX_EPOCH).unwrap_or_default();
        properties = properties.with_timestamp(since.as_secs());
        let millis = AMQPValue::LongLongInt(since.as_millis() as i64);
        table.insert(MILLIS.into(), millis);
    }
    if let Some(key) = message.key() {
        table.insert(KEY.into(), AMQPValue::LongString(LongString::from(key.as_ref())));
    }
    headers::write(message.headers(), for_stream, &mut table);
    let short = |text: &str| ShortString::try_new(text).ok();
    if let Some(id) = message.id().and_then(|id| short(&id.to_string())) {
        properties = properties.with_message_id(id);
    }
    if let Some(content_type) = message.content_type().and_then(short) {
        properties = properties.with_content_type(content_type);
    }
    if let Some(correlation_id) = message.correlation_id().and_then(short) {
        properties = properties.with_correlation_id(correlation_id);
    }
    Ok(properties.with_headers(table))
}

/// A frame that is too long makes the broker close the connection, and every message on it fails.
fn check_fit(message: &Message, frame_max: usize) -> Result<()> {
    let headers = message.headers();
    // Of each header also: the length of its name, its type, the length of its value, and what the
    // layout needs.
    let each = |(name, value): (&str, &HeaderValue)| match value {
        HeaderValue::Foreign(value) => name.len() + foreign::encoded_len(value),
        value => name.len() + value.as_bytes().map_or(0, <[u8]>::len),
    };
    let encoded: usize = headers.iter().map(|header| each(header) + 8 + 5).sum();
    let needed = PROPERTIES_BESIDES + encoded + message.key().map_or(0, Bytes::len);
    if needed <= frame_max {
        return Ok(());
    }
    let text = format!(
        "key and headers in RabbitMQ's encoding: {needed} bytes, the limit is {frame_max}, one frame"
    );
    Err(Error::new(ErrorKind::TooLarge, "publish", text))
}

/// A message as it was received, and what RabbitMQ says about it.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) message: Message,
    /// How often it was given back, as its queue counts.
    pub(crate) returned: u32,
    /// The partition it was copied from.
    pub(crate) partition: Option<u32>,
}

/// Reads whatever somebody has published.
pub(crate) fn read(properties: &BasicProperties, payload: Vec<u8>) -> Read {
    let empty = FieldTable::default();
    let table = properties.headers().as_ref().unwrap_or(&empty);
    let integer = |name| table.inner().get(name).and_then(AMQPValue::as_long_long_int);
    let mut message = Message::new(payload).with_headers(headers::read(table, ours));
    if let Some(key) = table.inner().get(KEY).and_then(bytes) {
        message = message.with_key(key);
    }
    if let Some(id) = properties.message_id() {
        message = message.with_id(id.as_str());
    }
    if let Some(timestamp) = timestamp(*properties.timestamp(), integer(MILLIS)) {
        message = message.with_timestamp(timestamp);
    }
    if let Some(content_type) = properties.content_type() {
        message = message.with_content_type(content_type.as_str());
    }
    if let Some(correlation_id) = properties.correlation_id() {
        message = message.with_correlation_id(correlation_id.as_str());
    }
    let returned = integer(DELIVERY_COUNT).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let partition = integer(PARTITION).and_then(|n| u32::try_from(n).ok());
    Read { message, returned, partition }
}

/// Takes out of the properties what the broker adds when it delivers, for a copy; sets the
/// partition if one is given.
pub(crate) fn copied(properties: BasicProperties, partition: Option<u32>) -> BasicProperties {
    let mut table = properties.headers().clone().unwrap_or_default().inner().clone();
    table.retain(|name, _| !is_brokers(name.as_str()));
    if let Some(partition) = partition {
        table.insert(PARTITION.into(), AMQPValue::LongLongInt(partition.into()));
    }
    // Whatever it said, the copy has to outlive a restart, and to wait as long as it takes.
    let mut copy =
        BasicProperties::default().with_headers(table.into()).with_delivery_mode(PERSISTENT);
    macro_rules! keep {
        ($($get:ident => $set:ident),*) => { $(if let Some(value) = properties.$get() {
            copy = copy.$set(value.clone());
        })* };
    }
    keep!(content_type => with_content_type, content_encoding => with_content_encoding,
        correlation_id => with_correlation_id, reply_to => with_reply_to,
        message_id => with_message_id, timestamp => with_timestamp, kind => with_type,
        app_id => with_app_id);
    copy
}

/// What RabbitMQ adds to a message by itself.
fn is_brokers(name: &str) -> bool {
    let prefixes = ["x-first-death-", "x-last-death-"];
    [DELIVERY_COUNT, STREAM_OFFSET, "x-death"].contains(&name)
        || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// Names that no application may give to a header (see [`broker_api::limits`]), because they mean
/// something to one broker or the other. Somebody else's message that has them could not be sent on.
const RESERVED: [&str; 5] = ["message-id", "content-type", "correlation-id", "CC", "BCC"];

/// What is no header of the application.
fn ours(name: &str) -> bool {
    [KEY, PARTITION, MARK, MILLIS].contains(&name) || RESERVED.contains(&name) || is_brokers(name)
}

fn bytes(value: &AMQPValue) -> Option<Bytes> {
    match value {
        AMQPValue::LongString(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
        AMQPValue::ByteArray(bytes) => Some(Bytes::copy_from_slice(bytes.as_slice())),
        _ => None,
    }
}

/// The milliseconds count if they belong to the property, which somebody may have set alone.
fn timestamp(seconds: Option<u64>, millis: Option<i64>) -> Option<SystemTime> {
    let millis = millis.and_then(|millis| u64::try_from(millis).ok());
    let since = match (seconds, millis) {
        (Some(seconds), Some(millis)) if millis / 1_000 != seconds => Duration::from_secs(seconds),
        (_, Some(millis)) => Duration::from_millis(millis),
        (Some(seconds), None) => Duration::from_secs(seconds),
        (None, None) => return None,
    };
    UNIX_EPOCH.checked_add(since)
}

/// The id of a message that the broker sent back.
pub(crate) fn id_of(properties: &BasicProperties) -> Option<MessageId> {
    properties.message_id().as_ref().map(|id| MessageId::from(id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::FieldArray;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn full() -> Message {
        Message::new("payload")
            .with_key("")
            .with_id("not a uuid")
            .with_timestamp(UNIX_EPOCH + Duration::from_millis(1_234_567))
            .with_content_type("text/plain")
            .with_correlation_id("c")
            .with_header("b", "1")
            .with_header("a", HeaderValue::Null)
            .with_header("b", vec![0, 255])
    }

    #[test]
    fn a_message_comes_back_as_it_was() {
        let plain = Message::new("payload").with_headers(Default::default());
        for message in [full(), plain] {
            let properties = write(&message, false, 131_072).unwrap();
            let read = read(&properties, message.payload().to_vec());
            assert_eq!(read.message, message);
            assert_eq!((read.returned, read.partition), (0, None));
        }
    }

    #[test]
    fn what_the_broker_adds_is_not_the_applications() {
        let mut table = FieldTable::default();
        table.insert("x-delivery-count".into(), AMQPValue::LongLongInt(3));
        table.insert("x-stream-offset".into(), AMQPValue::LongLongInt(17));
        table.insert("x-death".into(), AMQPValue::FieldArray(FieldArray::default()));
        table.insert("x-first-death-queue".into(), AMQPValue::LongString("q".into()));
        table.insert("x-last-death-queue".into(), AMQPValue::LongString("q".into()));
        table.insert("x-mine".into(), AMQPValue::LongString("kept".into()));
        let properties = BasicProperties::default().with_headers(table);
        let seen = read(&properties, Vec::new());
        let names: Vec<_> = seen.message.headers().iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["x-mine"]);
        assert_eq!((seen.returned, seen.partition), (3, None));

        let copy = copied(properties, Some(5));
        let seen = read(&copy, Vec::new());
        assert_eq!((seen.returned, seen.partition), (0, Some(5)));
    }

    #[test]
    fn odd_values_of_foreign_clients_do_no_harm() {
        let mut table = FieldTable::default();
        table.insert(KEY.into(), AMQPValue::LongInt(1));
        table.insert(MILLIS.into(), AMQPValue::LongLongInt(-1));
        table.insert(DELIVERY_COUNT.into(), AMQPValue::LongString("many".into()));
        let properties = BasicProperties::default().with_headers(table).with_timestamp(u64::MAX);
        let seen = read(&properties, b"x".to_vec());
        assert_eq!(seen.message, Message::new("x").with_headers(Default::default()));
        assert_eq!(seen.returned, 0);
    }

    proptest! {
        #[test]
        fn any_message_comes_back_as_it_was(
            payload in vec(any::<u8>(), 0..50), key in option::of(vec(any::<u8>(), 0..20)),
            texts in vec(option::of("\\PC{0,60}"), 3), millis in option::of(0_u64..1 << 53),
            headers in vec(("[a-z]{1,4}", option::of(vec(any::<u8>(), 0..20))), 0..6),
            for_stream: bool,
        ) {
            let headers = headers.into_iter().map(|(name, value)| {
                (name, value.map_or(HeaderValue::Null, HeaderValue::from))
            });
            let mut message = Message::new(payload).with_headers(headers.collect());
            if let Some(key) = key {
                message = message.with_key(key);
            }
            if let Some(millis) = millis {
                message = message.with_timestamp(UNIX_EPOCH + Duration::from_millis(millis));
            }
            if let Some(id) = &texts[0] {
                message = message.with_id(id.as_str());
            }
            if let Some(content_type) = &texts[1] {
                message = message.with_content_type(content_type.as_str());
            }
            if let Some(correlation_id) = &texts[2] {
                message = message.with_correlation_id(correlation_id.as_str());
            }
            let properties = write(&message, for_stream, 131_072).unwrap();
            prop_assert_eq!(read(&properties, message.payload().to_vec()).message, message);
        }

        #[test]
        fn whatever_a_stranger_writes_for_ours_is_read_without_harm_and_can_be_written(
            values in vec(option::of(odd()), 8), seconds: Option<u64>,
        ) {
            let ours = [KEY, PARTITION, MARK, MILLIS, DELIVERY_COUNT, STREAM_OFFSET, "x-death", "CC"];
            let mut table = FieldTable::default();
            for (name, value) in ours.into_iter().zip(values) {
                value.map(|value| table.insert(name.into(), value));
            }
            let mut properties = BasicProperties::default().with_headers(table);
            if let Some(seconds) = seconds {
                properties = properties.with_timestamp(seconds);
            }
            let _ = Mark::of(&properties);
            let seen = read(&copied(properties.clone(), Some(1)), Vec::new());
            prop_assert_eq!((seen.returned, seen.partition), (0, Some(1)));
            let seen = read(&properties, Vec::new());
            prop_assert!(seen.message.headers().is_empty());
            prop_assert!(write(&seen.message, true, 131_072).is_ok());
        }
    }

    fn odd() -> impl Strategy<Value = AMQPValue> {
        prop_oneof![
            any::<i64>().prop_map(AMQPValue::LongLongInt),
            any::<u64>().prop_map(AMQPValue::Timestamp),
            any::<f64>().prop_map(AMQPValue::Double),
            any::<i8>().prop_map(AMQPValue::ShortShortInt),
            vec(any::<u8>(), 0..40).prop_map(|bytes| AMQPValue::LongString(bytes.into())),
            vec(any::<u8>(), 0..40).prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
            Just(AMQPValue::FieldArray(FieldArray::default())),
            Just(AMQPValue::FieldTable(FieldTable::default())),
            Just(AMQPValue::Void),
        ]
    }

    #[test]
    fn a_timestamp_of_seconds_alone_is_taken() {
        let properties = BasicProperties::default().with_timestamp(5);
        let time = read(&properties, Vec::new()).message.timestamp();
        assert_eq!(time, Some(UNIX_EPOCH + Duration::from_secs(5)));
    }

    #[test]
    fn key_and_headers_have_to_fit_one_frame() {
        let message = Message::new("x").with_key(vec![0; 140_000]);
        let error = write(&message, false, 131_072).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(error.message().contains("131072"), "{error}");
        let names = (0..4_096).map(|n| (format!("header-{n}"), ""));
        let many = Message::new("x").with_headers(names.collect());
        assert!(write(&many, false, 131_072).is_ok());
    }
}

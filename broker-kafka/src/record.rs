//! From messages to Kafka's records and back.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broker_api::{HeaderValue, Message, MessageId};
use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header, Message as _, OwnedHeaders};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::chunk::Chunk;
use crate::native;

/// Headers for what Kafka's records have no place for.
const MESSAGE_ID: &str = "message-id";
const CONTENT_TYPE: &str = "content-type";
const CORRELATION_ID: &str = "correlation-id";

/// librdkafka takes the timestamp 0, the first millisecond of 1970, for none and sets the present.
/// Such a record gets the next millisecond instead, and this header says so.
const AT_ZERO: &str = "x-broker-timestamp-is-zero";

/// The headers of a record: the message's own in their order, then those of its fields.
pub(crate) fn headers(message: &Message) -> Option<OwnedHeaders> {
    let own = message.headers();
    let fields = [message.content_type(), message.correlation_id()];
    let at_zero = message.timestamp() == Some(UNIX_EPOCH);
    let mut count = own.len() + fields.iter().flatten().count();
    count += usize::from(message.id().is_some()) + usize::from(at_zero);
    if count == 0 {
        return None;
    }
    let mut headers = OwnedHeaders::new_with_capacity(count);
    for (key, value) in own.iter() {
        headers = headers.insert(Header { key, value: value.as_bytes() });
    }
    if let Some(id) = message.id() {
        let mut buffer = Uuid::encode_buffer();
        let value = match id {
            MessageId::Uuid(uuid) => &*uuid.hyphenated().encode_lower(&mut buffer),
            MessageId::Text(text) => text,
        };
        headers = headers.insert(Header { key: MESSAGE_ID, value: Some(value) });
    }
    for (key, value) in [CONTENT_TYPE, CORRELATION_ID].into_iter().zip(fields) {
        if value.is_some() {
            headers = headers.insert(Header { key, value });
        }
    }
    if at_zero {
        headers = headers.insert(Header { key: AT_ZERO, value: None::<&[u8]> });
    }
    Some(headers)
}

/// The timestamp of a record.
pub(crate) fn timestamp(message: &Message) -> Option<i64> {
    message.timestamp().map(|time| millis(time).max(1))
}

/// Kafka's milliseconds since 1970 of a time.
pub(crate) fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The message of a record. Its bytes are copied, once: keeping librdkafka's own would pin the
/// whole fetch they came with.
pub(crate) fn message(record: &BorrowedMessage<'_>, chunk: &mut Chunk) -> Message {
    // A record without a payload, which deletes a key, reads as an empty one.
    let mut message = Message::new(chunk.copy(record.payload().unwrap_or_default()));
    if let Some(key) = record.key() {
        message = message.with_key(chunk.copy(key));
    }
    if let Some(millis) = record.timestamp().to_millis().and_then(|ms| u64::try_from(ms).ok()) {
        message = message.with_timestamp(UNIX_EPOCH + Duration::from_millis(millis));
    }
    let (mut id, mut content_type, mut correlation_id) = (None, None, None);
    let mut at_zero = false;
    native::each_header(record, |name, value| {
        // These are fields of the message and never headers, so that it can be published again as
        // it is: of several the first counts, and what is not text is made text.
        let text = || Some(Box::<str>::from(String::from_utf8_lossy(value?)));
        match name {
            b"message-id" => {
                let text = value.map(String::from_utf8_lossy);
                id = id.take().or_else(|| Some(message_id(&text?)));
            }
            b"content-type" => content_type = content_type.take().or_else(text),
            b"correlation-id" => correlation_id = correlation_id.take().or_else(text),
            name if name == AT_ZERO.as_bytes() => at_zero = true,
            _ => {
                let name: Cow<'static, str> = String::from_utf8_lossy(name).into_owned().into();
                let value = value.map_or(HeaderValue::Null, |value| {
                    HeaderValue::Bytes(Bytes::copy_from_slice(value))
                });
                message.headers_mut().append(name, value);
            }
        }
    });
    if at_zero {
        message = message.with_timestamp(UNIX_EPOCH);
    }
    if let Some(id) = id {
        message = message.with_id(id);
    }
    if let Some(content_type) = content_type {
        message = message.with_content_type(content_type);
    }
    if let Some(correlation_id) = correlation_id {
        message = message.with_correlation_id(correlation_id);
    }
    message
}

/// As `MessageId::from`, which makes a text of each UUID to compare it with.
fn message_id(text: &str) -> MessageId {
    // Of the forms that are parsed only the hyphenated one is as long.
    let usual = text.len() == Hyphenated::LENGTH && !text.bytes().any(|b| b.is_ascii_uppercase());
    match Uuid::try_parse(text) {
        Ok(uuid) if usual => MessageId::Uuid(uuid),
        _ => MessageId::Text(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::message::Headers as _;

    #[test]
    fn headers_keep_order_repetition_and_null_and_end_with_the_fields() {
        let message = Message::new("x")
            .with_header("b", "1")
            .with_header("a", HeaderValue::Null)
            .with_header("b", "")
            .with_id("42")
            .with_content_type("text/plain")
            .with_correlation_id("c");
        let headers = headers(&message).unwrap();
        let listed: Vec<_> = headers.iter().map(|h| (h.key, h.value)).collect();
        let bytes = |text: &'static str| Some(text.as_bytes());
        assert_eq!(
            listed,
            [
                ("b", bytes("1")),
                ("a", None),
                ("b", bytes("")),
                ("message-id", bytes("42")),
                ("content-type", bytes("text/plain")),
                ("correlation-id", bytes("c")),
            ]
        );
        assert!(super::headers(&Message::new("x")).is_none());
    }

    #[test]
    fn an_id_is_a_uuid_only_in_its_usual_form() {
        for text in [
            "0192f0c1-2b1c-7e3a-9d7e-000000000001",
            "0192F0C1-2B1C-7E3A-9D7E-000000000001",
            "0192f0c12b1c7e3a9d7e000000000001",
            "{0192f0c1-2b1c-7e3a-9d7e-000000000001}",
            "urn:uuid:0192f0c1-2b1c-7e3a-9d7e-000000000001",
            "42",
            "",
        ] {
            assert_eq!(message_id(text), MessageId::from(text), "{text}");
        }
    }

    #[test]
    fn times_before_1970_are_zero() {
        assert_eq!(millis(UNIX_EPOCH - Duration::from_secs(1)), 0);
        assert_eq!(millis(UNIX_EPOCH + Duration::from_millis(1_234)), 1_234);
    }
}

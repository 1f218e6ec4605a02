//! A message as it travels, without its type.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use uuid::Uuid;

use crate::headers::{HeaderValue, Headers};

/// The identity of a message: a UUID version 7 unless somebody else's client chose otherwise.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum MessageId {
    /// A UUID, as this crate makes them.
    Uuid(Uuid),
    /// Any other text that a foreign publisher used.
    Text(Box<str>),
}

impl MessageId {
    /// A new UUID version 7, whose order is the order of time.
    pub fn new() -> Self {
        Self::at(millis_now())
    }

    /// A new id of this time in milliseconds since 1970. Those of one process ascend: a number in
    /// the 12 bits behind the time counts them within each millisecond, and beyond 4,096 they are
    /// ahead of the time (RFC 9562, 6.2, method 1).
    ///
    /// `Uuid::now_v7` does the same, at three times the cost: it looks at the clock for itself.
    fn at(millis: u64) -> Self {
        const COUNTER_BITS: u32 = 12;
        static LAST: AtomicU64 = AtomicU64::new(0);
        let least = millis << COUNTER_BITS;
        let next = |last: u64| Some(least.max(last + 1));
        let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let number = last.map_or(least, |last| least.max(last + 1));
        let (time, count) = (number >> COUNTER_BITS, number & ((1 << COUNTER_BITS) - 1));
        // The second half of a random id is 62 random bits and its variant, which is also ours.
        let (_, random) = Uuid::new_v4().as_u64_pair();
        Self::Uuid(Uuid::from_u64_pair(time << 16 | 7 << COUNTER_BITS | count, random))
    }
}

impl Default for MessageId {
    fn default() -> Self {
        Self::new()
    }
}

impl From<&str> for MessageId {
    /// A hyphenated lower-case UUID becomes [`MessageId::Uuid`]; anything else is kept as it is.
    fn from(text: &str) -> Self {
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.to_string() == text => Self::Uuid(uuid),
            _ => Self::Text(text.into()),
        }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => fmt::Display::fmt(uuid, f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Payload bytes with an optional key and metadata.
///
/// The payload is never wrapped: it is on the broker what it is here. Cloning is cheap, the bytes
/// are shared.
#[derive(Clone, Default)]
pub struct Message {
    payload: Bytes,
    key: Option<Bytes>,
    id: Option<MessageId>,
    timestamp: Option<SystemTime>,
    // Boxed because most messages have none of it, and a message is moved several times on its way.
    rare: Option<Box<Rare>>,
}

#[derive(Clone, PartialEq, Eq, Default)]
struct Rare {
    headers: Headers,
    content_type: Option<Box<str>>,
    correlation_id: Option<Box<str>>,
}

static NO_HEADERS: Headers = Headers::new();

fn millis_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

impl Message {
    /// A message of this payload and nothing else.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), ..Self::default() }
    }

    /// Sets the key. Messages of one key go to one partition, in order. An empty key is a key.
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same with an empty payload.
    pub(crate) fn without_payload(mut self) -> Self {
        self.payload = Bytes::new();
        self
    }

    /// The same without a key.
    pub(crate) fn without_key(mut self) -> Self {
        self.key = None;
        self
    }

    /// Adds a header after the others.
    pub fn with_header(
        mut self,
        name: impl Into<std::borrow::Cow<'static, str>>,
        value: impl Into<HeaderValue>,
    ) -> Self {
        self.headers_mut().append(name, value);
        self
    }

    /// Replaces all headers.
    pub fn with_headers(mut self, headers: Headers) -> Self {
        match headers.is_empty() && self.rare.is_none() {
            true => {}
            false => *self.headers_mut() = headers,
        }
        self
    }

    /// Sets the id. A message published without one gets a new UUID version 7.
    pub fn with_id(mut self, id: impl Into<MessageId>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the time the message was made, cut to whole milliseconds, which is what brokers keep.
    /// A message published without one gets the time of publishing.
    pub fn with_timestamp(mut self, timestamp: SystemTime) -> Self {
        self.timestamp = Some(match timestamp.duration_since(UNIX_EPOCH) {
            Ok(since) => UNIX_EPOCH + Duration::from_millis(since.as_millis() as u64),
            Err(_) => UNIX_EPOCH,
        });
        self
    }

    /// Sets the MIME type of the payload.
    pub fn with_content_type(mut self, content_type: impl Into<Box<str>>) -> Self {
        self.rare_mut().content_type = Some(content_type.into());
        self
    }

    /// Sets the id of the conversation that the message belongs to.
    pub fn with_correlation_id(mut self, correlation_id: impl Into<Box<str>>) -> Self {
        self.rare_mut().correlation_id = Some(correlation_id.into());
        self
    }

    /// The payload.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The key; `None` and an empty key are different.
    pub fn key(&self) -> Option<&Bytes> {
        self.key.as_ref()
    }

    /// The headers, in order.
    pub fn headers(&self) -> &Headers {
        self.rare.as_ref().map_or(&NO_HEADERS, |rare| &rare.headers)
    }

    /// The headers, to be changed in place.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.rare_mut().headers
    }

    /// The id; only a foreign publisher leaves it out.
    pub fn id(&self) -> Option<&MessageId> {
        self.id.as_ref()
    }

    /// When the message was made, in whole milliseconds.
    pub fn timestamp(&self) -> Option<SystemTime> {
        self.timestamp
    }

    /// The MIME type of the payload.
    pub fn content_type(&self) -> Option<&str> {
        self.rare.as_ref()?.content_type.as_deref()
    }

    /// The id of the conversation that the message belongs to.
    pub fn correlation_id(&self) -> Option<&str> {
        self.rare.as_ref()?.correlation_id.as_deref()
    }

    /// The bytes that the size limit of a topic counts: payload, key, header names and values.
    pub fn byte_len(&self) -> usize {
        let key = self.key.as_ref().map_or(0, Bytes::len);
        self.payload.len() + key + self.rare.as_ref().map_or(0, |rare| rare.headers.byte_len())
    }

    /// Gives it what it lacks of an id and a timestamp.
    pub(crate) fn complete(&mut self) {
        if self.id.is_some() && self.timestamp.is_some() {
            return;
        }
        let millis = millis_now();
        self.id.get_or_insert_with(|| MessageId::at(millis));
        self.timestamp.get_or_insert_with(|| UNIX_EPOCH + Duration::from_millis(millis));
    }

    fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        let rare =
            |message: &Self| message.rare.as_deref().is_some_and(|rare| *rare != Rare::default());
        (&self.payload, &self.key, &self.id, self.timestamp)
            == (&other.payload, &other.key, &other.id, other.timestamp)
            && (self.rare == other.rare || !(rare(self) || rare(other)))
    }
}

impl Eq for Message {}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Message");
        // The payload is the application's data, and may be large or private: only its size is shown.
        shown.field("payload_bytes", &self.payload.len()).field("key", &self.key);
        shown.field("id", &self.id).field("timestamp", &self.timestamp);
        shown.field("headers", self.headers()).field("content_type", &self.content_type());
        shown.field("correlation_id", &self.correlation_id()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_small_because_it_is_moved_often() {
        assert!(size_of::<Message>() <= 112, "{}", size_of::<Message>());
    }

    #[test]
    fn an_id_survives_as_text_whatever_its_form() {
        for text in [
            "0192f0c1-2b1c-7e3a-9d7e-000000000001",
            "0192F0C1-2B1C-7E3A-9D7E-000000000001",
            "42",
            "",
        ] {
            assert_eq!(MessageId::from(text).to_string(), text);
        }
    }

    #[test]
    fn ids_are_of_version_7_and_their_time_and_ascend() {
        let before = millis_now();
        let ids: Vec<_> = (0..10_000).map(|_| MessageId::new()).collect();
        let uuids = ids.iter().map(|id| match id {
            MessageId::Uuid(uuid) => *uuid,
            MessageId::Text(text) => panic!("{text}"),
        });
        let uuids: Vec<_> = uuids.collect();
        assert!(uuids.is_sorted_by(|a, b| a < b));
        assert!(uuids.iter().all(|uuid| uuid.get_version_num() == 7));
        assert!(uuids.iter().all(|uuid| uuid.get_variant() == uuid::Variant::RFC4122));
        let (seconds, nanos) = uuids[0].get_timestamp().unwrap().to_unix();
        let millis = seconds * 1_000 + u64::from(nanos) / 1_000_000;
        // Other tests may have made so many that they are ahead of the time.
        assert!((before..before + 10_000).contains(&millis), "{before} {millis}");
        let random = uuids.iter().map(|uuid| uuid.as_u64_pair().1);
        assert_eq!(random.collect::<std::collections::HashSet<_>>().len(), uuids.len());
    }

    #[test]
    fn timestamps_are_whole_milliseconds() {
        let time = UNIX_EPOCH + Duration::from_nanos(1_234_567_891);
        let message = Message::new("x").with_timestamp(time);
        assert_eq!(message.timestamp(), Some(UNIX_EPOCH + Duration::from_millis(1_234)));
    }
}

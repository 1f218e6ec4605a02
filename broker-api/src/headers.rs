//! Headers: ordered, repeatable, with byte values as on Kafka.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

/// The value of a header.
///
/// What is published through this crate is bytes or null, which both brokers can carry. RabbitMQ's
/// own clients also send numbers, tables and so on: such a value arrives as [`Foreign`] and leaves
/// again unchanged when the message is published on RabbitMQ.
#[derive(Clone, PartialEq, Eq)]
pub enum HeaderValue {
    /// Present without a value.
    Null,
    /// Any bytes, often UTF-8 text.
    Bytes(Bytes),
    /// A value of a type that only the broker it came from knows.
    Foreign(Box<Foreign>),
}

/// A header value in a broker's own type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Foreign {
    /// The value as text: a number or a boolean as written in JSON, anything nested as JSON.
    pub text: String,
    /// The value in the encoding of the broker it came from, its type included.
    pub encoded: Bytes,
}

impl HeaderValue {
    /// The bytes of the value; the text of a foreign one; `None` for null.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Null => None,
            Self::Bytes(bytes) => Some(bytes),
            Self::Foreign(foreign) => Some(foreign.text.as_bytes()),
        }
    }

    /// The value as text, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        self.as_bytes().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }
}

impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bytes(bytes) => fmt::Debug::fmt(bytes, f),
            Self::Foreign(foreign) => f.write_str(&foreign.text),
        }
    }
}

macro_rules! value_from {
    ($($from:ty),*) => { $(impl From<$from> for HeaderValue {
        fn from(value: $from) -> Self {
            Self::Bytes(Bytes::from(value))
        }
    })* };
}
value_from!(Bytes, Vec<u8>, String, &'static str, &'static [u8]);

/// The headers of a message, in the order they were added; a name may stand more than once.
///
/// A name has 1 to 255 bytes of UTF-8 (RabbitMQ's limit). Names that start with `x-broker-` are
/// kept for this crate family, and `message-id`, `content-type`, `correlation-id` and `timestamp`
/// are fields of the message instead.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Cow<'static, str>, HeaderValue)>);

impl Headers {
    /// No headers.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a header after the others, also when the name is there already.
    pub fn append(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<HeaderValue>) {
        self.0.push((name.into(), value.into()));
    }

    /// Replaces all headers of this name by one at the end.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<HeaderValue>) {
        let name = name.into();
        self.remove(&name);
        self.0.push((name, value.into()));
    }

    /// Removes all headers of this name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(n, _)| n != name);
    }

    /// Keeps only those with such a name.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|(name, _)| keep(name));
    }

    /// The first value of this name.
    pub fn get(&self, name: &str) -> Option<&HeaderValue> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// The first value of this name as text, if it is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(HeaderValue::as_str)
    }

    /// The first value of this name as a number, if it is one.
    pub(crate) fn number<N: FromStr>(&self, name: &str) -> Option<N> {
        self.get_str(name)?.parse().ok()
    }

    /// The first value of this name as a time, if it is one: in milliseconds since 1970.
    pub(crate) fn time(&self, name: &str) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.number(name)?))
    }

    /// Sets a time, in milliseconds since 1970, rounded up: what is due then is never early.
    pub(crate) fn set_due(&mut self, name: &'static str, time: SystemTime) {
        let nanos = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        self.set(name, nanos.div_ceil(1_000_000).to_string());
    }

    /// All values of this name, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a HeaderValue> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value)
    }

    /// All headers, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }

    /// How many there are, repeated ones counted.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of all names and values, which is what the limit on headers counts.
    pub fn byte_len(&self) -> usize {
        let value = |v: &HeaderValue| v.as_bytes().map_or(0, <[u8]>::len);
        self.0.iter().map(|(n, v)| n.len() + value(v)).sum()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(n, v)| (n, v))).finish()
    }
}

impl<N: Into<Cow<'static, str>>, V: Into<HeaderValue>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(headers: I) -> Self {
        Self(headers.into_iter().map(|(n, v)| (n.into(), v.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_their_order_and_repetitions() {
        let mut headers: Headers = [("b", "1"), ("a", "2"), ("b", "3")].into_iter().collect();
        let names: Vec<_> = headers.iter().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names, ["b", "a", "b"]);
        assert_eq!(
            headers.get_all("b").filter_map(HeaderValue::as_str).collect::<Vec<_>>(),
            ["1", "3"]
        );
        headers.set("b", "4");
        assert_eq!((headers.len(), headers.get_str("b")), (2, Some("4")));
    }
}

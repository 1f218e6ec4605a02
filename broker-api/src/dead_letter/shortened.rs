//! Dead letters of messages that are larger than anything that can be published.

use super::headers::LEFT_OUT;
use crate::error::{Error, Result};
use crate::headers::HeaderValue;
use crate::limits::{MAX_HEADERS, MAX_HEADERS_BYTES, RESERVED_PREFIX};
use crate::message::Message;

/// What a header costs on a broker besides its name and value, about.
const EACH: usize = 8;

/// A dead letter of `original` that had no room, which `error` says, without the largest part of it.
/// `limit` is that of the topic that the original came by.
///
/// # Errors
/// That error, where the original keeps to the rules: then the dead-letter topic is not made for it;
/// and where nothing is left that can be left out.
pub(crate) fn make_room(
    letter: Message,
    original: &Message,
    limit: Option<usize>,
    error: Error,
) -> Result<Message> {
    if is_within_limits(original, limit) {
        return Err(error);
    }
    tracing::error!(%error, "the message has no room among the dead letters; a part is left out");
    shortened(letter).ok_or(error)
}

/// Whether a message keeps to the rules of everything that is published through this crate, with the
/// limit of the topic that it came by. Only somebody else's client can break them.
fn is_within_limits(message: &Message, limit: Option<usize>) -> bool {
    let headers = message.headers();
    headers.len() <= MAX_HEADERS
        && headers.byte_len() <= MAX_HEADERS_BYTES
        && limit.is_none_or(|limit| message.byte_len() <= limit)
}

/// The message without the largest of what it has left: its own headers, its payload or its key; and
/// with a header that says what that was. `None` if it has nothing of these.
fn shortened(mut message: Message) -> Option<Message> {
    let own = |name: &str| !name.starts_with(RESERVED_PREFIX);
    let headers = message.headers().iter().filter(|(name, _)| own(name));
    let size = |value: &HeaderValue| value.as_bytes().map_or(0, <[u8]>::len);
    let (number, bytes) = headers.fold((0, 0), |(number, bytes), (name, value)| {
        (number + 1, bytes + name.len() + size(value))
    });
    let payload = message.payload().len();
    let key = message.key().map_or(0, |key| key.len());
    let all = bytes + number * EACH;
    let left_out = if number > 0 && all >= payload.max(key) {
        message.headers_mut().retain(|name| !own(name));
        format!("{number} headers of {bytes} bytes")
    } else if payload > 0 && payload >= key {
        message = message.without_payload();
        format!("payload of {payload} bytes")
    } else if key > 0 {
        message = message.without_key();
        format!("key of {key} bytes")
    } else {
        return None;
    };
    let all = match message.headers().get_str(LEFT_OUT) {
        Some(before) => format!("{before}, {left_out}"),
        None => left_out,
    };
    message.headers_mut().set(LEFT_OUT, all);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_part_is_left_out_first_and_each_is_told() {
        let message = Message::new(vec![0; 300]).with_key(vec![1; 200]).with_id("id");
        let message = message.with_header("a", vec![2; 399]).with_header("x-broker-group", "g");
        let first = shortened(message.clone()).unwrap();
        assert_eq!(first.headers().get_str(LEFT_OUT), Some("1 headers of 400 bytes"));
        assert_eq!((first.payload(), first.key()), (message.payload(), message.key()));
        assert_eq!(first.headers().len(), 2);
        let last = shortened(shortened(first).unwrap()).unwrap();
        let all = "1 headers of 400 bytes, payload of 300 bytes, key of 200 bytes";
        assert_eq!(last.headers().get_str(LEFT_OUT), Some(all));
        assert_eq!((last.payload().len(), last.key(), last.id()), (0, None, message.id()));
        assert_eq!(last.headers().get_str("x-broker-group"), Some("g"));
        assert!(shortened(last).is_none());
    }

    #[test]
    fn what_could_be_published_is_within_the_limits() {
        let message = Message::new("12345").with_header("a", "");
        assert!(is_within_limits(&message, Some(6)) && is_within_limits(&message, None));
        assert!(!is_within_limits(&message, Some(5)));
        let many = (0..=MAX_HEADERS).map(|n| (n.to_string(), "")).collect();
        assert!(!is_within_limits(&Message::new("").with_headers(many), None));
        let large = Message::new("").with_header("a", vec![0; MAX_HEADERS_BYTES]);
        assert!(!is_within_limits(&large, None));
    }
}

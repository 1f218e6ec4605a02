//! The rules for messages that hold on every broker, checked before anything is sent.

use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;

/// The longest header name, message id, content type and correlation id, in bytes: AMQP's limit on
/// short strings.
pub const MAX_SHORT_TEXT_BYTES: usize = 255;

/// All header names and values of a message together, in bytes. RabbitMQ wants the properties of a
/// message in one frame of 128 KiB, encoding included.
pub const MAX_HEADERS_BYTES: usize = 65_536;

/// The most headers of one message. Each costs RabbitMQ some bytes of the one frame they share.
pub const MAX_HEADERS: usize = 4_096;

/// Header names that brokers or this crate family use for themselves, and what to use instead.
const RESERVED: [(&str, &str); 9] = [
    ("message-id", "use the message's id"),
    ("content-type", "use the message's content type"),
    ("correlation-id", "use the message's correlation id"),
    ("timestamp_in_ms", "use the message's timestamp"),
    ("CC", "RabbitMQ routes by it"),
    ("BCC", "RabbitMQ routes by it"),
    ("x-delivery-count", "RabbitMQ writes it"),
    ("x-stream-offset", "RabbitMQ writes it"),
    ("x-death", "RabbitMQ writes it"),
];

/// The prefix of header names that this crate family keeps for itself.
pub const RESERVED_PREFIX: &str = "x-broker-";

/// Checks an application's message against the rules for headers and texts.
///
/// # Errors
/// [`ErrorKind::InvalidName`] or [`ErrorKind::TooLarge`], with the limit and the value.
pub fn check_message(message: &Message) -> Result<()> {
    let headers = message.headers();
    for (name, _) in headers.iter() {
        if name.is_empty() {
            return Err(Error::new(ErrorKind::InvalidName, "publish", "a header name is empty"));
        }
        check_short("header name", name)?;
        let reserved = RESERVED.iter().find(|(reserved, _)| *reserved == name);
        if let Some(why) = reserved.map(|(_, why)| *why).or_else(|| {
            name.starts_with(RESERVED_PREFIX)
                .then_some("the prefix x-broker- is kept for this crate")
        }) {
            let text = format!("the header name is reserved: {why}");
            return Err(Error::new(ErrorKind::InvalidName, "publish", text).with("header", name));
        }
    }
    if headers.len() > MAX_HEADERS {
        return Err(too_large("number of headers", headers.len(), MAX_HEADERS));
    }
    if headers.byte_len() > MAX_HEADERS_BYTES {
        return Err(too_large("headers in bytes", headers.byte_len(), MAX_HEADERS_BYTES));
    }
    if let Some(crate::MessageId::Text(id)) = message.id() {
        check_short("message id", id)?;
    }
    check_short("content type", message.content_type().unwrap_or_default())?;
    check_short("correlation id", message.correlation_id().unwrap_or_default())
}

/// Checks a message against the size limit of its topic. Backends call it, they know the limit.
///
/// # Errors
/// [`ErrorKind::TooLarge`], with the limit and the value.
pub fn check_size(message: &Message, limit: usize) -> Result<()> {
    match message.byte_len() {
        size if size > limit => Err(too_large("message in bytes", size, limit)),
        _ => Ok(()),
    }
}

fn check_short(what: &'static str, text: &str) -> Result<()> {
    match text.len() > MAX_SHORT_TEXT_BYTES {
        true => Err(too_large(what, text.len(), MAX_SHORT_TEXT_BYTES)),
        false => Ok(()),
    }
}

fn too_large(what: &str, is: usize, limit: usize) -> Error {
    Error::new(ErrorKind::TooLarge, "publish", format!("{what}: {is}, the limit is {limit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_the_limit_and_the_value() {
        let message = Message::new("x").with_header("h".repeat(256), "");
        let error = check_message(&message).unwrap_err();
        assert_eq!(error.to_string(), "publish: TooLarge: header name: 256, the limit is 255");
        let error = check_size(&Message::new("12345").with_key("6"), 5).unwrap_err();
        assert_eq!(error.to_string(), "publish: TooLarge: message in bytes: 6, the limit is 5");
    }

    #[test]
    fn reserved_and_empty_header_names_are_refused() {
        for name in ["", "message-id", "CC", "x-broker-key"] {
            let message = Message::new("x").with_header(name, "v");
            assert_eq!(
                check_message(&message).unwrap_err().kind(),
                ErrorKind::InvalidName,
                "{name}"
            );
        }
        assert!(check_message(&Message::new("x").with_header("größe", "v")).is_ok());
    }

    #[test]
    fn headers_are_bounded_in_number_and_bytes() {
        let many = (0..=MAX_HEADERS).map(|n| (n.to_string(), "")).collect();
        let message = Message::new("x").with_headers(many);
        assert_eq!(check_message(&message).unwrap_err().kind(), ErrorKind::TooLarge);
        let message = Message::new("x").with_header("h", vec![0; MAX_HEADERS_BYTES]);
        assert_eq!(check_message(&message).unwrap_err().kind(), ErrorKind::TooLarge);
    }
}

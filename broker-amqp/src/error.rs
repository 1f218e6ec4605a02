//! What lapin and RabbitMQ report, in the words of this crate family.

use broker_api::{Error, ErrorKind};
use lapin::ErrorKind as Lapin;

/// AMQP's reply codes that mean something of their own here.
pub(crate) mod code {
    pub(crate) const ACCESS_REFUSED: u16 = 403;
    pub(crate) const NOT_FOUND: u16 = 404;
    pub(crate) const RESOURCE_LOCKED: u16 = 405;
    pub(crate) const PRECONDITION_FAILED: u16 = 406;
    pub(crate) const NOT_ALLOWED: u16 = 530;
    pub(crate) const NOT_IMPLEMENTED: u16 = 540;
}

/// The AMQP reply code of an error, if the broker sent it.
pub(crate) fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        Lapin::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// Whether the exchange or queue does not exist. For a moment after its start a broker has the same
/// reply code for queues that it has not brought up yet.
pub(crate) fn is_missing(error: &lapin::Error) -> bool {
    match error.kind() {
        Lapin::ProtocolError(said) => {
            let text = said.get_message().as_str();
            said.get_id() == code::NOT_FOUND && !text.contains("is down or inaccessible")
        }
        _ => false,
    }
}

/// Whether lapin could not make sense of what the broker sent.
pub(crate) fn is_unreadable(error: &lapin::Error) -> bool {
    matches!(error.kind(), Lapin::ParsingError(_))
}

/// An error of an operation on a connection that was there.
pub(crate) fn failed(operation: &'static str, error: lapin::Error) -> Error {
    use ErrorKind::*;
    let said = match error.kind() {
        Lapin::ProtocolError(said) => said.get_message().to_string(),
        _ => String::new(),
    };
    let (kind, text, transient) = match (reply_code(&error), error.kind()) {
        (Some(code::ACCESS_REFUSED), _) => {
            (Unauthorized, format!("RabbitMQ does not allow it: {said}"), false)
        }
        // A stream that has just been declared, or a broker that has just been started.
        (Some(code::PRECONDITION_FAILED), _) if said.contains(NO_REPLICA) => {
            (Unavailable, format!("RabbitMQ is not ready: {said}"), true)
        }
        (Some(code::PRECONDITION_FAILED), _) => {
            (Mismatch, format!("what exists on the broker is different: {said}"), false)
        }
        (Some(code::NOT_IMPLEMENTED), _) => {
            (Unsupported, format!("this RabbitMQ cannot do it: {said}"), false)
        }
        (Some(code::NOT_ALLOWED), _) => {
            (Configuration, format!("RabbitMQ refused the connection: {said}"), false)
        }
        (Some(number), _) => (Unavailable, format!("RabbitMQ answered {number}: {said}"), true),
        (None, Lapin::ParsingError(_)) => (Other, UNREADABLE.into(), false),
        (None, Lapin::ChannelsLimitReached) => {
            (Unavailable, "the connection has no channel left; raise channel_max".into(), true)
        }
        (None, Lapin::MissingHeartbeatError) => {
            (Unavailable, "the connection is lost: RabbitMQ sent no heartbeat".into(), true)
        }
        _ => (Unavailable, "the connection to RabbitMQ is lost".into(), true),
    };
    let mapped = Error::new(kind, operation, text).with_source(error);
    if transient { mapped.transient() } else { mapped }
}

const NO_REPLICA: &str = "replica on the local node";

/// The client gives up its connection on such a message, and would again after each reconnection.
const UNREADABLE: &str = "a message in a queue cannot be read by this client: its properties are not \
    in AMQP's encoding. Take it out with another client";

/// An error of an attempt to connect.
pub(crate) fn refused(error: lapin::Error, uri: &lapin::uri::AMQPUri) -> Error {
    let user = &uri.authority.userinfo.username;
    let (kind, text) = match reply_code(&error) {
        Some(code::ACCESS_REFUSED) => {
            let text = format!("RabbitMQ refused the user name {user:?} or its password");
            (ErrorKind::Unauthenticated, text)
        }
        Some(code::NOT_ALLOWED) => {
            let vhost = &uri.vhost;
            let text = format!(
                "RabbitMQ has no virtual host {vhost:?}, or {user:?} may not use it, or a limit of \
                 connections is reached"
            );
            (ErrorKind::Configuration, text)
        }
        _ => return failed("connect", error),
    };
    Error::new(kind, "connect", text).with_source(error)
}

/// The connection was given up by [`Backend::close`](broker_api::Backend::close).
pub(crate) fn closed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Closed, operation, "the connection to RabbitMQ is closed")
}

/// The topic is not there.
pub(crate) fn unknown_topic(operation: &'static str, topic: broker_api::Name) -> Error {
    Error::new(ErrorKind::UnknownTopic, operation, "the topic does not exist").with("topic", topic)
}

/// The same error once more, for another who waits for the same: an [`Error`] cannot be cloned.
pub(crate) fn again(error: &Error, operation: &'static str) -> Error {
    Error::new(error.kind(), operation, error.message().to_owned()).with_class(error.class())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPSoftError};

    fn raw(kind: AMQPSoftError, text: &str) -> lapin::Error {
        Lapin::ProtocolError(AMQPError::new(AMQPErrorKind::Soft(kind), text.into())).into()
    }

    fn said(kind: AMQPSoftError, text: &str) -> Error {
        failed("test", raw(kind, text))
    }

    #[test]
    fn a_queue_that_is_not_up_yet_is_not_missing() {
        let missing = raw(AMQPSoftError::NOTFOUND, "NOT_FOUND - no queue 'q' in vhost '/'");
        assert!(is_missing(&missing));
        let text = "NOT_FOUND - home node 'rabbit@localhost' of durable queue 'q' in vhost '/' is \
            down or inaccessible";
        let not_up = raw(AMQPSoftError::NOTFOUND, text);
        assert!(!is_missing(&not_up) && failed("test", not_up).is_transient());
    }

    #[test]
    fn what_the_broker_refuses_is_permanent_and_in_its_words() {
        let error = said(AMQPSoftError::PRECONDITIONFAILED, "inequivalent arg 'x-max-age'");
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.is_permanent() && error.message().contains("x-max-age"), "{error}");
        let error = said(AMQPSoftError::ACCESSREFUSED, "no");
        assert!(error.is_permanent() && error.kind() == ErrorKind::Unauthorized);
    }

    #[test]
    fn what_passes_by_itself_is_transient() {
        let text =
            "stream queue 's' in vhost '/' does not have a running replica on the local node";
        let text_of_3 = "queue 's' in vhost '/' does not have a replica on the local node";
        for error in [
            said(AMQPSoftError::PRECONDITIONFAILED, text),
            said(AMQPSoftError::PRECONDITIONFAILED, text_of_3),
            failed("test", std::io::Error::other("cut").into()),
            failed("test", Lapin::MissingHeartbeatError.into()),
        ] {
            assert!(error.is_transient() && error.kind() == ErrorKind::Unavailable, "{error}");
        }
    }
}

//! A message on its way to the broker, and what became of it.

use broker_api::{Confirm, Error, ErrorKind, Message, MessageId, Name, Outgoing, Receipt, Result};
use lapin::Confirmation;
use tokio::time::Instant;

use crate::error;
use crate::publish::OPERATION;

/// A message on its way.
pub(super) struct Entry {
    /// Its place among all that the client was given.
    pub(super) sequence: u64,
    pub(super) id: MessageId,
    pub(super) partition: u32,
    pub(super) deadline: Instant,
    /// `None` once it is answered, though the broker has not.
    pub(super) confirm: Option<Confirm>,
    /// To publish it again if it was certainly not sent.
    pub(super) message: Option<Message>,
    /// The partition that the publisher has named.
    pub(super) chosen: Option<u32>,
}

/// What became of a message.
#[expect(clippy::large_enum_variant, reason = "nearly all are answered: a box would be for each")]
pub(super) enum Sent {
    /// The client did not send it.
    Unsent(lapin::Error),
    /// It was sent, and the connection or channel ended before the answer.
    Lost(lapin::Error),
    Answered(Confirmation),
}

impl Entry {
    /// The message as it was before, if somebody still waits for it.
    pub(super) fn again(self, topic: Name) -> Option<Outgoing> {
        let (message, confirm) = (self.message?, self.confirm?);
        Some(Outgoing { topic, partition: self.chosen, message, deadline: self.deadline, confirm })
    }

    /// Answers, if nobody has.
    pub(super) fn answer(&mut self, topic: Name, result: Result<Receipt>) {
        if let Some(confirm) = self.confirm.take() {
            confirm.done(result.map_err(|error| error.with("topic", topic)));
        }
    }
}

/// No queue has taken the message, though the topic has some: they were deleted, or the broker has
/// only just been started.
pub(super) fn without_queues() -> Error {
    let text = "no queue of the topic is there at the moment";
    Error::new(ErrorKind::Unavailable, OPERATION, text).transient()
}

/// No queue has taken the message, and the topic has none.
pub(super) fn unroutable() -> Error {
    let text = "the topic has no group and no retention, so RabbitMQ keeps no message for it";
    Error::new(ErrorKind::Unroutable, OPERATION, text)
}

/// The broker has refused the message; of several queues one may have it and another not.
pub(super) fn nacked() -> Error {
    let text = "RabbitMQ could not store the message in every queue it is for; if this lasts, a \
        queue is damaged and has to be deleted";
    Error::new(ErrorKind::Unavailable, OPERATION, text).indeterminate()
}

/// The answer was lost. The broker does not say which of several messages it does not allow, so
/// only one that is `alone` is certainly not stored.
pub(super) fn doubtful(lost: &lapin::Error, topic_is_there: bool, alone: bool) -> Error {
    if error::reply_code(lost) == Some(error::code::ACCESS_REFUSED) {
        let refused = error::failed(OPERATION, lost.clone());
        return if alone { refused } else { refused.indeterminate() };
    }
    if error::reply_code(lost) == Some(error::code::NOT_FOUND) || !topic_is_there {
        // Whatever was stored went with the topic.
        return Error::new(ErrorKind::UnknownTopic, OPERATION, "the topic was deleted");
    }
    let text = "the connection was lost before RabbitMQ confirmed the message";
    Error::new(ErrorKind::Unavailable, OPERATION, text).indeterminate().with_source(lost.clone())
}

/// Its time was over before it was sent.
pub(super) fn unsent_in_time() -> Error {
    let text = "the message was not sent within its time limit";
    Error::new(ErrorKind::Timeout, OPERATION, text).transient()
}

/// Its time was over before the broker answered.
pub(super) fn unconfirmed_in_time() -> Error {
    let text = "RabbitMQ did not confirm the message within its time limit";
    Error::new(ErrorKind::Timeout, OPERATION, text).indeterminate()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPSoftError};

    fn lost() -> lapin::Error {
        std::io::Error::other("cut").into()
    }

    #[test]
    fn a_lost_answer_is_doubtful_unless_the_topic_is_gone() {
        assert!(doubtful(&lost(), true, true).is_indeterminate());
        assert_eq!(doubtful(&lost(), false, true).kind(), ErrorKind::UnknownTopic);
        let gone =
            AMQPError::new(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND), "no exchange".into());
        assert_eq!(
            doubtful(&lapin::ErrorKind::ProtocolError(gone).into(), true, true).kind(),
            ErrorKind::UnknownTopic
        );
    }

    #[test]
    fn of_several_messages_it_is_not_known_which_one_was_not_allowed() {
        let refused =
            AMQPError::new(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED), "no".into());
        let refused = lapin::ErrorKind::ProtocolError(refused).into();
        let (one, of_many) = (doubtful(&refused, true, true), doubtful(&refused, true, false));
        assert!(one.is_permanent() && of_many.is_indeterminate());
        assert_eq!([one.kind(), of_many.kind()], [ErrorKind::Unauthorized; 2]);
    }

    #[test]
    fn only_what_was_sent_is_doubtful() {
        assert!(unsent_in_time().is_transient() && unroutable().is_permanent());
        assert!(without_queues().is_transient());
        assert!(unconfirmed_in_time().is_indeterminate() && nacked().is_indeterminate());
    }
}

//! Answering a question, and reading an answer.

use std::fmt::Display;

use super::{REPLY_ERROR, REPLY_TO, REPLY_TO_PARTITION};
use crate::consumer::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::topic::Topic;

impl Context {
    /// Answers the one who asked by [`Broker::request`](crate::Broker::request), in the topic that
    /// both sides agree on. It is handed over now, and confirmed before the question is
    /// acknowledged, as by [`Context::publish`]. Where nobody asked for an answer it does nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the question wants its answer in another topic than this; those
    /// of [`Publish::enqueue`](crate::Publish::enqueue).
    pub async fn reply<A>(&self, answers: Topic<A>, answer: &A) -> Result<()> {
        match self.wants_reply(answers)? {
            true => self.send(answers, answers.encode(answer)?).await,
            false => Ok(()),
        }
    }

    /// Answers with an error: [`Broker::request`](crate::Broker::request) ends with one of kind
    /// [`ErrorKind::Handler`] and this text. The question is settled as the handler then says:
    /// `Ok` means that this answer was its handling.
    ///
    /// # Errors
    /// As [`Context::reply`].
    pub async fn reply_error<A>(&self, answers: Topic<A>, error: impl Display) -> Result<()> {
        match self.wants_reply(answers)? {
            true => {
                let message = Message::new(error.to_string()).with_content_type("text/plain");
                self.send(answers, message.with_header(REPLY_ERROR, "true")).await
            }
            false => Ok(()),
        }
    }

    /// The topic is the caller's, never the question's alone: else anybody who may ask could have
    /// this process publish to any topic that it may publish to.
    fn wants_reply<A>(&self, answers: Topic<A>) -> Result<bool> {
        match self.message().headers().get_str(REPLY_TO) {
            None => Ok(false),
            Some(topic) if topic == answers.name().as_str() => Ok(true),
            Some(topic) => {
                let text = format!("the answer is wanted in the topic {topic:?}");
                Err(Error::new(ErrorKind::Invalid, "reply", text).with("topic", answers.name()))
            }
        }
    }

    async fn send<A>(&self, answers: Topic<A>, message: Message) -> Result<()> {
        let partition = self.message().headers().get_str(REPLY_TO_PARTITION);
        let publish = self.broker().publish_message(answers.name(), message);
        let publish = match partition.and_then(|partition| partition.parse().ok()) {
            Some(partition) => publish.partition(partition),
            None => publish,
        };
        self.publish_outcome(publish).await
    }
}

/// The value of an answer.
///
/// # Errors
/// The error that it is; [`ErrorKind::Codec`] or [`ErrorKind::Invalid`] for what it should not be.
pub(super) fn read<A>(answers: Topic<A>, message: &Message) -> Result<A> {
    if message.headers().get(REPLY_ERROR).is_some() {
        let text = String::from_utf8_lossy(message.payload()).into_owned();
        return Err(Error::new(ErrorKind::Handler, "request", text));
    }
    answers.decode(message).map_err(|error| error.with_operation("request"))
}

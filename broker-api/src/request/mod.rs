//! Requests: messages that are answered.
//!
//! A question goes to a topic like any other message, and a group answers it. Answers go to a
//! topic of their own, which every process that asks reads without a group, from now on, and only
//! one partition of it; a question says which. So no group and no topic is left behind by a
//! process that is gone, what is asked waits for whoever answers, and it is the same on every
//! broker. RabbitMQ's own direct reply-to is not used: there an answer would go past the topics,
//! to no name that the contract could publish to, and be lost when the connection of the one who
//! asks is, without an error for the one who answers.

mod answer;
mod replies;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

pub(crate) use replies::Requests;

use crate::broker::Broker;
use crate::error::{Error, ErrorKind, Result};
use crate::headers::HeaderValue;
use crate::message::{Message, MessageId};
use crate::name::Name;
use crate::publish::{LONGEST_TIMEOUT, Publish};
use crate::topic::Topic;

/// The topic that the answer is wanted in.
const REPLY_TO: &str = "reply-to";
/// The partition there.
const REPLY_TO_PARTITION: &str = "reply-to-partition";
/// That the answer is an error, whose text is the payload.
const REPLY_ERROR: &str = "reply-error";

/// A question to be asked: await it for the answer.
///
/// ```
/// # use broker_api::{Broker, Topic};
/// # use std::time::Duration;
/// const QUOTES: Topic<String> = Topic::unchecked("quotes");
/// const PRICES: Topic<u32> = Topic::unchecked("prices"); // where the answers go
///
/// # async fn ask(broker: Broker) -> broker_api::Result<()> {
/// let wanted = "a bicycle".to_owned();
/// let price: u32 =
///     broker.request(QUOTES, &wanted, PRICES).timeout(Duration::from_secs(5)).await?;
/// # Ok(())
/// # }
/// # async fn answer(broker: Broker) -> broker_api::Result<()> {
/// // The other side is a consumer; the answer is confirmed before the question is settled.
/// broker
///     .consumer(QUOTES, "sales")
///     .run(|wanted, context| async move {
///         match wanted.as_str() {
///             "a bicycle" => context.reply(PRICES, &240).await?,
///             _ => context.reply_error(PRICES, "we do not have it").await?,
///         }
///         Ok(())
///     })
///     .await
/// # }
/// ```
///
/// - The question has the headers `reply-to` and `reply-to-partition`, and an answer the correlation
///   id of its question, so either side may be somebody else's client.
/// - The first answer counts. One that comes after the time limit is dropped, as is a second one: a
///   question is delivered at least once, and so may be handled, and answered, more than once.
/// - The topic of the answers is created with the first question if it does not exist, and keeps
///   them for minutes. One that exists needs a retention on RabbitMQ. Processes that ask read one
///   of its partitions each, chosen at random: more partitions mean fewer answers to others that a
///   process has to look at.
/// - At most 10,000 questions of a [`Broker`] wait for their answers; further ones wait for room.
///
/// # Errors
/// - [`ErrorKind::Timeout`] if there was no answer within the time limit. It is *indeterminate* if
///   the question was published: it stays, and may still be handled.
/// - [`ErrorKind::Handler`] with the words of the one who answers, if the answer is an error.
/// - [`ErrorKind::Codec`] or [`ErrorKind::Invalid`] for an answer that cannot be decoded or is invalid.
/// - [`ErrorKind::Closed`] if the broker is closed; indeterminate where that was done meanwhile.
/// - Those of publishing the question, and of creating and [reading](Broker::read) the topic of the
///   answers; [`ErrorKind::Unsupported`] where that cannot be read without a group.
///
/// # Cancel safety
/// Dropped before it is awaited, nothing was sent. Dropped while awaited, the question may have
/// been published and may be handled; its answer is dropped.
#[must_use = "nothing is asked before this is awaited"]
pub struct Request<A: 'static> {
    broker: Broker,
    topic: Name,
    message: Result<Message>,
    answers: Topic<A>,
    timeout: Duration,
}

impl Broker {
    /// Asks a question in one topic, to be answered in another; see [`Request`].
    pub fn request<Q, A>(
        &self,
        questions: Topic<Q>,
        question: &Q,
        answers: Topic<A>,
    ) -> Request<A> {
        Request {
            broker: self.clone(),
            topic: questions.name(),
            message: questions.encode(question),
            answers,
            timeout: self.inner.settings.publish_timeout.min(LONGEST_TIMEOUT),
        }
    }
}

impl<A: 'static> Request<A> {
    /// Replaces the key that the topic takes from the question.
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.message = self.message.map(|message| message.with_key(key));
        self
    }

    /// Adds a header to the question.
    pub fn header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<HeaderValue>,
    ) -> Self {
        self.message = self.message.map(|message| message.with_header(name, value));
        self
    }

    /// Sets how long it may take in all, from when it is awaited until the answer is here; otherwise
    /// as long as a publish may ([`Settings::publish_timeout`](crate::Settings)).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(LONGEST_TIMEOUT);
        self
    }

    async fn ask(self) -> Result<A> {
        let Self { broker, topic, message, answers, timeout } = self;
        let deadline = Instant::now() + timeout;
        let mut message = message?;
        broker.check_open("request")?;
        // A UUID of ours, so that no two questions have the same.
        let id = MessageId::new();
        let registered = broker.inner.requests.wait(&broker, answers.name(), id.to_string());
        // Boxed, because it is done once for a topic and would make every request larger.
        let registered = timeout_at(deadline, Box::pin(registered)).await;
        let mut awaited = registered.unwrap_or_else(|_| {
            let text = "the question could not be asked within the time limit";
            Err(Error::new(ErrorKind::Timeout, "request", text).transient())
        })?;
        message.headers_mut().set(REPLY_TO, answers.name().as_str());
        message.headers_mut().set(REPLY_TO_PARTITION, awaited.partition().to_string());
        let message = message.with_correlation_id(id.to_string()).with_id(id);
        let left = deadline.saturating_duration_since(Instant::now());
        let confirmation = Publish::new(broker, topic, Ok(message)).timeout(left).enqueue().await?;
        let mut doubt = None;
        let answered = timeout_at(deadline, async {
            // An answer shows that the question was published, whatever the broker says of it.
            tokio::select! {
                biased;
                answer = awaited.answer() => return answer,
                confirmed = confirmation => match confirmed {
                    Err(error) if error.is_indeterminate() => doubt = Some(error),
                    confirmed => drop(confirmed?),
                },
            };
            awaited.answer().await
        });
        let answer = answered.await.unwrap_or_else(|_| {
            let text = format!("no answer within {timeout:?}");
            let error = Error::new(ErrorKind::Timeout, "request", text).indeterminate();
            Err(match doubt {
                Some(doubt) => error.with_source(doubt),
                None => error,
            })
        })?;
        answer::read(answers, &answer)
    }
}

impl<A: 'static> IntoFuture for Request<A> {
    type Output = Result<A>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<A>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let topic = self.topic;
        Box::pin(async move {
            let answer = self.ask().await;
            answer.map_err(|error| match error.context("topic") {
                None => error.with("topic", topic),
                Some(_) => error,
            })
        })
    }
}

impl<A> fmt::Debug for Request<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("topic", &self.topic)
            .field("message", &self.message)
            .field("answers", &self.answers)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

//! One message on its way out.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::backend::{Outgoing, Receipt};
use crate::broker::Broker;
use crate::confirm::Confirm;
use crate::error::{Error, ErrorKind, Result};
use crate::headers::HeaderValue;
use crate::limits::check_message;
use crate::message::{Message, MessageId};
use crate::name::Name;
use crate::schedule;
use crate::telemetry::Sending;

/// What the bookkeeping of one message costs besides its own bytes, roughly.
const OVERHEAD_BYTES: usize = 256;

/// How long after the deadline a backend may still answer with what really happened.
const GRACE: Duration = Duration::from_secs(1);

/// The longest time limit, so that its end is a time that there is: longer ones are cut to it.
pub(crate) const LONGEST_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// A message to be published: await it for the broker's confirmation, or [`enqueue`](Self::enqueue)
/// it. The value was encoded and validated already; what was wrong with it comes out when awaited.
///
/// # Cancel safety
/// Dropped before it is awaited, nothing was sent. Dropped while awaited, the message may have been.
#[must_use = "nothing is published before this is awaited"]
#[derive(Debug)]
pub struct Publish {
    broker: Broker,
    topic: Name,
    message: Result<Message>,
    partition: Option<u32>,
    timeout: Duration,
    /// When it is to be published, if not now.
    due: Option<SystemTime>,
    /// Whether the headers are an application's, to be checked against the rules.
    checked: bool,
}

impl Publish {
    pub(crate) fn new(broker: Broker, topic: Name, message: Result<Message>) -> Self {
        let timeout = broker.inner.settings.publish_timeout.min(LONGEST_TIMEOUT);
        Self { broker, topic, message, partition: None, timeout, due: None, checked: true }
    }

    /// Replaces the key that the topic takes from the value.
    pub fn key(self, key: impl Into<Bytes>) -> Self {
        self.map(|message| message.with_key(key))
    }

    /// Adds a header.
    pub fn header(
        self,
        name: impl Into<std::borrow::Cow<'static, str>>,
        value: impl Into<HeaderValue>,
    ) -> Self {
        self.map(|message| message.with_header(name, value))
    }

    /// Sets the id; without it the message gets a new UUID version 7.
    pub fn id(self, id: impl Into<MessageId>) -> Self {
        self.map(|message| message.with_id(id))
    }

    /// Sets the id of the conversation.
    pub fn correlation_id(self, id: impl Into<Box<str>>) -> Self {
        self.map(|message| message.with_correlation_id(id))
    }

    /// Sets the partition, whatever the key.
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Sets how long it may take in all; 30 s unless the settings say otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(LONGEST_TIMEOUT);
        self
    }

    /// Has it published at this time instead of now, by a [`Scheduler`](crate::Scheduler) that
    /// has to be running in some process. It is confirmed when it is safely stored to wait, and
    /// its receipt is that of the place where it waits. Its timestamp will be the time when it is
    /// published, unless it has one already. A time that is over means now.
    ///
    /// What would keep it from being published then is an error now, as far as it is known now.
    /// If no scheduler has ever run on this broker it is an error of kind
    /// [`ErrorKind::Unroutable`]; a message larger than
    /// [`DEFAULT_MAX_MESSAGE_BYTES`](crate::DEFAULT_MAX_MESSAGE_BYTES) cannot wait, whatever its
    /// topic allows ([`ErrorKind::TooLarge`]).
    pub fn deliver_at(mut self, time: SystemTime) -> Self {
        self.due = Some(time);
        self
    }

    /// As [`Publish::deliver_at`], so long from now. Any time will do, from milliseconds to months;
    /// one beyond the end of the calendar is an error.
    pub fn deliver_after(mut self, delay: Duration) -> Self {
        self.due = schedule::now().checked_add(delay);
        if self.due.is_none() {
            let text = format!("a delay of {delay:?} ends at no time that there is");
            let error = Error::new(ErrorKind::Invalid, "publish", text);
            self.message = self.message.and(Err(error.with("topic", self.topic)));
        }
        self
    }

    /// Publishes headers as they are: those of a message that was received, and our own.
    pub(crate) fn with_any_headers(mut self) -> Self {
        self.checked = false;
        self
    }

    fn map(mut self, change: impl FnOnce(Message) -> Message) -> Self {
        self.message = self.message.map(change);
        self
    }

    /// Waits for room among what is in flight, and hands the message over. Messages enqueued one
    /// after the other are published in that order.
    ///
    /// # Errors
    /// Those of the value, names and headers; [`ErrorKind::Closed`]; [`ErrorKind::Timeout`] if
    /// there was no room in time. In all of these cases nothing was published.
    pub async fn enqueue(self) -> Result<Confirmation> {
        let deadline = Instant::now() + self.timeout;
        self.hand_over(deadline).await
    }

    /// Checks and completes the message, to be published by the transaction that settles a delivery
    /// of `input`. It waits for room, and holds none: what is done and waits for its transaction is
    /// bounded by the prefetch, and must not keep what has to be done before it from publishing.
    ///
    /// # Errors
    /// Those of [`Publish::enqueue`], and what publishing it would be answered as far as it is
    /// known now.
    pub(crate) async fn prepare(self, input: Name) -> Result<Outgoing> {
        let Self { broker, topic, message, partition, timeout, due, checked } = self;
        let began = Instant::now();
        let deadline = began + timeout;
        let counts = broker.inner.counts.clone();
        let mut sending =
            broker.inner.telemetry.sending(topic, message.as_ref().ok(), began, counts);
        let mut to = To { topic, partition, due };
        let prepared = async {
            let admitted = admit(&broker, &mut to, message, checked, &mut sending, deadline);
            let (message, _) = admitted.await?;
            let checked =
                broker.inner.backend.check_output(input, to.topic, to.partition, &message);
            checked.await?;
            Ok(message)
        };
        let message = match prepared.await {
            Ok(message) => message,
            Err(error) => {
                sending.refused(&error);
                return Err(error);
            }
        };
        sending.handed_over(&message);
        let confirm = Confirm::of_output(sending);
        Ok(Outgoing { topic: to.topic, partition: to.partition, message, deadline, confirm })
    }

    async fn hand_over(self, deadline: Instant) -> Result<Confirmation> {
        let Self { broker, topic, message, partition, timeout, due, checked } = self;
        let began = deadline - timeout;
        let counts = broker.inner.counts.clone();
        let mut sending =
            broker.inner.telemetry.sending(topic, message.as_ref().ok(), began, counts);
        let mut to = To { topic, partition, due };
        let admitted = admit(&broker, &mut to, message, checked, &mut sending, deadline).await;
        let To { topic, partition, .. } = to;
        let (message, permit) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                sending.refused(&error);
                return Err(error);
            }
        };
        sending.handed_over(&message);
        let (confirm, answer) = Confirm::channel(permit, Some(sending));
        let outgoing = Outgoing { topic, partition, message, deadline, confirm };
        broker.inner.backend.publish(outgoing);
        Ok(Confirmation { answer, topic })
    }
}

/// Where a message goes, and when.
struct To {
    topic: Name,
    partition: Option<u32>,
    due: Option<SystemTime>,
}

/// Checks and completes the message, and waits for its room. One that is put off goes elsewhere
/// first.
async fn admit(
    broker: &Broker,
    to: &mut To,
    message: Result<Message>,
    checked: bool,
    sending: &mut Sending,
    deadline: Instant,
) -> Result<(Message, OwnedSemaphorePermit)> {
    let mut message = message?;
    if checked {
        check_message(&message).map_err(|error| error.with("topic", to.topic))?;
        sending.inject(&mut message);
    }
    broker.check_open("publish").map_err(|error| error.with("topic", to.topic))?;
    let room = match to.due {
        None => broker.inner.room.clone().try_acquire_many_owned(room_of(&message, broker)).ok(),
        Some(_) => None,
    };
    let permit = match room {
        Some(permit) => permit,
        // Boxed, because it is rare and would make every publishing larger.
        None => Box::pin(wait(broker, to, &mut message, sending, deadline)).await?,
    };
    message.complete();
    Ok((message, permit))
}

/// What a message needs of the memory that may be in flight.
fn room_of(message: &Message, broker: &Broker) -> u32 {
    let bytes = message.byte_len() + OVERHEAD_BYTES;
    bytes.min(broker.inner.settings.publish_buffer_bytes) as u32
}

/// Puts the message off, if it is not due, and waits for its room.
async fn wait(
    broker: &Broker,
    to: &mut To,
    message: &mut Message,
    sending: &mut Sending,
    deadline: Instant,
) -> Result<OwnedSemaphorePermit> {
    let topic = to.topic;
    if let Some(due) = to.due.filter(|due| *due > schedule::now()) {
        let put_off = schedule::put_off(broker, topic, to.partition, std::mem::take(message), due);
        let stored = timeout_at(deadline, put_off).await.unwrap_or_else(|_| {
            let text = "the broker did not say within the time limit whether the topic exists";
            Err(Error::new(ErrorKind::Timeout, "publish", text).transient())
        });
        (to.topic, *message) = stored.map_err(|error| error.with("topic", topic))?;
        to.partition = None;
        sending.goes_to(to.topic, &broker.inner.telemetry);
    }
    let room = broker.inner.room.clone().acquire_many_owned(room_of(message, broker));
    match timeout_at(deadline, room).await {
        Ok(Ok(permit)) => Ok(permit),
        // The semaphore is never closed, so this is the time limit.
        _ => {
            let text = "no room among the messages in flight within the time limit";
            let error = Error::new(ErrorKind::Timeout, "publish", text).transient();
            Err(error.with("topic", topic))
        }
    }
}

impl IntoFuture for Publish {
    type Output = Result<Receipt>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Receipt>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let topic = self.topic;
            let deadline = Instant::now() + self.timeout;
            let confirmation = self.hand_over(deadline).await?;
            match timeout_at(deadline + GRACE, confirmation).await {
                Ok(result) => result,
                Err(_) => {
                    let text = "the backend did not answer within the time limit";
                    let error = Error::new(ErrorKind::Timeout, "publish", text).indeterminate();
                    Err(error.with("topic", topic))
                }
            }
        })
    }
}

/// The confirmation of an enqueued message, to be awaited at any time, or not at all.
#[derive(Debug)]
pub struct Confirmation {
    answer: oneshot::Receiver<Result<Receipt>>,
    topic: Name,
}

impl Future for Confirmation {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| match answer {
            Ok(result) => result,
            // `Confirm` answers when it is dropped, so only a runtime that ends gets here.
            Err(_) => {
                let error = Error::new(ErrorKind::Other, "publish", "the answer was lost");
                Err(error.indeterminate().with("topic", self.topic))
            }
        })
    }
}

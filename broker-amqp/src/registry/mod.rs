//! Which topics and groups there are: a log in a stream queue of the broker itself, because AMQP
//! can neither list queues nor tell how they were declared.
//!
//! Every backend reads the log from its beginning when it connects, and follows it. An event is
//! appended once, and what it has brought about is known when it is read back: of two creations of
//! one topic the first in the log is the one that counts, for everybody.

mod state;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use broker_api::{Error, ErrorKind, Name, Result};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use crate::error;
use crate::link::{LastError, Link};
pub(crate) use state::{Event, Group, State, Topic};

/// How many events are asked for ahead.
const PREFETCH: u16 = 1_000;

/// How long to wait before the log is tried again after an error.
const PAUSE: Duration = Duration::from_millis(200);

/// The registry, as far as it was read.
#[derive(Debug)]
pub(crate) struct Registry {
    queue: ShortString,
    /// Events are appended on the connection that may be blocked, and read on the other one.
    publish: Link,
    state: RwLock<State>,
    /// Counts the events taken in, so that others can wait for a change.
    changed: watch::Sender<u64>,
    waiting: Mutex<HashMap<Uuid, oneshot::Sender<bool>>>,
}

impl Registry {
    /// Opens the log, makes it where there is none, and reads what is in it.
    ///
    /// # Errors
    /// It can be neither made nor read.
    pub(crate) async fn open(
        name: &str,
        consume: Link,
        publish: Link,
        last_error: Arc<LastError>,
        mut closing: watch::Receiver<bool>,
    ) -> Result<Arc<Self>> {
        let registry = Arc::new(Self {
            queue: name.into(),
            publish,
            state: RwLock::default(),
            changed: watch::Sender::new(0),
            waiting: Mutex::default(),
        });
        let mut log = registry.read_all(&consume).await?;
        let follower = registry.clone();
        tokio::spawn(async move {
            let follow = async {
                loop {
                    let error = match follower.follow(&mut log).await {
                        Ok(()) => lost(),
                        Err(error) => error,
                    };
                    tracing::debug!(%error, "the registry has to be read again");
                    log = loop {
                        match follower.read_all(&consume).await {
                            Ok(log) => break log,
                            Err(error) if error.kind() == ErrorKind::Closed => return,
                            Err(error) => last_error.note(&error),
                        }
                        tokio::time::sleep(PAUSE).await;
                    };
                }
            };
            tokio::select! {
                _ = closing.wait_for(|closing| *closing) => {}
                () = follow => {}
            }
        });
        Ok(registry)
    }

    /// The topic, if it is there and not about to be deleted.
    pub(crate) fn topic(&self, name: Name) -> Option<Topic> {
        self.look(|state| state.topic(name).filter(|topic| !topic.deleting).cloned())
    }

    /// Looks at what is known, without waiting.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells of every change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits until `look` finds what it looks for.
    pub(crate) async fn wait_for<T>(&self, look: impl Fn(&State) -> Option<T>) -> T {
        let mut changes = self.changes();
        loop {
            if let Some(found) = self.look(&look) {
                return found;
            }
            // The sender lives in `self`.
            let _ = changes.changed().await;
        }
    }

    /// Appends an event, and waits until it is read back; whether it had an effect.
    ///
    /// # Errors
    /// It could not be appended.
    pub(crate) async fn append(&self, event: &Event, operation: &'static str) -> Result<bool> {
        let id = Uuid::now_v7();
        let (sender, receiver) = oneshot::channel();
        self.waiting().insert(id, sender);
        let result = async {
            self.send(id, event, operation).await?;
            // Dropped unanswered only with the registry itself.
            receiver.await.map_err(|_| error::closed(operation))
        };
        let result = result.await;
        self.waiting().remove(&id);
        result
    }

    async fn send(&self, id: Uuid, event: &Event, operation: &'static str) -> Result<()> {
        let channel = self.publish.channel(operation).await?;
        let failed = |e| error::failed(operation, e);
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
        let payload = serde_json::to_vec(event).map_err(|e| {
            let text = "the event for the registry could not be written";
            Error::new(ErrorKind::Codec, operation, text).with_source(e)
        })?;
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_message_id(id.to_string().into());
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let confirm = channel
            .basic_publish("".into(), self.queue.clone(), options, &payload, properties)
            .await
            .map_err(failed)?;
        match confirm.await.map_err(|e| failed(e).indeterminate())? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => {
                let text = format!("the queue {} of the registry is gone", self.queue);
                Err(Error::new(ErrorKind::Unavailable, operation, text).transient())
            }
            _ => {
                let text = format!("RabbitMQ did not take an event into {}", self.queue);
                Err(Error::new(ErrorKind::Unavailable, operation, text).indeterminate())
            }
        }
    }

    /// Reads what is in the log now, from its beginning: it may be another one than before, if the
    /// broker has lost its data.
    async fn read_all(&self, consume: &Link) -> Result<Log> {
        const OPERATION: &str = "registry";
        let failed = |e| error::failed(OPERATION, e).with("queue", &self.queue);
        let channel = consume.channel(OPERATION).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let queue =
            channel.queue_declare(self.queue.clone(), options, arguments).await.map_err(failed)?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.map_err(failed)?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
        let consumer = channel
            .basic_consume(
                self.queue.clone(),
                "registry".into(),
                BasicConsumeOptions::default(),
                arguments,
            )
            .await
            .map_err(failed)?;
        let mut log = Log { consumer, channel, state: State::default(), count: 0 };
        // The count is some seconds old, which leaves the newest events to `follow`.
        while log.count < u64::from(queue.message_count()) {
            let Some((place, id, event)) = log.next().await? else { return Err(lost()) };
            let effect = event.is_some_and(|event| log.state.apply(place, &event));
            self.answer(id, effect);
        }
        let state = std::mem::take(&mut log.state);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.send_modify(|count| *count += 1);
        Ok(log)
    }

    async fn follow(&self, log: &mut Log) -> Result<()> {
        while let Some((place, id, event)) = log.next().await? {
            let effect = event.is_some_and(|event| {
                tracing::debug!(?event, "registry");
                let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                state.apply(place, &event)
            });
            self.changed.send_modify(|count| *count += 1);
            self.answer(id, effect);
        }
        Ok(())
    }

    fn answer(&self, id: Option<Uuid>, effect: bool) {
        if let Some(waiting) = id.and_then(|id| self.waiting().remove(&id)) {
            let _ = waiting.send(effect);
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, oneshot::Sender<bool>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log while it is read.
struct Log {
    // Dropped before its channel it would be cancelled, which a stream does not mind.
    consumer: lapin::Consumer,
    channel: Channel,
    /// What is built while the whole log is read.
    state: State,
    count: u64,
}

impl Log {
    /// The next entry: its place, its id, and the event if this version knows it.
    async fn next(&mut self) -> Result<Option<(u64, Option<Uuid>, Option<Event>)>> {
        let Some(delivery) = self.consumer.next().await else { return Ok(None) };
        let delivery = delivery.map_err(|e| error::failed("registry", e))?;
        self.count += 1;
        if self.count % u64::from(PREFETCH / 4) == 1 {
            let options = BasicAckOptions { multiple: true };
            let acked = self.channel.basic_ack(delivery.delivery_tag, options).await;
            acked.map_err(|e| error::failed("registry", e))?;
        }
        let read = crate::properties::read(&delivery.properties, Vec::new());
        let id = delivery.properties.message_id().as_ref();
        let event = serde_json::from_slice(&delivery.data);
        if let Err(error) = &event {
            tracing::warn!(%error, "an entry of the registry is not understood; it is skipped");
        }
        let id = id.and_then(|id| Uuid::try_parse(id.as_str()).ok());
        Ok(Some((read.offset.unwrap_or(self.count), id, event.ok())))
    }
}

fn lost() -> Error {
    let text = "the registry was lost while it was read";
    Error::new(ErrorKind::Unavailable, "registry", text).transient()
}

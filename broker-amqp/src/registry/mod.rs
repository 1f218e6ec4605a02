//! Which topics and groups there are: a log in a stream queue of the broker itself, because AMQP
//! can neither list queues nor tell how they were declared.
//!
//! Every backend reads the log from its beginning when it connects, and follows it. An event is
//! appended once, and what it has brought about is known when it is read back: of two creations of
//! one topic the first in the log is the one that counts, for everybody.

mod event;
mod log;
mod state;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use broker_api::{ErrorKind, Name, Result};
use lapin::types::ShortString;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use crate::error;
use crate::link::{LastError, Link};
use crate::stream::{Place, Stream};
pub(crate) use event::Event;
use log::{Log, Step};
pub(crate) use state::{Group, State, Topic};

/// How long to wait before the log is tried again after an error.
const PAUSE: Duration = Duration::from_millis(200);

/// The registry, as far as it was read.
#[derive(Debug)]
pub(crate) struct Registry {
    queue: ShortString,
    /// Events are appended on the connection that may be blocked, and read on the other one.
    publish: Link,
    consume: Link,
    state: RwLock<State>,
    /// Up to where the log was read: the next place. So others can wait for a change.
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
            publish: publish.clone(),
            consume: consume.clone(),
            state: RwLock::default(),
            changed: watch::Sender::new(0),
            waiting: Mutex::default(),
        });
        let mut log = Log::new(name.into(), consume, publish);
        // Where several make the log at the same time, the broker has an error for some of them.
        while let Err(error) = registry.catch_up(&mut log).await {
            if error.is_permanent() {
                return Err(error);
            }
            last_error.note(&error);
            tokio::time::sleep(PAUSE).await;
        }
        let follower = registry.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = closing.wait_for(|closing| *closing) => {}
                () = follower.follow(log, &last_error) => {}
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

    /// Appends an event, and waits until it is read back; whether it had an effect.
    ///
    /// # Errors
    /// It could not be appended.
    pub(crate) async fn append(&self, event: &Event, operation: &'static str) -> Result<bool> {
        let id = Uuid::now_v7();
        let (sender, receiver) = oneshot::channel();
        self.waiting().insert(id, sender);
        let waiting = Waiting { registry: self, id };
        log::append(&self.publish, &self.queue, id, event, operation).await?;
        let effect = receiver.await;
        drop(waiting);
        // Dropped unanswered only with the registry itself.
        effect.map_err(|_| error::closed(operation))
    }

    /// Reads everything that this node of the broker has of the log. Unlike [`Self::sync`] it leaves
    /// nothing behind in the log, which has to have an entry.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(crate) async fn refresh(&self, operation: &'static str) -> Result<()> {
        let mut changes = self.changed.subscribe();
        loop {
            let (link, queue) = (self.consume.clone(), self.queue.clone());
            let mut stream = Stream::new(link, queue, log::PREFETCH, Place::Last);
            if !stream.attach(operation).await? {
                return Ok(());
            }
            if let Some(end) = stream.end(operation).await? {
                // The sender lives in `self`.
                let _ = changes.wait_for(|next| *next > end).await;
                return Ok(());
            }
        }
    }

    /// Reads everything that was appended by anybody until now, on any node of the broker.
    ///
    /// # Errors
    /// Nothing could be appended.
    pub(crate) async fn sync(&self, operation: &'static str) -> Result<()> {
        self.append(&Event::Sync, operation).await.map(drop)
    }

    /// Reads what is in the log. The newest entries may be left to [`Self::follow`]: how many there
    /// are the broker knows late.
    async fn catch_up(&self, log: &mut Log) -> Result<()> {
        let count = log.open().await?;
        while log.count() < count {
            self.take_in(log.next().await?);
        }
        Ok(())
    }

    async fn follow(&self, mut log: Log, last_error: &LastError) {
        loop {
            match log.next().await {
                Ok(step) => self.take_in(step),
                Err(error) if error.kind() == ErrorKind::Closed => return,
                Err(error) => {
                    last_error.note(&error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn take_in(&self, step: Step) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let (next, answer) = match step {
            Step::Anew => {
                tracing::warn!("RabbitMQ has lost the registry of topics and groups");
                *state = State::default();
                (0, None)
            }
            Step::Entry(entry) => {
                tracing::debug!(event = ?entry.event, "registry");
                let effect = entry.event.is_some_and(|event| state.apply(entry.place, &event));
                (entry.place + 1, entry.id.map(|id| (id, effect)))
            }
        };
        drop(state);
        self.changed.send_replace(next);
        if let Some((id, effect)) = answer
            && let Some(waiting) = self.waiting().remove(&id)
        {
            let _ = waiting.send(effect);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Uuid, oneshot::Sender<bool>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody waits for an event; not any more when this is dropped.
struct Waiting<'a> {
    registry: &'a Registry,
    id: Uuid,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.registry.waiting().remove(&self.id);
    }
}

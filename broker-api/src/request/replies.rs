//! Who waits for an answer, and what reads the answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::AbortHandle;
use uuid::Uuid;

use crate::backend::{Read, Start, Until};
use crate::broker::Broker;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::Name;
use crate::spec::{TopicDescription, TopicSpec};
use crate::subscription::Subscription;

/// How many questions may wait for their answers at a time.
const MAX_WAITING: usize = 10_000;

/// How long an answer is kept, which is read at once or never.
const KEPT: Duration = Duration::from_secs(10 * 60);

/// How many bytes of answers are kept. RabbitMQ cuts its stream into pieces by this, and drops
/// them whole.
const KEPT_BYTES: u64 = 64 * 1024 * 1024;

/// How many answers are taken at once.
const BATCH: usize = 256;

/// The questions of one broker that wait for their answers.
#[derive(Debug)]
pub(crate) struct Requests {
    pub(super) room: Arc<Semaphore>,
    /// What reads each topic that answers come in.
    replies: Mutex<HashMap<Name, Arc<OnceCell<Arc<Replies>>>>>,
}

impl Default for Requests {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(MAX_WAITING)), replies: Mutex::default() }
    }
}

impl Requests {
    /// Waits for room, and has the answer with this correlation id kept from now on.
    ///
    /// # Errors
    /// Those of creating and of reading the topic.
    pub(super) async fn wait(&self, broker: &Broker, topic: Name, id: String) -> Result<Awaited> {
        // The semaphore is never closed.
        let closed = |_| Error::new(ErrorKind::Closed, "request", "the broker is closed");
        let room = self.room.clone().acquire_owned().await.map_err(closed)?;
        let cell = self.cell(topic);
        let replies = cell.get_or_try_init(|| Replies::open(broker, topic)).await?;
        Awaited::new(replies, id, room)
    }

    fn cell(&self, topic: Name) -> Arc<OnceCell<Arc<Replies>>> {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = replies.entry(topic).or_default();
        // One that has ended is followed by another: what ended it may be over.
        if cell.get().is_some_and(|replies| replies.waiting.has_ended()) {
            *cell = Arc::default();
        }
        cell.clone()
    }
}

#[cfg(test)]
impl Requests {
    /// How many senders are kept for answers in this topic.
    pub(super) fn kept(&self, topic: Name) -> usize {
        let cell = self.cell(topic);
        cell.get()
            .and_then(|replies| replies.waiting.lock().as_ref().map(HashMap::len))
            .unwrap_or(0)
    }
}

/// The reading of a topic that answers come in.
#[derive(Debug)]
struct Replies {
    /// The partition that is read.
    partition: u32,
    waiting: Arc<Waiting>,
    reader: AbortHandle,
}

/// By correlation id, who waits; `None` once the reading has ended.
#[derive(Debug)]
struct Waiting(Mutex<Option<Senders>>);

type Senders = HashMap<String, oneshot::Sender<Result<Message>>>;

impl Replies {
    /// Begins to read: an answer that is published after this has returned is seen.
    async fn open(broker: &Broker, topic: Name) -> Result<Arc<Self>> {
        let partitions = described(broker, topic).await?.partitions;
        // The last bits of a UUID are random.
        let partition = Uuid::now_v7().as_u128() as u32 % partitions.max(1);
        let partitions = Some(vec![partition]);
        let read = Read { topic, partitions, start: Start::Latest, until: Until::Followed };
        let reading = broker.read(read).await?;
        let waiting = Arc::new(Waiting(Mutex::new(Some(Senders::new()))));
        let reader = tokio::spawn(read_on(reading, Reader(waiting.clone()))).abort_handle();
        Ok(Arc::new(Self { partition, waiting, reader }))
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Option<Senders>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_ended(&self) -> bool {
        self.lock().is_none()
    }

    /// Gives an answer to who waits for it. It may be another process's, or late.
    fn hand_over(&self, message: &Message) {
        let waiting = |id| self.lock().as_mut()?.remove(id);
        if let Some(sender) = message.correlation_id().and_then(waiting) {
            // Who waited may have given up at this moment.
            let _ = sender.send(Ok(message.clone()));
        }
    }

    /// Tells all who wait that nothing will come. Their questions are asked, so it is open what
    /// becomes of them.
    fn end(&self, kind: ErrorKind, text: &str) {
        for (_, sender) in self.lock().take().into_iter().flatten() {
            let error = Error::new(kind, "request", text.to_owned()).indeterminate();
            let _ = sender.send(Err(error));
        }
    }
}

/// The task that reads. However it ends, nobody waits any longer.
struct Reader(Arc<Waiting>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.end(ErrorKind::Closed, "the broker was closed before the answer came");
    }
}

async fn read_on(mut reading: Subscription, reader: Reader) {
    loop {
        match reading.next_batch(BATCH).await {
            Ok(Some(batch)) => batch.iter().for_each(|answer| reader.0.hand_over(answer.message())),
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "answers are not read any more; the next question begins anew");
                return reader.0.end(error.kind(), &error.to_string());
            }
        }
    }
}

/// What the topic is, which is created if it is not there.
async fn described(broker: &Broker, topic: Name) -> Result<TopicDescription> {
    match broker.describe_topic(topic).await {
        Err(error) if error.kind() == ErrorKind::UnknownTopic => {}
        described => return described,
    }
    let spec = TopicSpec::new(topic).retention(KEPT).retention_bytes(KEPT_BYTES);
    match broker.inner.backend.create_topic(&spec).await {
        // By another process, at the same time.
        Err(error) if error.kind() == ErrorKind::TopicExists => {}
        created => created?,
    }
    broker.describe_topic(topic).await
}

/// A question that waits for its answer. Dropped, it waits no longer.
pub(super) struct Awaited {
    id: String,
    answer: oneshot::Receiver<Result<Message>>,
    replies: Arc<Replies>,
    _room: OwnedSemaphorePermit,
}

impl Awaited {
    fn new(replies: &Arc<Replies>, id: String, room: OwnedSemaphorePermit) -> Result<Self> {
        let (sender, answer) = oneshot::channel();
        match &mut *replies.waiting.lock() {
            Some(waiting) => drop(waiting.insert(id.clone(), sender)),
            None => return Err(lost().transient()),
        }
        Ok(Self { id, answer, replies: replies.clone(), _room: room })
    }

    /// Which partition of the topic the answer is seen in.
    pub(super) fn partition(&self) -> u32 {
        self.replies.partition
    }

    /// The answer. Cancel-safe.
    ///
    /// # Errors
    /// What ended the reading, if nothing can come any more.
    pub(super) async fn answer(&mut self) -> Result<Message> {
        (&mut self.answer).await.unwrap_or_else(|_| Err(lost().indeterminate()))
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if let Some(waiting) = &mut *self.replies.waiting.lock() {
            waiting.remove(&self.id);
        }
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Unavailable, "request", "the topic of the answers is not read any more")
}

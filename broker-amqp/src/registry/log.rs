//! The log of the registry, followed whatever happens to the connection.

use std::time::Duration;

use broker_api::{Error, ErrorKind, Result};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation};
use uuid::Uuid;

use crate::error;
use crate::link::Link;
use crate::registry::event::Event;
use crate::stream::{Place, Stream, is_there};

const OPERATION: &str = "registry";

/// How many entries are asked for ahead.
pub(super) const PREFETCH: u16 = 1_000;

/// How long nothing has to come of what is known before it is doubted that it is still there.
const QUIET: Duration = Duration::from_secs(2);

/// How long to wait for a log that is gone to be made again.
const GONE: Duration = Duration::from_millis(200);

/// An entry of the log.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) place: u64,
    pub(super) id: Option<Uuid>,
    /// `None` for what a later version wrote.
    pub(super) event: Option<Event>,
}

/// What comes next.
pub(super) enum Step {
    Entry(Entry),
    /// It is not the log that was read before: the broker has lost its data. What was read counts
    /// no longer; the entries from the beginning follow.
    Anew,
}

/// The log, while it is followed.
///
/// After an outage it is read from its beginning, and what is known is skipped. So it shows whether
/// it is still the same log; and if it is, what was read from it is never forgotten for a moment.
pub(super) struct Log {
    queue: ShortString,
    consume: Link,
    publish: Link,
    stream: Option<Stream>,
    progress: Progress,
    fence: Option<Uuid>,
}

impl Log {
    pub(super) fn new(queue: ShortString, consume: Link, publish: Link) -> Self {
        let progress = Progress::default();
        Self { queue, consume, publish, stream: None, progress, fence: None }
    }

    /// Makes the log where there is none and begins to read it; how many entries it has, which the
    /// broker knows some seconds late.
    pub(super) async fn open(&mut self) -> Result<u64> {
        let failed = |e| error::failed(OPERATION, e).with("queue", &self.queue);
        let channel = self.consume.channel(OPERATION).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let declared = channel.queue_declare(self.queue.clone(), options, arguments).await;
        let count = declared.map_err(failed)?.message_count();
        let (link, queue) = (self.consume.clone(), self.queue.clone());
        let mut stream = Stream::new(link, queue, PREFETCH, Place::First);
        if !stream.attach(OPERATION).await? {
            let text = format!("somebody has deleted the queue {}", self.queue);
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, text).transient());
        }
        self.progress.begin_again();
        self.stream = Some(stream);
        Ok(count.into())
    }

    /// How many entries were read.
    pub(super) fn count(&self) -> u64 {
        self.progress.last.as_ref().map_or(0, |last| last.place + 1)
    }

    /// Waits for what comes next.
    ///
    /// # Errors
    /// The log can be neither made nor read at the moment; asking again tries again.
    pub(super) async fn next(&mut self) -> Result<Step> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.open().await?;
                continue;
            };
            let came = tokio::select! {
                came = stream.next_here(OPERATION) => came?,
                () = tokio::time::sleep(QUIET), if self.progress.is_behind() => {
                    self.fence().await;
                    continue;
                }
            };
            let Some((place, delivery)) = came else {
                self.stream = None;
                continue;
            };
            let id = delivery.properties.message_id().as_ref();
            let id = id.and_then(|id| Uuid::try_parse(id.as_str()).ok());
            match self.progress.take(Seen { place, id }, self.fence) {
                Took::Known => {}
                Took::Other => {
                    self.progress = Progress::default();
                    self.stream = None;
                    return Ok(Step::Anew);
                }
                Took::New => {
                    let event = serde_json::from_slice(&delivery.data);
                    if let Err(error) = &event {
                        tracing::warn!(%error, "an entry of the registry is skipped");
                    }
                    return Ok(Step::Entry(Entry { place, id, event: event.ok() }));
                }
            }
        }
    }

    /// Puts something at the end. If that comes before what is known, or in place of it, then what
    /// is known is gone; a log that has become empty has no other way to say so.
    async fn fence(&mut self) {
        let id = Uuid::now_v7();
        self.fence = Some(id);
        let fence = append(&self.publish, &self.queue, id, &Event::Sync, OPERATION);
        // If it does not get there, the next one will.
        let _ = tokio::time::timeout(QUIET, fence).await;
    }
}

/// Appends an event to the log, and waits until it is stored.
pub(super) async fn append(
    publish: &Link,
    queue: &ShortString,
    id: Uuid,
    event: &Event,
    operation: &'static str,
) -> Result<()> {
    let channel = publish.channel(operation).await?;
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
    let published = channel.basic_publish("".into(), queue.clone(), options, &payload, properties);
    let confirm = published.await.map_err(failed)?;
    let lost = |e| match error::reply_code(&e) {
        // Nothing else was sent by this channel, so this is what was refused.
        Some(error::code::ACCESS_REFUSED) => failed(e),
        _ => failed(e).indeterminate(),
    };
    match confirm.await.map_err(lost)? {
        Confirmation::Ack(None) => Ok(()),
        // Not up yet; or it is gone, then whoever follows it makes another one.
        Confirmation::Ack(Some(_)) => {
            if !is_there(publish, queue, operation).await? {
                tokio::time::sleep(GONE).await;
            }
            Box::pin(append(publish, queue, id, event, operation)).await
        }
        _ => {
            let text = format!("RabbitMQ did not take an event into {queue}");
            Err(Error::new(ErrorKind::Unavailable, operation, text).indeterminate())
        }
    }
}

/// An entry, as far as it is needed to know it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    place: u64,
    id: Option<Uuid>,
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
enum Took {
    New,
    /// It was read before the log was begun again.
    Known,
    /// It is of another log.
    Other,
}

/// How far the log was read.
#[derive(Debug, Default)]
struct Progress {
    first: Option<Seen>,
    last: Option<Seen>,
    /// Begun again, and not yet where it was.
    behind: bool,
}

impl Progress {
    fn begin_again(&mut self) {
        self.behind = self.last.is_some();
    }

    fn is_behind(&self) -> bool {
        self.behind
    }

    fn take(&mut self, entry: Seen, fence: Option<Uuid>) -> Took {
        let Some(last) = self.last.filter(|_| self.behind) else {
            self.first.get_or_insert(entry);
            self.last = Some(entry);
            return Took::New;
        };
        let first_differs = self.first.is_some_and(|f| f.place == entry.place && f != entry);
        let at_the_end = entry.id.is_some() && entry.id == fence;
        if first_differs || at_the_end || entry.place > last.place {
            return Took::Other;
        }
        if entry.place == last.place {
            if entry != last {
                return Took::Other;
            }
            self.behind = false;
        }
        Took::Known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(place: u64, id: u128) -> Seen {
        Seen { place, id: Some(Uuid::from_u128(id)) }
    }

    /// Read up to three entries, and begun again.
    fn interrupted() -> Progress {
        let mut progress = Progress::default();
        for place in 0..3 {
            assert_eq!(progress.take(seen(place, 100 + u128::from(place)), None), Took::New);
        }
        assert!(!progress.is_behind());
        progress.begin_again();
        assert!(progress.is_behind());
        progress
    }

    #[test]
    fn the_same_log_goes_on_where_it_was() {
        let mut progress = interrupted();
        for place in 0..3 {
            assert_eq!(progress.take(seen(place, 100 + u128::from(place)), None), Took::Known);
        }
        assert!(!progress.is_behind());
        assert_eq!(progress.take(seen(3, 103), None), Took::New);
    }

    #[test]
    fn another_log_is_known_by_its_first_entry() {
        assert_eq!(interrupted().take(seen(0, 7), None), Took::Other);
    }

    #[test]
    fn a_log_that_has_lost_its_end_is_known_by_what_is_there_instead() {
        let mut progress = interrupted();
        assert_eq!(progress.take(seen(0, 100), None), Took::Known);
        assert_eq!(progress.take(seen(1, 101), None), Took::Known);
        assert_eq!(progress.take(seen(2, 7), None), Took::Other);
    }

    #[test]
    fn a_log_that_ends_too_early_is_known_by_the_fence() {
        let mut progress = interrupted();
        let fence = Uuid::from_u128(9);
        assert_eq!(progress.take(seen(0, 100), Some(fence)), Took::Known);
        assert_eq!(progress.take(seen(1, 9), Some(fence)), Took::Other);
    }

    #[test]
    fn an_empty_log_has_nothing_to_be_behind_of() {
        let mut progress = Progress::default();
        progress.begin_again();
        assert!(!progress.is_behind());
        assert_eq!(progress.take(seen(0, 1), None), Took::New);
    }
}

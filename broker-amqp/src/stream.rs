//! Reading the stream of a topic from some place on, whatever happens to the connection.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broker_api::{Error, ErrorKind, Result, Start};
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Consumer};
use uuid::Uuid;

use crate::error;
use crate::link::Link;
use crate::properties::{MARK, Mark};

/// How much earlier than asked for a reading by time begins: the broker finds a place by the time
/// it stored the messages, and what counts is the time that their publishers gave them.
const EARLIER: Duration = Duration::from_secs(3_600);

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    First,
    /// With the last messages there are: enough to find the end.
    Last,
    Offset(u64),
    /// With what was stored at this time, in seconds, or a little before.
    Stored(u64),
}

impl Place {
    /// Where a reading has to begin in order to see all that `start` asks for.
    pub(crate) fn before(start: Start) -> Self {
        match start {
            Start::Earliest => Self::First,
            Start::Latest => Self::Last,
            Start::Offset(offset) => Self::Offset(offset),
            // A time to come may still be the publishers' time of what is there.
            Start::Time(time) if time > SystemTime::now() => Self::First,
            Start::Time(time) => {
                let earlier = time.checked_sub(EARLIER).unwrap_or(UNIX_EPOCH);
                Self::Stored(earlier.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()))
            }
        }
    }

    fn argument(self) -> AMQPValue {
        match self {
            Self::First => AMQPValue::LongString("first".into()),
            Self::Last => AMQPValue::LongString("last".into()),
            Self::Offset(n) => AMQPValue::LongLongInt(i64::try_from(n).unwrap_or(i64::MAX)),
            Self::Stored(seconds) => AMQPValue::Timestamp(seconds),
        }
    }
}

/// What of a reading that began early enough is asked for, partition by partition.
#[derive(Debug)]
pub(crate) struct Begin {
    start: Start,
    begun: std::collections::HashSet<u32>,
}

impl Begin {
    pub(crate) fn new(start: Start) -> Self {
        Self { start, begun: Default::default() }
    }

    /// Whether this message is asked for. By time, a partition begins with the first message that
    /// is not too early, and goes on with all that follow; without a time none is too early.
    pub(crate) fn admits(&mut self, partition: u32, offset: u64, at: Option<SystemTime>) -> bool {
        match self.start {
            Start::Earliest | Start::Latest => true,
            Start::Offset(from) => offset >= from,
            Start::Time(from) => {
                if at.is_some_and(|at| at >= from) {
                    self.begun.insert(partition);
                }
                at.is_none() || self.begun.contains(&partition)
            }
        }
    }
}

/// A stream that is read.
#[derive(Debug)]
pub(crate) struct Stream {
    link: Link,
    queue: ShortString,
    prefetch: u16,
    place: Place,
    attached: Option<Attached>,
}

#[derive(Debug)]
struct Attached {
    consumer: Consumer,
    channel: Channel,
    unacked: u16,
}

impl Stream {
    pub(crate) fn new(link: Link, queue: ShortString, prefetch: u16, place: Place) -> Self {
        Self { link, queue, prefetch, place, attached: None }
    }

    /// The next message and its offset. `Ok(None)` when the stream was deleted. Cancel-safe.
    pub(crate) async fn next(
        &mut self,
        operation: &'static str,
    ) -> Result<Option<(u64, Delivery)>> {
        loop {
            if !self.attach(operation).await? {
                return Ok(None);
            }
            if let Some(came) = self.next_here(operation).await? {
                return Ok(Some(came));
            }
        }
    }

    /// The next message on the present connection; `Ok(None)` when that is lost.
    pub(crate) async fn next_here(
        &mut self,
        operation: &'static str,
    ) -> Result<Option<(u64, Delivery)>> {
        while let Some(attached) = &mut self.attached {
            match attached.consumer.next().await {
                Some(Ok(delivery)) => {
                    if let Some(took) = self.took(delivery) {
                        return Ok(Some(took));
                    }
                }
                Some(Err(e)) if error::is_unreadable(&e) => {
                    return Err(error::failed(operation, e));
                }
                // Lost, or the queue was deleted or moved to another node: attaching tells.
                Some(Err(_)) | None => self.attached = None,
            }
        }
        Ok(None)
    }

    /// Attaches to the stream if it is not attached; `false` if there is no such stream.
    pub(crate) async fn attach(&mut self, operation: &'static str) -> Result<bool> {
        while self.attached.is_none() {
            let channel = self.link.channel(operation).await?;
            match self.consume(channel).await {
                Ok(attached) => self.attached = Some(attached),
                Err(e) if error::is_missing(&e) => return Ok(false),
                Err(e) => {
                    let failed = error::failed(operation, e);
                    if failed.is_permanent() {
                        return Err(failed);
                    }
                    // Until the link has noticed: it waits by itself then.
                    self.link.suspect();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        Ok(true)
    }

    /// The offset of the last message, of a stream that was attached to at its end and has messages;
    /// `Ok(None)` when the connection is lost.
    pub(crate) async fn end(&mut self, operation: &'static str) -> Result<Option<u64>> {
        let Some((mut end, _)) = self.next_here(operation).await? else { return Ok(None) };
        if let Some(Attached { channel, .. }) = &self.attached {
            // Its answer comes behind all messages that came together with the first one.
            if channel.basic_qos(self.prefetch, BasicQosOptions::default()).await.is_err() {
                return Ok(None);
            }
        }
        while let Some((offset, _)) = self.try_next() {
            end = offset;
        }
        Ok(Some(end))
    }

    /// The next message if it is there already.
    pub(crate) fn try_next(&mut self) -> Option<(u64, Delivery)> {
        let delivery = self.attached.as_mut()?.consumer.next().now_or_never()??.ok()?;
        self.took(delivery)
    }

    fn took(&mut self, delivery: Delivery) -> Option<(u64, Delivery)> {
        let table = delivery.properties.headers().as_ref()?;
        let offset = table.inner().get("x-stream-offset")?.as_long_long_int()?;
        let offset = u64::try_from(offset).ok()?;
        self.place = Place::Offset(offset + 1);
        if let Some(attached) = &mut self.attached {
            attached.unacked += 1;
            if attached.unacked > self.prefetch / 2 {
                attached.unacked = 0;
                // Sent at once; if the connection is lost there is nothing to acknowledge any more.
                let options = BasicAckOptions { multiple: true };
                let _ = attached.channel.basic_ack(delivery.delivery_tag, options).now_or_never();
            }
        }
        Some((offset, delivery))
    }

    async fn consume(&self, channel: Channel) -> lapin::Result<Attached> {
        channel.basic_qos(self.prefetch, BasicQosOptions::default()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), self.place.argument());
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(self.queue.clone(), "read".into(), options, arguments).await?;
        Ok(Attached { consumer, channel, unacked: 0 })
    }
}

/// How long to wait for a queue that is not up yet.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether a queue is there; waits for one that a broker has not brought up yet.
pub(crate) async fn is_there(
    link: &Link,
    queue: &ShortString,
    operation: &'static str,
) -> Result<bool> {
    loop {
        let channel = link.channel(operation).await?;
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        match channel.queue_declare(queue.clone(), options, FieldTable::default()).await {
            Ok(_) => return Ok(true),
            Err(e) if error::is_missing(&e) => return Ok(false),
            Err(e) => {
                let failed = error::failed(operation, e);
                if failed.is_permanent() {
                    return Err(failed);
                }
                link.suspect();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Puts a mark at the end of a queue, and tells its id. A stream has no other sign of where its
/// end is: counts are seconds old, and the last chunk does not say that it is complete.
pub(crate) async fn put_mark(
    link: &Link,
    queue: &ShortString,
    mark: Mark,
    operation: &'static str,
) -> Result<Uuid> {
    let id = Uuid::now_v7();
    let channel = link.channel(operation).await?;
    let put = async {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut headers = FieldTable::default();
        headers.insert(MARK.into(), AMQPValue::LongString(mark.text().into()));
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_message_id(id.to_string().into())
            .with_headers(headers);
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        channel.basic_publish("".into(), queue.clone(), options, &[], properties).await?.await
    };
    match put.await.map_err(|e| error::failed(operation, e))? {
        Confirmation::Ack(None) => Ok(id),
        // Not up yet, and now it is.
        Confirmation::Ack(Some(_)) if is_there(link, queue, operation).await? => {
            Box::pin(put_mark(link, queue, mark, operation)).await
        }
        _ => {
            let text = format!("RabbitMQ did not take a mark into {queue}");
            Err(Error::new(ErrorKind::Unavailable, operation, text).transient())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Option<SystemTime> {
        Some(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn by_time_each_partition_begins_with_its_first_message_in_time() {
        let mut begin = Begin::new(Start::Time(UNIX_EPOCH + Duration::from_secs(10)));
        assert!(!begin.admits(0, 0, at(9)));
        assert!(begin.admits(0, 1, at(10)));
        assert!(begin.admits(0, 2, at(3)), "what follows belongs to it, whatever its time");
        assert!(!begin.admits(1, 3, at(3)), "another partition has not begun");
        assert!(begin.admits(1, 4, None));
    }

    #[test]
    fn by_offset_everything_before_is_left_out() {
        let mut begin = Begin::new(Start::Offset(5));
        assert!(!begin.admits(0, 4, None));
        assert!(begin.admits(0, 5, None));
    }

    #[test]
    fn a_time_to_come_is_looked_for_from_the_beginning() {
        let now = SystemTime::now();
        assert_eq!(Place::before(Start::Time(now + Duration::from_secs(60))), Place::First);
        assert_eq!(Place::before(Start::Time(UNIX_EPOCH)), Place::Stored(0));
    }
}

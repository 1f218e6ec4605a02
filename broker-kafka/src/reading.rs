//! Reading a topic without a group.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use broker_api::{Delivery, Error, ErrorKind, Name, Read, Received, Result, Source, Until};
use futures_util::{Stream as _, StreamExt as _};
use rdkafka::Offset;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{Consumer as _, ConsumerContext, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use tokio::sync::{Notify, watch};
use tokio::task::consume_budget;

use crate::chunk::Chunk;
use crate::config::KafkaConfig;
use crate::elsewhere::Elsewhere;
use crate::error;
use crate::link::{self, Link, Statistics};
use crate::native;
use crate::offsets::{bounds, list, resolve};
use crate::properties::creation_error;
use crate::record;

const OPERATION: &str = "read";

/// librdkafka reads only with the name of a group. Nothing is ever committed under it, so it does
/// not come to exist.
const NO_GROUP: &str = "anybroker-reading";

/// A reading of one topic. Its partitions are assigned by hand, so the broker knows no member.
pub(crate) struct Reading {
    plan: Plan,
    /// `None` once it has ended.
    consumer: Option<Elsewhere<StreamConsumer<Reader>>>,
    /// Whether the whole backend is closed.
    closed: watch::Receiver<bool>,
}

/// What is still to be read.
struct Plan {
    topic: Name,
    /// The partitions that are not read to their end.
    open: HashMap<i32, Wanted>,
    bounded: bool,
    failure: Option<Error>,
    chunk: Chunk,
}

/// The offsets that are wanted of a partition.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    from: i64,
    /// The first one that is not; `None` where it goes on for ever.
    before: Option<i64>,
}

pub(crate) struct Reader {
    link: Arc<Link>,
    /// Says that librdkafka knows no broker any more.
    forsaken: Notify,
}

impl ConsumerContext for Reader {}

impl ClientContext for Reader {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        link::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "reading client");
        self.link.note(reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if Statistics::parse(statistics).is_some_and(|statistics| statistics.is_forsaken()) {
            self.forsaken.notify_one();
        }
    }
}

impl Reading {
    /// Finds out where to begin and where to end, and begins. Blocks.
    pub(crate) fn begin(
        config: &KafkaConfig,
        link: Arc<Link>,
        closed: watch::Receiver<bool>,
        read: &Read,
        partitions: u32,
    ) -> Result<Self> {
        let all = 0..i32::try_from(partitions).unwrap_or(i32::MAX);
        let wanted: Vec<i32> = match &read.partitions {
            None => all.clone().collect(),
            Some(some) => {
                let known = some.iter().map(|p| i32::try_from(*p).ok().filter(|p| all.contains(p)));
                let mut known = known.collect::<Option<Vec<_>>>().ok_or_else(|| {
                    let text = format!("the topic has {partitions} partitions, and not {some:?}");
                    Error::new(ErrorKind::Invalid, OPERATION, text).with("topic", read.topic)
                })?;
                known.sort_unstable();
                known.dedup();
                known
            }
        };
        let client = config.reader(NO_GROUP);
        let consumer = StreamConsumer::from_config_and_context(
            &client,
            Reader { link, forsaken: Notify::new() },
        );
        let consumer = consumer.map_err(|error| creation_error(error, OPERATION))?;
        let failed = |e| error::error(e, OPERATION).with("topic", read.topic);
        let bounds = bounds(&consumer, read.topic, &wanted, OPERATION)?;
        let from = resolve(&consumer, read.topic, &bounds, read.start, OPERATION)?;
        let bounded = read.until == Until::CaughtUp;
        let mut open = HashMap::new();
        for (bounds, from) in bounds.iter().zip(&from) {
            let before = bounded.then_some(bounds.latest);
            if before.is_none_or(|before| *from < before) {
                open.insert(bounds.partition, Wanted { from: *from, before });
            }
        }
        let begin = open.iter().map(|(p, wanted)| (read.topic, *p, Offset::Offset(wanted.from)));
        consumer.assign(&list(begin).map_err(failed)?).map_err(failed)?;
        let plan =
            Plan { topic: read.topic, open, bounded, failure: None, chunk: Chunk::default() };
        Ok(Self { plan, consumer: Some(Elsewhere::new(consumer)), closed })
    }
}

impl Plan {
    /// Whether a partition is read to its end with this offset, and whether the offset is wanted.
    fn pass(&mut self, partition: i32, offset: i64) -> bool {
        let Some(Wanted { from, before }) = self.open.get(&partition).copied() else {
            return false;
        };
        if before.is_some_and(|before| offset + 1 >= before) {
            self.open.remove(&partition);
        }
        offset >= from && before.is_none_or(|before| offset < before)
    }

    fn delivery(&mut self, record: &BorrowedMessage<'_>) -> Delivery {
        Delivery::unsettled(Received {
            message: record::message(record, &mut self.chunk),
            topic: self.topic,
            partition: u32::try_from(record.partition()).unwrap_or_default(),
            offset: u64::try_from(record.offset()).ok(),
            redeliveries: None,
        })
    }

    /// Takes one item of the stream.
    fn take(&mut self, item: Result<BorrowedMessage<'_>, KafkaError>, batch: &mut Vec<Delivery>) {
        match item {
            Ok(record) => {
                if self.pass(record.partition(), record.offset()) {
                    batch.push(self.delivery(&record));
                }
            }
            // The last offsets may be missing, by compaction or because they are a transaction's
            // marks: the end is reached although the offset before it was not seen.
            Err(KafkaError::PartitionEOF(partition)) => {
                if self.bounded {
                    self.open.remove(&partition);
                }
            }
            Err(failure) => {
                let error = error::error(failure, OPERATION).with("topic", self.topic);
                match error.kind() {
                    ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Other => {
                        tracing::debug!(%error, "reading goes on");
                    }
                    _ => self.failure = Some(error),
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.open.is_empty() || self.failure.is_some()
    }
}

#[async_trait::async_trait]
impl Source for Reading {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        let Self { plan, consumer, closed } = self;
        let Some(reader) = consumer else { return Ok(None) };
        // Where everything is there already nothing below waits, and others want their turn too.
        consume_budget().await;
        let mut batch = Vec::new();
        {
            let mut stream = pin!(reader.stream());
            // Waits only while the batch is empty, so a future that is dropped loses nothing.
            while batch.is_empty() && !plan.is_over() && !*closed.borrow() {
                tokio::select! {
                    item = stream.next() => match item {
                        Some(item) => plan.take(item, &mut batch),
                        None => break,
                    },
                    () = reader.context().forsaken.notified() => {
                        native::bootstrap(reader.client());
                    }
                    // The backend is gone without having been closed.
                    changed = closed.changed() => if changed.is_err() { break },
                }
            }
            let mut context = Context::from_waker(Waker::noop());
            while batch.len() < max
                && !plan.is_over()
                && let Poll::Ready(Some(item)) = stream.as_mut().poll_next(&mut context)
            {
                plan.take(item, &mut batch);
            }
        }
        if !batch.is_empty() {
            return Ok(Some(batch));
        }
        *consumer = None;
        plan.failure.take().map_or(Ok(None), Err)
    }

    async fn close(&mut self) -> Result<()> {
        if let Some(consumer) = self.consumer.take() {
            consumer.gone().await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(from: i64, before: Option<i64>) -> Plan {
        Plan {
            topic: Name::new("t"),
            open: [(0, Wanted { from, before })].into(),
            bounded: before.is_some(),
            failure: None,
            chunk: Chunk::default(),
        }
    }

    #[test]
    fn a_bounded_reading_ends_with_the_last_offset_that_is_wanted() {
        let mut plan = plan(2, Some(5));
        let wanted: Vec<_> = [1, 2, 4, 5].map(|offset| plan.pass(0, offset)).into();
        assert_eq!(wanted, [false, true, true, false]);
        assert!(plan.is_over());
    }

    #[test]
    fn what_was_published_after_the_call_is_not_read_where_the_last_offset_is_missing() {
        let mut plan = plan(0, Some(5));
        assert!(plan.pass(0, 3));
        assert!(!plan.pass(0, 7));
        assert!(plan.is_over());
    }

    #[test]
    fn the_end_of_a_partition_ends_a_bounded_reading_and_no_following_one() {
        let mut batch = Vec::new();
        let mut bounded = plan(0, Some(5));
        bounded.take(Err(KafkaError::PartitionEOF(0)), &mut batch);
        assert!(bounded.is_over());
        let mut following = plan(0, None);
        following.take(Err(KafkaError::PartitionEOF(0)), &mut batch);
        assert!(!following.is_over() && following.pass(0, 1_000_000));
    }
}

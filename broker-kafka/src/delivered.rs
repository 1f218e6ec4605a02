//! What librdkafka says to a message that was handed over.

use std::sync::{Arc, OnceLock, Weak};

use broker_api::{Error, ErrorKind, Receipt, Result};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message as _};
use rdkafka::producer::{Producer as _, ProducerContext, ThreadedProducer};

use crate::elsewhere::Elsewhere;
use crate::error;
use crate::in_flight::Flight;
use crate::link::{self, Link, Statistics};
use crate::native::{self, Stored};
use crate::publisher::Publisher;

/// A publishing client. Its messages are known by their number among those in flight.
pub(crate) type Producer = Elsewhere<ThreadedProducer<Deliveries>>;

/// The context of a publishing client.
pub(crate) struct Deliveries {
    link: Arc<Link>,
    /// Whether it sends each message in a batch of its own.
    alone: bool,
    /// Set right after the client is made, before it is given anything.
    pub(crate) publisher: OnceLock<Weak<Publisher>>,
}

impl Deliveries {
    pub(crate) fn new(link: Arc<Link>, alone: bool) -> Self {
        Self { link, alone, publisher: OnceLock::new() }
    }

    fn answer(&self, publisher: &Arc<Publisher>, delivery: &DeliveryResult<'_>, flight: Flight) {
        let Flight { confirm: Some(confirm), topic, deadline } = flight else { return };
        let (failure, message) = match delivery {
            Ok(message) => {
                return confirm.done(receipt(message).map_err(|e| e.with("topic", topic)));
            }
            Err(failed) => failed,
        };
        let code = error::code(failure).unwrap_or(Code::Unknown);
        let stored = native::stored(message);
        if error::is_unknown_topic(code) {
            publisher.forget(topic);
        }
        if stored == Stored::No && error::spoils_a_batch(code) && !self.alone {
            // Only one message of the batch is to blame, and which one shows when they are alone.
            let flight = Flight { confirm: Some(confirm), topic, deadline };
            return publisher.send_alone(flight, message);
        }
        let failed = publisher.producer(self.alone).filter(|_| code == Code::Fatal);
        let error = match failed {
            Some(client) => publisher.has_failed(client),
            None => error::coded(code, "publish"),
        };
        let error = error.with("topic", topic);
        confirm.done(Err(match stored {
            Stored::No => error,
            Stored::Maybe => error.indeterminate(),
        }));
    }
}

/// What the broker said to a message.
///
/// librdkafka also takes one for stored that was refused or not answered, if the broker takes a
/// later one of the same partition, for an idempotent producer's messages are stored in their
/// order. But a broker that has nothing of this producer yet takes any as the first (KAFKA-15591).
/// Only who was told an offset knows that the message is stored.
pub(crate) fn receipt(message: &BorrowedMessage<'_>) -> Result<Receipt> {
    let Ok(offset) = u64::try_from(message.offset()) else {
        let text = "the broker took later messages and did not answer for this one: it may be lost";
        return Err(Error::new(ErrorKind::Unavailable, "publish", text).indeterminate());
    };
    let partition = u32::try_from(message.partition()).unwrap_or_default();
    Ok(Receipt { partition, offset: Some(offset) })
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, delivery: &DeliveryResult<'_>, key: usize) {
        // Without a publisher nobody waits for answers any more.
        let Some(publisher) = self.publisher.get().and_then(Weak::upgrade) else { return };
        if let Some(flight) = publisher.landed(key) {
            self.answer(&publisher, delivery, flight);
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        link::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "publishing client");
        self.link.error(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Some(statistics) = Statistics::parse(statistics) else { return };
        self.link.statistics(&statistics);
        if statistics.is_forsaken()
            && let Some(publisher) = self.publisher.get().and_then(Weak::upgrade)
            && let Some(producer) = publisher.producer(self.alone)
        {
            native::bootstrap(producer.client());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use broker_api::{Confirm, Message, Name, Outgoing};
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use tokio::time::Instant;

    use super::*;
    use crate::config::KafkaConfig;
    use crate::topic::Topic;

    const TOPIC: Name = Name::new("new");
    const LEADER: i32 = 1;
    const PATIENCE: Duration = Duration::from_secs(30);

    /// The leader of a new partition that learns of it between two batches, which no real one can be
    /// made to do: so it is librdkafka's pretended cluster, which takes any batch as the first, too.
    #[test]
    fn what_was_refused_is_not_confirmed_by_what_was_taken_after_it() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC.as_str(), 1, 1).unwrap();
        let config = KafkaConfig::new(cluster.bootstrap_servers());
        // Each message is a batch of its own, and they are all on their way before an answer comes.
        let link = Arc::new(Link::new());
        let lone = config.lone_producer();
        let (publisher, producer) = Publisher::new(&lone, lone.clone(), link).unwrap();
        producer.client().fetch_metadata(Some(TOPIC.as_str()), PATIENCE).unwrap();
        publisher.looked_up(TOPIC, Ok(Topic::new(1, None, None)));
        cluster.broker_round_trip_time(LEADER, Duration::from_millis(500)).unwrap();
        let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
        cluster.request_errors(RDKafkaApiKey::Produce, &[refused]);

        let (told, outcomes) = mpsc::channel();
        for n in 0..5 {
            let told = told.clone();
            publisher.publish(Outgoing {
                topic: TOPIC,
                partition: Some(0),
                message: Message::new("x"),
                deadline: Instant::now() + PATIENCE,
                confirm: Confirm::from_fn(move |outcome| drop(told.send((n, outcome)))),
            });
        }
        let mut outcomes: Vec<_> =
            (0..5).map(|_| outcomes.recv_timeout(PATIENCE).unwrap()).collect();
        outcomes.sort_by_key(|(n, _)| *n);
        cluster.broker_round_trip_time(LEADER, Duration::ZERO).unwrap();
        let (_, stored) = producer.client().fetch_watermarks(TOPIC.as_str(), 0, PATIENCE).unwrap();

        let confirmed = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count();
        assert_eq!(i64::try_from(confirmed), Ok(stored), "{outcomes:?}");
        let error = outcomes.remove(0).1.unwrap_err();
        assert!(error.is_indeterminate() && confirmed == 4, "{error} {outcomes:?}");
    }
}

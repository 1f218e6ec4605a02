//! rdkafka as its examples show it.

use std::time::Duration;

use async_trait::async_trait;
use broker_api::BoxError;
use rdkafka::Message as _;
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::time::Instant;

use crate::contender::{Contender, GROUP, Publishing};
use crate::cost::Latencies;
use crate::load::{Ledger, Load};
use crate::row::Work;

/// Default settings; each delivery awaited, each message committed (`examples/simple_producer.rs`,
/// `examples/simple_consumer.rs` of rdkafka).
pub(crate) struct Readme {
    brokers: String,
    producer: FutureProducer,
}

impl Readme {
    pub(crate) fn new(brokers: &str) -> Result<Self, BoxError> {
        let producer = super::base(brokers).set("message.timeout.ms", "5000").create()?;
        Ok(Self { brokers: brokers.into(), producer })
    }
}

#[async_trait]
impl Contender for Readme {
    fn name(&self) -> &'static str {
        "rdkafka, README"
    }

    fn does(&self, work: Work) -> bool {
        !matches!(work, Work::EndToEnd(_))
    }

    fn slowness(&self) -> usize {
        200
    }

    async fn create(&self, topic: &str, partitions: u32) -> Result<(), BoxError> {
        super::create(&self.brokers, topic, partitions).await
    }

    async fn publish(
        &self,
        topic: &str,
        load: Load,
        how: Publishing,
        latencies: &mut Latencies,
    ) -> Result<(), BoxError> {
        let mut items = load.paced(how);
        while let Some(item) = items.next().await {
            let began = Instant::now();
            let record = FutureRecord::to(topic).key(&item.key).payload(&item.payload[..]);
            let sent = self.producer.send(record, Duration::ZERO).await;
            sent.map_err(|(error, _)| error)?;
            latencies.note(began.elapsed());
        }
        Ok(())
    }

    async fn consume(&self, topic: &str, mut ledger: Ledger) -> Result<Ledger, BoxError> {
        let consumer: StreamConsumer = super::base(&self.brokers)
            .set("group.id", GROUP)
            .set("enable.auto.commit", "true")
            .set("auto.offset.reset", "earliest")
            .create()?;
        consumer.subscribe(&[topic])?;
        loop {
            let message = consumer.recv().await?;
            let (key, payload) = (message.key(), message.payload());
            let complete = ledger.note(key.unwrap_or_default(), payload.unwrap_or_default())?;
            consumer.commit_message(&message, CommitMode::Async)?;
            if complete {
                break;
            }
        }
        consumer.commit_consumer_state(CommitMode::Sync)?;
        Ok(ledger)
    }

    async fn delete(&self, topic: &str) -> Result<(), BoxError> {
        super::delete(&self.brokers, topic).await
    }
}

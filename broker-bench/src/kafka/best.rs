//! rdkafka as well as we can tune it.

use async_trait::async_trait;
use broker_api::BoxError;
use rdkafka::Message as _;
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};

use crate::contender::{Contender, GROUP, IN_FLIGHT, Publishing, Window, by_tasks};
use crate::cost::Latencies;
use crate::load::{Item, Ledger, Load};

/// A pipelined `FutureProducer`, and a `StreamConsumer` that stores each offset for the timed commit.
pub(crate) struct Best {
    brokers: String,
    producer: FutureProducer,
}

impl Best {
    pub(crate) fn new(brokers: &str) -> Result<Self, BoxError> {
        let producer = super::base(brokers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "0")
            .set("batch.num.messages", "10000")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "200000")
            .create()?;
        Ok(Self { brokers: brokers.into(), producer })
    }
}

fn send(producer: &FutureProducer, topic: &str, item: &Item) -> Result<DeliveryFuture, KafkaError> {
    let record = FutureRecord::to(topic).key(&item.key).payload(&item.payload[..]);
    producer.send_result(record).map_err(|(error, _)| error)
}

async fn confirmed(delivery: DeliveryFuture) -> Result<(), BoxError> {
    delivery.await?.map(drop).map_err(|(error, _)| error.into())
}

#[async_trait]
impl Contender for Best {
    fn name(&self) -> &'static str {
        "rdkafka, tuned"
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
        match how {
            Publishing::Pipelined => {
                let mut window = Window::new(IN_FLIGHT);
                for item in load.items() {
                    window.push(confirmed(send(&self.producer, topic, &item)?)).await?;
                }
                window.finish().await
            }
            Publishing::Tasks(tasks) => {
                let (producer, topic) = (self.producer.clone(), topic.to_owned());
                let publish = move |item: Item| {
                    let sent = send(&producer, &topic, &item);
                    async move { confirmed(sent?).await }
                };
                by_tasks(load, tasks, latencies, publish).await
            }
        }
    }

    async fn consume(&self, topic: &str, mut ledger: Ledger) -> Result<(), BoxError> {
        let consumer: StreamConsumer = super::base(&self.brokers)
            .set("group.id", GROUP)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.offset.store", "false")
            .set("fetch.queue.backoff.ms", "10")
            .create()?;
        consumer.subscribe(&[topic])?;
        loop {
            let message = consumer.recv().await?;
            let (key, payload) = (message.key(), message.payload());
            let complete = ledger.note(key.unwrap_or_default(), payload.unwrap_or_default())?;
            consumer.store_offset_from_message(&message)?;
            if complete {
                break;
            }
        }
        consumer.commit_consumer_state(CommitMode::Sync)?;
        Ok(())
    }

    async fn delete(&self, topic: &str) -> Result<(), BoxError> {
        super::delete(&self.brokers, topic).await
    }
}

//! rdkafka as well as we can tune it.

use std::hint::black_box;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use broker_api::{BoxError, Bytes};
use rdkafka::Message as _;
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};
use uuid::Uuid;

use crate::contender::{Contender, GROUP, IN_FLIGHT, Publishing, Window, by_tasks};
use crate::cost::Latencies;
use crate::load::{Item, Ledger, Load};
use crate::row::Work;

/// A pipelined `FutureProducer`, and a `StreamConsumer` that stores each offset for the timed commit.
pub(crate) struct Best {
    brokers: String,
    producer: FutureProducer,
    /// Whether its records have what ours have, an id and a time, and a handler may keep what it is
    /// given as long as it likes.
    same_records: bool,
}

impl Best {
    pub(crate) fn new(brokers: &str, same_records: bool) -> Result<Self, BoxError> {
        let producer = super::base(brokers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "0")
            .set("batch.num.messages", "10000")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "200000")
            .create()?;
        Ok(Self { brokers: brokers.into(), producer, same_records })
    }
}

fn send(
    producer: &FutureProducer,
    same_records: bool,
    topic: &str,
    item: &Item,
) -> Result<DeliveryFuture, KafkaError> {
    let mut record = FutureRecord::to(topic).key(&item.key).payload(&item.payload[..]);
    if same_records {
        let id = Uuid::now_v7().hyphenated().to_string();
        let id = Header { key: "message-id", value: Some(&id) };
        record = record.headers(OwnedHeaders::new_with_capacity(1).insert(id));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        record = record.timestamp(now.as_millis() as i64);
    }
    producer.send_result(record).map_err(|(error, _)| error)
}

fn id(message: &BorrowedMessage<'_>) -> Option<Uuid> {
    let id = message.headers()?.iter().find(|header| header.key == "message-id")?;
    Uuid::try_parse_ascii(id.value?).ok()
}

async fn confirmed(delivery: DeliveryFuture) -> Result<(), BoxError> {
    delivery.await?.map(drop).map_err(|(error, _)| error.into())
}

#[async_trait]
impl Contender for Best {
    fn name(&self) -> &'static str {
        if self.same_records { "rdkafka, same record" } else { "rdkafka, tuned" }
    }

    fn does(&self, work: Work) -> bool {
        let compared = matches!(work, Work::Publish(Publishing::Pipelined) | Work::Consume);
        compared || !self.same_records
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
            Publishing::Pipelined | Publishing::Paced(_) => {
                let (mut window, mut items) = (Window::new(IN_FLIGHT), load.paced(how));
                while let Some(item) = items.next().await {
                    window
                        .push(confirmed(send(&self.producer, self.same_records, topic, &item)?))
                        .await?;
                }
                window.finish().await
            }
            Publishing::Tasks(tasks) => {
                let (producer, same_records) = (self.producer.clone(), self.same_records);
                let topic = topic.to_owned();
                let publish = move |item: Item| {
                    let sent = send(&producer, same_records, &topic, &item);
                    async move { confirmed(sent?).await }
                };
                by_tasks(load, tasks, latencies, publish).await
            }
        }
    }

    async fn consume(&self, topic: &str, mut ledger: Ledger) -> Result<Ledger, BoxError> {
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
            if self.same_records {
                let copies = [key, payload].map(|it| it.map(Bytes::copy_from_slice));
                black_box((copies, id(&message)));
            }
            let complete = ledger.note(key.unwrap_or_default(), payload.unwrap_or_default())?;
            consumer.store_offset_from_message(&message)?;
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

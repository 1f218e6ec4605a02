//! lapin as well as we can tune it.

use async_trait::async_trait;
use broker_api::BoxError;
use futures_util::stream::{FuturesUnordered, StreamExt as _, select_all};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, PublisherConfirm};

use super::{properties, queue, queue_of_key};
use crate::contender::{Contender, GROUP, IN_FLIGHT, Publishing, Window, by_tasks};
use crate::cost::Latencies;
use crate::load::{Item, Ledger, Load};

/// Deliveries that are unsettled at most.
const PREFETCH: u16 = 1_000;

/// Acks that are under way at most.
const ACKS: usize = 100;

/// Confirms and acks pipelined.
pub(crate) struct Best {
    publishing: Channel,
    consuming: Connection,
    partitions: u32,
    /// Keeps the channel's connection.
    _connection: Connection,
}

impl Best {
    pub(crate) async fn new(url: &str, partitions: u32) -> Result<Self, BoxError> {
        let connection = super::connect(url).await?;
        let publishing = connection.create_channel().await?;
        publishing.confirm_select(ConfirmSelectOptions::default()).await?;
        let consuming = super::connect(url).await?;
        Ok(Self { publishing, consuming, partitions, _connection: connection })
    }
}

async fn send(
    channel: &Channel,
    topic: &str,
    partitions: u32,
    item: &Item,
) -> Result<PublisherConfirm, lapin::Error> {
    let queue = queue_of_key(topic, &item.key, partitions);
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = properties(&item.key);
    channel
        .basic_publish("".into(), queue.as_str().into(), options, &item.payload, properties)
        .await
}

async fn confirmed(confirm: PublisherConfirm) -> Result<(), BoxError> {
    let confirmation = confirm.await?;
    if !confirmation.is_ack() || confirmation.take_message().is_some() {
        return Err("a message was refused or returned".into());
    }
    Ok(())
}

#[async_trait]
impl Contender for Best {
    fn name(&self) -> &'static str {
        "lapin, tuned"
    }

    async fn create(&self, topic: &str, partitions: u32) -> Result<(), BoxError> {
        super::create(&self.publishing, topic, partitions).await
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
                    let confirm = send(&self.publishing, topic, self.partitions, &item).await?;
                    window.push(confirmed(confirm)).await?;
                }
                window.finish().await
            }
            Publishing::Tasks(tasks) => {
                let (channel, topic) = (self.publishing.clone(), topic.to_owned());
                let partitions = self.partitions;
                let publish = move |item: Item| {
                    let (channel, topic) = (channel.clone(), topic.clone());
                    async move { confirmed(send(&channel, &topic, partitions, &item).await?).await }
                };
                by_tasks(load, tasks, latencies, publish).await
            }
        }
    }

    async fn consume(&self, topic: &str, mut ledger: Ledger) -> Result<Ledger, BoxError> {
        let channel = self.consuming.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let mut consumers = Vec::new();
        for partition in 0..self.partitions {
            let name = queue(topic, partition).as_str().into();
            let tag = format!("{GROUP}-{partition}").as_str().into();
            let options = BasicConsumeOptions::default();
            consumers.push(channel.basic_consume(name, tag, options, FieldTable::default()).await?);
        }
        let mut deliveries = select_all(consumers);
        let mut acks = FuturesUnordered::new();
        let ack =
            |delivery: Delivery| async move { delivery.ack(BasicAckOptions::default()).await };
        while let Some(delivery) = deliveries.next().await {
            let delivery = delivery?;
            let complete = note(&mut ledger, &delivery)?;
            acks.push(ack(delivery));
            if acks.len() == ACKS {
                while let Some(acked) = acks.next().await {
                    acked?;
                }
            }
            if complete {
                break;
            }
        }
        while let Some(acked) = acks.next().await {
            acked?;
        }
        channel.close(200, "done".into()).await?;
        Ok(ledger)
    }

    async fn delete(&self, topic: &str) -> Result<(), BoxError> {
        super::delete(&self.publishing, topic, self.partitions).await
    }
}

pub(super) fn note(ledger: &mut Ledger, delivery: &Delivery) -> Result<bool, BoxError> {
    let key = delivery.properties.message_id().as_ref();
    ledger.note(key.map(|key| key.as_str().as_bytes()).unwrap_or_default(), &delivery.data)
}

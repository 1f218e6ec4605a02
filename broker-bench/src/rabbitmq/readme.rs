//! lapin as its examples show it.

use async_trait::async_trait;
use broker_api::BoxError;
use futures_util::stream::{StreamExt as _, select_all};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use tokio::time::Instant;

use super::best::note;
use super::{properties, queue, queue_of_key};
use crate::contender::{Contender, GROUP, Publishing};
use crate::cost::Latencies;
use crate::load::{Ledger, Load};
use crate::row::Work;

/// Each confirm awaited, each ack awaited (`examples/pubsub.rs` of lapin, with confirms on).
pub(crate) struct Readme {
    channel: Channel,
    connection: Connection,
    partitions: u32,
}

impl Readme {
    pub(crate) async fn new(url: &str, partitions: u32) -> Result<Self, BoxError> {
        let connection = super::connect(url).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { channel, connection, partitions })
    }
}

#[async_trait]
impl Contender for Readme {
    fn name(&self) -> &'static str {
        "lapin, README"
    }

    fn does(&self, work: Work) -> bool {
        !matches!(work, Work::EndToEnd(_))
    }

    fn slowness(&self) -> usize {
        10
    }

    async fn create(&self, topic: &str, partitions: u32) -> Result<(), BoxError> {
        super::create(&self.channel, topic, partitions).await
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
            let queue = queue_of_key(topic, &item.key, self.partitions);
            let confirm = self
                .channel
                .basic_publish(
                    "".into(),
                    queue.as_str().into(),
                    BasicPublishOptions::default(),
                    &item.payload,
                    properties(&item.key),
                )
                .await?
                .await?;
            if !confirm.is_ack() {
                return Err("a message was refused".into());
            }
            latencies.note(began.elapsed());
        }
        Ok(())
    }

    async fn consume(&self, topic: &str, mut ledger: Ledger) -> Result<Ledger, BoxError> {
        let channel = self.connection.create_channel().await?;
        channel.basic_qos(1_000, BasicQosOptions::default()).await?;
        let mut consumers = Vec::new();
        for partition in 0..self.partitions {
            let name = queue(topic, partition).as_str().into();
            let tag = format!("{GROUP}-{partition}").as_str().into();
            let options = BasicConsumeOptions::default();
            consumers.push(channel.basic_consume(name, tag, options, FieldTable::default()).await?);
        }
        let mut deliveries = select_all(consumers);
        while let Some(delivery) = deliveries.next().await {
            let delivery = delivery?;
            let complete = note(&mut ledger, &delivery)?;
            delivery.ack(BasicAckOptions::default()).await?;
            if complete {
                break;
            }
        }
        channel.close(200, "done".into()).await?;
        Ok(ledger)
    }

    async fn delete(&self, topic: &str) -> Result<(), BoxError> {
        super::delete(&self.channel, topic, self.partitions).await
    }
}

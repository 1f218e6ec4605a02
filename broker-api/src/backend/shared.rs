//! A backend that several share is one.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Backend, GroupSpec, Outgoing, Read, Source, Subscribe, Transactions};
use crate::capabilities::Capabilities;
use crate::error::Result;
use crate::health::Health;
use crate::message::Message;
use crate::name::Name;
use crate::spec::{TopicDescription, TopicSpec};

#[async_trait]
impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn system(&self) -> &'static str {
        (**self).system()
    }
    fn system_of(&self, topic: Name) -> &'static str {
        (**self).system_of(topic)
    }
    fn capabilities(&self, topic: Name) -> Capabilities {
        (**self).capabilities(topic)
    }
    fn publish(&self, outgoing: Outgoing) {
        (**self).publish(outgoing);
    }
    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Source>> {
        (**self).subscribe(subscribe).await
    }
    async fn subscribe_exactly_once(
        &self,
        subscribe: Subscribe,
        transactions: Transactions,
    ) -> Result<Box<dyn Source>> {
        (**self).subscribe_exactly_once(subscribe, transactions).await
    }
    async fn check_output(
        &self,
        input: Name,
        topic: Name,
        partition: Option<u32>,
        message: &Message,
    ) -> Result<()> {
        (**self).check_output(input, topic, partition, message).await
    }
    async fn read(&self, read: Read) -> Result<Box<dyn Source>> {
        (**self).read(read).await
    }
    async fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        (**self).create_topic(spec).await
    }
    async fn describe_topic(&self, topic: Name) -> Result<TopicDescription> {
        (**self).describe_topic(topic).await
    }
    async fn add_partitions(&self, topic: Name, total: u32) -> Result<()> {
        (**self).add_partitions(topic, total).await
    }
    async fn delete_topic(&self, topic: Name) -> Result<()> {
        (**self).delete_topic(topic).await
    }
    async fn declare_group(&self, topic: Name, group: &GroupSpec) -> Result<()> {
        (**self).declare_group(topic, group).await
    }
    async fn lag(&self, topic: Name, group: Name) -> Result<u64> {
        (**self).lag(topic, group).await
    }
    fn health(&self) -> Health {
        (**self).health()
    }
    async fn close(&self) -> Result<()> {
        (**self).close().await
    }
}

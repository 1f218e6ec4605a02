//! A backend around another one, of which only some things are different.

use broker_api::{
    Backend, Capabilities, GroupSpec, Health, Message, Name, Outgoing, Read, Result, Source,
    Subscribe, TopicDescription, TopicSpec, Transactions, async_trait,
};

/// What is different: each method does what the inner backend does, unless it is written anew. In
/// [`Wrapped`] it is a [`Backend`], for measuring one, or for breaking one on purpose.
#[async_trait]
pub trait Wraps: Send + Sync + 'static {
    /// The backend inside.
    fn inner(&self) -> &dyn Backend;

    /// As [`Backend::capabilities`].
    fn capabilities(&self, topic: Name) -> Capabilities {
        self.inner().capabilities(topic)
    }

    /// As [`Backend::publish`].
    fn publish(&self, outgoing: Outgoing) {
        self.inner().publish(outgoing);
    }

    /// As [`Backend::subscribe`].
    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Source>> {
        self.inner().subscribe(subscribe).await
    }

    /// As [`Backend::subscribe_exactly_once`].
    async fn subscribe_exactly_once(
        &self,
        subscribe: Subscribe,
        transactions: Transactions,
    ) -> Result<Box<dyn Source>> {
        self.inner().subscribe_exactly_once(subscribe, transactions).await
    }

    /// As [`Backend::check_output`].
    async fn check_output(
        &self,
        input: Name,
        topic: Name,
        partition: Option<u32>,
        message: &Message,
    ) -> Result<()> {
        self.inner().check_output(input, topic, partition, message).await
    }

    /// As [`Backend::create_topic`].
    async fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        self.inner().create_topic(spec).await
    }

    /// As [`Backend::health`].
    fn health(&self) -> Health {
        self.inner().health()
    }
}

/// The backend that a [`Wraps`] makes.
#[derive(Debug)]
pub struct Wrapped<W>(
    /// What is different.
    pub W,
);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<W: Wraps> Backend for Wrapped<W> {
    fn system(&self) -> &'static str {
        self.0.inner().system()
    }

    fn system_of(&self, topic: Name) -> &'static str {
        self.0.inner().system_of(topic)
    }

    fn capabilities(&self, topic: Name) -> Capabilities {
        self.0.capabilities(topic)
    }

    fn publish(&self, outgoing: Outgoing) {
        self.0.publish(outgoing);
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Source>> {
        self.0.subscribe(subscribe).await
    }

    async fn subscribe_exactly_once(
        &self,
        subscribe: Subscribe,
        transactions: Transactions,
    ) -> Result<Box<dyn Source>> {
        self.0.subscribe_exactly_once(subscribe, transactions).await
    }

    async fn check_output(
        &self,
        input: Name,
        topic: Name,
        partition: Option<u32>,
        message: &Message,
    ) -> Result<()> {
        self.0.check_output(input, topic, partition, message).await
    }

    async fn read(&self, read: Read) -> Result<Box<dyn Source>> {
        self.0.inner().read(read).await
    }

    async fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        self.0.create_topic(spec).await
    }

    async fn describe_topic(&self, topic: Name) -> Result<TopicDescription> {
        self.0.inner().describe_topic(topic).await
    }

    async fn add_partitions(&self, topic: Name, total: u32) -> Result<()> {
        self.0.inner().add_partitions(topic, total).await
    }

    async fn delete_topic(&self, topic: Name) -> Result<()> {
        self.0.inner().delete_topic(topic).await
    }

    async fn declare_group(&self, topic: Name, group: &GroupSpec) -> Result<()> {
        self.0.inner().declare_group(topic, group).await
    }

    async fn lag(&self, topic: Name, group: Name) -> Result<u64> {
        self.0.inner().lag(topic, group).await
    }

    fn health(&self) -> Health {
        self.0.health()
    }

    async fn close(&self) -> Result<()> {
        self.0.inner().close().await
    }
}

//! A backend that measures how much was handed to it and not answered yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use broker_api::{
    Backend, Capabilities, Confirm, GroupSpec, Health, Message, Name, Outgoing, Read, Result,
    Source, Subscribe, TopicDescription, TopicSpec, Transactions, async_trait,
};

/// The bytes of messages between publishing and confirming, on their way through here.
pub(crate) struct Gauge {
    inner: Arc<dyn Backend>,
    level: Arc<Level>,
}

/// How many bytes there are, and the most that there were.
#[derive(Default)]
pub(crate) struct Level {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Level {
    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }

    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

impl Gauge {
    pub(crate) fn new(inner: Arc<dyn Backend>) -> (Self, Arc<Level>) {
        let level = Arc::<Level>::default();
        (Self { inner, level: level.clone() }, level)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Backend for Gauge {
    fn system(&self) -> &'static str {
        self.inner.system()
    }

    fn system_of(&self, topic: Name) -> &'static str {
        self.inner.system_of(topic)
    }

    fn capabilities(&self, topic: Name) -> Capabilities {
        self.inner.capabilities(topic)
    }

    fn publish(&self, outgoing: Outgoing) {
        let bytes = outgoing.message.byte_len();
        let now = self.level.now.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.level.most.fetch_max(now, Ordering::SeqCst);
        let (level, outer) = (self.level.clone(), outgoing.confirm);
        let confirm = Confirm::from_fn(move |result| {
            level.now.fetch_sub(bytes, Ordering::SeqCst);
            outer.done(result);
        });
        self.inner.publish(Outgoing { confirm, ..outgoing });
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Source>> {
        self.inner.subscribe(subscribe).await
    }

    async fn subscribe_exactly_once(
        &self,
        subscribe: Subscribe,
        transactions: Transactions,
    ) -> Result<Box<dyn Source>> {
        self.inner.subscribe_exactly_once(subscribe, transactions).await
    }

    async fn check_output(
        &self,
        input: Name,
        topic: Name,
        partition: Option<u32>,
        message: &Message,
    ) -> Result<()> {
        self.inner.check_output(input, topic, partition, message).await
    }

    async fn read(&self, read: Read) -> Result<Box<dyn Source>> {
        self.inner.read(read).await
    }

    async fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        self.inner.create_topic(spec).await
    }

    async fn describe_topic(&self, topic: Name) -> Result<TopicDescription> {
        self.inner.describe_topic(topic).await
    }

    async fn add_partitions(&self, topic: Name, total: u32) -> Result<()> {
        self.inner.add_partitions(topic, total).await
    }

    async fn delete_topic(&self, topic: Name) -> Result<()> {
        self.inner.delete_topic(topic).await
    }

    async fn declare_group(&self, topic: Name, group: &GroupSpec) -> Result<()> {
        self.inner.declare_group(topic, group).await
    }

    async fn lag(&self, topic: Name, group: Name) -> Result<u64> {
        self.inner.lag(topic, group).await
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

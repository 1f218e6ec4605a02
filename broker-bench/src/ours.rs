//! `anybroker` with what a user has by default: confirmed publishing; per-key order, retries armed
//! and one settlement per message when consuming.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use broker_api::{
    BoxError, Broker, Bytes, Context, GroupSpec, Message, Name, Publish, Topic, TopicSpec,
};
use tokio::sync::Notify;

use crate::contender::{Contender, GROUP, IN_FLIGHT, Publishing, Window, by_tasks};
use crate::cost::Latencies;
use crate::load::{Item, Ledger, Load};
use crate::row::Work;

/// What is published and consumed.
pub(crate) trait Value: Sized + Send + Sync + 'static {
    /// Whether it is measured in this kind of work.
    fn does(work: Work) -> bool;

    /// The topic of this name.
    fn topic(name: Name) -> Topic<Self>;

    /// Publishes a message of the load.
    fn publish(broker: &Broker, topic: Name, item: Item) -> Publish;

    /// Notes what was received.
    fn note(&self, context: &Context, ledger: &mut Ledger) -> Result<bool, BoxError>;
}

impl Value for Bytes {
    fn does(_: Work) -> bool {
        true
    }

    fn topic(name: Name) -> Topic<Self> {
        Topic::raw("any").named(name)
    }

    fn publish(broker: &Broker, topic: Name, item: Item) -> Publish {
        broker.publish_message(topic, Message::new(item.payload).with_key(item.key))
    }

    fn note(&self, context: &Context, ledger: &mut Ledger) -> Result<bool, BoxError> {
        let key = context.message().key();
        ledger.note(key.map(|key| &**key).unwrap_or_default(), self)
    }
}

/// A broker through `anybroker`.
pub(crate) struct Ours<V> {
    broker: Broker,
    /// How many messages are handled at a time.
    handlers: usize,
    name: &'static str,
    value: PhantomData<V>,
}

impl<V> Ours<V> {
    pub(crate) const fn new(broker: Broker, handlers: usize, name: &'static str) -> Self {
        Self { broker, handlers, name, value: PhantomData }
    }
}

#[async_trait]
impl<V: Value> Contender for Ours<V> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn does(&self, work: Work) -> bool {
        V::does(work)
    }

    async fn create(&self, topic: &str, partitions: u32) -> Result<(), BoxError> {
        let topic = Name::intern(topic)?;
        self.broker.create_topic(&TopicSpec::new(topic).partitions(partitions)).await?;
        let group = GroupSpec::new(Name::intern(GROUP)?);
        Ok(self.broker.declare_group(topic, &group).await?)
    }

    async fn publish(
        &self,
        topic: &str,
        load: Load,
        how: Publishing,
        latencies: &mut Latencies,
    ) -> Result<(), BoxError> {
        let topic = Name::intern(topic)?;
        match how {
            Publishing::Pipelined | Publishing::Paced(_) => {
                let (mut window, mut items) = (Window::new(IN_FLIGHT), load.paced(how));
                while let Some(item) = items.next().await {
                    let publish = V::publish(&self.broker, topic, item);
                    window.push(publish.enqueue().await?).await?;
                }
                window.finish().await
            }
            Publishing::Tasks(tasks) => {
                let broker = self.broker.clone();
                let publish = move |item| {
                    let publish = V::publish(&broker, topic, item);
                    async move { publish.await.map(drop) }
                };
                by_tasks(load, tasks, latencies, publish).await
            }
        }
    }

    async fn consume(&self, topic: &str, ledger: Ledger) -> Result<Ledger, BoxError> {
        let topic = Name::intern(topic)?;
        let noted = Arc::new(Mutex::new((ledger, Ok(false))));
        let done = Arc::new(Notify::new());
        let (handled, stop) = (noted.clone(), done.clone());
        let consumer = self.broker.consumer(V::topic(topic), GROUP).concurrency(self.handlers);
        consumer
            .until(async move { stop.notified().await })
            .run(move |value, context| {
                let mut handled = handled.lock().unwrap_or_else(PoisonError::into_inner);
                let (ledger, outcome) = &mut *handled;
                if matches!(outcome, Ok(false)) {
                    *outcome = value.note(&context, ledger);
                }
                // Complete, or wrong: both end the consumer.
                if !matches!(outcome, Ok(false)) {
                    done.notify_one();
                }
                async { Ok(()) }
            })
            .await?;
        let noted = Arc::into_inner(noted).ok_or("the consumer ended and left its handler")?;
        let (ledger, outcome) = noted.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcome?;
        match self.broker.lag(topic, Name::intern(GROUP)?).await? {
            0 => Ok(ledger),
            left => Err(format!("{left} messages are not settled though all were handled").into()),
        }
    }

    async fn delete(&self, topic: &str) -> Result<(), BoxError> {
        Ok(self.broker.delete_topic(Name::intern(topic)?).await?)
    }
}

//! `anybroker` with what a user has by default: confirmed publishing; per-key order, retries armed
//! and one settlement per message when consuming.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use broker_api::{BoxError, Broker, Bytes, GroupSpec, Message, Name, Topic, TopicSpec};
use tokio::sync::Notify;

use crate::contender::{Contender, GROUP, IN_FLIGHT, Publishing, Window, by_tasks};
use crate::cost::Latencies;
use crate::load::{Item, Ledger, Load};

/// A broker through `anybroker`.
pub(crate) struct Ours {
    broker: Broker,
    /// How many messages are handled at a time.
    handlers: usize,
}

impl Ours {
    pub(crate) const fn new(broker: Broker, handlers: usize) -> Self {
        Self { broker, handlers }
    }

    fn message(item: Item) -> Message {
        Message::new(item.payload).with_key(item.key)
    }
}

#[async_trait]
impl Contender for Ours {
    fn name(&self) -> &'static str {
        "anybroker"
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
            Publishing::Pipelined => {
                let mut window = Window::new(IN_FLIGHT);
                for item in load.items() {
                    let publish = self.broker.publish_message(topic, Self::message(item));
                    window.push(publish.enqueue().await?).await?;
                }
                window.finish().await?;
            }
            Publishing::Tasks(tasks) => {
                let broker = self.broker.clone();
                let publish = move |item| {
                    let publish = broker.publish_message(topic, Self::message(item));
                    async move { publish.await.map(drop) }
                };
                by_tasks(load, tasks, latencies, publish).await?;
            }
        }
        Ok(())
    }

    async fn consume(&self, topic: &str, ledger: Ledger) -> Result<(), BoxError> {
        let topic = Topic::<Bytes>::raw("any").named(Name::intern(topic)?);
        let noted = Arc::new(Mutex::new((ledger, Ok(false))));
        let done = Arc::new(Notify::new());
        let (handled, stop) = (noted.clone(), done.clone());
        let consumer = self.broker.consumer(topic, GROUP).concurrency(self.handlers);
        consumer
            .until(async move { stop.notified().await })
            .run(move |payload, context| {
                let key = context.message().key().cloned().unwrap_or_default();
                let mut handled = handled.lock().unwrap_or_else(PoisonError::into_inner);
                let (ledger, outcome) = &mut *handled;
                if matches!(outcome, Ok(false)) {
                    *outcome = ledger.note(&key, &payload);
                }
                // Complete, or wrong: both end the consumer.
                if !matches!(outcome, Ok(false)) {
                    done.notify_one();
                }
                async { Ok(()) }
            })
            .await?;
        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut noted.1, Ok(false)) {
            Ok(true) => Ok(()),
            Ok(false) => Err("the consumer ended before everything came".into()),
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, topic: &str) -> Result<(), BoxError> {
        Ok(self.broker.delete_topic(Name::intern(topic)?).await?)
    }
}

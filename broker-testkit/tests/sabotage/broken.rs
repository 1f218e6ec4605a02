//! The in-memory broker with one flaw.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker_api::{
    Backend, Capabilities, Capability, Confirm, Connection, Delivery, Error, GroupSpec, Health,
    Memory, Message, Name, Outgoing, Read, Receipt, Result, Settle, Settlement, Source, Start,
    Subscribe, TopicDescription, TopicSpec, Until, async_trait,
};
use broker_testkit::wrapped::Wraps;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    AcknowledgesEarly,
    SwallowsRequeues,
    TakesBackWhatIsHeldForLong,
    BringsBackRejected,
    LosesLastAcknowledgements,
    StaysWhenItLeaves,
    ReordersKeys,
    LosesLastHeader,
    TakesEmptyKeyForNone,
    PublishesTwice,
    ConfirmsWithoutStoring,
    PartitionsItsOwnWay,
    CreatesUnknownTopics,
    DescribesUnknownTopics,
    IgnoresPrefetch,
    NeverConfirms,
    BeginsWithTheOldest,
    NeverCatchesUp,
    HidesThatATopicExists,
    AlwaysUp,
    ForgetsConsumers,
    LosesOnCancellation,
    OneConnectionForAll,
    DeniesWhatItCanDo,
    ForgetsTheTopic,
    HasNoLag,
    CountsTheLagOfAll,
    Panics,
    Hangs,
}

/// A connection with a flaw, or without one.
pub(crate) struct Broken {
    pub(crate) inner: Arc<Memory>,
    pub(crate) flaw: Option<Flaw>,
}

impl Broken {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn group(&self, group: GroupSpec) -> GroupSpec {
        match self.has(Flaw::BeginsWithTheOldest) {
            true => GroupSpec { start: Start::Earliest, ..group },
            false => group,
        }
    }

    fn told<T>(&self, result: Result<T>) -> Result<T> {
        match self.has(Flaw::ForgetsTheTopic) {
            true => result.map_err(|e| Error::new(e.kind(), e.operation(), "something is wrong")),
            false => result,
        }
    }
}

#[async_trait]
impl Backend for Broken {
    fn system(&self) -> &'static str {
        "broken"
    }

    fn capabilities(&self, topic: Name) -> Capabilities {
        match self.has(Flaw::DeniesWhatItCanDo) {
            true => Capabilities::all().without(Capability::Replay, "a flaw"),
            false => self.inner.capabilities(topic),
        }
    }

    fn publish(&self, mut outgoing: Outgoing) {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        match self.flaw {
            Some(Flaw::LosesLastHeader) => {
                let headers = outgoing.message.headers().clone();
                let kept = headers.iter().take(headers.len().saturating_sub(1));
                let kept = kept.map(|(name, value)| (name.to_owned(), value.clone())).collect();
                outgoing.message = outgoing.message.with_headers(kept);
            }
            Some(Flaw::TakesEmptyKeyForNone)
                if outgoing.message.key().is_some_and(|k| k.is_empty()) =>
            {
                outgoing.message = Message::new(outgoing.message.payload().clone());
            }
            Some(Flaw::PublishesTwice) => self.inner.publish(Outgoing {
                message: outgoing.message.clone(),
                confirm: Confirm::from_fn(drop),
                ..outgoing
            }),
            Some(Flaw::ConfirmsWithoutStoring)
                if COUNT.fetch_add(1, Ordering::Relaxed) % 10 == 9 =>
            {
                return outgoing.confirm.done(Ok(Receipt { partition: 0, offset: Some(1) }));
            }
            Some(Flaw::PartitionsItsOwnWay) if outgoing.partition.is_none() => {
                outgoing.partition = outgoing.message.key().map(|key| key.len() as u32 % 3);
            }
            Some(Flaw::CreatesUnknownTopics) => {
                let (inner, spec) = (self.inner.clone(), TopicSpec::new(outgoing.topic));
                tokio::spawn(async move {
                    drop(inner.create_topic(&spec).await);
                    inner.publish(outgoing);
                });
                return;
            }
            // Kept for ever, so not even answered by being dropped.
            Some(Flaw::NeverConfirms) => {
                static KEPT: Mutex<Vec<Outgoing>> = Mutex::new(Vec::new());
                KEPT.lock().unwrap().push(outgoing);
                return;
            }
            _ => {}
        }
        self.inner.publish(outgoing);
    }

    async fn subscribe(&self, mut subscribe: Subscribe) -> Result<Box<dyn Source>> {
        if self.has(Flaw::IgnoresPrefetch) {
            subscribe.prefetch = 1_000_000;
        }
        subscribe.group = self.group(subscribe.group);
        let inner = self.told(self.inner.subscribe(subscribe).await)?;
        Ok(Box::new(BrokenSource { inner, flaw: self.flaw, late: Arc::default() }))
    }

    async fn read(&self, mut read: Read) -> Result<Box<dyn Source>> {
        if self.has(Flaw::NeverCatchesUp) {
            read.until = Until::Followed;
        }
        self.told(self.inner.read(read).await)
    }

    async fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        match self.inner.create_topic(spec).await {
            Err(_) if self.has(Flaw::HidesThatATopicExists) => Ok(()),
            created => created,
        }
    }

    async fn describe_topic(&self, topic: Name) -> Result<TopicDescription> {
        match self.flaw {
            Some(Flaw::Panics) => panic!("a flaw"),
            Some(Flaw::DescribesUnknownTopics) => {
                drop(self.inner.create_topic(&TopicSpec::new(topic)).await);
                self.inner.describe_topic(topic).await
            }
            Some(Flaw::Hangs) => std::future::pending().await,
            _ => self.told(self.inner.describe_topic(topic).await),
        }
    }

    async fn add_partitions(&self, topic: Name, total: u32) -> Result<()> {
        self.inner.add_partitions(topic, total).await
    }

    async fn delete_topic(&self, topic: Name) -> Result<()> {
        self.told(self.inner.delete_topic(topic).await)
    }

    async fn declare_group(&self, topic: Name, group: &GroupSpec) -> Result<()> {
        self.told(self.inner.declare_group(topic, &self.group(*group)).await)
    }

    async fn lag(&self, topic: Name, group: Name) -> Result<u64> {
        match self.flaw {
            Some(Flaw::HasNoLag) => Ok(0),
            // That of a group which has settled nothing.
            Some(Flaw::CountsTheLagOfAll) => {
                let nobody = GroupSpec::new(Name::new("nobody"));
                self.inner.declare_group(topic, &nobody).await?;
                self.inner.lag(topic, nobody.name).await
            }
            _ => self.inner.lag(topic, group).await,
        }
    }

    fn health(&self) -> Health {
        let mut health = self.inner.health();
        if self.has(Flaw::AlwaysUp) {
            health.connection = Connection::Up;
        }
        if self.has(Flaw::ForgetsConsumers) {
            health.consumers.clear();
        }
        health
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

/// Settlements that were not passed on yet.
type Late = Arc<Mutex<Vec<(Arc<dyn Settle>, u64)>>>;

struct BrokenSource {
    inner: Box<dyn Source>,
    flaw: Option<Flaw>,
    late: Late,
}

#[async_trait]
impl Source for BrokenSource {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        let Some(mut batch) = self.inner.next(max).await? else { return Ok(None) };
        match self.flaw {
            Some(Flaw::ReordersKeys) => batch.reverse(),
            Some(Flaw::LosesOnCancellation) => tokio::task::yield_now().await,
            _ => {}
        }
        let flawed = |delivery: Delivery| match self.flaw {
            Some(Flaw::AcknowledgesEarly) => {
                let received = delivery.received().clone();
                delivery.ack();
                Delivery::unsettled(received)
            }
            Some(Flaw::TakesBackWhatIsHeldForLong) => {
                let received = delivery.received().clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    drop(delivery);
                });
                Delivery::unsettled(received)
            }
            Some(flaw) => delivery.map_settle(|inner| {
                Arc::new(BrokenSettle { inner, flaw, late: self.late.clone() })
            }),
            None => delivery,
        };
        Ok(Some(batch.into_iter().map(flawed).collect()))
    }

    async fn close(&mut self) -> Result<()> {
        match self.flaw {
            Some(Flaw::StaysWhenItLeaves) => Ok(()),
            _ => self.inner.close().await,
        }
    }
}

impl Drop for BrokenSource {
    fn drop(&mut self) {
        static KEPT: Mutex<Vec<Box<dyn Source>>> = Mutex::new(Vec::new());
        if self.flaw == Some(Flaw::StaysWhenItLeaves) {
            let inner = std::mem::replace(&mut self.inner, Box::new(Ended));
            KEPT.lock().unwrap().push(inner);
        }
    }
}

struct Ended;

#[async_trait]
impl Source for Ended {
    async fn next(&mut self, _: usize) -> Result<Option<Vec<Delivery>>> {
        Ok(None)
    }
    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

struct BrokenSettle {
    inner: Arc<dyn Settle>,
    flaw: Flaw,
    late: Late,
}

impl Settle for BrokenSettle {
    fn settle(&self, token: u64, settlement: Settlement) {
        match (self.flaw, settlement) {
            (Flaw::BringsBackRejected, Settlement::Reject) => {
                self.inner.requeue(token, Message::new(""));
            }
            // In batches that nothing flushes.
            (Flaw::LosesLastAcknowledgements, _) => {
                let mut late = self.late.lock().unwrap();
                late.push((self.inner.clone(), token));
                if late.len() >= 30 {
                    late.drain(..)
                        .for_each(|(settle, token)| settle.settle(token, Settlement::Ack));
                }
            }
            _ => self.inner.settle(token, settlement),
        }
    }

    fn requeue(&self, token: u64, message: Message) {
        match self.flaw {
            Flaw::SwallowsRequeues => self.inner.settle(token, Settlement::Ack),
            _ => self.inner.requeue(token, message),
        }
    }

    fn is_live(&self, token: u64) -> bool {
        self.inner.is_live(token)
    }
}

/// The names of the topics that were created.
#[derive(Default)]
pub(crate) struct Names(Mutex<Vec<Name>>);

impl Names {
    pub(crate) fn taken(&self) -> Vec<Name> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A connection that remembers which topics were created.
pub(crate) struct Listed {
    pub(crate) inner: Broken,
    pub(crate) names: Arc<Names>,
}

#[async_trait]
impl Wraps for Listed {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }

    async fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        self.names.0.lock().unwrap().push(spec.name);
        self.inner.create_topic(spec).await
    }
}

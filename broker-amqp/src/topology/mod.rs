//! Creating, growing and deleting topics, and declaring groups.
//!
//! Everything that changes a topic holds its [`Lock`](lock::Locks), says in the registry what it
//! is about to do where that would be missed if it stopped half-way, does it on the broker, and
//! says in the registry that it is done. So whoever comes next finds all there is: queues of a
//! partition are there before a publisher hears of it, and all queues of a topic can be deleted.

pub(crate) mod declare;
mod history;
mod lag;
mod lock;

use std::future::Future;
use std::time::Duration;

use broker_api::{Error, ErrorKind, GroupSpec, Name, Result, Start, TopicDescription, TopicSpec};

use crate::config::AmqpConfig;
use crate::error;
use crate::link::Link;
use crate::registry::{Event, Group, Registry, Topic};
use lock::Locks;

/// The most partitions a topic can have: each is a queue in every group.
const MAX_PARTITIONS: u32 = 10_000;

/// What changes topics and groups.
#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) link: Link,
    /// Where messages are copied to on behalf of a new group.
    publish: Link,
    registry: std::sync::Arc<Registry>,
    locks: Locks,
    patience: Duration,
    default_partitions: u32,
}

impl Topology {
    pub(crate) fn new(
        link: Link,
        publish: Link,
        registry: std::sync::Arc<Registry>,
        config: &AmqpConfig,
    ) -> Self {
        Self {
            link,
            publish,
            registry,
            locks: Locks::default(),
            patience: config.operation_timeout,
            default_partitions: config.default_partitions,
        }
    }

    /// The topic, if there is one. One that somebody else has just created is waited for.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`], or what the connection reports.
    pub(crate) async fn topic(&self, name: Name, operation: &'static str) -> Result<Topic> {
        if let Some(topic) = self.registry.topic(name) {
            return Ok(topic);
        }
        let channel = self.link.channel(operation).await?;
        let exists = declare::exchange_exists(&channel, name).await;
        if exists.map_err(|e| error::failed(operation, e).with("topic", name))? {
            // It stands in the registry before it has an exchange.
            self.registry.sync(operation).await?;
        }
        self.registry.topic(name).ok_or_else(|| error::unknown_topic(operation, name))
    }

    /// See [`Backend::create_topic`](broker_api::Backend::create_topic).
    pub(crate) async fn create(&self, spec: &TopicSpec) -> Result<()> {
        self.check(spec)?;
        self.bounded("create_topic", spec.name, async {
            const OPERATION: &str = "create_topic";
            let _lock = self.locks.lock(&self.link, spec.name, OPERATION).await?;
            if let Some(left) = self.registry.look(|s| s.topic(spec.name).cloned()) {
                if !left.deleting {
                    return Err(exists(spec.name));
                }
                // Whoever deleted it has stopped half-way, or this lock would not be free.
                self.finish_deleting(&left, OPERATION).await?;
            }
            let event = Event::creation(spec, self.default_partitions);
            if !self.registry.append(&event, OPERATION).await? {
                return Err(exists(spec.name));
            }
            let topic = self.topic(spec.name, OPERATION).await?;
            let channel = self.link.channel(OPERATION).await?;
            done(declare::topic(&channel, &topic).await, OPERATION)
        })
        .await
    }

    fn check(&self, spec: &TopicSpec) -> Result<()> {
        let invalid = |text: String| {
            Err(Error::new(ErrorKind::Invalid, "create_topic", text).with("topic", spec.name))
        };
        if spec.compacted {
            let text = "compaction is not supported by rabbitmq: a queue keeps every message";
            let error = Error::new(ErrorKind::Unsupported, "create_topic", text);
            return Err(error.with("topic", spec.name));
        }
        check_partitions(spec.partitions.unwrap_or(self.default_partitions))
            .map_err(|error| error.with_operation("create_topic").with("topic", spec.name))?;
        if spec.replication == Some(0) {
            return invalid("a topic needs at least one copy".into());
        }
        let most = self.link.version().unwrap_or_default().max_payload_bytes();
        match spec.max_message_bytes {
            Some(0) => invalid("a message size of 0 leaves room for no message".into()),
            Some(bytes) if bytes > most => invalid(format!(
                "max_message_bytes is {bytes}, this RabbitMQ takes messages up to {most} bytes"
            )),
            _ => Ok(()),
        }
    }

    /// See [`Backend::describe_topic`](broker_api::Backend::describe_topic).
    pub(crate) async fn describe(&self, name: Name) -> Result<TopicDescription> {
        const OPERATION: &str = "describe_topic";
        let topic = self.bounded(OPERATION, name, async {
            if self.registry.topic(name).is_some() {
                // Somebody else may have changed it just now.
                self.registry.refresh(OPERATION).await?;
            }
            self.topic(name, OPERATION).await
        });
        Ok(topic.await?.description())
    }

    /// See [`Backend::add_partitions`](broker_api::Backend::add_partitions).
    pub(crate) async fn add_partitions(&self, name: Name, total: u32) -> Result<()> {
        const OPERATION: &str = "add_partitions";
        check_partitions(total).map_err(|e| e.with_operation(OPERATION).with("topic", name))?;
        self.bounded(OPERATION, name, async {
            let _lock = self.locks.lock(&self.link, name, OPERATION).await?;
            // All its groups have to be known, and nobody makes another one now.
            self.registry.sync(OPERATION).await?;
            let topic = self.topic(name, OPERATION).await?;
            if total <= topic.partitions {
                let text = format!("the topic has {} partitions, wanted {total}", topic.partitions);
                return Err(Error::new(ErrorKind::Invalid, OPERATION, text).with("topic", name));
            }
            let channel = self.link.channel(OPERATION).await?;
            let grown = async {
                declare::grow_stream(&channel, &topic, total).await?;
                for (group, Group { order, .. }) in &topic.groups {
                    declare::group(&channel, &topic, *group, *order, total).await?;
                }
                Ok(())
            };
            done(grown.await, OPERATION)?;
            // Publishers hear of them when every queue is there.
            let event = Event::Partitions { topic: name.as_str().into(), total };
            self.registry.append(&event, OPERATION).await.map(drop)
        })
        .await
    }

    /// See [`Backend::delete_topic`](broker_api::Backend::delete_topic).
    pub(crate) async fn delete(&self, name: Name) -> Result<()> {
        const OPERATION: &str = "delete_topic";
        self.bounded(OPERATION, name, async {
            // So that no lock is made for a topic that was never there.
            if self.registry.look(|state| state.topic(name).is_none()) {
                self.topic(name, OPERATION).await?;
            }
            let _lock = self.locks.lock(&self.link, name, OPERATION).await?;
            let event = Event::Deleting { topic: name.as_str().into() };
            self.registry.append(&event, OPERATION).await?;
            // As it is now that everything before the event is known.
            let topic = self.registry.look(|state| state.topic(name).cloned());
            let topic = topic.ok_or_else(|| error::unknown_topic(OPERATION, name))?;
            self.finish_deleting(&topic, OPERATION).await
        })
        .await
    }

    async fn finish_deleting(&self, topic: &Topic, operation: &'static str) -> Result<()> {
        let channel = self.link.channel(operation).await?;
        done(declare::delete(&channel, topic).await, operation)?;
        let event = Event::Deleted { topic: topic.name.as_str().into() };
        self.registry.append(&event, operation).await.map(drop)
    }

    /// See [`Backend::declare_group`](broker_api::Backend::declare_group).
    pub(crate) async fn declare_group(
        &self,
        name: Name,
        group: &GroupSpec,
        operation: &'static str,
    ) -> Result<Topic> {
        self.bounded(operation, name, async {
            let topic = self.topic(name, operation).await?;
            if let Some(known) = topic.groups.get(&group.name) {
                check_order(known, group, &topic, operation)?;
                if known.ready {
                    return Ok(topic);
                }
            }
            check_start(&topic, group, operation)?;
            let _lock = self.locks.lock(&self.link, name, operation).await?;
            // Without effect if the group is there; in any case all about it is known then.
            let event = Event::Group {
                topic: name.as_str().into(),
                group: group.name.as_str().into(),
                order: group.order.into(),
            };
            self.registry.append(&event, operation).await?;
            let topic = self.topic(name, operation).await?;
            if let Some(known) = topic.groups.get(&group.name) {
                check_order(known, group, &topic, operation)?;
                if known.ready {
                    return Ok(topic);
                }
            }
            self.make_group(&topic, group, operation).await?;
            self.topic(name, operation).await
        })
        .await
    }

    async fn make_group(
        &self,
        topic: &Topic,
        group: &GroupSpec,
        operation: &'static str,
    ) -> Result<()> {
        let channel = self.link.channel(operation).await?;
        let made = async {
            declare::topic(&channel, topic).await?;
            declare::group(&channel, topic, group.name, group.order, topic.partitions).await
        };
        done(made.await, operation)?;
        let history = match group.start {
            Start::Latest => Vec::new(),
            _ if !topic.has_stream() => Vec::new(),
            _ => self.copy_history(topic, group, operation).await?,
        };
        let (topic, group) = (topic.name.as_str().into(), group.name.as_str().into());
        let event = Event::Ready { topic, group, history };
        self.registry.append(&event, operation).await.map(drop)
    }

    /// Makes what is missing of a topic on the broker, because its creation has stopped half-way or
    /// somebody has deleted a part of it. A creation that is under way is waited for.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`], or what the connection reports.
    pub(crate) async fn restore(&self, name: Name, operation: &'static str) -> Result<()> {
        let _lock = self.locks.lock(&self.link, name, operation).await?;
        // So that nothing is made for a topic that was deleted.
        self.registry.sync(operation).await?;
        let topic = self.registry.topic(name);
        let topic = topic.ok_or_else(|| error::unknown_topic(operation, name))?;
        let failed = |e| error::failed(operation, e).with("topic", name);
        let channel = self.link.channel(operation).await?;
        if declare::all_there(&channel, &topic).await.map_err(failed)? {
            return Ok(());
        }
        tracing::warn!(topic = %name, "something of the topic is missing, it is made again");
        let channel = self.link.channel(operation).await?;
        let made = async {
            declare::topic(&channel, &topic).await?;
            for (group, Group { order, .. }) in topic.groups.iter().filter(|(_, g)| g.ready) {
                declare::group(&channel, &topic, *group, *order, topic.partitions).await?;
            }
            Ok(())
        };
        made.await.map_err(failed)
    }

    /// Says that the history of a partition is consumed, and deletes its queue.
    pub(crate) async fn drained(&self, topic: Name, group: Name, partition: u32) -> Result<()> {
        const OPERATION: &str = "subscribe";
        let event = Event::Drained {
            topic: topic.as_str().into(),
            group: group.as_str().into(),
            partition,
        };
        self.registry.append(&event, OPERATION).await?;
        let channel = self.link.channel(OPERATION).await?;
        let queue = crate::names::history(topic, group, partition);
        done(declare::delete_queue(&channel, queue).await, OPERATION)
    }

    async fn bounded<T>(
        &self,
        operation: &'static str,
        topic: Name,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.patience, work).await {
            Ok(result) => result,
            Err(_) => {
                let text = format!("not done within {:?}; it may be half-way", self.patience);
                let error = Error::new(ErrorKind::Timeout, operation, text).indeterminate();
                Err(error.with("topic", topic))
            }
        }
    }
}

fn done(result: lapin::Result<()>, operation: &'static str) -> Result<()> {
    result.map_err(|e| error::failed(operation, e))
}

fn exists(topic: Name) -> Error {
    let text = "a topic of this name exists already";
    Error::new(ErrorKind::TopicExists, "create_topic", text).with("topic", topic)
}

fn check_partitions(partitions: u32) -> Result<()> {
    if (1..=MAX_PARTITIONS).contains(&partitions) {
        return Ok(());
    }
    let text = format!("{partitions} partitions, 1 to {MAX_PARTITIONS} are possible");
    Err(Error::new(ErrorKind::Invalid, "create_topic", text))
}

fn check_order(
    known: &Group,
    wanted: &GroupSpec,
    topic: &Topic,
    operation: &'static str,
) -> Result<()> {
    if known.order == wanted.order {
        return Ok(());
    }
    let text = format!("the group has order {:?}, wanted {:?}", known.order, wanted.order);
    let error = Error::new(ErrorKind::Mismatch, operation, text);
    Err(error.with("topic", topic.name).with("group", wanted.name))
}

/// Without a stream there is nothing before now.
fn check_start(topic: &Topic, group: &GroupSpec, operation: &'static str) -> Result<()> {
    match group.start {
        Start::Time(_) | Start::Offset(_) if !topic.has_stream() => {
            Err(without_stream(operation, "a start position", topic.name))
        }
        _ => Ok(()),
    }
}

/// The error for what needs the stream of a topic with retention.
pub(crate) fn without_stream(operation: &'static str, what: &str, topic: Name) -> Error {
    let text = format!("{what} is not supported by rabbitmq: {NO_STREAM}");
    Error::new(ErrorKind::Unsupported, operation, text).with("topic", topic)
}

/// Why a topic cannot be read again.
pub(crate) const NO_STREAM: &str =
    "the topic keeps nothing for replay; create it with a retention (time or bytes)";

//! Asking the cluster about its topics, and changing them.
//!
//! Nodes learn of a change one after the other. So one that does not know a topic proves nothing,
//! and who is in charge of all topics, the controller, is asked before anybody is told that there
//! is no such topic.

use std::sync::Arc;
use std::time::Duration;

use broker_api::{DEFAULT_PARTITIONS, Error, ErrorKind, Name, Result, TopicDescription, TopicSpec};
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewPartitions, NewTopic, OwnedResourceSpecifier,
    ResourceSpecifier, TopicReplication, TopicResult,
};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult};
use tokio::task::spawn_blocking;

use crate::delivered::Producer;
use crate::elsewhere::Elsewhere;
use crate::error;
use crate::link;
use crate::native;
use crate::partition::{Partition, hindered, metadata, served};
use crate::patience::Patience;
use crate::topic::{Topic, settings};

/// How long one question or change may take, waiting for leaders included.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the controller may take to say whether it knows a topic.
const CONTROLLER: Duration = Duration::from_secs(5);

/// The topics of the cluster.
pub(crate) struct Topics {
    admin: Elsewhere<AdminClient<Logged>>,
    /// Metadata is asked through the publishing client, which learns it by that.
    producer: Arc<Producer>,
}

/// The context of a client that only logs.
pub(crate) struct Logged;

impl ClientContext for Logged {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        link::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "administrating client");
    }
}

impl Topics {
    pub(crate) fn new(admin: AdminClient<Logged>, producer: Arc<Producer>) -> Self {
        Self { admin: Elsewhere::new(admin), producer }
    }

    /// Creates a topic; it has all its leaders then.
    pub(crate) async fn create(&self, spec: &TopicSpec) -> Result<()> {
        const OPERATION: &str = "create_topic";
        let settings = settings(spec)?;
        let partitions = spec.partitions.unwrap_or(DEFAULT_PARTITIONS);
        let count = count(partitions, OPERATION, spec.name)?;
        let copies = spec.replication.map_or(Ok(-1), i32::try_from).unwrap_or(i32::MAX);
        let topic = NewTopic::new(spec.name.as_str(), count, TopicReplication::Fixed(copies));
        let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        let answers = self.told(self.admin.create_topics([&topic], &options()).await);
        let created = changed(answers, OPERATION, spec.name);
        match &created {
            Ok(()) => self.wait_for(spec.name, partitions, OPERATION).await,
            // The controller knows it; others may have made it just now, and then not every
            // broker does. Whoever is told that it exists will use it.
            Err(error) if error.kind() == ErrorKind::TopicExists => {
                drop(self.wait_for(spec.name, 1, OPERATION).await);
                created
            }
            Err(_) => created,
        }
    }

    /// Deletes a topic; it is gone then.
    pub(crate) async fn delete(&self, name: Name) -> Result<()> {
        const OPERATION: &str = "delete_topic";
        let answers = self.told(self.admin.delete_topics(&[name.as_str()], &options()).await);
        changed(answers, OPERATION, name)?;
        let mut patience = Patience::new(PATIENCE);
        loop {
            match self.ask(name, OPERATION).await {
                Err(error) if error.kind() == ErrorKind::UnknownTopic => return Ok(()),
                _ if patience.wait().await => {}
                _ => {
                    let text = "the topic is still there after its deletion was accepted";
                    let error = Error::new(ErrorKind::Timeout, OPERATION, text);
                    return Err(error.indeterminate().with("topic", name));
                }
            }
        }
    }

    /// Grows a topic.
    pub(crate) async fn add_partitions(&self, name: Name, total: u32) -> Result<()> {
        const OPERATION: &str = "add_partitions";
        let has = self.partitions(name, OPERATION).await?.len();
        let wanted = usize::try_from(count(total, OPERATION, name)?).unwrap_or_default();
        if wanted <= has {
            let text =
                format!("the topic has {has} partitions, wanted more than that, not {total}");
            return Err(Error::new(ErrorKind::Invalid, OPERATION, text).with("topic", name));
        }
        let more = NewPartitions::new(name.as_str(), wanted);
        let answers = self.told(self.admin.create_partitions([&more], &options()).await);
        changed(answers, OPERATION, name)?;
        self.wait_for(name, total, OPERATION).await
    }

    /// Without an answer the client may know no broker any more; it has no statistics that say so.
    fn told<T>(&self, answer: KafkaResult<T>) -> KafkaResult<T> {
        if answer.is_err() {
            native::bootstrap(self.admin.inner());
        }
        answer
    }

    /// What the topic is, for people.
    pub(crate) async fn describe(&self, name: Name) -> Result<TopicDescription> {
        Ok(self.find(name, "describe_topic").await?.describe(name))
    }

    /// What the topic is.
    pub(crate) async fn find(&self, name: Name, operation: &'static str) -> Result<Topic> {
        let partitions = self.partitions(name, operation).await;
        let found = self.with_configuration(vec![(name, partitions)]).await.pop();
        let missing = || Error::new(ErrorKind::Other, operation, "no answer");
        found.map_or_else(|| Err(missing()), |(_, topic)| topic)
    }

    /// What the topics are: an answer for each, whose error says what is wrong with that one. No
    /// answer for those that were not asked about because the broker did not answer before. A
    /// topic of which the node has not learned yet is waited for by asking again.
    pub(crate) async fn look_up(&self, names: &[Name]) -> Vec<(Name, Result<Topic>)> {
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let partitions = self.ask(*name, "publish").await;
            let unanswered = matches!(&partitions, Err(error) if error.is_transient());
            let known = match partitions {
                Ok(Some(partitions)) => Ok(served(&self.producer, *name, partitions).await),
                Ok(None) => Err(later(*name, "publish")),
                Err(error) => Err(error),
            };
            found.push((*name, known));
            if unanswered {
                break;
            }
        }
        self.with_configuration(found).await
    }

    async fn with_configuration(
        &self,
        found: Vec<(Name, Result<Vec<Partition>>)>,
    ) -> Vec<(Name, Result<Topic>)> {
        let there = found.iter().filter(|(_, partitions)| partitions.is_ok());
        let resources: Vec<_> =
            there.map(|(name, _)| ResourceSpecifier::Topic(name.as_str())).collect();
        // Without it the broker's defaults are taken: somebody may publish to a topic and yet not
        // be allowed to ask for its configuration.
        let configs = match resources.is_empty() {
            true => Vec::new(),
            false => match self.told(self.admin.describe_configs(&resources, &options()).await) {
                Ok(configs) => configs.into_iter().flatten().collect(),
                Err(error) => {
                    tracing::debug!(%error, "the topics' configuration is not told");
                    Vec::new()
                }
            },
        };
        let config = |name: Name| {
            configs.iter().find(|config: &&ConfigResource| {
                matches!(&config.specifier, OwnedResourceSpecifier::Topic(t) if t == name.as_str())
            })
        };
        let known = found.into_iter().map(|(name, partitions)| {
            let topic = partitions.map(|partitions| {
                let copies = partitions.first().and_then(|p| u16::try_from(p.replicas).ok());
                let count = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
                Topic::new(count, copies, config(name))
            });
            (name, topic)
        });
        known.collect()
    }

    /// How many partitions a topic has, once the node that is asked has learned of it.
    pub(crate) async fn partition_count(&self, name: Name, operation: &'static str) -> Result<u32> {
        let count = self.partitions(name, operation).await?.len();
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Gives its clients up and waits for their threads.
    pub(crate) async fn gone(self) {
        self.admin.gone().await;
        if let Some(producer) = Arc::into_inner(self.producer) {
            producer.gone().await;
        }
    }

    /// Why the cluster may not take what is published to a topic; `None` if nothing is known to be
    /// wrong.
    pub(crate) async fn hindrance(&self, topic: Name) -> Option<String> {
        const OPERATION: &str = "publish";
        // Without a controller no node is told of what has become of another one: what it says
        // of replicas is as it was before.
        if let Err(error) = self.is_made(topic, OPERATION).await {
            let told = error.message();
            return Some(format!("the cluster's controller does not answer: {told}"));
        }
        let partitions = match self.ask(topic, OPERATION).await {
            Ok(partitions) => partitions.unwrap_or_default(),
            Err(error) if error.is_transient() => {
                return Some(format!("the broker does not answer: {}", error.message()));
            }
            // The messages will have this as their answer.
            Err(_) => return None,
        };
        let resource = ResourceSpecifier::Topic(topic.as_str());
        let options = options().request_timeout(Some(CONTROLLER));
        let configs = self.told(self.admin.describe_configs([&resource], &options).await);
        let configs = configs.unwrap_or_default();
        let required = configs.iter().flatten().find_map(|config: &ConfigResource| {
            config.get("min.insync.replicas")?.value.as_ref()?.parse().ok()
        });
        hindered(topic, &partitions, required.unwrap_or(1))
    }

    /// Waits until a topic has so many partitions and all have a leader: a message sent before
    /// that takes seconds.
    async fn wait_for(&self, name: Name, count: u32, operation: &'static str) -> Result<()> {
        let mut patience = Patience::new(PATIENCE);
        loop {
            if let Ok(Some(partitions)) = self.ask(name, operation).await
                && partitions.len() >= count as usize
                && partitions.iter().all(|partition| partition.has_leader)
            {
                served(&self.producer, name, partitions).await;
                return Ok(());
            }
            if !patience.wait().await {
                let text = "the change was made, but not every partition has a leader yet";
                let error = Error::new(ErrorKind::Timeout, operation, text).indeterminate();
                return Err(error.with("topic", name));
            }
        }
    }

    /// The partitions of a topic, once the node that is asked has learned of it.
    async fn partitions(&self, name: Name, operation: &'static str) -> Result<Vec<Partition>> {
        let mut patience = Patience::new(PATIENCE);
        loop {
            match self.ask(name, operation).await? {
                Some(partitions) => return Ok(partitions),
                None if patience.wait().await => {}
                None => return Err(later(name, operation)),
            }
        }
    }

    /// The partitions of a topic; `None` if it is there, and the node that was asked does not know
    /// it yet.
    async fn ask(&self, name: Name, operation: &'static str) -> Result<Option<Vec<Partition>>> {
        let producer = self.producer.clone();
        let asked = spawn_blocking(move || metadata(&producer, name)).await;
        let stopped = |_| Error::new(ErrorKind::Closed, operation, "the runtime is shut down");
        let told = asked.map_err(stopped)?;
        match told.map_err(|e| error::error(e, operation).with("topic", name)) {
            Err(error) if error.kind() == ErrorKind::UnknownTopic => {
                match self.is_made(name, operation).await? {
                    true => Ok(None),
                    false => Err(error),
                }
            }
            told => told.map(Some),
        }
    }

    /// Whether the controller knows the topic. It says so when it is asked whether the topic could
    /// be made; a user who may not make topics learns nothing by that.
    async fn is_made(&self, name: Name, operation: &'static str) -> Result<bool> {
        let topic = NewTopic::new(name.as_str(), 1, TopicReplication::Fixed(-1));
        let options = options().validate_only(true).request_timeout(Some(CONTROLLER));
        let answers = self.told(self.admin.create_topics([&topic], &options).await);
        match changed(answers, operation, name) {
            Err(error) if error.kind() == ErrorKind::TopicExists => Ok(true),
            Err(error) if error.is_transient() => Err(error),
            _ => Ok(false),
        }
    }
}

/// The topic is there, but a node that is asked for it has not learned of it yet.
fn later(topic: Name, operation: &'static str) -> Error {
    let text = "the topic exists, but not every broker of the cluster knows it yet";
    Error::new(ErrorKind::Unavailable, operation, text).transient().with("topic", topic)
}

/// A number of partitions as the protocol has it.
fn count(partitions: u32, operation: &'static str, topic: Name) -> Result<i32> {
    i32::try_from(partitions).ok().filter(|count| *count > 0).ok_or_else(|| {
        let text = format!("{partitions} partitions are out of range: wanted 1 to 2147483647");
        Error::new(ErrorKind::Invalid, operation, text).with("topic", topic)
    })
}

/// The outcome of a change of one topic.
fn changed(
    answers: Result<Vec<TopicResult>, KafkaError>,
    operation: &'static str,
    topic: Name,
) -> Result<()> {
    let failed = match answers {
        Err(error) => error::error(error, operation),
        Ok(answers) => match answers.into_iter().next() {
            Some(Ok(_)) => return Ok(()),
            Some(Err((_, code))) => error::coded(code, operation),
            None => Error::new(ErrorKind::Other, operation, "the broker did not say what it did"),
        },
    };
    Err(failed.with("topic", topic))
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
}

//! The broker that is broken, and the way to it.

use std::num::NonZeroU64;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use broker_amqp::{Amqp, AmqpConfig};
use broker_api::{Backend, Broker, ErrorClass, Name, Settings};
use broker_kafka::KafkaConfig;
use broker_testkit::local::{self, LocalBroker, LocalError, RabbitMq, RabbitMqConfig};
use broker_testkit::proxy::Proxy;
use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::flaw::{Flaw, Flawed};
use crate::names::NAME;

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    Kafka,
    RabbitMq,
}

/// How a client reaches it: also another process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Address {
    kind: Kind,
    host: String,
    pub(crate) flaw: Option<Flaw>,
}

impl Address {
    /// By the name of the machine, and not by its number.
    pub(crate) fn host_by_name(&mut self) {
        if let Some((_, port)) = self.host.rsplit_once(':') {
            self.host = format!("{NAME}:{port}");
        }
    }

    /// A client as an application has it, but quicker to notice that something is wrong: the
    /// defaults would make each row a minute.
    pub(crate) async fn connect(&self) -> broker_api::Result<Broker> {
        self.connect_with(Settings::default()).await
    }

    pub(crate) async fn connect_with(&self, settings: Settings) -> broker_api::Result<Broker> {
        match self.try_connect(settings).await {
            Err(error) if self.flaw == Some(Flaw::TakesAbsenceForGood) => {
                Err(error.with_class(ErrorClass::Permanent))
            }
            connected => connected,
        }
    }

    async fn try_connect(&self, settings: Settings) -> broker_api::Result<Broker> {
        match self.kind {
            Kind::Kafka => {
                let config = KafkaConfig {
                    session_timeout: Some(Duration::from_secs(6)),
                    heartbeat_interval: Some(Duration::from_millis(500)),
                    revoke_timeout: Duration::from_secs(2),
                    ..KafkaConfig::new(&self.host)
                };
                let mut config = config
                    .property("socket.timeout.ms", "4000")
                    .property("max.poll.interval.ms", "10000");
                if let Ok(contexts) = std::env::var("CHAOS_LIBRDKAFKA") {
                    config = config.property("debug", contexts);
                }
                Ok(self.broker(broker_kafka::Kafka::connect(config).await?, settings))
            }
            Kind::RabbitMq => {
                let mut config = AmqpConfig::new(format!("amqp://guest:guest@{}/%2f", self.host));
                config.heartbeat = Duration::from_secs(2);
                config.reconnect_pause_max = Duration::from_secs(1);
                Ok(self.broker(Amqp::connect(config).await?, settings))
            }
        }
    }

    fn broker(&self, backend: impl Backend, settings: Settings) -> Broker {
        match self.flaw {
            None => Broker::with_settings(Arc::new(backend), settings),
            Some(flaw) => Broker::with_settings(Arc::new(Flawed::around(backend, flaw)), settings),
        }
    }
}

/// A broker of its own for these tests, or a cluster.
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    nodes: Vec<Process>,
    /// The way to a broker that is alone. To a RabbitMQ cluster too, as a load balancer; a client
    /// of Kafka has to reach each node itself.
    proxy: Proxy,
}

enum Process {
    Kafka(local::Kafka),
    RabbitMq(RabbitMq),
}

impl Process {
    /// Host and port.
    fn host(&self) -> String {
        match self {
            Self::Kafka(kafka) => kafka.bootstrap_servers().to_owned(),
            Self::RabbitMq(rabbitmq) => {
                let url = rabbitmq.amqp_url();
                let host = url.trim_start_matches("amqp://guest:guest@").trim_end_matches("/%2f");
                host.to_owned()
            }
        }
    }

    fn is_kafka(&self, id: u32) -> bool {
        matches!(self, Self::Kafka(kafka) if kafka.node_id() == id)
    }

    fn is_rabbitmq(&self, name: &serde_json::Value) -> bool {
        matches!(self, Self::RabbitMq(rabbitmq) if name.as_str() == Some(rabbitmq.node_name()))
    }
}

impl Deref for Process {
    type Target = LocalBroker;

    fn deref(&self) -> &LocalBroker {
        match self {
            Self::Kafka(kafka) => kafka,
            Self::RabbitMq(rabbitmq) => rabbitmq,
        }
    }
}

impl Subject {
    pub(crate) async fn start(kind: Kind, nodes: u32) -> Result<Self, LocalError> {
        let proxy = Proxy::start()
            .await
            .map_err(|source| LocalError::Io { doing: "start a proxy".to_owned(), source })?;
        let nodes: Vec<Process> = match (kind, nodes) {
            (Kind::Kafka, 1) => {
                let advertised = format!("PLAINTEXT://{}", proxy.address());
                let config =
                    local::KafkaConfig::default().property("advertised.listeners", advertised);
                vec![Process::Kafka(local::Kafka::start(config).await?)]
            }
            (Kind::Kafka, nodes) => {
                // By default a node is taken for dead after 9 s, and its partitions wait for that.
                let config = local::KafkaConfig::default()
                    .property("broker.session.timeout.ms", "3000")
                    .property("broker.heartbeat.interval.ms", "500");
                let nodes = local::Kafka::cluster(config, nodes).await?;
                nodes.into_iter().map(Process::Kafka).collect()
            }
            (Kind::RabbitMq, 1) => {
                vec![Process::RabbitMq(RabbitMq::start(RabbitMqConfig::default()).await?)]
            }
            (Kind::RabbitMq, nodes) => {
                let nodes = RabbitMq::cluster(RabbitMqConfig::default(), nodes).await?;
                nodes.into_iter().map(Process::RabbitMq).collect()
            }
        };
        let subject = Self { kind, nodes, proxy };
        subject.lead_to(0);
        Ok(subject)
    }

    pub(crate) fn address(&self) -> Address {
        let host = match (self.kind, self.nodes.len()) {
            (Kind::Kafka, 2..) => {
                self.nodes.iter().map(Process::host).collect::<Vec<_>>().join(",")
            }
            _ => self.proxy.address(),
        };
        Address { kind: self.kind, host, flaw: None }
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// From now on new connections are with this node.
    pub(crate) fn lead_to(&self, node: usize) {
        self.proxy.forward_to(Arc::from(self.nodes[node].host()));
    }

    /// The nodes of the cluster.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &LocalBroker> {
        self.nodes.iter().map(|node| &**node)
    }

    pub(crate) fn node(&self, number: usize) -> &LocalBroker {
        &self.nodes[number]
    }

    /// The three nodes by their numbers: first the one that leads the topic, or most of its queues.
    pub(crate) async fn leader_first(&self, topic: Name) -> Outcome<[usize; 3]> {
        let leader = match &self.nodes[0] {
            Process::Kafka(kafka) => {
                let arguments = ["--describe", "--topic", topic.as_str()];
                let told = kafka.tool("org.apache.kafka.tools.TopicCommand", &arguments).await?;
                let (_, leader) = told.split_once("Leader: ").ok_or("no leader is told")?;
                let id: u32 = leader.split_whitespace().next().ok_or("no leader")?.parse()?;
                self.nodes.iter().position(|node| node.is_kafka(id))
            }
            Process::RabbitMq(rabbitmq) => {
                let arguments = ["list_queues", "--quiet", "--formatter", "json", "name", "leader"];
                let told = rabbitmq.rabbitmqctl(&arguments).await?;
                let queues: Vec<serde_json::Value> = serde_json::from_str(&told)?;
                let own = |queue: &&serde_json::Value| {
                    queue["name"].as_str().is_some_and(|name| name.starts_with(topic.as_str()))
                };
                let leads = |node: &Process| {
                    let queues = queues.iter().filter(own);
                    queues.filter(|queue| node.is_rabbitmq(&queue["leader"])).count()
                };
                (0..self.nodes.len()).max_by_key(|number| leads(&self.nodes[*number]))
            }
        };
        let leader = leader.ok_or("the leader is none of the nodes")?;
        Ok([leader, (leader + 1) % 3, (leader + 2) % 3])
    }

    /// Slow enough to be felt by the load.
    pub(crate) fn throttle(&self) {
        self.proxy.throttle(NonZeroU64::MIN.saturating_add(20_000));
    }

    /// Closes every client's connection, as an operator does it.
    pub(crate) async fn close_connections(&self) -> Outcome {
        self.rabbitmqctl(&["close_all_connections", "by the operator"]).await
    }

    /// So much has to be free on the disk; with less no publisher gets through.
    pub(crate) async fn want_free_disk(&self, amount: &str) -> Outcome {
        self.rabbitmqctl(&["set_disk_free_limit", amount]).await
    }

    /// From now on so many replicas of a topic have to be in sync for it to take messages.
    pub(crate) async fn want_in_sync(&self, topic: Name, replicas: u32) -> Outcome {
        if let Process::Kafka(kafka) = &self.nodes[0] {
            let setting = format!("min.insync.replicas={replicas}");
            let of = ["--entity-type", "topics", "--entity-name", topic.as_str()];
            let arguments = [&["--alter", "--add-config", &setting], &of[..]].concat();
            kafka.tool("kafka.admin.ConfigCommand", &arguments).await?;
        }
        Ok(())
    }

    async fn rabbitmqctl(&self, arguments: &[&str]) -> Outcome {
        if let Process::RabbitMq(rabbitmq) = &self.nodes[0] {
            rabbitmq.rabbitmqctl(arguments).await?;
        }
        Ok(())
    }
}

/// The only node, or the first.
impl Deref for Subject {
    type Target = LocalBroker;

    fn deref(&self) -> &LocalBroker {
        &self.nodes[0]
    }
}

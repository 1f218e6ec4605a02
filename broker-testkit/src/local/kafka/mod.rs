//! Apache Kafka as local processes: nodes that are broker and controller in one, without ZooKeeper.

mod config;
mod node;

pub use config::KafkaConfig;
#[cfg(feature = "containers")]
pub(crate) use config::SMALL;

use std::collections::BTreeMap;
use std::ops::Deref;

use futures_util::future::try_join_all;
use tokio::process::Command;

use self::node::{Node, replication};
use super::tool::run_tool;
use super::{Installation, LocalBroker, LocalError};
use crate::proxy::Proxy;

/// Enough for a test's load, and little enough for several brokers on one small machine.
const JVM: &[&str] =
    &["-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"];

/// A running Kafka; its life is steered by the methods of [`LocalBroker`].
#[derive(Debug)]
pub struct Kafka {
    broker: LocalBroker,
    /// By the listener's name.
    addresses: BTreeMap<String, String>,
    cluster_id: String,
    node_id: u32,
    /// By which the others reach its controller, where that is to take longer.
    proxy: Option<Proxy>,
}

impl Kafka {
    /// Starts one, and returns when it answers.
    pub async fn start(config: KafkaConfig) -> Result<Self, LocalError> {
        let node = Node::reserve(config, 1, Vec::new())?;
        let voters = node.voter();
        node.start(&voters, new_cluster_id()).await
    }

    /// Starts a cluster of this many nodes, with ids from 1 on, and returns when all answer.
    ///
    /// Topics have up to three replicas, of which a majority has to be in sync, unless the properties say otherwise.
    /// Nodes that are down at the same time are to be restarted at the same time: one that lacks a majority of
    /// controllers does not come up.
    pub async fn cluster(config: KafkaConfig, nodes: u32) -> Result<Vec<Self>, LocalError> {
        let reserve = |id: u32| {
            let mut config = config.clone();
            config.port = config.port.filter(|_| id == 1);
            config.home = config.home.map(|home| home.join(id.to_string()));
            Node::reserve(config, id, replication(nodes.min(3)))
        };
        let mut nodes = (1..=nodes).map(reserve).collect::<Result<Vec<_>, _>>()?;
        if config.late.is_some() {
            for node in &mut nodes {
                node.put_behind_proxy().await?;
            }
        }
        let voters: Vec<String> = nodes.iter().map(Node::voter).collect();
        let (voters, cluster_id) = (voters.join(","), new_cluster_id());
        let starting = nodes.into_iter().map(|node| node.start(&voters, cluster_id.clone()));
        let nodes = try_join_all(starting).await?;
        // Not before: a controller could not be elected in time.
        let proxies = nodes.iter().filter_map(|node| node.proxy.as_ref());
        config.late.into_iter().for_each(|late| proxies.clone().for_each(|p| p.delay(late)));
        Ok(nodes)
    }

    /// `host:port` of the plain listener, as `bootstrap.servers` takes it.
    pub fn bootstrap_servers(&self) -> &str {
        self.address("PLAINTEXT").unwrap_or_default()
    }

    /// `host:port` of a listener by its name.
    pub fn address(&self, listener: &str) -> Option<&str> {
        self.addresses.get(listener).map(String::as_str)
    }

    /// What tells this cluster from every other.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// What tells this node from the others of its cluster.
    pub fn node_id(&self) -> u32 {
        self.node_id
    }

    /// Runs one of Kafka's command-line tools by the name of its class, as `org.apache.kafka.tools.TopicCommand` with
    /// `["--list"]`, on the plain listener of this node, and gives what it printed.
    pub async fn tool(&self, class: &str, arguments: &[&str]) -> Result<String, LocalError> {
        let installation = Installation::find()?;
        let mut command = Command::new(installation.java()?);
        command.args(JVM).args(["-cp", &installation.kafka()?.0, class]);
        command.args(["--bootstrap-server", self.bootstrap_servers()]).args(arguments);
        run_tool(&format!("{class} {}", arguments.join(" ")), command).await
    }
}

impl Deref for Kafka {
    type Target = LocalBroker;

    fn deref(&self) -> &LocalBroker {
        &self.broker
    }
}

fn new_cluster_id() -> String {
    // Twenty-two characters of base64, the last of which holds four bits only.
    format!("{}A", &uuid::Uuid::now_v7().simple().to_string()[11..])
}

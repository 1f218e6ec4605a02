//! RabbitMQ as local processes, in a small Debian system of its own.

mod config;
mod container;
mod node;

pub use config::{RabbitMqConfig, RabbitMqVersion};

use std::ops::Deref;
use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio::process::Command;

use self::container::Container;
use self::node::{Membership, Names, Node, SCRIPTS};
use super::tool::run_tool;
use super::{LocalBroker, LocalError};

/// A running RabbitMQ node; its life is steered by the methods of [`LocalBroker`].
#[derive(Debug)]
pub struct RabbitMq {
    broker: LocalBroker,
    port: u16,
    tls_port: Option<u16>,
    names: Names,
    /// What the nodes of a cluster find one another by.
    _epmd: Option<Arc<LocalBroker>>,
}

impl RabbitMq {
    /// Starts one, and returns when it answers.
    pub async fn start(config: RabbitMqConfig) -> Result<Self, LocalError> {
        Node::reserve(config, None)?.start().await
    }

    /// Starts a cluster of this many nodes, and returns when all are members. A queue has members on all of them only if
    /// it is of a kind that does, as quorum queues are.
    ///
    /// Nodes that are down at the same time are to be restarted at the same time: one waits for those that ended after it.
    pub async fn cluster(config: RabbitMqConfig, nodes: u32) -> Result<Vec<Self>, LocalError> {
        let membership = Membership::start(&config).await?;
        let start = |number: u32| {
            let mut config = config.clone();
            config.port = config.port.filter(|_| number == 1);
            config.home = config.home.map(|home| home.join(number.to_string()));
            let node = Node::reserve(config, Some((&membership, number)));
            async move { node?.start().await }
        };
        // The others join the first.
        let first = start(1).await?;
        let others = try_join_all((2..=nodes).map(start)).await?;
        first.rabbitmqctl(&["await_online_nodes", &nodes.to_string()]).await?;
        Ok([first].into_iter().chain(others).collect())
    }

    /// The URL by which its first user reaches its first virtual host.
    pub fn amqp_url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// The same with TLS, if it was [configured](RabbitMqConfig::tls).
    pub fn amqps_url(&self) -> Option<String> {
        self.tls_port.map(|port| format!("amqps://guest:guest@localhost:{port}/%2f"))
    }

    /// What tells this node from the others of its cluster, as in the output of [`rabbitmqctl`](Self::rabbitmqctl).
    pub fn node_name(&self) -> &str {
        &self.names.node
    }

    /// Runs `rabbitmqctl` on this node, as with `["list_queues", "name", "messages"]`, and gives what it printed.
    pub async fn rabbitmqctl(&self, arguments: &[&str]) -> Result<String, LocalError> {
        let node = self.broker.running().await?;
        // Into the node's own namespaces, where its cookie and its epmd are.
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(node.number().to_string());
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(["--mount", "--pid", "--root", "--wd", "--"]);
        command.arg(format!("{SCRIPTS}/rabbitmqctl")).args(arguments);
        command.env_clear().envs(self.names.environment());
        run_tool(&format!("rabbitmqctl {}", arguments.join(" ")), command).await
    }
}

impl Deref for RabbitMq {
    type Target = LocalBroker;

    fn deref(&self) -> &LocalBroker {
        &self.broker
    }
}

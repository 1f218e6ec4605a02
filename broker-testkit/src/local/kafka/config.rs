//! How a Kafka is to be.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::local::Certificates;
use crate::local::certificates::ServerFiles;

/// Where a single node on a small machine departs from the stock properties.
pub(crate) const SMALL: &[(&str, &str)] = &[
    // One node cannot hold three copies of its own topics, nor does it need fifty partitions of each.
    ("offsets.topic.replication.factor", "1"),
    ("offsets.topic.num.partitions", "4"),
    ("transaction.state.log.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("transaction.state.log.num.partitions", "4"),
    ("share.coordinator.state.topic.replication.factor", "1"),
    ("share.coordinator.state.topic.min.isr", "1"),
    ("share.coordinator.state.topic.num.partitions", "4"),
    // Stock is three seconds' wait for further members before a group's first message.
    ("group.initial.rebalance.delay.ms", "0"),
    // After a kill the node must wait for its own former session to end; stock is nine seconds.
    ("broker.session.timeout.ms", "3000"),
    ("broker.heartbeat.interval.ms", "500"),
];

/// How a Kafka is to be: by default a stock one, except for what makes a small one quick.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    pub(super) listeners: Vec<Listener>,
    pub(super) properties: BTreeMap<String, String>,
    pub(super) format_arguments: Vec<String>,
    pub(super) port: Option<u16>,
    pub(super) home: Option<PathBuf>,
    pub(super) tls: Option<ServerFiles>,
    pub(super) late: Option<Duration>,
}

#[derive(Debug, Clone)]
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) protocol: String,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            listeners: vec![Listener { name: "PLAINTEXT".into(), protocol: "PLAINTEXT".into() }],
            properties: BTreeMap::new(),
            format_arguments: Vec::new(),
            port: None,
            home: None,
            tls: None,
            late: None,
        }
    }
}

impl KafkaConfig {
    /// Sets any property of `server.properties`, also over the launcher's own.
    #[must_use]
    pub fn property(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(key.into(), value.into());
        self
    }

    /// Adds a listener besides the plain one, on a port of its own: its name and its security protocol (`SSL`, `SASL_SSL`...).
    /// What the protocol needs is set by [`property`](Self::property).
    #[must_use]
    pub fn listener(mut self, name: impl Into<String>, protocol: impl Into<String>) -> Self {
        self.listeners.push(Listener { name: name.into(), protocol: protocol.into() });
        self
    }

    /// Adds an argument to the formatting of the data directory, as `--add-scram` with its value.
    #[must_use]
    pub fn format_argument(mut self, argument: impl Into<String>) -> Self {
        self.format_arguments.push(argument.into());
        self
    }

    /// The plain listener's port, instead of any free one; of a cluster's first node.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Adds a listener with TLS, named `SSL`, see [`Kafka::address`](crate::local::Kafka::address). Clients need no
    /// certificate unless `ssl.client.auth` is `required`.
    #[must_use]
    pub fn tls(self, certificates: &Certificates) -> Self {
        Self { tls: Some(certificates.server_files()), ..self.listener("SSL", "SSL") }
    }

    /// Lets the nodes of a cluster, once it is up, learn later of what was decided, as they do when they are busy or far
    /// from one another: all that they say to another one's controller, and hear from it, takes so much longer. So a
    /// topic that was just made is known to some nodes and not to others for about as long. Where that is more than a
    /// few tenths of a second the nodes take each other for dead.
    #[must_use]
    pub fn late(mut self, by: Duration) -> Self {
        self.late = Some(by);
        self
    }

    /// Keeps everything in this directory, emptied first (of a cluster in a folder for each node), and lets the broker
    /// outlive this process once it is [detached](crate::local::LocalBroker::detach).
    #[must_use]
    pub fn home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = Some(home.into());
        self
    }
}

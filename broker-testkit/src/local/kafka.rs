//! Apache Kafka as a local process: one node, broker and controller in one, without ZooKeeper.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Deref;
use std::path::PathBuf;

use tokio::process::Command;

use super::dir::InstanceDir;
use super::handshake::{Greeting, Protocol};
use super::launch::Launch;
use super::lifecycle::Readiness;
use super::port::Port;
use super::tool::run_tool;
use super::{Installation, LocalBroker, LocalError};

/// Enough for a test's load, and little enough for several brokers on one small machine.
const JVM: &[&str] =
    &["-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"];

/// Without it Kafka logs nothing, not even that it is up.
const LOGGING: &str = "\
appenders = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
";

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
    listeners: Vec<Listener>,
    properties: BTreeMap<String, String>,
    format_arguments: Vec<String>,
    port: Option<u16>,
    home: Option<PathBuf>,
}

#[derive(Debug, Clone)]
struct Listener {
    name: String,
    protocol: String,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            listeners: vec![Listener { name: "PLAINTEXT".into(), protocol: "PLAINTEXT".into() }],
            properties: SMALL.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            format_arguments: Vec::new(),
            port: None,
            home: None,
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

    /// The plain listener's port, instead of any free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Keeps everything in this directory (emptied first), and lets the broker outlive this process once it is
    /// [detached](LocalBroker::detach).
    #[must_use]
    pub fn home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = Some(home.into());
        self
    }
}

/// A running Kafka; its life is steered by the methods of [`LocalBroker`].
#[derive(Debug)]
pub struct Kafka {
    broker: LocalBroker,
    /// By the listener's name.
    addresses: BTreeMap<String, String>,
    cluster_id: String,
}

impl Kafka {
    /// Starts one, and returns when it answers.
    pub async fn start(config: KafkaConfig) -> Result<Self, LocalError> {
        let node = Node::reserve(config)?;
        let voters = node.voter();
        // Twenty-two characters of base64, the last of which holds four bits only.
        let cluster_id = format!("{}A", &uuid::Uuid::now_v7().simple().to_string()[11..]);
        node.start(&voters, cluster_id).await
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
}

impl Deref for Kafka {
    type Target = LocalBroker;

    fn deref(&self) -> &LocalBroker {
        &self.broker
    }
}

/// A node that has its ports and its directory, but does not run yet: those of a cluster must know of each other first.
struct Node {
    config: KafkaConfig,
    id: u32,
    listeners: Vec<(Listener, Port)>,
    controller: Port,
    dir: InstanceDir,
}

impl Node {
    fn reserve(config: KafkaConfig) -> Result<Self, LocalError> {
        let dir = match &config.home {
            Some(home) => InstanceDir::kept(home.clone())?,
            None => InstanceDir::temporary("kafka")?,
        };
        let mut listeners = Vec::new();
        for listener in &config.listeners {
            // The port asked for is the plain listener's, which is the first.
            let asked = config.port.filter(|_| listeners.is_empty());
            listeners.push((listener.clone(), asked.map_or_else(Port::any, Port::exactly)?));
        }
        Ok(Self { id: 1, listeners, controller: Port::any()?, dir, config })
    }

    /// This node's part of `controller.quorum.voters`.
    fn voter(&self) -> String {
        format!("{}@{}", self.id, address(&self.controller))
    }

    async fn start(self, voters: &str, cluster_id: String) -> Result<Kafka, LocalError> {
        let installation = Installation::find()?;
        let (class_path, version) = installation.kafka()?;
        let java = installation.java()?;
        let properties = self.dir.write("server.properties", self.properties(voters))?;
        let logging = self.dir.write("log4j2.properties", LOGGING)?;
        let mut arguments: Vec<OsString> = JVM.iter().map(Into::into).collect();
        arguments.push(format!("-Dlog4j2.configurationFile={}", logging.display()).into());
        arguments.extend(["-cp".into(), class_path.into()]);

        let mut format = Command::new(&java);
        format.args(&arguments).args([
            "kafka.tools.StorageTool",
            "format",
            "-t",
            &cluster_id,
            "-c",
        ]);
        format.arg(&properties).args(&self.config.format_arguments);
        run_tool("kafka.tools.StorageTool format", format).await?;

        arguments.extend(["kafka.Kafka".into(), properties.into()]);
        let outlives = self.config.home.is_some();
        let launch = Launch {
            program: java,
            arguments,
            environment: Vec::new(),
            contained: false,
            outlives,
        };
        let greeting = self
            .listeners
            .first()
            .map(|(_, port)| Greeting { protocol: Protocol::Kafka, port: port.number() });
        let readiness = Readiness { line: "Kafka Server started", greeting };
        let addresses = self
            .listeners
            .iter()
            .map(|(listener, port)| (listener.name.clone(), address(port)))
            .collect();
        let ports =
            self.listeners.into_iter().map(|(_, port)| port).chain([self.controller]).collect();
        let broker =
            LocalBroker::start(format!("Kafka {version}"), launch, readiness, self.dir, ports)
                .await?;
        Ok(Kafka { broker, addresses, cluster_id })
    }

    /// The content of `server.properties`: what is asked for wins over the launcher's own.
    fn properties(&self, voters: &str) -> String {
        let each = |show: &dyn Fn(&Listener, &Port) -> String| {
            self.listeners
                .iter()
                .map(|(listener, port)| show(listener, port))
                .collect::<Vec<_>>()
                .join(",")
        };
        let advertised = each(&|listener, port| format!("{}://{}", listener.name, address(port)));
        let protocols = each(&|listener, _| format!("{}:{}", listener.name, listener.protocol));
        let own = [
            ("process.roles", "broker,controller".into()),
            ("node.id", self.id.to_string()),
            ("controller.quorum.voters", voters.into()),
            ("controller.listener.names", "CONTROLLER".into()),
            ("listeners", format!("{advertised},CONTROLLER://{}", address(&self.controller))),
            ("advertised.listeners", advertised),
            ("listener.security.protocol.map", format!("{protocols},CONTROLLER:PLAINTEXT")),
            ("log.dirs", self.dir.path().join("data").display().to_string()),
        ];
        let mut properties: BTreeMap<&str, &str> =
            own.iter().map(|(key, value)| (*key, value.as_str())).collect();
        properties.extend(
            self.config.properties.iter().map(|(key, value)| (key.as_str(), value.as_str())),
        );
        properties.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
    }
}

fn address(port: &Port) -> String {
    format!("127.0.0.1:{}", port.number())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_given_win_over_the_launchers_own() {
        let config = KafkaConfig::default().listener("SECURE", "SSL").property("node.id", "7");
        let node = Node::reserve(config).unwrap();
        let text = node.properties(&node.voter());
        assert!(text.contains("\nnode.id=7\n"), "{text}");
        assert!(text.contains("PLAINTEXT:PLAINTEXT,SECURE:SSL,CONTROLLER:PLAINTEXT"), "{text}");
        assert!(
            text.contains(&format!("SECURE://127.0.0.1:{}", node.listeners[1].1.number())),
            "{text}"
        );
    }
}

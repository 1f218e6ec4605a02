//! One node, with its ports, its directory and its properties.

use std::collections::BTreeMap;
use std::ffi::OsString;

use tokio::process::Command;

use super::config::{KafkaConfig, Listener, SMALL};
use super::{JVM, Kafka};
use crate::local::dir::InstanceDir;
use crate::local::handshake::{Greeting, Protocol};
use crate::local::launch::Launch;
use crate::local::lifecycle::Readiness;
use crate::local::port::Port;
use crate::local::tool::run_tool;
use crate::local::{Installation, LocalBroker, LocalError};
use crate::proxy::Proxy;

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

/// A node that has its ports and its directory, but does not run yet: those of a cluster must know of each other first.
pub(super) struct Node {
    config: KafkaConfig,
    id: u32,
    /// What a cluster needs otherwise than a single node.
    replication: Vec<(&'static str, String)>,
    listeners: Vec<(Listener, Port)>,
    controller: Port,
    /// By which the others reach the controller, where that is to take longer.
    proxy: Option<Proxy>,
    dir: InstanceDir,
}

impl Node {
    pub(super) fn reserve(
        config: KafkaConfig,
        id: u32,
        replication: Vec<(&'static str, String)>,
    ) -> Result<Self, LocalError> {
        let dir = match &config.home {
            Some(home) => InstanceDir::kept(home.clone())?,
            None => InstanceDir::temporary("kafka")?,
        };
        if let Some(tls) = &config.tls {
            tls.copy_to(&dir)?;
        }
        let mut listeners = Vec::new();
        for listener in &config.listeners {
            // The port asked for is the plain listener's, which is the first.
            let asked = config.port.filter(|_| listeners.is_empty());
            listeners.push((listener.clone(), asked.map_or_else(Port::any, Port::exactly)?));
        }
        let controller = Port::any()?;
        Ok(Self { id, replication, listeners, controller, proxy: None, dir, config })
    }

    /// Has the others reach its controller by a proxy.
    pub(super) async fn put_behind_proxy(&mut self) -> Result<(), LocalError> {
        let proxy = Proxy::start().await.map_err(LocalError::io("start a proxy"))?;
        proxy.forward_to(address(&self.controller));
        self.proxy = Some(proxy);
        Ok(())
    }

    /// This node's part of `controller.quorum.voters`.
    pub(super) fn voter(&self) -> String {
        format!("{}@{}", self.id, self.controller_address())
    }

    /// Where the others reach its controller.
    fn controller_address(&self) -> String {
        self.proxy.as_ref().map_or_else(|| address(&self.controller), Proxy::address)
    }

    pub(super) async fn start(self, voters: &str, cluster_id: String) -> Result<Kafka, LocalError> {
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
        Ok(Kafka { broker, addresses, cluster_id, node_id: self.id, proxy: self.proxy })
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
        let reached = match &self.proxy {
            Some(proxy) => format!("{advertised},CONTROLLER://{}", proxy.address()),
            None => advertised.clone(),
        };
        let protocols = each(&|listener, _| format!("{}:{}", listener.name, listener.protocol));
        let own = [
            ("process.roles", "broker,controller".into()),
            ("node.id", self.id.to_string()),
            ("controller.quorum.voters", voters.into()),
            ("controller.listener.names", "CONTROLLER".into()),
            ("listeners", format!("{advertised},CONTROLLER://{}", address(&self.controller))),
            ("advertised.listeners", reached),
            ("listener.security.protocol.map", format!("{protocols},CONTROLLER:PLAINTEXT")),
            ("log.dirs", self.dir.path().join("data").display().to_string()),
        ];
        let mut properties: BTreeMap<&str, &str> = SMALL.iter().copied().collect();
        let tls = self.config.tls.iter().flat_map(|_| self.tls()).collect::<Vec<_>>();
        let own = own.iter().chain(&self.replication).chain(&tls);
        properties.extend(own.map(|(key, value)| (*key, value.as_str())));
        properties.extend(
            self.config.properties.iter().map(|(key, value)| (key.as_str(), value.as_str())),
        );
        properties.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
    }

    fn tls(&self) -> [(&'static str, String); 4] {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        [
            ("ssl.keystore.type", "PEM".into()),
            ("ssl.keystore.location", file("server.both.pem")),
            ("ssl.truststore.type", "PEM".into()),
            ("ssl.truststore.location", file("ca.pem")),
        ]
    }
}

/// That many copies of everything, of which a majority has to be in sync.
pub(super) fn replication(copies: u32) -> Vec<(&'static str, String)> {
    let copied = [
        "default.replication.factor",
        "offsets.topic.replication.factor",
        "transaction.state.log.replication.factor",
        "share.coordinator.state.topic.replication.factor",
    ];
    let in_sync = [
        "min.insync.replicas",
        "transaction.state.log.min.isr",
        "share.coordinator.state.topic.min.isr",
    ];
    let copied = copied.map(|key| (key, copies.to_string()));
    copied.into_iter().chain(in_sync.map(|key| (key, (copies / 2 + 1).to_string()))).collect()
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
        let node = Node::reserve(config, 1, Vec::new()).unwrap();
        let text = node.properties(&node.voter());
        assert!(text.contains("\nnode.id=7\n"), "{text}");
        assert!(text.contains("\noffsets.topic.replication.factor=1\n"), "{text}");
        assert!(text.contains("PLAINTEXT:PLAINTEXT,SECURE:SSL,CONTROLLER:PLAINTEXT"), "{text}");
        assert!(
            text.contains(&format!("SECURE://127.0.0.1:{}", node.listeners[1].1.number())),
            "{text}"
        );
    }

    #[test]
    fn a_cluster_keeps_copies_of_which_a_majority_is_in_sync() {
        let config = KafkaConfig::default().property("min.insync.replicas", "1");
        let node = Node::reserve(config, 2, replication(3)).unwrap();
        let text = node.properties(&node.voter());
        for line in
            ["node.id=2", "offsets.topic.replication.factor=3", "transaction.state.log.min.isr=2"]
        {
            assert!(text.contains(&format!("\n{line}\n")), "no {line}: {text}");
        }
        assert!(text.contains("\nmin.insync.replicas=1\n"), "what is asked for wins: {text}");
    }
}

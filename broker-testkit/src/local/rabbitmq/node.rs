//! One node, with its ports, its directory and its settings; and what makes nodes a cluster.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use super::{Container, RabbitMq, RabbitMqConfig};
use crate::local::dir::InstanceDir;
use crate::local::handshake::{Greeting, Protocol};
use crate::local::lifecycle::Readiness;
use crate::local::port::Port;
use crate::local::{LocalBroker, LocalError};

const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
pub(super) const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";
/// Where Erlang keeps the secret between nodes and their tools; a node makes one if there is none.
const COOKIE: &str = ".erlang.cookie";

/// What the node and its tools must agree on.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) node: String,
    /// The port of the epmd, the daemon by which Erlang nodes find one another.
    epmd: u16,
}

impl Names {
    pub(super) fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("PATH", SYSTEM_PATH.into()),
            ("LANG", "C.UTF-8".into()),
            // Where the cookie is.
            ("HOME", "/instance".into()),
            ("ERL_EPMD_PORT", self.epmd.to_string().into()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
            ("RABBITMQ_NODENAME", self.node.as_str().into()),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".into()),
        ]
    }
}

/// What the nodes of a cluster have in common.
pub(super) struct Membership {
    cookie: String,
    epmd_port: u16,
    /// In a container of its own, because in that of a node it would end with the node.
    epmd: Arc<LocalBroker>,
}

impl Membership {
    pub(super) async fn start(config: &RabbitMqConfig) -> Result<Self, LocalError> {
        let dir = InstanceDir::temporary("epmd")?;
        let port = Port::any()?;
        let epmd_port = port.number();
        let number = epmd_port.to_string();
        let program = ["epmd", "-debug", "-address", "127.0.0.1", "-port", &number];
        let environment = vec![("PATH", SYSTEM_PATH.into())];
        let outlives = config.home.is_some();
        let launch =
            Container::of(config.version)?.launch(dir.path(), &program, environment, outlives);
        let readiness = Readiness { line: "epmd running", greeting: None };
        let epmd = LocalBroker::start("epmd".into(), launch, readiness, dir, vec![port]).await?;
        let cookie = uuid::Uuid::now_v7().simple().to_string();
        Ok(Self { cookie, epmd_port, epmd: Arc::new(epmd) })
    }
}

/// A node that has its ports and its directory, but does not run yet.
pub(super) struct Node {
    container: Container,
    amqp: Port,
    /// The others are for Erlang.
    ports: Vec<Port>,
    names: Names,
    epmd: Option<Arc<LocalBroker>>,
    outlives: bool,
    tls_port: Option<u16>,
    dir: InstanceDir,
}

impl Node {
    /// Alone, with an epmd of its own which ends with it; or with this number in a cluster.
    pub(super) fn reserve(
        config: RabbitMqConfig,
        member: Option<(&Membership, u32)>,
    ) -> Result<Self, LocalError> {
        let container = Container::of(config.version)?;
        let dir = match &config.home {
            Some(home) => InstanceDir::kept(home.clone())?,
            None => InstanceDir::temporary("rabbitmq")?,
        };
        let amqp = config.port.map_or_else(Port::any, Port::exactly)?;
        let mut ports = vec![Port::any()?];
        let mut settings: Vec<String> =
            config.settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let mut tls_port = None;
        if let Some(tls) = &config.tls {
            tls.copy_to(&dir)?;
            let port = Port::any()?;
            // First, so that what is asked for comes after it.
            settings.insert(0, tls_settings(port.number()));
            tls_port = Some(port.number());
            ports.push(port);
        }
        let names = match member {
            None => {
                let epmd = Port::any()?;
                let names = Names { node: "rabbit@localhost".into(), epmd: epmd.number() };
                ports.push(epmd);
                names
            }
            Some((membership, number)) => {
                let cookie = dir.write(COOKIE, &membership.cookie)?;
                fs::set_permissions(&cookie, Permissions::from_mode(0o400))
                    .map_err(LocalError::writing(&cookie))?;
                // The first has nobody to join.
                if number > 1 {
                    settings.push(
                        "cluster_formation.peer_discovery_backend = classic_config\n\
                         cluster_formation.classic_config.nodes.1 = rabbit1@localhost\n"
                            .into(),
                    );
                }
                Names { node: format!("rabbit{number}@localhost"), epmd: membership.epmd_port }
            }
        };
        dir.write("rabbitmq.conf", settings.concat())?;
        dir.write("enabled_plugins", format!("[{}].\n", config.plugins.join(",")))?;
        let epmd = member.map(|(membership, _)| membership.epmd.clone());
        let outlives = config.home.is_some();
        Ok(Self { container, amqp, ports, names, epmd, outlives, tls_port, dir })
    }

    pub(super) async fn start(self) -> Result<RabbitMq, LocalError> {
        let server = format!("{SCRIPTS}/rabbitmq-server");
        let environment = self.environment();
        let launch = self.container.launch(self.dir.path(), &[&server], environment, self.outlives);
        let port = self.amqp.number();
        let greeting = Greeting { protocol: Protocol::Amqp, port };
        // The banner's line, written right before or after "Server startup complete": that one goes through Erlang's
        // logger, which drops lines while there are many, as after a kill with many queues.
        let readiness = Readiness { line: " completed with ", greeting: Some(greeting) };
        let name = format!("RabbitMQ {}", self.container.version);
        let ports = [self.amqp].into_iter().chain(self.ports).collect();
        let broker = LocalBroker::start(name, launch, readiness, self.dir, ports).await?;
        Ok(RabbitMq { broker, port, tls_port: self.tls_port, names: self.names, _epmd: self.epmd })
    }

    fn environment(&self) -> Vec<(&'static str, OsString)> {
        // Threads that spin while idle cost the tests more than they give; and nobody outside is to reach the node.
        let erlang =
            "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}";
        let distribution = self.ports.first().map(|port| port.number().to_string());
        let mut environment = self.names.environment();
        environment.extend([
            // Makes the script become the node, instead of watching it from a process more.
            ("RUNNING_UNDER_SYSTEMD", "true".into()),
            ("RABBITMQ_LOGS", "-".into()),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".into()),
            ("RABBITMQ_NODE_PORT", self.amqp.number().to_string().into()),
            ("RABBITMQ_DIST_PORT", distribution.unwrap_or_default().into()),
            ("RABBITMQ_MNESIA_BASE", "/instance/data".into()),
            ("RABBITMQ_LOG_BASE", "/instance".into()),
            ("RABBITMQ_CONFIG_FILE", "/instance/rabbitmq.conf".into()),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "/instance/enabled_plugins".into()),
            ("RABBITMQ_PID_FILE", "/instance/pid".into()),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang.into()),
        ]);
        environment
    }
}

fn tls_settings(port: u16) -> String {
    format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\n\
         ssl_options.cacertfile = /instance/ca.pem\n\
         ssl_options.certfile = /instance/server.pem\n\
         ssl_options.keyfile = /instance/server.key\n\
         ssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = false\n"
    )
}

//! RabbitMQ as local processes, in a small Debian system of its own.
//!
//! Every node lives in namespaces of its own: that Debian is its file system, its directory is mounted there as `/instance`,
//! and it has its own epmd (the daemon by which Erlang nodes find one another), which therefore ends with it.

use std::ffi::OsString;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::dir::InstanceDir;
use super::handshake::{Greeting, Protocol};
use super::launch::Launch;
use super::lifecycle::Readiness;
use super::port::Port;
use super::tool::run_tool;
use super::{Installation, LocalBroker, LocalError};

/// Run in new namespaces with the root, the instance's directory and the program to run in there.
/// What is mounted here nobody else sees, and it is gone with the last process.
const ENTER: &str = r#"
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
mount --bind "$2" "$1/instance"
exec chroot "$1" "$3""#;

const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

/// Which RabbitMQ to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RabbitMqVersion {
    /// 3.10, the oldest that is supported.
    V3,
    /// 4.0 or later.
    #[default]
    V4,
}

/// How a RabbitMQ is to be: by default a stock one of version 4 without plugins.
#[derive(Debug, Clone, Default)]
pub struct RabbitMqConfig {
    version: RabbitMqVersion,
    settings: Vec<(String, String)>,
    plugins: Vec<String>,
    port: Option<u16>,
    home: Option<PathBuf>,
}

impl RabbitMqConfig {
    /// Of this version.
    pub fn version(version: RabbitMqVersion) -> Self {
        Self { version, ..Self::default() }
    }

    /// Adds a line to `rabbitmq.conf`. Files it names are seen from inside: those of [`LocalBroker::dir`] under `/instance`.
    #[must_use]
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((key.into(), value.into()));
        self
    }

    /// Enables a plugin. One that listens needs its port set, or two brokers get into each other's way.
    #[must_use]
    pub fn plugin(mut self, plugin: impl Into<String>) -> Self {
        self.plugins.push(plugin.into());
        self
    }

    /// The port for clients, instead of any free one.
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

/// A running RabbitMQ node; its life is steered by the methods of [`LocalBroker`].
#[derive(Debug)]
pub struct RabbitMq {
    broker: LocalBroker,
    port: u16,
    epmd: u16,
}

impl RabbitMq {
    /// Starts one, and returns when it answers.
    pub async fn start(config: RabbitMqConfig) -> Result<Self, LocalError> {
        let folder = match config.version {
            RabbitMqVersion::V3 => "rabbitmq-3",
            RabbitMqVersion::V4 => "rabbitmq-4",
        };
        let (root, version) = Installation::find()?.rabbitmq(folder)?;
        let outlives = config.home.is_some();
        let dir = match &config.home {
            Some(home) => InstanceDir::kept(home.clone())?,
            None => InstanceDir::temporary("rabbitmq")?,
        };
        let amqp = config.port.map_or_else(Port::any, Port::exactly)?;
        let (distribution, epmd) = (Port::any()?, Port::any()?);
        let settings = config.settings.iter().map(|(key, value)| format!("{key} = {value}\n"));
        dir.write("rabbitmq.conf", settings.collect::<String>())?;
        dir.write("enabled_plugins", format!("[{}].\n", config.plugins.join(",")))?;

        let launch = Launch {
            program: "sh".into(),
            arguments: enter(&root, dir.path()),
            environment: environment(&amqp, &distribution, &epmd),
            contained: true,
            outlives,
        };
        let (port, epmd_port) = (amqp.number(), epmd.number());
        let greeting = Greeting { protocol: Protocol::Amqp, port };
        let readiness = Readiness { line: "Server startup complete", greeting: Some(greeting) };
        let ports = vec![amqp, distribution, epmd];
        let broker =
            LocalBroker::start(format!("RabbitMQ {version}"), launch, readiness, dir, ports)
                .await?;
        Ok(Self { broker, port, epmd: epmd_port })
    }

    /// The URL by which its first user reaches its first virtual host.
    pub fn amqp_url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
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
        command.env_clear().envs(tool_environment(self.epmd));
        run_tool(&format!("rabbitmqctl {}", arguments.join(" ")), command).await
    }
}

impl Deref for RabbitMq {
    type Target = LocalBroker;

    fn deref(&self) -> &LocalBroker {
        &self.broker
    }
}

fn enter(root: &Path, dir: &Path) -> Vec<OsString> {
    let server = format!("{SCRIPTS}/rabbitmq-server");
    vec!["-ec".into(), ENTER.into(), "enter".into(), root.into(), dir.into(), server.into()]
}

/// What the node and its tools must agree on.
fn tool_environment(epmd: u16) -> Vec<(&'static str, OsString)> {
    vec![
        ("PATH", SYSTEM_PATH.into()),
        ("LANG", "C.UTF-8".into()),
        // Where Erlang keeps the cookie, the secret between a node and its tools; the node makes one there.
        ("HOME", "/instance".into()),
        ("ERL_EPMD_PORT", epmd.to_string().into()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        ("RABBITMQ_NODENAME", "rabbit@localhost".into()),
        ("RABBITMQ_CONF_ENV_FILE", "/dev/null".into()),
    ]
}

fn environment(amqp: &Port, distribution: &Port, epmd: &Port) -> Vec<(&'static str, OsString)> {
    // Threads that spin while idle cost the tests more than they give; and nobody outside is to reach the node.
    let erlang =
        "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}";
    let mut environment = tool_environment(epmd.number());
    environment.extend([
        // Makes the script become the node, instead of watching it from a process more.
        ("RUNNING_UNDER_SYSTEMD", "true".into()),
        ("RABBITMQ_LOGS", "-".into()),
        ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".into()),
        ("RABBITMQ_NODE_PORT", amqp.number().to_string().into()),
        ("RABBITMQ_DIST_PORT", distribution.number().to_string().into()),
        ("RABBITMQ_MNESIA_BASE", "/instance/data".into()),
        ("RABBITMQ_LOG_BASE", "/instance".into()),
        ("RABBITMQ_CONFIG_FILE", "/instance/rabbitmq.conf".into()),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "/instance/enabled_plugins".into()),
        ("RABBITMQ_PID_FILE", "/instance/pid".into()),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang.into()),
    ]);
    environment
}

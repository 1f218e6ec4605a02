//! How a RabbitMQ is to be.

use std::path::PathBuf;

use crate::local::Certificates;
use crate::local::certificates::ServerFiles;

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
    pub(super) version: RabbitMqVersion,
    pub(super) settings: Vec<(String, String)>,
    pub(super) plugins: Vec<String>,
    pub(super) port: Option<u16>,
    pub(super) home: Option<PathBuf>,
    pub(super) tls: Option<ServerFiles>,
}

impl RabbitMqConfig {
    /// Of this version.
    pub fn version(version: RabbitMqVersion) -> Self {
        Self { version, ..Self::default() }
    }

    /// Adds a line to `rabbitmq.conf`. Files it names are seen from inside: those of [`LocalBroker::dir`](crate::local::LocalBroker::dir) under `/instance`.
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

    /// The port for clients, instead of any free one; of a cluster's first node.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Listens with TLS as well, see [`RabbitMq::amqps_url`](crate::local::RabbitMq::amqps_url). Clients need no
    /// certificate unless `ssl_options.fail_if_no_peer_cert` is `true`.
    #[must_use]
    pub fn tls(mut self, certificates: &Certificates) -> Self {
        self.tls = Some(certificates.server_files());
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

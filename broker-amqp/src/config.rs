//! How to reach RabbitMQ, and how to use it.

use std::fmt;
use std::time::Duration;

use broker_api::{DEFAULT_PARTITIONS, Error, ErrorKind, Result};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};

/// Where RabbitMQ is and how to use it. Only the address has no default.
///
/// `Debug` shows neither the password nor the private key.
#[derive(Clone)]
#[non_exhaustive]
pub struct AmqpConfig {
    /// `amqp://user:password@host:port/vhost`, or `amqps://` for TLS. The virtual host `/` is
    /// written `%2f`.
    pub url: String,
    /// The name of the connections in RabbitMQ's own lists; ` (publish)` and ` (consume)` are added.
    pub connection_name: String,
    /// How long one attempt to connect may take, and [`Amqp::connect`](crate::Amqp::connect) in
    /// all; 10 s.
    pub connect_timeout: Duration,
    /// How long creating, growing and deleting topics and groups may take, waiting for a lost
    /// connection and for others who change the same topic included; 30 s.
    pub operation_timeout: Duration,
    /// How often the two sides show that they are alive, in whole seconds; a silent peer counts as
    /// gone after twice that. 10 s. A `heartbeat` in the URL wins.
    pub heartbeat: Duration,
    /// The longest pause between two attempts to reconnect; 10 s. Pauses start at 0.1 s, double
    /// and have a random part.
    pub reconnect_pause_max: Duration,
    /// Partitions of a topic whose specification says nothing; 6.
    pub default_partitions: u32,
    /// How many messages a reading ([`Backend::read`](broker_api::Backend::read)) asks for ahead,
    /// 1 to 65,535; 500.
    pub read_prefetch: u16,
    /// The stream queue that keeps which topics and groups there are. All who share topics have to
    /// name the same; `anybroker.registry`.
    pub registry: String,
    /// Certificate authorities to trust besides those of the system, in PEM.
    pub ca_pem: Option<String>,
    /// The certificate to show to the broker and its private key (PKCS 8), both in PEM.
    pub client_identity_pem: Option<(String, String)>,
}

impl AmqpConfig {
    /// The defaults at this address.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connection_name: "anybroker".into(),
            connect_timeout: Duration::from_secs(10),
            operation_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(10),
            reconnect_pause_max: Duration::from_secs(10),
            default_partitions: DEFAULT_PARTITIONS,
            read_prefetch: 500,
            registry: "anybroker.registry".into(),
            ca_pem: None,
            client_identity_pem: None,
        }
    }

    /// The address taken apart. The error does not repeat it, because of the password in it.
    pub(crate) fn uri(&self) -> Result<AMQPUri> {
        let invalid = |why: String| Error::new(ErrorKind::Configuration, "connect", why);
        let mut uri: AMQPUri = self.url.parse().map_err(|_| {
            invalid("the URL is malformed; amqp://user:password@host:port/vhost is expected".into())
        })?;
        if uri.vhost.is_empty() {
            let why = "the URL names an empty virtual host; the default one is written /%2f";
            return Err(invalid(why.into()));
        }
        if uri.query.heartbeat.is_none() {
            uri.query.heartbeat = Some(self.heartbeat.as_secs().clamp(1, 600) as u16);
        }
        Ok(uri)
    }

    /// Checks everything that can be checked without a broker.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`], without any secret.
    pub fn check(&self) -> Result<()> {
        self.uri()?;
        let problem = if self.default_partitions == 0 {
            "default_partitions is 0, at least 1 is needed"
        } else if self.read_prefetch == 0 {
            "read_prefetch is 0, at least 1 is needed"
        } else if self.registry.is_empty() || self.registry.len() > 255 {
            "the name of the registry needs 1 to 255 bytes"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Configuration, "connect", problem))
    }

    pub(crate) fn tls(&self) -> OwnedTLSConfig {
        let identity = self.client_identity_pem.as_ref().map(|(certificate, key)| {
            OwnedIdentity::PKCS8 { pem: certificate.clone().into(), key: key.clone().into() }
        });
        OwnedTLSConfig { identity, cert_chain: self.ca_pem.clone() }
    }
}

/// The address without the password, for people.
pub(crate) fn shown(uri: &AMQPUri) -> String {
    let scheme = match uri.scheme {
        AMQPScheme::AMQP => "amqp",
        AMQPScheme::AMQPS => "amqps",
    };
    let vhost = uri.vhost.replace('/', "%2f");
    let (user, host) = (&uri.authority.userinfo.username, &uri.authority.host);
    format!("{scheme}://{user}@{host}:{}/{vhost}", uri.authority.port)
}

impl fmt::Debug for AmqpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.uri().map_or_else(|_| "(malformed)".into(), |uri| shown(&uri));
        f.debug_struct("AmqpConfig")
            .field("url", &url)
            .field("connection_name", &self.connection_name)
            .field("connect_timeout", &self.connect_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .field("heartbeat", &self.heartbeat)
            .field("reconnect_pause_max", &self.reconnect_pause_max)
            .field("default_partitions", &self.default_partitions)
            .field("read_prefetch", &self.read_prefetch)
            .field("registry", &self.registry)
            .field("ca_pem", &self.ca_pem.is_some())
            .field("client_identity_pem", &self.client_identity_pem.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_address_but_no_secret() {
        let mut config = AmqpConfig::new("amqp://app:s3cret@broker:5671/orders?heartbeat=5");
        config.client_identity_pem = Some(("certificate".into(), "k3y".into()));
        let shown = format!("{config:?}");
        assert!(shown.contains("amqp://app@broker:5671/orders"), "{shown}");
        assert!(!shown.contains("s3cret") && !shown.contains("k3y"), "{shown}");
    }

    #[test]
    fn a_malformed_url_is_an_error_that_does_not_repeat_it() {
        for url in ["", "s3cret", "http://u:s3cret@h/", "amqp://u:s3cret@h:port/", "amqp://h/"] {
            let error = AmqpConfig::new(url).uri().expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn a_heartbeat_in_the_url_wins() {
        let config = AmqpConfig::new("amqp://h/%2f?heartbeat=5");
        assert_eq!(config.uri().unwrap().query.heartbeat, Some(5));
        assert_eq!(AmqpConfig::new("amqp://h").uri().unwrap().query.heartbeat, Some(10));
    }
}

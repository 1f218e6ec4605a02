//! What the application says about its Kafka cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How to reach a Kafka cluster, and how to behave there.
///
/// `Debug` shows no secret: of passwords and of [`KafkaConfig::properties`] only that they are set.
///
/// ```
/// use broker_kafka::{GroupProtocol, KafkaConfig};
///
/// let config = KafkaConfig {
///     client_id: "billing".into(),
///     group_protocol: GroupProtocol::Consumer,
///     ..KafkaConfig::new("kafka-1:9092,kafka-2:9092")
/// };
/// assert!(config.check().is_ok());
/// ```
#[derive(Clone)]
pub struct KafkaConfig {
    /// Some brokers of the cluster, `host:port` separated by commas; the others are found by them.
    pub brokers: String,
    /// How the brokers' logs and quotas name this application; `anybroker` unless set.
    pub client_id: String,
    /// The user, where the cluster asks for one.
    pub sasl: Option<Sasl>,
    /// Whether to encrypt, where it does not follow from `sasl` and `tls`.
    pub security_protocol: Option<SecurityProtocol>,
    /// Certificates, where the system's are not the right ones. Setting it turns encryption on.
    pub tls: Option<Tls>,
    /// Which protocol consumer groups use.
    pub group_protocol: GroupProtocol,
    /// After what silence a group takes a member for dead; 45 s unless set. Only with
    /// [`GroupProtocol::Classic`]: otherwise it is a setting of the broker.
    pub session_timeout: Option<Duration>,
    /// How often a member says that it is there, at most a third of the session timeout; 3 s
    /// unless set. Only with [`GroupProtocol::Classic`].
    pub heartbeat_interval: Option<Duration>,
    /// How long to wait for the first answer of a broker; 10 s unless set.
    pub connect_timeout: Duration,
    /// How long a member that has to give a partition up waits for its messages in flight to be
    /// settled; 10 s unless set. What is not settled by then is handled again by the next owner.
    /// It has to be well below librdkafka's `max.poll.interval.ms`.
    pub revoke_timeout: Duration,
    /// Any property of librdkafka by its name. They win over the defaults of this crate; those on
    /// which its promises rest, and those that have a field here, are refused.
    pub properties: BTreeMap<String, String>,
}

impl KafkaConfig {
    /// A cluster without encryption and users, with the defaults.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            client_id: "anybroker".into(),
            sasl: None,
            security_protocol: None,
            tls: None,
            group_protocol: GroupProtocol::Classic,
            session_timeout: None,
            heartbeat_interval: None,
            connect_timeout: Duration::from_secs(10),
            revoke_timeout: Duration::from_secs(10),
            properties: BTreeMap::new(),
        }
    }

    /// Sets a property of librdkafka.
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A property may hold a secret (`ssl.key.pem`), and which do changes with librdkafka.
        let properties: Vec<_> = self.properties.keys().collect();
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("client_id", &self.client_id)
            .field("sasl", &self.sasl)
            .field("security_protocol", &self.security_protocol)
            .field("tls", &self.tls)
            .field("group_protocol", &self.group_protocol)
            .field("session_timeout", &self.session_timeout)
            .field("heartbeat_interval", &self.heartbeat_interval)
            .field("connect_timeout", &self.connect_timeout)
            .field("revoke_timeout", &self.revoke_timeout)
            .field("properties", &properties)
            .finish()
    }
}

/// The protocol of consumer groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GroupProtocol {
    /// The one that every broker speaks.
    #[default]
    Classic,
    /// The one of KIP-848 (`group.protocol=consumer`), from Kafka 4.0 on.
    Consumer,
}

/// Whether the connection is encrypted and has a user: Kafka's `security.protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityProtocol {
    /// Neither.
    Plaintext,
    /// Encrypted, without a user.
    Ssl,
    /// A user, not encrypted.
    SaslPlaintext,
    /// Both.
    SaslSsl,
}

impl SecurityProtocol {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }

    pub(crate) const fn has_user(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// A user and how it is proved.
#[derive(Clone, Default)]
pub struct Sasl {
    /// The mechanism: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`, `OAUTHBEARER`, or what else
    /// librdkafka was built with.
    pub mechanism: String,
    /// The user's name; empty for a mechanism whose users are told by properties of librdkafka.
    pub username: String,
    /// The user's password; likewise.
    pub password: String,
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sasl")
            .field("mechanism", &self.mechanism)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Files for an encrypted connection, all in PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// The authorities to trust; the system's where `None`.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, where the cluster asks for one.
    pub certificate_file: Option<PathBuf>,
    /// The key of that certificate.
    pub key_file: Option<PathBuf>,
    /// The password of that key.
    pub key_password: Option<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca_file", &self.ca_file)
            .field("certificate_file", &self.certificate_file)
            .field("key_file", &self.key_file)
            .field("key_password_is_set", &self.key_password.is_some())
            .finish()
    }
}

//! Every setting there is: the one place that names them, for reading, for errors and for the docs.

/// One setting.
#[derive(Debug)]
pub(crate) struct Key {
    /// The environment variable.
    pub(crate) variable: &'static str,
    /// The key in a file: `section.name`, or only the name at the top.
    pub(crate) file: &'static str,
    /// What its value is.
    pub(crate) kind: Kind,
    /// What holds where it is left out, as the docs say it.
    pub(crate) default: &'static str,
    /// What it does.
    pub(crate) about: &'static str,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
    /// `true`, `false`, `1` or `0`.
    Bool,
    /// A whole number of milliseconds.
    Millis,
    /// A whole number.
    Number,
    /// A whole number of bytes.
    Bytes,
    /// Addresses with commas between them.
    Addresses,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The path of a file.
    Path,
    /// `pattern=broker` pairs with commas between them; in a file a table.
    Routes,
    /// Any number of variables that begin with the name; in a file a table.
    Properties,
}

impl Kind {
    /// For the docs.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Secret => "secret".into(),
            Self::Bool => "true or false".into(),
            Self::Millis => "milliseconds".into(),
            Self::Number => "number".into(),
            Self::Bytes => "bytes".into(),
            Self::Addresses => "host:port,…".into(),
            Self::Choice(words) => words.join(", "),
            Self::Path => "file path".into(),
            Self::Routes => "pattern=broker,…".into(),
            Self::Properties => "any".into(),
        }
    }
}

/// Declares the keys as constants, and the list of them all.
macro_rules! keys {
    ($($name:ident, $file:literal, $kind:expr, $default:literal, $about:literal;)*) => {
        $(pub(crate) const $name: &Key = &Key {
            variable: stringify!($name), file: $file, kind: $kind, default: $default, about: $about,
        };)*
        /// All of them, in the order of the docs.
        pub(crate) const ALL: &[&Key] = &[$($name),*];
    };
}

use Kind::{
    Addresses, Bool, Bytes, Choice, Millis, Number, Path, Properties, Routes, Secret, Text,
};

/// The words for a broker.
pub(crate) const BROKERS: &[&str] = &["kafka", "rabbitmq", "amqp", "memory"];

keys! {
    BROKER, "broker", Choice(BROKERS), "see above",
        "Which broker to use. `amqp` is another word for `rabbitmq`; `memory` is the embedded broker, which ends with the process.";
    BROKER_CONFIG, "", Path, "none",
        "A TOML file with settings. A variable that is set as well wins over the file.";
    BROKER_ROUTES, "routes", Routes, "none",
        "Topics that live on another broker than the others, for example `credits_*=rabbitmq,feature_usage_topic=kafka`. The name of a topic also stands for the names made from it (`name.…`: its retry and dead-letter topics); the longest pattern that fits decides.";
    BROKER_PUBLISH_TIMEOUT, "publish_timeout", Millis, "30000",
        "How long a publish may take in all, waiting for room and for the connection included.";
    BROKER_PUBLISH_BUFFER, "publish_buffer", Bytes, "67108864",
        "How much may be published and not confirmed yet; publishers wait beyond that.";
    BROKER_STUCK_AFTER, "stuck_after", Millis, "600000",
        "How long a message may be in the hands of a consumer before health says that the consumer is lost.";
    BROKER_DRAIN_TIMEOUT, "drain_timeout", Millis, "30000",
        "How long closing the broker waits for consumers to finish what they are handling.";
    BROKER_SCHEDULED, "scheduled", Text, "scheduled",
        "What the names of the topics begin with in which messages wait that are to be delivered later, at most 60 bytes. Applications that share a broker, but not their permissions, need different ones.";

    KAFKA_ENABLED, "kafka.enabled", Bool, "not set",
        "`true` chooses Kafka where `BROKER` is not set; `false` keeps Kafka from being used.";
    KAFKA_BROKERS, "kafka.brokers", Addresses, "none; needed",
        "The brokers to begin with; the others are found through them.";
    KAFKA_CLIENT_ID, "kafka.client_id", Text, "anybroker",
        "The name under which the broker's logs and quotas know this application.";
    KAFKA_GROUP_ID, "kafka.group_id", Text, "none",
        "The group for consumers to which the application gives none of their own: `Config::group_id`. It is used on every broker.";
    KAFKA_GROUP_PROTOCOL, "kafka.group_protocol", Choice(&["classic", "consumer"]), "classic",
        "How groups share partitions; `consumer` is KIP-848, for Kafka 4.0 and newer.";
    KAFKA_SESSION_TIMEOUT, "kafka.session_timeout", Millis, "45000",
        "How long a member may be silent before its partitions go to others. Only with the protocol `classic`.";
    KAFKA_HEARTBEAT_INTERVAL, "kafka.heartbeat_interval", Millis, "3000",
        "How often a member says that it is alive; below the session timeout, a third of it at most is good. Only with the protocol `classic`.";
    KAFKA_CONNECT_TIMEOUT, "kafka.connect_timeout", Millis, "10000",
        "How long the first connection may take before connecting fails.";
    KAFKA_REVOKE_TIMEOUT, "kafka.revoke_timeout", Millis, "10000",
        "How long a member that has to give a partition up waits for its messages in flight to be handled. What is not handled by then is handled again by the next owner.";
    KAFKA_SSL, "kafka.ssl", Bool, "false",
        "Whether to connect by TLS. The same as the security protocol `ssl`, or `sasl_ssl` with a SASL mechanism.";
    KAFKA_SECURITY_PROTOCOL, "kafka.security_protocol", Choice(&["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]), "by the other settings",
        "The same as Kafka's own `security.protocol`.";
    KAFKA_SASL_MECHANISM, "kafka.sasl_mechanism", Choice(&["plain", "scram-sha-256", "scram-sha-512", "oauthbearer", "gssapi"]), "plain with a username",
        "How to log in. `oauthbearer` and `gssapi` take no username and password but librdkafka's own properties, `KAFKA_PROPERTIES_SASL_OAUTHBEARER_…` and `KAFKA_PROPERTIES_SASL_KERBEROS_…`; `gssapi`, and tokens that are fetched by OIDC, need the features of that name of `broker-kafka`.";
    KAFKA_SASL_USERNAME, "kafka.sasl_username", Text, "none",
        "Who logs in.";
    KAFKA_SASL_PASSWORD, "kafka.sasl_password", Secret, "none",
        "The password.";
    KAFKA_SSL_CA_LOCATION, "kafka.ssl_ca_location", Path, "the system's",
        "The certificates of the authorities to trust, in PEM.";
    KAFKA_SSL_CERTIFICATE_LOCATION, "kafka.ssl_certificate_location", Path, "none",
        "The client's own certificate, in PEM.";
    KAFKA_SSL_KEY_LOCATION, "kafka.ssl_key_location", Path, "none",
        "The key of the client's certificate, in PEM.";
    KAFKA_SSL_KEY_PASSWORD, "kafka.ssl_key_password", Secret, "none",
        "The password of that key.";
    KAFKA_PROPERTIES_, "kafka.properties", Properties, "none",
        "Any property of librdkafka: `KAFKA_PROPERTIES_QUEUED_MIN_MESSAGES` is its `queued.min.messages`. In a file the table `[kafka.properties]` with librdkafka's names in quotes. Those that anybroker needs for its promises cannot be set.";

    RABBITMQ_URL, "rabbitmq.url", Secret, "none; needed",
        "Where and as whom to connect: `amqp://user:password@host:5672/vhost`. The default vhost `/` is written `%2f`, or left out.";
    RABBITMQ_CONNECT_TIMEOUT, "rabbitmq.connect_timeout", Millis, "10000",
        "How long the first connection may take before connecting fails.";
    RABBITMQ_HEARTBEAT, "rabbitmq.heartbeat", Millis, "10000",
        "How often both sides say that they are alive, in whole seconds. A connection that is silent twice as long is given up.";
    RABBITMQ_CONNECTION_NAME, "rabbitmq.connection_name", Text, "anybroker",
        "The name under which the broker's logs and its management show the connections.";
    RABBITMQ_OPERATION_TIMEOUT, "rabbitmq.operation_timeout", Millis, "30000",
        "How long creating, changing and deleting topics and groups may take.";
    RABBITMQ_RECONNECT_PAUSE, "rabbitmq.reconnect_pause", Millis, "10000",
        "The longest pause between two attempts to connect again. Pauses start at 100 ms and double.";
    RABBITMQ_DEFAULT_PARTITIONS, "rabbitmq.default_partitions", Number, "6",
        "Partitions of a topic whose specification says nothing. Each is a queue for every group.";
    RABBITMQ_READ_PREFETCH, "rabbitmq.read_prefetch", Number, "500",
        "How many messages a reading without a group asks for ahead, at most 65535.";
    RABBITMQ_REGISTRY, "rabbitmq.registry", Text, "anybroker.registry",
        "The stream that keeps which topics and groups there are. All who share topics have to name the same.";
    RABBITMQ_SSL_CA_LOCATION, "rabbitmq.ssl_ca_location", Path, "the system's",
        "Certificates of authorities to trust besides the system's, in PEM. For a URL that begins with `amqps://`.";
    RABBITMQ_SSL_CERTIFICATE_LOCATION, "rabbitmq.ssl_certificate_location", Path, "none",
        "The client's own certificate, in PEM.";
    RABBITMQ_SSL_KEY_LOCATION, "rabbitmq.ssl_key_location", Path, "none",
        "The key of the client's certificate, PKCS 8 in PEM.";
}

/// The key of an environment variable.
pub(crate) fn by_variable(name: &str) -> Option<&'static Key> {
    ALL.iter().copied().find(|key| match key.kind {
        Kind::Properties => name.len() > key.variable.len() && name.starts_with(key.variable),
        _ => key.variable == name,
    })
}

/// The key of a name in a file, for example `kafka.client_id`.
pub(crate) fn by_file_name(name: &str) -> Option<&'static Key> {
    ALL.iter().copied().find(|key| !key.file.is_empty() && key.file == name)
}

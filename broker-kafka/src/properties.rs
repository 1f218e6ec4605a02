//! From the configuration to librdkafka's properties: the defaults, and what may not be changed.

use std::time::Duration;

use broker_api::{Error, ErrorKind, Name, Result};
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use uuid::Uuid;

use crate::config::{GroupProtocol, KafkaConfig, SecurityProtocol};

/// Properties that cannot be set, and why.
const REFUSED: &[(&str, &str)] = &[
    ("bootstrap.servers", "use the setting for the brokers"),
    ("metadata.broker.list", "use the setting for the brokers"),
    ("client.id", "use the setting for the client id"),
    ("group.id", "the group is named where it is subscribed"),
    ("group.protocol", "use the setting for the group protocol"),
    ("session.timeout.ms", "use the setting for the session timeout"),
    ("heartbeat.interval.ms", "use the setting for the heartbeat interval"),
    ("security.protocol", "use the setting for the security protocol"),
    ("sasl.mechanism", "use the setting for the SASL mechanism"),
    ("sasl.mechanisms", "use the setting for the SASL mechanism"),
    ("sasl.username", "use the setting for the SASL user"),
    ("sasl.password", "use the setting for the SASL password"),
    ("acks", "a confirmed message is stored by all replicas in sync"),
    ("request.required.acks", "a confirmed message is stored by all replicas in sync"),
    ("enable.idempotence", "messages are neither duplicated nor reordered by a retry"),
    ("enable.gapless.guarantee", "one bad message must not fail its neighbours"),
    ("transactional.id", "each member that settles by transactions has one of its own"),
    ("isolation.level", "what was published by a transaction is there once that is committed"),
    ("message.send.max.retries", "a message is sent again until its deadline"),
    ("retries", "a message is sent again until its deadline"),
    ("partitioner", "a key has the same partition on every broker"),
    ("queue.buffering.max.messages", "the publish buffer bounds what is in flight"),
    ("queue.buffering.max.kbytes", "the publish buffer bounds what is in flight"),
    ("message.max.bytes", "the limit is the topic's"),
    ("enable.auto.commit", "only what was settled is committed"),
    ("auto.commit.enable", "only what was settled is committed"),
    ("enable.auto.offset.store", "only what was settled is committed"),
    ("auto.offset.reset", "a group begins where it was declared, and then loses nothing"),
    ("enable.partition.eof", "it is set where a reading needs it"),
    ("allow.auto.create.topics", "an unknown topic is an error"),
    ("statistics.interval.ms", "the health of the connection is taken from the statistics"),
    ("log.queue", "the log goes through `tracing`"),
];

/// What holds for every client.
const COMMON: &[(&str, &str)] = &[
    // An unknown topic is an error, on a stock broker too, which would create it.
    ("allow.auto.create.topics", "false"),
    // A broker that is back is found again within a second; the default is 10 s.
    ("reconnect.backoff.max.ms", "1000"),
    // So deleted topics and new partitions are noticed; the default is 5 minutes.
    ("topic.metadata.refresh.interval.ms", "10000"),
    // What tells whether the connection is there.
    ("statistics.interval.ms", "1000"),
    ("socket.keepalive.enable", "true"),
];

const PRODUCER: &[(&str, &str)] = &[
    ("acks", "all"),
    ("enable.idempotence", "true"),
    // The default partitioner of the Java client.
    ("partitioner", "murmur2_random"),
    // Batches come by themselves under load; lingering only costs time.
    ("linger.ms", "0"),
    // The core bounds the bytes in flight, so the queue here never has to say that it is full.
    ("queue.buffering.max.messages", "0"),
    ("queue.buffering.max.kbytes", "2147483647"),
    // The size is checked against the topic's own limit before.
    ("message.max.bytes", "1000000000"),
    // A confirmation is answered at its own deadline; this is when librdkafka gives up as well.
    ("message.timeout.ms", "120000"),
    // A topic is known to exist before the first message is sent to it.
    ("topic.metadata.propagation.max.ms", "5000"),
];

const CONSUMER: &[(&str, &str)] = &[
    // So long a commit waits for a coordinator that is not there, and the end of a member for the
    // commit; the default is 10 minutes.
    ("coordinator.query.interval.ms", "10000"),
    ("enable.auto.offset.store", "false"),
    // The group's position is committed when it is declared: this is for partitions added later.
    ("auto.offset.reset", "earliest"),
    ("fetch.wait.max.ms", "100"),
    // The default of a second stalls a reader that catches up.
    ("fetch.queue.backoff.ms", "10"),
    // What is fetched ahead for one consumer.
    ("queued.max.messages.kbytes", "32768"),
    ("queued.min.messages", "100000"),
];

/// After which silence a broker takes back what a transaction has begun whose client died. Readers
/// wait so long, and a whole number of times what the broker takes to look.
const TRANSACTION_TIMEOUT: (&str, &str) = ("transaction.timeout.ms", "10000");

/// For each message a batch of its own, so a refused one takes no others with it.
const ALONE: (&str, &str) = ("batch.num.messages", "1");

/// Which strategy shares the partitions with the classic protocol: the one that stops only those
/// partitions that move.
const STRATEGY: (&str, &str) = ("partition.assignment.strategy", "cooperative-sticky");

/// How long a member may take to do what its group wants.
const INTERVAL: &str = "max.poll.interval.ms";

/// What turns off that the broker has to prove who it is.
const UNCHECKED: &[(&str, &str)] = &[
    ("enable.ssl.certificate.verification", "false"),
    ("ssl.endpoint.identification.algorithm", "none"),
];

impl KafkaConfig {
    /// Checks everything that can be checked without a broker.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`], which names the setting or property and never its value where
    /// that may be a secret.
    pub fn check(&self) -> Result<()> {
        let brokers = self.brokers.split(',').map(str::trim);
        for broker in brokers {
            let port = broker.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
            match port {
                Some((host, Ok(1..))) if !host.is_empty() => {}
                _ => {
                    let text = "wanted host:port, several separated by commas";
                    return Err(bad("brokers", text).with("value", format!("{broker:?}")));
                }
            }
        }
        if self.client_id.is_empty() {
            return Err(bad("client_id", "it is empty"));
        }
        if self.connect_timeout.is_zero() {
            return Err(bad("connect_timeout", "it is zero; wanted for example 10 s"));
        }
        if self.group_protocol == GroupProtocol::Consumer {
            let text = "it belongs to the group protocol `classic`; with `consumer` it is a \
                        setting of the broker: leave it out";
            if self.session_timeout.is_some() {
                return Err(bad("session_timeout", text));
            }
            if self.heartbeat_interval.is_some() {
                return Err(bad("heartbeat_interval", text));
            }
        }
        if let (Some(session), Some(heartbeat)) = (self.session_timeout, self.heartbeat_interval)
            && heartbeat >= session
        {
            let text = "it has to be below the session timeout, best a third of it";
            return Err(bad("heartbeat_interval", text));
        }
        let protocol = self.protocol();
        if self.sasl.is_some() && !protocol.has_user() {
            let text = "it is without a user, but a SASL user is set";
            return Err(bad("security_protocol", text));
        }
        if self.sasl.is_none() && protocol.has_user() {
            return Err(bad("sasl", "the security protocol wants a user, but none is set"));
        }
        for name in self.properties.keys() {
            let refused = REFUSED.iter().find(|(refused, _)| refused == name);
            if let Some((_, why)) = refused {
                let error = Error::new(
                    ErrorKind::Configuration,
                    "connect",
                    format!("the property cannot be set: {why}"),
                );
                return Err(error.with("property", name));
            }
        }
        for (name, off) in UNCHECKED {
            if self.properties.get(*name).is_some_and(|value| value == off) {
                tracing::warn!("{name}={off}: anybody can pretend to be the broker");
            }
        }
        Ok(())
    }

    fn protocol(&self) -> SecurityProtocol {
        self.security_protocol.unwrap_or(match (&self.sasl, &self.tls) {
            (None, None) => SecurityProtocol::Plaintext,
            (None, Some(_)) => SecurityProtocol::Ssl,
            (Some(_), None) => SecurityProtocol::SaslPlaintext,
            (Some(_), Some(_)) => SecurityProtocol::SaslSsl,
        })
    }

    /// The properties of an administrating client.
    pub(crate) fn admin(&self) -> ClientConfig {
        let mut client = self.client(&[]);
        // Nobody reads the statistics of this one.
        client.set("statistics.interval.ms", "0");
        client
    }

    /// The properties of the publishing client.
    pub(crate) fn producer(&self) -> ClientConfig {
        self.client(PRODUCER)
    }

    /// The properties of the client that publishes each message in a batch of its own.
    pub(crate) fn lone_producer(&self) -> ClientConfig {
        let mut client = self.client(PRODUCER);
        client.set(ALONE.0, ALONE.1);
        client
    }

    /// The properties of the client that settles by transactions.
    pub(crate) fn transactor(&self, group: Name) -> ClientConfig {
        let mut client = self.client(PRODUCER);
        if !self.properties.contains_key(TRANSACTION_TIMEOUT.0) {
            client.set(TRANSACTION_TIMEOUT.0, TRANSACTION_TIMEOUT.1);
        }
        if let Some(limit) = client.get(TRANSACTION_TIMEOUT.0).map(str::to_owned) {
            // A message cannot be sent for longer than its transaction lasts.
            client.set("message.timeout.ms", limit);
        }
        // The broker needs a moment between two transactions, and says so by refusing.
        client.set("retry.backoff.ms", "5").set("retry.backoff.max.ms", "100");
        // A new one each time: members are told apart by the group's generations (KIP-447).
        client.set("transactional.id", format!("{group}.{}", Uuid::now_v7()));
        // Nobody reads the statistics of this one.
        client.set("statistics.interval.ms", "0");
        client
    }

    /// The properties of a member of a group that settles by transactions.
    pub(crate) fn transactional_member(&self, group: Name) -> ClientConfig {
        let mut client = self.member(group);
        // So it also waits, where it begins, for what a transaction before it has begun.
        client.set("enable.auto.commit", "false").set("isolation.level", "read_committed");
        client
    }

    /// The properties of a member of a group.
    pub(crate) fn member(&self, group: Name) -> ClientConfig {
        let mut client = self.consumer(group.as_str());
        client.set("enable.auto.commit", "true");
        if !self.properties.contains_key(INTERVAL) {
            client.set(INTERVAL, self.max_poll_interval().as_millis().to_string());
        }
        if self.group_protocol == GroupProtocol::Consumer {
            client.set("group.protocol", "consumer");
            return client;
        }
        client.set("group.protocol", "classic");
        if !self.properties.contains_key(STRATEGY.0) {
            client.set(STRATEGY.0, STRATEGY.1);
        }
        let mut time = |name: &str, value: Option<Duration>| {
            if let Some(value) = value {
                client.set(name, value.as_millis().to_string());
            }
        };
        time("session.timeout.ms", self.session_timeout);
        time("heartbeat.interval.ms", self.heartbeat_interval);
        client
    }

    /// The properties of a consumer that is no member: it reads, or looks after a group's position.
    pub(crate) fn reader(&self, group: &str) -> ClientConfig {
        let mut client = self.consumer(group);
        client.set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        // A membership is what these belong to. The second has to fit the session timeout, which is
        // not set here.
        client.remove("group.instance.id");
        client.remove(INTERVAL);
        client
    }

    fn consumer(&self, group: &str) -> ClientConfig {
        let mut client = self.client(CONSUMER);
        client.set("group.id", group);
        client
    }

    fn client(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut client = ClientConfig::new();
        for (name, value) in COMMON.iter().chain(defaults) {
            client.set(*name, *value);
        }
        client.set("bootstrap.servers", &self.brokers).set("client.id", &self.client_id);
        client.set("security.protocol", self.protocol().as_str());
        if let Some(sasl) = &self.sasl {
            client.set("sasl.mechanisms", &sasl.mechanism);
            if !sasl.username.is_empty() {
                client.set("sasl.username", &sasl.username).set("sasl.password", &sasl.password);
            }
        }
        if let Some(tls) = &self.tls {
            let files = [
                ("ssl.ca.location", &tls.ca_file),
                ("ssl.certificate.location", &tls.certificate_file),
                ("ssl.key.location", &tls.key_file),
            ];
            for (name, file) in files {
                if let Some(file) = file {
                    client.set(name, file.to_string_lossy());
                }
            }
            if let Some(password) = &tls.key_password {
                client.set("ssl.key.password", password);
            }
        }
        for (name, value) in &self.properties {
            client.set(name, value);
        }
        client
    }

    /// `max.poll.interval.ms`, within which a member has to give up what it is asked for.
    ///
    /// Members poll whatever the application does, so it may be shorter than librdkafka's 5
    /// minutes: it is also how long a member waits for the answer to its joining, which never comes
    /// where the connection is dead and nobody says so.
    pub(crate) fn max_poll_interval(&self) -> Duration {
        const LEAST: Duration = Duration::from_secs(60);
        match self.properties.get(INTERVAL).and_then(|text| text.parse().ok()) {
            Some(set) => Duration::from_millis(set),
            None => {
                LEAST.max(self.session_timeout.unwrap_or_default()).max(3 * self.revoke_timeout)
            }
        }
    }
}

/// What librdkafka says to a client's properties, without their values.
pub(crate) fn creation_error(error: KafkaError, operation: &'static str) -> Error {
    let (property, text) = match error {
        // Its text and its third part carry the value, which may be a password.
        KafkaError::ClientConfig(result, _, property, _) => {
            let text = match result {
                rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN => {
                    "librdkafka has no such property"
                }
                _ => {
                    "the value is not one that librdkafka takes for this property, or it was built without what the property needs"
                }
            };
            (Some(property), text.to_owned())
        }
        // About the combination of properties, or files that cannot be read; it names them.
        KafkaError::ClientCreation(text) => (None, text),
        other => (None, other.to_string()),
    };
    let error = Error::new(ErrorKind::Configuration, operation, text);
    match property {
        Some(property) => error.with("property", property),
        None => error,
    }
}

fn bad(setting: &'static str, text: &'static str) -> Error {
    Error::new(ErrorKind::Configuration, "connect", text).with("setting", setting)
}

#[cfg(test)]
mod tests;

//! The settings of Kafka.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker_api::{Backend, Error, ErrorKind, Result};
use broker_kafka::{GroupProtocol, Kafka, KafkaConfig, Sasl, SecurityProtocol, Tls};

use super::keys::{self, Key};
use super::values::{Values, configuration};

/// What holds in librdkafka where a setting is left out.
const SESSION_TIMEOUT: Duration = Duration::from_secs(45);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);

pub(super) fn read(values: &Values) -> Result<KafkaConfig> {
    let brokers = values.addresses(keys::KAFKA_BROKERS)?.ok_or_else(|| {
        let hint = values.hint(keys::KAFKA_BROKERS);
        let text = format!(
            "Kafka is chosen, but its brokers are missing; set KAFKA_BROKERS=host:port{hint}"
        );
        values.wrong(keys::KAFKA_BROKERS, text)
    })?;
    let mut config = KafkaConfig::new(brokers.join(","));
    super::read(values.text(keys::KAFKA_CLIENT_ID)?, &mut config.client_id);
    super::read(values.millis(keys::KAFKA_CONNECT_TIMEOUT)?, &mut config.connect_timeout);
    super::read(values.millis(keys::KAFKA_REVOKE_TIMEOUT)?, &mut config.revoke_timeout);
    config.group_protocol = match values.choice(keys::KAFKA_GROUP_PROTOCOL)? {
        Some("consumer") => GroupProtocol::Consumer,
        _ => GroupProtocol::Classic,
    };
    config.session_timeout = values.millis(keys::KAFKA_SESSION_TIMEOUT)?;
    config.heartbeat_interval = values.millis(keys::KAFKA_HEARTBEAT_INTERVAL)?;
    check_session(values, &config)?;
    config.sasl = sasl(values)?;
    config.security_protocol = protocol(values)?;
    config.tls = tls(values, config.security_protocol)?;
    for (property, found) in values.properties() {
        config.properties.insert(property.into(), found.text.clone());
    }
    config.check().map_err(|error| with_our_name(error, values))?;
    Ok(config)
}

pub(super) async fn connect(config: Option<&KafkaConfig>) -> Result<Arc<dyn Backend>> {
    let config = config.ok_or_else(|| {
        configuration("Kafka is chosen, but `Config::kafka` does not say how to reach it".into())
    })?;
    let connected = Kafka::connect(config.clone()).await;
    Ok(Arc::new(connected.map_err(|error| match (error.kind(), error.context("property")) {
        (ErrorKind::Configuration, Some(property)) if config.properties.contains_key(property) => {
            let suffix = property.replace('.', "_").to_uppercase();
            error.with("setting", format!("{}{suffix}", keys::KAFKA_PROPERTIES_.variable))
        }
        // It names the property of librdkafka, and that one the setting.
        (ErrorKind::Configuration, Some(_)) => error,
        (ErrorKind::Unauthenticated, _) => {
            error.with("setting", "KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD")
        }
        _ => error.with("setting", keys::KAFKA_BROKERS.variable),
    })?))
}

/// What the backend checks too, but here also against the values that hold without a setting.
fn check_session(values: &Values, config: &KafkaConfig) -> Result<()> {
    if config.group_protocol == GroupProtocol::Consumer {
        return Ok(());
    }
    let session = config.session_timeout.unwrap_or(SESSION_TIMEOUT);
    let heartbeat = config.heartbeat_interval.unwrap_or(HEARTBEAT_INTERVAL);
    if heartbeat < session {
        return Ok(());
    }
    let (session, heartbeat) = (session.as_millis(), heartbeat.as_millis());
    Err(match config.heartbeat_interval {
        Some(_) => values.wrong(
            keys::KAFKA_HEARTBEAT_INTERVAL,
            format!("{heartbeat} is not below the session timeout of {session}; set it to a third of that, or KAFKA_SESSION_TIMEOUT higher"),
        ),
        None => values.wrong(
            keys::KAFKA_SESSION_TIMEOUT,
            format!("{session} is not above the heartbeat interval of {heartbeat}; set it to at least three times that, or KAFKA_HEARTBEAT_INTERVAL lower"),
        ),
    })
}

fn sasl(values: &Values) -> Result<Option<Sasl>> {
    let mechanism = values.choice(keys::KAFKA_SASL_MECHANISM)?;
    let username = values.text(keys::KAFKA_SASL_USERNAME)?;
    let password = values.text(keys::KAFKA_SASL_PASSWORD)?;
    let missing = |key: &'static Key, because: &'static Key| {
        let because = values.name(because);
        values.wrong(key, format!("it is missing; {because} is set, so set it as well"))
    };
    if let Some(mechanism @ ("oauthbearer" | "gssapi")) = mechanism {
        for (key, set) in [
            (keys::KAFKA_SASL_USERNAME, username.is_some()),
            (keys::KAFKA_SASL_PASSWORD, password.is_some()),
        ] {
            if set {
                let text = format!("{mechanism} takes no such thing; leave it out");
                return Err(values.wrong(key, text));
            }
        }
        return Ok(Some(Sasl { mechanism: mechanism.to_uppercase(), ..Sasl::default() }));
    }
    match (username, password) {
        (Some(username), Some(password)) => {
            let mechanism = mechanism.unwrap_or("plain").to_uppercase();
            Ok(Some(Sasl { mechanism, username, password }))
        }
        (Some(_), None) => Err(missing(keys::KAFKA_SASL_PASSWORD, keys::KAFKA_SASL_USERNAME)),
        (None, Some(_)) => Err(missing(keys::KAFKA_SASL_USERNAME, keys::KAFKA_SASL_PASSWORD)),
        (None, None) if mechanism.is_some() => {
            Err(missing(keys::KAFKA_SASL_USERNAME, keys::KAFKA_SASL_MECHANISM))
        }
        (None, None) => Ok(None),
    }
}

fn protocol(values: &Values) -> Result<Option<SecurityProtocol>> {
    let protocol = values.choice(keys::KAFKA_SECURITY_PROTOCOL)?.map(|word| match word {
        "ssl" => SecurityProtocol::Ssl,
        "sasl_plaintext" => SecurityProtocol::SaslPlaintext,
        "sasl_ssl" => SecurityProtocol::SaslSsl,
        _ => SecurityProtocol::Plaintext,
    });
    if let (Some(protocol), Some(ssl)) = (protocol, values.bool(keys::KAFKA_SSL)?)
        && encrypts(protocol) != ssl
    {
        let name = values.name(keys::KAFKA_SECURITY_PROTOCOL);
        let text = format!("{ssl} contradicts {name}; remove one of them");
        return Err(values.wrong(keys::KAFKA_SSL, text));
    }
    Ok(protocol)
}

fn encrypts(protocol: SecurityProtocol) -> bool {
    matches!(protocol, SecurityProtocol::Ssl | SecurityProtocol::SaslSsl)
}

fn tls(values: &Values, protocol: Option<SecurityProtocol>) -> Result<Option<Tls>> {
    let tls = Tls {
        ca_file: file(values, keys::KAFKA_SSL_CA_LOCATION)?,
        certificate_file: file(values, keys::KAFKA_SSL_CERTIFICATE_LOCATION)?,
        key_file: file(values, keys::KAFKA_SSL_KEY_LOCATION)?,
        key_password: values.text(keys::KAFKA_SSL_KEY_PASSWORD)?,
    };
    let needs = [
        (
            tls.certificate_file.is_some(),
            keys::KAFKA_SSL_CERTIFICATE_LOCATION,
            tls.key_file.is_some(),
            keys::KAFKA_SSL_KEY_LOCATION,
        ),
        (
            tls.key_file.is_some(),
            keys::KAFKA_SSL_KEY_LOCATION,
            tls.certificate_file.is_some(),
            keys::KAFKA_SSL_CERTIFICATE_LOCATION,
        ),
        (
            tls.key_password.is_some(),
            keys::KAFKA_SSL_KEY_PASSWORD,
            tls.key_file.is_some(),
            keys::KAFKA_SSL_KEY_LOCATION,
        ),
    ];
    for (set, because, there, missing) in needs {
        if set && !there {
            let because = values.name(because);
            let text = format!("it is missing; {because} is set, so set it as well");
            return Err(values.wrong(missing, text));
        }
    }
    let files = [
        keys::KAFKA_SSL_CA_LOCATION,
        keys::KAFKA_SSL_CERTIFICATE_LOCATION,
        keys::KAFKA_SSL_KEY_LOCATION,
    ];
    let set = files.into_iter().find(|key| values.get(key).is_some());
    let wanted = values.bool(keys::KAFKA_SSL)?.or(protocol.map(encrypts));
    match (wanted, set) {
        (Some(false), Some(key)) => {
            let text = "it is for an encrypted connection, which other settings turn off; remove it, or set KAFKA_SSL=true";
            Err(values.wrong(key, text))
        }
        (Some(true), _) | (None, Some(_)) => Ok(Some(tls)),
        (Some(false) | None, None) => Ok(None),
    }
}

/// The path of a file that can be read.
fn file(values: &Values, key: &Key) -> Result<Option<PathBuf>> {
    let Some(path) = values.text(key)?.map(PathBuf::from) else { return Ok(None) };
    match std::fs::File::open(&path) {
        Ok(_) => Ok(Some(path)),
        Err(problem) => {
            Err(values.wrong(key, format!("cannot read the file {}: {problem}", path.display())))
        }
    }
}

/// The backend's error about one of its fields, with the name under which that was set here.
fn with_our_name(error: Error, values: &Values) -> Error {
    let setting = error.context("setting").and_then(|field| match field {
        "sasl" => Some(keys::KAFKA_SASL_USERNAME),
        field => keys::by_file_name(&format!("kafka.{field}")),
    });
    let name = match (setting, error.context("property")) {
        (Some(key), _) => values.name(key),
        (None, Some(property)) => match values.properties().find(|(name, _)| *name == property) {
            Some((_, found)) => found.name.clone(),
            None => return error,
        },
        (None, None) => return error,
    };
    configuration(error.message().to_owned()).with("setting", name)
}

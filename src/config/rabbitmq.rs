//! The settings of RabbitMQ.

use std::sync::Arc;
use std::time::Duration;

use broker_amqp::{Amqp, AmqpConfig};
use broker_api::{Backend, Result};

use super::keys::{self, Key};
use super::values::{Values, configuration};

pub(super) fn read(values: &Values) -> Result<AmqpConfig> {
    let url = values.text(keys::RABBITMQ_URL)?.ok_or_else(|| {
        let hint = values.hint(keys::RABBITMQ_URL);
        let text = format!(
            "RabbitMQ is chosen, but its address is missing; set \
             RABBITMQ_URL=amqp://user:password@host:5672{hint}"
        );
        values.wrong(keys::RABBITMQ_URL, text)
    })?;
    let mut config = AmqpConfig::new(url);
    config.check().map_err(|error| {
        // What it says about the address never repeats it, there is a password in it.
        values.wrong(keys::RABBITMQ_URL, error.message().to_owned())
    })?;
    super::read(values.millis(keys::RABBITMQ_CONNECT_TIMEOUT)?, &mut config.connect_timeout);
    super::read(values.millis(keys::RABBITMQ_OPERATION_TIMEOUT)?, &mut config.operation_timeout);
    super::read(values.millis(keys::RABBITMQ_RECONNECT_PAUSE)?, &mut config.reconnect_pause_max);
    super::read(heartbeat(values)?, &mut config.heartbeat);
    super::read(values.text(keys::RABBITMQ_CONNECTION_NAME)?, &mut config.connection_name);
    super::read(values.number(keys::RABBITMQ_DEFAULT_PARTITIONS)?, &mut config.default_partitions);
    let prefetch = values.number(keys::RABBITMQ_READ_PREFETCH)?;
    super::read(prefetch.and_then(|n| n.try_into().ok()), &mut config.read_prefetch);
    super::read(values.text(keys::RABBITMQ_REGISTRY)?, &mut config.registry);
    config
        .check()
        .map_err(|error| values.wrong(keys::RABBITMQ_REGISTRY, error.message().to_owned()))?;
    config.ca_pem = pem(values, keys::RABBITMQ_SSL_CA_LOCATION)?;
    let certificate = pem(values, keys::RABBITMQ_SSL_CERTIFICATE_LOCATION)?;
    let key = pem(values, keys::RABBITMQ_SSL_KEY_LOCATION)?;
    config.client_identity_pem = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (certificate, _) => {
            let pair = [keys::RABBITMQ_SSL_KEY_LOCATION, keys::RABBITMQ_SSL_CERTIFICATE_LOCATION];
            let [missing, set] = if certificate.is_some() { pair } else { [pair[1], pair[0]] };
            let set = values.name(set);
            return Err(
                values.wrong(missing, format!("it is missing; {set} is set, so set it as well"))
            );
        }
    };
    Ok(config)
}

/// AMQP counts heartbeats in seconds.
fn heartbeat(values: &Values) -> Result<Option<Duration>> {
    let heartbeat = values.millis(keys::RABBITMQ_HEARTBEAT)?;
    let fits = |time: &Duration| time.subsec_millis() == 0 && (1..=600).contains(&time.as_secs());
    match heartbeat {
        Some(time) if !fits(&time) => {
            let text = format!(
                "{} is not a number of whole seconds; write a multiple of 1000 up to 600000",
                time.as_millis()
            );
            Err(values.wrong(keys::RABBITMQ_HEARTBEAT, text))
        }
        heartbeat => Ok(heartbeat),
    }
}

/// What is in the file of this setting.
fn pem(values: &Values, key: &Key) -> Result<Option<String>> {
    let Some(path) = values.text(key)? else { return Ok(None) };
    let text = std::fs::read_to_string(&path);
    text.map(Some)
        .map_err(|problem| values.wrong(key, format!("cannot read the file {path}: {problem}")))
}

pub(super) async fn connect(config: Option<&AmqpConfig>) -> Result<Arc<dyn Backend>> {
    let config = config.ok_or_else(|| {
        let text = "RabbitMQ is chosen, but `Config::rabbitmq` does not say how to reach it";
        configuration(text.into())
    })?;
    let connected = Amqp::connect(config.clone()).await;
    Ok(Arc::new(connected.map_err(|error| {
        let setting = match error.context("field") {
            Some("ca_pem") => keys::RABBITMQ_SSL_CA_LOCATION,
            Some("client_identity_pem") => keys::RABBITMQ_SSL_CERTIFICATE_LOCATION,
            // Address, user, password and virtual host are all in it.
            _ => keys::RABBITMQ_URL,
        };
        error.with("setting", setting.variable)
    })?))
}

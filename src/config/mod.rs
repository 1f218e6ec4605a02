//! Which broker to use and how: from the environment, from a file, or from code.

#[cfg(feature = "kafka")]
mod kafka;
mod keys;
mod kinds;
#[cfg(feature = "amqp")]
mod rabbitmq;
mod reference;
mod unknown;
mod values;

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use broker_api::{Backend, Broker, Memory, Name, Result, Settings};

use crate::routed::{Routed, Routes};
use keys::Key;
use values::{Values, configuration};

/// A kind of broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BrokerKind {
    /// The embedded broker, which ends with the process.
    Memory,
    /// Apache Kafka; needs the cargo feature `kafka`.
    Kafka,
    /// RabbitMQ; needs the cargo feature `amqp`.
    RabbitMq,
}

/// Which broker to use and how.
///
/// `docs/CONFIGURATION.md` lists every setting; [`Config::reference`] gives the same list to a
/// program. A setting that is missing, misspelled, malformed or that contradicts another is an error
/// of one line, which names the setting and the remedy. Secrets are in no error and no `Debug`.
///
/// ```
/// # fn main() -> anybroker::Result<()> {
/// use anybroker::{BrokerKind, Config};
///
/// let from_a_file = Config::from_toml("broker = 'memory'\ndrain_timeout = 5000")?;
/// assert_eq!(from_a_file.broker, BrokerKind::Memory);
/// let from_code = Config::new(BrokerKind::Memory);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The broker of the topics without a route.
    pub broker: BrokerKind,
    /// Topics on other brokers: patterns as for [`Routed::route`], and the broker.
    pub routes: Vec<(String, BrokerKind)>,
    /// How to use Kafka; needed where [`broker`](Self::broker) or a route names it.
    #[cfg(feature = "kafka")]
    pub kafka: Option<broker_kafka::KafkaConfig>,
    /// How to use RabbitMQ; needed where [`broker`](Self::broker) or a route names it.
    #[cfg(feature = "amqp")]
    pub rabbitmq: Option<broker_amqp::AmqpConfig>,
    /// Settings that are the same for every broker.
    pub settings: Settings,
    /// The group for consumers to which the application gives none of their own (`KAFKA_GROUP_ID`).
    pub group_id: Option<Name>,
}

impl Config {
    /// This broker with the default settings. For Kafka and RabbitMQ set the field of that name too.
    pub fn new(broker: BrokerKind) -> Self {
        Self {
            broker,
            routes: Vec::new(),
            #[cfg(feature = "kafka")]
            kafka: None,
            #[cfg(feature = "amqp")]
            rabbitmq: None,
            settings: Settings::default(),
            group_id: None,
        }
    }

    /// From the environment variables, and the file that `BROKER_CONFIG` names, if it is set.
    ///
    /// `BROKER` chooses the broker. Where it is not set, `KAFKA_ENABLED=true` with `KAFKA_BROKERS`
    /// chooses Kafka; without that, `RABBITMQ_URL` chooses RabbitMQ.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](broker_api::ErrorKind::Configuration) in one line that names
    /// the setting and the remedy; also where no broker is chosen.
    pub fn from_env() -> Result<Self> {
        Self::from_values(&Values::from_variables(std::env::vars_os())?, None)
    }

    /// As [`Config::from_env`], but with this broker where none is chosen, which is meant for
    /// examples and tests.
    ///
    /// # Errors
    /// As [`Config::from_env`].
    pub fn from_env_or(broker: BrokerKind) -> Result<Self> {
        Self::from_values(&Values::from_variables(std::env::vars_os())?, Some(broker))
    }

    /// From these variables instead of the process's.
    ///
    /// # Errors
    /// As [`Config::from_env`].
    pub fn from_variables(
        variables: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Result<Self> {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self::from_values(&Values::from_variables(variables)?, None)
    }

    /// From a TOML file alone.
    ///
    /// # Errors
    /// As [`Config::from_env`], and where the file cannot be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_values(&Values::from_file(path.as_ref())?, None)
    }

    /// From TOML.
    ///
    /// # Errors
    /// As [`Config::from_env`].
    pub fn from_toml(text: &str) -> Result<Self> {
        Self::from_values(&Values::from_toml(text)?, None)
    }

    fn from_values(values: &Values, otherwise: Option<BrokerKind>) -> Result<Self> {
        values.check()?;
        let mut config = Self::new(choose(values, otherwise)?);
        for (pattern, broker) in values.routes(keys::BROKER_ROUTES)?.unwrap_or_default() {
            config.routes.push((pattern, BrokerKind::of(broker)));
        }
        let settings = &mut config.settings;
        read(values.millis(keys::BROKER_PUBLISH_TIMEOUT)?, &mut settings.publish_timeout);
        read(values.bytes(keys::BROKER_PUBLISH_BUFFER)?, &mut settings.publish_buffer_bytes);
        read(values.millis(keys::BROKER_DRAIN_TIMEOUT)?, &mut settings.drain_timeout);
        read(values.millis(keys::BROKER_STUCK_AFTER)?, &mut settings.stuck_after);
        read(scheduled(values)?, &mut settings.scheduled);
        config.group_id = name(values, keys::KAFKA_GROUP_ID)?;
        config
            .check_routes()
            .map_err(|error| error.with("setting", values.name(keys::BROKER_ROUTES)))?;

        if config.uses(BrokerKind::Kafka) {
            if values.bool(keys::KAFKA_ENABLED)? == Some(false) {
                let text = "false, but BROKER or a route asks for Kafka; remove one of them";
                return Err(values.wrong(keys::KAFKA_ENABLED, text));
            }
            #[cfg(feature = "kafka")]
            {
                config.kafka = Some(kafka::read(values)?);
            }
            #[cfg(not(feature = "kafka"))]
            return Err(not_compiled_in("Kafka", "kafka"));
        }
        if config.uses(BrokerKind::RabbitMq) {
            #[cfg(feature = "amqp")]
            {
                config.rabbitmq = Some(rabbitmq::read(values)?);
            }
            #[cfg(not(feature = "amqp"))]
            return Err(not_compiled_in("RabbitMQ", "amqp"));
        }
        Ok(config)
    }

    fn uses(&self, kind: BrokerKind) -> bool {
        self.broker == kind || self.routes.iter().any(|(_, broker)| *broker == kind)
    }

    /// What would be wrong with a route after everything is connected, before that.
    fn check_routes(&self) -> Result<()> {
        let mut routes = Routes::default();
        self.routes.iter().try_for_each(|(pattern, kind)| routes.add(pattern, *kind))
    }

    /// Connects to every broker that is used, and waits until it is connected.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](broker_api::ErrorKind::Configuration); and what keeps a broker
    /// from being reached within its connect time limit, or has it refuse the credentials, with
    /// the setting to look at.
    pub async fn connect(&self) -> Result<Broker> {
        self.check_routes()?;
        let mut connected = Vec::new();
        match self.connect_all(&mut connected).await {
            Ok(backend) => Ok(Broker::with_settings(backend, self.settings)),
            Err(error) => {
                for (_, backend) in connected {
                    // The first error is the one to tell.
                    backend.close().await.ok();
                }
                Err(error)
            }
        }
    }

    async fn connect_all(
        &self,
        connected: &mut Vec<(BrokerKind, Arc<dyn Backend>)>,
    ) -> Result<Arc<dyn Backend>> {
        let default = self.connect_to(self.broker).await?;
        connected.push((self.broker, default.clone()));
        let mut routed = Routed::new(default.clone());
        for (pattern, kind) in &self.routes {
            let known = connected.iter().find(|(known, _)| known == kind);
            let backend = match known.map(|(_, backend)| backend.clone()) {
                Some(backend) => backend,
                None => {
                    let backend = self.connect_to(*kind).await?;
                    connected.push((*kind, backend.clone()));
                    backend
                }
            };
            routed = routed.route(pattern, &backend)?;
        }
        Ok(if connected.len() == 1 { default } else { Arc::new(routed) })
    }

    async fn connect_to(&self, kind: BrokerKind) -> Result<Arc<dyn Backend>> {
        match kind {
            BrokerKind::Memory => Ok(Arc::new(Memory::default())),
            #[cfg(feature = "kafka")]
            BrokerKind::Kafka => kafka::connect(self.kafka.as_ref()).await,
            #[cfg(not(feature = "kafka"))]
            BrokerKind::Kafka => Err(not_compiled_in("Kafka", "kafka")),
            #[cfg(feature = "amqp")]
            BrokerKind::RabbitMq => rabbitmq::connect(self.rabbitmq.as_ref()).await,
            #[cfg(not(feature = "amqp"))]
            BrokerKind::RabbitMq => Err(not_compiled_in("RabbitMQ", "amqp")),
        }
    }

    /// Every setting as a table in Markdown: variable, key in a file, value, default, what it does.
    pub fn reference() -> String {
        reference::table()
    }
}

impl BrokerKind {
    fn of(word: &str) -> Self {
        match word {
            "kafka" => Self::Kafka,
            "memory" => Self::Memory,
            _ => Self::RabbitMq,
        }
    }
}

/// The broker that the settings ask for.
fn choose(values: &Values, otherwise: Option<BrokerKind>) -> Result<BrokerKind> {
    if let Some(word) = values.choice(keys::BROKER)? {
        return Ok(BrokerKind::of(word));
    }
    let enabled = values.bool(keys::KAFKA_ENABLED)?;
    if enabled == Some(true) {
        return Ok(BrokerKind::Kafka);
    }
    if values.get(keys::RABBITMQ_URL).is_some() {
        return Ok(BrokerKind::RabbitMq);
    }
    // Also where a broker is given for "otherwise": somebody meant Kafka here.
    if values.get(keys::KAFKA_BROKERS).is_some() && enabled.is_none() {
        let text =
            "it is set, but no broker is chosen; to use Kafka set KAFKA_ENABLED=true as well";
        return Err(values.wrong(keys::KAFKA_BROKERS, text));
    }
    otherwise.ok_or_else(|| {
        configuration(format!(
            "no broker is chosen; set KAFKA_ENABLED=true and KAFKA_BROKERS=host:port for Kafka{}, \
             or RABBITMQ_URL=amqp://user:password@host:5672 for RabbitMQ{}, or BROKER=memory for \
             the embedded broker",
            values.hint(keys::KAFKA_BROKERS),
            values.hint(keys::RABBITMQ_URL),
        ))
    })
}

/// Names of topics are made from it, which are longer.
fn scheduled(values: &Values) -> Result<Option<Name>> {
    let key = keys::BROKER_SCHEDULED;
    match name(values, key)? {
        Some(name) if name.as_str().len() > 60 => Err(values.wrong(key, "longer than 60 bytes")),
        name => Ok(name),
    }
}

fn name(values: &Values, key: &Key) -> Result<Option<Name>> {
    let name = values.text(key)?.map(|text| Name::intern(&text));
    name.transpose().map_err(|error| values.wrong(key, error.message().to_owned()))
}

fn read<T>(found: Option<T>, into: &mut T) {
    if let Some(found) = found {
        *into = found;
    }
}

#[cfg(not(all(feature = "kafka", feature = "amqp")))]
fn not_compiled_in(broker: &str, feature: &str) -> broker_api::Error {
    configuration(format!(
        "{broker} is asked for, but not compiled in; build anybroker with its cargo feature `{feature}`"
    ))
}

#[cfg(all(test, feature = "kafka", feature = "amqp"))]
mod tests;

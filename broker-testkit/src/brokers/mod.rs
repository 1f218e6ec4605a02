//! Real brokers for tests, found or started.
//!
//! A [`RealBroker`] is looked for when it is first asked for, in this order:
//! 1. an address in the environment: `BROKER_TESTKIT_KAFKA` or `KAFKA_BROKERS`; for RabbitMQ 3 and 4
//!    `BROKER_TESTKIT_RABBITMQ_3` and `BROKER_TESTKIT_RABBITMQ_4`, for 4 also `RABBITMQ_URL`;
//! 2. Docker, where a daemon can be reached and this crate has its feature `containers`; the images
//!    are `BROKER_TESTKIT_KAFKA_IMAGE`, `BROKER_TESTKIT_RABBITMQ_3_IMAGE` and
//!    `BROKER_TESTKIT_RABBITMQ_4_IMAGE`, otherwise those that `scripts/docker images` builds;
//! 3. local processes, see [`local`](crate::local).
//!
//! `BROKER_TESTKIT_FROM=address`, `=docker` or `=local` allows only the one of these.
//!
//! Where none is found the error says what was tried, and the cases of the
//! [conformance suite](crate::conformance) are reported as ignored, or as failed where
//! `BROKER_TESTKIT_REQUIRE=1`.

#[cfg(feature = "containers")]
mod container;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use broker_api::BoxError;
use tokio::sync::OnceCell;

use crate::conformance::{Fixture, Unready};
use crate::local::{Kafka, KafkaConfig, LocalError, RabbitMq, RabbitMqConfig, RabbitMqVersion};

/// How old what it was told has to be before a RabbitMQ of one node survives a kill with it: a queue
/// declared less than a second before is dead for ever, which no confirmation shows.
const RABBITMQ_TO_DISK: Duration = Duration::from_millis(1_500);

/// A real broker that all tests of a binary share. What was started for it ends with the last clone.
#[derive(Clone)]
pub struct RealBroker {
    inner: Arc<Inner>,
}

struct Inner {
    kind: Kind,
    /// Whether it has to be started for these tests alone.
    own: bool,
    found: OnceCell<Result<Found, Missing>>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Kafka,
    RabbitMq(RabbitMqVersion),
}

enum Found {
    /// At this address, by this variable.
    Address {
        address: String,
        variable: &'static str,
    },
    Kafka(Kafka),
    RabbitMq(RabbitMq),
    #[cfg(feature = "containers")]
    Container(container::Container),
}

struct Missing {
    tried: Vec<String>,
    /// Something that is there does not work.
    broken: bool,
}

impl RealBroker {
    /// A Kafka.
    pub fn kafka() -> Self {
        Self::of(Kind::Kafka)
    }

    /// A RabbitMQ of this version.
    pub fn rabbitmq(version: RabbitMqVersion) -> Self {
        Self::of(Kind::RabbitMq(version))
    }

    fn of(kind: Kind) -> Self {
        Self { inner: Arc::new(Inner { kind, own: false, found: OnceCell::new() }) }
    }

    /// Started for these tests alone, so that they may stop it: addresses are passed over.
    pub fn own(self) -> Self {
        let inner = Inner { kind: self.inner.kind, own: true, found: OnceCell::new() };
        Self { inner: Arc::new(inner) }
    }

    /// Its address: bootstrap servers of a Kafka, the URL of a RabbitMQ.
    ///
    /// # Errors
    /// Absent where there is none, with what was tried; any other where one did not start.
    pub async fn address(&self) -> Result<String, Unready> {
        match self.found().await? {
            Found::Address { address, .. } => Ok(address.clone()),
            Found::Kafka(kafka) => Ok(kafka.bootstrap_servers().to_owned()),
            Found::RabbitMq(rabbitmq) => Ok(rabbitmq.amqp_url()),
            #[cfg(feature = "containers")]
            Found::Container(container) => Ok(container.address().to_owned()),
        }
    }

    /// Lets the suite stop and start it, if it was started for these tests.
    ///
    /// # Errors
    /// As [`RealBroker::address`].
    pub async fn with_outages(&self, fixture: Fixture) -> Result<Fixture, Unready> {
        if let Found::Address { variable, .. } = self.found().await? {
            let why = format!("the broker of {variable} is not for these tests alone to stop");
            return Ok(fixture.without_outage(why));
        }
        let (stop, start) = (self.clone(), self.clone());
        Ok(fixture.outage(
            move || {
                let broker = stop.clone();
                async move { broker.kill().await }
            },
            move || {
                let broker = start.clone();
                async move { broker.restart().await }
            },
        ))
    }

    /// Ends it at once, as a power cut would; its data stays.
    ///
    /// # Errors
    /// It was not started for these tests, or cannot be ended.
    pub async fn kill(&self) -> Result<(), BoxError> {
        match self.ours().await? {
            Found::Address { .. } => Err("it was not started for these tests".into()),
            Found::Kafka(kafka) => Ok(kafka.kill().await?),
            Found::RabbitMq(rabbitmq) => {
                tokio::time::sleep(RABBITMQ_TO_DISK).await;
                Ok(rabbitmq.kill().await?)
            }
            #[cfg(feature = "containers")]
            Found::Container(container) => {
                if matches!(self.inner.kind, Kind::RabbitMq(_)) {
                    tokio::time::sleep(RABBITMQ_TO_DISK).await;
                }
                container.kill().await
            }
        }
    }

    /// Starts it again at the same address with its data.
    ///
    /// # Errors
    /// It was not started for these tests, or does not start.
    pub async fn restart(&self) -> Result<(), BoxError> {
        match self.ours().await? {
            Found::Address { .. } => Err("it was not started for these tests".into()),
            Found::Kafka(kafka) => Ok(kafka.restart().await?),
            Found::RabbitMq(rabbitmq) => Ok(rabbitmq.restart().await?),
            #[cfg(feature = "containers")]
            Found::Container(container) => container.restart().await,
        }
    }

    async fn ours(&self) -> Result<&Found, BoxError> {
        self.look().await.as_ref().map_err(|missing| missing.to_string().into())
    }

    async fn found(&self) -> Result<&Found, Unready> {
        self.look().await.as_ref().map_err(|missing| match missing.broken {
            true => Unready::from(missing.to_string()),
            false => Unready::absent(missing.to_string()),
        })
    }

    async fn look(&self) -> &Result<Found, Missing> {
        let Inner { kind, own, found } = &*self.inner;
        found.get_or_init(|| kind.find(*own)).await
    }
}

impl Kind {
    async fn find(self, own: bool) -> Result<Found, Missing> {
        let mut missing = Missing { tried: Vec::new(), broken: false };
        let from = std::env::var("BROKER_TESTKIT_FROM").unwrap_or_default();
        let only = match Source::only(&from) {
            Ok(only) => only,
            Err(unknown) => return Err(Missing { tried: vec![unknown], broken: true }),
        };
        for source in [Source::Address, Source::Docker, Source::Local] {
            if only.is_some_and(|only| only != source) {
                continue;
            }
            let found = match source {
                Source::Address => self.in_environment(own),
                Source::Docker => self.in_docker().await,
                Source::Local => self.local().await.map_err(|error| {
                    missing.broken = !matches!(error, LocalError::NotInstalled { .. });
                    format!("as a local process: {error}")
                }),
            };
            match found {
                Ok(found) => return Ok(found),
                Err(why) => missing.tried.push(why),
            }
        }
        Err(missing)
    }

    fn in_environment(self, own: bool) -> Result<Found, String> {
        if own {
            return Err("an address is not for these tests alone".to_owned());
        }
        let variables = self.variables();
        in_environment(variables, |variable| std::env::var(variable).ok())
            .ok_or_else(|| format!("none is set of {}", variables.join(", ")))
    }

    #[cfg(feature = "containers")]
    async fn in_docker(self) -> Result<Found, String> {
        container::Container::start(self.recipe()).await.map(Found::Container)
    }

    #[cfg(not(feature = "containers"))]
    async fn in_docker(self) -> Result<Found, String> {
        Err("Docker is not tried without the feature containers".to_owned())
    }

    async fn local(self) -> Result<Found, LocalError> {
        match self {
            Self::Kafka => Kafka::start(KafkaConfig::default()).await.map(Found::Kafka),
            Self::RabbitMq(version) => {
                RabbitMq::start(RabbitMqConfig::version(version)).await.map(Found::RabbitMq)
            }
        }
    }

    fn variables(self) -> &'static [&'static str] {
        match self {
            Self::Kafka => &["BROKER_TESTKIT_KAFKA", "KAFKA_BROKERS"],
            Self::RabbitMq(RabbitMqVersion::V3) => &["BROKER_TESTKIT_RABBITMQ_3"],
            Self::RabbitMq(_) => &["BROKER_TESTKIT_RABBITMQ_4", "RABBITMQ_URL"],
        }
    }

    #[cfg(feature = "containers")]
    fn recipe(self) -> container::Recipe {
        match self {
            Self::Kafka => container::Recipe::kafka(),
            Self::RabbitMq(version) => container::Recipe::rabbitmq(version),
        }
    }
}

/// Where a broker may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Address,
    Docker,
    Local,
}

impl Source {
    /// The only one that is allowed by this value of `BROKER_TESTKIT_FROM`, if any is named.
    fn only(from: &str) -> Result<Option<Self>, String> {
        match from {
            "" => Ok(None),
            "address" => Ok(Some(Self::Address)),
            "docker" => Ok(Some(Self::Docker)),
            "local" => Ok(Some(Self::Local)),
            other => {
                Err(format!("BROKER_TESTKIT_FROM is '{other}': it may be address, docker or local"))
            }
        }
    }
}

/// The first of these variables that has a value.
fn in_environment(
    variables: &[&'static str],
    value: impl Fn(&str) -> Option<String>,
) -> Option<Found> {
    variables.iter().find_map(|variable| {
        let address = value(variable).filter(|address| !address.is_empty())?;
        Some(Found::Address { address, variable })
    })
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no broker was found: {}", self.tried.join("; "))
    }
}

impl fmt::Debug for RealBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RealBroker").field(&self.inner.kind).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_of_the_testkit_comes_before_the_general_one() {
        let variables = Kind::Kafka.variables();
        let both = in_environment(variables, |variable| Some(format!("by {variable}")));
        assert!(matches!(both, Some(Found::Address { variable: "BROKER_TESTKIT_KAFKA", .. })));
        let general = |variable: &str| (variable == "KAFKA_BROKERS").then(|| "a:1".to_owned());
        let found = in_environment(variables, general);
        assert!(matches!(found, Some(Found::Address { address, .. }) if address == "a:1"));
    }

    #[test]
    fn one_source_may_be_named_and_a_typing_error_is_not_passed_over() {
        assert_eq!(Source::only("docker"), Ok(Some(Source::Docker)));
        assert_eq!(Source::only(""), Ok(None));
        assert!(Source::only("dokcer").is_err_and(|why| why.contains("'dokcer'")));
    }

    #[test]
    fn an_empty_variable_is_as_none() {
        assert!(in_environment(Kind::Kafka.variables(), |_| Some(String::new())).is_none());
    }
}

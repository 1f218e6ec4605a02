//! The broker that is broken, and the way to it.

use std::num::NonZeroU64;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use broker_amqp::{Amqp, AmqpConfig};
use broker_api::Broker;
use broker_kafka::KafkaConfig;
use broker_testkit::local::{self, LocalBroker, LocalError, RabbitMq, RabbitMqConfig};
use broker_testkit::proxy::Proxy;
use serde::{Deserialize, Serialize};

use crate::Outcome;

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    Kafka,
    RabbitMq,
}

/// How a client reaches it: also another process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Address {
    kind: Kind,
    host: String,
}

impl Address {
    /// A client as an application has it, but quicker to notice that something is wrong: the
    /// defaults would make each row a minute.
    pub(crate) async fn connect(&self) -> broker_api::Result<Broker> {
        match self.kind {
            Kind::Kafka => {
                let config = KafkaConfig {
                    session_timeout: Some(Duration::from_secs(6)),
                    heartbeat_interval: Some(Duration::from_millis(500)),
                    revoke_timeout: Duration::from_secs(2),
                    ..KafkaConfig::new(&self.host)
                };
                let config = config.property("socket.timeout.ms", "4000");
                Ok(Broker::new(broker_kafka::Kafka::connect(config).await?))
            }
            Kind::RabbitMq => {
                let mut config = AmqpConfig::new(format!("amqp://guest:guest@{}/%2f", self.host));
                config.heartbeat = Duration::from_secs(2);
                config.reconnect_pause_max = Duration::from_secs(1);
                Ok(Broker::new(Amqp::connect(config).await?))
            }
        }
    }
}

/// A broker of its own for these tests, behind a proxy.
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    broker: Process,
    proxy: Proxy,
}

enum Process {
    Kafka(local::Kafka),
    RabbitMq(RabbitMq),
}

impl Subject {
    pub(crate) async fn start(kind: Kind) -> Result<Self, LocalError> {
        let proxy = Proxy::start()
            .await
            .map_err(|source| LocalError::Io { doing: "start a proxy".to_owned(), source })?;
        let broker = match kind {
            Kind::Kafka => {
                let advertised = format!("PLAINTEXT://{}", proxy.address());
                let config =
                    local::KafkaConfig::default().property("advertised.listeners", advertised);
                let kafka = local::Kafka::start(config).await?;
                proxy.forward_to(kafka.bootstrap_servers());
                Process::Kafka(kafka)
            }
            Kind::RabbitMq => {
                let rabbitmq = RabbitMq::start(RabbitMqConfig::default()).await?;
                let url = rabbitmq.amqp_url();
                let host = url.trim_start_matches("amqp://guest:guest@").trim_end_matches("/%2f");
                proxy.forward_to(Arc::from(host));
                Process::RabbitMq(rabbitmq)
            }
        };
        Ok(Self { kind, broker, proxy })
    }

    pub(crate) fn address(&self) -> Address {
        Address { kind: self.kind, host: self.proxy.address() }
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Slow enough to be felt by the load.
    pub(crate) fn throttle(&self) {
        self.proxy.throttle(NonZeroU64::MIN.saturating_add(20_000));
    }

    /// Closes every client's connection, as an operator does it.
    pub(crate) async fn close_connections(&self) -> Outcome {
        if let Process::RabbitMq(rabbitmq) = &self.broker {
            rabbitmq.rabbitmqctl(&["close_all_connections", "by the operator"]).await?;
        }
        Ok(())
    }
}

impl Deref for Subject {
    type Target = LocalBroker;

    fn deref(&self) -> &LocalBroker {
        match &self.broker {
            Process::Kafka(kafka) => kafka,
            Process::RabbitMq(rabbitmq) => rabbitmq,
        }
    }
}

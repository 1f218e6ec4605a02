//! The brokers that the applications run on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker_testkit::brokers::RealBroker;
use broker_testkit::conformance::Unready;
use broker_testkit::local::RabbitMqVersion;
use tokio::runtime::Runtime;

/// Variables for an application.
pub(crate) type Variables = Vec<(String, String)>;

/// A kind of broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No variable at all.
    Nothing,
    Kafka,
    RabbitMq3,
    RabbitMq4,
}

impl Kind {
    /// What an application says that it is on.
    pub(crate) fn said(self) -> &'static str {
        match self {
            Self::Nothing => "on the embedded broker",
            Self::Kafka => "on Kafka",
            Self::RabbitMq3 | Self::RabbitMq4 => "on RabbitMQ",
        }
    }
}

/// One broker, found or started when it is first used. The names of topics are the applications'
/// own, so one test at a time has it.
pub(crate) struct Place {
    pub(crate) kind: Kind,
    broker: Option<RealBroker>,
    alone: Mutex<()>,
    runtime: Arc<Runtime>,
}

/// A broker that no other test uses until this is dropped.
pub(crate) struct Visit<'a> {
    pub(crate) kind: Kind,
    pub(crate) variables: Variables,
    runtime: &'a Runtime,
    _alone: MutexGuard<'a, ()>,
}

impl Place {
    pub(crate) fn new(kind: Kind, runtime: Arc<Runtime>) -> Self {
        let broker = match kind {
            Kind::Nothing => None,
            Kind::Kafka => Some(RealBroker::kafka()),
            Kind::RabbitMq3 => Some(RealBroker::rabbitmq(RabbitMqVersion::V3)),
            Kind::RabbitMq4 => Some(RealBroker::rabbitmq(RabbitMqVersion::V4)),
        };
        Self { kind, broker, alone: Mutex::new(()), runtime }
    }

    pub(crate) fn visit(&self) -> Result<Visit<'_>, Unready> {
        let alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let address = self.broker.as_ref().map(|broker| self.runtime.block_on(broker.address()));
        let variables = match (self.kind, address.transpose()?) {
            (_, None) => Vec::new(),
            (Kind::Kafka, Some(address)) => vec![
                ("KAFKA_ENABLED".into(), "true".into()),
                ("KAFKA_BROKERS".into(), address),
                // So that the partitions of a killed consumer are soon another's.
                ("KAFKA_SESSION_TIMEOUT".into(), "6000".into()),
                ("KAFKA_HEARTBEAT_INTERVAL".into(), "500".into()),
            ],
            (_, Some(address)) => vec![("RABBITMQ_URL".into(), address)],
        };
        Ok(Visit { kind: self.kind, variables, runtime: &self.runtime, _alone: alone })
    }
}

impl Visit<'_> {
    /// Waits for something of the testkit.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

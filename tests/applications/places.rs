//! The brokers that the applications run on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker_testkit::local::{
    Kafka, KafkaConfig, LocalError, RabbitMq, RabbitMqConfig, RabbitMqVersion,
};
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

/// One broker, started when it is first used. The names of topics are the applications' own, so one
/// test at a time has it.
pub(crate) struct Place {
    pub(crate) kind: Kind,
    running: Mutex<Option<Running>>,
    runtime: Arc<Runtime>,
}

/// The handle that keeps it running, and how to reach it.
struct Running {
    #[expect(dead_code, reason = "ends the broker when dropped")]
    handle: Handle,
    variables: Variables,
}

enum Handle {
    Nothing,
    Kafka(#[expect(dead_code, reason = "ends the broker when dropped")] Kafka),
    RabbitMq(#[expect(dead_code, reason = "ends the broker when dropped")] RabbitMq),
}

/// A broker that nobody else uses until this is dropped.
pub(crate) struct Visit<'a> {
    pub(crate) kind: Kind,
    pub(crate) variables: Variables,
    _alone: MutexGuard<'a, Option<Running>>,
}

impl Place {
    pub(crate) fn new(kind: Kind, runtime: Arc<Runtime>) -> Self {
        Self { kind, running: Mutex::new(None), runtime }
    }

    pub(crate) fn visit(&self) -> Result<Visit<'_>, LocalError> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            *running = Some(self.runtime.block_on(start(self.kind))?);
        }
        let variables = running.as_ref().map(|running| running.variables.clone());
        Ok(Visit { kind: self.kind, variables: variables.unwrap_or_default(), _alone: running })
    }
}

async fn start(kind: Kind) -> Result<Running, LocalError> {
    let set = |name: &str, value: String| (name.to_owned(), value);
    let version = match kind {
        Kind::Nothing => return Ok(Running { handle: Handle::Nothing, variables: Vec::new() }),
        Kind::Kafka => {
            let kafka = Kafka::start(KafkaConfig::default()).await?;
            let variables = vec![
                set("KAFKA_ENABLED", "true".into()),
                set("KAFKA_BROKERS", kafka.bootstrap_servers().to_owned()),
                // So that the partitions of a killed consumer are soon another's.
                set("KAFKA_SESSION_TIMEOUT", "6000".into()),
                set("KAFKA_HEARTBEAT_INTERVAL", "500".into()),
            ];
            return Ok(Running { handle: Handle::Kafka(kafka), variables });
        }
        Kind::RabbitMq3 => RabbitMqVersion::V3,
        Kind::RabbitMq4 => RabbitMqVersion::V4,
    };
    let rabbitmq = RabbitMq::start(RabbitMqConfig::version(version)).await?;
    let variables = vec![set("RABBITMQ_URL", rabbitmq.amqp_url())];
    Ok(Running { handle: Handle::RabbitMq(rabbitmq), variables })
}

//! A RabbitMQ for the conformance suite: one at an address of the environment, else a local
//! process, which can be stopped and started as well.

use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use broker_amqp::{Amqp, AmqpConfig};
use broker_api::BoxError;
use broker_testkit::conformance::{self, Dress, Fixture, ForeignMessage, Unready};
use broker_testkit::local::{RabbitMq, RabbitMqConfig, RabbitMqVersion};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

/// Runs the suite on this version, at the address in this variable if it is set.
pub(crate) fn run(broker: &str, version: RabbitMqVersion, variable: &'static str) -> ExitCode {
    // Cases have runtimes of their own, which end; a local broker outlives them.
    let Ok(runtime) = Runtime::new() else { return ExitCode::FAILURE };
    let shared = Arc::new(Shared { broker: OnceCell::new(), runtime, version, variable });
    let code = conformance::run(broker, {
        let shared = shared.clone();
        move || fixture(shared.clone())
    });
    // Dropped outside every runtime, which ends the local broker.
    drop(shared);
    code
}

struct Shared {
    broker: OnceCell<Option<Arc<RabbitMq>>>,
    runtime: Runtime,
    version: RabbitMqVersion,
    variable: &'static str,
}

impl Shared {
    /// The local broker; `None` where there is one already.
    async fn broker(&self) -> Result<Option<Arc<RabbitMq>>, Unready> {
        let variable = self.variable;
        let start = || async {
            if std::env::var_os(variable).is_some() {
                return Ok(None);
            }
            let start = RabbitMq::start(RabbitMqConfig::version(self.version));
            match self.runtime.spawn(start).await? {
                Ok(broker) => Ok(Some(Arc::new(broker))),
                Err(error) => Err(Unready::absent(format!(
                    "{variable} is not set, and no local RabbitMQ: {error}"
                ))),
            }
        };
        self.broker.get_or_try_init(start).await.cloned()
    }
}

async fn fixture(shared: Arc<Shared>) -> Result<Fixture, Unready> {
    let local = shared.broker().await?;
    let url = match &local {
        Some(local) => local.amqp_url(),
        None => std::env::var(shared.variable)?,
    };
    let config = AmqpConfig::new(&url);
    let fixture = Fixture::new(move || Amqp::connect(config.clone()))
        .foreign(move |message| publish_with_pika(url.clone(), message));
    let Some(local) = local else { return Ok(fixture) };
    let (again, runtime) = (local.clone(), shared.runtime.handle().clone());
    let stopping = runtime.clone();
    let stop = move || {
        let (local, runtime) = (local.clone(), stopping.clone());
        async move { Ok(runtime.spawn(async move { local.stop().await }).await??) }
    };
    let start = move || {
        let (local, runtime) = (again.clone(), runtime.clone());
        async move { Ok(runtime.spawn(async move { local.restart().await }).await??) }
    };
    Ok(fixture.outage(stop, start))
}

/// With Python's client, which knows nothing of this crate family.
const PUBLISH: &str = r#"
import sys, datetime, decimal, pika
url, topic, partition, dress = sys.argv[1:]
properties = pika.BasicProperties()
if dress == "Odd":
    properties = pika.BasicProperties(
        message_id="42", content_type="größe/ü", timestamp=1, delivery_mode=1, reply_to="nobody",
        headers={
            "null": None, "empty": "", "text": "ü", "bytes": b"\xff\xfe\x01", "yes": True,
            "small": 1, "large": 2**40, "negative": -1, "half": 0.5,
            "decimal": decimal.Decimal("1.25"), "time": datetime.datetime(2020, 1, 1),
            "list": ["a", 1, None], "table": {"a": {"b": 1}}, "größe": "x", "message-id": "x",
            "x-death": "forged", "x-delivery-count": "many", "x-broker-key": 7,
            "x-broker-header-order": b"\xff", "timestamp_in_ms": "soon", "traceparent": "00-x",
        })
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
channel.basic_publish(topic, partition, sys.stdin.buffer.read(), properties, mandatory=True)
connection.close()
"#;

async fn publish_with_pika(url: String, message: ForeignMessage) -> Result<(), BoxError> {
    tokio::task::spawn_blocking(move || {
        let dress = if message.dress == Dress::Odd { "Odd" } else { "Bare" };
        // The interpreter of the system is the one that has pika.
        let mut python = Command::new("/usr/bin/python3")
            .args(["-c", PUBLISH, &url, message.topic.as_str()])
            .args([&message.partition.to_string(), dress])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // Taken, so that it is closed and Python sees the end.
        if let Some(mut stdin) = python.stdin.take() {
            stdin.write_all(&message.payload)?;
        }
        let output = python.wait_with_output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
        }
    })
    .await?
}

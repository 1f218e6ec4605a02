//! A RabbitMQ for the conformance suite, found or started by the testkit.

use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use broker_amqp::{Amqp, AmqpConfig};
use broker_api::BoxError;
use broker_testkit::brokers::RealBroker;
use broker_testkit::conformance::{self, Dress, Fixture, ForeignMessage, Unready};
use broker_testkit::local::RabbitMqVersion;

/// Runs the suite on this version.
pub(crate) fn run(broker: &str, version: RabbitMqVersion) -> ExitCode {
    let real = RealBroker::rabbitmq(version);
    conformance::run(broker, move || fixture(real.clone()))
}

async fn fixture(real: RealBroker) -> Result<Fixture, Unready> {
    let url = real.address().await?;
    let mut config = AmqpConfig::new(&url);
    // No fleet of clients to be spread here, and less to wait for after an outage.
    config.reconnect_pause_max = Duration::from_secs(1);
    let fixture = Fixture::new(move || Amqp::connect(config.clone()))
        .foreign(move |message| publish_with_pika(url.clone(), message));
    real.with_outages(fixture).await
}

/// With Python's client, which knows nothing of this crate family. Types that it cannot write have a
/// test of their own.
const PUBLISH: &str = r#"
import sys, datetime, decimal, pika
url, topic, partition, dress, *headers = sys.argv[1:]
properties = pika.BasicProperties()
if headers:
    properties = pika.BasicProperties(headers=dict(zip(headers[::2], headers[1::2])))
if dress == "Odd":
    properties = pika.BasicProperties(
        message_id="42", content_type="größe/ü", timestamp=1, delivery_mode=1, reply_to="nobody",
        headers={
            "null": None, "empty": "", "text": "ü", "bytes": b"\xff\xfe\x01", "yes": True,
            "small": 1, "large": 2**40, "negative": -1,
            "decimal": decimal.Decimal("1.25"), "time": datetime.datetime(2020, 1, 1),
            "list": ["a", 1, None], "table": {"a": {"b": 1}}, "größe": "x", "message-id": "x",
            "x-death": "forged", "x-delivery-count": "many", "x-broker-key": 7,
            "x-broker-headers": b"\xff", "timestamp_in_ms": "soon", "traceparent": "00-x",
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
        let headers = if let Dress::Headers(headers) = message.dress { headers } else { &[] };
        // The interpreter of the system is the one that has pika.
        let mut python = Command::new("/usr/bin/python3")
            .args(["-c", PUBLISH, &url, message.topic.as_str()])
            .args([&message.partition.to_string(), dress])
            .args(headers.iter().flat_map(|(name, value)| [name, value]))
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

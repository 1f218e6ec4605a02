//! A Kafka for the conformance suite, found or started by the testkit.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use broker_api::BoxError;
use broker_kafka::{Kafka, KafkaConfig};
use broker_testkit::brokers::RealBroker;
use broker_testkit::conformance::{Dress, Fixture, ForeignMessage, Unready};

/// Makes the fixture of a case.
type Provide = dyn Fn() -> Pin<Box<dyn Future<Output = Result<Fixture, Unready>>>> + Send + Sync;

/// A Kafka for each case, with these settings of each connection.
pub(crate) fn kafka(
    settings: impl Fn(KafkaConfig) -> KafkaConfig + Send + Sync + 'static,
) -> Arc<Provide> {
    let (real, settings) = (RealBroker::kafka(), Arc::new(settings));
    Arc::new(move || Box::pin(fixture(real.clone(), settings.clone())))
}

async fn fixture(
    real: RealBroker,
    settings: Arc<impl Fn(KafkaConfig) -> KafkaConfig>,
) -> Result<Fixture, Unready> {
    let brokers = real.address().await?;
    // A member that holds messages for ever makes each rebalance wait so long.
    let revoke_timeout = Duration::from_secs(2);
    let config = settings(KafkaConfig { revoke_timeout, ..KafkaConfig::new(&brokers) });
    let fixture = Fixture::new(move || Kafka::connect(config.clone()))
        .foreign(move |message| publish_with_kcat(brokers.clone(), message));
    real.with_outages(fixture).await
}

async fn publish_with_kcat(brokers: String, message: ForeignMessage) -> Result<(), BoxError> {
    tokio::task::spawn_blocking(move || {
        let mut payload = tempfile::NamedTempFile::new()?;
        payload.write_all(&message.payload)?;
        let mut kcat = std::process::Command::new("kcat");
        kcat.args(["-P", "-b", &brokers, "-t", message.topic.as_str()]);
        kcat.args(["-p", &message.partition.to_string()]);
        if message.dress == Dress::Odd {
            let headers: [&[u8]; 9] = [
                b"repeated=1",
                b"null",
                b"empty=",
                b"bytes=\xff\xfe\x01",
                b"\xff-name=x",
                "größe=ü".as_bytes(),
                b"repeated=2",
                b"message-id=42",
                b"content-type=\xff",
            ];
            for header in headers {
                kcat.arg("-H").arg(OsStr::from_bytes(header));
            }
        }
        if let Dress::Headers(headers) = message.dress {
            for (name, value) in headers {
                kcat.arg("-H").arg(format!("{name}={value}"));
            }
        }
        let output = kcat.arg(payload.path()).output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
        }
    })
    .await?
}

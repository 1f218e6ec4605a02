//! A Kafka for the conformance suite: the one of `KAFKA_BROKERS`, else a local process, which can
//! be stopped and started as well.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use broker_api::BoxError;
use broker_kafka::{Kafka, KafkaConfig};
use broker_testkit::conformance::{self, Dress, Fixture, ForeignMessage, Unready};
use broker_testkit::local;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

/// Runs the suite, with these settings of each connection.
pub(crate) fn run(
    broker: &str,
    settings: impl Fn(KafkaConfig) -> KafkaConfig + Send + Sync + 'static,
) -> ExitCode {
    // Cases have runtimes of their own, which end; a local broker outlives them.
    let Ok(runtime) = Runtime::new() else { return ExitCode::FAILURE };
    let shared =
        Arc::new(Shared { broker: OnceCell::new(), runtime, settings: Box::new(settings) });
    let code = conformance::run(broker, {
        let shared = shared.clone();
        move || fixture(shared.clone())
    });
    // Dropped outside every runtime, which ends the local broker.
    drop(shared);
    code
}

struct Shared {
    broker: OnceCell<Option<Arc<local::Kafka>>>,
    runtime: Runtime,
    settings: Box<dyn Fn(KafkaConfig) -> KafkaConfig + Send + Sync>,
}

impl Shared {
    /// The local broker; `None` where there is one already.
    async fn broker(&self) -> Result<Option<Arc<local::Kafka>>, Unready> {
        let start = || async {
            if std::env::var_os("KAFKA_BROKERS").is_some() {
                return Ok(None);
            }
            let start = local::Kafka::start(local::KafkaConfig::default());
            match self.runtime.spawn(start).await? {
                Ok(broker) => Ok(Some(Arc::new(broker))),
                Err(error) => Err(Unready::absent(format!(
                    "KAFKA_BROKERS is not set, and no local Kafka: {error}"
                ))),
            }
        };
        self.broker.get_or_try_init(start).await.cloned()
    }
}

async fn fixture(shared: Arc<Shared>) -> Result<Fixture, Unready> {
    let local = shared.broker().await?;
    let brokers = match &local {
        Some(local) => local.bootstrap_servers().to_owned(),
        None => std::env::var("KAFKA_BROKERS")?,
    };
    // A member that holds messages for ever makes each rebalance wait so long.
    let revoke_timeout = Duration::from_secs(2);
    let config = (shared.settings)(KafkaConfig { revoke_timeout, ..KafkaConfig::new(&brokers) });
    let fixture = Fixture::new(move || Kafka::connect(config.clone()))
        .foreign(move |message| publish_with_kcat(brokers.clone(), message));
    let Some(local) = local else { return Ok(fixture) };
    let (again, runtime) = (local.clone(), shared.runtime.handle().clone());
    let stopping = runtime.clone();
    let stop = move || {
        let (local, runtime) = (local.clone(), stopping.clone());
        async move { Ok(runtime.spawn(async move { local.kill().await }).await??) }
    };
    let start = move || {
        let (local, runtime) = (again.clone(), runtime.clone());
        async move { Ok(runtime.spawn(async move { local.restart().await }).await??) }
    };
    Ok(fixture.outage(stop, start))
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
        let output = kcat.arg(payload.path()).output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
        }
    })
    .await?
}

//! The launcher on the real brokers: each starts, answers, breaks, comes back with its data, and leaves nothing behind.
//!
//! One that is not installed is reported as ignored, with the reason; with `BROKER_TESTKIT_REQUIRE=1` it fails.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use broker_testkit::local::{
    Kafka, KafkaConfig, LocalBroker, LocalError, ProcessId, RabbitMq, RabbitMqConfig,
    RabbitMqVersion,
};
use libtest_mimic::{Arguments, Trial};

mod launched;

use launched::Outcome;

/// Set for the copy of this program that is to be killed with a broker in its hands.
const VICTIM: &str = "LOCAL_BROKERS_VICTIM";
/// What the brokers must not forget.
const KEPT: &str = "kept";
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy)]
enum Kind {
    Kafka,
    RabbitMq3,
    RabbitMq4,
}

enum Broker {
    Kafka(Kafka),
    RabbitMq(RabbitMq),
}

fn main() -> ExitCode {
    if let Ok(kind) = std::env::var(VICTIM) {
        return be_killed(&kind);
    }
    let mut trials = Vec::new();
    for kind in [Kind::Kafka, Kind::RabbitMq3, Kind::RabbitMq4] {
        trials.push(trial(
            kind,
            "answers, and its data outlast a stop, a kill and a restart",
            async move || lives(Broker::start(kind).await?).await,
        ));
        trials.push(trial(
            kind,
            "keeps silent while paused, and speaks when resumed",
            async move || pauses(Broker::start(kind).await?).await,
        ));
        trials.push(trial(kind, "leaves no process and no file when dropped", async move || {
            leaves_nothing(Broker::start(kind).await?).await
        }));
        trials.push(trial(
            kind,
            "ends when its owner is killed, and another one does not",
            async move || dies_with_its_owner(kind, Broker::start(kind).await?),
        ));
    }
    trials.push(trial(Kind::RabbitMq4, "shows its log when it does not start", async || {
        explains_failure().await
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial<F>(kind: Kind, name: &str, test: F) -> Trial
where
    F: AsyncFnOnce() -> Outcome + Send + 'static,
{
    launched::trial(format!("{kind:?} {name}"), test)
}

async fn lives(broker: Broker) -> Outcome {
    ensure(broker.greets()?, "it does not answer after the start")?;
    broker.remember().await?;

    let address = broker.address();
    broker.restart().await?;
    ensure(broker.greets()? && broker.remembers().await?, "an orderly restart lost data")?;
    broker.kill().await?;
    ensure(
        broker.process().await.is_none() && broker.greets().is_err(),
        "it answers after a kill",
    )?;
    broker.restart().await?;
    ensure(broker.greets()? && broker.remembers().await?, "a kill lost data")?;
    broker.stop().await?;
    ensure(broker.greets().is_err(), "it answers after a stop")?;
    broker.stop().await?; // twice is no error
    broker.restart().await?;
    ensure(broker.remembers().await? && broker.address() == address, "a stop lost data")
}

async fn pauses(broker: Broker) -> Outcome {
    broker.pause().await?;
    ensure(!broker.greets()?, "it answers while paused")?;
    broker.resume().await?;
    ensure(broker.greets()?, "it does not answer when resumed")?;
    // One that is paused must still be possible to stop, and to kill.
    broker.pause().await?;
    broker.restart().await?;
    broker.pause().await?;
    broker.kill().await?;
    let error = broker.pause().await.err().map(|error| error.to_string()).unwrap_or_default();
    ensure(error.contains("is not running"), &format!("pausing one that is down: '{error}'"))
}

async fn leaves_nothing(broker: Broker) -> Outcome {
    let dir = broker.dir().to_owned();
    let process = broker.process().await.ok_or("it has no process")?;
    ensure(process.is_alive() && !processes_of(&broker)?.is_empty(), "it has no process")?;
    let mark = mark(&broker);
    // As a failing test does it.
    let panicked = tokio::spawn(async move {
        let _broker = broker;
        std::panic::resume_unwind(Box::new("a test failed"));
    });
    ensure(panicked.await.is_err_and(|error| error.is_panic()), "no panic")?;
    ensure(!process.is_alive(), "its process runs on")?;
    ensure(processes_with(&mark)?.is_empty(), "one of its processes runs on")?;
    ensure(!dir.exists(), "its directory is still there")
}

/// Starts this program again with a broker, kills it with no chance to clean up, and looks what is left.
fn dies_with_its_owner(kind: Kind, other: Broker) -> Outcome {
    let mut victim = Command::new(std::env::current_exe()?)
        .env(VICTIM, format!("{kind:?}"))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(victim.stdout.take().ok_or("no stdout")?),
        &mut line,
    )?;
    let broker = ProcessId::of(line.trim().parse()?);
    victim.kill()?;
    victim.wait()?;
    let broker = broker.ok_or("the broker was not running")?;
    let deadline = Instant::now() + LIMIT;
    while broker.is_alive() {
        ensure(Instant::now() < deadline, "the broker outlived its owner")?;
        std::thread::sleep(Duration::from_millis(10));
    }
    ensure(other.greets()?, "a broker of another owner does not answer any more")
}

/// The other side of [`dies_with_its_owner`].
fn be_killed(kind: &str) -> ExitCode {
    let kinds = [Kind::Kafka, Kind::RabbitMq3, Kind::RabbitMq4];
    let Some(kind) = kinds.into_iter().find(|known| format!("{known:?}") == kind) else {
        return ExitCode::FAILURE;
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    runtime.block_on(async {
        let Ok(broker) = Broker::start(kind).await else { return ExitCode::FAILURE };
        let Some(process) = broker.process().await else { return ExitCode::FAILURE };
        println!("{}", process.number());
        std::future::pending().await
    })
}

async fn explains_failure() -> Outcome {
    match RabbitMq::start(RabbitMqConfig::default().setting("no.such.setting", "1")).await {
        Err(LocalError::Ended { name, log, .. }) => {
            ensure(name.starts_with("RabbitMQ 4") && log.contains("no.such.setting"), &log)
        }
        Err(error) => Err(error.into()),
        Ok(_) => Err("it started with an unknown setting".into()),
    }
}

impl Broker {
    async fn start(kind: Kind) -> Result<Self, LocalError> {
        let version = match kind {
            Kind::Kafka => return Ok(Self::Kafka(Kafka::start(KafkaConfig::default()).await?)),
            Kind::RabbitMq3 => RabbitMqVersion::V3,
            Kind::RabbitMq4 => RabbitMqVersion::V4,
        };
        Ok(Self::RabbitMq(RabbitMq::start(RabbitMqConfig::version(version)).await?))
    }

    /// `host:port`.
    fn address(&self) -> String {
        match self {
            Self::Kafka(kafka) => kafka.bootstrap_servers().to_owned(),
            Self::RabbitMq(rabbitmq) => rabbitmq
                .amqp_url()
                .trim_start_matches("amqp://guest:guest@")
                .trim_end_matches("/%2f")
                .to_owned(),
        }
    }

    /// Says hello; an error is a port nobody listens on, `false` is silence.
    fn greets(&self) -> Result<bool, Box<dyn Error>> {
        let answer = match self {
            Self::Kafka(_) => self.ask(&kafka_request(18, 0, &[]))?,
            Self::RabbitMq(_) => self.ask(b"AMQP\x00\x00\x09\x01")?,
        };
        Ok(!answer.is_empty())
    }

    fn ask(&self, question: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut stream = TcpStream::connect(self.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(question)?;
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).unwrap_or_default();
        answer.truncate(length);
        Ok(answer)
    }

    async fn remember(&self) -> Outcome {
        match self {
            Self::Kafka(_) => {
                // Asking for a topic makes it, on a stock broker, but not at once.
                let deadline = Instant::now() + LIMIT;
                while !self.remembers().await? {
                    ensure(Instant::now() < deadline, "no topic was made")?;
                    self.ask(&kafka_request(3, 2, &topic_list()))?;
                }
            }
            Self::RabbitMq(rabbitmq) => drop(rabbitmq.rabbitmqctl(&["add_vhost", KEPT]).await?),
        }
        Ok(())
    }

    async fn remembers(&self) -> Result<bool, Box<dyn Error>> {
        Ok(match self {
            Self::Kafka(kafka) => {
                let metadata = self.ask(&kafka_request(3, 2, &topic_list()))?;
                let id = kafka.cluster_id().as_bytes();
                kafka.dir().join("data").join(format!("{KEPT}-0")).is_dir()
                    && metadata.windows(id.len()).any(|window| window == id)
            }
            Self::RabbitMq(rabbitmq) => {
                rabbitmq.rabbitmqctl(&["list_vhosts"]).await?.lines().any(|line| line == KEPT)
            }
        })
    }
}

impl Deref for Broker {
    type Target = LocalBroker;

    fn deref(&self) -> &LocalBroker {
        match self {
            Self::Kafka(kafka) => kafka,
            Self::RabbitMq(rabbitmq) => rabbitmq,
        }
    }
}

fn kafka_request(api: u16, version: u16, body: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    request.extend(api.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend([0, 0, 0, 1, 0xff, 0xff]); // correlation id; no client id
    request.extend(body);
    let size = u32::try_from(request.len()).unwrap_or_default();
    [size.to_be_bytes().as_slice(), &request].concat()
}

/// One topic, as a metadata request holds it.
fn topic_list() -> Vec<u8> {
    [&[0, 0, 0, 1, 0, 4], KEPT.as_bytes()].concat()
}

/// What all the processes of a broker have in their command line or environment, and nothing else has.
fn mark(broker: &Broker) -> String {
    match broker {
        Broker::Kafka(_) => broker.dir().display().to_string(),
        Broker::RabbitMq(_) => format!(
            "RABBITMQ_NODE_PORT={}",
            broker.address().rsplit(':').next().unwrap_or_default()
        ),
    }
}

fn processes_of(broker: &Broker) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    processes_with(&mark(broker))
}

fn processes_with(mark: &str) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let contains = |path: PathBuf| {
        std::fs::read(path)
            .is_ok_and(|bytes| bytes.windows(mark.len()).any(|window| window == mark.as_bytes()))
    };
    let all = std::fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    Ok(all
        .filter(|path| contains(path.join("cmdline")) || contains(path.join("environ")))
        .collect())
}

fn ensure(holds: bool, otherwise: &str) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

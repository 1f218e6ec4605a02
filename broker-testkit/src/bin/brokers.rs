//! `brokers up [--rabbitmq 3|4] | down | status`: real brokers that stay until they are taken down.
//!
//! What it prints on stdout is for the shell's `eval`; what it says to people goes to stderr.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use broker_testkit::local::{
    Installation, Kafka, KafkaConfig, LocalBroker, LocalError, ProcessId, RabbitMq, RabbitMqConfig,
    RabbitMqVersion,
};
use serde::{Deserialize, Serialize};

const USAGE: &str = "usage: brokers up [--rabbitmq 3|4] | down | status";
const STOP_LIMIT: Duration = Duration::from_secs(30);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

enum Command {
    Up(RabbitMqVersion),
    Down,
    Status,
}

/// A broker that was started here and outlived it.
#[derive(Serialize, Deserialize)]
struct Record {
    name: String,
    process: ProcessId,
    /// What a program needs in its environment to use it.
    variables: String,
}

/// The records of the brokers that are up, one folder for each.
struct Records {
    folder: PathBuf,
    /// Keeps a second `up` or `down` waiting until this one is done.
    _turn: File,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(command) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("brokers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl Iterator<Item = String>) -> Option<Command> {
    let arguments: Vec<String> = arguments.collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["up"] => Some(Command::Up(RabbitMqVersion::default())),
        ["up", "--rabbitmq", "3"] => Some(Command::Up(RabbitMqVersion::V3)),
        ["up", "--rabbitmq", "4"] => Some(Command::Up(RabbitMqVersion::V4)),
        ["down"] => Some(Command::Down),
        ["status"] => Some(Command::Status),
        _ => None,
    }
}

async fn run(command: Command) -> Result<()> {
    let records = Records::open()?;
    match command {
        Command::Up(version) => {
            // Side by side; and the failure of one does not take back the other.
            let (kafka, rabbitmq) = tokio::join!(kafka(&records), rabbitmq(&records, version));
            for record in [&kafka, &rabbitmq].into_iter().flatten() {
                println!("export {}", record.variables);
            }
            kafka?;
            rabbitmq?;
            eprintln!(
                "brokers: Kafka is used while KAFKA_ENABLED=true; for RabbitMQ: export KAFKA_ENABLED=false"
            );
            Ok(())
        }
        Command::Down => {
            let (kafka, rabbitmq) = tokio::join!(records.end("kafka"), records.end("rabbitmq"));
            if !(kafka? | rabbitmq?) {
                eprintln!("brokers: none is up");
            }
            Ok(())
        }
        Command::Status => {
            for kind in ["kafka", "rabbitmq"] {
                match records.alive(kind) {
                    Some(record) => {
                        eprintln!(
                            "brokers: {} is up (process {})",
                            record.name,
                            record.process.number()
                        );
                        println!("export {}", record.variables);
                    }
                    None => eprintln!("brokers: {kind} is down"),
                }
            }
            Ok(())
        }
    }
}

async fn kafka(records: &Records) -> Result<Record> {
    if let Some(record) = records.alive_already("kafka") {
        return Ok(record);
    }
    let mut config = KafkaConfig::default().home(records.home("kafka"));
    if is_free(9092) {
        config = config.port(9092);
    }
    let kafka = Kafka::start(config).await?;
    let variables = format!("KAFKA_ENABLED=true KAFKA_BROKERS={}", kafka.bootstrap_servers());
    records.keep("kafka", &kafka, variables).await
}

async fn rabbitmq(records: &Records, version: RabbitMqVersion) -> Result<Record> {
    if let Some(record) = records.alive_already("rabbitmq") {
        return Ok(record);
    }
    let mut config = RabbitMqConfig::version(version).home(records.home("rabbitmq"));
    if is_free(5672) {
        config = config.port(5672);
    }
    let rabbitmq = RabbitMq::start(config).await?;
    let variables = format!("RABBITMQ_URL={}", rabbitmq.amqp_url());
    records.keep("rabbitmq", &rabbitmq, variables).await
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

impl Records {
    fn open() -> Result<Self> {
        let folder = Installation::find()?.path().join("up");
        fs::create_dir_all(&folder)
            .map_err(|error| format!("could not write {}: {error}", folder.display()))?;
        let turn = File::create(folder.join("lock"))?;
        turn.lock()?;
        Ok(Self { folder, _turn: turn })
    }

    fn home(&self, kind: &str) -> PathBuf {
        self.folder.join(kind)
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{kind}.json"))
    }

    /// The record of a broker that runs: a file alone proves nothing, its process may be long gone.
    fn alive(&self, kind: &str) -> Option<Record> {
        let record: Record = serde_json::from_slice(&fs::read(self.file(kind)).ok()?).ok()?;
        record.process.is_alive().then_some(record)
    }

    fn alive_already(&self, kind: &str) -> Option<Record> {
        let record = self.alive(kind)?;
        eprintln!("brokers: {} is up already", record.name);
        Some(record)
    }

    async fn keep(&self, kind: &str, broker: &LocalBroker, variables: String) -> Result<Record> {
        let process =
            broker.process().await.ok_or_else(|| format!("{} has ended", broker.name()))?;
        let record = Record { name: broker.name().to_owned(), process, variables };
        // Written before the broker is let go: there is never one that `down` does not know of.
        fs::write(self.file(kind), serde_json::to_vec_pretty(&record)?)?;
        broker.detach().await?;
        eprintln!("brokers: {} is up, its log is {}", record.name, broker.log().display());
        Ok(record)
    }

    /// Ends the broker of this record, and no other; says whether there was one.
    async fn end(&self, kind: &str) -> Result<bool> {
        let record = self.alive(kind);
        if let Some(record) = &record {
            let by_itself = record.process.end(STOP_LIMIT).await;
            eprintln!(
                "brokers: {} is down{}",
                record.name,
                if by_itself { "" } else { " (killed: it did not end when asked to)" }
            );
        }
        remove(&self.file(kind), |path| fs::remove_file(path))?;
        remove(&self.home(kind), |path| fs::remove_dir_all(path))?;
        Ok(record.is_some())
    }
}

fn remove(path: &Path, how: impl Fn(&Path) -> io::Result<()>) -> Result<()> {
    match how(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LocalError::Io { doing: format!("remove {}", path.display()), source: error }
                .into())
        }
        _ => Ok(()),
    }
}

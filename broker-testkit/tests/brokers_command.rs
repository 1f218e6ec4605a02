//! `scripts/brokers`, that is the program behind it: what `up` starts stays, and `down` ends that and nothing else.

use std::error::Error;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, ExitCode, Output};

use broker_testkit::local::{Installation, Kafka, KafkaConfig, LocalError};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let trial = Trial::ignorable_test("what up starts stays until down ends it", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match runtime.block_on(Kafka::start(KafkaConfig::default())) {
            Ok(other) => {
                lives(&other).map_err(|error| Failed::from(error.to_string()))?;
                Ok(Completion::Completed)
            }
            Err(missing @ LocalError::NotInstalled { .. })
                if std::env::var_os("BROKER_TESTKIT_REQUIRE").is_none() =>
            {
                Ok(Completion::ignored_with(missing))
            }
            Err(error) => Err(error.into()),
        }
    });
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}

fn lives(other: &Kafka) -> Result<()> {
    // With records of its own: what the user has up is not the test's to end.
    let cache = tempfile::tempdir()?;
    let installed = Installation::find()?;
    for part in ["kafka", "rabbitmq-3", "rabbitmq-4"] {
        symlink(installed.path().join(part), cache.path().join(part))?;
    }
    let brokers = Brokers { cache: cache.path() };
    ensure(brokers.says(&["status"], "kafka is down")?, "up before it was asked for")?;

    let up = brokers.run(&["up", "--rabbitmq", "3"])?;
    let variables = text(&up.stdout);
    let (kafka, rabbitmq) = addresses(&variables).ok_or_else(|| format!("printed: {variables}"))?;
    ensure(text(&up.stderr).contains("RabbitMQ 3."), "not the version that was asked for")?;
    ensure(listens(&kafka) && listens(&rabbitmq), "what is up does not answer")?;

    let again = brokers.run(&["up"])?;
    ensure(text(&again.stdout) == variables, "a second up has other addresses")?;
    ensure(text(&again.stderr).contains("up already"), "a second up does not say so")?;
    let status = brokers.run(&["status"])?;
    ensure(text(&status.stdout) == variables, "status has other addresses")?;

    let down = text(&brokers.run(&["down"])?.stderr);
    ensure(down.matches("is down").count() == 2 && !down.contains("killed"), &down)?;
    ensure(!listens(&kafka) && !listens(&rabbitmq), "it answers after down")?;
    ensure(listens(other.bootstrap_servers()), "down ended another one")?;
    ensure(brokers.says(&["down"], "none is up")?, "a second down found something")?;
    let left: Vec<_> = std::fs::read_dir(cache.path().join("up"))?
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| name != "lock")
        .collect();
    ensure(left.is_empty(), &format!("left behind: {left:?}"))?;

    let wrong = brokers.command(&["up", "--rabbitmq", "2"]).output()?;
    ensure(wrong.status.code() == Some(2), "a wrong argument is no error")
}

struct Brokers<'a> {
    cache: &'a Path,
}

impl Brokers<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brokers"));
        command.args(arguments).env("ANYBROKER_CACHE", self.cache);
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.command(arguments).output()?;
        ensure(output.status.success(), &format!("{arguments:?}: {}", text(&output.stderr)))?;
        Ok(output)
    }

    fn says(&self, arguments: &[&str], what: &str) -> Result<bool> {
        Ok(text(&self.run(arguments)?.stderr).contains(what))
    }
}

impl Drop for Brokers<'_> {
    /// Also when the test failed half-way.
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
    }
}

/// `host:port` of each, out of what is printed for the shell.
fn addresses(variables: &str) -> Option<(String, String)> {
    let mut lines = variables.lines();
    let kafka = lines.next()?.strip_prefix("export KAFKA_ENABLED=true KAFKA_BROKERS=")?;
    let rabbitmq = lines.next()?.strip_prefix("export RABBITMQ_URL=amqp://guest:guest@")?;
    Some((kafka.to_owned(), rabbitmq.strip_suffix("/%2f")?.to_owned()))
}

fn listens(address: &str) -> bool {
    TcpStream::connect(address).is_ok()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ensure(holds: bool, otherwise: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

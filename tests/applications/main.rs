//! The applications in `examples/`, as processes, on every broker.
//!
//! A real broker that is not installed is reported as ignored, with the reason; with
//! `BROKER_TESTKIT_REQUIRE=1` it fails.

mod app;
mod foreign;
mod places;

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::process::Signal;
use serde_json::Value;

use app::{App, LIMIT};
use places::{Kind, Place, Visit};

type Outcome = Result<(), Box<dyn Error>>;
type Test = fn(&Visit, &Path) -> Outcome;

const EVERYWHERE: &[(&str, Test)] = &[
    ("feature usage is published, consumed and stored", stores_feature_usage),
    ("credits are counted in order, each operation once", counts_credits),
    ("the ledger goes on where it was", continues_the_ledger),
    ("a consumer ends in order on SIGTERM and on SIGINT", ends_on_signals),
];

/// On the embedded broker a message does not outlive its process.
const BETWEEN_PROCESSES: &[(&str, Test)] = &[
    ("what one process published another one consumes, once", consumes_what_another_published),
    ("a consumer that is killed loses nothing and counts nothing twice", survives_a_kill),
    ("what foreign clients write is consumed", foreign::consumes_what_foreign_clients_write),
    ("what is invalid is kept with the reason", foreign::keeps_what_is_invalid),
    ("what is published foreign clients read", foreign::writes_what_foreign_clients_read),
];

fn main() -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    let runtime = Arc::new(runtime);
    let kinds = [
        (true, Kind::Nothing),
        (cfg!(feature = "kafka"), Kind::Kafka),
        (cfg!(feature = "amqp"), Kind::RabbitMq3),
        (cfg!(feature = "amqp"), Kind::RabbitMq4),
    ];
    let kinds = kinds.into_iter().filter(|(built, _)| *built).map(|(_, kind)| kind);
    let places = kinds.map(|kind| Arc::new(Place::new(kind, runtime.clone())));
    let trials = places.flat_map(|place| {
        let between = if place.kind == Kind::Nothing { &[][..] } else { BETWEEN_PROCESSES };
        let tests = EVERYWHERE.iter().chain(between);
        tests.map(|(name, test)| trial(place.clone(), name, *test)).collect::<Vec<_>>()
    });
    let mut trials: Vec<_> = trials.collect();
    trials.extend([
        alone("a bad setting ends an application with one line", refuses_a_bad_setting),
        alone("an unreachable broker is told in one line", tells_of_an_unreachable_broker),
        alone("a line that was being written is taken back", takes_back_half_a_line),
        alone("a file has one process at a time", keeps_the_file_alone),
    ]);
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(place: Arc<Place>, name: &str, test: Test) -> Trial {
    Trial::ignorable_test(format!("{:?}: {name}", place.kind), move || {
        let visit = match place.visit() {
            Ok(visit) => visit,
            Err(unready) => {
                return match unready.why_absent() {
                    Some(tried) => Ok(Completion::ignored_with(tried)),
                    None => Err(Failed::from(format!("{unready:?}"))),
                };
            }
        };
        run(|directory| test(&visit, directory))
    })
}

fn alone(name: &str, test: fn(&Path) -> Outcome) -> Trial {
    Trial::ignorable_test(name, move || run(test))
}

fn run(test: impl FnOnce(&Path) -> Outcome) -> Result<Completion, Failed> {
    let directory = tempfile::tempdir()?;
    test(directory.path()).map_err(|error| error.to_string())?;
    Ok(Completion::Completed)
}

impl Visit<'_> {
    fn variable(&self, name: &str) -> Result<&str, String> {
        let found = self.variables.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| &**value).ok_or_else(|| format!("{name} is not set"))
    }

    fn start(&self, example: &str, what: &str, file: &Path) -> Result<App, Box<dyn Error>> {
        App::start(example, &[what, &file.to_string_lossy()], &self.variables)
    }

    /// Runs an application to its end, and gives what it printed.
    fn run(&self, example: &str, what: &str, file: &Path) -> Result<String, Box<dyn Error>> {
        self.start(example, what, file)?.succeed()
    }
}

fn stores_feature_usage(visit: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("usage.jsonl");
    let printed = visit.run("feature_usage", "both", &file)?;
    ensure(printed.contains(visit.kind.said()), &printed)?;
    ensure(printed.contains("published 100 records to feature_usage_topic"), &printed)?;
    ensure(ids(&file, "id")?.len() == 100, "not every record is in the file, once")
}

fn counts_credits(visit: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("credits.jsonl");
    let printed = visit.run("credits", "both", &file)?;
    ensure(printed.contains(visit.kind.said()), &printed)?;
    ensure(printed.contains("counted 100 operations, 10 came again"), &printed)?;
    ensure(balances(&file)?.values().all(|balance| *balance == 700), &printed)
}

fn continues_the_ledger(visit: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("credits.jsonl");
    visit.run("credits", "both", &file)?;
    let printed = visit.run("credits", "both", &file)?;
    ensure(printed.contains("user-0: 1400"), &printed)?;
    ensure(balances(&file)?.values().all(|balance| *balance == 1400), &printed)
}

fn ends_on_signals(visit: &Visit, directory: &Path) -> Outcome {
    for signal in [Signal::TERM, Signal::INT] {
        for example in ["feature_usage", "credits"] {
            let mut app = visit.start(example, "consume", &directory.join(example))?;
            app.wait_for("consuming")?;
            app.signal(signal)?;
            let printed = app.succeed()?;
            ensure(printed.contains("ending, because of a signal"), &printed)?;
        }
    }
    Ok(())
}

fn consumes_what_another_published(visit: &Visit, directory: &Path) -> Outcome {
    let nowhere = directory.join("nowhere");
    visit.run("feature_usage", "publish", &nowhere)?;
    let file = directory.join("first.jsonl");
    let mut consumer = visit.start("feature_usage", "consume", &file)?;
    until("the records of another process", || Ok(lines(&file)?.len() == 100))?;
    consumer.signal(Signal::TERM)?;
    consumer.succeed()?;
    ensure(ids(&file, "id")?.len() == 100, "a record came twice")?;
    // What was settled does not come again, to anybody.
    let file = directory.join("second.jsonl");
    visit.run("feature_usage", "both", &file)?;
    ensure(lines(&file)?.len() == 100, "settled records came again")
}

fn survives_a_kill(visit: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("credits.jsonl");
    let nowhere = directory.join("nowhere");
    for _ in 0..10 {
        visit.run("credits", "publish", &nowhere)?;
    }
    for reached in [150, 400, 700] {
        let consumer = visit.start("credits", "consume", &file)?;
        until("operations", || Ok(lines(&file)?.len() >= reached))?;
        consumer.signal(Signal::KILL)?;
    }
    let mut consumer = visit.start("credits", "consume", &file)?;
    until("all operations", || Ok(lines(&file)?.len() >= 1000))?;
    consumer.signal(Signal::TERM)?;
    let printed = consumer.succeed()?;
    ensure(ids(&file, "operation_id")?.len() == 1000, "an operation was counted twice")?;
    ensure(balances(&file)?.values().all(|balance| *balance == 7000), &printed)
}

fn refuses_a_bad_setting(directory: &Path) -> Outcome {
    let file = directory.join("none").to_string_lossy().into_owned();
    for example in ["feature_usage", "credits"] {
        let set = [("KAFKA_ENABLED".to_owned(), "maybe".to_owned())];
        let (status, printed, errors) = App::start(example, &["both", &file], &set)?.end()?;
        ensure(status.code() == Some(1) && printed.is_empty(), &format!("{status}: {printed}"))?;
        ensure(errors.lines().count() == 1 && errors.contains("KAFKA_ENABLED"), &errors)?;
    }
    Ok(())
}

fn tells_of_an_unreachable_broker(directory: &Path) -> Outcome {
    let file = directory.join("none").to_string_lossy().into_owned();
    // Nobody listens on port 1.
    let mut unreachable: Vec<(&str, Vec<(&str, &str)>)> = Vec::new();
    if cfg!(feature = "kafka") {
        unreachable.push((
            "KAFKA_BROKERS",
            vec![
                ("KAFKA_ENABLED", "true"),
                ("KAFKA_BROKERS", "127.0.0.1:1"),
                ("KAFKA_SASL_USERNAME", "user"),
                ("KAFKA_SASL_PASSWORD", "hunter2"),
                ("KAFKA_CONNECT_TIMEOUT", "1000"),
            ],
        ));
    }
    if cfg!(feature = "amqp") {
        let url = ("RABBITMQ_URL", "amqp://user:hunter2@127.0.0.1:1");
        unreachable.push(("RABBITMQ_URL", vec![url, ("RABBITMQ_CONNECT_TIMEOUT", "1000")]));
    }
    for (setting, variables) in unreachable {
        let variables: Vec<_> = variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut app = App::start("feature_usage", &["publish", &file], &variables)?;
        let (status, _, errors) = app.end()?;
        ensure(status.code() == Some(1), &format!("{status}"))?;
        ensure(errors.lines().count() == 1 && errors.contains("Unavailable"), &errors)?;
        ensure(errors.contains(setting) && !errors.contains("hunter2"), &errors)?;
    }
    Ok(())
}

fn takes_back_half_a_line(directory: &Path) -> Outcome {
    let path = directory.join("usage.jsonl");
    let file = path.to_string_lossy().into_owned();
    App::start("feature_usage", &["both", &file], &[])?.succeed()?;
    let whole = std::fs::read_to_string(&path)?;
    std::fs::write(&path, format!("{whole}{{\"id\":\"half"))?;
    App::start("feature_usage", &["both", &file], &[])?.succeed()?;
    ensure(std::fs::read_to_string(&path)?.starts_with(&whole), "what was there has changed")?;
    ensure(ids(&path, "id")?.len() == 200, "the records of both runs are not there")
}

fn keeps_the_file_alone(directory: &Path) -> Outcome {
    let path = directory.join("usage.jsonl");
    let file = path.to_string_lossy().into_owned();
    let mut first = App::start("feature_usage", &["consume", &file], &[])?;
    first.wait_for("consuming")?;
    let (status, _, errors) = App::start("feature_usage", &["consume", &file], &[])?.end()?;
    ensure(!status.success() && errors.contains("another process has it open"), &errors)
}

/// The lines of a file; none while it is not there.
fn lines(file: &Path) -> Result<Vec<Value>, Box<dyn Error>> {
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The distinct ids in a file, in which no line may be a repetition.
fn ids(file: &Path, name: &str) -> Result<HashSet<String>, Box<dyn Error>> {
    let lines = lines(file)?;
    let ids: HashSet<_> = lines.iter().map(|line| line[name].to_string()).collect();
    ensure(ids.len() == lines.len(), "an id is there twice")?;
    Ok(ids)
}

/// The balance of each user, which has to be the sum of all before it, line by line.
fn balances(file: &Path) -> Result<BTreeMap<String, i64>, Box<dyn Error>> {
    let mut balances = BTreeMap::new();
    for line in lines(file)? {
        let balance = balances.entry(line["user"].to_string()).or_insert(0);
        *balance += line["credits"].as_i64().ok_or("no credits")?;
        ensure(line["balance"] == *balance, &format!("{line} is not what comes after {balance}"))?;
    }
    ensure(balances.len() == 5, &format!("{balances:?}"))?;
    Ok(balances)
}

/// Waits until this is so.
fn until(what: &str, mut so: impl FnMut() -> Result<bool, Box<dyn Error>>) -> Outcome {
    let deadline = Instant::now() + LIMIT;
    while !so()? {
        ensure(Instant::now() < deadline, &format!("{what} did not come in time"))?;
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(())
}

fn ensure(so: bool, otherwise: &str) -> Outcome {
    if so { Ok(()) } else { Err(otherwise.into()) }
}

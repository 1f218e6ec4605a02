//! The applications in `examples/`, as processes, on every broker.
//!
//! A real broker that is not installed is reported as ignored, with the reason; with
//! `BROKER_TESTKIT_REQUIRE=1` it fails.

mod app;
mod dead_letters;
mod foreign;
mod ledgers;
mod peer;
mod places;
mod refusals;
mod saga;
mod video;

use std::collections::HashSet;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use broker_testkit::conformance::Unready;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde_json::Value;

use app::{App, LIMIT};
use places::{Kind, Place, Visit};

type Outcome = Result<(), Box<dyn Error>>;
type Test = fn(&Visit, &Path) -> Outcome;

const EVERYWHERE: &[(&str, Test)] = &[
    ("feature usage is published, consumed and stored", ledgers::stores_feature_usage),
    ("credits are counted in order, each operation once", ledgers::counts_credits),
    ("the ledger goes on where it was", ledgers::continues_the_ledger),
    ("a consumer ends in order on SIGTERM and on SIGINT", ledgers::ends_on_signals),
    ("dead letters are put through once the cause is mended", dead_letters::are_put_through),
    ("every booking comes to its end", saga::ends_every_booking),
    ("events of all topics are counted, and the counters survive", video::counts_all_topics),
];

/// On the embedded broker a message does not outlive its process.
const BETWEEN_PROCESSES: &[(&str, Test)] = &[
    (
        "what one process published another one consumes, once",
        ledgers::consumes_what_another_published,
    ),
    ("a consumer that is killed loses nothing and counts nothing twice", ledgers::survives_a_kill),
    ("what foreign clients write is consumed", foreign::consumes_what_foreign_clients_write),
    ("what is invalid is kept with the reason", foreign::keeps_what_is_invalid),
    ("what is published foreign clients read", foreign::writes_what_foreign_clients_read),
    ("an operator mends and redrives step by step", dead_letters::step_by_step),
    ("a saga killed in the middle recovers by replay", saga::recovers_by_replay),
    ("a saga's books alone keep it from doing anything again", saga::knows_its_books),
    ("counters survive a kill, and a replay rebuilds them", video::rebuilds_by_replay),
    ("the address of the wrong broker is told in one line", refusals::wrong_port),
    ("refused credentials are told in one line", refusals::refused_credentials),
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
    let places: Vec<_> = kinds.map(|kind| Arc::new(Place::new(kind, runtime.clone()))).collect();
    // The places in turns, so that each has something to do.
    let mut trials = Vec::new();
    for (number, (name, test)) in EVERYWHERE.iter().chain(BETWEEN_PROCESSES).enumerate() {
        let everywhere = number < EVERYWHERE.len();
        let at = places.iter().filter(|place| everywhere || place.kind != Kind::Nothing);
        trials.extend(at.map(|place| trial(place.clone(), name, *test)));
    }
    if let [_, kafka, .., rabbitmq] = &places[..]
        && kafka.kind == Kind::Kafka
    {
        trials.push(on_two(kafka.clone(), rabbitmq.clone()));
    }
    trials.extend([
        alone("a bad setting ends an application with one line", refusals::bad_settings),
        alone("an unreachable broker is told in one line", refusals::unreachable),
        alone("a line that was being written is taken back", ledgers::takes_back_half_a_line),
        alone("a file has one process at a time", ledgers::keeps_the_file_alone),
    ]);
    let mut arguments = Arguments::from_args();
    // A test waits for its broker most of the time.
    arguments.test_threads.get_or_insert(places.len());
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(place: Arc<Place>, name: &str, test: Test) -> Trial {
    Trial::ignorable_test(format!("{:?}: {name}", place.kind), move || match place.visit() {
        Ok(visit) => run(|directory| test(&visit, directory)),
        Err(unready) => not_run(unready),
    })
}

fn on_two(kafka: Arc<Place>, rabbitmq: Arc<Place>) -> Trial {
    Trial::ignorable_test("a topic on each of two brokers", move || {
        match kafka.visit().and_then(|kafka| Ok((kafka, rabbitmq.visit()?))) {
            Ok((kafka, rabbitmq)) => {
                run(|directory| dead_letters::on_two_brokers(&kafka, &rabbitmq, directory))
            }
            Err(unready) => not_run(unready),
        }
    })
}

fn not_run(unready: Unready) -> Result<Completion, Failed> {
    match unready.why_absent() {
        Some(tried) => Ok(Completion::ignored_with(tried)),
        None => Err(Failed::from(format!("{unready:?}"))),
    }
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

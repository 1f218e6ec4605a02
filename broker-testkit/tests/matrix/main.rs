//! Real brokers under load, broken in every way there is; what became of every message is judged
//! by the history checker.
//!
//! A row fails if a message was lost, reordered, settled early, duplicated without a cause, or
//! published against what its publisher was told; if work does not go on by itself afterwards; or
//! if health says UP where nothing works.
//!
//! `scripts/load` runs the rows of [`bulk`] instead: how much, and not what happens to it.
//!
//! With `--ignored` it runs a few rows once, and backends that are broken on purpose, each of which
//! a row has to find; `scripts/test` does that in a step of its own. `scripts/chaos` runs all rows,
//! for as long as one likes, and writes the page.

mod bulk;
mod clients;
mod dice;
mod faults;
mod flaw;
mod load;
mod names;
mod process;
mod subject;
mod table;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use broker_testkit::local::LocalError;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::sync::Mutex;

use crate::bulk::Bulk;
use crate::dice::Dice;
use crate::faults::Fault;
use crate::flaw::Sabotage;
use crate::load::Load;
use crate::subject::{Address, Kind, Subject};
use crate::table::Row;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Messages through each group before and after.
const SOME: usize = 200;

/// A broker is for one row at a time, and is started when the first needs it.
type Place = Arc<Mutex<Option<Subject>>>;

fn main() -> ExitCode {
    let Ok(runtime) = tokio::runtime::Runtime::new() else { return ExitCode::FAILURE };
    if let Some(part) = bulk::part() {
        return runtime.block_on(bulk::play(part));
    }
    if let Some(order) = process::order() {
        return runtime.block_on(process::obey(order));
    }
    // `RUST_LOG=broker_kafka=debug` and the like, to see what a client did.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::from_args();
    if std::env::var_os("LOAD_ALL").is_some() {
        return libtest_mimic::run(&arguments, bulk(runtime.handle())).exit_code();
    }
    let place = |kind, nodes| (kind, nodes, Place::default());
    let places = [
        place(Kind::Kafka, 1),
        place(Kind::RabbitMq, 1),
        place(Kind::Kafka, 3),
        place(Kind::RabbitMq, 3),
    ];
    let mut trials = Vec::new();
    let all = std::env::var_os("CHAOS_ALL").is_some();
    // In turns, so that two threads work on different brokers.
    for fault in Fault::ALL.into_iter().filter(|fault| all || fault.is_short()) {
        for (kind, nodes, place) in &places {
            if *nodes != fault.nodes() {
                continue;
            }
            let (kind, place, handle) = (*kind, place.clone(), runtime.handle().clone());
            let trial = Trial::ignorable_test(format!("{kind:?}: {fault}"), move || {
                handle.block_on(row(fault, kind, &place))
            });
            trials.push(trial.with_ignored_flag(!all));
        }
    }
    for sabotage in Sabotage::ALL.into_iter().filter(|sabotage| all || sabotage.is_short()) {
        let handle = runtime.handle().clone();
        let Sabotage { flaw, kind, fault, .. } = sabotage;
        let name = format!("{flaw:?} is found by {kind:?}: {fault}");
        let trial = Trial::ignorable_test(name, move || handle.block_on(sabotaged(sabotage)));
        trials.push(trial.with_ignored_flag(!all));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Brokers end with their handles, while there still is a runtime.
    let guard = runtime.enter();
    drop(places);
    drop(guard);
    conclusion.exit_code()
}

/// The rows of `scripts/load`.
fn bulk(handle: &tokio::runtime::Handle) -> Vec<Trial> {
    let kinds = [Kind::Kafka, Kind::RabbitMq];
    let rows = Bulk::ALL.into_iter().flat_map(|row| kinds.map(|kind| (row, kind)));
    let trial = |(row, kind): (Bulk, Kind)| {
        let handle = handle.clone();
        Trial::test(format!("{kind:?}: {row}"), move || handle.block_on(row.run(kind)))
    };
    rows.map(trial).collect()
}

async fn row(fault: Fault, kind: Kind, place: &Place) -> Result<Completion, Failed> {
    if let Some(why) = fault.missing(kind) {
        return Ok(Completion::ignored_with(why));
    }
    if let Some(completion) = cannot_be_had(fault)? {
        return Ok(completion);
    }
    let mut place = place.lock().await;
    // Taken out, so that one that a failed row leaves broken is not for the next.
    let subject = match place.take() {
        Some(subject) => subject,
        None => match Subject::start(kind, fault.nodes()).await {
            Ok(subject) => subject,
            Err(missing @ LocalError::NotInstalled { .. })
                if std::env::var_os("BROKER_TESTKIT_REQUIRE").is_none() =>
            {
                return Ok(Completion::ignored_with(missing));
            }
            Err(error) => return Err(error.to_string().into()),
        },
    };
    let first_seed = seed();
    let command = |seed: u64| format!("scripts/chaos --seed {seed} '{kind:?}: {fault}'");
    let mut row = Row::new(fault.to_string(), subject.name().to_owned(), command(first_seed));
    let end = Instant::now() + budget();
    let mut seed = first_seed;
    let result = loop {
        let failed = match round(fault, &subject, subject.address(), seed).await {
            Ok(round) => {
                row.add(&round);
                (!round.is_clean()).then(|| round.to_string())
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(failed) = failed {
            row.fail(&failed, command(seed));
            break Err(format!("{failed}\nagain: {}", command(seed)).into());
        }
        if Instant::now() > end {
            *place = Some(subject);
            break Ok(Completion::Completed);
        }
        seed = seed.wrapping_add(1);
    };
    println!("{row}");
    if let Some(page) = std::env::var_os("CHAOS_PAGE") {
        row.write_to(&PathBuf::from(page)).map_err(|error| error.to_string())?;
    }
    result
}

/// A row with a backend that is broken on purpose has to fail, and for the right reason. It leaves
/// the broker as no other row can use it.
async fn sabotaged(sabotage: Sabotage) -> Result<Completion, Failed> {
    let Sabotage { flaw, kind, fault, found } = sabotage;
    if let Some(completion) = cannot_be_had(fault)? {
        return Ok(completion);
    }
    let subject = Subject::start(kind, fault.nodes()).await.map_err(|error| error.to_string())?;
    let mut address = subject.address();
    address.flaw = Some(flaw);
    let told = match round(fault, &subject, address, seed()).await {
        Ok(report) => report.to_string(),
        Err(error) => error.to_string(),
    };
    match told.contains(found) {
        true => Ok(Completion::Completed),
        false => Err(format!("it was not found: {told}").into()),
    }
}

/// Left out where the machine does not allow it, unless all has to be there.
fn cannot_be_had(fault: Fault) -> Result<Option<Completion>, Failed> {
    match (fault.refused(), std::env::var_os("BROKER_TESTKIT_REQUIRE")) {
        (None, _) => Ok(None),
        (Some(why), None) => Ok(Some(Completion::ignored_with(why))),
        (Some(why), Some(_)) => Err(why.into()),
    }
}

/// One fault under one load.
async fn round(
    fault: Fault,
    subject: &Subject,
    address: Address,
    seed: u64,
) -> Outcome<broker_testkit::history::Report> {
    let topic = format!("chaos-{:x}", Dice::new(seed).of(&fault.to_string(), now()).below(1 << 48));
    let mut load = Load::start(address, &topic, seed).await?;
    load.progress(SOME).await?;
    load.history.disturbed(fault.to_string());
    fault.strike(subject, &mut load).await?;
    // Never noted as calm: a member that was put out of its group meanwhile may learn of it only a
    // session later, and what it handled until then comes again.
    load.working_again().await?;
    load.progress(SOME).await?;
    load.finish().await
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

/// `CHAOS_SEED`, else a new one.
fn seed() -> u64 {
    let given = std::env::var("CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| now() % 1_000_000)
}

/// How long each row is repeated: its share of `CHAOS_MINUTES`, once otherwise.
fn budget() -> Duration {
    let minutes = std::env::var("CHAOS_MINUTES").ok().and_then(|minutes| minutes.parse().ok());
    // The two brokers are at work at the same time.
    Duration::from_secs(minutes.unwrap_or(0) * 60 / Fault::ALL.len() as u64)
}

//! Runs cases: each in a runtime of its own, bounded, and cleaned up after whatever happened.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use libtest_mimic::{Arguments, Completion, Trial};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::bench::Bench;
use super::case::Case;
use super::fault::{Fault, Verdict};
use super::fixture::{Fixture, Unready, Why};
use super::results::Results;

/// How long the provider may take; a broker may have to be started first.
const PROVIDE: Duration = Duration::from_secs(180);

/// How long a case may take in all, in multiples of the patience for one thing.
const WAITS_OF_A_CASE: u32 = 4;

/// How many cases run at the same time for each core: they mostly wait.
const CASES_PER_CORE: usize = 4;

type Provide = dyn Fn() -> Pin<Box<dyn Future<Output = Result<Fixture, Unready>>>> + Send + Sync;

/// What became of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "reason", rename_all = "lowercase")]
pub enum Outcome {
    /// The backend keeps the promise.
    Passed,
    /// It could not be checked; the text says why.
    Ignored(String),
    /// The backend breaks the promise; the text says how.
    Failed(String),
}

/// Runs the whole suite as a test binary does: one test for each case, chosen by the arguments of
/// the command line. `broker` is the name in the results; `provider` makes a fixture for each case.
pub fn run<F, Fut>(broker: &str, provider: F) -> ExitCode
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Fixture, Unready>> + 'static,
{
    let mut arguments = Arguments::from_args();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(cores * CASES_PER_CORE);
    let provider: Arc<Provide> = Arc::new(move || Box::pin(provider()));
    let alone = Arc::new(RwLock::new(()));
    let results = match begin_results(broker, &arguments) {
        Ok(results) => Arc::new(results),
        Err(error) => {
            eprintln!("no place for the results, see BROKER_TESTKIT_RESULTS: {error}");
            return ExitCode::FAILURE;
        }
    };
    let trial = |case: Case| {
        let (provider, alone, results) = (provider.clone(), alone.clone(), results.clone());
        Trial::ignorable_test(case.name(), move || {
            let start = Instant::now();
            let outcome = match case.is_exclusive() {
                true => {
                    let _alone = alone.write().unwrap_or_else(PoisonError::into_inner);
                    execute(&case, &*provider)
                }
                false => {
                    let _shared = alone.read().unwrap_or_else(PoisonError::into_inner);
                    execute(&case, &*provider)
                }
            };
            results.record(&case, &outcome, start.elapsed())?;
            match outcome {
                Outcome::Passed => Ok(Completion::Completed),
                Outcome::Ignored(why) => Ok(Completion::ignored_with(why)),
                Outcome::Failed(text) => Err(text.into()),
            }
        })
    };
    libtest_mimic::run(&arguments, super::cases().map(trial).collect()).exit_code()
}

/// Runs one case, and says what became of it. Not to be called within a runtime.
pub fn check<F, Fut>(case: &Case, provider: F) -> Outcome
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Fixture, Unready>> + 'static,
{
    execute(case, &move || Box::pin(provider()))
}

fn begin_results(broker: &str, arguments: &Arguments) -> std::io::Result<Results> {
    let some = arguments.list || arguments.filter.is_some() || !arguments.skip.is_empty();
    Results::begin(broker, !some)
}

fn execute(case: &Case, provide: &Provide) -> Outcome {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime: Runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Outcome::Failed(format!("no runtime for the case: {error}")),
    };
    let outcome = runtime.block_on(attempt(case, provide));
    // A backend whose tasks never end must not keep the suite from ending.
    runtime.shutdown_timeout(Duration::from_secs(5));
    outcome
}

async fn attempt(case: &Case, provide: &Provide) -> Outcome {
    let mut fixture = match caught("making the fixture", PROVIDE, provide()).await {
        Ok(Ok(fixture)) => fixture,
        Ok(Err(Unready(Why::Absent(tried)))) => {
            return match std::env::var_os("BROKER_TESTKIT_REQUIRE").is_some_and(|v| v == "1") {
                true => Outcome::Failed(format!("the broker is required here: {tried}")),
                false => Outcome::Ignored(tried),
            };
        }
        Ok(Err(Unready(Why::Broken(error)))) => {
            return Outcome::Failed(format!("no broker: {error:?}"));
        }
        Err(text) => return Outcome::Failed(text),
    };
    if case.is_exclusive() {
        // What is waited for there is mostly behind a start of the broker, which takes its time too.
        fixture.patience *= 2;
    }
    let limit = fixture.patience * WAITS_OF_A_CASE;
    let bench = Bench::new(fixture, case.needs);
    let verdict = match caught("the case", limit, (case.run)(&bench)).await {
        Ok(verdict) => verdict,
        Err(text) => Err(Fault::Failed(text)),
    };
    let cleaned = match caught("cleaning up", PROVIDE, bench.clean_up()).await {
        Ok(cleaned) => cleaned,
        Err(text) => Err(Fault::Failed(text)),
    };
    judge(verdict, cleaned)
}

fn judge(verdict: Verdict, cleaned: Verdict) -> Outcome {
    match (verdict, cleaned) {
        (Ok(()), Ok(())) => Outcome::Passed,
        (Err(Fault::Ignored(why)), Ok(())) => Outcome::Ignored(why),
        (Err(Fault::Failed(text)), Ok(())) => Outcome::Failed(text),
        (Err(Fault::Failed(text)), Err(after)) => {
            Outcome::Failed(format!("{text}\nand cleaning up failed: {after}"))
        }
        (_, Err(after)) => {
            Outcome::Failed(format!("the case itself went well, but not the end: {after}"))
        }
    }
}

/// Runs a future within a time limit; a panic and a time-out are texts.
async fn caught<T>(
    what: &str,
    limit: Duration,
    future: impl Future<Output = T>,
) -> Result<T, String> {
    match timeout(limit, AssertUnwindSafe(future).catch_unwind()).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(panic)) => Err(format!("{what} panicked: {}", panic_text(&*panic))),
        Err(_) => Err(format!("{what} did not end within {limit:?}")),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text")
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Ignored(why) => write!(f, "ignored: {why}"),
            Self::Failed(text) => write!(f, "failed: {text}"),
        }
    }
}

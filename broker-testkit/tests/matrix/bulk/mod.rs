//! How much, and not what happens to it: many messages, topics and groups, and what they cost in memory.
//!
//! Each row is judged as it says, and memory is that of a process of its own which does nothing else:
//! the most that it had in RAM.

mod backlog;
mod breadth;
mod flood;
mod wallets;

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::subject::{Address, Kind, Subject};
use crate::table::write_row;

/// In its environment a process finds which part it has.
const PART: &str = "LOAD_PART";
const BEGIN: &str = "<!-- rows by scripts/load -->";
const END: &str = "<!-- end of the rows by scripts/load -->";
/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(120);

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bulk {
    Wallets,
    Backlog,
    Breadth,
    Flood,
}

impl Bulk {
    pub(crate) const ALL: [Self; 4] = [Self::Wallets, Self::Backlog, Self::Breadth, Self::Flood];

    /// Runs the row and writes it to the page, if there is one.
    pub(crate) async fn run(self, kind: Kind) -> Result<(), Failed> {
        let subject = Subject::start(kind, 1).await.map_err(|error| error.to_string())?;
        let begun = Instant::now();
        let done = match self {
            Self::Wallets => wallets::run(&subject).await,
            Self::Backlog => backlog::run(&subject).await,
            Self::Breadth => breadth::run(&subject).await,
            Self::Flood => flood::run(&subject).await,
        };
        let (text, result) = match &done {
            Ok(text) => (text.clone(), "ok".to_owned()),
            Err(error) => (String::new(), error.to_string().replace(['|', '\n'], "/")),
        };
        let same = format!("| {self} | {} |", subject.name());
        let seconds = begun.elapsed().as_secs();
        let command = format!("{}scripts/load '{kind:?}: {self}'", self.variables());
        let row = format!("{same} {text} | {result} | {seconds} s | `{command}` |");
        println!("{row}");
        if let Some(page) = std::env::var_os("LOAD_PAGE") {
            let written = write_row(&PathBuf::from(page), (BEGIN, END), &same, &row);
            written.map_err(|error| error.to_string())?;
        }
        done.map(drop).map_err(|error| error.to_string().into())
    }

    fn variables(self) -> String {
        match self {
            Self::Wallets => format!("LOAD_OPERATIONS={} ", wallets::operations()),
            _ => String::new(),
        }
    }
}

impl fmt::Display for Bulk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wallets => "1,000 wallets under faults",
            Self::Backlog => "a backlog consumed",
            Self::Breadth => "200 topics and 50 groups in one process",
            Self::Flood => "a publisher faster than its broker",
        })
    }
}

/// What a process of its own does.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    address: Address,
    topic: String,
    number: u64,
    what: What,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum What {
    Consume,
    Flood,
    Breadth,
}

/// What it says in the end.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    /// In MiB.
    peak: u64,
    seconds: f64,
}

impl Part {
    /// Does it in a process of its own, which has to end well.
    async fn done(self) -> Outcome<Said> {
        let said = tokio::task::spawn_blocking(move || -> Outcome<Said> {
            let output = Command::new(std::env::current_exe()?)
                .env(PART, serde_json::to_string(&self)?)
                .stdin(Stdio::null())
                .stderr(Stdio::inherit())
                .output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            if !output.status.success() {
                return Err(format!("{:?}: {text}", self.what).into());
            }
            Ok(serde_json::from_str(text.trim())?)
        });
        said.await?
    }
}

/// The part that this process has, if it has one.
pub(crate) fn part() -> Option<Part> {
    serde_json::from_str(&std::env::var(PART).ok()?).ok()
}

/// Does it, and says what it took.
pub(crate) async fn play(part: Part) -> ExitCode {
    let begun = Instant::now();
    let done = match part.what {
        What::Consume => backlog::consume(&part).await,
        What::Flood => flood::publish(&part).await,
        What::Breadth => breadth::all(&part).await,
    };
    let said = done.and_then(|()| {
        let said = Said { peak: peak()? >> 20, seconds: begun.elapsed().as_secs_f64() };
        Ok(serde_json::to_string(&said)?)
    });
    match said {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The most memory that this process had in RAM, in bytes.
fn peak() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmHWM")?;
    Ok(number.parse::<u64>()? * 1024)
}

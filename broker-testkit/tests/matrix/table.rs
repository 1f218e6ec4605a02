//! The results as rows of a page.

use std::fmt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use broker_testkit::history::{Anomaly, Report};

use crate::Outcome;

const BEGIN: &str = "<!-- rows by scripts/chaos -->";
const END: &str = "<!-- end of the rows -->";

/// What one fault did, in all its rounds.
#[derive(Debug, Default)]
pub(crate) struct Row {
    /// Fault and broker, and the command for it.
    pub(crate) what: [String; 3],
    rounds: usize,
    messages: usize,
    unsure: usize,
    failed: usize,
    /// Lost, reordered, duplicated without a cause, settled early, unpublished.
    wrong: [usize; 5],
    duplicates: usize,
    longest_gap: Duration,
    /// Why it failed, if it did.
    failed_by: Option<String>,
}

impl Row {
    pub(crate) fn new(fault: String, broker: String, command: String) -> Self {
        Self { what: [fault, broker, command], ..Self::default() }
    }

    pub(crate) fn add(&mut self, report: &Report) {
        self.rounds += 1;
        self.messages += report.confirmed;
        self.unsure += report.indeterminate;
        self.failed += report.failed;
        let anomalies = [
            Anomaly::Lost,
            Anomaly::Reordered,
            Anomaly::Duplicated,
            Anomaly::SettledEarly,
            Anomaly::Unpublished,
        ];
        for (count, anomaly) in self.wrong.iter_mut().zip(anomalies) {
            *count += report.count(anomaly);
        }
        self.duplicates += report.duplicates();
        self.longest_gap = self.longest_gap.max(report.longest_gap);
    }

    /// A round was not as it has to be, and can be had again by this command.
    pub(crate) fn fail(&mut self, why: &str, command: String) {
        let first = why.lines().find(|line| !line.trim().is_empty()).unwrap_or(why);
        let wrong: Vec<_> = why.lines().filter(|line| line.starts_with("WRONG")).collect();
        self.failed_by = Some(format!("{first} {}", wrong.join(", ")).replace('|', "/"));
        self.what[2] = command;
    }

    /// Puts it in its place in the page, or at the end of the rows. Two rows of one process take turns.
    pub(crate) fn write_to(&self, page: &Path) -> Outcome {
        let same = format!("| {} | {} |", self.what[0], self.what[1]);
        write_row(page, (BEGIN, END), &same, &self.to_string())
    }
}

/// Puts a row between these marks, in the place of the one that begins the same, or at their end.
pub(crate) fn write_row(page: &Path, (begin, end): (&str, &str), same: &str, row: &str) -> Outcome {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    let text = std::fs::read_to_string(page)?;
    let parts = text
        .split_once(begin)
        .and_then(|(head, rest)| rest.split_once(end).map(|(rows, tail)| (head, rows, tail)));
    let (head, rows, tail) = parts.ok_or("the page has no place for the rows")?;
    let mut rows: Vec<String> = rows.trim().lines().map(str::to_owned).collect();
    match rows.iter_mut().find(|row| row.starts_with(same)) {
        Some(old) => *old = row.to_owned(),
        None => rows.push(row.to_owned()),
    }
    let rows = rows.join("\n");
    std::fs::write(page, format!("{head}{begin}\n{rows}\n{end}{tail}"))?;
    Ok(())
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [fault, broker, command] = &self.what;
        let [lost, reordered, unexplained, early, unpublished] = self.wrong;
        write!(
            f,
            "| {fault} | {broker} | {} | {} | {} | {} | {lost} | {reordered} | {early} | \
             {unpublished} | {} | {unexplained} | {:.1} s | {} | `{command}` |",
            self.rounds,
            self.messages,
            self.unsure,
            self.failed,
            self.duplicates,
            self.longest_gap.as_secs_f64(),
            self.failed_by.as_deref().unwrap_or("ok"),
        )
    }
}

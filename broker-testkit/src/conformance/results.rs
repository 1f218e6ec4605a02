//! The results of runs as lines of JSON, and as a table.
//!
//! Where `BROKER_TESTKIT_RESULTS` names a file, every case appends a line to it, from any number
//! of runs at the same time:
//!
//! ```json
//! {"broker":"kafka","case":"settle::a_dropped_delivery_comes_back","outcome":"passed","seconds":0.4}
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::case::Case;
use super::runner::Outcome;

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Line {
    broker: String,
    case: String,
    /// `passed`, `ignored` or `failed`.
    outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    seconds: f64,
}

/// Appends a result, if a file is asked for.
pub(super) fn record(
    broker: &str,
    case: &Case,
    outcome: &Outcome,
    took: Duration,
) -> Result<(), String> {
    let Some(path) = std::env::var_os("BROKER_TESTKIT_RESULTS") else { return Ok(()) };
    let (word, reason) = match outcome {
        Outcome::Passed => ("passed", None),
        Outcome::Ignored(why) => ("ignored", Some(why.clone())),
        Outcome::Failed(text) => ("failed", Some(text.clone())),
    };
    let line = Line {
        broker: broker.to_owned(),
        case: case.name(),
        outcome: word.to_owned(),
        reason,
        seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
    };
    let append = || -> std::io::Result<()> {
        let mut line = serde_json::to_string(&line)?;
        line.push('\n');
        // One write at the end of the file: other processes may be writing too.
        OpenOptions::new().create(true).append(true).open(&path)?.write_all(line.as_bytes())
    };
    append().map_err(|e| format!("cannot write BROKER_TESTKIT_RESULTS={}: {e}", path.display()))
}

/// A table in Markdown from the lines of any number of runs: a row for each case, a column for
/// each broker, and below it the reasons. The last result of a case on a broker counts.
///
/// # Errors
/// Which line is not one of a result, and why.
pub fn table(lines: &str) -> Result<String, String> {
    let mut results: BTreeMap<(String, String), Line> = BTreeMap::new();
    for (n, text) in lines.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let line: Line =
            serde_json::from_str(text).map_err(|e| format!("line {} is no result: {e}", n + 1))?;
        results.insert((line.case.clone(), line.broker.clone()), line);
    }
    let brokers: BTreeSet<&str> = results.keys().map(|(_, broker)| broker.as_str()).collect();
    // In the suite's order; what it does not know any more is left out.
    let cases = super::cases().map(|case| case.name());
    let cases = cases.filter(|c| results.keys().any(|(case, _)| case == c));

    let mut reasons: Vec<&str> = Vec::new();
    let mut rows = String::new();
    let mut subject = String::new();
    for case in cases {
        let (about, sentence) = case.split_once("::").unwrap_or(("", &case));
        let about = if about == subject { "" } else { about };
        let _ = write!(rows, "| {} | {} |", about.replace('_', " "), sentence.replace('_', " "));
        if !about.is_empty() {
            subject = about.to_owned();
        }
        for broker in &brokers {
            let cell = match results.get(&(case.clone(), (*broker).to_owned())) {
                None => "-".to_owned(),
                Some(line) if line.outcome == "passed" => "yes".to_owned(),
                Some(line) if line.outcome == "failed" => "**failed**".to_owned(),
                Some(line) => {
                    let reason = line.reason.as_deref().unwrap_or("without a reason");
                    let known = reasons.iter().position(|r| *r == reason);
                    let n = known.unwrap_or_else(|| {
                        reasons.push(reason);
                        reasons.len() - 1
                    });
                    format!("ignored [{}]", n + 1)
                }
            };
            let _ = write!(rows, " {cell} |");
        }
        rows.push('\n');
    }
    let mut table = String::from("| about | promise |");
    brokers.iter().for_each(|broker| table.push_str(&format!(" {broker} |")));
    table.push_str(&format!("\n|---|---|{}\n", "---|".repeat(brokers.len())));
    table.push_str(&rows);
    for broker in &brokers {
        let count = |outcome: &str| {
            let of_it = |line: &&Line| line.broker == *broker && line.outcome == outcome;
            results.values().filter(of_it).count()
        };
        let (passed, ignored, failed) = (count("passed"), count("ignored"), count("failed"));
        let _ = write!(table, "\n{broker}: {passed} passed, {ignored} ignored, {failed} failed.\n");
    }
    for (n, reason) in reasons.iter().enumerate() {
        let _ = write!(table, "\n[{}] {}\n", n + 1, reason.replace('\n', " "));
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_row_for_a_case_a_column_for_a_broker_and_the_reasons() {
        let case = super::super::cases().next().unwrap().name();
        let lines = format!(
            "{{\"broker\":\"b\",\"case\":\"{case}\",\"outcome\":\"failed\",\"seconds\":1.0}}\n\
             {{\"broker\":\"a\",\"case\":\"{case}\",\"outcome\":\"ignored\",\"reason\":\"it cannot\",\"seconds\":0.1}}\n\
             {{\"broker\":\"b\",\"case\":\"{case}\",\"outcome\":\"passed\",\"seconds\":1.0}}\n"
        );
        let table = table(&lines).unwrap();
        assert!(table.starts_with("| about | promise | a | b |\n|---|---|---|---|\n"), "{table}");
        assert!(table.contains("| ignored [1] | yes |"), "{table}");
        assert!(table.contains("b: 1 passed, 0 ignored, 0 failed."), "{table}");
        assert!(table.ends_with("[1] it cannot\n"), "{table}");
    }

    #[test]
    fn a_line_that_is_no_result_is_named() {
        let error = table("\n{}\n").unwrap_err();
        assert!(error.starts_with("line 2 is no result: missing field"), "{error}");
    }
}

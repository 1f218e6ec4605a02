//! What became of each case, as a file of JSON lines for each broker.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::case::Case;
use super::runner::Outcome;

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Line {
    case: String,
    #[serde(flatten)]
    outcome: Outcome,
    seconds: f64,
}

/// The file that one broker's results are written to, if any are asked for.
pub(super) struct Results(Option<PathBuf>);

impl Results {
    /// Where `BROKER_TESTKIT_RESULTS` names a folder. A run of all cases begins anew, so that
    /// nothing is left of an older one; a run of some adds to what is there.
    pub(super) fn begin(broker: &str, all: bool) -> io::Result<Self> {
        let Some(folder) = std::env::var_os("BROKER_TESTKIT_RESULTS") else {
            return Ok(Self(None));
        };
        let file = file(Path::new(&folder), broker);
        fs::create_dir_all(&folder)?;
        match fs::remove_file(&file) {
            _ if !all => {}
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self(Some(file)))
    }

    /// Adds a result.
    pub(super) fn record(&self, case: &Case, outcome: &Outcome, took: Duration) -> io::Result<()> {
        let Some(file) = &self.0 else { return Ok(()) };
        let seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
        let line = Line { case: case.name(), outcome: outcome.clone(), seconds };
        let mut line = serde_json::to_string(&line)?;
        line.push('\n');
        // One write at the end of the file: other cases end at the same time.
        OpenOptions::new().create(true).append(true).open(file)?.write_all(line.as_bytes())
    }
}

/// The last outcome of each case of a broker; none at all if it was not run.
///
/// # Errors
/// Those of reading; which line is not one of a result, and why.
pub(super) fn read(folder: &Path, broker: &str) -> Result<HashMap<String, Outcome>, String> {
    let file = file(folder, broker);
    let text = match fs::read_to_string(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(HashMap::new()),
        read => read.map_err(|error| format!("{}: {error}", file.display()))?,
    };
    let line = |(n, line)| {
        let line: Line = serde_json::from_str(line)
            .map_err(|error| format!("{}: line {}: {error}", file.display(), n + 1))?;
        Ok((line.case, line.outcome))
    };
    text.lines().enumerate().map(line).collect()
}

/// `kafka (KIP-848)` has the file `kafka-kip-848.jsonl`.
fn file(folder: &Path, broker: &str) -> PathBuf {
    let words = broker.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
    let words: Vec<_> = words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    folder.join(format!("{}.jsonl", words.join("-")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]
    use super::*;

    #[test]
    fn the_last_result_of_a_case_counts_and_no_file_is_no_results() {
        let folder = tempfile::tempdir().unwrap();
        let results = Results(Some(file(folder.path(), "a (B)")));
        let case = super::super::cases().next().unwrap();
        for outcome in [Outcome::Failed("how".into()), Outcome::Passed] {
            results.record(&case, &outcome, Duration::from_secs(1)).unwrap();
        }
        let read_back = read(folder.path(), "a (B)").unwrap();
        assert_eq!(read_back, [(case.name(), Outcome::Passed)].into());
        assert_eq!(read(folder.path(), "b").unwrap(), HashMap::new());
    }

    #[test]
    fn a_line_that_is_no_result_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.jsonl"), "{}\n").unwrap();
        let error = read(folder.path(), "a").unwrap_err();
        assert!(error.contains("a.jsonl: line 1: missing field `case`"), "{error}");
    }
}

//! The results of the suite on several brokers, as a page in Markdown.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use super::results;
use super::runner::Outcome;

/// Cases x brokers: what passed, what failed, what was ignored and why. What has no result was not
/// run, and is shown so.
#[derive(Debug)]
pub struct Table {
    brokers: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    name: String,
    outcomes: HashMap<String, Outcome>,
}

impl Table {
    /// Reads what runs on these brokers have left in the folder of `BROKER_TESTKIT_RESULTS`.
    ///
    /// # Errors
    /// Which file, and why it cannot be read.
    pub fn read(folder: &Path, brokers: &[&str]) -> Result<Self, String> {
        let column = |broker: &&str| {
            let outcomes = results::read(folder, broker)?;
            Ok(Column { name: (*broker).to_owned(), outcomes })
        };
        Ok(Self { brokers: brokers.iter().map(column).collect::<Result<_, String>>()? })
    }

    fn summary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("| broker | passed | failed | ignored | not run |\n|---|---|---|---|---|\n")?;
        for broker in &self.brokers {
            let [mut passed, mut failed, mut ignored, mut not_run] = [0; 4];
            for case in super::cases() {
                *match broker.outcomes.get(&case.name()) {
                    Some(Outcome::Passed) => &mut passed,
                    Some(Outcome::Failed(_)) => &mut failed,
                    Some(Outcome::Ignored(_)) => &mut ignored,
                    None => &mut not_run,
                } += 1;
            }
            writeln!(f, "| {} | {passed} | {failed} | {ignored} | {not_run} |", broker.name)?;
        }
        Ok(())
    }

    fn rows(&self, f: &mut fmt::Formatter<'_>, reasons: &mut Reasons) -> fmt::Result {
        let mut subject = "";
        for case in super::cases() {
            if subject != case.subject() {
                subject = case.subject();
                write!(f, "\n## {}\n\n|", subject.replace('_', " "))?;
                self.brokers.iter().try_for_each(|broker| write!(f, " {} |", broker.name))?;
                writeln!(f, " promise |\n|{}---|", "---|".repeat(self.brokers.len()))?;
            }
            let name = case.name();
            f.write_str("|")?;
            for broker in &self.brokers {
                match broker.outcomes.get(&name) {
                    Some(Outcome::Passed) => f.write_str(" passed |")?,
                    Some(Outcome::Failed(_)) => f.write_str(" **failed** |")?,
                    Some(Outcome::Ignored(why)) => {
                        write!(f, " ignored [{}] |", reasons.number(&broker.name, why))?;
                    }
                    None => f.write_str(" not run |")?,
                }
            }
            let sentence = name.split_once("::").map_or(&*name, |(_, sentence)| sentence);
            writeln!(f, " {} |", sentence.replace('_', " "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reasons = Reasons::default();
        self.summary(f)?;
        self.rows(f, &mut reasons)?;
        reasons.fmt(f)
    }
}

/// Why cases were ignored, each reason once and in the order of the page.
#[derive(Default)]
struct Reasons(Vec<String>);

impl Reasons {
    fn number(&mut self, broker: &str, why: &str) -> usize {
        let reason = format!("{broker}: {}", why.replace('\n', " "));
        match self.0.iter().position(|known| *known == reason) {
            Some(at) => at + 1,
            None => {
                self.0.push(reason);
                self.0.len()
            }
        }
    }
}

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        f.write_str("\n## Why cases are ignored\n\n")?;
        self.0.iter().enumerate().try_for_each(|(n, reason)| writeln!(f, "{}. {reason}", n + 1))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]
    use super::*;

    #[test]
    fn every_case_has_a_cell_for_every_broker_and_what_did_not_run_says_so() {
        let mut cases = super::super::cases().map(|case| case.name());
        let outcomes = [
            (cases.next().unwrap(), Outcome::Passed),
            (cases.next().unwrap(), Outcome::Ignored("it cannot".into())),
            (cases.next().unwrap(), Outcome::Failed("it did not".into())),
        ];
        let column = |name: &str, outcomes| Column { name: name.into(), outcomes };
        let brokers = vec![column("a", outcomes.into()), column("b", HashMap::new())];
        let page = Table { brokers }.to_string();
        let all = super::super::cases().count();
        assert!(page.contains(&format!("| a | 1 | 1 | 1 | {} |", all - 3)), "{page}");
        assert!(page.contains(&format!("| b | 0 | 0 | 0 | {all} |")), "{page}");
        for row in ["| passed | not run |", "| ignored [1] | not run |", "| **failed** | not run |"]
        {
            assert_eq!(page.matches(row).count(), 1, "{row} in {page}");
        }
        assert_eq!(page.matches("| not run | not run |").count(), all - 3);
        assert!(page.ends_with("\n1. a: it cannot\n"), "{page}");
    }
}

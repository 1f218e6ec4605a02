//! What the checker found.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::event::{Entry, Id};

/// How many findings a report shows in full.
const SHOWN: usize = 5;

/// What must not happen to a message, whatever is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// Its publisher was told that it is stored, and a group never got it.
    Lost,
    /// Its publisher was told that it is stored, and a group got or finished it for the first time
    /// after a later one of its key.
    Reordered,
    /// It was handled, came again, and nothing was broken in between that would explain it.
    Duplicated,
    /// A group got it, no member finished it, and it never came again: somebody settled it before.
    SettledEarly,
    /// A group got it although nobody published it, or its publisher was told that it is certainly
    /// not stored.
    Unpublished,
}

/// A message that something is wrong with.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What is wrong.
    pub anomaly: Anomaly,
    /// In which group.
    pub group: String,
    /// Which message.
    pub id: Id,
    /// Everything noted about it, in the order of time.
    pub story: Vec<Entry>,
}

/// What became of all the messages. `Display` is for people.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Everything that must not happen; empty if all is well.
    pub findings: Vec<Finding>,
    /// Messages that are stored, as their publishers were told.
    pub confirmed: usize,
    /// Messages of which no attempt was stored, as their publishers were told.
    pub failed: usize,
    /// Messages of which nobody knows: told so, or the answer never came.
    pub indeterminate: usize,
    /// Messages handled, by how many groups each, repetitions not counted.
    pub handled: usize,
    /// Messages that came again after they had been handled, by what explains it: a disturbance,
    /// or that they were published more than once. Those that nothing explains are findings.
    pub explained_duplicates: BTreeMap<String, usize>,
    /// Messages that came again before they were handled, as they must.
    pub redelivered: usize,
    /// Messages of unknown outcome that came after later ones of their key.
    pub late: usize,
    /// The longest time, from the first disturbance on, in which no publisher had a confirmation,
    /// or a group handled nothing. The disturbance itself is part of it.
    pub longest_gap: Duration,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// How many messages this happened to, counted once in each group.
    pub fn count(&self, anomaly: Anomaly) -> usize {
        self.findings.iter().filter(|finding| finding.anomaly == anomaly).count()
    }

    /// Messages that came again after they had been handled, whether that is explained or not.
    pub fn duplicates(&self) -> usize {
        self.count(Anomaly::Duplicated) + self.explained_duplicates.values().sum::<usize>()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} messages confirmed, {} failed, {} of unknown outcome; {} handled, {} redelivered, \
             {} late; longest gap {:.1?}",
            self.confirmed,
            self.failed,
            self.indeterminate,
            self.handled,
            self.redelivered,
            self.late,
            self.longest_gap
        )?;
        for (why, count) in &self.explained_duplicates {
            writeln!(f, "{count} duplicates explained by: {why}")?;
        }
        let mut counts = BTreeMap::<_, usize>::new();
        for finding in &self.findings {
            *counts.entry(finding.anomaly).or_default() += 1;
        }
        for (anomaly, count) in counts {
            writeln!(f, "WRONG: {count} {anomaly:?}")?;
        }
        for finding in self.findings.iter().take(SHOWN) {
            writeln!(f, "{:?} in {}: {}", finding.anomaly, finding.group, finding.id)?;
            let Some(first) = finding.story.first() else { continue };
            for entry in &finding.story {
                let after = entry.at.duration_since(first.at).unwrap_or_default();
                writeln!(f, "  {after:>10.1?} {} {}", entry.client, entry.event)?;
            }
        }
        Ok(())
    }
}

//! Processes of this machine: which one is meant, its descendants, and signals to them.

use std::collections::VecDeque;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How often an end is looked for.
const POLL: Duration = Duration::from_millis(20);

/// One process, told by its start time from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProcessId {
    number: i32,
    /// In the clock ticks since the machine was started that `/proc` counts in.
    started: u64,
}

impl ProcessId {
    /// The process that has this number now.
    pub fn of(number: u32) -> Option<Self> {
        let stat = Stat::of(i32::try_from(number).ok()?)?;
        Some(Self { number: stat.number, started: stat.started })
    }

    /// Its number.
    pub fn number(&self) -> i32 {
        self.number
    }

    /// Whether it still runs (or is stopped); one that ended and was not waited for yet does not.
    pub fn is_alive(&self) -> bool {
        Stat::of(self.number)
            .is_some_and(|stat| stat.started == self.started && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Asks it to end, by SIGTERM, and ends it by SIGKILL when it has not within the limit. Says whether it ended by itself.
    pub async fn end(&self, limit: Duration) -> bool {
        self.terminate();
        let deadline = Instant::now() + limit;
        let mut by_itself = true;
        while self.is_alive() {
            if Instant::now() > deadline {
                by_itself = false;
                self.signal(Signal::KILL);
            }
            tokio::time::sleep(POLL).await;
        }
        by_itself
    }

    /// SIGTERM, also to one that is paused.
    pub(crate) fn terminate(&self) {
        self.signal_all(Signal::CONT);
        self.signal(Signal::TERM);
    }

    /// Its direct children.
    pub(crate) fn children(&self) -> Vec<Self> {
        children(&Stat::all(), self.number)
    }

    /// A signal to this process alone.
    pub(crate) fn signal(&self, signal: Signal) {
        // Checked first: the number may be another process's by now. That it ended meanwhile is no failure.
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.number)
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// A signal to this process and all its descendants, parents first.
    pub(crate) fn signal_all(&self, signal: Signal) {
        let processes = Stat::all();
        let mut next = VecDeque::from([*self]);
        while let Some(process) = next.pop_front() {
            process.signal(signal);
            next.extend(children(&processes, process.number));
        }
    }
}

fn children(processes: &[Stat], parent: i32) -> Vec<ProcessId> {
    let of_parent = processes.iter().filter(|process| process.parent == parent);
    of_parent
        .map(|process| ProcessId { number: process.number, started: process.started })
        .collect()
}

/// A line of `/proc/PID/stat`.
struct Stat {
    number: i32,
    state: char,
    parent: i32,
    started: u64,
}

impl Stat {
    fn of(number: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{number}/stat")).ok()?)
    }

    fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| Self::of(entry.file_name().to_str()?.parse().ok()?)).collect()
    }

    fn parse(line: &str) -> Option<Self> {
        // The second field, the program's name, may itself hold blanks and parentheses.
        let (number, rest) = line.split_once(" (")?;
        let (_, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        Some(Self {
            number: number.parse().ok()?,
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_program_does_not_confuse() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.number, stat.state, stat.parent, stat.started), (42, 'S', 7, 987_654));
    }

    #[test]
    fn a_process_is_alive_until_it_ended_and_its_number_alone_does_not_count() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        let me = ProcessId::of(std::process::id()).unwrap();
        assert!(id.is_alive() && me.children().contains(&id));
        assert!(!ProcessId { started: id.started - 1, ..id }.is_alive());
        id.signal_all(Signal::KILL);
        child.wait().unwrap();
        assert!(!id.is_alive());
    }
}

//! Noting what happens, from many tasks and processes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::check;
use super::event::{Entry, Event, Id, Outcome};
use super::report::Report;

/// Everything that was noted. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    entries: Mutex<Vec<Entry>>,
    /// Where entries go as well, a line of JSON each.
    file: Option<File>,
}

impl History {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty one that also writes each entry to the end of this file at once, for a process
    /// that may be killed. Several processes may name the same file.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn in_file(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self(Arc::new(Inner { entries: Mutex::default(), file: Some(file) })))
    }

    /// Adds what other processes noted in this file. A last line that is not whole, of one killed
    /// while writing it, is left out.
    ///
    /// # Errors
    /// The file cannot be read, or is no such file.
    pub fn add_file(&self, path: &Path) -> io::Result<()> {
        let text = std::fs::read_to_string(path)?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let entries: Vec<Entry> =
            whole.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        self.lock().extend(entries);
        Ok(())
    }

    /// Who notes what it is told under this name.
    pub fn client(&self, name: impl Into<String>) -> Client {
        Client { name: name.into(), history: self.clone() }
    }

    /// Notes that something is broken on purpose from now on. Say it before it is broken.
    pub fn disturbed(&self, what: impl Into<String>) {
        self.note("", Event::Disturbed(what.into()));
    }

    /// Notes that everything works again, seen by messages that go through, not only repaired:
    /// what was broken explains nothing that comes later.
    pub fn calm(&self) {
        self.note("", Event::Calm);
    }

    /// Everything noted so far, in the order of time.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = self.lock().clone();
        entries.sort_by_key(|entry| entry.at);
        entries
    }

    /// What is wrong. Call it when all is over: publishers have their answers, and the groups,
    /// which existed from the beginning, have had the time to handle everything.
    pub fn check(&self, groups: &[&str]) -> Report {
        check::check(&self.entries(), groups)
    }

    fn note(&self, client: &str, event: Event) {
        let mut entries = self.lock();
        // The time is taken under the lock, so the list is in order.
        let entry = Entry { at: SystemTime::now(), client: client.to_owned(), event };
        if let Some(mut file) = self.0.file.as_ref() {
            // One write, so that lines of several processes do not mix. A history with holes would
            // accuse the innocent, so a full disk ends the test.
            let mut line = serde_json::to_vec(&entry).unwrap_or_default();
            line.push(b'\n');
            file.write_all(&line).expect("the history's file can be written");
        }
        entries.push(entry);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FromIterator<Entry> for History {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let entries = Mutex::new(entries.into_iter().collect());
        Self(Arc::new(Inner { entries, file: None }))
    }
}

/// A publisher or a member of a group, noting what it is told.
#[derive(Debug, Clone)]
pub struct Client {
    name: String,
    history: History,
}

impl Client {
    /// The message is about to be handed over.
    pub fn publishing(&self, key: &str, number: u64) {
        self.note(Event::Publishing(id(key, number)));
    }

    /// What the publisher was told, from a result as `publish` returns it, or by name.
    pub fn published(&self, key: &str, number: u64, outcome: impl Into<Outcome>) {
        self.note(Event::Published(id(key, number), outcome.into()));
    }

    /// The message came, for this attempt. To be noted before anything is done with it.
    pub fn received(&self, group: &str, key: &str, number: u64, attempt: u32) {
        self.note(Event::Received { id: id(key, number), group: group.into(), attempt });
    }

    /// It is done. To be noted before it is acknowledged, and not if it failed.
    pub fn handled(&self, group: &str, key: &str, number: u64) {
        self.note(Event::Handled { id: id(key, number), group: group.into() });
    }

    fn note(&self, event: Event) {
        self.history.note(&self.name, event);
    }
}

fn id(key: &str, number: u64) -> Id {
    Id { key: key.to_owned(), number }
}

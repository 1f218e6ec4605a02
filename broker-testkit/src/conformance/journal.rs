//! What several members handled, in the order they handled it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_api::Received;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::fault::{Fault, Verdict, ensure};
use super::inbox::{Inbox, text};

/// One message that was handled.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Who handled it.
    pub(crate) member: usize,
    /// What it was.
    pub(crate) received: Received,
}

/// What all members handled, one list for all: so its order is the order of handling.
pub(crate) struct Journal {
    entries: Mutex<Vec<Entry>>,
    count: watch::Sender<usize>,
    patience: Duration,
}

impl Journal {
    pub(crate) fn new(patience: Duration) -> Arc<Self> {
        Arc::new(Self { entries: Mutex::default(), count: watch::Sender::new(0), patience })
    }

    pub(crate) fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, member: usize, received: Received) {
        let mut entries = self.entries();
        entries.push(Entry { member, received });
        self.count.send_replace(entries.len());
    }

    /// Waits until this holds of what was handled; new entries have to come within the patience.
    pub(crate) async fn wait(&self, what: &str, holds: impl Fn(&[Entry]) -> bool) -> Verdict {
        let mut count = self.count.subscribe();
        loop {
            count.borrow_and_update();
            if holds(&self.entries()) {
                return Ok(());
            }
            if timeout(self.patience, count.changed()).await.is_err() {
                let entries = self.entries();
                let last: Vec<_> =
                    entries.iter().rev().take(5).map(|e| text(&e.received.message)).collect();
                return Err(Fault::failed(format!(
                    "waiting for {what}: nothing more came for {:?}; {} were handled, {} different, the last were {last:?}",
                    self.patience,
                    entries.len(),
                    distinct(&entries)
                )));
            }
        }
    }

    /// Waits until so many different messages were handled.
    pub(crate) async fn wait_for(&self, messages: usize) -> Verdict {
        let what = format!("{messages} different messages");
        self.wait(&what, |entries| distinct(entries) >= messages).await
    }

    /// The texts of all entries, in the order they were handled.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.entries().iter().map(|entry| text(&entry.received.message)).collect()
    }

    /// Wants the messages of each key in order, where a text ends in a number that grows within
    /// its key. A message that comes again is passed over: its first time counts.
    pub(crate) fn ensure_key_order(&self) -> Verdict {
        let mut newest: HashMap<Vec<u8>, (String, usize)> = HashMap::new();
        let mut seen = HashSet::new();
        for entry in self.entries().iter() {
            let message = &entry.received.message;
            let key = message.key().map(|key| key.to_vec()).unwrap_or_default();
            let text = text(message);
            if !seen.insert(text.clone()) {
                continue;
            }
            if let Some((before, member)) = newest.get(&key) {
                ensure!(
                    *before < text,
                    "the order of a key: {text} was handled by member {} after {before} by member {member}",
                    entry.member
                );
            }
            newest.insert(key, (text, entry.member));
        }
        Ok(())
    }

    /// Wants no message twice.
    pub(crate) fn ensure_once(&self) -> Verdict {
        let mut seen: HashMap<String, usize> = HashMap::new();
        for entry in self.entries().iter() {
            let text = text(&entry.received.message);
            if let Some(first) = seen.insert(text.clone(), entry.member) {
                let second = entry.member;
                ensure!(
                    false,
                    "{text} was handled by member {first}, and again by member {second}"
                );
            }
        }
        Ok(())
    }
}

fn distinct(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.received.message.payload()).collect::<HashSet<_>>().len()
}

/// A member of a group at work: acknowledges everything, and enters it into the journal.
pub(crate) struct Member {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Verdict>,
}

impl Member {
    pub(crate) fn start(number: usize, mut inbox: Inbox, journal: &Arc<Journal>) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let journal = journal.clone();
        let task = tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    biased;
                    _ = &mut stopped => return inbox.close().await,
                    next = inbox.subscription().next() => next?,
                };
                let Some(delivery) = next else { return Ok(()) };
                // What was handed out but is another member's by now is not begun.
                if delivery.is_live() {
                    journal.add(number, delivery.received().clone());
                    delivery.ack();
                }
            }
        });
        Self { stop, task }
    }

    /// Leaves the group in order.
    pub(crate) async fn leave(self) -> Verdict {
        // It may have ended by itself, then the task says why.
        let _ = self.stop.send(());
        self.task.await?
    }

    /// Is gone, in the middle of whatever it does.
    pub(crate) async fn vanish(self) {
        self.task.abort();
        // Cancelled, which is what was wanted.
        let _ = self.task.await;
    }
}

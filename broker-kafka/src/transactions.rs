//! The transactions of a member: what is done is gathered, committed together, and tried again
//! where nothing of it happened.
//!
//! A transaction is begun when all that belongs to it is there, and committed at once. So none is
//! open while a handler works, which would hold back every reader of the topics it published to.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use broker_api::{Error, ErrorKind, Outgoing, Receipt, Result, Transactions as Grouping};
use rdkafka::consumer::Consumer as _;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::error;
use crate::member::Member;
use crate::ownership::Ownership;
use crate::poll::Consumer;
use crate::transactor::{Outcome, Transactor, Work};

/// How long the last transactions of a member may take that leaves.
const LAST: Duration = Duration::from_secs(15);

/// How long a transaction is tried once its member is to leave.
const HURRY: Duration = Duration::from_secs(5);

/// Before an aborted transaction is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// The outputs of one transaction, in bytes, beyond which it waits for no more.
const BYTES: usize = 16 * 1024 * 1024;

/// How much is done and in no transaction yet.
pub(crate) struct Pending {
    grouping: Grouping,
    count: AtomicUsize,
    bytes: AtomicUsize,
}

impl Pending {
    pub(crate) fn new(grouping: Grouping) -> Self {
        let messages = grouping.messages.max(1);
        let grouping = Grouping { messages, ..grouping };
        Self { grouping, count: AtomicUsize::new(0), bytes: AtomicUsize::new(0) }
    }

    /// One more is done, with outputs of so many bytes. Whether the task that commits has to know.
    pub(crate) fn add(&self, bytes: usize) -> bool {
        let before = self.count.fetch_add(1, Ordering::AcqRel);
        let had = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        before == 0 || before + 1 == self.grouping.messages || (had < BYTES && had + bytes >= BYTES)
    }

    /// So many are in a transaction, or nobody's any more.
    pub(crate) fn remove(&self, count: usize, bytes: usize) {
        self.count.fetch_sub(count, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Whether more may be handed out. What comes back is handed out in any case: the rest may be
    /// waiting for it.
    pub(crate) fn has_room(&self) -> bool {
        self.count() < 2 * self.grouping.messages && self.bytes() < 2 * BYTES
    }

    /// Whether there is enough for a transaction.
    fn is_full(&self) -> bool {
        self.count() >= self.grouping.messages || self.bytes() >= BYTES
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }
}

/// What one transaction settles of one partition.
pub(crate) struct Done {
    pub(crate) ownership: Arc<Ownership>,
    /// Where the group is afterwards.
    pub(crate) position: u64,
    /// In the order of the messages they belong to.
    pub(crate) outputs: Vec<Outgoing>,
}

type Ended = (Outcome, Vec<Option<Receipt>>, Vec<Done>);

pub(crate) struct Transactions {
    member: Arc<Member>,
    grouping: Grouping,
    transactor: Arc<Transactor>,
    running: Option<JoinHandle<Ended>>,
    /// What was in a transaction that did not come to be.
    again: Vec<Done>,
    due: Option<Instant>,
    /// Set when nothing can be committed any more.
    failure: Option<Error>,
}

impl Transactions {
    pub(crate) fn new(member: Arc<Member>, grouping: Grouping, transactor: Transactor) -> Self {
        let transactor = Arc::new(transactor);
        let (running, again, due, failure) = (None, Vec::new(), None, None);
        Self { member, grouping, transactor, running, again, due, failure }
    }

    /// Waits until something is to be done about transactions. Cancel-safe.
    pub(crate) async fn ready(&mut self) {
        if let Some(running) = &mut self.running {
            let ended = running.await;
            self.running = None;
            return self.ended(ended);
        }
        match self.due {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
    }

    /// Begins a transaction if it is time.
    pub(crate) fn keep(&mut self, consumer: &Consumer) {
        let Some(pending) = &self.member.pending else { return };
        if self.running.is_some() || self.failure.is_some() {
            return;
        }
        let now = Instant::now();
        if pending.count() == 0 && self.again.is_empty() {
            self.due = None;
            return;
        }
        let due = *self.due.get_or_insert_with(|| now + self.grouping.wait);
        let full = pending.is_full() && self.again.is_empty();
        if due <= now || full || self.member.revocation_deadline().is_some() {
            // Where nothing is in order yet it is looked again as if it had been done just now.
            self.due = Some(now + self.grouping.wait.max(PAUSE));
            self.begin(consumer);
        }
    }

    /// Begins a transaction of what is done. `false` if there is nothing.
    fn begin(&mut self, consumer: &Consumer) -> bool {
        // Before it is looked what is owned, see `Work::group`.
        let Some(group) = consumer.group_metadata() else { return false };
        let mut done = std::mem::take(&mut self.again);
        // Of partitions that were given up meanwhile the next owner makes it anew.
        done.retain(|done| !done.ownership.is_gone());
        if done.is_empty() {
            done.extend(self.member.owned().iter().filter_map(Ownership::take_done));
            self.member.wake();
        }
        if done.is_empty() {
            return false;
        }
        self.due = None;
        let (transactor, member) = (self.transactor.clone(), self.member.clone());
        self.running = Some(spawn_blocking(move || {
            let mut positions = BTreeMap::new();
            for done in &done {
                let place = (done.ownership.topic, done.ownership.partition);
                positions.insert(place, i64::try_from(done.position).unwrap_or(i64::MAX));
            }
            let positions = positions.into_iter().map(|((topic, p), at)| (topic, p, at));
            let outputs = done.iter().flat_map(|done| &done.outputs).collect();
            let work = Work { outputs, positions: positions.collect(), group: &group };
            let hurried = std::cell::OnceCell::new();
            let stop = || {
                member.is_over() && hurried.get_or_init(std::time::Instant::now).elapsed() > HURRY
            };
            let (outcome, receipts) = transactor.run(&work, &stop);
            drop(work);
            (outcome, receipts, done)
        }));
        true
    }

    /// A transaction has ended.
    fn ended(&mut self, ended: Result<Ended, JoinError>) {
        let member = &self.member;
        let Ok((outcome, receipts, done)) = ended else {
            return self.fail(Error::new(ErrorKind::Closed, "consume", "the runtime is shut down"));
        };
        let count = done.iter().map(|done| done.outputs.len()).sum::<usize>();
        tracing::debug!(group = %member.group, outputs = count, ?outcome, "a transaction has ended");
        match outcome {
            Outcome::Committed => {
                // Before anybody is told, who may look at the health then.
                member.committed(Ok(()));
                let mut receipts = receipts.into_iter();
                for done in done {
                    done.ownership.is_committed();
                    for output in done.outputs {
                        if let Some(Some(receipt)) = receipts.next() {
                            output.confirm.done(Ok(receipt));
                        }
                    }
                }
            }
            Outcome::Aborted(why) => {
                let text = format!("a transaction was aborted, and is tried again: {why}");
                tracing::warn!(group = %member.group, "{text}");
                member.committed(Err(text));
                self.again = done;
                self.due = Some(Instant::now() + PAUSE);
            }
            Outcome::Refused(error) => {
                let text = format!("the broker did not take what a handler published: {error}");
                let error = Error::new(error.kind(), "consume", text).with_class(error.class());
                self.fail(error.with("group", member.group));
            }
            Outcome::Lost(why) => {
                let text = format!(
                    "a transaction could not be brought to an end ({why}); what was in it comes \
                     again unless it was committed"
                );
                let kind = error::code(&why)
                    .map_or(ErrorKind::Other, |code| error::coded(code, "consume").kind());
                let error = Error::new(kind, "consume", text).transient().with_source(why);
                self.fail(error.with("group", member.group));
            }
        }
    }

    fn fail(&mut self, error: Error) {
        self.failure = Some(Error::new(error.kind(), "close", error.message().to_owned()));
        self.member.fail(error);
    }

    /// Commits what is done before the member leaves.
    ///
    /// # Errors
    /// Why it could not; what is not committed comes again.
    pub(crate) async fn finish(mut self, consumer: &Consumer) -> Result<()> {
        let deadline = Instant::now() + LAST;
        loop {
            if let Some(running) = &mut self.running {
                let Ok(ended) = timeout_at(deadline, running).await else {
                    let text = "the last transaction did not end within the time limit";
                    return Err(Error::new(ErrorKind::Timeout, "close", text));
                };
                self.running = None;
                self.ended(ended);
            }
            if let Some(failure) = self.failure {
                return Err(failure);
            }
            if !self.again.is_empty() {
                if Instant::now() > deadline {
                    let text = "the last transaction was aborted again and again";
                    return Err(Error::new(ErrorKind::Timeout, "close", text));
                }
                sleep(PAUSE).await;
            }
            if !self.begin(consumer) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests;

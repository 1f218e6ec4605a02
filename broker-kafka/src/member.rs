//! A membership in a group: what its task, its source and its deliveries share.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_api::{
    ConsumerHealth, Delivery, Error, ErrorKind, Name, Result, Subscribe, Transactions,
};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::error::Report;
use crate::link::{Link, Statistics};
use crate::ownership::Ownership;
use crate::transactions::Pending;

/// What is buffered for all partitions of a member together, and for one of them, in bytes.
const BUFFER: usize = 32 * 1024 * 1024;
const PARTITION_BUFFER: std::ops::RangeInclusive<usize> = 256 * 1024..=8 * 1024 * 1024;

pub(crate) struct Member {
    pub(crate) topics: Vec<Name>,
    pub(crate) group: Name,
    prefetch: usize,
    /// How long a partition that is to be given up waits for its messages in flight.
    pub(crate) revoke_timeout: Duration,
    pub(crate) link: Arc<Link>,
    /// What waits for a transaction, if it settles by those. Nothing else commits its positions.
    pub(crate) pending: Option<Pending>,
    /// How many deliveries are handed out and not settled.
    out: AtomicUsize,
    /// Whether somebody waits for `ready`: most settlements need not wake anybody.
    pub(crate) waiting: AtomicBool,
    pub(crate) ready: Notify,
    /// Wakes the task that polls.
    pub(crate) work: Notify,
    /// Set before the client is dropped. Its last revocation must not be deferred then: nobody
    /// would ever come back to it.
    pub(crate) closing: AtomicBool,
    /// Set when its source is closed or dropped.
    pub(crate) left: AtomicBool,
    state: Mutex<State>,
    /// Set when librdkafka may have left partitions lying that it should have begun to fetch.
    pub(crate) in_doubt: AtomicBool,
    /// Whether a partition has something that cannot be read, and is not come past.
    pub(crate) unreadable: AtomicBool,
    /// Set when librdkafka knows no broker any more.
    pub(crate) forsaken: AtomicBool,
    /// Counts the changes of what is owned.
    changes: AtomicU64,
    status: Mutex<Status>,
    ended: watch::Sender<Option<Result<(), Report>>>,
}

#[derive(Default)]
struct State {
    owned: Vec<Arc<Ownership>>,
    /// Which partition is the first to hand out next time.
    turn: usize,
    /// What is being given up.
    revocation: Option<Revocation>,
    failure: Option<Error>,
    /// Whether nothing more comes.
    over: bool,
}

/// Partitions that are to be given up, once their work in flight is done.
pub(crate) struct Revocation {
    pub(crate) partitions: Vec<Arc<Ownership>>,
    /// Whether only these are given up, or the whole assignment.
    pub(crate) incremental: bool,
    deadline: Instant,
}

/// What is known of the membership.
#[derive(Default)]
struct Status {
    joined: bool,
    connected: bool,
    /// Why it has lost its partitions, or what the last commit said.
    trouble: Option<String>,
}

impl Member {
    pub(crate) fn new(
        subscribe: &Subscribe,
        transactions: Option<Transactions>,
        revoke_timeout: Duration,
        link: Arc<Link>,
    ) -> Self {
        Self {
            topics: subscribe.topics.clone(),
            group: subscribe.group.name,
            prefetch: subscribe.prefetch.max(1),
            revoke_timeout,
            link,
            pending: transactions.map(Pending::new),
            out: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            ready: Notify::new(),
            work: Notify::new(),
            closing: AtomicBool::new(false),
            left: AtomicBool::new(false),
            state: Mutex::default(),
            in_doubt: AtomicBool::new(false),
            unreadable: AtomicBool::new(false),
            forsaken: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            status: Mutex::default(),
            ended: watch::Sender::new(None),
        }
    }

    /// What is ready to be handed out, at most `max`; `None` when nothing more comes.
    pub(crate) fn hand_out(&self, max: usize) -> Result<Option<Vec<Delivery>>> {
        let mut state = self.lock();
        if let Some(error) = state.failure.take() {
            return Err(error);
        }
        if state.over {
            return Ok(None);
        }
        let room = self.prefetch.saturating_sub(self.out.load(Ordering::Acquire)).min(max.max(1));
        let mut batch = Vec::new();
        let mut resume = false;
        let count = state.owned.len();
        for n in 0..count {
            let ownership = &state.owned[(state.turn + n) % count];
            resume |= ownership.hand_out(room - batch.len(), &mut batch);
            if batch.len() == room {
                break;
            }
        }
        state.turn = (state.turn + 1) % count.max(1);
        self.out.fetch_add(batch.len(), Ordering::AcqRel);
        if resume {
            self.work.notify_one();
        }
        Ok(Some(batch))
    }

    /// A delivery was settled or handed back.
    pub(crate) fn came_back(&self, ownership: &Ownership, again: bool) {
        let were_out = self.out.fetch_sub(1, Ordering::AcqRel);
        // A settlement makes only room, which matters if there was none.
        if again || were_out >= self.prefetch {
            self.wake();
        }
        if !ownership.is_kept() {
            // The last one of a partition that is being given up is waited for.
            self.work.notify_one();
        }
    }

    /// There may be something to hand out.
    pub(crate) fn wake(&self) {
        if self.waiting.swap(false, Ordering::SeqCst) {
            self.ready.notify_one();
        }
    }

    /// Partitions were assigned.
    pub(crate) fn assign(self: &Arc<Self>, partitions: impl IntoIterator<Item = (Name, i32)>) {
        let mut state = self.lock();
        for (topic, partition) in partitions {
            state.owned.push(Ownership::new(topic, partition, self.clone()));
        }
        self.changes.fetch_add(1, Ordering::Release);
        drop(state);
        self.joined();
    }

    /// The group's coordinator has answered that this is a member.
    pub(crate) fn joined(&self) {
        let mut status = self.status();
        status.joined = true;
        status.connected = true;
        status.trouble = None;
    }

    /// These partitions, or all, are to be given up once they are drained.
    pub(crate) fn revoke(&self, partitions: &[(Name, i32)], incremental: bool) {
        let mut state = self.lock();
        let revoked: Vec<_> = state
            .owned
            .iter()
            .filter(|o| !incremental || partitions.contains(&(o.topic, o.partition)))
            .cloned()
            .collect();
        revoked.iter().for_each(|ownership| ownership.revoke());
        let deadline = Instant::now() + self.revoke_timeout;
        state.revocation = Some(Revocation { partitions: revoked, incremental, deadline });
        self.work.notify_one();
    }

    /// These partitions, or all, were lost: others may own them already.
    pub(crate) fn lose(&self, partitions: &[(Name, i32)], all: bool) {
        let mut state = self.lock();
        if all {
            state.revocation = None;
        }
        state.owned.retain(|ownership| {
            let lost = all || partitions.contains(&(ownership.topic, ownership.partition));
            if lost {
                ownership.end();
            }
            !lost
        });
        self.changes.fetch_add(1, Ordering::Release);
        drop(state);
        let mut status = self.status();
        status.joined = false;
        status.trouble = Some("the partitions were lost; the member joins again".into());
    }

    /// What is being given up, if it is drained or its time is up; its final positions are to be
    /// stored, and then it is to be ended.
    pub(crate) fn drained(&self) -> Option<Revocation> {
        let mut state = self.lock();
        let revocation = state.revocation.as_ref()?;
        let drained = revocation.partitions.iter().all(|ownership| ownership.is_drained());
        if !drained && Instant::now() < revocation.deadline {
            return None;
        }
        if !drained {
            tracing::warn!(
                group = %self.group,
                "messages in flight were not settled within the time for giving partitions up; \
                 the next owner handles them again"
            );
        }
        let revocation = state.revocation.take()?;
        let given_up = |o: &Arc<Ownership>| revocation.partitions.iter().any(|r| Arc::ptr_eq(r, o));
        state.owned.retain(|ownership| !given_up(ownership));
        self.changes.fetch_add(1, Ordering::Release);
        Some(revocation)
    }

    /// What is being given up, drained or not: nobody waits any more.
    pub(crate) fn cut_short(&self) -> Option<Revocation> {
        self.lock().revocation.take()
    }

    /// When what is being given up has to be, at the latest.
    pub(crate) fn revocation_deadline(&self) -> Option<Instant> {
        self.lock().revocation.as_ref().map(|revocation| revocation.deadline)
    }

    /// The partitions owned now.
    pub(crate) fn owned(&self) -> Vec<Arc<Ownership>> {
        self.lock().owned.clone()
    }

    /// Counts how often the partitions owned changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// How many bytes may be buffered of one partition.
    pub(crate) fn room(&self) -> usize {
        let count = self.lock().owned.len().max(1);
        (BUFFER / count).clamp(*PARTITION_BUFFER.start(), *PARTITION_BUFFER.end())
    }

    /// Something that this backend cannot mend: the source reports it and ends.
    pub(crate) fn fail(&self, error: Error) {
        self.link.note(error.to_string());
        self.status().trouble = Some(error.to_string());
        let mut state = self.lock();
        if !state.over {
            state.failure = Some(error);
            self.finish(&mut state);
        }
    }

    /// Nothing more is handed out, and the task ends.
    pub(crate) fn stop(&self) {
        self.finish(&mut self.lock());
    }

    fn finish(&self, state: &mut State) {
        state.over = true;
        state.owned.iter().for_each(|ownership| ownership.revoke());
        self.work.notify_one();
        self.wake();
    }

    /// Whether its source was closed or dropped.
    pub(crate) fn is_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Whether the task has to end.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// The task has ended.
    pub(crate) fn end(&self, flushed: Result<(), Report>) {
        self.closing.store(true, Ordering::Release);
        {
            let mut state = self.lock();
            state.owned.drain(..).for_each(|ownership| ownership.end());
            state.revocation = None;
            self.finish(&mut state);
        }
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            *ended = ended.take().or(Some(flushed));
            first
        });
    }

    /// Ends the membership and waits until the group is left.
    pub(crate) async fn close(&self) -> Result<()> {
        self.stop();
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|ended| ended.clone()) {
            Ok(Some(flushed)) => flushed.map_err(|report| report.error("close")),
            _ => Ok(()),
        }
    }

    /// What librdkafka's statistics say.
    pub(crate) fn observe(&self, statistics: &Statistics<'_>) {
        self.status().connected = statistics.is_connected();
        self.forsaken.store(statistics.is_forsaken(), Ordering::Relaxed);
    }

    /// Whether a broker is there, and yet has not let this member join.
    pub(crate) fn waits_to_join(&self) -> bool {
        let status = self.status();
        status.connected && !status.joined
    }

    pub(crate) fn has_joined(&self) -> bool {
        self.status().joined
    }

    /// What a commit said.
    pub(crate) fn committed(&self, result: Result<(), String>) {
        let mut status = self.status();
        status.trouble = match result {
            Ok(()) => None,
            Err(why) => {
                self.link.note(why.clone());
                Some(why)
            }
        };
    }

    pub(crate) fn health(&self) -> ConsumerHealth {
        let (status, over) = (self.status(), self.is_over());
        let problem = match (&status.trouble, status.connected, status.joined) {
            (Some(trouble), ..) => Some(trouble.clone()),
            _ if over => Some("it has ended".into()),
            (None, false, false) => Some("it is joining its group".into()),
            (None, false, true) => Some("its connection is lost".into()),
            (None, true, false) => Some("it is joining its group".into()),
            (None, true, true) => None,
        };
        ConsumerHealth { topic: self.topics[0], group: self.group, problem }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error for a member of KIP-848 whom the broker does not answer.
pub(crate) fn no_such_protocol() -> Error {
    let text = "the broker does not answer the group protocol `consumer` (KIP-848), which needs \
                Kafka 4.0 with that protocol turned on: use the group protocol `classic`";
    Error::new(ErrorKind::Unsupported, "subscribe", text)
}

//! The task that polls for a member.

use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use broker_api::{Error, ErrorKind, Result};
use futures_util::{Stream, StreamExt as _};
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message as _};
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep_until};

use crate::elsewhere::Elsewhere;
use crate::error::{self, Report};
use crate::leave::{leave, store, unsure};
use crate::member::{Member, Revocation, no_such_protocol};
use crate::native;
use crate::ownership::Ownership;
use crate::rebalance::{Rebalance, answer, begin_again, invalid};
use crate::record;
use crate::route::Route;
use crate::topics::Topics;
use crate::transactions::Transactions;

/// librdkafka would fetch it again and again, and never come past it.
const UNREADABLE: &str = "messages that were published together cannot be decompressed: they are damaged, \
    or more than the property receive.message.max.bytes (100 MB where nothing is set). Raise that, or \
    move the group past them";

/// What the stream gives.
type Item<'a> = Result<BorrowedMessage<'a>, KafkaError>;

pub(crate) type Consumer = Elsewhere<StreamConsumer<Rebalance>>;

/// How often the positions that moved are stored; librdkafka commits what is stored each second.
pub(crate) const STORE: Duration = Duration::from_millis(100);

/// How many messages are taken at a time before anything else gets its turn.
const BATCH: usize = 1_024;

/// How long a broker may leave a member of KIP-848 without an answer: one that does not know the
/// protocol never says so.
const JOIN: Duration = Duration::from_secs(30);

/// How often a member of KIP-848 looks whether its topics are there: it is not told.
const LOOK: Duration = Duration::from_secs(10);

/// What the task of a member works with.
pub(crate) struct Task {
    pub(crate) consumer: Consumer,
    pub(crate) member: Arc<Member>,
    /// To ask whether a topic is really gone.
    pub(crate) topics: Weak<Topics>,
    /// Whether the group's protocol is that of KIP-848.
    pub(crate) kip_848: bool,
}

impl Task {
    /// Polls until the membership is over, whatever the application does, and leaves the group. What
    /// is settled is committed by `transactions`, where there are some.
    pub(crate) async fn run(self, mut transactions: Option<Transactions>) {
        // Declared after the consumer, so dropped before it when the runtime is shut down: the
        // consumer's last revocation is not deferred then.
        let ending = Ending(self.member.clone());
        self.poll(&mut transactions).await;
        let finished = match transactions {
            Some(transactions) => transactions.finish(&self.consumer).await,
            None => Ok(()),
        };
        let left = match leave(self.consumer, &self.member, self.kip_848).await {
            // Of what is not there any more nothing can come back.
            Err(report)
                if report.kind() == ErrorKind::UnknownTopic
                    && gone(&self.topics, &self.member).await.is_some() =>
            {
                Ok(())
            }
            left => left,
        };
        ending.0.end(finished.map_err(|error| unsure(&error)).and(left));
    }

    async fn poll(&self, transactions: &mut Option<Transactions>) {
        let Self { consumer, member, .. } = self;
        let mut stream = pin!(consumer.stream());
        let mut route = Route::default();
        let mut store = interval(STORE);
        store.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval_at(Instant::now() + LOOK, LOOK);
        let (mut joining, mut waited) = (self.kip_848, Duration::ZERO);
        while !member.is_over() {
            let deadline = member.revocation_deadline();
            tokio::select! {
                () = member.work.notified() => {}
                () = ready(transactions) => {}
                _ = store.tick() => {
                    self.store(&member.owned());
                    self.look_whether_joined();
                    if member.forsaken.swap(false, Ordering::Relaxed) {
                        native::bootstrap(consumer.client());
                    }
                    joining &= !member.has_joined();
                    if joining && member.waits_to_join() {
                        waited += STORE;
                        if waited > JOIN {
                            member.fail(no_such_protocol());
                        }
                    }
                    if member.unreadable.load(Ordering::Relaxed)
                        && !member.owned().iter().any(|owned| owned.has_work())
                    {
                        // What is before it is settled.
                        let error = Error::new(ErrorKind::Other, "consume", UNREADABLE);
                        member.fail(error.with("group", member.group));
                    }
                    if member.in_doubt.load(Ordering::Relaxed)
                        && self.take_ready(None, stream.as_mut(), &mut route)
                    {
                        self.begin_again();
                    }
                }
                _ = look.tick(), if self.kip_848 => self.look_after_topics(),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
                item = stream.next() => {
                    self.take_ready(item, stream.as_mut(), &mut route);
                    // Nothing here waits while there are messages, so others get their turn now.
                    yield_now().await;
                }
            }
            self.keep_house();
            if let Some(transactions) = transactions {
                transactions.keep(consumer);
            }
        }
    }

    /// A member of KIP-848 that gets no partitions is not told that it has joined.
    fn look_whether_joined(&self) {
        let Self { consumer, member, kip_848, .. } = self;
        if *kip_848 && !member.has_joined() && native::membership(consumer.client()).has_epoch {
            member.joined();
        }
    }

    /// Takes this item and what else is there, up to a limit. Whether that was all.
    fn take_ready<'a>(
        &self,
        first: Option<Item<'a>>,
        mut stream: Pin<&mut impl Stream<Item = Item<'a>>>,
        route: &mut Route,
    ) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let mut next = first;
        let mut all = false;
        for _ in 0..BATCH {
            if next.is_none()
                && let Poll::Ready(item) = stream.as_mut().poll_next(&mut context)
            {
                next = item;
            }
            let Some(item) = next.take() else {
                all = true;
                break;
            };
            self.take(item, route);
        }
        self.flush(route);
        self.member.wake();
        all
    }

    /// Has the partitions fetched of which nothing has come yet, as if they were assigned anew.
    ///
    /// librdkafka asks the coordinator where the group is in a partition. If the coordinator has
    /// just changed it reports that, never asks again, and the partition stays silent
    /// (librdkafka#5586).
    ///
    /// Called when nothing is queued, for a revocation that is must be answered before: librdkafka
    /// would take this for the answer.
    fn begin_again(&self) {
        if self.member.revocation_deadline().is_some() {
            return;
        }
        self.member.in_doubt.store(false, Ordering::Relaxed);
        let owned = self.member.owned();
        let silent: Vec<_> =
            owned.iter().filter(|o| !o.has_begun()).map(|o| (o.topic, o.partition)).collect();
        if silent.is_empty() {
            return;
        }
        tracing::debug!(group = %self.member.group, partitions = ?silent, "beginning again");
        let all = silent.len() == owned.len();
        self.warn("beginning again", begin_again(&*self.consumer, &silent, all));
    }

    /// Takes one item of the stream.
    fn take(&self, item: Item<'_>, route: &mut Route) {
        match item {
            Ok(record) => {
                let changes = self.member.changes();
                if changes != route.changes {
                    // What was taken before belongs to who owned it then.
                    self.flush(route);
                    *route = Route { changes, ..Route::default() };
                }
                let Some(place) = route.find(&record, &self.member) else {
                    // Fetched before the partition was given up: its next owner fetches it too.
                    return;
                };
                if place != route.current {
                    self.flush(route);
                    route.current = place;
                }
                let offset = u64::try_from(record.offset()).unwrap_or_default();
                route.run.push((offset, record::message(&record, &mut route.chunk)));
            }
            Err(failure) => {
                self.flush(route);
                self.failed(failure);
            }
        }
    }

    /// Buffers the messages that were taken.
    fn flush(&self, route: &mut Route) {
        let Route { places, current, run, .. } = route;
        if run.is_empty() {
            return;
        }
        let Some((_, _, ownership)) = places.get(*current) else { return run.clear() };
        if ownership.buffer(run, self.member.room()) {
            let full = invalid(&[(ownership.topic, ownership.partition)]);
            self.warn("pausing", full.and_then(|full| self.consumer.pause(&full)));
        }
    }

    /// What the stream reports besides messages.
    fn failed(&self, failure: KafkaError) {
        let member = &self.member;
        let context = |error: Error| error.with("group", member.group).with_source(failure.clone());
        let Some(code) = error::code(&failure) else {
            return member.link.note(failure.to_string());
        };
        if matches!(failure, KafkaError::MessageConsumptionFatal(_)) {
            let fatal = self.consumer.client().fatal_error();
            let code = fatal.map_or(code, |(code, _)| code);
            return member.fail(context(error::coded(code, "consume")));
        }
        if code == Code::BadCompression {
            member.link.note(UNREADABLE.to_owned());
            return member.unreadable.store(true, Ordering::Relaxed);
        }
        if error::is_unknown_topic(code) {
            return self.look_after_topics();
        }
        let error = error::coded(code, "consume");
        let hopeless = [
            ErrorKind::Unauthenticated,
            ErrorKind::Unauthorized,
            ErrorKind::Mismatch,
            ErrorKind::Configuration,
            ErrorKind::InvalidName,
        ];
        if hopeless.contains(&error.kind()) {
            member.fail(context(error));
        } else {
            tracing::debug!(error = %failure, group = %member.group, "consuming");
            if error::is_without_coordinator(code) {
                member.in_doubt.store(true, Ordering::Relaxed);
            }
            member.link.note(failure.to_string());
        }
    }

    /// Ends the membership if one of its topics is gone.
    fn look_after_topics(&self) {
        let (member, topics) = (self.member.clone(), self.topics.clone());
        tokio::spawn(async move {
            if let Some(error) = gone(&topics, &member).await {
                member.fail(error.with("group", member.group));
            }
        });
    }

    /// Gives up what is drained, and fetches again what has room again.
    fn keep_house(&self) {
        if let Some(revocation) = self.member.drained() {
            self.give_up(&revocation);
        }
        let (owned, room) = (self.member.owned(), self.member.room());
        let resumed: Vec<_> = owned
            .iter()
            .filter(|ownership| ownership.resumes(room))
            .map(|ownership| (ownership.topic, ownership.partition))
            .collect();
        if !resumed.is_empty() {
            self.warn("resuming", invalid(&resumed).and_then(|list| self.consumer.resume(&list)));
        }
    }

    fn give_up(&self, revocation: &Revocation) {
        if !self.consumer.assignment_lost() {
            self.store(&revocation.partitions);
        }
        self.warn("giving partitions up", answer(&*self.consumer, revocation));
        revocation.partitions.iter().for_each(|ownership| ownership.end());
        if self.kip_848 {
            // A deleted topic shows only in that its partitions are taken away.
            self.look_after_topics();
        }
    }

    /// Tells librdkafka the positions that moved.
    fn store(&self, owned: &[Arc<Ownership>]) {
        if self.member.pending.is_none() {
            self.warn("storing positions", store(&self.consumer, owned));
        }
    }

    fn warn(&self, what: &str, done: Result<(), KafkaError>) {
        if let Err(error) = done {
            tracing::warn!(%error, group = %self.member.group, "{what}");
            self.member.link.note(format!("{what}: {error}"));
        }
    }
}

/// The error of a member's first topic that was deleted.
async fn gone(topics: &Weak<Topics>, member: &Member) -> Option<Error> {
    for topic in &member.topics {
        if let Err(error) = topics.upgrade()?.partition_count(*topic, "consume").await
            && error.kind() == ErrorKind::UnknownTopic
        {
            return Some(error);
        }
    }
    None
}

/// Waits until something is to be done about transactions.
async fn ready(transactions: &mut Option<Transactions>) {
    match transactions {
        Some(transactions) => transactions.ready().await,
        None => std::future::pending().await,
    }
}

/// Says that the task has ended, however it did.
struct Ending(Arc<Member>);

impl Drop for Ending {
    fn drop(&mut self) {
        let error = Error::new(ErrorKind::Closed, "close", "the runtime was shut down");
        // Has no effect after an orderly end.
        self.0.end(Err(Report::of(&error)));
    }
}

#[cfg(test)]
mod tests;

//! What moves messages on from one of the topics that they wait in.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::clock;
use super::ticket::{Ticket, since, stamp};
use super::tiers::{GROUP, MOST, Tier, Tiers};
use crate::backend::Subscribe;
use crate::broker::Broker;
use crate::consumer::Membership;
use crate::dead_letter::headers::History;
use crate::dead_letter::make_room;
use crate::delivery::Delivery;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::Name;
use crate::soonest::Soonest;

/// How many messages of a topic are held, the next ones of it.
const PREFETCH: usize = 512;

/// The longest that a message is held unsettled where messages wait longer than that: it is handed
/// back then, and taken again. RabbitMQ closes the channel of one that is held for half an hour.
const STAY: Duration = Duration::from_secs(600);

/// How long after a message could not be moved on it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// How much later than its time a message may come without a word.
const LATE: Duration = Duration::from_secs(5);

/// How often that is told at most.
const TELL: Duration = Duration::from_secs(10);

/// Moves on what waits in one topic, as a member of the schedulers' group there.
pub(super) struct Mover<'a> {
    broker: &'a Broker,
    tiers: &'a Tiers,
    tier: Tier,
    told_late: Mutex<Option<Instant>>,
}

/// A message that waits here.
struct Waiting {
    until: SystemTime,
    /// Those of one time go on in the order they came.
    turn: u64,
    delivery: Delivery,
    ticket: Result<Ticket>,
}

/// Until when a message waits here, and its turn among those of one time.
type Time = (SystemTime, u64);

impl Waiting {
    fn time(&self) -> Time {
        (self.until, self.turn)
    }
}

/// Why a membership was left.
enum Left {
    Stopped,
    /// Something was held for long, so everything is handed back to be taken again.
    Renewing,
}

impl<'a> Mover<'a> {
    pub(super) fn new(broker: &'a Broker, tiers: &'a Tiers, tier: Tier) -> Self {
        Self { broker, tiers, tier, told_late: Mutex::new(None) }
    }

    /// Moves messages on until it is told to stop.
    ///
    /// # Errors
    /// What cannot be mended by joining the group again.
    pub(super) async fn run(self, stop: watch::Receiver<bool>) -> Result<()> {
        loop {
            match self.stay(stop.clone()).await? {
                Left::Stopped => return Ok(()),
                Left::Renewing => {}
            }
        }
    }

    fn subscribe(&self) -> Subscribe {
        let mut subscribe = Subscribe::new(self.tier.topic, self.tier.group());
        subscribe.prefetch = PREFETCH;
        if self.tier.last {
            subscribe.topics.push(self.tiers.redriven);
        }
        subscribe
    }

    /// One membership, which ends in order: what is being moved is moved, the rest handed back.
    async fn stay(&self, mut stop: watch::Receiver<bool>) -> Result<Left> {
        let mut membership = Membership::new(self.broker.clone(), self.subscribe(), None);
        let mut waiting: Soonest<Time, Waiting> = Soonest::new();
        let mut moving = FuturesUnordered::new();
        let mut turn = 0;
        let mut held_since = None;
        let left = loop {
            while let Some((until, _)) = waiting.next()
                && *until <= clock::now()
                && let Some(next) = waiting.pop()
            {
                moving.push(self.move_on(next));
            }
            if waiting.is_empty() && moving.is_empty() {
                held_since = None;
            }
            let soon = waiting.next().map(|(until, _)| Instant::now() + clock::left(*until));
            let may_be_long = self.tier.wait > STAY;
            let renew = held_since.filter(|_| may_be_long).map(|since: Instant| since + STAY);
            tokio::select! {
                biased;
                // An error means that the scheduler is gone, which is the same.
                _ = stop.wait_for(|stop| *stop) => break Ok(Left::Stopped),
                Some(again) = moving.next() => if let Some(again) = again {
                    waiting.push(again.time(), again);
                },
                () = sleep_until(soon.unwrap_or_else(Instant::now)), if soon.is_some() => {}
                () = sleep_until(renew.unwrap_or_else(Instant::now)), if renew.is_some() => {
                    break Ok(Left::Renewing);
                }
                batch = membership.next() => match batch {
                    Ok(Some(batch)) => {
                        held_since.get_or_insert_with(Instant::now);
                        for delivery in batch {
                            let next = self.hold(delivery, turn);
                            waiting.push(next.time(), next);
                            turn += 1;
                        }
                    }
                    Ok(None) => break Ok(Left::Stopped),
                    Err(error) if error.is_transient() => {
                        // Nothing of this membership can be settled any more: it all comes again.
                        waiting.clear();
                        membership.rejoin(&error);
                    }
                    Err(error) => break Err(error),
                }
            }
        };
        drop(waiting);
        while moving.next().await.is_some() {}
        let closed = membership.close().await;
        match (&left, closed) {
            // What was not flushed comes again.
            (Ok(Left::Renewing), Err(error)) if error.is_transient() => Ok(Left::Renewing),
            (_, closed) => left.and_then(|left| closed.map(|()| left)),
        }
    }

    /// How long it is to wait here: whatever the headers say, no longer than messages do here.
    fn hold(&self, delivery: Delivery, turn: u64) -> Waiting {
        let (now, message) = (clock::now(), delivery.message());
        let ticket = Ticket::read(message);
        let due = ticket.as_ref().map_or(now, |ticket| ticket.due);
        let since = since(message).map_or(now, |since| since.min(now));
        let until = since.checked_add(self.tier.wait).unwrap_or(now);
        Waiting { until: until.min(due), turn, delivery, ticket }
    }

    /// Publishes the message to where it goes next, and settles it here once that is confirmed.
    /// Gives it back where that is to be tried again.
    async fn move_on(&self, waiting: Waiting) -> Option<Waiting> {
        if !waiting.delivery.is_live() {
            return None;
        }
        let left = waiting.ticket.as_ref().map_or(Duration::ZERO, |ticket| clock::left(ticket.due));
        let next = self.tiers.next(left);
        let published = if !(self.tier.last && next.last) {
            // Also what is late goes by the last topic, behind what was to come before it.
            let message = stamp(waiting.delivery.message().clone());
            let moved = self.publish(next.topic, None, message).await;
            self.unless_hopeless(&waiting, moved).await
        } else if left.is_zero() {
            self.deliver(&waiting).await
        } else {
            let until = waiting.until + left;
            return Some(Waiting { until, ..waiting });
        };
        match published {
            Ok(()) => {
                waiting.delivery.ack();
                None
            }
            Err(error) => {
                tracing::warn!(%error, "a scheduled message could not be moved on; it is tried again");
                Some(Waiting { until: clock::now() + PAUSE, ..waiting })
            }
        }
    }

    /// Publishes the message to the topic that it is for, or puts it among the dead letters.
    async fn deliver(&self, waiting: &Waiting) -> Result<()> {
        let ticket = match &waiting.ticket {
            Ok(ticket) => ticket,
            Err(error) => return self.give_up(waiting, error).await,
        };
        self.tell_late(ticket);
        let message = Ticket::take_off(waiting.delivery.message().clone());
        let published = self.publish(ticket.topic, ticket.partition, message).await;
        self.unless_hopeless(waiting, published).await
    }

    /// Puts the message among the dead letters where trying again will not help.
    async fn unless_hopeless(&self, waiting: &Waiting, published: Result<()>) -> Result<()> {
        match published {
            // A broker that is being closed says nothing about the message.
            Err(error) if error.is_permanent() && error.kind() != ErrorKind::Closed => {
                self.give_up(waiting, &error).await
            }
            published => published,
        }
    }

    async fn publish(&self, to: Name, partition: Option<u32>, message: Message) -> Result<()> {
        let publish = self.broker.publish_message(to, message).with_any_headers();
        match partition {
            Some(partition) => publish.partition(partition).await?,
            None => publish.await?,
        };
        Ok(())
    }

    /// Puts the message among the dead letters, with its ticket: put back, it is tried again.
    async fn give_up(&self, waiting: &Waiting, error: &Error) -> Result<()> {
        let to = self.tiers.dead_letters;
        tracing::error!(%error, %to, "a scheduled message cannot be published and is given up");
        let received = waiting.delivery.received();
        let (history, message) = History::take(received.message.clone());
        let now = SystemTime::now();
        let history = History {
            topic: Some(self.tiers.base.as_str().to_owned()),
            partition: Some(received.partition),
            offset: received.offset,
            group: Some(GROUP.as_str().to_owned()),
            kind: Some(format!("{:?}", error.kind())),
            error: Some(error.to_string()),
            attempts: history.attempts.saturating_add(1),
            first_failure: history.first_failure.or(Some(now)),
            last_failure: Some(now),
            id: Some(Uuid::now_v7().to_string()),
            due: None,
            left_out: None,
            ..history
        };
        let mut letter = history.put(message);
        loop {
            match self.publish(to, None, letter.clone()).await {
                // Only somebody else can have put it here; what keeps to the rules has room there.
                Err(error) if error.kind() == ErrorKind::TooLarge => {
                    letter = make_room(letter, &received.message, Some(MOST), error)?;
                }
                published => return published,
            }
        }
    }

    /// Late means that no scheduler was running, or that they cannot keep up.
    fn tell_late(&self, ticket: &Ticket) {
        let late = clock::now().duration_since(ticket.due).unwrap_or_default();
        let mut told = self.told_late.lock().unwrap_or_else(PoisonError::into_inner);
        if late > LATE && told.is_none_or(|told| told.elapsed() >= TELL) {
            *told = Some(Instant::now());
            tracing::warn!(?late, topic = %ticket.topic, "scheduled messages are published late");
        }
    }
}

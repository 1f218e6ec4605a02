//! A broker that takes partitions away from members that hold messages of them, as Kafka does and
//! the in-memory broker does not; with a flaw or without.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_api::{
    Backend, Capabilities, Confirm, Delivery, Memory, Message, Name, Outgoing, Result, Settle,
    Settlement, Source, Subscribe, async_trait,
};
use broker_testkit::conformance::{Fixture, Outcome};
use broker_testkit::wrapped::{Wrapped, Wraps};
use tokio::time::Instant;

/// What settling late does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    SettlesForTheNextOwner,
    BringsBackWhatTheNextOwnerSettled,
}

/// What members hold: by member, and partition with offset.
#[derive(Default)]
struct Held(Mutex<HashMap<(u64, u64), Delivery>>);

impl Held {
    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, u64), Delivery>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection.
struct Taking {
    inner: Arc<Memory>,
    held: Arc<Held>,
    flaw: Option<Flaw>,
}

#[async_trait]
impl Wraps for Taking {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }

    fn capabilities(&self, _: Name) -> Capabilities {
        Capabilities::all()
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Source>> {
        static MEMBERS: AtomicU64 = AtomicU64::new(0);
        let member = MEMBERS.fetch_add(1, Ordering::Relaxed);
        let topic = subscribe.topics[0];
        let inner = self.inner.subscribe(subscribe).await?;
        // What is not to be worked on any more is taken back, and so its partition is free.
        self.held.lock().retain(|_, delivery| delivery.is_live());
        let (broker, held, flaw) = (self.inner.clone(), self.held.clone(), self.flaw);
        Ok(Box::new(Seat { inner, hand: Arc::new(Hand { member, topic, broker, held, flaw }) }))
    }
}

struct Seat {
    inner: Box<dyn Source>,
    hand: Arc<Hand>,
}

#[async_trait]
impl Source for Seat {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        let Some(batch) = self.inner.next(max).await? else { return Ok(None) };
        let hold = |delivery: Delivery| {
            let received = delivery.received().clone();
            let token = (u64::from(received.partition) << 32) + received.offset.unwrap_or_default();
            self.hand.held.lock().insert((self.hand.member, token), delivery);
            Delivery::new(received, self.hand.clone(), token)
        };
        Ok(Some(batch.into_iter().map(hold).collect()))
    }

    async fn close(&mut self) -> Result<()> {
        self.hand.held.lock().retain(|(member, _), _| *member != self.hand.member);
        self.inner.close().await
    }
}

/// What one member settles with.
struct Hand {
    member: u64,
    topic: Name,
    broker: Arc<Memory>,
    held: Arc<Held>,
    flaw: Option<Flaw>,
}

impl Hand {
    fn take(&self, token: u64) -> Option<Delivery> {
        let mut held = self.held.lock();
        if self.flaw == Some(Flaw::SettlesForTheNextOwner) {
            let any = held.keys().find(|(_, t)| *t == token).copied();
            return held.remove(&any?);
        }
        held.remove(&(self.member, token))
    }
}

impl Settle for Hand {
    fn settle(&self, token: u64, settlement: Settlement) {
        match (self.take(token), settlement) {
            (Some(delivery), Settlement::Ack) => delivery.ack(),
            (Some(delivery), Settlement::Reject) => delivery.reject(),
            (None, _) => {}
        }
    }

    fn requeue(&self, token: u64, message: Message) {
        let lost = self.take(token).is_none();
        if lost && self.flaw == Some(Flaw::BringsBackWhatTheNextOwnerSettled) {
            let deadline = Instant::now() + Duration::from_secs(1);
            let topic = self.topic;
            let (partition, confirm) = (Some((token >> 32) as u32), Confirm::from_fn(drop));
            self.broker.publish(Outgoing { topic, partition, message, deadline, confirm });
        }
    }

    fn is_live(&self, token: u64) -> bool {
        self.held.lock().get(&(self.member, token)).is_some_and(Delivery::is_live)
    }
}

fn outcome(case: &str, flaw: Option<Flaw>) -> Outcome {
    crate::check(case, move || {
        let (memory, held) = (Memory::new(), Arc::<Held>::default());
        Fixture::new(move || {
            let (inner, held) = (Arc::new(memory.connect()), held.clone());
            async move { Ok(Wrapped(Taking { inner, held, flaw })) }
        })
    })
}

found! {
    settling_for_the_next_owner_is_found: SettlesForTheNextOwner
        by "settle::settling_in_a_partition_that_was_taken_away_has_no_effect"
        saying "left over, whatever";
    bringing_back_what_the_next_owner_settled_is_found: BringsBackWhatTheNextOwnerSettled
        by "settle::settling_in_a_partition_that_was_taken_away_has_no_effect"
        saying "left over, whatever";
}

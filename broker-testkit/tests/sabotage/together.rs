//! Transactions with one flaw, on the in-memory broker, which has none of its own: nobody but this
//! process sees what is in between.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker_api::limits::check_size;
use broker_api::{
    Backend, Capabilities, Delivery, Memory, Message, Name, Outgoing, Result, Settle, Settlement,
    Source, Subscribe, Transactions, async_trait,
};
use broker_testkit::conformance::{Fixture, Outcome};
use broker_testkit::wrapped::{Wrapped, Wraps};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    ForgetsOutputs,
    SettlesNothing,
    PublishesWhatIsDoneFirst,
    PublishesTwice,
    TakesAnyOutput,
    PublishesAtOnce,
}

struct Together {
    inner: Arc<Memory>,
    flaw: Option<Flaw>,
}

#[async_trait]
impl Wraps for Together {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }

    fn capabilities(&self, _: Name) -> Capabilities {
        Capabilities::all()
    }

    async fn subscribe_exactly_once(
        &self,
        subscribe: Subscribe,
        _: Transactions,
    ) -> Result<Box<dyn Source>> {
        let source = self.inner.subscribe(subscribe).await?;
        let (broker, flaw, open) = (self.inner.clone(), self.flaw, Mutex::default());
        Ok(Box::new(TogetherSource { source, ledger: Arc::new(Ledger { broker, flaw, open }) }))
    }

    async fn check_output(
        &self,
        _: Name,
        topic: Name,
        _: Option<u32>,
        message: &Message,
    ) -> Result<()> {
        if self.flaw == Some(Flaw::PublishesAtOnce) {
            let (message, confirm) = (message.clone(), broker_api::Confirm::from_fn(drop));
            let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(1);
            self.inner.publish(Outgoing { topic, partition: None, message, deadline, confirm });
        }
        if self.flaw == Some(Flaw::TakesAnyOutput) {
            return Ok(());
        }
        let topic = self.inner.describe_topic(topic).await?;
        check_size(message, topic.max_message_bytes.unwrap_or(usize::MAX))
    }
}

type Place = (Name, u32);

/// What was handed out, by partition and offset, with its outputs once it is done.
struct Ledger {
    broker: Arc<Memory>,
    flaw: Option<Flaw>,
    open: Mutex<HashMap<Place, BTreeMap<u64, Entry>>>,
}

struct Entry {
    settle: Arc<dyn Settle>,
    done: Option<Vec<Outgoing>>,
}

impl Ledger {
    fn open(&self) -> MutexGuard<'_, HashMap<Place, BTreeMap<u64, Entry>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is done up to here is published and settled.
    fn done(&self, place: Place, offset: u64, outputs: Vec<Outgoing>) {
        let mut open = self.open();
        let entries = open.entry(place).or_default();
        if self.flaw == Some(Flaw::PublishesWhatIsDoneFirst) {
            if let Some(entry) = entries.remove(&offset) {
                self.commit(offset, entry, outputs);
            }
            return;
        }
        if let Some(entry) = entries.get_mut(&offset) {
            entry.done = Some(outputs);
        }
        while let Some(mut first) = entries.first_entry()
            && let Some(outputs) = first.get_mut().done.take()
        {
            let offset = *first.key();
            self.commit(offset, first.remove(), outputs);
        }
    }

    fn commit(&self, offset: u64, entry: Entry, outputs: Vec<Outgoing>) {
        for output in outputs {
            match self.flaw {
                Some(Flaw::ForgetsOutputs) => continue,
                Some(Flaw::PublishesTwice) => self.broker.publish(Outgoing {
                    message: output.message.clone(),
                    confirm: broker_api::Confirm::from_fn(drop),
                    ..output
                }),
                _ => {}
            }
            self.broker.publish(output);
        }
        if self.flaw != Some(Flaw::SettlesNothing) {
            entry.settle.settle(offset, Settlement::Ack);
        }
    }
}

struct TogetherSource {
    source: Box<dyn Source>,
    ledger: Arc<Ledger>,
}

#[async_trait]
impl Source for TogetherSource {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        let Some(batch) = self.source.next(max).await? else { return Ok(None) };
        let together = batch.into_iter().map(|delivery| {
            let received = delivery.received();
            let place = (received.topic, received.partition);
            let offset = received.offset.unwrap_or_default();
            let ledger = self.ledger.clone();
            delivery.map_settle(|settle| {
                ledger
                    .open()
                    .entry(place)
                    .or_default()
                    .insert(offset, Entry { settle: settle.clone(), done: None });
                Arc::new(TogetherSettle { settle, ledger, place })
            })
        });
        Ok(Some(together.collect()))
    }

    async fn close(&mut self) -> Result<()> {
        self.source.close().await
    }
}

/// Its token is the offset, as that of the in-memory broker is.
struct TogetherSettle {
    settle: Arc<dyn Settle>,
    ledger: Arc<Ledger>,
    place: Place,
}

impl Settle for TogetherSettle {
    fn settle(&self, token: u64, _: Settlement) {
        self.ledger.done(self.place, token, Vec::new());
    }

    fn settle_with(&self, token: u64, _: Settlement, outputs: Vec<Outgoing>) {
        self.ledger.done(self.place, token, outputs);
    }

    fn requeue(&self, token: u64, message: Message) {
        self.ledger.open().entry(self.place).or_default().remove(&token);
        self.settle.requeue(token, message);
    }

    fn is_live(&self, token: u64) -> bool {
        self.settle.is_live(token)
    }
}

fn outcome(case: &str, flaw: Option<Flaw>) -> Outcome {
    crate::check(case, move || {
        let memory = Memory::new();
        Fixture::new(move || {
            let inner = Arc::new(memory.connect());
            async move { Ok(Wrapped(Together { inner, flaw })) }
        })
    })
}

found! {
    forgetting_outputs_is_found: ForgetsOutputs
        by "exactly_once::outputs_and_settlements_come_together" saying "of 100 had come";
    forgetting_a_dead_letter_is_found: ForgetsOutputs
        by "exactly_once::a_dead_letter_and_its_settlement_come_together" saying "of 2 had come";
    settling_nothing_is_found: SettlesNothing
        by "exactly_once::outputs_and_settlements_come_together"
        saying "not settled although it was published";
    settling_nothing_of_a_batch_is_found: SettlesNothing
        by "exactly_once::a_batch_is_settled_with_its_outputs"
        saying "not settled although it was published";
    settling_no_dead_letter_is_found: SettlesNothing
        by "exactly_once::a_dead_letter_and_its_settlement_come_together"
        saying "not settled although it is in the dead letters";
    settling_nothing_that_is_put_off_is_found: SettlesNothing
        by "exactly_once::a_delayed_retry_and_its_settlement_come_together" saying "put off";
    settling_nothing_at_the_end_is_found: SettlesNothing
        by "exactly_once::what_is_done_is_committed_when_the_consumer_stops"
        saying "not settled although it was done";
    publishing_before_earlier_messages_are_done_is_found: PublishesWhatIsDoneFirst
        by "exactly_once::outputs_come_in_the_order_of_their_messages_whatever_is_done_first"
        saying "seen before what comes before it was done";
    publishing_what_comes_again_is_found: PublishesWhatIsDoneFirst
        by "exactly_once::what_is_not_committed_is_not_seen_and_comes_again"
        saying "seen without having been committed";
    publishing_twice_is_found: PublishesTwice
        by "exactly_once::members_that_come_go_and_vanish_publish_every_output_once"
        saying "the outputs of one key";
    publishing_what_fails_is_found: PublishesAtOnce
        by "exactly_once::an_attempt_that_failed_publishes_nothing" saying "payload and attempt";
    taking_any_output_is_found: TakesAnyOutput
        by "exactly_once::an_output_that_cannot_be_published_is_a_failure_of_its_handler"
        saying "the outputs";
}

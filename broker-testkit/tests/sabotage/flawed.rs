//! A backend that does what a consuming runtime with a flaw would have done.
//!
//! All that a runtime does to the world it does through its backend: what it publishes where, what
//! it settles when, what it takes a message for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker_api::dead_letter::headers;
use broker_api::{
    Backend, Confirm, Delivery, Memory, Message, MessageId, Name, Outgoing, Receipt, Received,
    Result, Settle, Settlement, Source, Subscribe, async_trait,
};
use broker_testkit::wrapped::{Wrapped, Wraps};

use crate::runtime::Flaw;

/// The header that says when a message is due that was put off.
const SCHEDULED: &str = "x-broker-scheduled-ms";

/// What a published message is to the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Station {
    /// Published by an application.
    Application,
    /// The answer to a question.
    Answer,
    /// Waits until it is to be published.
    Scheduled,
    /// Waits for a delayed retry.
    Delayed,
    /// Given up.
    DeadLetter,
    /// On its way back to its group.
    Redriven,
    /// Says what became of a dead letter.
    Record,
}

impl Station {
    fn of(outgoing: &Outgoing) -> Self {
        let (topic, headers) = (outgoing.topic.as_str(), outgoing.message.headers());
        match topic {
            _ if topic.ends_with(".done") => Self::Record,
            _ if headers.get(SCHEDULED).is_some() => Self::Scheduled,
            _ if topic.ends_with("answers") => Self::Answer,
            _ if headers.get(headers::DUE).is_some() => Self::Delayed,
            _ if headers.get(headers::DEAD_LETTER_ID).is_none() => Self::Application,
            _ if topic.ends_with(".retry") => Self::Redriven,
            _ => Self::DeadLetter,
        }
    }
}

/// A connection of a flawed runtime.
pub(crate) struct Flawed {
    inner: Memory,
    flaw: Flaw,
    /// An answer that waits for another, to be mixed up with it.
    answer: Mutex<Option<Outgoing>>,
    /// What was delivered, or put off.
    taken: Arc<Mutex<Vec<Message>>>,
}

impl Flawed {
    pub(crate) fn around(inner: Memory, flaw: Flaw) -> Wrapped<Self> {
        Wrapped(Self { inner, flaw, answer: Mutex::default(), taken: Arc::default() })
    }

    /// Publishes the same to the same topic with another message, and tells nobody.
    fn publish_too(&self, outgoing: &Outgoing, message: Message) {
        let confirm = Confirm::from_fn(drop);
        self.inner.publish(Outgoing { message, confirm, ..*outgoing });
    }
}

/// The value of a header as a part of a name.
fn said(outgoing: &Outgoing, header: &str) -> String {
    outgoing.message.headers().get_str(header).unwrap_or_default().to_owned()
}

fn topic(name: &str) -> Name {
    Name::intern(name).unwrap_or_else(|error| panic!("{error}"))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn confirmed_at_once(outgoing: &mut Outgoing) {
    let confirm = std::mem::replace(&mut outgoing.confirm, Confirm::from_fn(drop));
    confirm.done(Ok(Receipt { partition: 0, offset: None }));
}

#[async_trait]
impl Wraps for Flawed {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }

    fn publish(&self, mut outgoing: Outgoing) {
        let own = |name: &str| name.starts_with("x-broker-");
        match (self.flaw, Station::of(&outgoing)) {
            (Flaw::RetriesForEver, Station::DeadLetter) => {
                let (of, group) =
                    (said(&outgoing, headers::ORIGINAL_TOPIC), said(&outgoing, headers::GROUP));
                outgoing.topic = topic(&format!("{of}.{group}.retry"));
            }
            (Flaw::LosesTheAttemptCount, Station::Delayed) => {
                outgoing.message.headers_mut().remove(headers::ATTEMPTS);
            }
            (Flaw::DelaysNothing, Station::Delayed) => {
                outgoing.message.headers_mut().remove(headers::DUE);
            }
            (Flaw::DelaysForEver, Station::Delayed)
            | (Flaw::AnswersNobody, Station::Answer)
            | (Flaw::LosesWhatIsPutOff, Station::Scheduled)
            | (Flaw::ForgetsWhatItRedrove, Station::Record) => {
                return confirmed_at_once(&mut outgoing);
            }
            (Flaw::DelaysForAllGroups, Station::Delayed)
            | (Flaw::RedrivesToAllGroups, Station::Redriven) => {
                outgoing.topic = topic(&said(&outgoing, headers::ORIGINAL_TOPIC));
            }
            (Flaw::DeadLettersBeforeConfirming, Station::DeadLetter)
            | (Flaw::ConfirmsOutputsUnasked, Station::Application) => {
                confirmed_at_once(&mut outgoing);
            }
            (Flaw::DeadLettersWithoutHeaders, Station::DeadLetter) => {
                let kept = outgoing.message.headers().iter().filter(|(name, _)| own(name));
                let kept = kept.map(|(name, value)| (name.to_owned(), value.clone())).collect();
                outgoing.message = outgoing.message.with_headers(kept);
            }
            (Flaw::DeadLettersWithoutKinds, Station::DeadLetter) => {
                outgoing.message.headers_mut().set(headers::ERROR_KIND, "Handler");
            }
            (Flaw::DeadLettersWithoutReports, Station::DeadLetter) => {
                outgoing.message.headers_mut().set(headers::ERROR_MESSAGE, "it failed");
            }
            (Flaw::DeadLettersWithoutTopics, Station::DeadLetter) => {
                outgoing.message.headers_mut().remove(headers::ORIGINAL_TOPIC);
            }
            (Flaw::DeadLettersWithoutKeys, Station::DeadLetter) => {
                let message = Message::new(outgoing.message.payload().clone());
                outgoing.message = message.with_headers(outgoing.message.headers().clone());
            }
            (Flaw::GivesUpTheWholeBatch, Station::DeadLetter) => {
                for (n, taken) in locked(&self.taken).drain(..).enumerate() {
                    let letter = taken.with_headers(outgoing.message.headers().clone());
                    let letter = letter.with_header(headers::DEAD_LETTER_ID, n.to_string());
                    self.publish_too(&outgoing, letter);
                }
            }
            (Flaw::DeliversEarly, Station::Scheduled) => {
                outgoing.message.headers_mut().set(SCHEDULED, "0");
            }
            (Flaw::DeliversTwice, Station::Scheduled) => {
                self.publish_too(&outgoing, outgoing.message.clone());
            }
            (Flaw::DelaysWhatIsNotPutOff, Station::Scheduled) => {
                locked(&self.taken).push(outgoing.message.clone());
            }
            (Flaw::DelaysWhatIsNotPutOff, Station::Application) => {
                let id = outgoing.message.id();
                if !locked(&self.taken).iter().any(|put_off| put_off.id() == id) {
                    confirmed_at_once(&mut outgoing);
                    let broker = self.inner.connect();
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_secs(4)).await;
                        broker.publish(outgoing);
                    });
                    return;
                }
            }
            (Flaw::MixesUpAnswers, Station::Answer) => {
                let Some(mut other) = locked(&self.answer).take() else {
                    *locked(&self.answer) = Some(outgoing);
                    return;
                };
                let of = |message: &Message| message.correlation_id().unwrap_or("").to_owned();
                let (one, two) = (of(&other.message), of(&outgoing.message));
                other.message = other.message.with_correlation_id(two);
                outgoing.message = outgoing.message.with_correlation_id(one);
                self.inner.publish(other);
            }
            (Flaw::NamesItsHeadersOtherwise, Station::DeadLetter) => {
                let error = said(&outgoing, headers::ERROR_MESSAGE);
                outgoing.message = outgoing.message.with_header("x-exception", error);
            }
            (Flaw::RedrivesUnderNewIds, Station::Redriven) => {
                outgoing.message = outgoing.message.with_id(MessageId::new());
            }
            (Flaw::RedrivesWithoutHistory, Station::Redriven) => {
                let kept = outgoing.message.headers().iter().filter(|(name, _)| !own(name));
                let kept = kept.map(|(name, value)| (name.to_owned(), value.clone())).collect();
                outgoing.message = outgoing.message.with_headers(kept);
            }
            _ => {}
        }
        self.inner.publish(outgoing);
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Source>> {
        let inner = self.inner.subscribe(subscribe).await?;
        let (flaw, taken) = (self.flaw, self.taken.clone());
        Ok(Box::new(FlawedSource { inner, flaw, taken, first: 0, others: Vec::new() }))
    }
}

struct FlawedSource {
    inner: Box<dyn Source>,
    flaw: Flaw,
    taken: Arc<Mutex<Vec<Message>>>,
    /// How many came of the first partition.
    first: usize,
    /// What came of others, to be handled after so many.
    others: Vec<Delivery>,
}

/// What a partition has that is to be finished before others.
const MANY: usize = 1_000;

#[async_trait]
impl Source for FlawedSource {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        loop {
            let Some(mut batch) = self.inner.next(max).await? else { return Ok(None) };
            if self.flaw == Flaw::FinishesOnePartitionFirst {
                self.put_back_others(&mut batch);
            }
            if !batch.is_empty() {
                return Ok(Some(batch.into_iter().map(|d| self.flawed(d)).collect()));
            }
        }
    }

    async fn close(&mut self) -> Result<()> {
        self.inner.close().await
    }
}

impl FlawedSource {
    fn put_back_others(&mut self, batch: &mut Vec<Delivery>) {
        let first = |delivery: &mut Delivery| delivery.received().partition == 0;
        self.others.extend(batch.extract_if(.., |delivery| !first(delivery)));
        self.first += batch.len();
        if self.first >= MANY {
            batch.append(&mut self.others);
        }
    }

    fn flawed(&self, delivery: Delivery) -> Delivery {
        locked(&self.taken).push(delivery.message().clone());
        match self.flaw {
            Flaw::SettlesFirst => {
                let received = delivery.received().clone();
                delivery.ack();
                Delivery::unsettled(received)
            }
            // Without its key the runtime cannot know what has to wait for what.
            Flaw::ReordersAKey => delivery.map_received(|received| Received {
                message: Message::new(received.message.payload().clone()),
                ..received
            }),
            Flaw::HasOneLaneForAll => delivery.map_received(|received| Received {
                message: received.message.with_key("all"),
                partition: 0,
                ..received
            }),
            Flaw::AnswersWhatIsNotAsked => delivery.map_received(|received| Received {
                message: received.message.with_header("reply-to", "nobody"),
                ..received
            }),
            Flaw::LosesTheTrace => delivery.map_received(|mut received| {
                received.message.headers_mut().remove("traceparent");
                received.message.headers_mut().remove("tracestate");
                received
            }),
            Flaw::TakesAllForHandled => delivery.map_received(|received| Received {
                message: received.message.with_id("all"),
                ..received
            }),
            Flaw::TakesNothingForHandled => delivery.map_received(|received| Received {
                message: received.message.with_id(MessageId::new()),
                ..received
            }),
            flaw @ (Flaw::SettlesWhatFailed
            | Flaw::SettlesNothing
            | Flaw::BringsBackWhatItDiscards) => {
                delivery.map_settle(|inner| Arc::new(FlawedSettle { inner, flaw }))
            }
            _ => delivery,
        }
    }
}

struct FlawedSettle {
    inner: Arc<dyn Settle>,
    flaw: Flaw,
}

impl Settle for FlawedSettle {
    fn settle(&self, token: u64, settlement: Settlement) {
        match (self.flaw, settlement) {
            (Flaw::BringsBackWhatItDiscards, Settlement::Reject) => {
                self.inner.requeue(token, Message::new("discarded"));
            }
            (Flaw::SettlesNothing, _) => {}
            _ => self.inner.settle(token, settlement),
        }
    }

    fn requeue(&self, token: u64, message: Message) {
        match self.flaw {
            Flaw::SettlesWhatFailed => self.inner.settle(token, Settlement::Ack),
            _ => self.inner.requeue(token, message),
        }
    }

    fn is_live(&self, token: u64) -> bool {
        self.inner.is_live(token)
    }
}

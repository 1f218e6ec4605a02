//! The consuming runtime with one flaw.
//!
//! All that a runtime does to the world it does through its backend: what it publishes where, what
//! it settles when, what it takes a message for. So a runtime with a flaw is made from the real one
//! and an in-memory broker in between that does what the flawed one would have done.

use std::sync::Arc;
use std::time::Duration;

use broker_api::dead_letter::headers;
use broker_api::{
    Backend, Capabilities, Confirm, Delivery, GroupSpec, Health, Memory, MessageId, Name, Outgoing,
    Read, Receipt, Received, Result, Settings, Settle, Settlement, Source, Subscribe,
    TopicDescription, TopicSpec, async_trait,
};
use broker_testkit::conformance::{self, Fixture, Outcome};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    SettlesFirst,
    SettlesWhatFailed,
    RetriesForEver,
    LosesTheAttemptCount,
    DelaysNothing,
    DelaysForEver,
    DelaysForAllGroups,
    DeadLettersBeforeConfirming,
    DeadLettersWithoutHeaders,
    NamesItsHeadersOtherwise,
    BringsBackWhatItDiscards,
    RedrivesToAllGroups,
    RedrivesWithoutHistory,
    ForgetsWhatItRedrove,
    ReordersAKey,
    TakesNothingForHandled,
    ConfirmsOutputsUnasked,
    DrainsForEver,
    DrainsNothing,
}

impl Flaw {
    fn settings(self) -> fn(Settings) -> Settings {
        const HOUR: Duration = Duration::from_secs(3600);
        match self {
            Self::DrainsForEver => |settings| Settings { drain_timeout: HOUR, ..settings },
            Self::DrainsNothing => {
                |settings| Settings { drain_timeout: Duration::ZERO, ..settings }
            }
            _ => |settings| settings,
        }
    }
}

/// What a published message is to the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Station {
    /// Published by an application.
    Application,
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
            _ if headers.get(headers::DUE).is_some() => Self::Delayed,
            _ if headers.get(headers::DEAD_LETTER_ID).is_none() => Self::Application,
            _ if topic.ends_with(".retry") => Self::Redriven,
            _ => Self::DeadLetter,
        }
    }
}

/// A connection of a flawed runtime.
struct Flawed {
    inner: Memory,
    flaw: Flaw,
}

/// The value of a header as a part of a name.
fn said(outgoing: &Outgoing, header: &str) -> String {
    outgoing.message.headers().get_str(header).unwrap_or_default().to_owned()
}

fn topic(name: &str) -> Name {
    Name::intern(name).unwrap_or_else(|error| panic!("{error}"))
}

fn confirmed_at_once(outgoing: &mut Outgoing) {
    let confirm = std::mem::replace(&mut outgoing.confirm, Confirm::from_fn(drop));
    confirm.done(Ok(Receipt { partition: 0, offset: None }));
}

#[async_trait]
impl Backend for Flawed {
    fn system(&self) -> &'static str {
        "flawed"
    }

    fn capabilities(&self, topic: Name) -> Capabilities {
        self.inner.capabilities(topic)
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
            (Flaw::NamesItsHeadersOtherwise, Station::DeadLetter) => {
                let error = said(&outgoing, headers::ERROR_MESSAGE);
                outgoing.message = outgoing.message.with_header("x-exception", error);
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
        Ok(Box::new(FlawedSource { inner, flaw: self.flaw }))
    }

    async fn read(&self, read: Read) -> Result<Box<dyn Source>> {
        self.inner.read(read).await
    }

    async fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        self.inner.create_topic(spec).await
    }

    async fn describe_topic(&self, topic: Name) -> Result<TopicDescription> {
        self.inner.describe_topic(topic).await
    }

    async fn delete_topic(&self, topic: Name) -> Result<()> {
        self.inner.delete_topic(topic).await
    }

    async fn declare_group(&self, topic: Name, group: &GroupSpec) -> Result<()> {
        self.inner.declare_group(topic, group).await
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

struct FlawedSource {
    inner: Box<dyn Source>,
    flaw: Flaw,
}

#[async_trait]
impl Source for FlawedSource {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        let batch = self.inner.next(max).await?;
        Ok(batch.map(|batch| batch.into_iter().map(|d| self.flawed(d)).collect()))
    }

    async fn close(&mut self) -> Result<()> {
        self.inner.close().await
    }
}

impl FlawedSource {
    fn flawed(&self, delivery: Delivery) -> Delivery {
        match self.flaw {
            Flaw::SettlesFirst => {
                let received = delivery.received().clone();
                delivery.ack();
                Delivery::unsettled(received)
            }
            // Without its key the runtime cannot know what has to wait for what.
            Flaw::ReordersAKey => delivery.map_received(|received| Received {
                message: broker_api::Message::new(received.message.payload().clone()),
                ..received
            }),
            Flaw::TakesNothingForHandled => delivery.map_received(|received| Received {
                message: received.message.with_id(MessageId::new()),
                ..received
            }),
            flaw @ (Flaw::SettlesWhatFailed | Flaw::BringsBackWhatItDiscards) => {
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
                self.inner.requeue(token, broker_api::Message::new("discarded"));
            }
            _ => self.inner.settle(token, settlement),
        }
    }

    fn requeue(&self, token: u64, message: broker_api::Message) {
        match self.flaw {
            Flaw::SettlesWhatFailed => self.inner.settle(token, Settlement::Ack),
            _ => self.inner.requeue(token, message),
        }
    }

    fn is_live(&self, token: u64) -> bool {
        self.inner.is_live(token)
    }
}

fn outcome(case: &str, flaw: Option<Flaw>) -> Outcome {
    let case = conformance::cases().find(|c| c.name() == case);
    let case = case.unwrap_or_else(|| panic!("the suite has no such case"));
    conformance::check(&case, move || async move {
        let memory = Memory::new();
        let fixture = match flaw {
            None => Fixture::new(move || {
                let connection = memory.connect();
                async { Ok(connection) }
            }),
            Some(flaw) => Fixture::new(move || {
                let inner = memory.connect();
                async move { Ok(Flawed { inner, flaw }) }
            })
            .tamper(flaw.settings()),
        };
        // What has to be missed is missed sooner than a real broker would need.
        Ok(fixture.patience(Duration::from_secs(3)))
    })
}

found! {
    settling_first_is_found: SettlesFirst
        by "stop::a_consumer_that_is_dropped_settles_nothing" saying "what is left";
    settling_first_is_found_by_what_stops: SettlesFirst
        by "stop::a_consumer_that_stops_on_failure_says_why_and_leaves_the_message"
        saying "what is left";
    settling_what_failed_is_found: SettlesWhatFailed
        by "stop::a_pause_between_attempts_does_not_hold_up_the_end" saying "what is left";
    settling_what_could_not_be_stored_is_found: SettlesWhatFailed
        by "dead_letter::what_cannot_be_stored_there_is_not_settled" saying "no message within";
    retrying_for_ever_is_found: RetriesForEver
        by "dead_letter::what_fails_every_attempt_goes_there_with_the_number_of_attempts"
        saying "1 dead letters took more than";
    losing_the_attempt_count_across_a_restart_is_found: LosesTheAttemptCount
        by "retry::a_delayed_retry_survives_the_consumer_that_asked_for_it"
        saying "payload, attempt";
    losing_the_attempt_count_between_delays_is_found: LosesTheAttemptCount
        by "retry::delays_follow_each_other_and_then_comes_the_dead_letter" saying "the attempts";
    delaying_nothing_is_found: DelaysNothing
        by "retry::a_delayed_retry_does_not_come_before_its_time" saying "it came after";
    delaying_for_ever_is_found: DelaysForEver
        by "retry::a_delayed_retry_lets_later_messages_pass_and_keeps_count"
        saying "what the case waits for took more than";
    delaying_for_all_groups_is_found: DelaysForAllGroups
        by "retry::a_delayed_retry_concerns_no_other_group" saying "what the other group got";
    dead_lettering_before_confirming_is_found: DeadLettersBeforeConfirming
        by "dead_letter::what_cannot_be_stored_there_is_not_settled" saying "but it succeeded";
    dead_lettering_without_the_own_headers_is_found: DeadLettersWithoutHeaders
        by "dead_letter::payload_key_and_headers_are_kept_and_the_origin_is_told"
        saying "the headers";
    naming_headers_otherwise_is_found: NamesItsHeadersOtherwise
        by "dead_letter::the_names_of_the_added_headers_are_the_same_everywhere"
        saying "the names of the headers";
    bringing_back_what_is_discarded_is_found: BringsBackWhatItDiscards
        by "stop::what_is_to_be_discarded_is_gone" saying "what was discarded came again";
    redriving_to_all_groups_is_found: RedrivesToAllGroups
        by "redrive::redriving_reaches_the_group_that_failed_and_no_other"
        saying "what the other group got";
    redriving_without_history_is_found: RedrivesWithoutHistory
        by "redrive::what_fails_again_after_a_redrive_is_a_new_dead_letter_with_its_history"
        saying "redrives";
    forgetting_what_was_redriven_is_found: ForgetsWhatItRedrove
        by "redrive::what_was_redriven_or_discarded_is_off_the_list" saying "after the redrive of one";
    forgetting_what_an_interrupted_redrive_did_is_found: ForgetsWhatItRedrove
        by "redrive::an_interrupted_redrive_loses_nothing_and_goes_on" saying "still on the list";
    reordering_a_key_while_retrying_is_found: ReordersAKey
        by "retry::a_failing_key_holds_back_only_itself"
        saying "the order in which they were handled";
    reordering_a_key_at_work_is_found: ReordersAKey
        by "concurrency::keys_stay_in_order_while_some_of_their_messages_fail"
        saying "the order of key";
    taking_nothing_for_handled_is_found: TakesNothingForHandled
        by "handler::what_the_group_has_handled_is_not_handled_again"
        saying "what the handler saw";
    confirming_outputs_unasked_is_found: ConfirmsOutputsUnasked
        by "handler::what_a_handler_publishes_is_confirmed_before_its_message_is_settled"
        saying "what the case waits for took more than";
    draining_for_ever_is_found: DrainsForEver
        by "stop::what_takes_longer_than_the_drain_time_is_handed_back"
        saying "stopping took more than";
    draining_nothing_of_a_batch_is_found: DrainsNothing
        by "batch::a_batch_being_handled_is_finished_and_the_rest_handed_back"
        saying "the batches";
    draining_nothing_is_found: DrainsNothing
        by "stop::what_is_being_handled_is_finished_and_the_rest_handed_back"
        saying "begun and ended";
}

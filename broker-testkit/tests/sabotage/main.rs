//! Tests of the suite itself: a backend that is broken on purpose fails the case made for that, and
//! so does a consuming runtime.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use broker_api::{Memory, TopicSpec};
use broker_testkit::conformance::{self, Fixture, Outcome, Unready};
use broker_testkit::wrapped::Wrapped;

/// Wants the case to pass without the flaw, and to fail with it, saying `what`.
#[track_caller]
fn assert_found<F>(outcome: fn(&str, Option<F>) -> Outcome, flaw: F, case: &str, what: &str)
where
    F: Copy + fmt::Debug,
{
    assert_eq!(outcome(case, None), Outcome::Passed, "without a flaw");
    match outcome(case, Some(flaw)) {
        Outcome::Failed(text) => assert!(text.contains(what), "failed for another reason: {text}"),
        other => panic!("{flaw:?} was not found by {case}: {other}"),
    }
}

/// Tests with the `outcome` and the `Flaw` of the module they are in.
macro_rules! found {
    ($($test:ident: $flaw:ident by $case:literal saying $what:literal;)+) => {
        $(#[test] fn $test() { crate::assert_found(outcome, Flaw::$flaw, $case, $what); })+
    };
}

mod broken;
mod flawed;
mod runtime;
mod taking;
mod together;
mod told;

use broken::{Broken, Flaw};

/// Runs a case of this name.
fn check(case: &str, fixture: impl Fn() -> Fixture + Send + Sync + 'static) -> Outcome {
    let case = conformance::cases().find(|c| c.name() == case);
    let case = case.unwrap_or_else(|| panic!("the suite has no such case"));
    // What has to be missed is missed sooner than a real broker would need, but some things take
    // their time.
    let lasts = case.subject() == "schedule" || case.name() == LASTING;
    let patience = Duration::from_secs(if lasts { 12 } else { 3 });
    conformance::check(&case, move || {
        let fixture = fixture().patience(patience);
        async { Ok(fixture) }
    })
}

/// A case that waits for a client's longest silence.
const LASTING: &str = "retry::attempts_in_place_leave_the_member_in_its_group";

/// Runs a case on the in-memory broker with a flaw, or without one.
fn outcome(case: &str, flaw: Option<Flaw>) -> Outcome {
    check(case, move || {
        let memory = Memory::new();
        let shared = Arc::new(memory.connect());
        Fixture::new(move || {
            let inner = match flaw {
                Some(Flaw::OneConnectionForAll) => shared.clone(),
                _ => Arc::new(memory.connect()),
            };
            async move { Ok(Broken { inner, flaw }) }
        })
    })
}

found! {
    acknowledging_early_is_found: AcknowledgesEarly
        by "settle::a_dropped_delivery_comes_back" saying "no message within";
    swallowing_a_requeue_is_found: SwallowsRequeues
        by "settle::a_requeued_delivery_comes_back" saying "no message within";
    swallowing_a_requeue_of_a_panic_is_found: SwallowsRequeues
        by "settle::a_panic_while_handling_acknowledges_nothing" saying "no message within";
    bringing_back_the_rejected_is_found: BringsBackRejected
        by "settle::a_rejected_delivery_does_not_come_back" saying "to the consumer that rejected";
    losing_acknowledgements_on_close_is_found: LosesLastAcknowledgements
        by "settle::what_was_settled_does_not_come_back_when_the_consumer_closes_right_after"
        saying "and back again";
    reordering_a_key_is_found: ReordersKeys
        by "order::messages_of_one_key_arrive_in_the_order_they_were_published"
        saying "the messages of key-";
    losing_a_header_is_found: LosesLastHeader
        by "roundtrip::headers_keep_their_order_repetitions_and_values" saying "the headers were changed";
    taking_an_empty_key_for_none_is_found: TakesEmptyKeyForNone
        by "roundtrip::no_key_an_empty_key_and_a_binary_key_stay_what_they_are" saying "the key was changed";
    duplicating_is_found: PublishesTwice
        by "publish::nothing_arrives_twice" saying "published once each";
    confirming_what_is_not_stored_is_found: ConfirmsWithoutStoring
        by "publish::a_confirmed_message_is_there_after_the_publisher_has_gone" saying "no message within";
    another_partitioner_is_found: PartitionsItsOwnWay
        by "publish::a_key_has_the_partition_that_kafka_gives_it" saying "the partition of the key";
    creating_unknown_topics_is_found: CreatesUnknownTopics
        by "publish::an_unknown_topic_is_an_error_and_does_not_come_to_be" saying "but it succeeded";
    putting_off_where_nobody_ever_looks_is_found: DescribesUnknownTopics
        by "schedule::nothing_can_be_put_off_before_a_scheduler_has_run"
        saying "without a scheduler";
    putting_off_what_cannot_be_delivered_is_found: DescribesUnknownTopics
        by "schedule::what_cannot_be_delivered_is_refused_when_it_is_put_off"
        saying "but it succeeded";
    losing_acknowledgements_when_the_broker_closes_is_found: LosesLastAcknowledgements
        by "stop::closing_the_broker_stops_its_consumers" saying "what was handled came again";
    losing_acknowledgements_when_a_consumer_stops_is_found: LosesLastAcknowledgements
        by "stop::what_was_handled_does_not_come_back_with_what_was_not" saying "handled or left";
    unbounded_prefetch_is_found: IgnoresPrefetch
        by "backpressure::prefetch_bounds_what_is_handed_out" saying "handed out beyond a prefetch";
    answering_nothing_is_found: NeverConfirms
        by "publish::flush_waits_for_every_confirmation" saying "flush took more than";
    beginning_too_early_is_found: BeginsWithTheOldest
        by "start::a_group_that_begins_with_the_latest_gets_only_what_comes_after"
        saying "begins with the latest";
    a_reading_without_an_end_is_found: NeverCatchesUp
        by "replay::an_empty_topic_is_read_to_its_end_at_once" saying "no end within";
    hiding_that_a_topic_exists_is_found: HidesThatATopicExists
        by "topics::a_different_specification_is_told_in_words" saying "but it succeeded";
    stale_health_is_found: AlwaysUp
        by "health::a_closed_connection_is_closed_and_not_up" saying "a closed connection";
    health_without_consumers_is_found: ForgetsConsumers
        by "health::every_consumer_is_listed_until_it_leaves" saying "2 consumers";
    a_wait_that_loses_on_cancellation_is_found: LosesOnCancellation
        by "close::waiting_for_a_message_can_be_cancelled_at_any_time" saying "all messages took more than";
    closing_more_than_oneself_is_found: OneConnectionForAll
        by "close::closing_one_connection_leaves_the_others_alone" saying "Closed";
    denying_what_it_can_do_is_found: DeniesWhatItCanDo
        by "errors::what_is_not_supported_says_so_in_words" saying "but it succeeded";
    settling_late_is_found: StaysWhenItLeaves
        by "settle::settling_after_the_consumer_has_left_has_no_effect" saying "no message within";
    refusing_without_a_topic_is_found: ForgetsTheTopic
        by "errors::an_error_names_operation_and_topic" saying "the topic of";
    taking_back_what_is_held_for_long_is_found: TakesBackWhatIsHeldForLong
        by "retry::attempts_in_place_leave_the_member_in_its_group"
        saying "who made which attempt";
    having_no_lag_is_found: HasNoLag
        by "lag::the_lag_of_a_group_is_what_it_has_not_settled" saying "a lag of 5 took more than";
    telling_every_group_the_same_lag_is_found: CountsTheLagOfAll
        by "lag::the_lag_of_a_group_is_what_it_has_not_settled" saying "a lag of 2 took more than";
    inventing_a_lag_is_found: CountsTheLagOfAll
        by "lag::a_group_that_does_not_exist_has_no_lag" saying "the lag of no group";
    a_panic_is_a_failure: Panics
        by "topics::a_deleted_topic_is_gone" saying "the case panicked: a flaw";
    what_hangs_is_a_failure: Hangs
        by "topics::a_deleted_topic_is_gone" saying "did not end within";
}

#[test]
fn a_broker_that_is_not_there_is_ignored_with_what_was_tried() {
    let case = conformance::cases().next().unwrap();
    let absent = conformance::check(&case, || async { Err(Unready::absent("no address is set")) });
    match std::env::var_os("BROKER_TESTKIT_REQUIRE") {
        Some(_) => assert!(matches!(absent, Outcome::Failed(text) if text.contains("no address"))),
        None => assert_eq!(absent, Outcome::Ignored("no address is set".into())),
    }
}

#[test]
fn a_provider_that_breaks_fails_the_case() {
    let case = conformance::cases().next().unwrap();
    let broken = conformance::check(&case, || async {
        std::fs::read("/nonexistent")?;
        Err(Unready::absent("unreachable"))
    });
    assert!(matches!(broken, Outcome::Failed(text) if text.contains("no broker")));
}

#[test]
fn everything_a_case_made_is_deleted_even_when_it_fails() {
    let memory = Memory::new();
    for flaw in [None, Some(Flaw::SwallowsRequeues)] {
        let connect = memory.connect();
        let case = "settle::a_dropped_delivery_comes_back";
        let case = conformance::cases().find(|c| c.name() == case).unwrap();
        let names = Arc::new(broken::Names::default());
        let seen = names.clone();
        let outcome = conformance::check(&case, move || {
            let (connect, names) = (connect.connect(), names.clone());
            async move {
                let fixture = Fixture::new(move || {
                    let inner = Arc::new(connect.connect());
                    let broken =
                        broken::Listed { inner: Broken { inner, flaw }, names: names.clone() };
                    async { Ok(Wrapped(broken)) }
                });
                Ok(fixture.patience(Duration::from_secs(1)))
            }
        });
        assert_eq!(outcome == Outcome::Passed, flaw.is_none(), "{outcome}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let names = seen.taken();
        assert!(!names.is_empty());
        for name in names {
            // Free again: it can be created.
            let broker = broker_api::Broker::new(memory.connect());
            runtime.block_on(broker.describe_topic(name)).unwrap_err();
            runtime.block_on(broker.create_topic(&TopicSpec::new(name))).unwrap();
        }
    }
}

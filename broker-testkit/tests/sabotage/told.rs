//! The consuming runtime that does otherwise than it is told.

use std::time::Duration;

use broker_api::dead_letter::Pace;
use broker_api::{Breaker, Control, Failure, Memory, Retry};
use broker_testkit::conformance::{Fixture, Outcome, Tamper};

const HOUR: Duration = Duration::from_secs(3600);

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    DrainsForEver,
    DrainsNothing,
    RunsTooMany,
    RunsOneAtATime,
    IgnoresTheTimeLimit,
    IgnoresPauses,
    NeverBreaks,
    BreaksForEver,
    BreaksForNoTime,
    RetriesPastTheLimit,
    RetriesOnceMore,
    NeverRetries,
    LetsLaterOnesPass,
    ForgetsWhatTheHandlerSays,
    FillsBatchesTooFull,
    WaitsForFullBatches,
    WaitsForAnswersForEver,
    RedrivesAtOnce,
    SettlesByItself,
    SwallowsPanics,
    RunsEachApart,
    IsDeafToTheEnd,
}

impl Flaw {
    fn tamper(self) -> Tamper {
        let none = Tamper::default();
        // As the case for it says, but for what is wrong.
        let breaker = Breaker { ratio: 1.0, calls: 3, window: HOUR, pause: HOUR };
        let soon = Duration::from_millis(1);
        let retry = Retry::forever().initial(soon).max(soon);
        match self {
            Self::DrainsForEver => Tamper { drain_timeout: Some(HOUR), ..none },
            Self::DrainsNothing => Tamper { drain_timeout: Some(Duration::ZERO), ..none },
            Self::RunsTooMany => Tamper { concurrency: Some(30), ..none },
            Self::RunsOneAtATime => Tamper { concurrency: Some(1), ..none },
            Self::IgnoresTheTimeLimit => Tamper { handler_timeout: Some(HOUR), ..none },
            Self::IgnoresPauses => Tamper { control: Some(Control::new()), ..none },
            Self::NeverBreaks => {
                Tamper { breaker: Some(Breaker { calls: usize::MAX, ..breaker }), ..none }
            }
            Self::BreaksForEver => Tamper { breaker: Some(breaker), ..none },
            Self::BreaksForNoTime => {
                Tamper { breaker: Some(Breaker { pause: soon, ..breaker }), ..none }
            }
            Self::RetriesPastTheLimit => Tamper { retry: Some(retry), ..none },
            Self::RetriesOnceMore => Tamper { retry: Some(retry.attempts(4)), ..none },
            Self::NeverRetries => Tamper { retry: Some(Retry::none()), ..none },
            Self::LetsLaterOnesPass => {
                let delays = [Duration::from_millis(200); 100];
                Tamper { retry: Some(Retry::none().delays(delays)), ..none }
            }
            Self::ForgetsWhatTheHandlerSays => {
                Tamper { failure: Some(|failure| Failure::from(failure.into_error())), ..none }
            }
            Self::FillsBatchesTooFull => Tamper { batch_size: Some(10), ..none },
            Self::WaitsForFullBatches => Tamper { batch_wait: Some(HOUR), ..none },
            Self::WaitsForAnswersForEver => Tamper { answer_timeout: Some(HOUR), ..none },
            Self::RedrivesAtOnce => Tamper { pace: Some(Pace::Unlimited), ..none },
            Self::SettlesByItself => Tamper { plain: true, ..none },
            Self::SwallowsPanics => Tamper { swallows_panics: true, ..none },
            Self::RunsEachApart => Tamper { apart: true, ..none },
            Self::IsDeafToTheEnd => Tamper { deaf: true, ..none },
        }
    }
}

fn outcome(case: &str, flaw: Option<Flaw>) -> Outcome {
    crate::check(case, move || {
        let memory = Memory::new();
        let fixture = Fixture::new(move || {
            let connection = memory.connect();
            async { Ok(connection) }
        });
        fixture.tamper(flaw.map(Flaw::tamper).unwrap_or_default())
    })
}

found! {
    draining_for_ever_is_found: DrainsForEver
        by "stop::what_takes_longer_than_the_drain_time_is_handed_back"
        saying "stopping took more than";
    draining_nothing_of_a_batch_is_found: DrainsNothing
        by "batch::a_batch_being_handled_is_finished_and_the_rest_handed_back"
        saying "the batches";
    draining_nothing_is_found: DrainsNothing
        by "stop::what_is_being_handled_is_finished_and_the_rest_handed_back"
        saying "begun and ended";
    running_too_many_is_found: RunsTooMany
        by "concurrency::as_many_handlers_run_as_allowed_and_no_more"
        saying "handlers at the same time";
    running_one_at_a_time_is_found: RunsOneAtATime
        by "concurrency::as_many_handlers_run_as_allowed_and_no_more"
        saying "what the case waits for took more than";
    keeping_an_order_that_nobody_wants_is_found: RunsOneAtATime
        by "concurrency::an_unordered_group_handles_a_key_at_the_same_time"
        saying "what the case waits for took more than";
    ignoring_the_time_limit_is_found: IgnoresTheTimeLimit
        by "handler::a_handler_past_its_time_limit_has_failed"
        saying "what the case waits for took more than";
    ignoring_the_time_limit_of_a_batch_is_found: IgnoresTheTimeLimit
        by "batch::a_handler_that_panics_or_takes_too_long_has_failed_for_the_whole_batch"
        saying "three batches took more than";
    ignoring_a_pause_is_found: IgnoresPauses
        by "retry::a_paused_consumer_begins_nothing_and_goes_on_when_resumed"
        saying "what was handled while paused";
    never_breaking_is_found: NeverBreaks
        by "handler::a_breaker_stops_calling_tries_again_and_health_says_so"
        saying "a hundred calls failed";
    breaking_for_ever_is_found: BreaksForEver
        by "handler::a_breaker_stops_calling_tries_again_and_health_says_so"
        saying "what the case waits for took more than";
    breaking_for_no_time_is_found: BreaksForNoTime
        by "handler::a_breaker_stops_calling_tries_again_and_health_says_so"
        saying "it paused for";
    retrying_past_the_total_time_is_found: RetriesPastTheLimit
        by "retry::attempts_in_place_end_with_their_total_time"
        saying "1 dead letters took more than";
    retrying_once_more_than_allowed_is_found: RetriesOnceMore
        by "dead_letter::what_fails_every_attempt_goes_there_with_the_number_of_attempts"
        saying "the attempts that the handler was told";
    never_retrying_is_found: NeverRetries
        by "handler::a_handler_that_panics_has_failed"
        saying "what the case waits for took more than";
    never_retrying_what_has_no_outcome_is_found: NeverRetries
        by "batch::outcomes_that_are_missing_are_failures" saying "two batches took more than";
    settling_by_itself_unasked_is_found: SettlesByItself
        by "exactly_once::asking_for_what_cannot_be_is_an_error_at_start"
        saying "settling by hand";
    hiding_retries_from_layers_is_found: NeverRetries
        by "handler::layers_see_every_attempt_and_a_permanent_failure_survives_them"
        saying "the attempts that the layer saw";
    letting_later_messages_of_a_key_pass_is_found: LetsLaterOnesPass
        by "retry::a_delay_in_order_holds_back_its_key_and_no_other"
        saying "the order in which they were handled";
    holding_back_everything_in_order_is_found: RetriesPastTheLimit
        by "retry::a_delay_in_order_holds_back_its_key_and_no_other"
        saying "what the case waits for took more than";
    taking_a_permanent_failure_for_another_is_found: ForgetsWhatTheHandlerSays
        by "dead_letter::what_fails_for_good_goes_there_at_the_first_attempt"
        saying "1 dead letters took more than";
    forgetting_the_pause_that_was_asked_for_is_found: ForgetsWhatTheHandlerSays
        by "handler::the_pause_that_a_handler_asks_for_counts"
        saying "what the case waits for took more than";
    filling_batches_too_full_is_found: FillsBatchesTooFull
        by "batch::a_batch_has_at_most_its_size_and_the_messages_are_in_order"
        saying "the messages of all batches";
    waiting_for_full_batches_is_found: WaitsForFullBatches
        by "batch::a_batch_that_does_not_fill_up_comes_after_its_time"
        saying "the batch took more than";
    waiting_for_answers_for_ever_is_found: WaitsForAnswersForEver
        by "request::a_question_that_nobody_answers_in_time_has_failed_and_a_late_answer_is_dropped"
        saying "asking took more than";
    taking_a_panic_for_success_is_found: SwallowsPanics
        by "handler::a_handler_that_panics_has_failed"
        saying "what the case waits for took more than";
    leaving_others_alone_when_one_fails_is_found: RunsEachApart
        by "stop::the_first_error_of_one_consumer_stops_all" saying "stopping both took more than";
    not_stopping_together_is_found: IsDeafToTheEnd
        by "stop::consumers_that_run_together_stop_together" saying "stopping both took more than";
    redriving_at_once_is_found: RedrivesAtOnce
        by "redrive::a_redrive_keeps_to_its_pace" saying "three at ten in a second";
}

//! The consuming runtime with one flaw, made from the real one and a [`Flawed`] backend.

use broker_api::Memory;
use broker_testkit::conformance::{Fixture, Outcome};

use crate::flawed::Flawed;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    SettlesFirst,
    SettlesNothing,
    SettlesWhatFailed,
    RetriesForEver,
    LosesTheAttemptCount,
    DelaysNothing,
    DelaysForEver,
    DelaysForAllGroups,
    DeadLettersBeforeConfirming,
    DeadLettersWithoutHeaders,
    DeadLettersWithoutKinds,
    DeadLettersWithoutReports,
    DeadLettersWithoutTopics,
    DeadLettersWithoutKeys,
    GivesUpTheWholeBatch,
    NamesItsHeadersOtherwise,
    BringsBackWhatItDiscards,
    RedrivesToAllGroups,
    RedrivesWithoutHistory,
    RedrivesUnderNewIds,
    ForgetsWhatItRedrove,
    ReordersAKey,
    HasOneLaneForAll,
    FinishesOnePartitionFirst,
    TakesNothingForHandled,
    TakesAllForHandled,
    LosesTheTrace,
    ConfirmsOutputsUnasked,
    DeliversEarly,
    DeliversTwice,
    LosesWhatIsPutOff,
    MixesUpAnswers,
    AnswersNobody,
    AnswersWhatIsNotAsked,
    DelaysWhatIsNotPutOff,
}

fn outcome(case: &str, flaw: Option<Flaw>) -> Outcome {
    crate::check(case, move || {
        let memory = Memory::new();
        match flaw {
            None => Fixture::new(move || {
                let connection = memory.connect();
                async { Ok(connection) }
            }),
            Some(flaw) => Fixture::new(move || {
                let connection = memory.connect();
                async move { Ok(Flawed::around(connection, flaw)) }
            }),
        }
    })
}

found! {
    settling_first_is_found: SettlesFirst
        by "stop::a_consumer_that_is_dropped_settles_nothing" saying "what is left";
    settling_first_is_found_by_what_stops: SettlesFirst
        by "stop::a_consumer_that_stops_on_failure_says_why_and_leaves_the_message"
        saying "what is left";
    settling_nothing_is_found: SettlesNothing
        by "dead_letter::the_original_is_settled_once_the_dead_letter_is_stored"
        saying "it came again although it is in the dead letters";
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
    dead_lettering_without_the_kind_is_found: DeadLettersWithoutKinds
        by "dead_letter::what_cannot_be_decoded_goes_there_at_once_and_the_next_message_is_handled"
        saying "the kind of the error";
    dead_lettering_without_the_report_is_found: DeadLettersWithoutReports
        by "dead_letter::what_is_invalid_goes_there_with_the_paths_of_its_fields"
        saying "whether the paths name and age are in";
    dead_lettering_without_the_topic_is_found: DeadLettersWithoutTopics
        by "dead_letter::several_topics_can_share_one" saying "dead letters of one of the topics";
    naming_headers_otherwise_is_found: NamesItsHeadersOtherwise
        by "dead_letter::the_names_of_the_added_headers_are_the_same_everywhere"
        saying "the names of the headers";
    bringing_back_what_is_discarded_is_found: BringsBackWhatItDiscards
        by "stop::what_is_to_be_discarded_is_gone" saying "what was discarded came again";
    redriving_to_all_groups_is_found: RedrivesToAllGroups
        by "redrive::redriving_reaches_the_group_that_failed_and_no_other"
        saying "what the other group got";
    redriving_under_new_ids_is_found: RedrivesUnderNewIds
        by "redrive::a_message_that_is_redriven_twice_is_known_by_its_id"
        saying "the ids of the message";
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
    reordering_a_key_between_batches_is_found: ReordersAKey
        by "batch::a_key_with_a_failure_comes_again_in_order_and_no_other_does"
        saying "six messages took more than";
    losing_the_trace_in_scope_is_found: LosesTheTrace
        by "handler::the_trace_in_scope_goes_on_in_the_handler_and_in_what_it_publishes"
        saying "the trace in scope of the handler";
    finishing_one_partition_first_is_found: FinishesOnePartitionFirst
        by "concurrency::a_partition_with_much_to_do_lets_another_have_its_turn"
        saying "messages came before the last of five";
    taking_nothing_for_handled_is_found: TakesNothingForHandled
        by "handler::what_the_group_has_handled_is_not_handled_again"
        saying "what the handler saw";
    confirming_outputs_unasked_is_found: ConfirmsOutputsUnasked
        by "handler::what_a_handler_publishes_is_confirmed_before_its_message_is_settled"
        saying "what the case waits for took more than";
    taking_nothing_for_handled_is_found_in_batches: TakesNothingForHandled
        by "batch::what_was_handled_before_is_not_in_a_batch" saying "what the handler saw";
    taking_all_for_handled_is_found: TakesAllForHandled
        by "handler::what_the_group_has_handled_is_not_handled_again"
        saying "what the case waits for took more than";
    losing_the_trace_is_found: LosesTheTrace
        by "handler::the_trace_of_a_message_comes_to_every_attempt"
        saying "the trace in each attempt";
    giving_up_a_whole_batch_is_found: GivesUpTheWholeBatch
        by "batch::each_message_has_its_own_outcome" saying "the dead letters";
    dead_lettering_without_the_key_is_found: DeadLettersWithoutKeys
        by "dead_letter::payload_key_and_headers_are_kept_and_the_origin_is_told"
        saying "the key";
    a_filter_that_finds_no_key_is_found: DeadLettersWithoutKeys
        by "redrive::a_filter_picks_by_topic_key_and_kind" saying "by key";
    letting_a_slow_key_delay_all_is_found: HasOneLaneForAll
        by "concurrency::a_slow_key_delays_only_itself"
        saying "what the case waits for took more than";
    letting_a_partition_delay_all_is_found: HasOneLaneForAll
        by "concurrency::a_partition_that_stands_still_does_not_stop_another"
        saying "the messages of the other partition took more than";
    letting_a_failing_key_delay_all_is_found: HasOneLaneForAll
        by "retry::a_failing_key_holds_back_only_itself"
        saying "what the case waits for took more than";
    delivering_early_is_found: DeliversEarly
        by "schedule::what_is_put_off_comes_as_it_was_and_never_before_its_time"
        saying "early by";
    delivering_in_the_order_of_publishing_is_found: DeliversEarly
        by "schedule::messages_come_in_the_order_of_their_times_however_they_were_published"
        saying "the order";
    losing_what_is_put_off_is_found: LosesWhatIsPutOff
        by "schedule::what_is_put_off_survives_a_restart_of_the_scheduler"
        saying "no message within";
    delivering_twice_is_found: DeliversTwice
        by "schedule::several_schedulers_publish_each_message_once" saying "what came";
    mixing_up_answers_is_found: MixesUpAnswers
        by "request::each_question_gets_its_own_answer" saying "the answer";
    answering_nobody_is_found: AnswersNobody
        by "request::an_answer_comes_to_the_process_that_asked" saying "no answer within";
    answering_nobody_who_waits_is_found: AnswersNobody
        by "request::a_question_waits_for_whoever_answers_it" saying "no answer within";
    answering_no_error_is_found: AnswersNobody
        by "request::an_error_is_an_answer_too" saying "took more than";
    answering_no_foreign_client_is_found: AnswersNobody
        by "request::a_client_that_knows_the_headers_can_ask_and_answer" saying "no answer within";
    answering_what_is_not_asked_is_found: AnswersWhatIsNotAsked
        by "request::an_answer_to_a_message_that_wants_none_is_not_published"
        saying "what the handler saw";
    holding_up_what_is_not_put_off_is_found: DelaysWhatIsNotPutOff
        by "schedule::what_was_not_put_off_passes_what_was" saying "the order";
    giving_up_nothing_that_was_put_off_is_found: LosesWhatIsPutOff
        by "schedule::a_message_whose_topic_is_gone_when_it_is_due_becomes_a_dead_letter"
        saying "1 dead letters took more than";
}

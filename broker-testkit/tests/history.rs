//! The history checker: it finds what is wrong in made-up histories, and nothing in right ones.

use std::time::{Duration, SystemTime};

use broker_testkit::history::{Anomaly, Entry, Event, History, Id, Outcome, Report};
use proptest::prelude::*;

const GROUPS: [&str; 2] = ["billing", "audit"];

/// A history written by hand; each entry is a second after the one before.
#[derive(Default)]
struct Script(Vec<Entry>);

impl Script {
    fn add(&mut self, client: &str, event: Event) -> &mut Self {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(self.0.len() as u64);
        self.0.push(Entry { at, client: client.into(), event });
        self
    }

    fn publish(&mut self, key: &str, number: u64, outcome: Outcome) -> &mut Self {
        self.add("publisher", Event::Publishing(id(key, number)));
        self.add("publisher", Event::Published(id(key, number), outcome))
    }

    fn confirm(&mut self, key: &str, numbers: impl IntoIterator<Item = u64>) -> &mut Self {
        for number in numbers {
            self.publish(key, number, Outcome::Confirmed);
        }
        self
    }

    fn receive(&mut self, group: &str, member: &str, key: &str, number: u64) -> &mut Self {
        let group = group.into();
        self.add(member, Event::Received { id: id(key, number), group, attempt: 1 })
    }

    fn done(&mut self, group: &str, member: &str, key: &str, number: u64) -> &mut Self {
        self.add(member, Event::Handled { id: id(key, number), group: group.into() })
    }

    fn handle(&mut self, key: &str, numbers: impl IntoIterator<Item = u64>) -> &mut Self {
        for number in numbers {
            self.receive("billing", "member", key, number).done("billing", "member", key, number);
        }
        self
    }

    fn disturb(&mut self) -> &mut Self {
        self.add("", Event::Disturbed("a kill".into()))
    }

    fn calm(&mut self) -> &mut Self {
        self.add("", Event::Calm)
    }

    fn check(&self) -> Report {
        self.0.iter().cloned().collect::<History>().check(&["billing"])
    }
}

fn id(key: &str, number: u64) -> Id {
    Id { key: key.into(), number }
}

/// The findings, shortly.
fn found(report: &Report) -> Vec<(Anomaly, Id)> {
    report.findings.iter().map(|finding| (finding.anomaly, finding.id.clone())).collect()
}

#[test]
fn a_quiet_day_is_clean() {
    let report = Script::default().confirm("a", 0..3).handle("a", 0..3).check();
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.confirmed, report.handled, report.duplicates()), (3, 3, 0));
    assert_eq!(report.longest_gap, Duration::ZERO, "nothing was disturbed");
}

#[test]
fn a_confirmed_message_that_never_came_is_lost() {
    let report = Script::default().confirm("a", 0..3).handle("a", [0, 2]).check();
    assert_eq!(found(&report), [(Anomaly::Lost, id("a", 1))]);
}

#[test]
fn a_message_is_lost_for_one_group_though_another_has_it() {
    let mut script = Script::default();
    script.confirm("a", [0]).handle("a", [0]);
    let history: History = script.0.into_iter().collect();
    let report = history.check(&["billing", "audit"]);
    assert_eq!(found(&report), [(Anomaly::Lost, id("a", 0))]);
    assert_eq!(report.findings[0].group, "audit");
}

#[test]
fn what_nobody_promised_may_be_missing() {
    let mut script = Script::default();
    script.publish("a", 0, Outcome::Failed).publish("a", 1, Outcome::Indeterminate);
    script.add("publisher", Event::Publishing(id("a", 2))); // killed before the answer
    let report = script.check();
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.confirmed, report.failed, report.indeterminate), (0, 1, 2));
}

#[test]
fn what_was_certainly_not_stored_must_not_come() {
    let report = Script::default().publish("a", 0, Outcome::Failed).handle("a", [0, 1]).check();
    let expected = [(Anomaly::Unpublished, id("a", 0)), (Anomaly::Unpublished, id("a", 1))];
    assert_eq!(found(&report), expected);
}

#[test]
fn a_message_first_received_after_a_later_one_of_its_key_is_reordered() {
    let mut script = Script::default();
    script.confirm("a", 0..3).confirm("b", 0..1);
    let report = script.handle("a", [0, 2]).handle("b", [0]).handle("a", [1]).check();
    assert_eq!(found(&report), [(Anomaly::Reordered, id("a", 1))]);
}

#[test]
fn a_later_message_handled_before_an_earlier_one_is_done_is_reordered() {
    let mut script = Script::default();
    script.confirm("a", 0..2).receive("billing", "m", "a", 0).receive("billing", "m", "a", 1);
    let report = script.done("billing", "m", "a", 1).done("billing", "m", "a", 0).check();
    assert_eq!(found(&report), [(Anomaly::Reordered, id("a", 0))]);
}

#[test]
fn a_message_of_unknown_outcome_may_come_late_a_confirmed_one_not() {
    let mut script = Script::default();
    script.confirm("a", [0]).publish("a", 1, Outcome::Indeterminate).confirm("a", [2]);
    let report = script.handle("a", [0, 2, 1]).check();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.late, 1);
}

#[test]
fn a_repetition_that_goes_back_is_not_a_reordering() {
    let mut script = Script::default();
    script.confirm("a", 0..3).handle("a", 0..2).disturb();
    let report = script.handle("a", 0..3).calm().check();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.explained_duplicates.get("a kill"), Some(&2));
}

#[test]
fn a_repetition_without_a_cause_is_a_duplicate() {
    let mut script = Script::default();
    // What is over before the message came first, and what begins after the second time.
    script.disturb().calm().confirm("a", [0]).handle("a", [0, 0]).disturb();
    let report = script.check();
    assert_eq!(found(&report), [(Anomaly::Duplicated, id("a", 0))]);
    assert_eq!(report.duplicates(), 1);
}

#[test]
fn a_disturbance_explains_until_all_is_calm() {
    let mut script = Script::default();
    let report = script.confirm("a", [0]).disturb().handle("a", [0, 0]).calm().check();
    assert!(report.is_clean(), "{report}");
    let report = script.handle("a", [0]).handle("a", [0]).check();
    assert_eq!(report.count(Anomaly::Duplicated), 1, "the one that came after the calm: {report}");
    assert_eq!(report.duplicates(), 3);
}

#[test]
fn a_message_published_twice_may_come_twice() {
    let mut script = Script::default();
    script.publish("a", 0, Outcome::Indeterminate).confirm("a", [0]).handle("a", [0, 0]);
    let report = script.check();
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.duplicates(), report.confirmed), (1, 1));
    assert_eq!(script.handle("a", [0]).check().count(Anomaly::Duplicated), 1, "but not thrice");
}

#[test]
fn a_message_taken_and_never_finished_must_come_again() {
    let mut script = Script::default();
    script.confirm("a", [0]).receive("billing", "killed", "a", 0).disturb();
    assert_eq!(found(&script.check()), [(Anomaly::SettledEarly, id("a", 0))]);
    let report = script.handle("a", [0]).check();
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.redelivered, report.duplicates()), (1, 0));
}

#[test]
fn two_members_that_finish_the_same_message_have_duplicated_it() {
    let mut script = Script::default();
    script.confirm("a", [0]).receive("billing", "x", "a", 0).receive("billing", "y", "a", 0);
    let report = script.done("billing", "x", "a", 0).done("billing", "y", "a", 0).check();
    assert_eq!(found(&report), [(Anomaly::Duplicated, id("a", 0))]);
}

#[test]
fn the_gap_is_the_longest_time_without_progress_since_the_disturbance() {
    let mut script = Script::default();
    script.confirm("a", 0..9).disturb(); // confirmations stop here, at second 18
    let report = script.handle("a", 0..4).calm().confirm("a", [9]).handle("a", 4..10).check();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.longest_gap, Duration::from_secs(11), "{report}");
}

#[test]
fn a_report_tells_the_story_of_a_message() {
    let report = Script::default().confirm("a", 0..2).disturb().handle("a", [1]).check();
    let text = report.to_string();
    for part in ["WRONG: 1 Lost", "Lost in billing: a#0", "a#0 is Confirmed", "DISTURBED: a kill"] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    assert!(!text.contains("publishes a#1"), "another message's story:\n{text}");
}

#[test]
fn what_a_killed_process_noted_is_read_up_to_its_last_whole_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    for process in ["first", "second"] {
        let history = History::in_file(&path).unwrap();
        history.client(process).publishing(process, 0);
        history.client(process).published(process, 0, Outcome::Confirmed);
    }
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("{\"at\":{\"secs"); // killed while writing
    std::fs::write(&path, text).unwrap();

    let history = History::new();
    history.client("parent").received("billing", "first", 0, 1);
    history.add_file(&path).unwrap();
    assert_eq!(history.entries().len(), 5);
    let report = history.check(&["billing"]);
    let expected = [(Anomaly::Lost, id("second", 0)), (Anomaly::SettledEarly, id("first", 0))];
    assert_eq!(found(&report), expected);

    std::fs::write(&path, "not a history\n").unwrap();
    assert!(history.add_file(&path).is_err());
}

/// A step of a broker that does everything right.
#[derive(Debug, Clone)]
enum Step {
    Publish {
        key: usize,
        outcome: Outcome,
        stored: bool,
    },
    /// A group takes the next message of a key, and finishes it unless its member dies first.
    Consume {
        key: usize,
        group: usize,
        finished: bool,
    },
    /// Something breaks; each key of the group goes back by up to so many messages.
    Crash {
        group: usize,
        back: usize,
    },
    Calm,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        8 => Just(Outcome::Confirmed), 1 => Just(Outcome::Failed), 1 => Just(Outcome::Indeterminate)
    ];
    let key = 0..3usize;
    let group = 0..GROUPS.len();
    let step = prop_oneof![
        6 => (key.clone(), outcome, any::<bool>())
            .prop_map(|(key, outcome, stored)| Step::Publish { key, outcome, stored }),
        8 => (key, group.clone(), prop::bool::weighted(0.9))
            .prop_map(|(key, group, finished)| Step::Consume { key, group, finished }),
        1 => (group, 0..4usize).prop_map(|(group, back)| Step::Crash { group, back }),
        1 => Just(Step::Calm),
    ];
    // It begins with messages, so that there is something to corrupt.
    prop::collection::vec(step, 20..200)
}

/// The history of these steps on a broker that does everything right, drained at the end.
fn history_of(steps: &[Step]) -> Script {
    let keys = ["a", "b", "c"];
    let mut script = Script::default();
    let mut stored: [Vec<u64>; 3] = Default::default();
    let mut published = [0; 3];
    let mut positions = [[0usize; 3]; GROUPS.len()];
    let everything = |script: &mut Script,
                      stored: &[Vec<u64>; 3],
                      positions: &mut [usize; 3],
                      group| {
        for (key, messages) in stored.iter().enumerate() {
            for number in &messages[positions[key]..] {
                script.receive(group, "m", keys[key], *number).done(group, "m", keys[key], *number);
            }
            positions[key] = messages.len();
        }
    };
    // Two of each key at least, for every corruption needs something to corrupt.
    let first =
        (0..6).map(|n| Step::Publish { key: n % 3, outcome: Outcome::Confirmed, stored: true });
    for step in first.chain(steps.iter().cloned()) {
        match step {
            Step::Publish { key, outcome, stored: unsure } => {
                let number = published[key];
                published[key] += 1;
                script.publish(keys[key], number, outcome);
                if outcome == Outcome::Confirmed || (outcome == Outcome::Indeterminate && unsure) {
                    stored[key].push(number);
                }
            }
            Step::Consume { key, group, finished } => {
                let position = &mut positions[group][key];
                let Some(number) = stored[key].get(*position) else { continue };
                script.receive(GROUPS[group], "m", keys[key], *number);
                if finished {
                    script.done(GROUPS[group], "m", keys[key], *number);
                    *position += 1;
                }
            }
            Step::Crash { group, back } => {
                script.disturb();
                for position in &mut positions[group] {
                    *position -= back.min(*position);
                }
                // What goes back comes again while the disturbance lasts.
                everything(&mut script, &stored, &mut positions[group], GROUPS[group]);
            }
            Step::Calm => drop(script.calm()),
        }
    }
    script.calm();
    for (group, positions) in GROUPS.iter().zip(&mut positions) {
        everything(&mut script, &stored, positions, group);
    }
    script
}

fn check(script: &Script) -> Report {
    script.0.iter().cloned().collect::<History>().check(&GROUPS)
}

/// The group and the message of an entry that a member made.
fn of_member(entry: &Entry) -> Option<(&str, &Id)> {
    match &entry.event {
        Event::Received { group, id, .. } | Event::Handled { group, id } => Some((group, id)),
        _ => None,
    }
}

fn confirmed(script: &Script) -> Vec<Id> {
    let confirmed = script.0.iter().filter_map(|entry| match &entry.event {
        Event::Published(id, Outcome::Confirmed) => Some(id.clone()),
        _ => None,
    });
    confirmed.collect()
}

proptest! {
    #[test]
    fn a_history_of_a_right_broker_is_clean(steps in steps()) {
        let report = check(&history_of(&steps));
        prop_assert!(report.is_clean(), "{}", report);
    }

    #[test]
    fn a_random_loss_is_found(
        steps in steps(), which in any::<prop::sample::Index>(), group in 0..GROUPS.len()
    ) {
        let mut script = history_of(&steps);
        let victim = which.get(&confirmed(&script)).clone();
        script.0.retain(|entry| of_member(entry) != Some((GROUPS[group], &victim)));
        let report = check(&script);
        prop_assert_eq!(found(&report), [(Anomaly::Lost, victim)], "{}", report);
    }

    #[test]
    fn a_random_exchange_of_two_messages_of_a_key_is_found(
        steps in steps(), which in any::<prop::sample::Index>(), group in 0..GROUPS.len()
    ) {
        let mut script = history_of(&steps);
        let all = confirmed(&script);
        let earlier = all.iter().filter(|id| all.iter().any(|o| o.key == id.key && o.number > id.number));
        let first = which.get(&earlier.cloned().collect::<Vec<_>>()).clone();
        let second = all.iter().filter(|id| id.key == first.key && id.number > first.number).min();
        let second = second.expect("chosen so").clone();
        for entry in &mut script.0 {
            if let Event::Received { group: g, id, .. } | Event::Handled { group: g, id } = &mut entry.event
                && g == GROUPS[group]
            {
                match () {
                    () if *id == first => *id = second.clone(),
                    () if *id == second => *id = first.clone(),
                    () => {}
                }
            }
        }
        let report = check(&script);
        prop_assert!(found(&report).contains(&(Anomaly::Reordered, first)), "{}", report);
        prop_assert_eq!(report.count(Anomaly::Reordered), report.findings.len(), "{}", report);
    }

    #[test]
    fn a_random_repetition_is_found(
        steps in steps(), which in any::<prop::sample::Index>(), group in 0..GROUPS.len()
    ) {
        let mut script = history_of(&steps);
        let victim = which.get(&confirmed(&script)).clone();
        // Twice, since a disturbance between the last time and this one may explain the first.
        let ids = (GROUPS[group], &victim.key, victim.number);
        for _ in 0..2 {
            script.receive(ids.0, "m", ids.1, ids.2).done(ids.0, "m", ids.1, ids.2);
        }
        let report = check(&script);
        prop_assert!(report.count(Anomaly::Duplicated) >= 1, "{}", report);
        prop_assert!(found(&report).iter().all(|f| *f == (Anomaly::Duplicated, victim.clone())), "{}", report);
    }

    #[test]
    fn a_random_early_settlement_is_found(
        steps in steps(), which in any::<prop::sample::Index>(), group in 0..GROUPS.len()
    ) {
        let mut script = history_of(&steps);
        let victim = which.get(&confirmed(&script)).clone();
        // It came once, was never finished, and never came again.
        let mut came = false;
        script.0.retain(|entry| match (of_member(entry), &entry.event) {
            (Some(of), _) if of != (GROUPS[group], &victim) => true,
            (Some(_), Event::Received { .. }) => !std::mem::replace(&mut came, true),
            (Some(_), _) => false,
            (None, _) => true,
        });
        let report = check(&script);
        prop_assert_eq!(found(&report), [(Anomaly::SettledEarly, victim)], "{}", report);
    }

    #[test]
    fn a_random_lie_about_a_failure_is_found(steps in steps(), which in any::<prop::sample::Index>()) {
        let mut script = history_of(&steps);
        let victim = which.get(&confirmed(&script)).clone();
        for entry in &mut script.0 {
            if let Event::Published(id, outcome) = &mut entry.event && *id == victim {
                *outcome = Outcome::Failed;
            }
        }
        let report = check(&script);
        let expected = vec![(Anomaly::Unpublished, victim); GROUPS.len()];
        prop_assert_eq!(found(&report), expected, "{}", report);
    }
}

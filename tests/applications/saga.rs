//! `booking_saga`: no step is lost or done twice, whatever happens to the process.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::peer;
use crate::places::Visit;
use crate::{Outcome, ensure, lines, until};

const STEPS: [&str; 3] = ["reserve hotel", "charge card", "issue ticket"];
const DEAD_LETTERS: &str = "dlq.failed-events";
/// How many bookings a run starts, and how many lines they come to: 8 are done in 3 steps, of the
/// other 4 together 3 steps are done and undone; each guest gets an email.
const BOOKINGS: usize = 12;
const LINES: usize = 8 * 3 + 3 * 2 + BOOKINGS;
/// Handlers that may be between what they do and the event that tells it when they are killed.
const AT_WORK: usize = 4;

pub(crate) fn ends_every_booking(visit: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("saga.jsonl");
    let printed = visit.run("booking_saga", "both", &file)?;
    ensure(printed.contains(visit.kind.said()), &printed)?;
    ensure(printed.contains(" bookings ended"), &printed)?;
    let dead = format!("dead letters in {DEAD_LETTERS}\n");
    ensure(printed.contains(&dead) && printed.contains(" x Invalid: email: "), &printed)?;
    let runs = [run_of(&printed)?];
    all_in_order(&done(&file, &runs)?, &runs)
}

/// Killed three times; what was done is read again from the events, and nothing is done twice.
pub(crate) fn recovers_by_replay(visit: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("saga.jsonl");
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(run_of(&visit.run("booking_saga", "publish", &file)?)?);
    }
    let mut known = Vec::new();
    for reached in [20, 50, 80] {
        let mut consumer = visit.start("booking_saga", "consume", &file)?;
        known.push(known_events(&mut consumer)?);
        until("steps of bookings", || Ok(done(&file, &runs)?.len() >= reached))?;
        consumer.signal(Signal::KILL)?;
    }
    let mut consumer = visit.start("booking_saga", "consume", &file)?;
    until("all steps of bookings", || Ok(done(&file, &runs)?.len() >= 3 * LINES))?;
    let new = known_events(&mut consumer)? - known[0];
    consumer.signal(Signal::TERM)?;
    consumer.succeed()?;
    // All that was done before the third kill, but for the emails and what was at work then.
    ensure(new >= 80 - AT_WORK - 3 * BOOKINGS, &format!("only {new} events are known"))?;
    let done = done(&file, &runs)?;
    all_in_order(&done, &runs)?;

    let bookings: BTreeSet<_> = done.iter().map(|line| booking(line).to_owned()).collect();
    conversations_are_whole(visit, &bookings)?;
    let dead = peer::kept(visit, DEAD_LETTERS)?;
    let of_ours = dead.iter().filter(|found| {
        let id = found.header("correlation-id").unwrap_or_default();
        runs.iter().any(|run| id == format!("{run}-invalid"))
    });
    // A crash between a dead letter and settling its original makes it twice.
    let mut distinct = BTreeSet::new();
    for found in of_ours {
        let is = |name, text: &str| found.header(name).is_some_and(|said| said.contains(text));
        ensure(is("x-broker-error-kind", "Invalid"), &format!("{found:?}"))?;
        ensure(is("x-broker-error-message", "email"), &format!("{found:?}"))?;
        ensure(is("x-broker-original-topic", "saga.booking.started"), &format!("{found:?}"))?;
        distinct.insert(found.header("correlation-id"));
    }
    ensure(distinct.len() == runs.len(), &format!("only {distinct:?} are dead letters"))
}

/// Killed, and its services forget everything: the events alone say what was done.
pub(crate) fn knows_its_books(visit: &Visit, directory: &Path) -> Outcome {
    let [first, second] = ["first", "second"].map(|name| directory.join(name));
    let runs = [run_of(&visit.run("booking_saga", "publish", &first)?)?];
    let consumer = visit.start("booking_saga", "consume", &first)?;
    until("steps of bookings", || Ok(done(&first, &runs)?.len() >= 20))?;
    consumer.signal(Signal::KILL)?;
    drop(consumer);
    let mut consumer = visit.start("booking_saga", "consume", &second)?;
    let all = || -> Result<BTreeSet<String>, Box<dyn Error>> {
        Ok(done(&first, &runs)?.into_iter().chain(done(&second, &runs)?).collect())
    };
    until("all steps of bookings", || Ok(all()?.len() == LINES))?;
    consumer.signal(Signal::TERM)?;
    consumer.succeed()?;
    let [first, second] = [done(&first, &runs)?, done(&second, &runs)?];
    // Emails are in nobody's books.
    let twice = second.iter().filter(|line| first.contains(line) && !line.starts_with("email "));
    let twice: Vec<_> = twice.collect();
    ensure(twice.len() <= AT_WORK, &format!("done again although there are events: {twice:?}"))
}

/// Every event of these bookings carries the booking as its correlation id, in its native place,
/// and every booking has its events.
fn conversations_are_whole(visit: &Visit, bookings: &BTreeSet<String>) -> Outcome {
    let mut topics: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for topic in [
        "saga.booking.started",
        "saga.booking.step.completed",
        "saga.booking.step.failed",
        "saga.booking.step.compensated",
        "notification.email.send",
    ] {
        for found in peer::kept(visit, topic)? {
            let id = found.header("correlation-id").unwrap_or_default().to_owned();
            let event: Value = serde_json::from_str(&found.payload)?;
            let inner = event["booking"]["booking"].as_str().or(event["booking"].as_str());
            let said = event["text"].as_str().is_some_and(|text| text.contains(&*id));
            ensure(inner == Some(&*id) || said, &format!("{topic}: {found:?}"))?;
            topics.entry(topic).or_default().insert(id);
        }
    }
    let with = |topic: &str, wanted: fn(Option<usize>) -> bool| {
        let mut of = bookings.iter().filter(|booking| wanted(refused(booking)));
        let there = topics.get(topic);
        ensure(of.all(|b| there.is_some_and(|t| t.contains(b))), &format!("{topic}: {there:?}"))
    };
    with("saga.booking.started", |_| true)?;
    with("notification.email.send", |_| true)?;
    with("saga.booking.step.completed", |refused| refused != Some(0))?;
    with("saga.booking.step.failed", |refused| refused.is_some())?;
    with("saga.booking.step.compensated", |refused| refused.is_some_and(|step| step > 0))
}

/// For each booking exactly what has to be done, in that order: the steps, what is undone of them
/// in reverse, and one email.
fn all_in_order(done: &[String], runs: &[String]) -> Outcome {
    let mut by_booking: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in done {
        by_booking.entry(booking(line)).or_default().push(line);
    }
    ensure(by_booking.len() == runs.len() * BOOKINGS, &format!("{} bookings", by_booking.len()))?;
    for (booking, lines) in by_booking {
        let steps = STEPS.iter().take(refused(booking).unwrap_or(STEPS.len()));
        let mut expected: Vec<_> =
            steps.clone().map(|step| format!("do {booking} {step}")).collect();
        if refused(booking).is_some() {
            expected.extend(steps.rev().map(|step| format!("undo {booking} {step}")));
        }
        let number = number(booking);
        expected.push(format!("email {booking} to guest-{number}@example.com"));
        ensure(lines == expected, &format!("{lines:#?} instead of {expected:#?}"))?;
    }
    Ok(())
}

/// The name of the run that published this.
fn run_of(printed: &str) -> Result<String, Box<dyn Error>> {
    let after = printed.split(" bookings as ").nth(1).and_then(|rest| rest.split(',').next());
    Ok(after.ok_or_else(|| format!("no run in {printed:?}"))?.to_owned())
}

/// What the services did for bookings of these runs, a line each. Events of other tests may be
/// there too.
fn done(file: &Path, runs: &[String]) -> Result<Vec<String>, Box<dyn Error>> {
    let mut done = Vec::new();
    for line in lines(file)? {
        let line = line.as_str().ok_or("a line is no text")?;
        if runs.iter().any(|run| booking(line).starts_with(run)) {
            done.push(line.to_owned());
        }
    }
    Ok(done)
}

/// The booking of a line: its second word.
fn booking(line: &str) -> &str {
    line.split(' ').nth(1).unwrap_or_default()
}

/// Which booking of its run it is.
fn number(booking: &str) -> usize {
    booking.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(usize::MAX)
}

/// The step that a service refuses.
fn refused(booking: &str) -> Option<usize> {
    let number = number(booking);
    (number % 3 == 2).then_some(number / 3 % STEPS.len())
}

/// How many events it knew from the replay.
fn known_events(consumer: &mut crate::app::App) -> Result<usize, Box<dyn Error>> {
    let printed = consumer.wait_for("events of before are known")?;
    let line = printed.lines().find(|line| line.contains("events of before")).unwrap_or_default();
    let number = line.split("; ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("none");
    Ok(number.parse().map_err(|_| format!("no number of known events in {line:?}"))?)
}

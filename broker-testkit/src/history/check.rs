//! The checker.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use super::event::{Entry, Event, Id, Outcome};
use super::report::{Anomaly, Finding, Report};

/// What explains a message that was stored more than once.
const PUBLISHED_AGAIN: &str = "published more than once";

/// What is wrong in these entries, which are in the order of time.
pub(super) fn check(entries: &[Entry], groups: &[&str]) -> Report {
    let publications = publications(entries);
    let disturbances = disturbances(entries);
    let mut report = Report { longest_gap: longest_gap(entries, groups), ..Report::default() };
    for publication in publications.values() {
        match publication {
            Publication { confirmed: 1.., .. } => report.confirmed += 1,
            publication if publication.stored_at_most() > 0 => report.indeterminate += 1,
            _ => report.failed += 1,
        }
    }
    for group in groups {
        Group { name: group, publications: &publications, deliveries: deliveries(entries, group) }
            .judge(&disturbances, &mut report);
    }
    report.findings.sort_by(|a, b| (a.anomaly, &a.id).cmp(&(b.anomaly, &b.id)));
    tell(entries, &mut report);
    report
}

/// The attempts to publish one message.
#[derive(Debug, Default)]
struct Publication {
    attempts: u32,
    answers: u32,
    confirmed: u32,
    failed: u32,
}

impl Publication {
    /// How many copies there may be.
    fn stored_at_most(&self) -> u32 {
        self.attempts.max(self.answers) - self.failed
    }
}

fn publications(entries: &[Entry]) -> HashMap<&Id, Publication> {
    let mut publications = HashMap::<&Id, Publication>::new();
    for entry in entries {
        match &entry.event {
            Event::Publishing(id) => publications.entry(id).or_default().attempts += 1,
            Event::Published(id, outcome) => {
                let publication = publications.entry(id).or_default();
                publication.answers += 1;
                publication.confirmed += u32::from(*outcome == Outcome::Confirmed);
                publication.failed += u32::from(*outcome == Outcome::Failed);
            }
            _ => {}
        }
    }
    publications
}

/// The time in which something was broken.
struct Disturbance<'a> {
    what: &'a str,
    from: SystemTime,
    /// `None` until the end.
    until: Option<SystemTime>,
}

impl Disturbance<'_> {
    fn touches(&self, from: SystemTime, until: SystemTime) -> bool {
        self.from <= until && self.until.is_none_or(|end| end >= from)
    }
}

fn disturbances(entries: &[Entry]) -> Vec<Disturbance<'_>> {
    let mut disturbances = Vec::new();
    for entry in entries {
        match &entry.event {
            Event::Disturbed(what) => {
                disturbances.push(Disturbance { what, from: entry.at, until: None });
            }
            Event::Calm => {
                let open = disturbances.iter_mut().filter(|d| d.until.is_none());
                open.for_each(|disturbance| disturbance.until = Some(entry.at));
            }
            _ => {}
        }
    }
    disturbances
}

/// One time that a member had a message.
struct Delivery<'a> {
    member: &'a str,
    received: SystemTime,
    handled: Option<SystemTime>,
}

/// The deliveries of each message to a group, in the order they came.
fn deliveries<'a>(entries: &'a [Entry], name: &str) -> BTreeMap<&'a Id, Vec<Delivery<'a>>> {
    let mut deliveries = BTreeMap::<&Id, Vec<Delivery<'_>>>::new();
    for entry in entries {
        match &entry.event {
            Event::Received { id, group, .. } if group == name => {
                deliveries.entry(id).or_default().push(Delivery {
                    member: &entry.client,
                    received: entry.at,
                    handled: None,
                });
            }
            Event::Handled { id, group } if group == name => {
                let all = deliveries.entry(id).or_default();
                let open = all.iter_mut().rev().find(|d| d.member == entry.client);
                match open.filter(|delivery| delivery.handled.is_none()) {
                    Some(delivery) => delivery.handled = Some(entry.at),
                    // One that notes only when it is done.
                    None => all.push(Delivery {
                        member: &entry.client,
                        received: entry.at,
                        handled: Some(entry.at),
                    }),
                }
            }
            _ => {}
        }
    }
    deliveries
}

struct Group<'a> {
    name: &'a str,
    publications: &'a HashMap<&'a Id, Publication>,
    deliveries: BTreeMap<&'a Id, Vec<Delivery<'a>>>,
}

impl Group<'_> {
    fn judge(&self, disturbances: &[Disturbance<'_>], report: &mut Report) {
        for (id, publication) in self.publications {
            if publication.confirmed > 0 && !self.deliveries.contains_key(id) {
                self.accuse(Anomaly::Lost, id, report);
            }
        }
        for (id, deliveries) in &self.deliveries {
            let copies = self.publications.get(id).map_or(0, Publication::stored_at_most);
            if copies == 0 {
                self.accuse(Anomaly::Unpublished, id, report);
            }
            match deliveries.iter().any(|delivery| delivery.handled.is_some()) {
                true => report.handled += 1,
                false => self.accuse(Anomaly::SettledEarly, id, report),
            }
            self.judge_repetitions(id, deliveries, copies, disturbances, report);
        }
        let mut accused = HashSet::new();
        self.judge_order(|deliveries| deliveries.first().map(|d| d.received), &mut accused, report);
        let first_handled =
            |deliveries: &[Delivery<'_>]| deliveries.iter().filter_map(|d| d.handled).min();
        self.judge_order(first_handled, &mut accused, report);
    }

    /// Why a message came more than once.
    fn judge_repetitions(
        &self,
        id: &Id,
        deliveries: &[Delivery<'_>],
        copies: u32,
        disturbances: &[Disturbance<'_>],
        report: &mut Report,
    ) {
        let mut spare_copies = copies.saturating_sub(1);
        let mut handled = false;
        for pair in deliveries.windows(2) {
            let [before, again] = pair else { continue };
            handled |= before.handled.is_some();
            if !handled {
                report.redelivered += 1;
                continue;
            }
            // The cause is between the last time it came and this one.
            let cause = disturbances.iter().find(|d| d.touches(before.received, again.received));
            let why = match cause {
                Some(disturbance) => disturbance.what,
                None if spare_copies > 0 => {
                    spare_copies -= 1;
                    PUBLISHED_AGAIN
                }
                None => {
                    self.accuse(Anomaly::Duplicated, id, report);
                    continue;
                }
            };
            *report.explained_duplicates.entry(why.to_owned()).or_default() += 1;
        }
    }

    /// Whether the messages of each key have this in the order of their numbers. One of unknown
    /// outcome that comes late is counted only: its publisher did not go on thinking it is stored.
    fn judge_order<'a>(
        &'a self,
        time: impl Fn(&[Delivery<'_>]) -> Option<SystemTime>,
        accused: &mut HashSet<&'a Id>,
        report: &mut Report,
    ) {
        let mut order: Vec<(SystemTime, &Id)> = self
            .deliveries
            .iter()
            .filter_map(|(id, deliveries)| Some((time(deliveries)?, *id)))
            .collect();
        // Stable, and numbers go up in the map: two at the same instant are in order.
        order.sort_by_key(|(at, _)| *at);
        let mut highest = HashMap::<&str, u64>::new();
        for (_, id) in order {
            let confirmed = self.publications.get(id).is_some_and(|p| p.confirmed > 0);
            let later = highest.get(id.key.as_str()).is_some_and(|highest| id.number < *highest);
            match (later, confirmed) {
                (true, true) if accused.insert(id) => self.accuse(Anomaly::Reordered, id, report),
                (true, false) if accused.insert(id) => report.late += 1,
                (false, true) => drop(highest.insert(&id.key, id.number)),
                _ => {}
            }
        }
    }

    fn accuse(&self, anomaly: Anomaly, id: &Id, report: &mut Report) {
        let (group, id) = (self.name.to_owned(), id.clone());
        report.findings.push(Finding { anomaly, group, id, story: Vec::new() });
    }
}

/// Adds to each finding what is known of it.
fn tell(entries: &[Entry], report: &mut Report) {
    let mut stories: HashMap<Id, Vec<Entry>> =
        report.findings.iter().map(|finding| (finding.id.clone(), Vec::new())).collect();
    for entry in entries {
        match entry.event.id() {
            Some(id) => {
                if let Some(story) = stories.get_mut(id) {
                    story.push(entry.clone());
                }
            }
            None => stories.values_mut().for_each(|story| story.push(entry.clone())),
        }
    }
    for finding in &mut report.findings {
        finding.story = stories.get(&finding.id).cloned().unwrap_or_default();
    }
}

/// The longest time, from the first disturbance to the last progress, without any.
fn longest_gap(entries: &[Entry], groups: &[&str]) -> Duration {
    let disturbed = entries.iter().find(|e| matches!(e.event, Event::Disturbed(_)));
    let Some(disturbed) = disturbed else { return Duration::ZERO };
    let longest = |is_progress: &dyn Fn(&Event) -> bool| {
        let progress = entries.iter().filter(|e| is_progress(&e.event)).map(|e| e.at);
        let mut longest = Duration::ZERO;
        let mut last = disturbed.at;
        for at in progress.filter(|at| *at > disturbed.at) {
            longest = longest.max(at.duration_since(last).unwrap_or_default());
            last = at;
        }
        longest
    };
    let confirmed = longest(&|event| matches!(event, Event::Published(_, Outcome::Confirmed)));
    let of_group = |name: &&str| {
        longest(&|event| matches!(event, Event::Handled { group, .. } if group == name))
    };
    groups.iter().map(of_group).fold(confirmed, Duration::max)
}

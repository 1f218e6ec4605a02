//! `video_events`: one process for many topics, and counters that can be built again.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use rustix::process::Signal;

use crate::places::Visit;
use crate::{Outcome, ensure, ids, lines, until};

/// How many events a run publishes, 20 to each of seven topics.
const EVENTS: usize = 140;

pub(crate) fn counts_all_topics(visit: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("counters.jsonl");
    let printed = visit.run("video_events", "both", &file)?;
    ensure(printed.contains(visit.kind.said()), &printed)?;
    ensure(printed.contains("published 140 events to 7 topics"), &printed)?;
    let once = counters(&file)?;
    // 20 each, over 4 videos; what is created and deleted as often comes to nothing.
    let counter = |video: usize, name: &str| once[&(format!("\"video-{video}\""), name.into())];
    for video in 0..4 {
        ensure(counter(video, "\"views\"") == 5 && counter(video, "\"likes\"") == 0, &printed)?;
        ensure(counter(video, "\"videos\"") == 0, &printed)?;
    }
    // The next process goes on with them.
    let printed = visit.run("video_events", "both", &file)?;
    ensure(printed.contains("counted 280 events"), &printed)?;
    ensure(ids(&file, "id")?.len() == 2 * EVENTS, "an event was counted twice")?;
    let twice = once.into_iter().map(|(what, count)| (what, 2 * count)).collect();
    ensure(counters(&file)? == twice, &printed)
}

/// Killed while it counts; then the file is lost.
pub(crate) fn rebuilds_by_replay(visit: &Visit, directory: &Path) -> Outcome {
    let [file, rebuilt] = ["counters.jsonl", "rebuilt.jsonl"].map(|name| directory.join(name));
    // What other tests have published counts too.
    visit.run("video_events", "replay", &file)?;
    let before = lines(&file)?.len();
    let runs = 5;
    for _ in 0..runs {
        visit.run("video_events", "publish", &file)?;
    }
    for reached in [100, 300, 500] {
        let consumer = visit.start("video_events", "consume", &file)?;
        until("events", || Ok(lines(&file)?.len() >= before + reached))?;
        consumer.signal(Signal::KILL)?;
    }
    let mut consumer = visit.start("video_events", "consume", &file)?;
    until("all events", || Ok(lines(&file)?.len() >= before + runs * EVENTS))?;
    consumer.signal(Signal::TERM)?;
    consumer.succeed()?;
    // What a killed consumer had counted and not settled may still wait to come again. It comes
    // before what is published now, so after this nothing is left.
    visit.run("video_events", "both", &file)?;
    ensure(ids(&file, "id")?.len() == before + (runs + 1) * EVENTS, "an event was counted twice")?;

    let printed = visit.run("video_events", "replay", &rebuilt)?;
    ensure(counters(&rebuilt)? == counters(&file)?, &printed)?;
    ensure(ids(&rebuilt, "id")? == ids(&file, "id")?, "the replay saw other events")?;
    // It moved no position: what was settled does not come again.
    let rest = directory.join("rest.jsonl");
    let printed = visit.run("video_events", "both", &rest)?;
    ensure(lines(&rest)?.len() == EVENTS, &printed)
}

/// What the lines of the file come to, by video and counter.
fn counters(file: &Path) -> Result<BTreeMap<(String, String), i64>, Box<dyn Error>> {
    let mut counters = BTreeMap::new();
    for line in lines(file)? {
        let what = (line["video"].to_string(), line["counter"].to_string());
        *counters.entry(what).or_insert(0) += line["step"].as_i64().ok_or("no step")?;
    }
    Ok(counters)
}

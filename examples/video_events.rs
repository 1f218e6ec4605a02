//! Video events: one process consumes many topics with a handler each, and keeps counters that
//! survive it and can be built again from the topics.
//!
//! `cargo run --example video_events [publish|consume|both|replay] [FILE]`
//!
//! `replay` reads all topics from their beginning, without touching the group's position, and
//! writes the counters anew: the file can be lost, or the counting changed.

mod shared;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anybroker::{Broker, Failure, GroupSpec, Message, Name, Permanent, Read, Topic};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{JsonLines, Outcome, Task};
use tokio::sync::watch;

#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
struct Event {
    #[garde(length(min = 1))]
    video: String,
    #[garde(length(min = 1))]
    user: String,
}

/// Each kind of event is a topic: its name, what it counts, and by how much.
const KINDS: [(Topic<Event>, &str, i64); 7] = [
    (event("video.created"), "videos", 1),
    (event("video.deleted"), "videos", -1),
    (event("video.liked"), "likes", 1),
    (event("video.unliked"), "likes", -1),
    (event("video.viewed"), "views", 1),
    (event("comment.created"), "comments", 1),
    (event("comment.deleted"), "comments", -1),
];

const GROUP: Name = Name::new("video-counters");

const fn event(name: &'static str) -> Topic<Event> {
    Topic::new(name).keyed(|event| &event.video)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    shared::exit(run().await)
}

async fn run() -> Outcome {
    let task = Task::from_args("video_events.jsonl", &["replay"])?;
    let broker = shared::connect().await?;
    let week = Duration::from_secs(7 * 24 * 3600);
    for (topic, ..) in KINDS {
        broker.create_topic(&topic.spec().retention(week)).await?;
        broker.declare_group(topic.name(), &GroupSpec::new(GROUP)).await?;
    }
    let published = if task.publishes() { publish(&broker).await? } else { HashSet::new() };
    match &*task.what {
        "replay" => rebuild(&broker, &task.file).await?,
        "publish" => {}
        _ => consume(&broker, &task.file, published).await?,
    }
    Ok(broker.close().await?)
}

/// Publishes what happens to some videos, and gives the ids of the messages.
async fn publish(broker: &Broker) -> anybroker::Result<HashSet<String>> {
    let mut ids = HashSet::new();
    for n in 0..140 {
        let (topic, ..) = KINDS[n % KINDS.len()];
        let event = Event { video: format!("video-{}", n % 4), user: format!("user-{}", n % 9) };
        let id = anybroker::MessageId::new().to_string();
        broker.publish(topic, &event).id(id.as_str()).await?;
        ids.insert(id);
    }
    println!("published {} events to {} topics", ids.len(), KINDS.len());
    Ok(ids)
}

/// Counts events: until a signal, or until all that were published here are counted.
async fn consume(broker: &Broker, file: &Path, expected: HashSet<String>) -> Outcome {
    let complete = watch::Sender::new(false);
    let stop = shared::stop(complete.subscribe());
    let counters = Arc::new(Mutex::new(Counters::open(file)?));
    let expected = Arc::new(Mutex::new(expected));
    println!("consuming {} topics into {}", KINDS.len(), file.display());
    let mut group = broker.group(GROUP.as_str());
    for (topic, counter, step) in KINDS {
        let (counters, expected, complete) = (counters.clone(), expected.clone(), complete.clone());
        group = group.on(topic, move |event: Event, context| {
            let counted = count(&counters, context.message(), event, counter, step);
            let mut expected = expected.lock().unwrap_or_else(PoisonError::into_inner);
            let id = context.message().id().map(ToString::to_string).unwrap_or_default();
            if counted.is_ok() && expected.remove(&id) && expected.is_empty() {
                complete.send_replace(true);
            }
            async { counted }
        });
    }
    group.run(stop).await?;
    counters.lock().unwrap_or_else(PoisonError::into_inner).print();
    Ok(())
}

fn count(
    counters: &Mutex<Counters>,
    message: &Message,
    event: Event,
    counter: &str,
    step: i64,
) -> Result<(), Failure> {
    let id = message.id().ok_or("an event without an id cannot be counted once").permanent()?;
    let mut counters = counters.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(counters.count(id.to_string(), event.video, counter, step)?)
}

/// Builds the counters from the topics alone.
async fn rebuild(broker: &Broker, file: &Path) -> Outcome {
    let new = file.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut counters = Counters::open(&new)?;
    for (topic, counter, step) in KINDS {
        let mut reading = broker.read(Read::new(topic.name())).await?;
        while let Some(delivery) = reading.next().await? {
            let message = delivery.message();
            // What cannot be decoded is in the dead letters, and was not counted before either.
            if let (Ok(event), Some(id)) = (topic.decode(message), message.id()) {
                counters.count(id.to_string(), event.video, counter, step)?;
            }
        }
    }
    counters.print();
    drop(counters);
    std::fs::rename(&new, file)?;
    println!("rebuilt {} from the topics", file.display());
    Ok(())
}

/// An event as it was counted: a line of the file.
#[derive(Serialize, Deserialize)]
struct Entry {
    id: String,
    video: String,
    counter: String,
    step: i64,
}

/// What was counted for each video, each event once. The counters are the sum of the file's lines.
struct Counters {
    file: JsonLines,
    known: HashSet<String>,
    counts: BTreeMap<(String, String), i64>,
}

impl Counters {
    fn open(path: &Path) -> std::io::Result<Self> {
        let (file, entries) = JsonLines::open::<Entry>(path)?;
        let mut counters = Self { file, known: HashSet::new(), counts: BTreeMap::new() };
        for entry in entries {
            counters.add(entry);
        }
        Ok(counters)
    }

    /// Counts an event, unless it was counted before. When it returns, it is on the disk.
    fn count(
        &mut self,
        id: String,
        video: String,
        counter: &str,
        step: i64,
    ) -> std::io::Result<()> {
        if self.known.contains(&id) {
            return Ok(());
        }
        let entry = Entry { id, video, counter: counter.to_owned(), step };
        self.file.append(&entry)?;
        self.add(entry);
        Ok(())
    }

    fn add(&mut self, Entry { id, video, counter, step }: Entry) {
        self.known.insert(id);
        *self.counts.entry((video, counter)).or_default() += step;
    }

    fn print(&self) {
        println!("counted {} events", self.known.len());
        for ((video, counter), count) in &self.counts {
            println!("  {video} {counter}: {count}");
        }
    }
}

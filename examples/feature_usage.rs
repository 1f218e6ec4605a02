//! Feature usage: validated records are published, consumed, and appended to a file, a JSON value
//! in each line.
//!
//! `cargo run --example feature_usage [publish|consume|both] [FILE]`

mod shared;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::process::ExitCode;

use anybroker::{Broker, GroupSpec, MessageId, Name, Topic};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{JsonLines, Outcome, Task};
use tokio::sync::watch;

#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
struct FeatureUsage {
    /// The record's own identity: a record that is delivered twice is two lines with one id.
    #[garde(length(min = 1))]
    id: String,
    #[garde(length(min = 1))]
    user: String,
    #[garde(length(min = 1, max = 100))]
    feature: String,
    #[garde(range(min = 1))]
    count: u32,
}

const FEATURE_USAGE: Topic<FeatureUsage> =
    Topic::new("feature_usage_topic").keyed(|usage| &usage.user);
const GROUP: Name = Name::new("zaaz-server-feature-usage-group");

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    shared::exit(run().await)
}

async fn run() -> Outcome {
    let task = Task::from_args("feature_usage.jsonl")?;
    let broker = shared::connect().await?;
    broker.create_topic(&FEATURE_USAGE.spec()).await?;
    broker.declare_group(FEATURE_USAGE.name(), &GroupSpec::new(GROUP)).await?;

    let published = if task.publish { publish(&broker).await? } else { HashSet::new() };
    if task.consume {
        consume(&broker, &task, published).await?;
    }
    Ok(broker.close().await?)
}

/// Publishes a hundred records, and gives their ids.
async fn publish(broker: &Broker) -> anybroker::Result<HashSet<String>> {
    let records: Vec<_> = (0..100)
        .map(|n| FeatureUsage {
            id: MessageId::new().to_string(),
            user: format!("user-{}", n % 10),
            feature: ["search", "export", "share"][n % 3].into(),
            count: 1,
        })
        .collect();
    for result in broker.publish_all(FEATURE_USAGE, &records).await {
        result?;
    }
    println!("published {} records to {}", records.len(), FEATURE_USAGE.name());
    Ok(records.into_iter().map(|record| record.id).collect())
}

/// Appends records to the file: until a signal, or until all that were published here are in it.
async fn consume(broker: &Broker, task: &Task, published: HashSet<String>) -> Outcome {
    let complete = watch::Sender::new(false);
    let stop = shared::stop(complete.subscribe());
    let (file, known) = JsonLines::open::<FeatureUsage>(&task.file)?;
    println!(
        "consuming {} as {GROUP} into {}, which has {} records",
        FEATURE_USAGE.name(),
        task.file.display(),
        known.len()
    );
    let (missing, stored) = (RefCell::new(published), Cell::new(0));
    broker
        .consumer(FEATURE_USAGE, GROUP.as_str())
        .concurrency(16)
        .until(stop)
        .run(async |usage, _| {
            // It is on the disk before `Ok` acknowledges the message.
            file.append(&usage)?;
            stored.set(stored.get() + 1);
            let mut missing = missing.borrow_mut();
            if missing.remove(&usage.id) && missing.is_empty() {
                complete.send_replace(true);
            }
            Ok(())
        })
        .await?;
    println!("stored {} records in {}", stored.get(), task.file.display());
    Ok(())
}

//! Feature usage: validated records are published, consumed, and appended to a file, a JSON value
//! in each line.
//!
//! `cargo run --example feature_usage [publish|consume|both|dead-letters|redrive|mishap] [FILE]`
//!
//! `mishap` shows what becomes of records that are invalid or cannot be stored: they end as dead
//! letters, and are put back when the cause is mended. The same step by step, on a real broker:
//! consume with `LARGEST=2 LOCKED=user-3`, look at `dead-letters`, `redrive`, consume without.

mod shared;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::process::ExitCode;

use anybroker::dead_letter::dead_letter_topic;
use anybroker::{Broker, GroupSpec, MessageId, Name, Retry, Topic};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{JsonLines, Outcome, Task, operator, trouble};
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
    #[garde(range(min = 1), custom(trouble::not_too_large))]
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
    let task = Task::from_args("feature_usage.jsonl", &["dead-letters", "redrive", "mishap"])?;
    trouble::from_env()?;
    let broker = shared::connect().await?;
    broker.create_topic(&FEATURE_USAGE.spec()).await?;
    broker.declare_group(FEATURE_USAGE.name(), &GroupSpec::new(GROUP)).await?;

    let dead_letters = [dead_letter_topic(FEATURE_USAGE.name(), GROUP)?];
    let published = if task.publishes() { publish(&broker).await? } else { Vec::new() };
    let consuming = consume(&broker, &task, &published);
    match &*task.what {
        "dead-letters" => operator::show(&broker, &dead_letters).await?,
        "redrive" => operator::redrive(&broker, &dead_letters).await?,
        "mishap" => {
            trouble::begin(2, "user-3");
            let refused = published.iter().filter(|r| trouble::refuses(r.count, &r.user)).count();
            operator::mend_during(consuming, &broker, &dead_letters, refused).await?;
        }
        "publish" => {}
        _ => consuming.await?,
    }
    Ok(broker.close().await?)
}

/// Publishes a hundred records.
async fn publish(broker: &Broker) -> anybroker::Result<Vec<FeatureUsage>> {
    let records: Vec<_> = (0..100)
        .map(|n| FeatureUsage {
            id: MessageId::new().to_string(),
            user: format!("user-{}", n % 10),
            feature: ["search", "export", "share"][n % 3].into(),
            count: 1 + (n % 3) as u32,
        })
        .collect();
    for result in broker.publish_all(FEATURE_USAGE, &records).await {
        result?;
    }
    println!("published {} records to {}", records.len(), FEATURE_USAGE.name());
    Ok(records)
}

/// Appends records to the file: until a signal, or until all that were published here are in it.
async fn consume(broker: &Broker, task: &Task, published: &[FeatureUsage]) -> Outcome {
    let complete = watch::Sender::new(false);
    let stop = shared::stop(complete.subscribe());
    let (file, known) = JsonLines::open::<FeatureUsage>(&task.file)?;
    println!(
        "consuming {} as {GROUP} into {}, which has {} records",
        FEATURE_USAGE.name(),
        task.file.display(),
        known.len()
    );
    let missing = published.iter().map(|record| record.id.clone()).collect::<HashSet<_>>();
    let (missing, stored) = (RefCell::new(missing), Cell::new(0));
    broker
        .consumer(FEATURE_USAGE, GROUP.as_str())
        .concurrency(16)
        .retry(Retry::exponential().attempts(3))
        .until(stop)
        .run(async |usage, _| {
            trouble::check_locked(&usage.user)?;
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

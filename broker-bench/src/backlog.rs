//! How much memory a slow consumer takes in front of a backlog.
//!
//! It runs as a process of its own, which this program starts: what publishing took is not in it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use broker_api::{BoxError, Broker, Bytes, Name, Topic};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::sleep;

use crate::Which;
use crate::contender::{Contender, GROUP, Publishing};
use crate::cost::{Latencies, peak_mib};
use crate::load::Load;

/// How long each message is worked on.
const WORK: Duration = Duration::from_millis(10);

/// How long the consumer runs; it has all that it keeps long before.
const RUNS: Duration = Duration::from_secs(4);

/// What a slow consumer took.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Slow {
    handled: usize,
    peak_mib: f64,
}

/// Consumes for a while with a handler that takes its time, and prints what it took: what the
/// process of [`measure`] does.
pub(crate) async fn consume(broker: Broker, topic: &str, handlers: usize) -> Result<(), BoxError> {
    let (topic, handled) = (Name::intern(topic)?, AtomicUsize::new(0));
    let consumer = broker.consumer(Topic::raw("any").named(topic), GROUP).concurrency(handlers);
    consumer
        .until(sleep(RUNS))
        .run(|_: Bytes, _| {
            handled.fetch_add(1, Ordering::Relaxed);
            async {
                sleep(WORK).await;
                Ok(())
            }
        })
        .await?;
    let slow = Slow { handled: handled.into_inner(), peak_mib: peak_mib()? };
    println!("{}", serde_json::to_string(&slow)?);
    Ok(())
}

/// The table of backlogs of these sizes.
pub(crate) async fn measure(
    which: Which,
    address: &str,
    publisher: &dyn Contender,
    sizes: &[usize],
    mut topic: impl FnMut() -> String,
) -> Result<String, BoxError> {
    let mut table = format!(
        "\n### {which:?}: memory of a consumer with a backlog\n\n16 B each, {WORK:?} of work, 16 at a time, for {RUNS:?}.\n\n\
         | messages waiting | handled | peak MiB |\n|---:|---:|---:|\n"
    );
    for &messages in sizes {
        let topic = topic();
        publisher.create(&topic, 6).await?;
        let load = Load { messages, payload_bytes: 16, keys: 1_000 };
        publisher.publish(&topic, load, Publishing::Pipelined, &mut Latencies::new()?).await?;
        let broker = format!("{which:?}").to_lowercase();
        let child = Command::new(std::env::current_exe()?)
            .args(["--broker", &broker, "--backlog-of", &topic])
            .envs([("KAFKA_BROKERS", address), ("RABBITMQ_URL", address)])
            .kill_on_drop(true)
            .output()
            .await?;
        let said = String::from_utf8_lossy(&child.stdout);
        let Slow { handled, peak_mib } = serde_json::from_str(&said).map_err(|error| {
            format!("the slow consumer: {error}: {}", String::from_utf8_lossy(&child.stderr))
        })?;
        if handled == 0 {
            return Err("the slow consumer handled nothing, so its memory says nothing".into());
        }
        table += &format!("| {messages} | {handled} | {peak_mib:.0} |\n");
        publisher.delete(&topic).await?;
    }
    Ok(table)
}

//! A backlog, consumed by one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use broker_api::{Bytes, GroupSpec, Message, Name, Topic, TopicSpec};
use futures_util::future::try_join_all;
use tokio::sync::Notify;

use super::{PATIENCE, Part, What};
use crate::Outcome;
use crate::subject::Subject;

const SIZES: [u64; 4] = [10_000, 100_000, 1_000_000, 2_000_000];
const BYTES: usize = 256;
const GROUP: Name = Name::new("backlog");
/// How many messages are published at a time.
const BATCH: u64 = 5_000;
/// So much more may two million need than one, in MiB. Below that more is fetched ahead the more there is.
const MORE: u64 = 16;

pub(super) async fn run(subject: &Subject) -> Outcome<String> {
    let address = subject.address();
    let broker = address.connect().await?;
    let mut said = Vec::new();
    for number in SIZES {
        let topic = format!("backlog-{number}");
        let name = Name::intern(&topic)?;
        broker.create_topic(&TopicSpec::new(name).partitions(6)).await?;
        broker.declare_group(name, &GroupSpec::new(GROUP)).await?;
        for batch in 0..number / BATCH {
            let message = |n: u64| Message::new(vec![b'x'; BYTES]).with_key((n % 100).to_string());
            let publish =
                |n| broker.publish_message(name, message(batch * BATCH + n)).into_future();
            try_join_all((0..BATCH).map(publish)).await?;
        }
        let part = Part { address: address.clone(), topic, number, what: What::Consume };
        said.push(part.done().await?);
    }
    let peaks: Vec<u64> = said.iter().map(|said| said.peak).collect();
    let rates: Vec<_> = SIZES.iter().zip(&said).collect();
    let rates =
        rates.iter().map(|(number, said)| format!("{:.0}/s", **number as f64 / said.seconds));
    let rates: Vec<_> = rates.collect();
    if peaks[3] > peaks[2] + MORE {
        return Err(format!("peaks of {peaks:?} MiB").into());
    }
    Ok(format!(
        "10,000, 100,000, 1,000,000 and 2,000,000 messages of {BYTES} B: at most {}, {}, {} and {} MiB in RAM; {}",
        peaks[0],
        peaks[1],
        peaks[2],
        peaks[3],
        rates.join(", ")
    ))
}

pub(super) async fn consume(part: &Part) -> Outcome {
    let broker = part.address.connect().await?;
    let topic: Topic<Bytes> = Topic::raw("topic").named(Name::intern(&part.topic)?);
    let (handled, all) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let (count, done, number) = (handled.clone(), all.clone(), part.number);
    let consumer = broker
        .consumer(topic, GROUP.as_str())
        .concurrency(64)
        .until(async move { all.notified().await });
    let consuming = consumer.run(move |_, _| {
        if count.fetch_add(1, Relaxed) + 1 == number {
            done.notify_one();
        }
        async { Ok(()) }
    });
    tokio::time::timeout(PATIENCE * 10, consuming).await??;
    match handled.load(Relaxed) {
        handled if handled == number => Ok(broker.close().await?),
        handled => Err(format!("{handled} of {number} were handled").into()),
    }
}

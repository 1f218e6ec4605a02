//! A publisher that has more to say than its broker takes.

use std::num::NonZeroU64;

use broker_api::{GroupSpec, Message, Name, Settings, TopicSpec};
use tokio::task::JoinSet;

use super::{PATIENCE, Part, What};
use crate::Outcome;
use crate::subject::Subject;

const BYTES: usize = 1024;
/// What a connection lets through in a second.
const RATE: NonZeroU64 = NonZeroU64::MIN.saturating_add(4 * 1024 * 1024 - 1);
/// The publish buffer.
const BUFFER: usize = 8 * 1024 * 1024;
/// How many messages are published.
const SIZES: [u64; 2] = [16 * 1024, 128 * 1024];
/// So much more may the long run need than the short one, in MiB.
const MORE: u64 = 16;

pub(super) async fn run(subject: &Subject) -> Outcome<String> {
    let address = subject.address();
    let control = address.connect().await?;
    let mut said = Vec::new();
    for number in SIZES {
        let topic = format!("flood-{number}");
        let name = Name::intern(&topic)?;
        control.create_topic(&TopicSpec::new(name).partitions(6)).await?;
        control.declare_group(name, &GroupSpec::new(Name::new("flood"))).await?;
        subject.proxy().throttle(RATE);
        let part = Part { address: address.clone(), topic, number, what: What::Flood };
        said.push(part.done().await?);
        subject.proxy().heal();
        let lag = control.lag(name, Name::new("flood")).await?;
        if lag != number {
            return Err(format!("{lag} of {number} are stored").into());
        }
    }
    let [short, long] = [&said[0], &said[1]];
    if long.peak > short.peak + MORE {
        return Err(format!("at most {} and {} MiB in RAM", short.peak, long.peak).into());
    }
    Ok(format!(
        "16 and 128 MiB in messages of 1 KiB, as fast as they are taken, through 4 MiB/s with a \
         publish buffer of 8 MiB: in {:.0} and {:.0} s, at most {} and {} MiB in RAM, all stored",
        short.seconds, long.seconds, short.peak, long.peak
    ))
}

pub(super) async fn publish(part: &Part) -> Outcome {
    let settings =
        Settings { publish_buffer_bytes: BUFFER, publish_timeout: PATIENCE, ..Settings::default() };
    let broker = part.address.connect_with(settings).await?;
    let topic = Name::intern(&part.topic)?;
    let mut confirmed = JoinSet::new();
    for n in 0..part.number {
        let message = Message::new(vec![b'x'; BYTES]).with_key((n % 100).to_string());
        confirmed.spawn(broker.publish_message(topic, message).enqueue().await?);
        while let Some(done) = confirmed.try_join_next() {
            done??;
        }
    }
    while let Some(done) = confirmed.join_next().await {
        done??;
    }
    Ok(broker.close().await?)
}

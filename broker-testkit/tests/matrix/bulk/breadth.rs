//! Many topics and groups in one process.

use broker_api::{GroupSpec, Message, Name, Subscribe, TopicSpec};
use futures_util::future::try_join_all;
use tokio::task::JoinSet;

use super::{PATIENCE, Part, What};
use crate::Outcome;
use crate::subject::Subject;

const GROUPS: u64 = 50;
/// Of each group; no two have one in common.
const TOPICS: u64 = 4;
const MESSAGES: u64 = 100;

pub(super) async fn run(subject: &Subject) -> Outcome<String> {
    let part = Part {
        address: subject.address(),
        topic: "breadth".to_owned(),
        number: GROUPS * TOPICS * MESSAGES,
        what: What::Breadth,
    };
    let number = part.number;
    let said = part.done().await?;
    Ok(format!(
        "{number} messages, each once, in {:.0} s with everything created; at most {} MiB in RAM",
        said.seconds, said.peak
    ))
}

/// A group and its topics.
fn names(group: u64) -> broker_api::Result<(Name, Vec<Name>)> {
    let topics = (0..TOPICS).map(|n| Name::intern(&format!("topic-{group}-{n}")));
    Ok((Name::intern(&format!("group-{group}"))?, topics.collect::<Result<_, _>>()?))
}

pub(super) async fn all(part: &Part) -> Outcome {
    let broker = part.address.connect().await?;
    for group in 0..GROUPS {
        let (group, topics) = names(group)?;
        for topic in topics {
            broker.create_topic(&TopicSpec::new(topic).partitions(1)).await?;
            broker.declare_group(topic, &GroupSpec::new(group)).await?;
        }
    }
    let mut groups = JoinSet::new();
    for group in 0..GROUPS {
        let broker = broker.clone();
        let (name, topics) = names(group)?;
        groups.spawn(async move {
            let spec = GroupSpec::new(name);
            let subscribe = Subscribe { topics: topics.clone(), ..Subscribe::new(topics[0], spec) };
            let mut membership = broker.subscribe(subscribe).await?;
            let publish = |n: u64| {
                let topic = topics[(n % TOPICS) as usize];
                broker.publish_message(topic, Message::new(n.to_string())).into_future()
            };
            try_join_all((0..TOPICS * MESSAGES).map(publish)).await?;
            let mut seen = vec![0; (TOPICS * MESSAGES) as usize];
            while seen.contains(&0) {
                let delivery = membership.next().await?.ok_or("the membership has ended")?;
                let number: usize = std::str::from_utf8(delivery.message().payload())?.parse()?;
                seen[number] += 1;
                delivery.ack();
            }
            membership.close().await?;
            match seen.iter().all(|seen| *seen == 1) {
                true => Outcome::Ok(()),
                false => Err("a message came twice".into()),
            }
        });
    }
    let all = async {
        while let Some(done) = groups.join_next().await {
            done??;
        }
        Outcome::Ok(())
    };
    tokio::time::timeout(PATIENCE * 5, all).await??;
    Ok(broker.close().await?)
}

//! The raw Kafka client.

mod best;
mod readme;

use std::time::Duration;

use broker_api::BoxError;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

pub(crate) use best::Best;
pub(crate) use readme::Readme;

fn base(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

async fn create(brokers: &str, topic: &str, partitions: u32) -> Result<(), BoxError> {
    let admin: AdminClient<DefaultClientContext> = base(brokers).create()?;
    let partitions = i32::try_from(partitions)?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for result in admin.create_topics([&new], &AdminOptions::new()).await? {
        result.map_err(|(topic, code)| format!("{topic}: {code}"))?;
    }
    // The broker answers before it knows the leaders.
    while admin
        .inner()
        .fetch_metadata(Some(topic), Duration::from_secs(10))?
        .topics()
        .iter()
        .any(|t| t.partitions().is_empty())
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn delete(brokers: &str, topic: &str) -> Result<(), BoxError> {
    let admin: AdminClient<DefaultClientContext> = base(brokers).create()?;
    for result in admin.delete_topics(&[topic], &AdminOptions::new()).await? {
        result.map_err(|(topic, code)| format!("{topic}: {code}"))?;
    }
    Ok(())
}

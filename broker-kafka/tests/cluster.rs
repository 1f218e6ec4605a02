//! A cluster of three nodes, which learn of a new topic one after the other: whoever has just made
//! a topic, or was told that it exists, may then ask a node that does not know it yet.
//!
//! Where Kafka is not installed the test is ignored, with the reason; with
//! `BROKER_TESTKIT_REQUIRE=1` it fails.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use broker_api::{Backend, Broker, ErrorKind, GroupSpec, Message, Name, Subscribe, TopicSpec};
use broker_kafka::{Kafka, KafkaConfig};
use broker_testkit::local::{self, LocalError};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Clients that do the same at the same time, each with connections of its own.
const CLIENTS: usize = 6;
/// How often each asks for a topic, of one node or another.
const ASKED: usize = 3;
/// Topics that all of them make, one after the other.
const TOPICS: usize = 10;
/// How much later a node learns what was decided.
const LATE: Duration = Duration::from_millis(150);

fn main() -> ExitCode {
    let Ok(runtime) = tokio::runtime::Runtime::new() else { return ExitCode::FAILURE };
    let name = "members that join at once find the topics that another one has just made";
    let trial = Trial::ignorable_test(name, move || runtime.block_on(attempt()));
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}

async fn attempt() -> Result<Completion, Failed> {
    let nodes = match local::Kafka::cluster(local::KafkaConfig::default().late(LATE), 3).await {
        Ok(nodes) => nodes,
        Err(missing @ LocalError::NotInstalled { .. })
            if std::env::var_os("BROKER_TESTKIT_REQUIRE").is_none() =>
        {
            return Ok(Completion::ignored_with(missing));
        }
        Err(error) => return Err(error.to_string().into()),
    };
    let brokers: Vec<_> = nodes.iter().map(local::Kafka::bootstrap_servers).collect();
    join_at_once(&brokers.join(",")).await.map_err(|error| error.to_string())?;
    Ok(Completion::Completed)
}

async fn join_at_once(brokers: &str) -> Outcome {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Arc::new(Kafka::connect(KafkaConfig::new(brokers)).await?));
    }
    // Only of nodes that a client is connected with it asks one after the other.
    let spread = TopicSpec::new(Name::new("spread")).partitions(12);
    clients[0].create_topic(&spread).await?;
    for client in &clients {
        for partition in 0..12 {
            let broker = Broker::new(client.clone());
            broker.publish_message(spread.name, Message::new("one")).partition(partition).await?;
        }
    }
    let mut failed = Vec::new();
    for number in 0..TOPICS {
        let topic = Name::intern(&format!("made-by-all-{number}"))?;
        let joining: Vec<_> =
            clients.iter().map(|client| tokio::spawn(join(client.clone(), topic))).collect();
        for joined in joining {
            failed.extend(joined.await?.err().map(|error| format!("{topic}: {error}")));
        }
    }
    for client in clients {
        client.close().await?;
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("{} failed: {failed:#?}", failed.len()).into()),
    }
}

/// As a consumer does it with its retry topics when it starts; and a message into it.
async fn join(client: Arc<Kafka>, topic: Name) -> Outcome {
    let group = GroupSpec::new(Name::new("group"));
    match client.create_topic(&TopicSpec::new(topic).partitions(1)).await {
        Err(error) if error.kind() == ErrorKind::TopicExists => {}
        created => created.map_err(|error| format!("creating: {error}"))?,
    }
    for _ in 0..ASKED {
        client.describe_topic(topic).await.map_err(|error| format!("describing: {error}"))?;
    }
    client.declare_group(topic, &group).await.map_err(|error| format!("declaring: {error}"))?;
    let subscribed = client.subscribe(Subscribe::new(topic, group)).await;
    let source = subscribed.map_err(|error| format!("subscribing: {error}"))?;
    let broker = Broker::new(client);
    let publishing = broker.publish_message(topic, Message::new("one"));
    publishing.await.map_err(|error| format!("publishing: {error}"))?;
    drop(source);
    Ok(())
}

//! Clusters of the launcher: what is kept on three nodes outlives any one of them, and all three together.
//!
//! One that is not installed is reported as ignored, with the reason; with `BROKER_TESTKIT_REQUIRE=1` it fails.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use broker_testkit::local::{Kafka, KafkaConfig, RabbitMq, RabbitMqConfig, RabbitMqVersion};
use futures_util::future::try_join_all;
use libtest_mimic::Arguments;

mod launched;

use launched::{Outcome, trial};

/// The topic, or queue, with a copy on each node.
const KEPT: &str = "kept";
/// Several times what a cluster takes to notice that a node is gone or back.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let named = |broker: &str| {
        format!("{broker} of three nodes survives the loss of its leader, and of all")
    };
    let trials = vec![
        trial(named("Kafka"), kafka),
        trial(named("RabbitMQ 3"), || rabbitmq(RabbitMqVersion::V3)),
        trial(named("RabbitMQ 4"), || rabbitmq(RabbitMqVersion::V4)),
    ];
    let mut arguments = Arguments::from_args();
    // Three nodes at a time are enough for a small machine.
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

async fn kafka() -> Outcome {
    let nodes = Kafka::cluster(KafkaConfig::default(), 3).await?;
    ensure(nodes.iter().map(Kafka::node_id).eq(1..=3), "not the ids 1 to 3")?;
    topics(&nodes[0], &["--create", "--topic", KEPT]).await?;
    let leader = until("three replicas in sync", async || in_sync(&nodes[0], 3).await).await?;

    let (gone, left): (Vec<_>, Vec<_>) =
        nodes.iter().partition(|node| node.node_id().to_string() == leader);
    gone[0].kill().await?;
    let next = until("two replicas in sync", async || in_sync(left[0], 2).await).await?;
    ensure(next != leader, "a node that is gone leads")?;

    gone[0].restart().await?;
    until("three replicas in sync again", async || in_sync(gone[0], 3).await).await?;

    try_join_all(nodes.iter().map(|node| node.kill())).await?;
    try_join_all(nodes.iter().map(|node| node.restart())).await?;
    until("three replicas in sync after all were gone", async || in_sync(&nodes[2], 3).await)
        .await?;
    Ok(())
}

/// The leader of the topic, if it has this many replicas in sync.
async fn in_sync(node: &Kafka, replicas: usize) -> Outcome<Option<String>> {
    let described = topics(node, &["--describe", "--topic", KEPT]).await?;
    let field = |name: &str| {
        let (_, after) = described.split_once(name)?;
        after.split_whitespace().next().map(str::to_owned)
    };
    let leader = field("Leader:").filter(|leader| leader != "none");
    let in_sync = field("Isr:").unwrap_or_default();
    Ok(leader.filter(|_| in_sync.split(',').count() == replicas))
}

async fn topics(node: &Kafka, arguments: &[&str]) -> Outcome<String> {
    Ok(node.tool("org.apache.kafka.tools.TopicCommand", arguments).await?)
}

async fn rabbitmq(version: RabbitMqVersion) -> Outcome {
    let nodes = RabbitMq::cluster(RabbitMqConfig::version(version), 3).await?;
    let queue = serde_json::json!({ "queues": [{
        "name": KEPT, "vhost": "/", "durable": true, "auto_delete": false,
        "arguments": { "x-queue-type": "quorum" },
    }]});
    std::fs::write(nodes[0].dir().join("queue.json"), queue.to_string())?;
    nodes[0].rabbitmqctl(&["import_definitions", "/instance/queue.json"]).await?;
    let leader = until("three members online", async || online(&nodes[1], 3).await).await?;

    let (gone, left): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.node_name() == leader);
    // A queue needs that long to be on disk.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    gone[0].kill().await?;
    let next = until("two members online", async || online(left[0], 2).await).await?;
    ensure(next != leader, "a node that is gone leads")?;

    gone[0].restart().await?;
    until("three members online again", async || online(gone[0], 3).await).await?;

    try_join_all(nodes.iter().map(|node| node.kill())).await?;
    try_join_all(nodes.iter().map(|node| node.restart())).await?;
    until("three members online after all were gone", async || online(&nodes[2], 3).await).await?;
    Ok(())
}

/// The leader of the queue, if this many of its members are online.
async fn online(node: &RabbitMq, members: usize) -> Outcome<Option<String>> {
    let arguments = ["list_queues", "--quiet", "--formatter", "json", "leader", "online"];
    let queues: serde_json::Value = serde_json::from_str(&node.rabbitmqctl(&arguments).await?)?;
    let online = queues[0]["online"].as_array().map_or(0, Vec::len);
    Ok(queues[0]["leader"].as_str().filter(|_| online == members).map(str::to_owned))
}

/// Asks until there is an answer.
async fn until<T>(what: &str, ask: impl AsyncFn() -> Outcome<Option<T>>) -> Outcome<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        // A cluster that is changing may answer with an error, too.
        let answer = ask().await;
        match answer {
            Ok(Some(answer)) => return Ok(answer),
            Err(error) if Instant::now() > deadline => return Err(error),
            _ => ensure(Instant::now() < deadline, &format!("not within {LIMIT:?}: {what}"))?,
        }
    }
}

fn ensure(holds: bool, otherwise: &str) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

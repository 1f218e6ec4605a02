//! How a process ends whose broker is gone for good.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use broker_api::{Broker, GroupSpec, Message, Name, Subscribe, TopicSpec};
use broker_kafka::{Kafka, KafkaConfig};
use broker_testkit::local;
use tokio::runtime::Runtime;

const WORK: Name = Name::new("work");
const MEMBERS: usize = 4;
/// For what is to happen at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// Members that have something to commit when their broker is killed, and are closed then. What the
/// runtime still does for them must not keep the process from ending: librdkafka may wait for
/// ever for the answer to a commit.
#[test]
fn a_process_ends_though_its_members_cannot_leave_their_group() {
    let runtime = Runtime::new().unwrap();
    let kafka = runtime.block_on(async {
        let kafka = local::Kafka::start(local::KafkaConfig::default()).await.unwrap();
        let config = KafkaConfig::new(kafka.bootstrap_servers());
        let broker = Broker::new(Kafka::connect(config).await.unwrap());
        broker.create_topic(&TopicSpec::new(WORK).partitions(MEMBERS as u32)).await.unwrap();
        let group = GroupSpec::new(Name::new("group"));
        let mut members = Vec::new();
        for _ in 0..MEMBERS {
            members.push(broker.subscribe(Subscribe::new(WORK, group)).await.unwrap());
        }
        for n in 0..20 * MEMBERS as u32 {
            let publish = broker.publish_message(WORK, Message::new("x"));
            publish.partition(n % MEMBERS as u32).await.unwrap();
        }
        for member in &mut members {
            member.next().await.unwrap().unwrap().ack();
        }
        kafka.kill().await.unwrap();
        // What the members could not commit is an error, or was committed just before.
        drop(broker.close().await);
        kafka
    });
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        drop(runtime);
        ended.send(())
    });
    assert!(end.recv_timeout(PATIENCE).is_ok(), "the runtime does not end");
    drop(kafka);
}

//! Members of groups on brokers that librdkafka mocks, which answer what real ones rarely do.

use std::sync::{Arc, Weak};
use std::time::Duration;

use broker_api::{GroupSpec, Name, Source as _, Subscribe};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::Task;
use crate::config::{GroupProtocol, KafkaConfig};
use crate::elsewhere::Elsewhere;
use crate::link::Link;
use crate::member::Member;
use crate::membership::Membership;
use crate::rebalance::Rebalance;

/// Joins a group whose coordinator has just changed, and wants a message of each partition.
async fn a_member_gets_everything(settings: impl Fn(KafkaConfig) -> KafkaConfig) {
    const REFUSED: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR;
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("topic", 2, 1).unwrap();
    let config = settings(KafkaConfig::new(cluster.bootstrap_servers()));
    let producer: FutureProducer = config.producer().create().unwrap();
    for partition in 0..2 {
        let record = FutureRecord::<(), _>::to("topic").partition(partition).payload("x");
        producer.send(record, Duration::from_secs(30)).await.unwrap();
    }
    cluster.request_errors(RDKafkaApiKey::OffsetFetch, &[REFUSED, REFUSED]);

    let (topic, group) = (Name::new("topic"), Name::new("group"));
    let subscribe = Subscribe::new(topic, GroupSpec::new(group));
    let link = Arc::new(Link::new());
    let member = Arc::new(Member::new(&subscribe, None, config.revoke_timeout, link.clone()));
    let context = Rebalance { member: member.clone() };
    let consumer = StreamConsumer::from_config_and_context(&config.member(group), context);
    let consumer = Elsewhere::new(consumer.unwrap());
    consumer.subscribe(&[topic.as_str()]).unwrap();
    let kip_848 = config.group_protocol == GroupProtocol::Consumer;
    let task = Task { consumer, member: member.clone(), topics: Weak::new(), kip_848 };
    tokio::spawn(task.run(None));

    let mut source = Membership { member };
    let mut partitions = Vec::new();
    while partitions.len() < 2 {
        let next = tokio::time::timeout(Duration::from_secs(30), source.next(10)).await;
        for delivery in next.expect("a partition stays silent").unwrap().unwrap() {
            partitions.push(delivery.received().partition);
            delivery.ack();
        }
    }
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 1]);
    let (_, error) = link.health();
    let (_, error) = error.expect("the coordinator refused");
    assert!(error.contains("NotCoordinator"), "{error}");
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_partition_stays_silent_when_the_coordinator_changes() {
    a_member_gets_everything(|config| config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_with_an_eager_strategy() {
    a_member_gets_everything(|c| c.property("partition.assignment.strategy", "range")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_of_kip_848() {
    let group_protocol = GroupProtocol::Consumer;
    a_member_gets_everything(|config| KafkaConfig { group_protocol, ..config }).await;
}

//! Transactions on brokers that librdkafka mocks, which answer what real ones rarely do.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use broker_api::{
    Confirm, ErrorKind, GroupSpec, Message, Name, Outgoing, Receipt, Result, Settle, Settlement,
    Source as _, Subscribe, Transactions as Grouping,
};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::Transactions;
use crate::config::KafkaConfig;
use crate::elsewhere::Elsewhere;
use crate::link::Link;
use crate::member::Member;
use crate::membership::Membership;
use crate::poll::Task;
use crate::rebalance::Rebalance;
use crate::transactor::Transactor;

const INPUT: Name = Name::new("input");
const OUTPUT: Name = Name::new("output");
const GROUP: Name = Name::new("group");
const LIMIT: Duration = Duration::from_secs(30);

type Answer = oneshot::Receiver<Result<Receipt>>;

/// A cluster with three messages, and a member that settles by transactions of all three.
async fn member() -> (MockCluster<'static, DefaultProducerContext>, Membership) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(INPUT.as_str(), 1, 1).unwrap();
    cluster.create_topic(OUTPUT.as_str(), 1, 1).unwrap();
    let config = KafkaConfig::new(cluster.bootstrap_servers());
    let producer: FutureProducer = config.producer().create().unwrap();
    for text in ["0", "1", "2"] {
        let record = FutureRecord::<(), _>::to(INPUT.as_str()).payload(text);
        producer.send(record, LIMIT).await.unwrap();
    }
    let subscribe = Subscribe::new(INPUT, GroupSpec::new(GROUP));
    let grouping = Grouping { messages: 3, wait: LIMIT };
    let link = Arc::new(Link::new());
    let member = Member::new(&subscribe, Some(grouping), config.revoke_timeout, link.clone());
    let member = Arc::new(member);
    let context = Rebalance { member: member.clone() };
    let client = config.transactional_member(GROUP);
    let consumer = StreamConsumer::from_config_and_context(&client, context).unwrap();
    let consumer = Elsewhere::new(consumer);
    consumer.subscribe(&[INPUT.as_str()]).unwrap();
    let transactor = config.transactor(GROUP);
    let transactor = tokio::task::spawn_blocking(move || Transactor::new(&transactor, link));
    let transactor = transactor.await.unwrap().unwrap();
    let transactions = Transactions::new(member.clone(), grouping, transactor);
    let task = Task { consumer, member: member.clone(), topics: Weak::new(), kip_848: false };
    tokio::spawn(task.run(Some(transactions)));
    (cluster, Membership { member })
}

/// Settles with an output.
struct With {
    inner: Arc<dyn Settle>,
    outputs: Mutex<Vec<Outgoing>>,
}

impl Settle for With {
    fn settle(&self, token: u64, settlement: Settlement) {
        let outputs = std::mem::take(&mut *self.outputs.lock().unwrap());
        self.inner.settle_with(token, settlement, outputs);
    }

    fn requeue(&self, token: u64, message: Message) {
        self.inner.requeue(token, message);
    }
}

/// Handles the three messages, the last one first, each with an output.
async fn handle(source: &mut Membership) -> Vec<Answer> {
    let mut deliveries = Vec::new();
    while deliveries.len() < 3 {
        let next = timeout(LIMIT, source.next(10)).await.expect("three messages");
        deliveries.extend(next.unwrap().expect("the source goes on"));
    }
    let mut answers = Vec::new();
    for delivery in deliveries.into_iter().rev() {
        let (sender, answer) = oneshot::channel();
        answers.push(answer);
        let outgoing = Outgoing {
            topic: OUTPUT,
            partition: Some(0),
            message: delivery.message().clone(),
            deadline: Instant::now(),
            confirm: Confirm::from_fn(|answer| drop(sender.send(answer))),
        };
        let outputs = Mutex::new(vec![outgoing]);
        delivery.map_settle(|inner| Arc::new(With { inner, outputs })).ack();
    }
    answers.reverse();
    answers
}

async fn confirmed(answers: Vec<Answer>) -> Vec<u64> {
    let mut offsets = Vec::new();
    for answer in answers {
        let receipt = timeout(LIMIT, answer).await.expect("an answer").unwrap();
        offsets.push(receipt.unwrap().offset.expect("an offset"));
    }
    offsets
}

/// The error that ends the source, and what became of the outputs.
async fn failed(mut source: Membership, answers: Vec<Answer>) -> broker_api::Error {
    let error = timeout(LIMIT, source.next(1)).await.expect("an end").unwrap_err();
    drop(source.close().await);
    for answer in answers {
        let told = timeout(LIMIT, answer).await.expect("an answer").unwrap();
        assert!(told.is_err(), "confirmed although it was not committed");
    }
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_is_committed_in_its_order() {
    let (_cluster, mut source) = member().await;
    let answers = handle(&mut source).await;
    assert_eq!(confirmed(answers).await, [0, 1, 2]);
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_aborted_is_committed_by_the_next_transaction() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION as STALE,
        RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID as UNKNOWN,
    };
    let (cluster, mut source) = member().await;
    cluster.request_errors(RDKafkaApiKey::TxnOffsetCommit, &[STALE, UNKNOWN]);
    let answers = handle(&mut source).await;
    // Twice they were written and taken back.
    let offsets = confirmed(answers).await;
    assert!(offsets.is_sorted() && offsets.len() == 3, "{offsets:?}");
    assert_eq!(source.member.health().problem, None);
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_cannot_now_is_asked_again() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS as BUSY,
        RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS as LOADING,
        RD_KAFKA_RESP_ERR_NOT_COORDINATOR as MOVED,
    };
    let (cluster, mut source) = member().await;
    cluster.request_errors(RDKafkaApiKey::AddPartitionsToTxn, &[BUSY, LOADING]);
    cluster.request_errors(RDKafkaApiKey::EndTxn, &[MOVED, LOADING]);
    let answers = handle(&mut source).await;
    assert_eq!(confirmed(answers).await.len(), 3);
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_replaced_ends_its_membership_to_be_joined_again() {
    const FENCED: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED;
    let (cluster, mut source) = member().await;
    cluster.request_errors(RDKafkaApiKey::EndTxn, &[FENCED]);
    let answers = handle(&mut source).await;
    let error = failed(source, answers).await;
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Fenced, true), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_refuses_ends_the_consumer_with_that_error() {
    const REFUSED: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    let (cluster, mut source) = member().await;
    cluster.request_errors(RDKafkaApiKey::Produce, &[REFUSED]);
    let answers = handle(&mut source).await;
    let error = failed(source, answers).await;
    assert_eq!((error.kind(), error.is_permanent()), (ErrorKind::Unauthorized, true), "{error}");
    assert!(error.to_string().contains("output"), "{error}");
}

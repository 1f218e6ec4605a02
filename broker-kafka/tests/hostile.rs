//! A hostile client on a real Kafka: what it publishes is handled as what it is or ends as a dead
//! letter, and good messages before and after are handled in order.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use broker_api::dead_letter::{Filter, dead_letter_topic};
use broker_api::{Broker, Context, GroupSpec, Name, Permanent, Result, Topic, TopicSpec};
use broker_kafka::{Kafka, KafkaConfig};
use broker_testkit::local;
use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::sync::{Mutex, MutexGuard};

const WORK: Topic<Bytes> = Topic::raw("work");
const GROUP: Name = Name::new("group");
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);
const MIB: usize = 1024 * 1024;

/// A message as somebody else writes it.
#[derive(Default, Clone)]
struct Raw {
    headers: Vec<(String, Option<Vec<u8>>)>,
    key: Option<Vec<u8>>,
}

/// What is wrong with a message, and the message without its payload.
fn hostile() -> Vec<(&'static str, Raw)> {
    let with = |headers: Vec<(&str, &[u8])>| {
        let headers =
            headers.into_iter().map(|(name, value)| (name.to_owned(), Some(value.to_vec())));
        Raw { headers: headers.collect(), key: None }
    };
    vec![
        ("a name without a byte", with(vec![("", b"x")])),
        ("the same name, null and empty", {
            let named = |value: Option<&[u8]>| ("same".to_owned(), value.map(<[u8]>::to_vec));
            Raw { headers: [None, Some(&b""[..]), None].map(named).to_vec(), key: None }
        }),
        ("10,000 headers", Raw { headers: vec![("h".to_owned(), None); 10_000], key: None }),
        ("a header of 900 KB", with(vec![("large", &vec![b'x'; 900_000])])),
        ("a header name of 100 KB", with(vec![(&"n".repeat(100_000), b"x")])),
        ("fields that are no text", {
            with(vec![
                ("message-id", b"\xff"),
                ("content-type", b"\xfe"),
                ("correlation-id", b"\xc3"),
            ])
        }),
        ("fields of 300 KB", {
            let large = vec![b'x'; 300_000];
            with(vec![("message-id", &large), ("content-type", &large), ("correlation-id", &large)])
        }),
        ("a key of 1 MB", Raw { key: Some(vec![b'k'; 1_000_000]), ..Raw::default() }),
        ("a key that is empty", Raw { key: Some(Vec::new()), ..Raw::default() }),
    ]
}

struct Client(FutureProducer);

impl Client {
    fn new(servers: &str) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers).set("compression.type", "zstd");
        config.set("message.max.bytes", "1000000000").set("linger.ms", "0");
        Self(config.create().unwrap())
    }

    async fn publish(&self, topic: &str, payload: Option<&[u8]>, raw: &Raw) {
        let headers = raw.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: value.as_deref() })
        });
        let mut record = FutureRecord::<[u8], [u8]>::to(topic).partition(0).headers(headers);
        record.payload = payload;
        record.key = raw.key.as_deref();
        self.0.send(record, PATIENCE).await.unwrap();
    }
}

/// The tests take turns: each looks at the memory of the whole process.
static TURN: Mutex<()> = Mutex::const_new(());

/// From now on the peak is that of what comes now.
fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// The most memory that this process had in RAM, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

async fn prepared() -> (MutexGuard<'static, ()>, local::Kafka, Broker, Client) {
    let turn = TURN.lock().await;
    let kafka = local::Kafka::start(local::KafkaConfig::default()).await.unwrap();
    let servers = kafka.bootstrap_servers();
    let broker = Broker::new(Kafka::connect(KafkaConfig::new(servers)).await.unwrap());
    broker.create_topic(&TopicSpec::new(WORK.name()).partitions(1)).await.unwrap();
    broker.declare_group(WORK.name(), &GroupSpec::new(GROUP)).await.unwrap();
    let client = Client::new(servers);
    (turn, kafka, broker, client)
}

/// Handles everything up to the message "the end": what begins with "bad" fails. Gives the beginnings
/// of the payloads that were handled, in order, and how it ended.
async fn consumed(broker: &Broker) -> (Vec<String>, Result<()>) {
    let handled = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (seen, end) = (handled.clone(), Arc::new(tokio::sync::Notify::new()));
    let ended = end.clone();
    let consumer = broker.consumer(WORK, "group").until(async move { ended.notified().await });
    let consuming = consumer.run(move |payload: Bytes, _: Context| {
        let (seen, end) = (seen.clone(), end.clone());
        async move {
            let text = payload.iter().take(100).take_while(|byte| **byte != 0);
            let text = String::from_utf8(text.copied().collect())?;
            if text.starts_with("bad") {
                return Err(text).permanent();
            }
            if text == "the end" {
                end.notify_one();
            }
            seen.lock().unwrap().push(text);
            Ok(())
        }
    });
    let ended = tokio::time::timeout(PATIENCE, consuming).await;
    let handled = std::mem::take(&mut *handled.lock().unwrap());
    let last = handled.last();
    let ended = ended.unwrap_or_else(|_| panic!("after {last:?}: {:?}", broker.health()));
    (handled, ended)
}

/// The same where nothing is left.
async fn handled(broker: &Broker) -> Vec<String> {
    let (handled, ended) = consumed(broker).await;
    ended.unwrap_or_else(|error| panic!("after {:?}: {error:?}", handled.last()));
    assert_eq!(broker.lag(WORK.name(), GROUP).await.unwrap(), 0);
    handled
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_messages_are_survived() {
    let (_turn, _kafka, broker, client) = prepared().await;
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (what, raw) in hostile() {
        for (text, raw) in [
            (format!("proper, before {what}"), &Raw::default()),
            (format!("bad: {what}"), &raw),
            (format!("with {what}"), &raw),
        ] {
            client.publish("work", Some(text.as_bytes()), raw).await;
            if text.starts_with("bad") { bad.push(text) } else { good.push(text) }
        }
    }
    // What deletes a key of a compacted topic.
    client.publish("work", None, &Raw { key: Some(b"k".to_vec()), ..Raw::default() }).await;
    client.publish("work", Some(b""), &Raw::default()).await;
    client.publish("work", Some(b"the end"), &Raw::default()).await;
    good.extend(["", "", "the end"].map(str::to_owned));
    let handled = handled(&broker).await;
    // Only within a key there is an order.
    let keyless = |all: &[String]| {
        let keyless = all.iter().filter(|text| !text.starts_with("with a key")).cloned();
        keyless.collect::<Vec<_>>()
    };
    assert_eq!(keyless(&handled), keyless(&good));
    assert_eq!(handled.iter().collect::<BTreeSet<_>>(), good.iter().collect());
    assert_eq!(handled.len(), good.len());

    let letters = broker.dead_letters(dead_letter_topic(WORK.name(), GROUP).unwrap());
    let letters = letters.list(&Filter::default()).await.unwrap();
    let payloads: Vec<_> =
        letters.iter().map(|letter| String::from_utf8_lossy(letter.message.payload())).collect();
    assert_eq!(payloads, bad);
    for (letter, (what, raw)) in letters.iter().zip(hostile()) {
        assert_eq!(letter.kind.as_deref(), Some("Handler"), "{what}");
        assert_eq!(letter.left_out, None, "{what}");
        assert_eq!(letter.message.key().map(|key| key.to_vec()), raw.key, "{what}");
    }
    broker.close().await.unwrap();
}

/// Compressed to some kilobytes each, which is all that the broker's limits see. librdkafka takes apart
/// everything that it has fetched, and what is in hand is copied.
#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_survived() {
    const BOMBS: usize = 4;
    const SIZE: usize = 50 * MIB;
    const GROWTH: usize = 2 * BOMBS * SIZE;
    let (_turn, _kafka, broker, client) = prepared().await;
    let mut bomb = vec![0; SIZE];
    let mut publish = async |text: &str| {
        bomb[..10].fill(0);
        bomb[..text.len()].copy_from_slice(text.as_bytes());
        client.publish("work", Some(&bomb), &Raw::default()).await;
    };
    for _ in 0..BOMBS / 2 {
        publish("bad").await;
        publish("good").await;
    }
    client.publish("work", Some(b"the end"), &Raw::default()).await;
    drop(bomb);
    forget_peak();
    let before = peak();
    assert_eq!(handled(&broker).await, ["good", "good", "the end"]);
    let grown = peak() - before;
    assert!(grown < GROWTH, "grown by {grown} bytes");
    let letters = broker.dead_letters(dead_letter_topic(WORK.name(), GROUP).unwrap());
    let letters = letters.list(&Filter::default()).await.unwrap();
    assert_eq!(letters.len(), BOMBS / 2);
    for letter in letters {
        assert_eq!(letter.left_out, Some(format!("payload of {SIZE} bytes")));
        assert!(letter.offset.is_some(), "where the whole message is: {letter:?}");
    }
    broker.close().await.unwrap();
}

/// More than librdkafka takes apart: `receive.message.max.bytes`.
#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_that_is_too_large_is_told() {
    let (_turn, kafka, broker, client) = prepared().await;
    client.publish("work", Some(b"first"), &Raw::default()).await;
    client.publish("work", Some(&vec![0; 150 * MIB]), &Raw::default()).await;
    client.publish("work", Some(b"the end"), &Raw::default()).await;
    let (handled, ended) = consumed(&broker).await;
    assert_eq!(handled, ["first"]);
    let error = ended.unwrap_err();
    assert!(
        error.is_permanent() && error.message().contains("receive.message.max.bytes"),
        "{error}"
    );
    assert_eq!(broker.lag(WORK.name(), GROUP).await.unwrap(), 2);
    broker.close().await.unwrap();

    // As the error says.
    let config = KafkaConfig::new(kafka.bootstrap_servers());
    let config = config.property("receive.message.max.bytes", "200000000");
    let broker = Broker::new(Kafka::connect(config).await.unwrap());
    assert_eq!(self::handled(&broker).await, ["", "the end"]);
    broker.close().await.unwrap();
}

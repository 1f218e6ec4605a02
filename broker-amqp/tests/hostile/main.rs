//! A hostile client on a real RabbitMQ: what it publishes is handled as what it is or ends as a dead
//! letter, and good messages before and after are handled in order.
#![allow(clippy::unwrap_used, missing_docs)]

mod raw;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker_amqp::{Amqp, AmqpConfig};
use broker_api::dead_letter::{Filter, dead_letter_topic};
use broker_api::{Broker, GroupSpec, Name, Permanent, Topic, TopicSpec};
use broker_testkit::local::{RabbitMq, RabbitMqConfig, RabbitMqVersion};
use bytes::Bytes;

use raw::{Raw, arrays, entry, publish, tables, text};

const WORK: Topic<Bytes> = Topic::raw("work");
const GROUP: Name = Name::new("group");
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Less than this is what the process has grown by in the end.
const GROWTH: u64 = 128 * 1024 * 1024;

/// What is wrong with a message, and the message without its payload.
fn hostile() -> Vec<(&'static str, Raw)> {
    let with = |entries| Raw { entries, ..Raw::default() };
    let one = |name: &[u8], value: &[u8]| with(entry(name, value));
    let many = |number: u32| {
        let entries = (0..number).map(|n| entry(format!("{n:x}").as_bytes(), b"V"));
        with(entries.collect::<Vec<_>>().concat())
    };
    // A layout whose only header is arrays in arrays.
    let layout = [b"\xff\xff\x01n", &arrays(15_000)[..]].concat();
    let copies = [b"A", &6_u32.to_be_bytes()[..], &text(b"0")].concat();
    vec![
        ("a name without a byte", one(b"", &text(b"x"))),
        ("a name that is not UTF-8", one(b"\xff\xfe", &text(b"x"))),
        ("two names that are the same as text", {
            with([entry(b"\xff", &text(b"x")), entry(b"\xfe", &text(b"y"))].concat())
        }),
        ("an id that is not UTF-8", Raw { id: b"\xff".to_vec(), ..Raw::default() }),
        ("an id of 255 bytes that end within a letter", {
            Raw { id: [&b"i".repeat(254)[..], b"\xc3"].concat(), ..Raw::default() }
        }),
        ("a routing key that is not UTF-8", {
            Raw { routing_key: b"\xff".to_vec(), ..one(b"CC", &copies) }
        }),
        ("arrays in arrays", one(b"deep", &arrays(24_000))),
        ("tables in tables", one(b"deep", &tables(16_000))),
        ("arrays in arrays in a layout", one(b"x-broker-headers", &text(&layout))),
        ("a header of 100 KB", one(b"large", &text(&[b'x'; 100_000]))),
        ("headers that fill the frame", one(b"large", &text(&[b'x'; 130_800]))),
        ("12,000 headers", many(12_000)),
        ("a name that is there twice", with(entry(b"twice", &text(b"x")).repeat(2))),
        ("a partition that is not there", one(b"x-broker-partition", b"l\x7f\0\0\0\0\0\0\0")),
        ("a mark of our own", one(b"x-broker-mark", &text(b"end-of-history"))),
        ("a key that is a table", one(b"x-broker-key", &tables(3))),
        ("a time before 1970", one(b"timestamp_in_ms", b"l\x80\0\0\0\0\0\0\0")),
        ("returns without number", one(b"x-delivery-count", b"l\x7f\xff\xff\xff\xff\xff\xff\xff")),
    ]
}

/// What of the memory of this process is in RAM, in bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

async fn survives(version: RabbitMqVersion) {
    let rabbitmq = RabbitMq::start(RabbitMqConfig::version(version)).await.unwrap();
    let url = rabbitmq.amqp_url();
    let broker = Broker::new(Amqp::connect(AmqpConfig::new(&url)).await.unwrap());
    broker.create_topic(&TopicSpec::new(WORK.name()).partitions(1)).await.unwrap();
    broker.declare_group(WORK.name(), &GroupSpec::new(GROUP)).await.unwrap();
    let before = resident();

    let (mut messages, mut good, mut bad) = (Vec::new(), Vec::new(), Vec::new());
    for (what, message) in hostile() {
        for (text, message) in [
            (format!("proper, before {what}"), Raw::default()),
            (format!("bad: {what}"), message.clone()),
            (format!("with {what}"), message),
        ] {
            messages.push(Raw { payload: text.clone().into_bytes(), ..message });
            if text.starts_with("bad") { bad.push(text) } else { good.push(text) }
        }
    }
    messages.push(Raw { payload: b"the end".to_vec(), ..Raw::default() });
    good.push("the end".to_owned());
    publish(&url, "work", messages).await;

    let handled = Arc::new(Mutex::new(Vec::new()));
    let (seen, end) = (handled.clone(), Arc::new(tokio::sync::Notify::new()));
    let ended = end.clone();
    let consumer = broker.consumer(WORK, "group").until(async move { ended.notified().await });
    let consuming = consumer.run(move |payload: Bytes, _| {
        let (seen, end) = (seen.clone(), end.clone());
        async move {
            let text = String::from_utf8(payload.to_vec())?;
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
    ended
        .unwrap_or_else(|_| panic!("after {last:?}: {:?}", broker.health()))
        .unwrap_or_else(|error| panic!("after {last:?}: {error:?}"));
    assert_eq!(handled, good);
    let letters = broker.dead_letters(dead_letter_topic(WORK.name(), GROUP).unwrap());
    let letters = letters.list(&Filter::default()).await.unwrap();
    let payloads: Vec<_> =
        letters.iter().map(|letter| String::from_utf8_lossy(letter.message.payload())).collect();
    assert_eq!(payloads, bad);
    for letter in &letters {
        assert_eq!(letter.kind.as_deref(), Some("Handler"));
        assert!(letter.error.as_deref().unwrap().contains("bad: "), "{letter:?}");
        // With what is added to them these have no room in a frame.
        let payload = String::from_utf8_lossy(letter.message.payload());
        let large = payload.contains("fill the frame") || payload.contains("12,000");
        assert_eq!(letter.left_out.is_some(), large, "{payload}: {:?}", letter.left_out);
    }
    let lag = broker.lag(WORK.name(), GROUP).await.unwrap();
    assert_eq!(lag, 0);
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH, "grown by {grown} bytes");
    broker.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_messages_are_survived_on_rabbitmq_4() {
    survives(RabbitMqVersion::V4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_messages_are_survived_on_rabbitmq_3() {
    survives(RabbitMqVersion::V3).await;
}

/// What waits is moved from topic to topic, each time through this crate, which takes nothing so large.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_to_be_moved_on_by_schedulers_becomes_a_dead_letter() {
    let rabbitmq = RabbitMq::start(RabbitMqConfig::default()).await.unwrap();
    let url = rabbitmq.amqp_url();
    let broker = Broker::new(Amqp::connect(AmqpConfig::new(&url)).await.unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let scheduler = broker.scheduler().until(async { drop(stopped.await) });
    let scheduler = tokio::spawn(scheduler.run());
    let base = broker_api::Settings::default().scheduled;
    let letters = Name::intern(&format!("{base}.scheduler.dlt")).unwrap();
    let pause = Duration::from_millis(50);
    let dead = async {
        while broker.describe_topic(letters).await.is_err() {
            tokio::time::sleep(pause).await;
        }
        let large = Raw { payload: vec![b'x'; 3 * 1024 * 1024], ..Raw::default() };
        publish(&url, &format!("{base}.10s"), vec![large]).await;
        loop {
            let listed = broker.dead_letters(letters).list(&Filter::default()).await.unwrap();
            if !listed.is_empty() {
                break listed;
            }
            tokio::time::sleep(pause).await;
        }
    };
    let dead = tokio::time::timeout(PATIENCE, dead).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert!(dead[0].left_out.as_deref().unwrap().contains("payload"), "{:?}", dead[0]);
    drop(stop);
    scheduler.await.unwrap().unwrap();
    broker.close().await.unwrap();
}

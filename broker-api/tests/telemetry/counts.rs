//! Metrics, through the debugging recorder of `metrics-util`.

use std::cell::Cell;
use std::future::pending;
use std::time::Duration;

use broker_api::dead_letter::{Filter, Pace, dead_letter_topic};
use broker_api::{
    Broker, GroupSpec, Memory, Message, Name, Permanent, Retry, TopicSpec, Unprocessable,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::time::{Instant, sleep};

use super::{GROUP, OUT, WORK, broker, in_the_end, paused};

const SECOND: Duration = Duration::from_secs(1);

/// Runs a test whose metrics are recorded.
fn recorded<F: Future>(test: impl FnOnce(Snapshotter) -> F) -> F::Output {
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    paused(test(recorder.snapshotter()))
}

/// All metrics that are not 0 and whose name begins so, in order: a histogram as the number of its
/// values. After this all are 0, the gauges too.
fn told(snapshotter: &Snapshotter, prefix: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, unit, about, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        assert!(unit.is_some() && about.is_some(), "{} is not described", key.name());
        let value = match value {
            DebugValue::Counter(count) => count.to_string(),
            DebugValue::Gauge(level) => level.to_string(),
            DebugValue::Histogram(values) => values.len().to_string(),
        };
        let label = |name| key.labels().find(|label| label.key() == name).map(|l| l.value());
        assert_eq!(label("messaging.system"), Some("memory"), "{}", key.name());
        let labels: Vec<_> = [
            "messaging.destination.name",
            "messaging.consumer.group.name",
            "messaging.operation.name",
            "messaging.operation.type",
            "anybroker.retry.kind",
            "error.type",
        ]
        .into_iter()
        .filter_map(label)
        .collect();
        assert_eq!(labels.len() + 1, key.labels().len(), "{key}");
        if value != "0" && key.name().starts_with(prefix) {
            lines.push(format!("{} {}: {value}", key.name(), labels.join(" ")));
        }
    }
    lines.sort();
    lines
}

async fn publish(broker: &Broker, values: &[&str]) {
    for value in values {
        broker.publish(WORK, &(*value).to_owned()).await.unwrap();
    }
}

#[test]
fn publishes_are_counted_by_what_became_of_them() {
    recorded(|metrics| async move {
        let broker = Broker::new(Memory::new());
        let spec = TopicSpec::new(WORK.name()).partitions(1).max_message_bytes(100);
        broker.create_topic(&spec).await.unwrap();
        publish(&broker, &["1", "2", "3"]).await;
        // Refused by the backend, and refused before.
        let large = "x".repeat(200);
        broker.publish(WORK, &large).await.unwrap_err();
        broker.publish(WORK, &large).header("", "a name that is none").await.unwrap_err();
        broker.publish(OUT, &large).await.unwrap_err();
        assert_eq!(
            told(&metrics, ""),
            [
                "messaging.client.operation.duration out send send UnknownTopic: 1",
                "messaging.client.operation.duration work send send InvalidName: 1",
                "messaging.client.operation.duration work send send TooLarge: 1",
                "messaging.client.operation.duration work send send: 3",
                "messaging.client.sent.messages out send UnknownTopic: 1",
                "messaging.client.sent.messages work send TooLarge: 1",
                "messaging.client.sent.messages work send: 3",
            ]
        );
    });
}

#[test]
fn a_publish_is_in_flight_until_it_is_answered() {
    recorded(|metrics| async move {
        let broker = Broker::new(Memory::with_limit(1_000));
        broker.create_topic(&WORK.spec().partitions(1)).await.unwrap();
        broker.declare_group(WORK.name(), &GroupSpec::new(Name::new(GROUP))).await.unwrap();
        // Room for one of the two, until somebody takes it.
        let value = "x".repeat(600);
        broker.publish(WORK, &value).await.unwrap();
        let second = broker.publish(WORK, &value).timeout(5 * SECOND).enqueue().await.unwrap();
        let in_flight = "anybroker.publisher.in_flight";
        assert_eq!(told(&metrics, in_flight), ["anybroker.publisher.in_flight work: 1"]);
        let began = Instant::now();
        second.await.unwrap_err();
        assert_eq!(began.elapsed(), 5 * SECOND);
        assert_eq!(told(&metrics, in_flight), ["anybroker.publisher.in_flight work: -1"]);
    });
}

#[test]
fn every_failure_and_what_followed_is_counted_once() {
    recorded(|metrics| async move {
        let broker = broker().await;
        publish(&broker, &["at once", "second", "delayed", "never", "permanent"]).await;
        broker.publish_message(WORK.name(), Message::new("no JSON")).await.unwrap();
        let handler = |value: String, context: broker_api::Context| async move {
            match (value.as_str(), context.attempt()) {
                ("at once", _) | ("second", 2) | ("delayed", 3) => Ok(()),
                ("permanent", _) => Err("for good").permanent(),
                ("never", 3) => panic!("a panic that the case wants"),
                _ => Err("not now".into()),
            }
        };
        let retry = Retry::exponential().attempts(2).delays([10 * SECOND]);
        let consumer = broker.consumer(WORK, GROUP).retry(retry).until(in_the_end());
        consumer.run(handler).await.unwrap();
        assert_eq!(
            told(&metrics, ""),
            [
                "anybroker.consumer.dead_letters work group Codec: 1",
                "anybroker.consumer.dead_letters work group Handler: 2",
                "anybroker.consumer.failures work group Codec: 1",
                // 1 of "second", 2 of "delayed", 4 of "never", 1 for good.
                "anybroker.consumer.failures work group Handler: 8",
                "anybroker.consumer.retries work group delayed: 2",
                "anybroker.consumer.retries work group immediate: 4",
                "messaging.client.consumed.messages work group receive: 6",
                "messaging.client.consumed.messages work.group.retry.10s group receive: 2",
                "messaging.client.operation.duration work send send: 6",
                "messaging.client.operation.duration work.group.dlt send send: 3",
                "messaging.client.operation.duration work.group.retry.10s send send: 2",
                "messaging.client.sent.messages work send: 6",
                "messaging.client.sent.messages work.group.dlt send: 3",
                "messaging.client.sent.messages work.group.retry.10s send: 2",
                "messaging.process.duration work group process Handler: 8",
                "messaging.process.duration work group process: 3",
            ]
        );

        // Put back, they are handled again: a dead letter of the first group of metrics each.
        let letters =
            broker.dead_letters(dead_letter_topic(WORK.name(), Name::new(GROUP)).unwrap());
        letters.redrive(&Filter::default(), Pace::Unlimited).await.unwrap();
        let consumer = broker.consumer(WORK, GROUP).until(in_the_end());
        consumer.run(|_, _| async { Ok(()) }).await.unwrap();
        assert_eq!(
            told(&metrics, "anybroker.consumer"),
            [
                "anybroker.consumer.dead_letters work group Codec: 1",
                "anybroker.consumer.failures work group Codec: 1",
            ]
        );
    });
}

#[test]
fn a_message_that_is_discarded_is_counted_as_that() {
    recorded(|metrics| async move {
        let broker = broker().await;
        publish(&broker, &["x"]).await;
        let consumer = broker.consumer(WORK, GROUP).until(in_the_end()).retry(Retry::none());
        let consumer = consumer.unprocessable(Unprocessable::Discard);
        consumer.run(|_, _| async { Err("no".into()) }).await.unwrap();
        assert_eq!(
            told(&metrics, "anybroker.consumer"),
            [
                "anybroker.consumer.discards work group Handler: 1",
                "anybroker.consumer.failures work group Handler: 1",
            ]
        );
    });
}

#[test]
fn in_a_batch_each_message_counts_and_the_call_once() {
    recorded(|metrics| async move {
        let broker = broker().await;
        for value in ["a", "fails", "behind it"] {
            let publish = broker.publish(WORK, &value.to_owned());
            publish.key(if value == "a" { "1" } else { "2" }).await.unwrap();
        }
        let consumer = broker.consumer(WORK, GROUP).until(in_the_end());
        let calls = Cell::new(0);
        let handler = |batch: Vec<(String, broker_api::Context)>| {
            calls.set(calls.get() + 1);
            async move {
                let first =
                    |(value, context): (String, broker_api::Context)| match context.attempt() {
                        1 if value != "a" => Err("not now".into()),
                        _ => Ok(()),
                    };
                batch.into_iter().map(first).collect()
            }
        };
        consumer.batches(3, SECOND).run(handler).await.unwrap();
        assert_eq!(calls.get(), 2);
        assert_eq!(
            told(&metrics, "anybroker.consumer"),
            [
                // The one behind it is not asked what it says: it comes again in any case.
                "anybroker.consumer.failures work group Handler: 1",
                "anybroker.consumer.retries work group immediate: 1",
            ]
        );
    });
}

#[test]
fn messages_are_in_flight_until_they_are_settled_or_handed_back() {
    recorded(|metrics| async move {
        let broker = broker().await;
        publish(&broker, &["1", "2", "3"]).await;
        let in_flight = "anybroker.consumer.in_flight";
        let consumer = broker.consumer(WORK, GROUP).concurrency(2).until(in_the_end());
        let running = consumer.run(|_, _| async {
            pending::<()>().await;
            Ok(())
        });
        // Two are being handled, one waits for its turn.
        assert!(tokio::time::timeout(SECOND, running).await.is_err());
        assert_eq!(told(&metrics, in_flight), Vec::<String>::new(), "what was dropped is back");

        let ended = Cell::new(0);
        let handler = |_, _| async {
            sleep(5 * SECOND).await;
            ended.set(ended.get() + 1);
            Ok(())
        };
        let consumer = broker.consumer(WORK, GROUP).concurrency(2).until(in_the_end());
        let look = async {
            sleep(SECOND).await;
            assert_eq!(told(&metrics, in_flight), ["anybroker.consumer.in_flight work group: 3"]);
            sleep(5 * SECOND).await;
            assert_eq!(told(&metrics, in_flight), ["anybroker.consumer.in_flight work group: -2"]);
        };
        let (ran, ()) = tokio::join!(consumer.run(handler), look);
        ran.unwrap();
        assert_eq!(told(&metrics, in_flight), ["anybroker.consumer.in_flight work group: -1"]);
        assert_eq!(ended.get(), 3);
    });
}

#[test]
fn the_lag_is_what_the_group_has_not_settled() {
    recorded(|metrics| async move {
        let broker = broker().await;
        let (topic, group) = (WORK.name(), Name::new(GROUP));
        assert_eq!(broker.lag(topic, group).await.unwrap(), 0, "there is no such group");
        broker.declare_group(topic, &GroupSpec::new(group)).await.unwrap();
        publish(&broker, &["1", "2", "3"]).await;
        let consumer = broker.consumer(WORK, GROUP).until(in_the_end());
        let look = async {
            for settled in [0, 1, 2] {
                sleep(SECOND).await;
                let lag = 3 - settled;
                let line = format!("anybroker.consumer.lag work group: {lag}");
                assert_eq!(told(&metrics, "anybroker.consumer.lag"), [line]);
                assert_eq!(broker.lag(topic, group).await.unwrap(), lag);
                sleep(14 * SECOND).await;
            }
        };
        // Each is settled a moment before the next look.
        let handler = |_, _| async {
            sleep(14 * SECOND).await;
            Ok(())
        };
        let (ran, ()) = tokio::join!(consumer.run(handler), look);
        ran.unwrap();
        assert_eq!(broker.lag(topic, group).await.unwrap(), 0);
        // Whoever does not consume any more does not ask any more.
        publish(&broker, &["4"]).await;
        told(&metrics, "");
        sleep(60 * SECOND).await;
        assert_eq!(told(&metrics, "anybroker.consumer.lag"), Vec::<String>::new());
    });
}

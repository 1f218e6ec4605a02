//! What is told over HTTP of a broker's health. That health itself tells the truth on every broker is shown by the
//! conformance suite.

#![allow(clippy::unwrap_used)]

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use anybroker::consumer::Unprocessable;
use anybroker::{Broker, Memory, Message, Permanent, Settings, Topic, health_routes};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::Request;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const EVENTS: Topic<Bytes> = Topic::raw("events");

/// A broker with one message, for which one in hand for a millisecond is stuck.
async fn broker() -> Broker {
    let settings = Settings { stuck_after: Duration::from_millis(1), ..Settings::default() };
    let broker = Broker::with_settings(Arc::new(Memory::default()), settings);
    broker.create_topic(&EVENTS.spec()).await.unwrap();
    broker.publish_message(EVENTS.name(), Message::new("one")).await.unwrap();
    broker
}

/// Runs a consumer that fails for good at the first message, or hangs in it.
fn consume(broker: &Broker, hangs: bool) -> JoinHandle<anybroker::Result<()>> {
    let consumer = broker.consumer(EVENTS, "group").unprocessable(Unprocessable::Stop);
    tokio::spawn(consumer.run(move |_, _| async move {
        match hangs {
            true => pending().await,
            false => Err("no such wallet").permanent(),
        }
    }))
}

fn routes(broker: &Broker) -> Router {
    health_routes([("memory", broker.clone())])
}

/// The status and the body of an answer.
async fn ask(routes: &mut Router, path: &str) -> (u16, Value) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let answer = tower_service::Service::call(routes, request).await.unwrap();
    let status = answer.status().as_u16();
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

/// Asks until the answer has this status.
async fn ask_until(routes: &mut Router, path: &str, wanted: u16) -> Value {
    let asking = async {
        loop {
            let (status, body) = ask(routes, path).await;
            if status == wanted {
                return body;
            }
            tokio::task::yield_now().await;
        }
    };
    let asked = tokio::time::timeout(Duration::from_secs(30), asking).await;
    asked.unwrap_or_else(|_| panic!("{path} never answered with {wanted}"))
}

#[tokio::test]
async fn a_broker_that_works_is_up_in_all_answers() {
    let broker = broker().await;
    let mut routes = routes(&broker);
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(ask(&mut routes, path).await, (200, json!({ "status": "UP" })), "{path}");
    }
    let memory = json!({
        "status": "UP", "connection": { "state": "up" }, "consumers": [], "lost": [], "lastError": null,
    });
    assert_eq!(ask(&mut routes, "/health/memory").await, (200, memory.clone()));
    let all = json!({ "status": "UP", "brokers": { "memory": memory } });
    assert_eq!(ask(&mut routes, "/health").await, (200, all));
    let (status, body) = ask(&mut routes, "/health/kafka/stats").await;
    assert_eq!((status, &body["brokers"]), (404, &json!(["memory"])), "{body}");
}

#[tokio::test]
async fn a_message_too_long_in_hand_is_told_until_its_consumer_stops() {
    let broker = broker().await;
    let mut routes = routes(&broker);
    let consumer = consume(&broker, true);
    ask_until(&mut routes, "/health/live", 503).await;
    assert_eq!(ask(&mut routes, "/health/ready").await.0, 503);
    let (status, body) = ask(&mut routes, "/health/memory").await;
    let lost = &body["lost"][0];
    let named = (&lost["topic"], &lost["group"], &lost["status"]);
    assert_eq!(named, (&json!("events"), &json!("group"), &json!("DOWN")), "{body}");
    assert!(status == 503 && lost["problem"].as_str().unwrap().contains("in hand"), "{body}");
    let (status, body) = ask(&mut routes, "/health/memory/stats").await;
    let lag = json!([{ "topic": "events", "group": "group", "lag": { "messages": 1 } }]);
    assert_eq!((status, &body["consumers"]), (200, &lag));
    let numbers = (&body["published"], &body["consumed"], &body["failures"]);
    assert_eq!(numbers, (&json!(1), &json!(1), &json!(0)));
    consumer.abort();
    assert!(consumer.await.unwrap_err().is_cancelled());
    assert_eq!(ask(&mut routes, "/health/live").await.0, 200);
}

#[tokio::test]
async fn a_consumer_that_failed_is_told_until_another_takes_its_place() {
    let broker = broker().await;
    let mut routes = routes(&broker);
    consume(&broker, false).await.unwrap().unwrap_err();
    let (status, body) = ask(&mut routes, "/health").await;
    let problem = &body["brokers"]["memory"]["lost"][0]["problem"];
    assert!(status == 503 && problem.as_str().unwrap().contains("no such wallet"), "{body}");
    assert_eq!(ask(&mut routes, "/health/live").await.0, 503);
    let (_, body) = ask(&mut routes, "/health/memory/stats").await;
    assert_eq!(body["failures"], json!(1));

    // The message came back to the group, and hangs in its hands; the failure is told no more.
    let next = consume(&broker, true);
    let told = async {
        loop {
            let (_, body) = ask(&mut routes, "/health/memory").await;
            if body["lost"][0]["problem"].as_str().is_some_and(|text| text.contains("in hand")) {
                return body["lost"].as_array().unwrap().len();
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), told).await, Ok(1));
    next.abort();
    assert!(next.await.unwrap_err().is_cancelled());
    broker.close().await.unwrap();
    let (status, body) = ask(&mut routes, "/health/memory").await;
    assert_eq!((status, &body["connection"]["state"]), (503, &json!("closed")));
}

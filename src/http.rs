//! Health over HTTP, for probes and for people.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use broker_api::{Broker, Connection, ConsumerHealth, Health};
use serde_json::{Value, json};

/// How long the broker may take to say how much a group has to do.
const LAG_LIMIT: Duration = Duration::from_secs(5);

type Brokers = Arc<BTreeMap<String, Broker>>;

/// Routes that tell the health of these brokers, each under a name; with the feature `axum`.
///
/// | `GET` | 200 if | tells |
/// |---|---|---|
/// | `/health` | all are up ([`Health::is_up`]) | all of it |
/// | `/health/ready` | all are up | the status: for a readiness probe |
/// | `/health/live` | none needs a restart ([`Health::is_live`]) | the status: for a liveness probe |
/// | `/health/{broker}` | that broker is up | its connection, consumers and last error |
/// | `/health/{broker}/stats` | there is such a broker | its [`Stats`](crate::Stats), and the lag of each of its consumers |
///
/// Otherwise the status is 503, and 404 for a name that there is not. All answers are JSON. Only
/// the stats ask the broker. No answer has a secret in it, but addresses and the names of topics
/// are there: serve them where only those can ask who may know.
///
/// A broker named `live` or `ready` has no routes of its own.
///
/// ```
/// # fn routes(broker: anybroker::Broker) -> axum::Router {
/// // To be merged with the routes of the application, and served by `axum::serve`.
/// anybroker::health_routes([(broker.system(), broker.clone())])
/// # }
/// ```
pub fn health_routes<N: Into<String>>(brokers: impl IntoIterator<Item = (N, Broker)>) -> Router {
    let brokers = brokers.into_iter().map(|(name, broker)| (name.into(), broker)).collect();
    Router::new()
        .route("/health", get(all))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/health/{broker}", get(one))
        .route("/health/{broker}/stats", get(stats))
        .with_state(Brokers::new(brokers))
}

async fn all(State(brokers): State<Brokers>) -> Response {
    let health: Vec<_> = brokers.iter().map(|(name, broker)| (name, broker.health())).collect();
    let up = health.iter().all(|(_, health)| health.is_up());
    let each = health.iter().map(|(name, health)| ((*name).clone(), report(health)));
    let each = Value::Object(each.collect());
    answer(up, json!({ "status": status(up), "brokers": each }))
}

async fn live(State(brokers): State<Brokers>) -> Response {
    let live = brokers.values().all(|broker| broker.health().is_live());
    answer(live, json!({ "status": status(live) }))
}

async fn ready(State(brokers): State<Brokers>) -> Response {
    let up = brokers.values().all(|broker| broker.health().is_up());
    answer(up, json!({ "status": status(up) }))
}

async fn one(State(brokers): State<Brokers>, Path(name): Path<String>) -> Response {
    match brokers.get(&name).map(Broker::health) {
        Some(health) => answer(health.is_up(), report(&health)),
        None => unknown(&brokers, &name),
    }
}

async fn stats(State(brokers): State<Brokers>, Path(name): Path<String>) -> Response {
    let Some(broker) = brokers.get(&name) else { return unknown(&brokers, &name) };
    let stats = broker.stats();
    let consumers = broker.health().consumers;
    let pairs: BTreeSet<_> = consumers.iter().map(|c| (c.topic, c.group)).collect();
    let lags = pairs.into_iter().map(|(topic, group)| async move {
        let lag = match tokio::time::timeout(LAG_LIMIT, broker.lag(topic, group)).await {
            Ok(Ok(messages)) => json!({ "messages": messages }),
            Ok(Err(error)) => json!({ "error": error.to_string() }),
            Err(_) => json!({ "error": format!("no answer within {LAG_LIMIT:?}") }),
        };
        json!({ "topic": topic.as_str(), "group": group.as_str(), "lag": lag })
    });
    let lags = futures_util::future::join_all(lags).await;
    let body = json!({
        "published": stats.published,
        "publishFailures": stats.publish_failures,
        "consumed": stats.consumed,
        "failures": stats.failures,
        "consumers": lags,
    });
    answer(true, body)
}

fn report(health: &Health) -> Value {
    let error = health.last_error.as_ref().map(|(at, text)| {
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        json!({ "unixMillis": u64::try_from(at).unwrap_or(u64::MAX), "text": text })
    });
    json!({
        "status": status(health.is_up()),
        "connection": connection(&health.connection),
        "consumers": health.consumers.iter().map(consumer).collect::<Vec<_>>(),
        "lost": health.lost.iter().map(consumer).collect::<Vec<_>>(),
        "lastError": error,
    })
}

fn connection(connection: &Connection) -> Value {
    match connection {
        Connection::Connecting => json!({ "state": "connecting" }),
        Connection::Up => json!({ "state": "up" }),
        Connection::Blocked(why) => json!({ "state": "blocked", "reason": why }),
        Connection::Reconnecting { attempts } => {
            json!({ "state": "reconnecting", "attempts": attempts })
        }
        Connection::Refused(why) => json!({ "state": "refused", "reason": why }),
        Connection::Closed => json!({ "state": "closed" }),
        // A state that this router does not know yet.
        other => json!({ "state": format!("{other:?}") }),
    }
}

fn consumer(consumer: &ConsumerHealth) -> Value {
    json!({
        "topic": consumer.topic.as_str(),
        "group": consumer.group.as_str(),
        "status": status(consumer.problem.is_none()),
        "problem": consumer.problem,
    })
}

fn status(up: bool) -> &'static str {
    if up { "UP" } else { "DOWN" }
}

fn answer(well: bool, body: Value) -> Response {
    let code = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(body)).into_response()
}

fn unknown(brokers: &Brokers, name: &str) -> Response {
    let names: Vec<_> = brokers.keys().collect();
    let error = format!("no broker is named {name:?} here");
    (StatusCode::NOT_FOUND, Json(json!({ "error": error, "brokers": names }))).into_response()
}

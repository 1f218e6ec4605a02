//! Clients of other languages on the other side: kcat on Kafka, pika on RabbitMQ.

use std::collections::HashSet;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::peer::{self, kcat, pika};
use crate::places::{Kind, Visit};
use crate::{Outcome, ensure, ids, lines, until};

const TOPIC: &str = "feature_usage_topic";
const GROUP: &str = "zaaz-server-feature-usage-group";
/// How many partitions the application's topic has where nobody says otherwise.
const PARTITIONS: usize = 6;

/// What a foreign client writes, the application stores, and nothing else stops it.
pub(crate) fn consumes_what_foreign_clients_write(visit: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("usage.jsonl");
    let mut consumer = visit.start("feature_usage", "consume", &file)?;
    consumer.wait_for("consuming")?;
    let record = |id: &str| json!({"id": id, "user": "u", "feature": "search", "count": 1});
    let text = format!("{}\n", record("bare"));
    if visit.kind == Kind::Kafka {
        let write =
            |more: &[&str], text: &str| kcat(visit, &[&["-P", "-t", TOPIC], more].concat(), text);
        write(&[], &text)?;
        write(
            &["-k", "u", "-H", "größe=1", "-H", "größe=2", "-H", "empty=", "-H", "null"],
            &text.replace("bare", "odd"),
        )?;
    } else {
        pika(visit, &["write", TOPIC], &text)?;
    }
    until("records of a foreign client", || Ok(lines(&file)?.len() >= 2))?;
    consumer.signal(Signal::TERM)?;
    consumer.succeed()?;
    let expected = ["\"bare\"", "\"odd\""].map(str::to_owned);
    ensure(ids(&file, "id")? == HashSet::from(expected), "not what was written")
}

/// What cannot be decoded or is invalid is kept with the reason, byte for byte, and holds up nothing.
pub(crate) fn keeps_what_is_invalid(visit: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("usage.jsonl");
    let mut consumer = visit.start("feature_usage", "consume", &file)?;
    consumer.wait_for("consuming")?;
    let valid = json!({"id": "valid", "user": "u", "feature": "search", "count": 1});
    let invalid = json!({"id": "invalid", "user": "u", "feature": "search", "count": 0});
    let text = format!("no JSON\n{invalid}\n{valid}\n");
    let dead_letters = format!("{TOPIC}.{GROUP}.dlt");
    match visit.kind {
        Kind::Kafka => kcat(visit, &["-P", "-t", TOPIC, "-k", "u"], &text)?,
        _ => pika(visit, &["write", TOPIC], &text)?,
    };
    until("the valid record", || Ok(!lines(&file)?.is_empty()))?;
    consumer.signal(Signal::TERM)?;
    consumer.succeed()?;
    let found = peer::kept(visit, &dead_letters)?;
    let about = |payload: &str, kind: &str, path: &str| {
        let found = found.iter().find(|found| found.payload == payload);
        let found = found.ok_or_else(|| format!("{payload:?} is no dead letter"))?;
        let said = |name| found.header(name).unwrap_or_default();
        ensure(said("x-broker-error-kind") == kind, &format!("{found:?}"))?;
        ensure(said("x-broker-error-message").contains(path), &format!("{found:?}"))?;
        ensure(said("x-broker-original-topic") == TOPIC, &format!("{found:?}"))
    };
    about("no JSON", "Codec", "decode")?;
    about(&invalid.to_string(), "Invalid", "count")
}

/// What the application writes, a foreign client reads: payload as it is, key and headers in their
/// native places.
pub(crate) fn writes_what_foreign_clients_read(visit: &Visit, directory: &Path) -> Outcome {
    visit.run("feature_usage", "publish", &directory.join("nowhere"))?;
    let found = match visit.kind {
        Kind::Kafka => peer::kept(visit, TOPIC)?,
        _ => {
            let queue = |n| format!("{TOPIC}:{GROUP}:{n}");
            peer::read_by_pika(visit, &(0..PARTITIONS).map(queue).collect::<Vec<_>>())?
        }
    };
    // Other tests have written to the topic too.
    let ours = found
        .iter()
        .filter(|found| found.header("content-type").is_some_and(|t| t == "application/json"));
    let mut seen = HashSet::new();
    for found in ours {
        let record: Value = serde_json::from_str(&found.payload)?;
        ensure(record.as_object().is_some_and(|fields| fields.len() == 4), &found.payload)?;
        ensure(found.key.as_deref() == record["user"].as_str(), &format!("{found:?}"))?;
        ensure(found.header("message-id").is_some_and(|id| id.len() == 36), &format!("{found:?}"))?;
        seen.insert(record["id"].to_string());
    }
    ensure(seen.len() >= 100, &format!("only {} of 100", seen.len()))?;
    // So that the next test finds nothing to consume.
    visit.run("feature_usage", "both", &directory.join("rest"))?;
    Ok(())
}

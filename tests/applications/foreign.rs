//! Clients of other languages on the other side: kcat on Kafka, pika on RabbitMQ.

use std::collections::HashSet;
use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

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
    let found = match visit.kind {
        Kind::Kafka => read_by_kcat(visit, &dead_letters)?,
        _ => read_by_pika(visit, &[format!("{dead_letters}::stream")])?,
    };
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
        Kind::Kafka => read_by_kcat(visit, TOPIC)?,
        _ => {
            let queue = |n| format!("{TOPIC}:{GROUP}:{n}");
            read_by_pika(visit, &(0..PARTITIONS).map(queue).collect::<Vec<_>>())?
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

/// A message as a foreign client shows it. The properties of AMQP are headers here.
#[derive(Debug)]
struct Found {
    key: Option<String>,
    headers: Vec<(String, String)>,
    payload: String,
}

impl Found {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }
}

fn read_by_kcat(visit: &Visit, topic: &str) -> Result<Vec<Found>, Box<dyn Error>> {
    let printed = kcat(visit, &["-C", "-t", topic, "-o", "beginning", "-e", "-q", "-J"], "")?;
    let found = |line: &str| {
        let record: Value = serde_json::from_str(line)?;
        let headers = record["headers"].as_array().map_or(&[][..], Vec::as_slice);
        // Name, value, name, value.
        let pairs = headers.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1])));
        Ok(Found {
            key: record["key"].as_str().map(str::to_owned),
            headers: pairs.collect(),
            payload: text(&record["payload"]),
        })
    };
    printed.lines().map(found).collect()
}

fn read_by_pika(visit: &Visit, queues: &[String]) -> Result<Vec<Found>, Box<dyn Error>> {
    let arguments: Vec<_> = std::iter::once("read").chain(queues.iter().map(|q| &**q)).collect();
    let printed = pika(visit, &arguments, "")?;
    let found = |line: &str| {
        let message: Value = serde_json::from_str(line)?;
        ensure(message["delivery_mode"] == 2, "it is not persistent")?;
        let table = message["headers"].as_object().ok_or("no headers")?;
        let mut headers: Vec<_> = table.iter().map(|(n, value)| (n.clone(), text(value))).collect();
        for (property, name) in [("message_id", "message-id"), ("content_type", "content-type")] {
            if let Some(value) = message[property].as_str() {
                headers.push((name.into(), value.into()));
            }
        }
        let key = table.get("x-broker-key").map(text);
        Ok(Found { key, headers, payload: text(&message["payload"]) })
    };
    printed.lines().map(found).collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn kcat(visit: &Visit, arguments: &[&str], input: &str) -> Result<String, Box<dyn Error>> {
    let mut command = Command::new("kcat");
    command.args(["-b", visit.variable("KAFKA_BROKERS")?]).args(arguments);
    run(command, input)
}

fn pika(visit: &Visit, arguments: &[&str], input: &str) -> Result<String, Box<dyn Error>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/applications/pika_client.py");
    // The system's own, for which pika is installed as a package.
    let mut command = Command::new("/usr/bin/python3");
    command.args([script, visit.variable("RABBITMQ_URL")?]).args(arguments);
    run(command, input)
}

fn run(mut command: Command, input: &str) -> Result<String, Box<dyn Error>> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    child.stdin.take().ok_or("no stdin")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure(output.status.success(), &format!("{command:?}: {}: {errors}", output.status))?;
    Ok(String::from_utf8(output.stdout)?)
}

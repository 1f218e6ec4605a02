//! The clients of other languages: kcat on Kafka, pika on RabbitMQ.

use std::error::Error;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::ensure;
use crate::places::{Kind, Visit};

/// A message as a foreign client shows it. The properties of AMQP are headers here.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) key: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) payload: String,
}

impl Found {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }
}

/// Everything in a topic that the broker keeps.
pub(crate) fn kept(visit: &Visit, topic: &str) -> Result<Vec<Found>, Box<dyn Error>> {
    match visit.kind {
        Kind::Kafka => read_by_kcat(visit, topic),
        _ => {
            let mut found = read_by_pika(visit, &[format!("{topic}::stream")])?;
            // What readings leave in a stream to know its end.
            found.retain(|found| found.header("x-broker-mark").is_none());
            Ok(found)
        }
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

pub(crate) fn read_by_pika(visit: &Visit, queues: &[String]) -> Result<Vec<Found>, Box<dyn Error>> {
    let arguments: Vec<_> = std::iter::once("read").chain(queues.iter().map(|q| &**q)).collect();
    let printed = pika(visit, &arguments, "")?;
    let found = |line: &str| {
        let message: Value = serde_json::from_str(line)?;
        ensure(message["delivery_mode"] == 2, "it is not persistent")?;
        let table = message["headers"].as_object().ok_or("no headers")?;
        let mut headers: Vec<_> = table.iter().map(|(n, value)| (n.clone(), text(value))).collect();
        for (property, name) in [
            ("message_id", "message-id"),
            ("content_type", "content-type"),
            ("correlation_id", "correlation-id"),
        ] {
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

pub(crate) fn kcat(
    visit: &Visit,
    arguments: &[&str],
    input: &str,
) -> Result<String, Box<dyn Error>> {
    let mut command = Command::new("kcat");
    command.args(["-b", visit.variable("KAFKA_BROKERS")?]).args(arguments);
    run(command, input)
}

pub(crate) fn pika(
    visit: &Visit,
    arguments: &[&str],
    input: &str,
) -> Result<String, Box<dyn Error>> {
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

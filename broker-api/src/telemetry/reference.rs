//! The list of all names for people, and that it is true.

use std::fmt::Write;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::field::FieldSet;

use super::meters::Telemetry;
use super::names::{ALL, Kind};
use crate::memory::Memory;
use crate::message::Message;
use crate::name::Name;

/// The attributes of spans, and what they say.
const ATTRIBUTES: [(&str, &str); 13] = [
    ("messaging.system", "`kafka`, `rabbitmq` or `memory`"),
    ("messaging.operation.name", "`send` or `process`"),
    ("messaging.operation.type", "the same"),
    ("messaging.destination.name", "the topic"),
    ("messaging.destination.partition.id", "the partition; of what was sent, once it is confirmed"),
    ("messaging.consumer.group.name", "the group"),
    ("messaging.message.id", "the message's id"),
    ("messaging.message.conversation_id", "its correlation id, if it has one"),
    ("messaging.kafka.offset", "its offset, on every broker that has offsets"),
    ("messaging.batch.message_count", "of a batch, how many messages it has"),
    ("anybroker.attempt", "which attempt it is, from 1; not of a batch"),
    ("error.type", "the kind of error, if it failed"),
    ("otel.status_code", "`error` if it failed; becomes the status of the span"),
];

/// What `tracing-opentelemetry` takes for itself.
const TAKEN: [&str; 2] = ["otel.name", "otel.kind"];

fn table(send: &FieldSet, process: &FieldSet) -> String {
    let mut text =
        String::from("| metric | kind | unit | attributes | value |\n|---|---|---|---|---|\n");
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let unit = metric.unit.as_str();
        let attributes: Vec<_> = metric.attributes.iter().map(|a| format!("`{a}`")).collect();
        let (name, attributes, about) = (metric.name, attributes.join(", "), metric.about);
        // Writing to a `String` does not fail.
        let _ = writeln!(text, "| `{name}` | {kind} | {unit} | {attributes} | {about} |");
    }
    text.push_str("\n| attribute of a span | send | process | value |\n|---|---|---|---|\n");
    for (name, about) in ATTRIBUTES {
        let has = |fields: &FieldSet| if fields.field(name).is_some() { "yes" } else { "" };
        let _ = writeln!(text, "| `{name}` | {} | {} | {about} |", has(send), has(process));
    }
    text
}

/// With `UPDATE_DOCS=1` it writes the table there instead.
#[tokio::test]
async fn the_document_lists_the_names_as_they_are() {
    // Spans have their names only where somebody listens.
    let _listening = tracing::subscriber::set_default(tracing_subscriber::registry());
    let telemetry = Telemetry::new(Arc::new(Memory::new()));
    let topic = Name::new("topic");
    let sending =
        || telemetry.sending(topic, Some(&Message::new("x")), Instant::now(), Arc::default());
    let consuming = || telemetry.consuming(topic, Name::new("group"));
    // As long as there is one listener alone, `tracing` asks that of the thread that comes by a
    // span first, and for all: another test may have come by these where nobody listens.
    drop((sending(), consuming()));
    tracing::callsite::rebuild_interest_cache();
    let send = sending().fields();
    let process = consuming().fields();
    for field in send.iter().chain(process.iter()).map(|field| field.name()) {
        let listed = ATTRIBUTES.iter().any(|(name, _)| *name == field) || TAKEN.contains(&field);
        assert!(listed, "{field} is not described");
    }

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/TELEMETRY.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (before, rest) = document.split_once("<!-- names -->\n").unwrap();
    let (listed, after) = rest.split_once("<!-- end of names -->").unwrap();
    let table = table(send, process);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let document = format!("{before}<!-- names -->\n{table}<!-- end of names -->{after}");
        std::fs::write(path, document).unwrap();
        return;
    }
    let how = "run `UPDATE_DOCS=1 cargo test -p broker-api --features metrics --lib reference`";
    assert_eq!(listed, table, "{how}");
}

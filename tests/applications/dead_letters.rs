//! What cannot be handled, and how an operator puts it through.

use std::error::Error;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::app::App;
use crate::ledgers::balances;
use crate::peer;
use crate::places::Visit;
use crate::{Outcome, ensure, ids, lines, until};

/// Where the dead letters of `credits` are. Where more than 50 is invalid and user-3 is locked,
/// each gets 30 that are invalid and 5 that cannot be handled.
const CREDITS: [&str; 2] = [
    "credits_process_end_topic.zaaz-server-credits-process-end-group.dlt",
    "credits_process_end_multimodel_topic.zaaz-server-credits-process-end-multimodel-group.dlt",
];
const USAGE: &str = "feature_usage_topic.zaaz-server-feature-usage-group.dlt";

/// All in one process, which is the only way on the embedded broker.
pub(crate) fn are_put_through(visit: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("usage.jsonl");
    let printed = visit.run("feature_usage", "mishap", &file)?;
    for said in [
        &format!("40 dead letters in {USAGE}\n"),
        "  33 x Invalid: count: more than 2 (attempts: 0)\n",
        "  7 x Handler: the handler failed: user-3 is locked (attempts: 3)\n",
        &format!("put 40 dead letters of {USAGE} back\n"),
    ] {
        ensure(printed.contains(said), &format!("{said:?} is not in {printed}"))?;
    }
    ensure(ids(&file, "id")?.len() == 100, "not every record is in the file, once")?;

    let file = directory.join("credits.jsonl");
    let printed = visit.run("credits", "mishap", &file)?;
    for topic in CREDITS {
        let said = format!(
            "35 dead letters in {topic}\n  \
             5 x Handler: the handler failed: user-3 is locked (attempts: 3)\n  \
             30 x Invalid: credits: more than 50 (attempts: 0)\n"
        );
        ensure(printed.contains(&said), &format!("{said:?} is not in {printed}"))?;
    }
    ensure(printed.contains("counted 100 operations, 10 came again"), &printed)?;
    ensure(balances(&file)?.values().all(|balance| *balance == 700), &printed)
}

/// As an operator does it: the consumer goes on, is mended, and handles what is put back.
pub(crate) fn step_by_step(visit: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("credits.jsonl");
    visit.run("credits", "publish", &file)?;
    let mut consumer = troubled(visit, &file)?;
    dead(visit, 35)?;
    consumer.signal(Signal::TERM)?;
    consumer.succeed()?;
    ensure(ids(&file, "operation_id")?.len() == 40, "what is healthy was not counted")?;

    // Put back before the cause is mended: dead again, with its history.
    let printed = visit.run("credits", "redrive", &file)?;
    ensure(printed.contains(&format!("put 35 dead letters of {} back", CREDITS[0])), &printed)?;
    let mut consumer = troubled(visit, &file)?;
    dead(visit, 35)?;
    consumer.signal(Signal::TERM)?;
    consumer.succeed()?;
    for topic in CREDITS {
        let found = peer::kept(visit, topic)?;
        let again = found.iter().filter(|found| found.header("x-broker-redrives") == Some("1"));
        let attempts = |found: &&peer::Found| found.header("x-broker-attempts") == Some("6");
        ensure(again.clone().count() == 35, &format!("{found:?}"))?;
        ensure(again.filter(attempts).count() == 5, &format!("{found:?}"))?;
    }

    visit.run("credits", "redrive", &file)?;
    let mut consumer = visit.start("credits", "consume", &file)?;
    until("all operations", || Ok(lines(&file)?.len() >= 100))?;
    dead(visit, 0)?;
    consumer.signal(Signal::TERM)?;
    let printed = consumer.succeed()?;
    ensure(ids(&file, "operation_id")?.len() == 100, "an operation was counted twice")?;
    ensure(balances(&file)?.values().all(|balance| *balance == 700), &printed)?;
    // Nothing is left to be put back.
    let printed = visit.run("credits", "redrive", &file)?;
    ensure(printed.matches("put 0 dead letters").count() == 2, &printed)
}

/// One process, one topic on each broker, with the topics of its failures.
pub(crate) fn on_two_brokers(kafka: &Visit, rabbitmq: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("credits.jsonl");
    let url = rabbitmq.variable("RABBITMQ_URL")?;
    let mut variables = kafka.variables.clone();
    variables.push(("RABBITMQ_URL".into(), url.into()));
    variables.push(("BROKER_ROUTES".into(), "credits_process_end_topic=rabbitmq".into()));
    let mut app = App::start("credits", &["mishap", &file.to_string_lossy()], &variables)?;
    let printed = app.succeed()?;
    ensure(printed.contains("counted 100 operations, 10 came again"), &printed)?;
    ensure(balances(&file)?.values().all(|balance| *balance == 700), &printed)?;
    let ours = ids(&file, "operation_id")?;
    for (visit, topic) in [(rabbitmq, CREDITS[0]), (kafka, CREDITS[1])] {
        let mut count = 0;
        for found in peer::kept(visit, topic)? {
            let operation: Value = serde_json::from_str(&found.payload)?;
            count += usize::from(ours.contains(&operation["operation_id"].to_string()));
        }
        ensure(count == 35, &format!("{count} dead letters in {topic}"))?;
    }
    Ok(())
}

/// A consumer of `credits` that cannot handle some of it.
fn troubled(visit: &Visit, file: &Path) -> Result<App, Box<dyn Error>> {
    let mut variables = visit.variables.clone();
    variables.extend([("LARGEST", "50"), ("LOCKED", "user-3")].map(|(n, v)| (n.into(), v.into())));
    App::start("credits", &["consume", &file.to_string_lossy()], &variables)
}

/// Waits until `dead-letters` shows so many in each topic.
fn dead(visit: &Visit, number: usize) -> Outcome {
    let said = CREDITS.map(|topic| format!("{number} dead letters in {topic}\n"));
    until("the dead letters", || {
        let printed = visit.run("credits", "dead-letters", Path::new("unused"))?;
        Ok(said.iter().all(|said| printed.contains(said)))
    })
}

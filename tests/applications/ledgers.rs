//! `feature_usage` and `credits`: what they store, over restarts and kills.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use rustix::process::Signal;

use crate::app::App;
use crate::places::Visit;
use crate::{Outcome, ensure, ids, lines, until};

pub(crate) fn stores_feature_usage(visit: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("usage.jsonl");
    let printed = visit.run("feature_usage", "both", &file)?;
    ensure(printed.contains(visit.kind.said()), &printed)?;
    ensure(printed.contains("published 100 records to feature_usage_topic"), &printed)?;
    ensure(ids(&file, "id")?.len() == 100, "not every record is in the file, once")
}

pub(crate) fn counts_credits(visit: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("credits.jsonl");
    let printed = visit.run("credits", "both", &file)?;
    ensure(printed.contains(visit.kind.said()), &printed)?;
    ensure(printed.contains("counted 100 operations, 10 came again"), &printed)?;
    ensure(balances(&file)?.values().all(|balance| *balance == 700), &printed)
}

pub(crate) fn continues_the_ledger(visit: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("credits.jsonl");
    visit.run("credits", "both", &file)?;
    let printed = visit.run("credits", "both", &file)?;
    ensure(printed.contains("user-0: 1400"), &printed)?;
    ensure(balances(&file)?.values().all(|balance| *balance == 1400), &printed)
}

pub(crate) fn ends_on_signals(visit: &Visit, directory: &Path) -> Outcome {
    for signal in [Signal::TERM, Signal::INT] {
        for example in ["feature_usage", "credits"] {
            let mut app = visit.start(example, "consume", &directory.join(example))?;
            app.wait_for("consuming")?;
            app.signal(signal)?;
            let printed = app.succeed()?;
            ensure(printed.contains("ending, because of a signal"), &printed)?;
        }
    }
    Ok(())
}

pub(crate) fn consumes_what_another_published(visit: &Visit, directory: &Path) -> Outcome {
    let nowhere = directory.join("nowhere");
    visit.run("feature_usage", "publish", &nowhere)?;
    let file = directory.join("first.jsonl");
    let mut consumer = visit.start("feature_usage", "consume", &file)?;
    until("the records of another process", || Ok(lines(&file)?.len() == 100))?;
    consumer.signal(Signal::TERM)?;
    consumer.succeed()?;
    ensure(ids(&file, "id")?.len() == 100, "a record came twice")?;
    // What was settled does not come again, to anybody.
    let file = directory.join("second.jsonl");
    visit.run("feature_usage", "both", &file)?;
    ensure(lines(&file)?.len() == 100, "settled records came again")
}

pub(crate) fn survives_a_kill(visit: &Visit, directory: &Path) -> Outcome {
    let file = directory.join("credits.jsonl");
    let nowhere = directory.join("nowhere");
    for _ in 0..10 {
        visit.run("credits", "publish", &nowhere)?;
    }
    for reached in [150, 400, 700] {
        let consumer = visit.start("credits", "consume", &file)?;
        until("operations", || Ok(lines(&file)?.len() >= reached))?;
        consumer.signal(Signal::KILL)?;
    }
    let mut consumer = visit.start("credits", "consume", &file)?;
    until("all operations", || Ok(lines(&file)?.len() >= 1000))?;
    consumer.signal(Signal::TERM)?;
    let printed = consumer.succeed()?;
    ensure(ids(&file, "operation_id")?.len() == 1000, "an operation was counted twice")?;
    ensure(balances(&file)?.values().all(|balance| *balance == 7000), &printed)?;
    // What a killed consumer had counted and not settled may still wait to come again, and is not
    // for the next test: it comes before what is published now.
    visit.run("credits", "both", &file)?;
    ensure(ids(&file, "operation_id")?.len() == 1100, "an operation was counted twice")
}

pub(crate) fn takes_back_half_a_line(directory: &Path) -> Outcome {
    let path = directory.join("usage.jsonl");
    let file = path.to_string_lossy().into_owned();
    App::start("feature_usage", &["both", &file], &[])?.succeed()?;
    let whole = std::fs::read_to_string(&path)?;
    std::fs::write(&path, format!("{whole}{{\"id\":\"half"))?;
    App::start("feature_usage", &["both", &file], &[])?.succeed()?;
    ensure(std::fs::read_to_string(&path)?.starts_with(&whole), "what was there has changed")?;
    ensure(ids(&path, "id")?.len() == 200, "the records of both runs are not there")
}

pub(crate) fn keeps_the_file_alone(directory: &Path) -> Outcome {
    let path = directory.join("usage.jsonl");
    let file = path.to_string_lossy().into_owned();
    let mut first = App::start("feature_usage", &["consume", &file], &[])?;
    first.wait_for("consuming")?;
    let (status, _, errors) = App::start("feature_usage", &["consume", &file], &[])?.end()?;
    ensure(!status.success() && errors.contains("another process has it open"), &errors)
}

/// The balance of each user, which has to be the sum of all before it, line by line.
pub(crate) fn balances(file: &Path) -> Result<BTreeMap<String, i64>, Box<dyn Error>> {
    let mut balances = BTreeMap::new();
    for line in lines(file)? {
        let balance = balances.entry(line["user"].to_string()).or_insert(0);
        *balance += line["credits"].as_i64().ok_or("no credits")?;
        ensure(line["balance"] == *balance, &format!("{line} is not what comes after {balance}"))?;
    }
    ensure(balances.len() == 5, &format!("{balances:?}"))?;
    Ok(balances)
}

//! Prints what became of every case of the conformance suite on every broker of this project, as
//! the page docs/CONFORMANCE.md. `conformance-table --check FILE` wants the file to be that page.
//!
//! The results are those that runs of the suite have left in the folder that
//! `BROKER_TESTKIT_RESULTS` names.

use std::path::Path;
use std::process::ExitCode;

use broker_testkit::conformance::Table;

/// As the test targets call them.
const BROKERS: [&str; 6] =
    ["memory", "routed", "kafka", "kafka (KIP-848)", "rabbitmq 4", "rabbitmq 3.10"];

const INTRODUCTION: &str = "# The conformance suite on every broker

What became of each case in the last run of all tests. This page is written from the results of that run, and `scripts/test` fails when
it is not what the run gave. `routed` is two in-memory brokers behind one router; `kafka (KIP-848)` is Kafka with its newer group protocol.

";

fn main() -> ExitCode {
    match page().and_then(|page| answer(&page)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conformance-table: {error}");
            ExitCode::FAILURE
        }
    }
}

fn page() -> Result<String, String> {
    let folder = std::env::var_os("BROKER_TESTKIT_RESULTS")
        .ok_or("BROKER_TESTKIT_RESULTS does not say where the results are")?;
    Ok(format!("{INTRODUCTION}{}", Table::read(Path::new(&folder), &BROKERS)?))
}

fn answer(page: &str) -> Result<(), String> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            print!("{page}");
            Ok(())
        }
        ["--check", file] => check(page, file),
        _ => Err("usage: conformance-table [--check FILE]".to_owned()),
    }
}

fn check(page: &str, file: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    if text == page {
        return Ok(());
    }
    let (mut are, mut should_be) = (text.lines(), page.lines());
    let mut differences = String::new();
    loop {
        match (are.next(), should_be.next()) {
            (None, None) => break,
            (is, wanted) if is == wanted => {}
            (is, wanted) => {
                is.inspect(|line| differences.push_str(&format!("\n- {line}")));
                wanted.inspect(|line| differences.push_str(&format!("\n+ {line}")));
            }
        }
    }
    Err(format!(
        "{file} is not what the last run gave; write the page printed without --check:{differences}"
    ))
}

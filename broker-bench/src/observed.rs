//! What being observable costs where nobody observes.

use std::path::Path;

use broker_api::BoxError;
use serde::Deserialize;
use tokio::process::Command;

use crate::cost::median;
use crate::row::Measured;

/// The rows that are compared, in memory: there nothing else hides what it costs.
const ROWS: [&str; 2] = ["publish, pipelined", "consume"];

/// What a run of this program says of a row.
#[derive(Deserialize)]
struct Said {
    row: String,
    measured: Vec<Measured>,
}

/// The table of this program beside `other`, which was built with the feature `telemetry`: both run
/// as processes of their own, in turn.
pub(crate) async fn measure(other: &Path, rounds: usize) -> Result<String, BoxError> {
    let this = std::env::current_exe()?;
    let mut table = "\n### Memory: metrics and traces compiled in, nobody listening\n\n\
                     | row | without, CPU µs | with, CPU µs | ratio |\n|---|---:|---:|---:|\n"
        .to_owned();
    for row in ROWS {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            for turn in 0..2 {
                match (round + turn) % 2 {
                    0 => without.push(cpu_micros(&this, row).await?),
                    _ => with.push(cpu_micros(other, row).await?),
                }
            }
        }
        let [without, with] = [median(without), median(with)];
        let ratio = with / without;
        table += &format!("| {row} | {without:.3} | {with:.3} | {ratio:.3} |\n");
    }
    Ok(table)
}

async fn cpu_micros(program: &Path, row: &str) -> Result<f64, BoxError> {
    let arguments = ["--broker", "memory", "--only", "anybroker", "--json", "--row", row];
    let child = Command::new(program).args(arguments).kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&child.stdout);
    let mut rows = said.lines().map(serde_json::from_str::<Said>);
    let found = rows.find_map(|said| said.ok().filter(|said| said.row == row));
    let ours = found.and_then(|said| {
        said.measured.into_iter().find(|measured| measured.contender == "anybroker")
    });
    let ours = ours.ok_or_else(|| format!("{}: no row {row:?} in {said:?}", program.display()))?;
    Ok(ours.cpu_micros_median)
}

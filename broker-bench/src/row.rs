//! One row of the table: a kind of work, done by every contender in turn, round after round.

use broker_api::BoxError;
use serde::Serialize;

use crate::contender::{Contender, Publishing};
use crate::cost::{Cost, Latencies, Watch};
use crate::load::Load;

/// A kind of work.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    Publish(Publishing),
    /// A backlog that was published before.
    Consume,
}

/// What one contender needed, over all rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) contender: &'static str,
    pub(crate) messages: usize,
    pub(crate) rate_median: f64,
    pub(crate) rate_min: f64,
    pub(crate) rate_max: f64,
    pub(crate) cpu_micros_median: f64,
    /// Percentiles 50, 99 and 99.9 of the time to a confirmation, in microseconds, where each was
    /// awaited.
    pub(crate) latency_micros: Option<[u64; 3]>,
}

/// Runs the rounds. A message that is lost, doubled or out of order is an error, not a figure.
pub(crate) async fn measure(
    contenders: &[Box<dyn Contender>],
    work: Work,
    load: Load,
    partitions: u32,
    rounds: usize,
    mut topic: impl FnMut() -> String,
) -> Result<Vec<Measured>, BoxError> {
    let mut costs: Vec<Vec<Cost>> = contenders.iter().map(|_| Vec::new()).collect();
    let mut latencies = Vec::new();
    for _ in contenders {
        latencies.push(Latencies::new()?);
    }
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            // Another one begins each round, so that none always comes after the same one.
            let number = (turn + round) % contenders.len();
            let (contender, topic) = (&contenders[number], topic());
            let load = load.divided_by(contender.slowness());
            contender.create(&topic, partitions).await?;
            let cost = one(contender.as_ref(), work, load, &topic, &mut latencies[number]).await;
            let name = contender.name();
            costs[number].push(cost.map_err(|error| format!("{name}, {work:?}: {error}"))?);
            contender.delete(&topic).await?;
        }
    }
    let measured = contenders.iter().zip(costs).zip(latencies);
    Ok(measured
        .map(|((contender, costs), latencies)| summary(contender.name(), costs, &latencies))
        .collect())
}

async fn one(
    contender: &dyn Contender,
    work: Work,
    load: Load,
    topic: &str,
    latencies: &mut Latencies,
) -> Result<Cost, BoxError> {
    match work {
        Work::Publish(how) => {
            let watch = Watch::start();
            contender.publish(topic, load, how, latencies).await?;
            let cost = watch.stop(load.messages);
            // Confirmed is not enough: it has to be there.
            contender.consume(topic, load.ledger()).await?;
            Ok(cost)
        }
        Work::Consume => {
            let mut unused = Latencies::new()?;
            let how =
                if contender.slowness() > 1 { Publishing::Tasks(1) } else { Publishing::Pipelined };
            contender.publish(topic, load, how, &mut unused).await?;
            let watch = Watch::start();
            contender.consume(topic, load.ledger()).await?;
            Ok(watch.stop(load.messages))
        }
    }
}

fn summary(contender: &'static str, costs: Vec<Cost>, latencies: &Latencies) -> Measured {
    let sorted = |figure: fn(Cost) -> f64| {
        let mut figures: Vec<_> = costs.iter().copied().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures
    };
    let (rates, cpu) = (sorted(Cost::rate), sorted(Cost::cpu_micros));
    let at = |figures: &[f64], index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
    Measured {
        contender,
        messages: costs.iter().map(|cost| cost.messages).sum(),
        rate_median: at(&rates, rates.len() / 2),
        rate_min: at(&rates, 0),
        rate_max: at(&rates, rates.len().saturating_sub(1)),
        cpu_micros_median: at(&cpu, cpu.len() / 2),
        latency_micros: (!latencies.is_empty())
            .then(|| [50.0, 99.0, 99.9].map(|p| latencies.percentile(p))),
    }
}

//! One row of the table: a kind of work, done by every contender in turn, round after round.

use broker_api::BoxError;
use serde::{Deserialize, Serialize};
use tokio::runtime;
use tokio::task::block_in_place;

use crate::allocations;
use crate::contender::{Contender, Publishing};
use crate::cost::{Cost, Latencies, Watch, forget_peak, peak_mib};
use crate::load::Load;

/// A kind of work.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    Publish(Publishing),
    /// A backlog that was published before.
    Consume,
    /// Both at a time.
    EndToEnd(Publishing),
    /// Both at a time, as fast as they can, on a runtime of one thread.
    OneCore,
}

/// What one contender needed, over all rounds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) contender: String,
    pub(crate) messages: usize,
    pub(crate) rate_median: f64,
    pub(crate) rate_min: f64,
    pub(crate) rate_max: f64,
    pub(crate) cpu_micros_median: f64,
    pub(crate) cpu_micros_min: f64,
    pub(crate) cpu_micros_max: f64,
    /// Percentiles 50, 99 and 99.9 in microseconds: of the time to a confirmation where each was
    /// awaited, of the time from publishing to the handler where both run at a time.
    pub(crate) latency_micros: Option<[u64; 3]>,
    /// The most memory in use in any round, of this process with all contenders.
    pub(crate) peak_mib: f64,
    /// By Rust code, for each message.
    pub(crate) allocations: f64,
}

/// What one contender did in one round.
struct Round {
    cost: Cost,
    peak_mib: f64,
}

/// Runs the rounds. A message that is lost, doubled or out of order is an error, not a figure.
///
/// A last round with a part of the load counts allocations, which costs time and so is apart.
pub(crate) async fn measure(
    contenders: &[Box<dyn Contender>],
    work: Work,
    load: Load,
    partitions: u32,
    rounds: usize,
    mut topic: impl FnMut() -> String,
) -> Result<Vec<Measured>, BoxError> {
    let contenders: Vec<_> = contenders.iter().filter(|one| one.does(work)).collect();
    let mut all: Vec<Vec<Round>> = contenders.iter().map(|_| Vec::new()).collect();
    let mut latencies = Vec::new();
    for _ in &contenders {
        latencies.push(Latencies::new()?);
    }
    for round in 0..=rounds {
        let counts = round == rounds;
        for turn in 0..contenders.len() {
            // Another one begins each round, so that none always comes after the same one.
            let number = (turn + round) % contenders.len();
            let (contender, topic) = (&contenders[number], topic());
            let load = load.divided_by(contender.slowness() * if counts { 5 } else { 1 });
            contender.create(&topic, partitions).await?;
            let mut took = Latencies::new()?;
            forget_peak()?;
            allocations::count(counts);
            let done = one(&***contender, work, load, &topic, &mut took).await;
            allocations::count(false);
            let name = contender.name();
            all[number].push(done.map_err(|error| format!("{name}, {work:?}: {error}"))?);
            if !counts {
                latencies[number].add(&took)?;
            }
            contender.delete(&topic).await?;
        }
    }
    let measured = contenders.iter().zip(all).zip(latencies);
    Ok(measured
        .map(|((contender, rounds), latencies)| summary(contender.name(), rounds, &latencies))
        .collect())
}

async fn one(
    contender: &dyn Contender,
    work: Work,
    load: Load,
    topic: &str,
    latencies: &mut Latencies,
) -> Result<Round, BoxError> {
    match work {
        Work::Publish(how) => {
            let watch = Watch::start();
            contender.publish(topic, load, how, latencies).await?;
            let round = Round { cost: watch.stop(load.messages), peak_mib: peak_mib()? };
            // Confirmed is not enough: it has to be there.
            contender.consume(topic, load.ledger()).await?.complete()?;
            Ok(round)
        }
        Work::Consume => {
            let mut unused = Latencies::new()?;
            let how =
                if contender.slowness() > 1 { Publishing::Tasks(1) } else { Publishing::Pipelined };
            contender.publish(topic, load, how, &mut unused).await?;
            forget_peak()?;
            let (cost, _) = contender.consume(topic, load.ledger()).await?.complete()?;
            Ok(Round { cost, peak_mib: peak_mib()? })
        }
        Work::EndToEnd(how) => {
            let mut unused = Latencies::new()?;
            let ledger = match how {
                Publishing::Paced(_) => load.timing_ledger()?,
                Publishing::Pipelined | Publishing::Tasks(_) => load.ledger(),
            };
            let consume = contender.consume(topic, ledger);
            let publish = contender.publish(topic, load, how, &mut unused);
            let (consumed, ()) = tokio::try_join!(consume, publish)?;
            let (cost, took) = consumed.complete()?;
            if let Some(took) = took {
                latencies.add(&took)?;
            }
            Ok(Round { cost, peak_mib: peak_mib()? })
        }
        Work::OneCore => on_one_core(contender, load, topic),
    }
}

/// Publishes and consumes on this thread alone. A new one would have to get all its memory from the
/// system first.
fn on_one_core(contender: &dyn Contender, load: Load, topic: &str) -> Result<Round, BoxError> {
    block_in_place(|| {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (consumed, ()) = runtime.block_on(async {
            let mut unused = Latencies::new()?;
            let consume = contender.consume(topic, load.ledger());
            let publish = contender.publish(topic, load, Publishing::Pipelined, &mut unused);
            tokio::try_join!(consume, publish)
        })?;
        let (cost, _) = consumed.complete()?;
        Ok(Round { cost, peak_mib: peak_mib()? })
    })
}

fn summary(contender: &'static str, mut rounds: Vec<Round>, latencies: &Latencies) -> Measured {
    let counted = rounds.pop().map(|round| round.cost);
    let costs: Vec<_> = rounds.iter().map(|round| round.cost).collect();
    let sorted = |figure: fn(Cost) -> f64| {
        let mut figures: Vec<_> = costs.iter().copied().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures
    };
    let (rates, cpu) = (sorted(Cost::rate), sorted(Cost::cpu_micros));
    let at = |figures: &[f64], index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
    Measured {
        contender: contender.to_owned(),
        messages: costs.iter().map(|cost| cost.messages).sum(),
        rate_median: at(&rates, rates.len() / 2),
        rate_min: at(&rates, 0),
        rate_max: at(&rates, rates.len().saturating_sub(1)),
        cpu_micros_median: at(&cpu, cpu.len() / 2),
        cpu_micros_min: at(&cpu, 0),
        cpu_micros_max: at(&cpu, cpu.len().saturating_sub(1)),
        latency_micros: (!latencies.is_empty())
            .then(|| [50.0, 99.0, 99.9].map(|p| latencies.percentile(p))),
        peak_mib: rounds.iter().map(|round| round.peak_mib).fold(0.0, f64::max),
        allocations: counted.map_or(f64::NAN, |c| c.allocations as f64 / c.messages as f64),
    }
}

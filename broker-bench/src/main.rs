//! Compares `anybroker` with the raw clients, side by side in one run, on real brokers.
//!
//! Every contender does the same work in turn, round after round, on the same broker, so that what
//! disturbs the machine disturbs all. No figure is printed for messages that were not all
//! confirmed, received once and in the order of their keys.

mod allocations;
mod backlog;
mod bars;
mod contender;
mod cost;
mod kafka;
mod load;
mod observed;
mod once;
mod ours;
mod page;
mod rabbitmq;
mod row;
mod table;
mod typed;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anybroker::Routed;
use broker_amqp::{Amqp, AmqpConfig};
use broker_api::{Backend, BoxError, Broker, Bytes, Memory};
use broker_kafka::{Kafka, KafkaConfig};
use broker_testkit::brokers::RealBroker;
use broker_testkit::local::RabbitMqVersion;
use clap::{Parser, ValueEnum};
use serde::Serialize;

use contender::{Contender, Publishing};
use load::Load;
use ours::Ours;
use row::{Measured, Work, measure};
use table::table;
use typed::Typed;

/// Compares anybroker with the raw clients, in one run on the same brokers: those of KAFKA_BROKERS
/// and RABBITMQ_URL, otherwise local ones that are started for it.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Arguments {
    /// Only these brokers.
    #[arg(long = "broker", value_enum)]
    brokers: Vec<Which>,
    /// Only rows whose name contains this.
    #[arg(long, default_value = "")]
    row: String,
    /// Only contenders whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Rounds of each row; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Messages of each row and round on Kafka; RabbitMQ gets a fifth, memory a quarter.
    #[arg(long, default_value_t = 500_000)]
    messages: usize,
    /// Bytes of each payload.
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Distinct keys.
    #[arg(long, default_value_t = 1_000)]
    keys: usize,
    /// Partitions of each topic.
    #[arg(long, default_value_t = 6)]
    partitions: u32,
    /// Messages that anybroker's consumer handles at a time.
    #[arg(long, default_value_t = 16)]
    handlers: usize,
    /// Few messages and one round: shows that everything works, not how fast.
    #[arg(long)]
    quick: bool,
    /// Prints JSON lines instead of tables.
    #[arg(long)]
    json: bool,
    /// Writes the tables, and which bars are held, into this page too.
    #[arg(long)]
    page: Option<PathBuf>,
    /// Also compares with this program built with the feature `telemetry`.
    #[arg(long)]
    observed: Option<PathBuf>,
    /// Consumes this topic slowly: what the program starts itself for to measure memory.
    #[arg(long, hide = true)]
    backlog_of: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
enum Which {
    Memory,
    Kafka,
    Rabbitmq,
}

#[derive(Serialize)]
struct Row {
    broker: Which,
    row: &'static str,
    measured: Vec<Measured>,
}

/// How long messages are sent at a fixed rate.
const SECONDS: usize = 5;

/// Each with by how much fewer messages it gets than the first.
const ROWS: [(&str, Work, usize); 7] = [
    ("publish, pipelined", Work::Publish(Publishing::Pipelined), 1),
    ("publish, 100 tasks", Work::Publish(Publishing::Tasks(100)), 5),
    ("publish, one by one", Work::Publish(Publishing::Tasks(1)), 100),
    ("consume", Work::Consume, 1),
    ("end to end, 1,000 a second", Work::EndToEnd(Publishing::Paced(1_000)), 100),
    ("end to end, at full speed", Work::EndToEnd(Publishing::Pipelined), 1),
    ("publish to ack on one core", Work::OneCore, 1),
];

/// The row of memory that a slow consumer takes, which is of another kind.
const BACKLOG: &str = "backlog";

/// The row of Kafka that compares two ways of settling.
const ONCE: &str = "exactly once";

/// How many messages wait there.
const WAITING: [usize; 3] = [10_000, 100_000, 1_000_000];

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), BoxError> {
    let which = match arguments.brokers.as_slice() {
        [] => vec![Which::Memory, Which::Kafka, Which::Rabbitmq],
        chosen => chosen.to_vec(),
    };
    let asked = |name: &str| name.contains(&arguments.row);
    if ![BACKLOG, ONCE].into_iter().any(asked) && !ROWS.iter().any(|(name, ..)| asked(name)) {
        let names = ROWS.map(|(name, ..)| name).join("; ");
        return Err(format!(
            "no row has {:?} in its name: {names}; {BACKLOG}; {ONCE}",
            arguments.row
        )
        .into());
    }
    let (mut topics, mut rows, mut text) = (0, Vec::new(), String::new());
    let mut topic = || {
        topics += 1;
        format!("bench-{}-{topics}", std::process::id())
    };
    let rounds = if arguments.quick { 1 } else { arguments.rounds };
    for which in which {
        // Held until its rows are done: a broker started for them ends with it.
        let real = match which {
            Which::Memory => None,
            Which::Kafka => Some(RealBroker::kafka()),
            Which::Rabbitmq => Some(RealBroker::rabbitmq(RabbitMqVersion::V4)),
        };
        let address = match &real {
            None => String::new(),
            Some(real) => real.address().await.map_err(|error| format!("{error:?}"))?,
        };
        if let Some(topic) = &arguments.backlog_of {
            let broker = connect(which, &address).await?;
            return backlog::consume(broker, topic, arguments.handlers).await;
        }
        let contenders = contenders(which, &address, &arguments).await?;
        for (name, work, fewer) in ROWS {
            // In memory alone the broker takes no other core.
            if !asked(name) || (matches!(work, Work::OneCore) && which != Which::Memory) {
                continue;
            }
            let messages = arguments.messages_of(which, work, fewer);
            let load = Load { messages, payload_bytes: arguments.payload, keys: arguments.keys };
            let partitions = arguments.partitions;
            let measured = measure(&contenders, work, load, partitions, rounds, &mut topic).await?;
            let row = Row { broker: which, row: name, measured };
            match arguments.json {
                true => println!("{}", serde_json::to_string(&row)?),
                false => tell(&mut text, table(&format!("{which:?}"), name, &row.measured)),
            }
            rows.push(row);
        }
        let Some(ours) = contenders.first().filter(|_| !arguments.json) else { continue };
        if asked(ONCE) && which == Which::Kafka {
            let (messages, payload_bytes) = (arguments.messages_of(which, Work::Consume, 4), 256);
            let load = Load { messages, payload_bytes, keys: arguments.keys };
            let broker = connect(which, &address).await?;
            tell(&mut text, once::measure(&broker, &**ours, load, rounds, &mut topic).await?);
        }
        if asked(BACKLOG) && which != Which::Memory {
            let sizes = if arguments.quick { &WAITING[..1] } else { &WAITING };
            tell(&mut text, backlog::measure(which, &address, &**ours, sizes, &mut topic).await?);
        }
    }
    if let Some(other) = &arguments.observed {
        tell(&mut text, observed::measure(other, rounds).await?);
    }
    if !arguments.json {
        tell(&mut text, bars::judged(&rows));
    }
    match &arguments.page {
        Some(page) => page::write(page, &format!("On {}.\n{text}", page::machine())),
        None => Ok(()),
    }
}

/// Prints a table, and keeps it for the page.
fn tell(text: &mut String, table: String) {
    print!("{table}");
    text.push_str(&table);
}

impl Arguments {
    /// How many messages a row has in each round.
    fn messages_of(&self, which: Which, work: Work, fewer: usize) -> usize {
        match (self.quick, which, work) {
            (true, ..) => 2_000 / fewer.min(2),
            (false, _, Work::EndToEnd(Publishing::Paced(rate))) => SECONDS * rate as usize,
            (false, Which::Rabbitmq, _) => self.messages / 5 / fewer,
            // What it holds is bounded: a backlog of more would not fit.
            (false, Which::Memory, _) => self.messages / 4 / fewer,
            (false, ..) => self.messages / fewer,
        }
    }
}

async fn connect(which: Which, address: &str) -> Result<Broker, BoxError> {
    Ok(match which {
        Which::Memory => Broker::new(Memory::new()),
        Which::Kafka => Broker::new(Kafka::connect(KafkaConfig::new(address)).await?),
        Which::Rabbitmq => Broker::new(Amqp::connect(AmqpConfig::new(address)).await?),
    })
}

async fn contenders(
    which: Which,
    address: &str,
    arguments: &Arguments,
) -> Result<Vec<Box<dyn Contender>>, BoxError> {
    let (broker, handlers) = (connect(which, address).await?, arguments.handlers);
    let mut contenders: Vec<Box<dyn Contender>> = vec![
        Box::new(Ours::<Bytes>::new(broker.clone(), handlers, "anybroker")),
        Box::new(Ours::<Typed>::new(broker, handlers, "anybroker, typed JSON")),
    ];
    match which {
        // The wrapper that an application has which uses several brokers; here it has nothing to
        // hide behind.
        Which::Memory => {
            let other: Arc<dyn Backend> = Arc::new(Memory::new());
            let routed = Routed::new(Arc::new(Memory::new())).route("elsewhere-*", &other)?;
            let routed = Broker::new(routed);
            contenders.push(Box::new(Ours::<Bytes>::new(routed, handlers, "anybroker, routed")));
        }
        Which::Kafka => {
            contenders.push(Box::new(kafka::Best::new(address, false)?));
            contenders.push(Box::new(kafka::Best::new(address, true)?));
            contenders.push(Box::new(kafka::Readme::new(address)?));
        }
        Which::Rabbitmq => {
            contenders.push(Box::new(rabbitmq::Best::new(address, arguments.partitions).await?));
            contenders.push(Box::new(rabbitmq::Readme::new(address, arguments.partitions).await?));
        }
    }
    contenders.retain(|contender| contender.name().contains(&arguments.only));
    Ok(contenders)
}

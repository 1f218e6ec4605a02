//! Compares `anybroker` with the raw clients, side by side in one run, on real brokers.
//!
//! Every contender does the same work in turn, round after round, on the same broker, so that what
//! disturbs the machine disturbs all. No figure is printed for messages that were not all
//! confirmed, received once and in the order of their keys.

mod allocations;
mod contender;
mod cost;
mod kafka;
mod load;
mod ours;
mod rabbitmq;
mod row;
mod table;
mod typed;

use std::process::ExitCode;

use broker_amqp::{Amqp, AmqpConfig};
use broker_api::{BoxError, Broker, Bytes, Memory};
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Memory,
    Kafka,
    Rabbitmq,
}

#[derive(Serialize)]
struct Row {
    broker: String,
    row: &'static str,
    measured: Vec<Measured>,
}

/// How long messages are sent at a fixed rate.
const SECONDS: usize = 5;

/// Each with by how much fewer messages it gets than the first.
const ROWS: [(&str, Work, usize); 6] = [
    ("publish, pipelined", Work::Publish(Publishing::Pipelined), 1),
    ("publish, 100 tasks", Work::Publish(Publishing::Tasks(100)), 5),
    ("publish, one by one", Work::Publish(Publishing::Tasks(1)), 100),
    ("consume", Work::Consume, 1),
    ("end to end, 1,000 a second", Work::EndToEnd(Publishing::Paced(1_000)), 100),
    ("end to end, at full speed", Work::EndToEnd(Publishing::Pipelined), 1),
];

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
    if !ROWS.iter().any(|(name, ..)| name.contains(&arguments.row)) {
        let names = ROWS.map(|(name, ..)| name).join("; ");
        return Err(format!("no row has {:?} in its name: {names}", arguments.row).into());
    }
    let mut topics = 0;
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
        let contenders = contenders(which, &address, &arguments).await?;
        for (name, work, fewer) in ROWS {
            if !name.contains(&arguments.row) {
                continue;
            }
            let messages = match (arguments.quick, which, work) {
                (true, ..) => 2_000 / fewer.min(2),
                (false, _, Work::EndToEnd(Publishing::Paced(rate))) => SECONDS * rate as usize,
                (false, Which::Rabbitmq, _) => arguments.messages / 5 / fewer,
                // What it holds is bounded: a backlog of more would not fit.
                (false, Which::Memory, _) => arguments.messages / 4 / fewer,
                (false, ..) => arguments.messages / fewer,
            };
            let load = Load { messages, payload_bytes: arguments.payload, keys: arguments.keys };
            let rounds = if arguments.quick { 1 } else { arguments.rounds };
            let topic = || {
                topics += 1;
                format!("bench-{}-{topics}", std::process::id())
            };
            let measured =
                measure(&contenders, work, load, arguments.partitions, rounds, topic).await?;
            show(&Row { broker: format!("{which:?}"), row: name, measured }, arguments.json)?;
        }
    }
    Ok(())
}

async fn contenders(
    which: Which,
    address: &str,
    arguments: &Arguments,
) -> Result<Vec<Box<dyn Contender>>, BoxError> {
    let broker = match which {
        Which::Memory => Broker::new(Memory::new()),
        Which::Kafka => Broker::new(Kafka::connect(KafkaConfig::new(address)).await?),
        Which::Rabbitmq => Broker::new(Amqp::connect(AmqpConfig::new(address)).await?),
    };
    let mut contenders: Vec<Box<dyn Contender>> = vec![
        Box::new(Ours::<Bytes>::new(broker.clone(), arguments.handlers)),
        Box::new(Ours::<Typed>::new(broker, arguments.handlers)),
    ];
    match which {
        Which::Memory => {}
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

fn show(row: &Row, json: bool) -> Result<(), BoxError> {
    match json {
        true => println!("{}", serde_json::to_string(row)?),
        false => println!("{}", table(&row.broker, row.row, &row.measured)),
    }
    Ok(())
}

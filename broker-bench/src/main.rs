//! Compares `anybroker` with the raw clients, side by side in one run, on real brokers.
//!
//! Every contender does the same work in turn, round after round, on the same broker, so that what
//! disturbs the machine disturbs all. No figure is printed for messages that were not all
//! confirmed, received once and in the order of their keys.

mod contender;
mod cost;
mod kafka;
mod load;
mod ours;
mod rabbitmq;
mod row;

use std::process::ExitCode;

use broker_amqp::{Amqp, AmqpConfig};
use broker_api::{BoxError, Broker, Memory};
use broker_kafka::{Kafka, KafkaConfig};
use broker_testkit::brokers::RealBroker;
use broker_testkit::local::RabbitMqVersion;
use clap::{Parser, ValueEnum};
use serde::Serialize;

use contender::{Contender, Publishing};
use load::Load;
use ours::Ours;
use row::{Measured, Work, measure};

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
    /// Rounds of each row; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Messages of each row and round on Kafka and memory; RabbitMQ gets a tenth.
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

const ROWS: [(&str, Work, usize); 4] = [
    ("publish, pipelined", Work::Publish(Publishing::Pipelined), 1),
    ("publish, 100 tasks", Work::Publish(Publishing::Tasks(100)), 5),
    ("publish, one by one", Work::Publish(Publishing::Tasks(1)), 100),
    ("consume", Work::Consume, 1),
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
            let messages = match (arguments.quick, which) {
                (true, _) => 2_000,
                (false, Which::Rabbitmq) => arguments.messages / 10,
                (false, _) => arguments.messages,
            };
            let load = Load { messages, payload_bytes: arguments.payload, keys: arguments.keys };
            let rounds = if arguments.quick { 1 } else { arguments.rounds };
            let topic = || {
                topics += 1;
                format!("bench-{}-{topics}", std::process::id())
            };
            let load = load.divided_by(fewer);
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
    let ours = |broker| -> Box<dyn Contender> { Box::new(Ours::new(broker, arguments.handlers)) };
    Ok(match which {
        Which::Memory => vec![ours(Broker::new(Memory::new()))],
        Which::Kafka => vec![
            ours(Broker::new(Kafka::connect(KafkaConfig::new(address)).await?)),
            Box::new(kafka::Best::new(address)?),
            Box::new(kafka::Readme::new(address)?),
        ],
        Which::Rabbitmq => vec![
            ours(Broker::new(Amqp::connect(AmqpConfig::new(address)).await?)),
            Box::new(rabbitmq::Best::new(address, arguments.partitions).await?),
            Box::new(rabbitmq::Readme::new(address, arguments.partitions).await?),
        ],
    })
}

fn show(row: &Row, json: bool) -> Result<(), BoxError> {
    if json {
        println!("{}", serde_json::to_string(row)?);
        return Ok(());
    }
    println!("\n{}: {}", row.broker, row.row);
    println!(
        "  {:18} {:>9} {:>21} {:>7} {:>9} {:>7}  latency p50/p99/p99.9 µs",
        "", "msg/s", "min-max", "ratio", "CPU µs", "ratio"
    );
    let ours = row.measured.first();
    for measured in &row.measured {
        let ratio = |figure: fn(&Measured) -> f64| {
            ours.map_or(f64::NAN, |ours| figure(ours) / figure(measured))
        };
        let latency =
            measured.latency_micros.map_or(String::new(), |[a, b, c]| format!("{a}/{b}/{c}"));
        println!(
            "  {:18} {:>9.0} {:>10.0}-{:<10.0} {:>7.2} {:>9.2} {:>7.2}  {}",
            measured.contender,
            measured.rate_median,
            measured.rate_min,
            measured.rate_max,
            ratio(|m| m.rate_median),
            measured.cpu_micros_median,
            ratio(|m| m.cpu_micros_median),
            latency,
        );
    }
    Ok(())
}

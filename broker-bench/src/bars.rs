//! The bars that were set, and whether they are held.

use crate::row::Measured;
use crate::{Row, Which};

/// What is compared.
#[derive(Clone, Copy)]
enum Figure {
    Rate,
    Cpu,
    /// The percentile 50, or 99.
    P50,
    P99,
}

/// One contender's figure divided by another's, or by nothing, against a limit.
struct Bar {
    broker: Which,
    row: &'static str,
    figure: Figure,
    ours: &'static str,
    other: &'static str,
    limit: Limit,
}

#[derive(Clone, Copy)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}
use Figure::{Cpu, P50, P99, Rate};
use Limit::{AtLeast, AtMost};
use Which::{Kafka, Memory, Rabbitmq};

const OURS: &str = "anybroker";
const TYPED: &str = "anybroker, typed JSON";
const RDKAFKA: &str = "rdkafka, tuned";
const LAPIN: &str = "lapin, tuned";

const fn bar(
    broker: Which,
    row: &'static str,
    figure: Figure,
    (ours, other): (&'static str, &'static str),
    limit: Limit,
) -> Bar {
    Bar { broker, row, figure, ours, other, limit }
}

/// Those of the issue that asked for speed.
const BARS: [Bar; 19] = [
    bar(Kafka, "publish, pipelined", Rate, (OURS, RDKAFKA), AtLeast(1.0)),
    bar(Kafka, "publish, pipelined", Cpu, (OURS, RDKAFKA), AtMost(1.2)),
    bar(Kafka, "consume", Rate, (OURS, RDKAFKA), AtLeast(0.9)),
    bar(Kafka, "consume", Cpu, (OURS, RDKAFKA), AtMost(1.5)),
    bar(Kafka, "publish, one by one", P50, (OURS, RDKAFKA), AtMost(1.05)),
    bar(Kafka, "publish, one by one", P99, (OURS, RDKAFKA), AtMost(1.05)),
    bar(Kafka, "end to end, 1,000 a second", P50, (OURS, RDKAFKA), AtMost(1.05)),
    bar(Kafka, "end to end, 1,000 a second", P99, (OURS, RDKAFKA), AtMost(1.05)),
    bar(Rabbitmq, "publish, pipelined", Rate, (OURS, LAPIN), AtLeast(1.0)),
    bar(Rabbitmq, "consume", Rate, (OURS, LAPIN), AtLeast(1.0)),
    bar(Rabbitmq, "consume", Rate, (OURS, "lapin, README"), AtLeast(5.0)),
    bar(Rabbitmq, "publish, one by one", P50, (OURS, LAPIN), AtMost(1.05)),
    bar(Rabbitmq, "publish, one by one", P99, (OURS, LAPIN), AtMost(1.05)),
    bar(Rabbitmq, "end to end, 1,000 a second", P50, (OURS, LAPIN), AtMost(1.05)),
    bar(Rabbitmq, "end to end, 1,000 a second", P99, (OURS, LAPIN), AtMost(1.05)),
    bar(Rabbitmq, "publish, pipelined", Rate, (TYPED, OURS), AtLeast(0.8)),
    bar(Rabbitmq, "consume", Rate, (TYPED, OURS), AtLeast(0.8)),
    bar(Memory, "publish to ack on one core", Cpu, (OURS, ""), AtMost(1.0)),
    bar(Memory, "publish to ack on one core", Cpu, ("anybroker, routed", OURS), AtMost(1.02)),
];

impl Bar {
    /// Its line of the table; `None` if it was not measured.
    fn judge(&self, rows: &[Row]) -> Option<String> {
        let row = rows.iter().find(|row| row.broker == self.broker && row.row == self.row)?;
        let ours = self.figure.of(row.measured.iter().find(|it| it.contender == self.ours)?)?;
        let (is, beside) = match self.other {
            "" => (ours, "µs".to_owned()),
            other => {
                let measured = row.measured.iter().find(|it| it.contender == other)?;
                (ours / self.figure.of(measured)?, format!("x {other}"))
            }
        };
        let (limit, held) = match self.limit {
            AtLeast(limit) => (format!(">= {limit:.2} {beside}"), is >= limit),
            AtMost(limit) => (format!("<= {limit:.2} {beside}"), is <= limit),
        };
        let (figure, held) = (self.figure.name(), if held { "held" } else { "**missed**" });
        let Self { broker, row, ours, .. } = self;
        Some(format!("| {broker:?}: {row} | {ours} | {figure} | {limit} | {is:.2} | {held} |\n"))
    }
}

impl Figure {
    fn of(self, measured: &Measured) -> Option<f64> {
        let latency = |index: usize| Some(measured.latency_micros?[index] as f64);
        match self {
            Rate => Some(measured.rate_median),
            Cpu => Some(measured.cpu_micros_median),
            P50 => latency(0),
            P99 => latency(1),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Rate => "messages a second",
            Cpu => "CPU time a message",
            P50 => "p50",
            P99 => "p99",
        }
    }
}

/// A table of the bars that these rows say something about; empty if there are none.
pub(crate) fn judged(rows: &[Row]) -> String {
    let lines: String = BARS.iter().filter_map(|bar| bar.judge(rows)).collect();
    if lines.is_empty() {
        return lines;
    }
    let head = "| row | of | figure | bar | is | |\n|---|---|---|---|---:|---|\n";
    format!("\n### Against the bars\n\n{head}{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(rates: [f64; 2]) -> Row {
        let measured = [OURS, RDKAFKA].into_iter().zip(rates).map(|(contender, rate)| Measured {
            contender: contender.into(),
            rate_median: rate,
            ..Measured::default()
        });
        Row { broker: Kafka, row: "consume", measured: measured.collect() }
    }

    #[test]
    fn a_bar_is_held_or_missed_by_what_was_measured() {
        assert!(
            judged(&[row([95.0, 100.0])]).contains("| >= 0.90 x rdkafka, tuned | 0.95 | held |")
        );
        assert!(judged(&[row([80.0, 100.0])]).contains("| 0.80 | **missed** |"));
        assert_eq!(judged(&[]), "");
    }

    #[test]
    fn every_bar_is_of_a_row_that_there_is() {
        for bar in BARS {
            assert!(crate::ROWS.iter().any(|(name, ..)| *name == bar.row), "{}", bar.row);
        }
    }
}

//! Every metric: its name, kind, unit and attributes. `docs/TELEMETRY.md` is checked against this.

use metrics::Unit;

pub(super) const SYSTEM: &str = "messaging.system";
pub(super) const OPERATION: &str = "messaging.operation.name";
pub(super) const OPERATION_TYPE: &str = "messaging.operation.type";
pub(super) const DESTINATION: &str = "messaging.destination.name";
pub(super) const GROUP: &str = "messaging.consumer.group.name";
pub(super) const ERROR: &str = "error.type";
pub(super) const RETRY: &str = "anybroker.retry.kind";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Unit,
    pub(super) about: &'static str,
    /// The attributes it may have: `error.type` only where something failed, the group not in a
    /// reading, which has none.
    pub(super) attributes: &'static [&'static str],
}

pub(super) static SENT: Metric = Metric {
    name: "messaging.client.sent.messages",
    kind: Kind::Counter,
    unit: Unit::Count,
    about: "Messages handed to the broker, once each has its answer",
    attributes: &[SYSTEM, OPERATION, DESTINATION, ERROR],
};

pub(super) static SEND_DURATION: Metric = Metric {
    name: "messaging.client.operation.duration",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    about: "From the start of a publish to the broker's answer, or to its refusal before sending",
    attributes: &[SYSTEM, OPERATION, OPERATION_TYPE, DESTINATION, ERROR],
};

pub(super) static PUBLISHING: Metric = Metric {
    name: "anybroker.publisher.in_flight",
    kind: Kind::Gauge,
    unit: Unit::Count,
    about: "Messages handed to the broker and not answered yet",
    attributes: &[SYSTEM, DESTINATION],
};

pub(super) static CONSUMED: Metric = Metric {
    name: "messaging.client.consumed.messages",
    kind: Kind::Counter,
    unit: Unit::Count,
    about: "Messages that the broker delivered, redeliveries counted again",
    attributes: &[SYSTEM, OPERATION, DESTINATION, GROUP],
};

pub(super) static PROCESS_DURATION: Metric = Metric {
    name: "messaging.process.duration",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    about: "One call of a handler, until what it published is confirmed",
    attributes: &[SYSTEM, OPERATION, DESTINATION, GROUP, ERROR],
};

pub(super) static FAILURES: Metric = Metric {
    name: "anybroker.consumer.failures",
    kind: Kind::Counter,
    unit: Unit::Count,
    about: "Messages that could not be handled, each time: every attempt that failed",
    attributes: &[SYSTEM, DESTINATION, GROUP, ERROR],
};

pub(super) static RETRIES: Metric = Metric {
    name: "anybroker.consumer.retries",
    kind: Kind::Counter,
    unit: Unit::Count,
    about: "Messages that failed and are to be handled again, each time",
    attributes: &[SYSTEM, DESTINATION, GROUP, RETRY],
};

pub(super) static DEAD_LETTERS: Metric = Metric {
    name: "anybroker.consumer.dead_letters",
    kind: Kind::Counter,
    unit: Unit::Count,
    about: "Messages stored in the dead-letter topic",
    attributes: &[SYSTEM, DESTINATION, GROUP, ERROR],
};

pub(super) static DISCARDS: Metric = Metric {
    name: "anybroker.consumer.discards",
    kind: Kind::Counter,
    unit: Unit::Count,
    about: "Messages given up without a dead letter",
    attributes: &[SYSTEM, DESTINATION, GROUP, ERROR],
};

pub(super) static HELD: Metric = Metric {
    name: "anybroker.consumer.in_flight",
    kind: Kind::Gauge,
    unit: Unit::Count,
    about: "Messages that a consumer has in hand: being handled, or waiting for their turn",
    attributes: &[SYSTEM, DESTINATION, GROUP],
};

pub(super) static LAG: Metric = Metric {
    name: "anybroker.consumer.lag",
    kind: Kind::Gauge,
    unit: Unit::Count,
    about: "Messages of the topic that the whole group has not settled, asked every 15 s",
    attributes: &[SYSTEM, DESTINATION, GROUP],
};

pub(super) static ALL: [&Metric; 11] = [
    &SENT,
    &SEND_DURATION,
    &PUBLISHING,
    &CONSUMED,
    &PROCESS_DURATION,
    &FAILURES,
    &RETRIES,
    &DEAD_LETTERS,
    &DISCARDS,
    &HELD,
    &LAG,
];

//! Micro-benchmarks of what this workspace has of its own: `cargo bench -p broker-bench`.
//!
//! Parts that are private to their crates are compiled here once more, from the same files, so that
//! nothing is public for the sake of a benchmark.

mod carried;
mod kept;

/// What the files below call their own crate's.
mod name {
    pub(crate) use broker_api::Name;
}
mod sieve {
    pub(crate) use crate::tame::Tame;
}

#[allow(unused)]
#[path = "../../../broker-api/src/consumer/lanes.rs"]
mod lanes;

#[allow(unused)]
#[path = "../../../broker-amqp/src/consume/ledger/mod.rs"]
mod ledger;

#[allow(unused)]
#[path = "../../../broker-kafka/src/chunk.rs"]
mod chunk;
#[allow(unused)]
#[path = "../../../broker-kafka/src/native.rs"]
mod native;
#[allow(unused)]
#[path = "../../../broker-kafka/src/record.rs"]
mod record;

#[allow(unused)]
#[path = "../../../broker-amqp/src/foreign.rs"]
mod foreign;
#[allow(unused)]
#[path = "../../../broker-amqp/src/headers.rs"]
mod headers;
#[allow(unused)]
#[path = "../../../broker-amqp/src/layout.rs"]
mod layout;
#[allow(unused)]
#[path = "../../../broker-amqp/src/sieve/tame.rs"]
mod tame;

fn main() {
    divan::main();
}

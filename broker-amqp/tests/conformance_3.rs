//! The conformance suite on RabbitMQ 3.10: the one at `RABBITMQ_3_URL`, else a local process.

use broker_testkit::local::RabbitMqVersion;

mod provider;

fn main() -> std::process::ExitCode {
    provider::run("rabbitmq 3.10", RabbitMqVersion::V3, "RABBITMQ_3_URL")
}

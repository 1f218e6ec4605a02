//! The conformance suite on RabbitMQ 4: the one at `RABBITMQ_URL`, else a local process.

use broker_testkit::local::RabbitMqVersion;

mod provider;

fn main() -> std::process::ExitCode {
    provider::run("rabbitmq 4", RabbitMqVersion::V4, "RABBITMQ_URL")
}

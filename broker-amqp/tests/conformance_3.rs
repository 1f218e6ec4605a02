//! The conformance suite on RabbitMQ 3.10.

use broker_testkit::local::RabbitMqVersion;

mod provider;

fn main() -> std::process::ExitCode {
    provider::run("rabbitmq 3.10", RabbitMqVersion::V3)
}

//! The conformance suite on RabbitMQ 4.

use broker_testkit::local::RabbitMqVersion;

mod provider;

fn main() -> std::process::ExitCode {
    provider::run("rabbitmq 4", RabbitMqVersion::V4)
}

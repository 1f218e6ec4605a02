//! The conformance suite with the group protocol of KIP-848.

use broker_kafka::{GroupProtocol, KafkaConfig};

mod provider;

fn main() -> std::process::ExitCode {
    provider::run("kafka (KIP-848)", |config| KafkaConfig {
        group_protocol: GroupProtocol::Consumer,
        ..config
    })
}

//! The conformance suite with the group protocol of KIP-848.

use broker_kafka::{GroupProtocol, KafkaConfig};
use broker_testkit::conformance;

mod provider;

fn main() -> std::process::ExitCode {
    let group_protocol = GroupProtocol::Consumer;
    let provider = provider::kafka(move |config| KafkaConfig { group_protocol, ..config });
    conformance::run("kafka (KIP-848)", move || provider())
}

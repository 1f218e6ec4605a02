//! Attempts in place that last longer than a Kafka client may go without polling: what would stop
//! polling meanwhile would lose its partitions.

use std::time::Duration;

use broker_kafka::{GroupProtocol, KafkaConfig};
use broker_testkit::conformance::{self, Outcome};

mod provider;

/// Its attempts last for seven seconds.
const CASE: &str = "retry::attempts_in_place_leave_the_member_in_its_group";

#[track_caller]
fn passes(settings: impl Fn(KafkaConfig) -> KafkaConfig + Send + Sync + 'static) {
    let provider = provider::kafka(settings);
    let case = conformance::cases().find(|case| case.name() == CASE);
    let outcome = conformance::check(&case.expect(CASE), move || provider());
    assert!(!matches!(outcome, Outcome::Failed(_)), "{outcome}");
}

fn shortest_silence(config: KafkaConfig) -> KafkaConfig {
    config.property("max.poll.interval.ms", "6000")
}

#[test]
fn a_member_of_the_classic_protocol_stays() {
    passes(|config| {
        // Not longer than the silence, or librdkafka refuses it.
        let session_timeout = Some(Duration::from_secs(6));
        let heartbeat_interval = Some(Duration::from_secs(1));
        shortest_silence(KafkaConfig { session_timeout, heartbeat_interval, ..config })
    });
}

#[test]
fn a_member_of_kip_848_stays() {
    passes(|config| {
        let group_protocol = GroupProtocol::Consumer;
        shortest_silence(KafkaConfig { group_protocol, ..config })
    });
}

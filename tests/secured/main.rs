//! Logging in, by every way that the brokers have, on brokers that let nobody else in; and that no secret of it is ever told.

mod kafka;
#[path = "../../broker-testkit/tests/launched/mod.rs"]
mod launched;
mod log;
mod rabbitmq;
mod user;

use std::process::ExitCode;

use broker_testkit::local::RabbitMqVersion;
use libtest_mimic::{Arguments, Trial};

use launched::Outcome;

/// In every password here, so that a log can be searched for it.
const SECRET: &str = "Xq7-never-shown";

/// What librdkafka says of logging in.
const SASL: &str = "sasl";
/// What is logged of a connection to RabbitMQ.
const LAPIN: &str = "lapin::";

fn main() -> ExitCode {
    log::capture();
    let trials = vec![
        trial("Kafka lets in who may, and tells the others why not", SASL, kafka::logins),
        trial("Kafka's missing permissions are permanent errors", SASL, kafka::permissions),
        trial("RabbitMQ 3 lets in who may, and tells the others why not", LAPIN, || {
            rabbitmq::logins(RabbitMqVersion::V3)
        }),
        trial("RabbitMQ 4 lets in who may, and tells the others why not", LAPIN, || {
            rabbitmq::logins(RabbitMqVersion::V4)
        }),
        trial("RabbitMQ's missing permissions are permanent errors", LAPIN, rabbitmq::permissions),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A test at whose end the log has been searched for secrets.
fn trial<F>(name: &str, said: &'static str, test: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output = Outcome>,
{
    launched::trial(name.to_owned(), async move || {
        test().await?;
        log::holds_no_secret(said)
    })
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise().into()) }
}

//! A real broker is found or started once, shared, killed and restarted, and ended with the last handle.

use std::process::ExitCode;

use broker_testkit::brokers::RealBroker;
use broker_testkit::local::RabbitMqVersion;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    let all = [
        ("Kafka", RealBroker::kafka()),
        ("RabbitMQ 3", RealBroker::rabbitmq(RabbitMqVersion::V3)),
        ("RabbitMQ 4", RealBroker::rabbitmq(RabbitMqVersion::V4)),
    ];
    let trials = all.map(|(name, broker)| {
        let name = format!("{name} is shared, killed, restarted, and ended with its last handle");
        Trial::ignorable_test(name, || lives(broker.own()))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

fn lives(broker: RealBroker) -> Result<Completion, Failed> {
    let address = match runtime()?.block_on(broker.address()) {
        Ok(address) => address,
        Err(why) => match why.why_absent() {
            Some(tried) => return Ok(Completion::ignored_with(tried)),
            None => return Err(format!("{why:?}").into()),
        },
    };
    let other = broker.clone();
    let same = runtime()?.block_on(other.address()).is_ok_and(|other| other == address);
    ensure(same, "another handle has another address")?;
    drop(other);

    ensure(listens(&address)?, "it does not answer")?;
    runtime()?.block_on(broker.kill())?;
    ensure(!listens(&address)?, "it answers after it was killed")?;
    runtime()?.block_on(broker.restart())?;
    ensure(listens(&address)?, "it does not answer after it was restarted")?;
    drop(broker);
    ensure(!listens(&address)?, "it outlives its last handle")?;
    Ok(Completion::Completed)
}

/// One for each use, as each case of the suite has its own.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// `host:port`, or the same within a URL.
fn listens(address: &str) -> std::io::Result<bool> {
    let address = address.rsplit('@').next().unwrap_or_default().trim_end_matches("/%2f");
    Ok(runtime()?.block_on(TcpStream::connect(address)).is_ok())
}

fn ensure(holds: bool, otherwise: &str) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

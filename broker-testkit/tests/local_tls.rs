//! The TLS listeners of local brokers, seen by a stranger: the program `openssl`.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use broker_testkit::local::{
    Certificates, Identity, Kafka, KafkaConfig, LocalBroker, RabbitMq, RabbitMqConfig,
    RabbitMqVersion,
};
use libtest_mimic::Arguments;

mod launched;

use launched::{Outcome, trial};

fn main() -> ExitCode {
    let named =
        |broker: &str| format!("{broker} proves who it is, and lets in who has a certificate");
    let trials = vec![
        trial(named("Kafka"), kafka),
        trial(named("RabbitMQ 3"), || rabbitmq(RabbitMqVersion::V3)),
        trial(named("RabbitMQ 4"), || rabbitmq(RabbitMqVersion::V4)),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

async fn kafka() -> Outcome {
    let certificates = Certificates::generate().await?;
    let config = KafkaConfig::default().tls(&certificates).property("ssl.client.auth", "required");
    let kafka = Kafka::start(config).await?;
    let address = kafka.address("SSL").ok_or("no address")?;
    checks(&kafka, address, &certificates).await
}

async fn rabbitmq(version: RabbitMqVersion) -> Outcome {
    let certificates = Certificates::generate().await?;
    let config = RabbitMqConfig::version(version)
        .tls(&certificates)
        .setting("ssl_options.fail_if_no_peer_cert", "true");
    let rabbitmq = RabbitMq::start(config).await?;
    let url = rabbitmq.amqps_url().ok_or("no URL")?;
    let address = url.strip_prefix("amqps://guest:guest@").and_then(|url| url.strip_suffix("/%2f"));
    checks(&rabbitmq, address.ok_or("another URL")?, &certificates).await
}

async fn checks(broker: &LocalBroker, address: &str, certificates: &Certificates) -> Outcome {
    let other = Certificates::generate().await?;
    let (authority, client) = (certificates.authority(), certificates.client());
    ensure(connects(address, &authority, Some(&client))?, "a known client is refused")?;
    ensure(!connects(address, &authority, None)?, "it lets in who has no certificate")?;
    ensure(
        !connects(address, &authority, Some(&other.client()))?,
        "it lets in whom another authority knows",
    )?;
    ensure(
        !connects(address, &other.authority(), Some(&client))?,
        "another authority knows the broker",
    )?;
    // It has what it needs in its own directory.
    broker.restart().await?;
    ensure(connects(address, &authority, Some(&client))?, "a known client is refused afterwards")
}

/// Whether both sides are content with each other. In TLS 1.2, where the client's certificate is part of the handshake.
fn connects(address: &str, authority: &Path, client: Option<&Identity>) -> Outcome<bool> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-tls1_2", "-brief", "-verify_return_error", "-connect", address]);
    command.arg("-CAfile").arg(authority);
    if let Some(Identity { certificate, key, .. }) = client {
        command.arg("-cert").arg(certificate).arg("-key").arg(key);
    }
    let output = command.stdin(Stdio::null()).output()?;
    Ok(output.status.success()
        && String::from_utf8_lossy(&output.stderr).contains("Verification: OK"))
}

fn ensure(holds: bool, otherwise: &str) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

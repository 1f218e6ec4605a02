//! What an application says when it cannot reach its broker: one line, which names the variable to
//! look at and the remedy, without any secret.

use std::error::Error;
use std::net::TcpListener;
use std::path::Path;

use broker_testkit::local::{Kafka, KafkaConfig};

use crate::app::App;
use crate::places::{Kind, Visit};
use crate::{Outcome, ensure};

/// Stands in every password here.
const SECRET: &str = "hunter2";

/// How long connecting may take, where an application is to be told that it took too long.
const PATIENCE_MS: &str = "3000";

/// Variables, and what the line has to contain.
type Refusal<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

/// Found before anything is connected.
pub(crate) fn bad_settings(_: &Path) -> Outcome {
    let kafka = ("KAFKA_ENABLED", "true");
    let brokers = ("KAFKA_BROKERS", "127.0.0.1:1");
    let everywhere: &[Refusal] = &[
        // Malformed.
        (&[("KAFKA_ENABLED", "maybe")], &["KAFKA_ENABLED", "\"maybe\"", "write true or false"]),
        (&[("BROKER", "nats")], &["BROKER", "\"nats\"", "kafka, rabbitmq, amqp, memory"]),
        (&[("BROKER_DRAIN_TIMEOUT", "30s")], &["BROKER_DRAIN_TIMEOUT", "milliseconds; write"]),
        // Unknown.
        (&[("KAFKA_BROKER", "a:1")], &["KAFKA_BROKER:", "did you mean KAFKA_BROKERS?"]),
        (&[("RABBITMQ_URI", SECRET)], &["RABBITMQ_URI:", "did you mean RABBITMQ_URL?"]),
        // Missing.
        (&[brokers], &["KAFKA_BROKERS", "set KAFKA_ENABLED=true"]),
        (&[("BROKER_CONFIG", "/no/such.toml")], &["BROKER_CONFIG", "/no/such.toml"]),
        // Contradictory.
        (
            &[("BROKER", "kafka"), ("KAFKA_ENABLED", "false"), brokers],
            &["KAFKA_ENABLED", "remove one of them"],
        ),
    ];
    let on_kafka: &[Refusal] = &[
        (&[kafka], &["KAFKA_BROKERS", "set KAFKA_BROKERS=host:port"]),
        (
            &[kafka, brokers, ("KAFKA_SASL_USERNAME", "user")],
            &["KAFKA_SASL_PASSWORD", "set it as well"],
        ),
        (
            &[kafka, brokers, ("KAFKA_SASL_PASSWORD", SECRET)],
            &["KAFKA_SASL_USERNAME", "set it as well"],
        ),
        (
            &[kafka, brokers, ("KAFKA_HEARTBEAT_INTERVAL", "50000")],
            &["KAFKA_HEARTBEAT_INTERVAL", "not below the session timeout", "or KAFKA_SESSION"],
        ),
        (
            &[kafka, brokers, ("KAFKA_SSL", "false"), ("KAFKA_SECURITY_PROTOCOL", "ssl")],
            &["KAFKA_SSL", "contradicts KAFKA_SECURITY_PROTOCOL", "remove one of them"],
        ),
        (
            &[kafka, brokers, ("KAFKA_PROPERTIES_NO_SUCH_PROPERTY", SECRET)],
            &["KAFKA_PROPERTIES_NO_SUCH_PROPERTY"],
        ),
    ];
    let on_rabbitmq: &[Refusal] = &[
        (&[("BROKER", "rabbitmq")], &["RABBITMQ_URL", "set RABBITMQ_URL=amqp://"]),
        (
            &[("RABBITMQ_URL", "guest:hunter2@localhost:5672")],
            &["RABBITMQ_URL", "amqp://user:password@"],
        ),
        (&[("RABBITMQ_URL", "amqp://guest:hunter2@localhost/")], &["RABBITMQ_URL", "/%2f"]),
        (
            &[("RABBITMQ_URL", "amqp://localhost"), ("RABBITMQ_HEARTBEAT", "1500")],
            &["RABBITMQ_HEARTBEAT", "write a multiple of 1000"],
        ),
    ];
    let on_kafka = if cfg!(feature = "kafka") { on_kafka } else { &[] };
    let on_rabbitmq = if cfg!(feature = "amqp") { on_rabbitmq } else { &[] };
    for (variables, said) in everywhere.iter().chain(on_kafka).chain(on_rabbitmq) {
        for example in ["feature_usage", "credits", "booking_saga", "video_events"] {
            let printed = refused(example, variables, &["Configuration"])?;
            contains_all(&printed, said, variables)?;
        }
    }
    Ok(())
}

/// Nobody there; somebody who never answers; somebody who hangs up; no such host.
pub(crate) fn unreachable(_: &Path) -> Outcome {
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let rude = TcpListener::bind("127.0.0.1:0")?;
    let addresses = [
        "127.0.0.1:1".to_owned(),
        silent.local_addr()?.to_string(),
        rude.local_addr()?.to_string(),
        "no-such-host.invalid:1234".to_owned(),
    ];
    std::thread::spawn(move || rude.incoming().for_each(drop));
    for address in &addresses {
        if cfg!(feature = "kafka") {
            let variables = [
                ("KAFKA_ENABLED", "true"),
                ("KAFKA_BROKERS", address),
                ("KAFKA_SASL_USERNAME", "user"),
                ("KAFKA_SASL_PASSWORD", SECRET),
                ("KAFKA_CONNECT_TIMEOUT", PATIENCE_MS),
            ];
            let printed = refused("feature_usage", &variables, &["Unavailable"])?;
            contains_all(&printed, &["setting=KAFKA_BROKERS", address, "check that"], &variables)?;
        }
        if cfg!(feature = "amqp") {
            let url = format!("amqp://user:{SECRET}@{address}");
            let variables = [("RABBITMQ_URL", &*url), ("RABBITMQ_CONNECT_TIMEOUT", PATIENCE_MS)];
            let printed = refused("feature_usage", &variables, &["Unavailable"])?;
            contains_all(&printed, &["setting=RABBITMQ_URL", address, "check that"], &variables)?;
        }
    }
    drop(silent);
    Ok(())
}

/// Kafka's settings at RabbitMQ and the reverse, and encryption where there is none.
pub(crate) fn wrong_port(visit: &Visit, _: &Path) -> Outcome {
    let address = match visit.kind {
        Kind::Kafka => visit.variable("KAFKA_BROKERS")?.to_owned(),
        _ => {
            let url = visit.variable("RABBITMQ_URL")?;
            let after = url.rsplit('@').next().unwrap_or_default();
            after.split('/').next().unwrap_or_default().to_owned()
        }
    };
    let kafka = [
        ("KAFKA_ENABLED", "true"),
        ("KAFKA_BROKERS", &*address),
        ("KAFKA_CONNECT_TIMEOUT", PATIENCE_MS),
    ];
    let [plain, encrypted] = ["amqp", "amqps"].map(|s| format!("{s}://user:{SECRET}@{address}"));
    let limit = ("RABBITMQ_CONNECT_TIMEOUT", PATIENCE_MS);
    match visit.kind {
        Kind::Kafka => {
            if cfg!(feature = "amqp") {
                let printed =
                    refused("credits", &[("RABBITMQ_URL", &plain), limit], &["Unavailable"])?;
                contains_all(&printed, &["setting=RABBITMQ_URL", "check that", &address], &[])?;
            }
            let encrypted = [&kafka[..], &[("KAFKA_SSL", "true")]].concat();
            let printed = refused("credits", &encrypted, &["Unavailable"])?;
            contains_all(&printed, &["setting=KAFKA_BROKERS", "security protocol"], &encrypted)
        }
        _ => {
            if cfg!(feature = "kafka") {
                let printed = refused("credits", &kafka, &["Unavailable"])?;
                contains_all(&printed, &["setting=KAFKA_BROKERS", "check that", "port"], &kafka)?;
            }
            let encrypted = [("RABBITMQ_URL", &*encrypted), limit];
            let printed = refused("credits", &encrypted, &["Unavailable"])?;
            contains_all(&printed, &["setting=RABBITMQ_URL", "amqp://"], &[])
        }
    }
}

/// A user that the broker does not let in, or not there.
pub(crate) fn refused_credentials(visit: &Visit, _: &Path) -> Outcome {
    if visit.kind == Kind::Kafka {
        return refused_by_kafka(visit);
    }
    let url = visit.variable("RABBITMQ_URL")?;
    let at = url.rsplit('@').next().unwrap_or_default();
    for user in ["guest", "stranger"] {
        let url = format!("amqp://{user}:{SECRET}@{at}");
        let printed = refused("credits", &[("RABBITMQ_URL", &url)], &["Unauthenticated"])?;
        contains_all(&printed, &["setting=RABBITMQ_URL", user, "password"], &[])?;
    }
    let elsewhere = url.replace("%2f", "no-such-host");
    let printed = refused("credits", &[("RABBITMQ_URL", &elsewhere)], &["Configuration"])?;
    contains_all(&printed, &["setting=RABBITMQ_URL", "virtual host", "no-such-host"], &[])
}

fn refused_by_kafka(visit: &Visit) -> Outcome {
    let config = KafkaConfig::default()
        .listener("LOGIN", "SASL_PLAINTEXT")
        .property("sasl.enabled.mechanisms", "PLAIN")
        .property(
            "listener.name.login.plain.sasl.jaas.config",
            "org.apache.kafka.common.security.plain.PlainLoginModule required user_user=\"right\";",
        );
    let kafka = visit.block_on(Kafka::start(config))?;
    let address = kafka.address("LOGIN").ok_or("no such listener")?;
    let variables = |mechanism, password| {
        [
            ("KAFKA_ENABLED", "true"),
            ("KAFKA_BROKERS", address),
            ("KAFKA_SASL_MECHANISM", mechanism),
            ("KAFKA_SASL_USERNAME", "user"),
            ("KAFKA_SASL_PASSWORD", password),
        ]
    };
    for (mechanism, said) in [("plain", "password"), ("scram-sha-256", "mechanism")] {
        let variables = variables(mechanism, SECRET);
        let printed = refused("credits", &variables, &["Unauthenticated"])?;
        contains_all(&printed, &["KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD", said], &[])?;
    }
    // The address is right, as the right password shows.
    let right = owned(&variables("plain", "right"));
    App::start("credits", &["publish"], &right)?.succeed()?;
    // Without a user, and with one where nobody asks for any.
    let nobody = [variables("plain", "").as_slice()[..2].to_vec()].concat();
    let printed = refused(
        "credits",
        &[&nobody[..], &[("KAFKA_CONNECT_TIMEOUT", PATIENCE_MS)]].concat(),
        &[],
    )?;
    contains_all(&printed, &["setting=KAFKA_BROKERS", "security protocol"], &[])
}

/// The one line that an application ends with, which is of one of these kinds.
fn refused(
    example: &str,
    variables: &[(&str, &str)],
    kinds: &[&str],
) -> Result<String, Box<dyn Error>> {
    let mut app = App::start(example, &["publish"], &owned(variables))?;
    let (status, _, errors) = app.end()?;
    let told = format!("{variables:?}: {status}: {errors}");
    ensure(status.code() == Some(1) && errors.lines().count() == 1, &told)?;
    ensure(errors.starts_with("error: ") && !errors.contains(SECRET), &told)?;
    ensure(kinds.iter().all(|kind| errors.contains(kind)), &told)?;
    Ok(errors)
}

fn contains_all(line: &str, parts: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let missing: Vec<_> = parts.iter().filter(|part| !line.contains(**part)).collect();
    ensure(missing.is_empty(), &format!("{missing:?} not in {line:?}, with {variables:?}"))
}

fn owned(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

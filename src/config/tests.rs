use std::collections::BTreeMap;

use super::keys::{ALL, Kind};
use super::*;

/// A value that is not the default.
fn other_value(key: &Key) -> String {
    match (key.variable, key.kind) {
        ("BROKER_CONFIG", _) => concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into(),
        ("RABBITMQ_URL", _) => "amqp://user:other@elsewhere:5672".into(),
        (_, Kind::Path) => "/dev/null".into(),
        (_, Kind::Text | Kind::Secret) => "other".into(),
        (_, Kind::Bool) => "true".into(),
        (_, Kind::Millis) => "12000".into(),
        (_, Kind::Bytes | Kind::Number) => "1000".into(),
        (_, Kind::Addresses) => "elsewhere:1234".into(),
        (_, Kind::Choice(words)) => words.last().map(|word| (*word).into()).unwrap_or_default(),
        (_, Kind::Routes) => "topic=memory".into(),
        (_, Kind::Properties) => "5".into(),
    }
}

fn debug(variables: &BTreeMap<String, String>) -> String {
    // An error is an effect as well.
    format!("{:?}", Config::from_variables(variables))
}

#[test]
fn every_setting_of_the_table_has_an_effect() {
    for key in ALL {
        let mut variables: BTreeMap<_, _> = [
            ("KAFKA_BROKERS", "here:9092"),
            ("RABBITMQ_URL", "amqp://user:password@here:5672"),
            ("KAFKA_SASL_USERNAME", "user"),
            ("KAFKA_SASL_PASSWORD", "password"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        variables.insert("BROKER".into(), "kafka".into());
        variables.insert("BROKER_ROUTES".into(), "elsewhere=rabbitmq".into());
        let name = match (key.kind, key.variable) {
            (Kind::Properties, _) => format!("{}LINGER_MS", key.variable),
            (_, "KAFKA_ENABLED") => {
                variables.remove("BROKER");
                key.variable.into()
            }
            _ => key.variable.into(),
        };
        let before = debug(&variables);
        variables.remove(&name);
        let without = debug(&variables);
        variables.insert(name, other_value(key));
        let after = debug(&variables);
        assert_ne!(after, without, "{}", key.variable);
        // Of a secret only shows whether it is there.
        if key.kind != Kind::Secret {
            assert_ne!(after, before, "{}", key.variable);
        }
    }
}

#[test]
fn the_defaults_of_the_table_are_those_that_hold() {
    let variables = |more: &[&Key]| {
        let mut variables: BTreeMap<_, _> = [
            ("BROKER", "kafka"),
            ("BROKER_ROUTES", "elsewhere=rabbitmq"),
            ("KAFKA_BROKERS", "here:9092"),
            ("RABBITMQ_URL", "amqp://here:5672"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        variables.extend(more.iter().map(|key| (key.variable.into(), key.default.into())));
        debug(&variables)
    };
    let mut compared = 0;
    for key in ALL {
        let is_value = match key.kind {
            Kind::Millis | Kind::Bytes => true,
            Kind::Choice(words) => words.contains(&key.default),
            Kind::Text => key.default != "none",
            _ => false,
        };
        // Left out, librdkafka's own default holds, which `Debug` does not know.
        let of_librdkafka = ["KAFKA_SESSION_TIMEOUT", "KAFKA_HEARTBEAT_INTERVAL"];
        if is_value && !of_librdkafka.contains(&key.variable) {
            assert_eq!(variables(&[key]), variables(&[]), "{}", key.variable);
            compared += 1;
        }
    }
    assert!(compared >= 8, "{compared}");
}

#[test]
fn a_file_key_follows_from_the_name_of_the_variable() {
    for key in ALL.iter().filter(|key| !key.file.is_empty()) {
        let lower = key.variable.to_lowercase();
        let lower = lower.strip_suffix('_').unwrap_or(&lower);
        let expected = match lower.split_once('_') {
            Some(("broker", name)) => name.to_owned(),
            Some((section, name)) => format!("{section}.{name}"),
            None => lower.to_owned(),
        };
        assert_eq!(key.file, expected);
    }
}

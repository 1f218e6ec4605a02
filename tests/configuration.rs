//! What a bad configuration is told, in one line that names the setting and the remedy.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anybroker::{BrokerKind, Config, ErrorKind};

const SECRET: &str = "hunter2";

fn from_variables(variables: &[(&str, &str)]) -> anybroker::Result<Config> {
    Config::from_variables(variables.iter().copied())
}

/// The line that these variables get, after what holds for every such line.
fn refusal(variables: &[(&str, &str)]) -> String {
    let error = from_variables(variables).expect_err(&format!("{variables:?}"));
    checked(error, &format!("{variables:?}"))
}

fn refusal_of_toml(text: &str) -> String {
    checked(Config::from_toml(text).expect_err(text), text)
}

fn checked(error: anybroker::Error, what: &str) -> String {
    assert_eq!(error.kind(), ErrorKind::Configuration, "{what}");
    assert!(error.is_permanent(), "{what}");
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains(SECRET), "{what}: {text}");
    }
    assert!(!error.to_string().contains('\n'), "{what}: {error}");
    error.to_string()
}

macro_rules! says {
    ($line:expr, $($part:expr),+ $(,)?) => {
        let line = $line;
        $(assert!(line.contains($part), "{:?} is not in: {line}", $part);)+
    };
}

#[test]
fn without_a_choice_the_error_names_the_variables_of_all_brokers() {
    says!(refusal(&[]), "KAFKA_ENABLED=true", "KAFKA_BROKERS=", "RABBITMQ_URL=", "BROKER=memory");
    // Empty variables are as good as none.
    says!(refusal(&[("KAFKA_ENABLED", ""), ("RABBITMQ_URL", "")]), "no broker is chosen");
    says!(refusal(&[("KAFKA_ENABLED", "false")]), "no broker is chosen");
}

#[test]
fn without_a_choice_the_error_points_at_what_other_libraries_read() {
    let line = refusal(&[("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"), ("AMQP_URL", "amqp://x")]);
    says!(line, "KAFKA_BOOTSTRAP_SERVERS is set, but", "AMQP_URL is set, but");
}

#[test]
fn brokers_of_kafka_alone_do_not_choose_anything_silently() {
    let line = refusal(&[("KAFKA_BROKERS", "localhost:9092")]);
    says!(line, "setting=KAFKA_BROKERS", "set KAFKA_ENABLED=true");
}

#[test]
fn a_malformed_value_is_told_with_what_was_expected() {
    for (name, value, expected) in [
        ("KAFKA_ENABLED", "maybe", "\"maybe\" is not a boolean; write true or false"),
        ("BROKER", "nats", "\"nats\" is not one of kafka, rabbitmq, amqp, memory"),
        ("BROKER_DRAIN_TIMEOUT", "30s", "\"30s\" is not a number of milliseconds; write"),
        ("BROKER_PUBLISH_BUFFER", "64MB", "\"64MB\" is not a number of bytes; write"),
        ("BROKER_PUBLISH_TIMEOUT", "0", "from 1 to 2147483647"),
        ("BROKER_ROUTES", "credits", "write topic=broker or beginning*=broker"),
        ("BROKER_ROUTES", "a=nats", "write topic=broker or beginning*=broker"),
        ("BROKER_ROUTES", "a b=memory", "fits no topic"),
        ("BROKER_ROUTES", "a=memory,a=memory", "there twice"),
        ("KAFKA_GROUP_ID", "a group", "a character other than"),
        // Also of a broker that is not used.
        ("KAFKA_SESSION_TIMEOUT", "soon", "\"soon\" is not a number of milliseconds"),
        ("KAFKA_BROKERS", "localhost", "write host:port"),
        ("KAFKA_BROKERS", "http://localhost:9092", "write host:port"),
        ("KAFKA_SASL_MECHANISM", "magic", "not one of plain, scram-sha-256, scram-sha-512"),
        ("RABBITMQ_CONNECT_TIMEOUT", "10s", "is not a number of milliseconds"),
    ] {
        let line = refusal(&[("BROKER", "memory"), (name, value)]);
        says!(line, &format!("setting={name}"), expected);
    }
}

#[test]
fn a_misspelled_variable_is_refused_with_the_right_name() {
    for (wrong, right) in [
        ("KAFKA_BROKER", "KAFKA_BROKERS"),
        ("KAFKA_SESSION_TIMEOUT_MS", "KAFKA_SESSION_TIMEOUT"),
        ("RABBITMQ_URI", "RABBITMQ_URL"),
        ("BROKER_DRAIN_TIMOUT", "BROKER_DRAIN_TIMEOUT"),
    ] {
        let line = refusal(&[("BROKER", "memory"), (wrong, "1")]);
        says!(line, &format!("setting={wrong}"), &format!("did you mean {right}?"));
    }
}

#[test]
fn variables_of_others_with_the_same_prefixes_are_left_alone() {
    let variables = [
        ("BROKER", "memory"),
        ("KAFKA_HEAP_OPTS", "-Xmx1g"),
        ("KAFKA_PORT_9092_TCP", "tcp://10.0.0.1:9092"),
        ("KAFKA_SERVICE_HOST", "10.0.0.1"),
        ("KAFKA_BROKERS_SERVICE_PORT", "9092"),
        ("RABBITMQ_NODENAME", "rabbit@localhost"),
        ("RABBITMQ_DEFAULT_PASS", SECRET),
        ("BROKER_URL", "redis://localhost"),
    ];
    assert_eq!(from_variables(&variables).unwrap().broker, BrokerKind::Memory);
}

#[test]
fn a_value_with_a_password_in_the_wrong_place_is_not_shown() {
    let url = format!("amqp://guest:{SECRET}@localhost:5672");
    let line = refusal(&[("BROKER", "memory"), ("KAFKA_BROKERS", &url)]);
    says!(line, "setting=KAFKA_BROKERS");
}

#[test]
fn kafka_asked_for_and_turned_off_is_a_contradiction() {
    let kafka = ("KAFKA_BROKERS", "localhost:9092");
    for asked in [("BROKER", "kafka"), ("BROKER_ROUTES", "credits*=kafka")] {
        let line = refusal(&[("RABBITMQ_URL", "amqp://x"), ("KAFKA_ENABLED", "0"), kafka, asked]);
        says!(line, "setting=KAFKA_ENABLED", "remove one of them");
    }
}

#[test]
fn a_broker_that_is_not_compiled_in_is_told_with_its_feature() {
    #[cfg(not(feature = "kafka"))]
    says!(
        refusal(&[("KAFKA_ENABLED", "true"), ("KAFKA_BROKERS", "localhost:9092")]),
        "cargo feature `kafka`"
    );
    #[cfg(not(feature = "amqp"))]
    says!(refusal(&[("RABBITMQ_URL", "amqp://localhost")]), "cargo feature `amqp`");
}

#[test]
fn a_file_says_the_same_as_variables() {
    let config = Config::from_toml(
        r#"
        broker = "memory"
        publish_timeout = 5000
        publish_buffer = 1000
        drain_timeout = "7000"
        [routes]
        "credits_*" = "memory"
        [kafka]
        group_id = "zaaz-server"
        "#,
    )
    .unwrap();
    assert_eq!(config.broker, BrokerKind::Memory);
    assert_eq!(config.settings.publish_timeout, Duration::from_secs(5));
    assert_eq!(config.settings.publish_buffer_bytes, 1000);
    assert_eq!(config.settings.drain_timeout, Duration::from_secs(7));
    assert_eq!(config.routes, [("credits_*".to_owned(), BrokerKind::Memory)]);
    assert_eq!(config.group_id.map(|group| group.as_str()), Some("zaaz-server"));
}

#[test]
fn what_is_wrong_in_a_file_is_told_with_the_key() {
    for (text, parts) in [
        ("brokers = 'memory'", ["setting=brokers", "did you mean broker?"]),
        (
            "broker = 'memory'\n[kafka]\nborkers = 'a:1'",
            ["setting=kafka.borkers", "did you mean kafka.brokers?"],
        ),
        ("broker = 'memory'\n[nats]\nurl = 'x'", ["setting=nats", "no such setting"]),
        ("broker = 'memory'\ncolour = 1", ["setting=colour", "no such setting"]),
        ("broker = ['memory']", ["setting=broker", "expected a string"]),
        (
            "broker = 'memory'\n[kafka]\nenabled = 'maybe'",
            ["setting=kafka.enabled", "write true or false"],
        ),
        ("broker = 'memory'\ndrain_timeout = 1.5", ["setting=drain_timeout", "milliseconds"]),
        ("broker = 'memory'\n[rabbitmq]\nurl = 'amqp://u:hunter2@h", ["not TOML", "line 3"]),
        ("broker = 'memory'\nbroker = 'memory'", ["not TOML", "line 2"]),
        ("[kafka]\nbrokers = 'hunter2' 'x'", ["not TOML", "line 2"]),
    ] {
        let line = refusal_of_toml(text);
        for part in parts {
            assert!(line.contains(part), "{part:?} is not in: {line}");
        }
    }
}

#[test]
fn a_variable_wins_over_the_file_that_broker_config_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broker.toml");
    std::fs::write(&path, "broker = 'memory'\ndrain_timeout = 1\npublish_timeout = 2").unwrap();
    let path = path.to_str().unwrap();
    let config = from_variables(&[("BROKER_CONFIG", path), ("BROKER_DRAIN_TIMEOUT", "9")]).unwrap();
    assert_eq!(config.settings.drain_timeout, Duration::from_millis(9));
    assert_eq!(config.settings.publish_timeout, Duration::from_millis(2));
    assert_eq!(Config::from_file(path).unwrap().settings.drain_timeout, Duration::from_millis(1));

    let missing = directory.path().join("missing.toml");
    let line = refusal(&[("BROKER_CONFIG", missing.to_str().unwrap())]);
    says!(line, "setting=BROKER_CONFIG", "missing.toml", "cannot read");
}

#[cfg(unix)]
#[test]
fn a_value_that_is_not_text_is_refused_only_where_it_is_ours() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    let bytes = || OsString::from_vec(vec![0xff]);
    let memory = || (OsString::from("BROKER"), OsString::from("memory"));
    let error = Config::from_variables([memory(), ("KAFKA_CLIENT_ID".into(), bytes())]);
    says!(checked(error.unwrap_err(), "bytes"), "setting=KAFKA_CLIENT_ID", "UTF-8");
    assert!(Config::from_variables([memory(), ("KAFKA_OPTS".into(), bytes())]).is_ok());
    assert!(Config::from_variables([memory(), (bytes(), bytes())]).is_ok());
}

#[cfg(feature = "kafka")]
mod kafka {
    use super::*;

    fn kafka_and<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut variables = vec![("KAFKA_ENABLED", "true"), ("KAFKA_BROKERS", "localhost:9092")];
        variables.extend(more);
        variables
    }

    #[test]
    fn kafka_enabled_with_brokers_is_kafka() {
        for choice in [("KAFKA_ENABLED", "TRUE"), ("KAFKA_ENABLED", "1"), ("BROKER", "kafka")] {
            let config = from_variables(&[
                choice,
                ("KAFKA_BROKERS", "a:1, b:2"),
                ("RABBITMQ_URL", "amqp://x"),
            ])
            .unwrap();
            assert_eq!(config.broker, BrokerKind::Kafka);
            assert_eq!(config.kafka.unwrap().brokers, "a:1,b:2");
        }
    }

    #[test]
    fn kafka_without_brokers_is_refused() {
        let line = refusal(&[("KAFKA_ENABLED", "true")]);
        says!(line, "setting=KAFKA_BROKERS", "set KAFKA_BROKERS=host:port");
        let line = refusal(&[("BROKER", "kafka"), ("KAFKA_BOOTSTRAP_SERVERS", "a:1")]);
        says!(line, "setting=KAFKA_BROKERS", "KAFKA_BOOTSTRAP_SERVERS is set");
    }

    #[test]
    fn settings_of_kafka_that_contradict_each_other_are_refused() {
        for (variables, setting, text) in [
            (
                &[("KAFKA_SESSION_TIMEOUT", "6000"), ("KAFKA_HEARTBEAT_INTERVAL", "6000")][..],
                "KAFKA_HEARTBEAT_INTERVAL",
                "not below the session timeout of 6000",
            ),
            // Against what holds where the other is not set.
            (&[("KAFKA_HEARTBEAT_INTERVAL", "60000")], "KAFKA_HEARTBEAT_INTERVAL", "45000"),
            (&[("KAFKA_SESSION_TIMEOUT", "2000")], "KAFKA_SESSION_TIMEOUT", "interval of 3000"),
            (
                &[("KAFKA_GROUP_PROTOCOL", "consumer"), ("KAFKA_SESSION_TIMEOUT", "6000")],
                "KAFKA_SESSION_TIMEOUT",
                "classic",
            ),
            (
                &[("KAFKA_GROUP_PROTOCOL", "consumer"), ("KAFKA_HEARTBEAT_INTERVAL", "600")],
                "KAFKA_HEARTBEAT_INTERVAL",
                "classic",
            ),
            (
                &[("KAFKA_SASL_PASSWORD", SECRET)],
                "KAFKA_SASL_USERNAME",
                "KAFKA_SASL_PASSWORD is set",
            ),
            (&[("KAFKA_SASL_USERNAME", "u")], "KAFKA_SASL_PASSWORD", "set it as well"),
            (&[("KAFKA_SASL_MECHANISM", "plain")], "KAFKA_SASL_USERNAME", "set it as well"),
            (
                &[("KAFKA_SASL_MECHANISM", "oauthbearer"), ("KAFKA_SASL_PASSWORD", SECRET)],
                "KAFKA_SASL_PASSWORD",
                "oauthbearer takes no such thing",
            ),
            (
                &[("KAFKA_SECURITY_PROTOCOL", "sasl_ssl")],
                "KAFKA_SASL_USERNAME",
                "the security protocol wants a user",
            ),
            (
                &[("KAFKA_SSL", "true"), ("KAFKA_SECURITY_PROTOCOL", "plaintext")],
                "KAFKA_SSL",
                "contradicts KAFKA_SECURITY_PROTOCOL",
            ),
            (
                &[("KAFKA_SSL", "false"), ("KAFKA_SSL_CA_LOCATION", "/dev/null")],
                "KAFKA_SSL_CA_LOCATION",
                "set KAFKA_SSL=true",
            ),
            (&[("KAFKA_SSL_CA_LOCATION", "/no/such")], "KAFKA_SSL_CA_LOCATION", "cannot read"),
            (
                &[("KAFKA_SSL_KEY_LOCATION", "/dev/null")],
                "KAFKA_SSL_CERTIFICATE_LOCATION",
                "KAFKA_SSL_KEY_LOCATION is set",
            ),
            (
                &[("KAFKA_SSL_KEY_PASSWORD", SECRET)],
                "KAFKA_SSL_KEY_LOCATION",
                "KAFKA_SSL_KEY_PASSWORD is set",
            ),
            (
                &[("KAFKA_PROPERTIES_ENABLE_AUTO_COMMIT", "true")],
                "KAFKA_PROPERTIES_ENABLE_AUTO_COMMIT",
                "only what was settled is committed",
            ),
        ] {
            let line = refusal(&kafka_and(variables));
            says!(line, &format!("setting={setting}"), text);
        }
    }

    #[test]
    fn a_file_reaches_every_property_of_librdkafka() {
        let config = Config::from_toml(
            "broker = 'kafka'\n[kafka]\nbrokers = ['a:1', 'b:2']\n\
             [kafka.properties]\n'queued.min.messages' = 5\n'fetch.min.bytes' = '1'",
        )
        .unwrap();
        let kafka = config.kafka.unwrap();
        assert_eq!(kafka.brokers, "a:1,b:2");
        assert_eq!(kafka.properties["queued.min.messages"], "5");
        assert_eq!(kafka.properties["fetch.min.bytes"], "1");
        let variables = kafka_and(&[("KAFKA_PROPERTIES_QUEUED_MIN_MESSAGES", "6")]);
        let kafka = from_variables(&variables).unwrap().kafka.unwrap();
        assert_eq!(kafka.properties["queued.min.messages"], "6");
    }

    #[test]
    fn debug_of_a_configuration_shows_no_secret() {
        let config = from_variables(&kafka_and(&[
            ("KAFKA_SASL_USERNAME", "user"),
            ("KAFKA_SASL_PASSWORD", SECRET),
            ("KAFKA_PROPERTIES_SSL_KEY_PEM", SECRET),
        ]));
        let text = format!("{:?}", config.unwrap());
        assert!(text.contains("user") && !text.contains(SECRET), "{text}");
    }
}

#[cfg(feature = "amqp")]
mod rabbitmq {
    use super::*;

    #[test]
    fn a_url_of_rabbitmq_chooses_it_unless_kafka_is_enabled() {
        let config = from_variables(&[("RABBITMQ_URL", "amqp://localhost:5672")]).unwrap();
        assert_eq!(config.broker, BrokerKind::RabbitMq);
        for word in ["rabbitmq", "amqp", "RabbitMQ"] {
            let chosen = [("BROKER", word), ("RABBITMQ_URL", "amqp://localhost:5672")];
            assert_eq!(from_variables(&chosen).unwrap().broker, BrokerKind::RabbitMq);
        }
    }

    #[test]
    fn rabbitmq_without_a_url_or_with_a_bad_one_is_refused() {
        says!(refusal(&[("BROKER", "amqp")]), "setting=RABBITMQ_URL", "set RABBITMQ_URL=amqp://");
        for bad in [
            format!("localhost:5672/{SECRET}"),
            format!("http://guest:{SECRET}@localhost:5672"),
            format!("amqp://guest:{SECRET}@localhost:port"),
            format!("amqp://guest:{SECRET}@"),
        ] {
            says!(
                refusal(&[("RABBITMQ_URL", &bad)]),
                "setting=RABBITMQ_URL",
                "amqp://user:password@"
            );
        }
        let no_virtual_host = format!("amqp://guest:{SECRET}@localhost/");
        says!(refusal(&[("RABBITMQ_URL", &no_virtual_host)]), "setting=RABBITMQ_URL", "/%2f");
    }

    #[test]
    fn debug_of_a_configuration_shows_no_password_of_a_url() {
        let url = format!("amqp://user:{SECRET}@localhost:5672/%2f");
        let text = format!("{:?}", from_variables(&[("RABBITMQ_URL", &url)]).unwrap());
        assert!(text.contains("localhost") && !text.contains(SECRET), "{text}");
    }
}

#[test]
fn what_scheduled_topics_are_called_has_to_leave_room_for_their_names() {
    let base = |base: &str| from_variables(&[("BROKER", "memory"), ("BROKER_SCHEDULED", base)]);
    assert_eq!(base("billing.later").unwrap().settings.scheduled.as_str(), "billing.later");
    let line = checked(base(&"b".repeat(61)).unwrap_err(), "61 bytes");
    says!(line, "setting=BROKER_SCHEDULED", "60 bytes");
    says!(checked(base("a b").unwrap_err(), "a space"), "setting=BROKER_SCHEDULED");
}

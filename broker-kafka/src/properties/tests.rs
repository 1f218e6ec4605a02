use super::*;
use crate::config::{Sasl, Tls};

fn kafka() -> KafkaConfig {
    KafkaConfig::new("localhost:9092")
}

#[test]
fn a_member_waits_a_minute_for_its_group_unless_its_other_times_are_longer() {
    let interval = |config: KafkaConfig| {
        let member = config.member(Name::new("group"));
        member.get("max.poll.interval.ms").map(str::to_owned)
    };
    let (two, minute) = (Duration::from_secs(120), Duration::from_secs(60));
    assert_eq!(interval(kafka()).as_deref(), Some("60000"));
    let session = KafkaConfig { session_timeout: Some(two), ..kafka() };
    assert_eq!(interval(session).as_deref(), Some("120000"));
    let revoke = KafkaConfig { revoke_timeout: minute, ..kafka() };
    assert_eq!(interval(revoke).as_deref(), Some("180000"));
    let set = kafka().property("max.poll.interval.ms", "10000");
    assert_eq!(set.reader("group").get("max.poll.interval.ms"), None, "no member");
    assert_eq!(interval(set).as_deref(), Some("10000"));
}

fn refusal(config: KafkaConfig) -> String {
    let error = config.check().expect_err("the configuration is bad");
    assert_eq!(error.kind(), ErrorKind::Configuration);
    error.to_string()
}

#[test]
fn properties_that_would_break_the_contract_are_refused_with_the_reason() {
    let text = refusal(kafka().property("enable.auto.offset.store", "true"));
    assert!(text.contains("property=enable.auto.offset.store"), "{text}");
    assert!(text.contains("only what was settled is committed"), "{text}");
    for (name, _) in REFUSED {
        assert!(kafka().property(*name, "1").check().is_err(), "{name}");
    }
}

#[test]
fn broker_addresses_need_host_and_port() {
    for bad in ["", "kafka", "kafka:", "kafka:0", "kafka:99999", ":9092", "a:1,,b:2"] {
        assert!(refusal(KafkaConfig::new(bad)).contains("setting=brokers"), "{bad}");
    }
    assert!(KafkaConfig::new("a:9092, [::1]:9093").check().is_ok());
}

#[test]
fn session_settings_belong_to_the_classic_protocol() {
    let mut config = kafka();
    config.session_timeout = Some(Duration::from_secs(10));
    assert!(config.check().is_ok());
    config.group_protocol = GroupProtocol::Consumer;
    let text = refusal(config);
    assert!(text.contains("setting=session_timeout") && text.contains("classic"), "{text}");
}

#[test]
fn a_user_needs_a_protocol_with_users_and_the_other_way_round() {
    let mut config = kafka();
    config.security_protocol = Some(SecurityProtocol::SaslSsl);
    assert!(refusal(config.clone()).contains("setting=sasl"));
    config.sasl =
        Some(Sasl { mechanism: "PLAIN".into(), username: "u".into(), password: "p".into() });
    assert!(config.check().is_ok());
    config.security_protocol = Some(SecurityProtocol::Ssl);
    assert!(refusal(config).contains("setting=security_protocol"));
}

#[test]
fn encryption_and_users_follow_from_what_is_set() {
    let mut config = kafka();
    assert_eq!(config.protocol(), SecurityProtocol::Plaintext);
    config.tls = Some(Tls::default());
    assert_eq!(config.protocol(), SecurityProtocol::Ssl);
    config.sasl =
        Some(Sasl { mechanism: String::new(), username: String::new(), password: String::new() });
    assert_eq!(config.protocol(), SecurityProtocol::SaslSsl);
    config.tls = None;
    assert_eq!(config.protocol(), SecurityProtocol::SaslPlaintext);
}

#[test]
fn debug_shows_no_secret() {
    let mut config = kafka().property("ssl.key.pem", "hunter2");
    config.sasl = Some(Sasl {
        mechanism: "PLAIN".into(),
        username: "user".into(),
        password: "hunter2".into(),
    });
    config.tls = Some(Tls { key_password: Some("hunter2".into()), ..Tls::default() });
    let text = format!("{config:?}");
    assert!(!text.contains("hunter2") && text.contains("ssl.key.pem"), "{text}");
}

#[test]
fn librdkafka_takes_every_set_of_properties_that_is_made_here() {
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let config = KafkaConfig { group_protocol: protocol, ..kafka() };
        let group = Name::new("group");
        for client in [
            config.admin(),
            config.producer(),
            config.lone_producer(),
            config.member(group),
            config.transactional_member(group),
            config.transactor(group),
            config.reader("group"),
        ] {
            if let Err(error) = client.create_native_config() {
                panic!("{error}");
            }
        }
    }
}

#[test]
fn an_error_of_a_property_names_it_and_hides_its_value() {
    for (name, word) in [("no.such.thing", "no such"), ("linger.ms", "value")] {
        let client = kafka().property(name, "hunter2").producer();
        let error = creation_error(client.create_native_config().err().unwrap(), "connect");
        let text = format!("{error:?}");
        assert!(text.contains(name) && text.contains(word), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

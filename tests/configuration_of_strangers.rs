//! Whatever stands in variables and files: a configuration or an error that names what is wrong.
#![allow(clippy::unwrap_used)]

use anybroker::{Config, ErrorKind};
use proptest::collection::vec;
use proptest::prelude::*;

/// The variables of all settings, as the page of the settings has them.
fn variables() -> Vec<&'static str> {
    let words = include_str!("../docs/CONFIGURATION.md").split('`');
    let mut names: Vec<_> = words
        .filter(|word| word.len() > 5 && word.contains('_'))
        .filter(|word| word.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .collect();
    names.sort_unstable();
    names.dedup();
    // A file of somebody else's choice is not read here.
    names.retain(|name| *name != "BROKER_CONFIG");
    assert!(names.len() > 20, "{names:?}");
    names
}

/// Values that are nearly right, and any other.
fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,30}",
        "(kafka|rabbitmq|memory|true|false|1|0|-1|99999999999999999999)",
        "[0-9.]{0,20}(ms|s|m|h|d|KiB|MiB)?",
        "(amqps?|https?)?:?/?/?[a-z:@/%0-9.\\[\\]]{0,30}",
        "([a-z*]{0,5}=[a-z]{0,8},?){0,4}",
    ]
}

proptest! {
    #[test]
    fn any_variables_are_a_configuration_or_a_named_error(
        set in vec((proptest::sample::select(variables()), values()), 0..8),
    ) {
        if let Err(error) = Config::from_variables(set.clone()) {
            prop_assert_eq!(error.kind(), ErrorKind::Configuration, "{}: {:?}", error, set);
            prop_assert!(!error.message().is_empty());
        }
    }

    #[test]
    fn any_file_is_a_configuration_or_a_named_error(
        lines in vec((
            "(\\[[a-z._]{0,12}\\]\n)?",
            "(broker|url|brokers|routes|kafka.properties|publish_timeout|[a-z_.]{1,12})",
            "(\".{0,10}\"|-?[0-9]{1,25}|true|[0-9]{4}-01-01|\\[.{0,8}\\]|\\{.{0,8}\\}|.{0,8})",
        ), 0..6),
        rest in ".{0,20}",
    ) {
        let lines = lines.iter().map(|(section, name, value)| format!("{section}{name} = {value}\n"));
        let text = lines.collect::<String>() + &rest;
        if let Err(error) = Config::from_toml(&text) {
            prop_assert_eq!(error.kind(), ErrorKind::Configuration, "{}: {}", error, text);
        }
    }
}

#[test]
fn tables_in_tables_without_end_are_refused() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let text = format!("a = {}{}", open.repeat(100_000), close.repeat(100_000));
        let error = Config::from_toml(&text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
    }
}

//! How the text of a setting becomes a value. The errors complete "… is not".

use std::time::Duration;

use super::keys::{BROKERS, Key, Kind};
use super::values::Values;
use broker_api::Result;

/// Times are what librdkafka can hold, and far below what a clock can.
const MAX_MILLIS: u64 = i32::MAX as u64;

impl Values {
    /// Checks every value that was found, also of the brokers that are not used.
    pub(super) fn check(&self) -> Result<()> {
        super::keys::ALL
            .iter()
            .try_for_each(|key| self.parse(key, |text| check(key, text)).map(drop))
    }

    /// A text, or a secret.
    pub(super) fn text(&self, key: &Key) -> Result<Option<String>> {
        self.parse(key, |text| Ok(text.to_owned()))
    }

    pub(super) fn bool(&self, key: &Key) -> Result<Option<bool>> {
        self.parse(key, bool)
    }

    pub(super) fn millis(&self, key: &Key) -> Result<Option<Duration>> {
        self.parse(key, millis)
    }

    pub(super) fn bytes(&self, key: &Key) -> Result<Option<usize>> {
        self.parse(key, bytes)
    }

    #[cfg(feature = "amqp")]
    pub(super) fn number(&self, key: &Key) -> Result<Option<u32>> {
        self.parse(key, number)
    }

    /// One of the words of the key, as the key writes it.
    pub(super) fn choice(&self, key: &Key) -> Result<Option<&'static str>> {
        match key.kind {
            Kind::Choice(words) => self.parse(key, |text| choice(words, text)),
            _ => Ok(None),
        }
    }

    #[cfg(feature = "kafka")]
    pub(super) fn addresses(&self, key: &Key) -> Result<Option<Vec<String>>> {
        self.parse(key, addresses)
    }

    /// Pairs of a pattern and a word for a broker.
    pub(super) fn routes(&self, key: &Key) -> Result<Option<Vec<(String, &'static str)>>> {
        self.parse(key, routes)
    }
}

fn check(key: &Key, text: &str) -> Result<(), String> {
    match key.kind {
        Kind::Text | Kind::Path | Kind::Properties | Kind::Secret => Ok(()),
        Kind::Bool => bool(text).map(drop),
        Kind::Millis => millis(text).map(drop),
        Kind::Number => number(text).map(drop),
        Kind::Bytes => bytes(text).map(drop),
        Kind::Addresses => addresses(text).map(drop),
        Kind::Choice(words) => choice(words, text).map(drop),
        Kind::Routes => routes(text).map(drop),
    }
}

fn bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("a boolean; write true or false".into()),
    }
}

fn millis(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(millis @ 1..=MAX_MILLIS) => Ok(Duration::from_millis(millis)),
        _ => Err(format!(
            "a number of milliseconds; write a whole number from 1 to {MAX_MILLIS}, such as 30000"
        )),
    }
}

/// No setting that is a number makes sense above what the smallest of them can hold.
fn number(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number @ 1..=65_535) => Ok(number),
        _ => Err("a number; write a whole number from 1 to 65535".into()),
    }
}

fn bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes @ 1..=u32::MAX) => Ok(bytes as usize),
        _ => Err(format!("a number of bytes; write a whole number from 1 to {}", u32::MAX)),
    }
}

fn choice(words: &[&'static str], text: &str) -> Result<&'static str, String> {
    let found = words.iter().find(|word| word.eq_ignore_ascii_case(text));
    found.copied().ok_or_else(|| format!("one of {}", words.join(", ")))
}

fn addresses(text: &str) -> Result<Vec<String>, String> {
    let addresses: Vec<_> = text.split(',').map(str::trim).collect();
    match addresses.iter().all(|address| is_address(address)) {
        true => Ok(addresses.into_iter().map(str::to_owned).collect()),
        false => Err("a list of addresses; write host:port, with commas between several".into()),
    }
}

fn is_address(address: &str) -> bool {
    let (host, port) = match address.rsplit_once(':') {
        // The last colon of a bare IPv6 address is none before a port.
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => return false,
    };
    let host = host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')).unwrap_or(host);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn routes(text: &str) -> Result<Vec<(String, &'static str)>, String> {
    let expected = || {
        let words = BROKERS.join(", ");
        format!(
            "a list of routes; write topic=broker or beginning*=broker, with commas between several, where the broker is one of {words}"
        )
    };
    let route = |pair: &str| {
        let (pattern, broker) = pair.split_once('=')?;
        Some((pattern.trim().to_owned(), choice(BROKERS, broker.trim()).ok()?))
    };
    text.split(',').map(|pair| route(pair.trim()).ok_or_else(expected)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_true_false_1_and_0_in_any_case() {
        for yes in ["true", "TRUE", "True", "1"] {
            assert_eq!(bool(yes), Ok(true), "{yes}");
        }
        for no in ["false", "FALSE", "0"] {
            assert_eq!(bool(no), Ok(false), "{no}");
        }
        for neither in ["maybe", "yes", "on", "2", "", "tru"] {
            assert!(bool(neither).is_err(), "{neither}");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["a:1", "kafka-0.kafka:9092", "10.0.0.1:19092", "[::1]:9092", "a:1, b:2"] {
            assert!(addresses(good).is_ok(), "{good}");
        }
        let bad = [
            "",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:70000",
            "a:1,",
            "a:1;b:2",
            "kafka://a:1",
            "a:1/x",
            "[::1]",
        ];
        for bad in bad {
            assert!(addresses(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_whole_milliseconds_in_reason() {
        assert_eq!(millis("30000"), Ok(Duration::from_secs(30)));
        for bad in ["0", "-1", "30s", "1.5", "2147483648", "99999999999999999999"] {
            assert!(millis(bad).is_err(), "{bad}");
        }
    }
}

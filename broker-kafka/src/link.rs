//! Whether the cluster is there, as librdkafka's own signals tell.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use broker_api::{Connection, Reconnection};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::Deserialize;
use tokio::sync::watch;

use crate::error;

/// The longest pause of librdkafka, which waits by itself; see [`crate::properties`].
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What is known of the connection. The publishing client reports to it: its statistics each
/// second, its errors at once; it keeps at least one connection even when nothing is published.
#[derive(Debug)]
pub(crate) struct Link {
    state: Mutex<State>,
    up: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    course: Reconnection,
    /// Why the cluster takes no messages, though it is there.
    blocked: Option<String>,
    last_error: Option<(SystemTime, String)>,
    /// The attempts of all time that the statistics counted, and how many at the last loss.
    connects: u64,
    connects_at_loss: u64,
}

impl Link {
    pub(crate) fn new() -> Self {
        let state = State {
            course: Reconnection::new(LONGEST_PAUSE),
            blocked: None,
            last_error: None,
            connects: 0,
            connects_at_loss: 0,
        };
        Self { state: Mutex::new(state), up: watch::Sender::new(false) }
    }

    /// The state now, and the last error.
    pub(crate) fn health(&self) -> (Connection, Option<(SystemTime, String)>) {
        let state = self.lock();
        let connection = match &state.blocked {
            Some(why) if state.course.is_up() => Connection::Blocked(why.clone()),
            _ => state.course.connection(),
        };
        (connection, state.last_error.clone())
    }

    /// The cluster takes no messages for this reason, or takes them again.
    pub(crate) fn block(&self, why: Option<String>) {
        let mut state = self.lock();
        if let Some(why) = &why
            && state.blocked.as_ref() != Some(why)
        {
            state.last_error = Some((SystemTime::now(), why.clone()));
        }
        state.blocked = why;
    }

    /// Follows whether it is up.
    pub(crate) fn follow(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// A broker answered.
    pub(crate) fn answered(&self) {
        self.set(|state| state.course.connected());
    }

    /// The application closed it.
    pub(crate) fn close(&self) {
        self.set(|state| state.course.close());
    }

    /// Takes note of what went wrong anywhere.
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.lock().last_error = Some((SystemTime::now(), text.into()));
    }

    /// An error that the publishing client reports.
    pub(crate) fn error(&self, error: &KafkaError, reason: &str) {
        let code = error::code(error);
        // That all are down is said after what is wrong with each, which tells more.
        if code != Some(RDKafkaErrorCode::AllBrokersDown) || self.lock().last_error.is_none() {
            self.note(reason);
        }
        match code {
            Some(RDKafkaErrorCode::AllBrokersDown) => self.set(State::lose),
            Some(code) if error::is_unauthenticated(code) => {
                self.set(|state| state.course.refused(reason));
            }
            _ => {}
        }
    }

    /// The statistics that the publishing client reports.
    pub(crate) fn statistics(&self, statistics: &Statistics<'_>) {
        let up = statistics.is_connected();
        self.set(|state| {
            state.connects = statistics.connects();
            match (up, state.course.connection()) {
                (true, _) => state.course.connected(),
                (false, Connection::Up | Connection::Reconnecting { .. }) => state.lose(),
                (false, _) => {}
            }
        });
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let up = state.course.is_up();
        self.up.send_if_modified(|was| std::mem::replace(was, up) != up);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// No broker is connected; librdkafka reports each refusal as that too, and stays refused.
    fn lose(&mut self) {
        if !matches!(self.course.connection(), Connection::Reconnecting { .. }) {
            self.connects_at_loss = self.connects;
        }
        let attempts = self.connects.saturating_sub(self.connects_at_loss);
        self.course.lost();
        self.course.tried(u32::try_from(attempts).unwrap_or(u32::MAX));
    }
}

/// The few of librdkafka's statistics that are needed here.
#[derive(Debug, Deserialize)]
pub(crate) struct Statistics<'a> {
    #[serde(borrow, default)]
    brokers: HashMap<Cow<'a, str>, Broker<'a>>,
}

#[derive(Debug, Deserialize)]
struct Broker<'a> {
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(default)]
    connects: u64,
    /// How the client came to know it.
    #[serde(borrow, default)]
    source: Cow<'a, str>,
}

impl<'a> Statistics<'a> {
    /// `None` if it is not what librdkafka writes, which is then worth a line in the log.
    pub(crate) fn parse(json: &'a [u8]) -> Option<Self> {
        let parsed = serde_json::from_slice(json);
        parsed.inspect_err(|error| tracing::warn!(%error, "unreadable statistics")).ok()
    }

    /// Whether any broker is connected and has taken the credentials.
    pub(crate) fn is_connected(&self) -> bool {
        self.brokers.values().any(|broker| matches!(&*broker.state, "UP" | "REAUTH"))
    }

    /// Whether the client knows no broker at all, connected or not: then it tries none.
    pub(crate) fn is_forsaken(&self) -> bool {
        let mut brokers = self.brokers.values();
        !brokers.any(|broker| matches!(&*broker.source, "configured" | "learned"))
    }

    fn connects(&self) -> u64 {
        self.brokers.values().map(|broker| broker.connects).sum()
    }
}

/// Passes a line of librdkafka's log on.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    use RDKafkaLogLevel::*;
    match level {
        // Properties are given to all clients, which say of each that they do not need it.
        _ if facility == "CONFWARN" => {
            tracing::debug!(target: "librdkafka", facility, "{line}");
        }
        Emerg | Alert | Critical | Error => {
            tracing::error!(target: "librdkafka", facility, "{line}");
        }
        Warning => tracing::warn!(target: "librdkafka", facility, "{line}"),
        Notice | Info => tracing::info!(target: "librdkafka", facility, "{line}"),
        Debug => tracing::debug!(target: "librdkafka", facility, "{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(state: &str, connects: u64) -> String {
        format!(
            r#"{{"name":"x","brokers":{{"a:1/1":{{"state":"{state}","connects":{connects}}},
            "b:1/2":{{"state":"DOWN","connects":1}}}}}}"#
        )
    }

    fn observe(link: &Link, state: &str, connects: u64) -> Connection {
        let json = statistics(state, connects);
        link.statistics(&Statistics::parse(json.as_bytes()).unwrap());
        link.health().0
    }

    #[test]
    fn a_lost_connection_shows_with_its_attempts_and_comes_back() {
        let link = Link::new();
        let mut up = link.follow();
        assert_eq!(observe(&link, "CONNECT", 1), Connection::Connecting);
        assert_eq!(observe(&link, "UP", 1), Connection::Up);
        assert!(*up.borrow_and_update());
        assert_eq!(observe(&link, "DOWN", 1), Connection::Reconnecting { attempts: 0 });
        assert_eq!(observe(&link, "CONNECT", 4), Connection::Reconnecting { attempts: 3 });
        assert!(!*up.borrow_and_update());
        assert_eq!(observe(&link, "UP", 5), Connection::Up);
        assert!(*up.borrow_and_update());
    }

    #[test]
    fn a_client_that_knows_no_broker_is_forsaken() {
        let broker = |name, source| format!(r#""{name}":{{"state":"DOWN","source":"{source}"}}"#);
        let is_forsaken = |brokers: &str| {
            let json = format!(r#"{{"brokers":{{{brokers}}}}}"#);
            Statistics::parse(json.as_bytes()).unwrap().is_forsaken()
        };
        assert!(is_forsaken(""));
        assert!(is_forsaken(&broker("GroupCoordinator", "logical")));
        assert!(!is_forsaken(&broker("a:1/bootstrap", "configured")));
        assert!(!is_forsaken(&broker("a:1/1", "learned")));
    }

    #[test]
    fn what_keeps_a_cluster_from_taking_messages_shows_while_it_is_connected() {
        let link = Link::new();
        link.block(Some("too few".into()));
        assert_eq!(observe(&link, "UP", 1), Connection::Blocked("too few".into()));
        assert!(*link.follow().borrow(), "messages are handed over, and wait there");
        assert_eq!(observe(&link, "DOWN", 1), Connection::Reconnecting { attempts: 0 });
        link.block(None);
        assert_eq!(observe(&link, "UP", 2), Connection::Up);
        assert!(link.health().1.is_some_and(|(_, last)| last == "too few"));
    }

    #[test]
    fn refused_credentials_show_until_they_are_taken() {
        let link = Link::new();
        link.error(&KafkaError::Global(RDKafkaErrorCode::Authentication), "SASL failed");
        link.error(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        assert_eq!(observe(&link, "DOWN", 1), Connection::Refused("SASL failed".into()));
        assert_eq!(observe(&link, "UP", 2), Connection::Up);
        link.close();
        assert_eq!(observe(&link, "UP", 2), Connection::Closed);
    }
}

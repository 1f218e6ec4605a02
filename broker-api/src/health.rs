//! Whether a broker works, and what is wrong where it does not.

use std::time::SystemTime;

use crate::name::Name;

/// How a backend stands with its broker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Connection {
    /// The first connection is being made.
    Connecting,
    /// Connected.
    Up,
    /// Connected, but the broker does not take messages now; the text says why.
    Blocked(String),
    /// The connection is lost; attempts go on.
    Reconnecting {
        /// Attempts that failed since the connection was lost.
        attempts: u32,
    },
    /// The broker refused for good, for example the credentials; the text says why.
    Refused(String),
    /// Closed by the application.
    Closed,
}

/// Whether one consumer gets messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerHealth {
    /// The topic it consumes; the first of several.
    pub topic: Name,
    /// Its group.
    pub group: Name,
    /// `None` while it is subscribed, else why it is not.
    pub problem: Option<String>,
}

/// A snapshot of a backend's state. Taking it does not ask the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The connection, the worst one where there are several.
    pub connection: Connection,
    /// Every consumer that was subscribed and not closed.
    pub consumers: Vec<ConsumerHealth>,
    /// Consumers that will not work again by themselves: [`run`](crate::Consumer::run) has ended
    /// with an error and nothing took the place of that consumer, or a message is in its hands for
    /// longer than [`Settings::stuck_after`](crate::Settings::stuck_after).
    pub lost: Vec<ConsumerHealth>,
    /// The last thing that went wrong and when.
    pub last_error: Option<(SystemTime, String)>,
}

impl Health {
    /// A backend with this connection, no consumer and no error.
    pub const fn new(connection: Connection) -> Self {
        Self { connection, consumers: Vec::new(), lost: Vec::new(), last_error: None }
    }

    /// Readiness: whether everything works now. It is connected, every consumer is subscribed, and
    /// none is lost.
    pub fn is_up(&self) -> bool {
        self.connection == Connection::Up
            && self.consumers.iter().all(|c| c.problem.is_none())
            && self.lost.is_empty()
    }

    /// Liveness: whether everything works or will work again without a restart of the process. A
    /// lost connection comes back; a consumer that is lost does not, and neither does a connection
    /// that was refused for good.
    pub fn is_live(&self) -> bool {
        self.lost.is_empty() && !matches!(self.connection, Connection::Refused(_))
    }
}

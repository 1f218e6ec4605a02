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
    /// The last thing that went wrong and when.
    pub last_error: Option<(SystemTime, String)>,
}

impl Health {
    /// A backend with this connection, no consumer and no error.
    pub const fn new(connection: Connection) -> Self {
        Self { connection, consumers: Vec::new(), last_error: None }
    }

    /// Whether everything works: connected, and every consumer subscribed.
    pub fn is_up(&self) -> bool {
        self.connection == Connection::Up && self.consumers.iter().all(|c| c.problem.is_none())
    }
}

//! What a client can be told.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Which message: its key, and its number among those of the key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Id {
    /// The key. Only one publisher uses it.
    pub key: String,
    /// Counts upwards in the order of publishing.
    pub number: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.key, self.number)
    }
}

/// What a publisher was told about one attempt to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is stored.
    Confirmed,
    /// It is certainly not stored.
    Failed,
    /// It may be stored.
    Indeterminate,
}

impl<T> From<&broker_api::Result<T>> for Outcome {
    fn from(result: &broker_api::Result<T>) -> Self {
        match result {
            Ok(_) => Self::Confirmed,
            Err(error) if error.is_indeterminate() => Self::Indeterminate,
            Err(_) => Self::Failed,
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A message is about to be handed over. Without an answer later its outcome is unknown, as
    /// that of a process that was killed.
    Publishing(Id),
    /// The answer to the oldest attempt that has none yet.
    Published(Id, Outcome),
    /// A member of a group has a message.
    Received {
        /// The message.
        id: Id,
        /// The group.
        group: String,
        /// Which attempt it is, as the member was told.
        attempt: u32,
    },
    /// The member is done with it: from now on it may be settled.
    Handled {
        /// The message.
        id: Id,
        /// The group.
        group: String,
    },
    /// Something was broken on purpose; the text says what.
    Disturbed(String),
    /// All that was broken works again.
    Calm,
}

impl Event {
    /// The message it is about, if it is about one.
    pub fn id(&self) -> Option<&Id> {
        match self {
            Self::Publishing(id) | Self::Published(id, _) => Some(id),
            Self::Received { id, .. } | Self::Handled { id, .. } => Some(id),
            Self::Disturbed(_) | Self::Calm => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publishing(id) => write!(f, "publishes {id}"),
            Self::Published(id, outcome) => write!(f, "is told that {id} is {outcome:?}"),
            Self::Received { id, group, attempt } => {
                write!(f, "receives {id} for {group}, attempt {attempt}")
            }
            Self::Handled { id, group } => write!(f, "has handled {id} for {group}"),
            Self::Disturbed(what) => write!(f, "DISTURBED: {what}"),
            Self::Calm => f.write_str("CALM"),
        }
    }
}

/// What happened, to whom and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, by the clock of the machine: all that take part have to have the same.
    pub at: SystemTime,
    /// Who noted it.
    pub client: String,
    /// What it was.
    pub event: Event,
}

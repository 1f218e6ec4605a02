//! Why a local broker could not be started or steered.

use std::path::Path;
use std::time::Duration;

/// Why a local broker could not be started or steered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// A part that `scripts/setup` installs is not there.
    #[error("{what} is not installed ({looked_for} is missing): run scripts/setup")]
    NotInstalled {
        /// The missing part.
        what: String,
        /// The file or program looked for.
        looked_for: String,
    },

    /// The broker ended when it should have come up.
    #[error("{name} ended ({status}) before it was ready; the end of its log:\n{log}")]
    Ended {
        /// Which broker.
        name: String,
        /// Its exit status, in words.
        status: String,
        /// The last lines it logged.
        log: String,
    },

    /// The broker was not ready, or had not stopped, within the time limit.
    #[error("{name} {what} within {limit:?}; the end of its log:\n{log}")]
    TimedOut {
        /// Which broker.
        name: String,
        /// What did not happen.
        what: &'static str,
        /// The time limit.
        limit: Duration,
        /// The last lines it logged.
        log: String,
    },

    /// A broker's command-line tool failed.
    #[error("{command} failed ({status}): {output}")]
    Tool {
        /// The command and its arguments.
        command: String,
        /// Its exit status, in words.
        status: String,
        /// What it printed.
        output: String,
    },

    /// The broker is not running, as what was asked for needs.
    #[error("{name} is not running: restart it first")]
    NotRunning {
        /// Which broker.
        name: String,
    },

    /// No free port was found, or the one asked for is taken.
    #[error("{0}")]
    Port(String),

    /// The operating system refused something.
    #[error("could not {doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

impl LocalError {
    /// For `map_err`: says what was being done when the operating system refused.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    pub(crate) fn writing(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        Self::io(format!("write {}", path.display()))
    }
}

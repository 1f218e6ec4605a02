//! Why a handler did not handle a message.

use std::fmt;
use std::time::Duration;

use crate::error::{BoxError, Error, ErrorKind};

/// The error of a handler. Any error, and any text, becomes a retryable one by `?`.
///
/// ```
/// use broker_api::{Failure, Permanent};
///
/// fn parse(text: &str) -> Result<u32, Failure> {
///     if text.is_empty() {
///         return Err("nothing there yet".into()); // worth another try
///     }
///     Ok(text.parse().permanent()?) // will not get better
/// }
/// assert!(!parse("").unwrap_err().is_permanent());
/// assert!(parse("x").unwrap_err().is_permanent());
/// ```
// Not an `Error` itself, so that the conversion from every error can exist beside it.
pub struct Failure {
    permanent: bool,
    delay: Option<Duration>,
    error: BoxError,
}

impl Failure {
    /// A failure that another attempt will not mend.
    pub fn permanent(error: impl Into<BoxError>) -> Self {
        Self { permanent: true, delay: None, error: error.into() }
    }

    /// Asks for the next attempt no sooner than this, instead of the policy's pause.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Whether another attempt is useless.
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// The pause that was asked for.
    pub fn delay(&self) -> Option<Duration> {
        self.delay
    }

    /// The kind of error, where it is one of ours.
    pub(crate) fn kind(&self) -> ErrorKind {
        self.error.downcast_ref::<Error>().map_or(ErrorKind::Handler, Error::kind)
    }

    /// What went wrong.
    pub fn into_error(self) -> BoxError {
        self.error
    }
}

impl<E: Into<BoxError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { permanent: false, delay: None, error: error.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = if self.permanent { "permanent" } else { "retryable" };
        write!(f, "Failure({class}: {:?})", self.error)
    }
}

/// Makes the error of any result a permanent [`Failure`].
pub trait Permanent<T> {
    /// The same result, whose error says that another attempt is useless.
    ///
    /// # Errors
    /// The error it had.
    fn permanent(self) -> Result<T, Failure>;
}

impl<T, E: Into<BoxError>> Permanent<T> for Result<T, E> {
    fn permanent(self) -> Result<T, Failure> {
        self.map_err(Failure::permanent)
    }
}

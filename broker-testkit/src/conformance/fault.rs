//! Why a case did not pass.

use std::fmt;

use broker_api::BoxError;

/// What a case returns.
pub(crate) type Verdict = Result<(), Fault>;

/// Why a case did not pass. Made from any error by `?`; it is no `Error` itself.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The backend does not keep the contract.
    Failed(String),
    /// The backend says that it cannot do what the case is about.
    Ignored(String),
}

impl Fault {
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }
}

impl<E: Into<BoxError>> From<E> for Fault {
    fn from(error: E) -> Self {
        let error = error.into();
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}\n  caused by: {cause}");
            source = cause.source();
        }
        Self::Failed(text)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Failed(text) | Self::Ignored(text)) = self;
        f.write_str(text)
    }
}

/// Ends the case with a message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::conformance::fault::Fault::failed(format!($($text)+)));
        }
    };
}

/// Ends the case unless both are equal; the text says what they are.
macro_rules! ensure_eq {
    ($is:expr, $wanted:expr, $($text:tt)+) => {
        match (&$is, &$wanted) {
            (is, wanted) => if is != wanted {
                return Err($crate::conformance::fault::Fault::failed(format!(
                    "{}\n    is: {is:?}\nwanted: {wanted:?}", format_args!($($text)+)
                )));
            }
        }
    };
}

/// Ends the case unless the result is an error of this kind, and gives the error.
macro_rules! ensure_kind {
    ($result:expr, $kind:ident, $($text:tt)+) => {
        match $result {
            Err(error) if error.kind() == broker_api::ErrorKind::$kind => error,
            Err(error) => return Err($crate::conformance::fault::Fault::failed(format!(
                "{}: wanted an error of kind {}, got: {error:?}", format_args!($($text)+), stringify!($kind)
            ))),
            Ok(_) => return Err($crate::conformance::fault::Fault::failed(format!(
                "{}: wanted an error of kind {}, but it succeeded", format_args!($($text)+), stringify!($kind)
            ))),
        }
    };
}

pub(crate) use {ensure, ensure_eq, ensure_kind};

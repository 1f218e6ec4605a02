//! The one error type of the crate family.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// Any error, boxed; what sources and codecs hand in.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// A result whose error is [`Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Match on it; the text of an [`Error`] is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A value failed its validation; [`Error::fields`] names the paths.
    Invalid,
    /// A value could not be encoded, or a payload not decoded.
    Codec,
    /// A message is over the topic's size limit, or its headers over theirs.
    TooLarge,
    /// A topic, group or header name breaks the rules that hold on every broker.
    InvalidName,
    /// The topic does not exist.
    UnknownTopic,
    /// The topic exists already.
    TopicExists,
    /// What exists differs from what was asked for; the text lists the differences.
    Mismatch,
    /// Nothing would have received the message, so the broker did not keep it.
    Unroutable,
    /// The broker cannot do this; the text says why.
    Unsupported,
    /// The broker refused the credentials.
    Unauthenticated,
    /// The broker knows who asks and does not allow it.
    Unauthorized,
    /// A setting is missing, unknown, malformed or contradicts another.
    Configuration,
    /// The broker cannot be reached, or cannot serve now.
    Unavailable,
    /// The time limit passed.
    Timeout,
    /// The broker handle or the source is closed.
    Closed,
    /// This member was put out of its group by another or by the broker.
    Fenced,
    /// A handler gave up on a message for good.
    Handler,
    /// Anything else; the source has the details.
    Other,
}

/// Whether doing it again may help, and whether it may have happened already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// It certainly did not happen, and may succeed later.
    Transient,
    /// It certainly did not happen, and will not succeed unless something is changed.
    Permanent,
    /// It may or may not have happened: doing it again can duplicate it.
    Indeterminate,
}

/// One field that failed validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The path of the field, for example `items[2].price`; empty for the whole value.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// What went wrong, in which operation, on what, and whether a retry may help.
///
/// `Display` is one line for a log; `Debug` is the same plus the chain of sources.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    class: ErrorClass,
    operation: &'static str,
    message: Cow<'static, str>,
    context: Vec<(&'static str, String)>,
    fields: Vec<FieldError>,
    source: Option<BoxError>,
}

impl Error {
    /// A permanent error of this kind in `operation`; the other setters refine it.
    pub fn new(
        kind: ErrorKind,
        operation: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Box::new(Inner {
            kind,
            class: ErrorClass::Permanent,
            operation,
            message: message.into(),
            context: Vec::new(),
            fields: Vec::new(),
            source: None,
        }))
    }

    /// Says that it did not happen and may succeed later.
    pub fn transient(mut self) -> Self {
        self.0.class = ErrorClass::Transient;
        self
    }

    /// Says that it may have happened.
    pub fn indeterminate(mut self) -> Self {
        self.0.class = ErrorClass::Indeterminate;
        self
    }

    /// Sets the class.
    pub fn with_class(mut self, class: ErrorClass) -> Self {
        self.0.class = class;
        self
    }

    /// Replaces the operation, for an error that passes from an inner to an outer one.
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        self.0.operation = operation;
        self
    }

    /// Adds a name and its value, such as the topic. Never pass a secret.
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string()));
        self
    }

    /// Adds the fields that failed validation.
    pub fn with_fields(mut self, fields: Vec<FieldError>) -> Self {
        self.0.fields = fields;
        self
    }

    /// Adds the cause.
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether a retry may help.
    pub fn class(&self) -> ErrorClass {
        self.0.class
    }

    /// It certainly did not happen, and may succeed later.
    pub fn is_transient(&self) -> bool {
        self.0.class == ErrorClass::Transient
    }

    /// It certainly did not happen, and will not unless something is changed.
    pub fn is_permanent(&self) -> bool {
        self.0.class == ErrorClass::Permanent
    }

    /// It may have happened.
    pub fn is_indeterminate(&self) -> bool {
        self.0.class == ErrorClass::Indeterminate
    }

    /// The operation that failed, for example `publish`.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// What was wrong, without operation and context.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The value of a context name, for example `topic`.
    pub fn context(&self, name: &str) -> Option<&str> {
        let mut pairs = self.0.context.iter();
        pairs.find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
    }

    /// The fields that failed validation; empty for every other kind.
    pub fn fields(&self) -> &[FieldError] {
        &self.0.fields
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.0.operation, self.0.kind)?;
        for (name, value) in &self.0.context {
            write!(f, " {name}={value}")?;
        }
        if !self.0.message.is_empty() {
            write!(f, ": {}", self.0.message)?;
        }
        for field in &self.0.fields {
            match field.path.is_empty() {
                true => write!(f, "; {}", field.message)?,
                false => write!(f, "; {}: {}", field.path, field.message)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} [{:?}]", self.0.class)?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(f, "\n  caused by: {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_pointer_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn display_is_one_line_with_operation_kind_context_and_fields() {
        let error = Error::new(ErrorKind::Invalid, "publish", "")
            .with("topic", "credits_process_end_topic")
            .with_fields(vec![FieldError {
                path: "credits".into(),
                message: "lower than 1".into(),
            }]);
        assert_eq!(
            error.to_string(),
            "publish: Invalid topic=credits_process_end_topic; credits: lower than 1"
        );
    }
}

//! A topic and the type of its messages, as a constant.

use std::fmt;

use bytes::Bytes;
use garde::Validate;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Codec, Json, Raw};
use crate::error::{Error, ErrorKind, FieldError, Result};
use crate::message::Message;
use crate::name::Name;
use crate::spec::TopicSpec;

/// What the values of a checked [`Topic`] have to be: serde's two traits and garde's `Validate`.
/// Implemented for every type that has them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the payload of a checked Topic",
    label = "needs serde's Serialize and Deserialize, and garde's Validate without a context",
    note = "derive `Serialize, Deserialize, garde::Validate`, or say `Topic::unchecked` to go without validation"
)]
pub trait Payload: Serialize + DeserializeOwned + Validate<Context = ()> + 'static {}

impl<T: Serialize + DeserializeOwned + Validate<Context = ()> + 'static> Payload for T {}

/// A topic's name with the codec, the validation and the key of its messages.
///
/// It is `Copy` and made to be a constant, so that every place that publishes or consumes agrees:
///
/// ```
/// use broker_api::Topic;
/// use garde::Validate;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Validate)]
/// struct FeatureUsage {
///     #[garde(length(min = 1))]
///     user: String,
///     #[garde(range(min = 1))]
///     count: u32,
/// }
///
/// const FEATURE_USAGE: Topic<FeatureUsage> =
///     Topic::new("feature_usage_topic").keyed(|usage| &usage.user);
/// assert_eq!(FEATURE_USAGE.name().as_str(), "feature_usage_topic");
/// ```
pub struct Topic<T: 'static> {
    name: Name,
    codec: &'static dyn Codec<T>,
    validate: fn(&T) -> Vec<FieldError>,
    key: Key<T>,
}

enum Key<T> {
    None,
    Borrowed(fn(&T) -> &str),
    Owned(fn(&T) -> String),
}

impl<T: Payload> Topic<T> {
    /// A topic whose messages are JSON and validated with garde, when published and when consumed.
    ///
    /// # Panics
    /// On a bad name, see [`Name`]; in a constant that is an error of the compiler.
    pub const fn new(name: &'static str) -> Self {
        Self::with_codec(name, &Json)
    }

    /// As [`Topic::new`], in another format.
    ///
    /// # Panics
    /// On a bad name.
    pub const fn with_codec(name: &'static str, codec: &'static dyn Codec<T>) -> Self {
        Self { name: Name::new(name), codec, validate: garde_fields::<T>, key: Key::None }
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Topic<T> {
    /// A topic of JSON messages that are not validated beyond their type.
    ///
    /// # Panics
    /// On a bad name.
    pub const fn unchecked(name: &'static str) -> Self {
        Self { name: Name::new(name), codec: &Json, validate: |_| Vec::new(), key: Key::None }
    }
}

impl Topic<Bytes> {
    /// A topic of payloads without a type.
    ///
    /// # Panics
    /// On a bad name.
    pub const fn raw(name: &'static str) -> Self {
        Self { name: Name::new(name), codec: &Raw, validate: |_| Vec::new(), key: Key::None }
    }
}

impl<T> Topic<T> {
    /// The same kind of message under a name made at run time.
    pub const fn named(self, name: Name) -> Self {
        Self { name, ..self }
    }

    /// Takes the key of each message from the value; messages of one key stay in order.
    pub const fn keyed(mut self, key: fn(&T) -> &str) -> Self {
        self.key = Key::Borrowed(key);
        self
    }

    /// As [`Topic::keyed`], for a key that has to be made.
    pub const fn keyed_owned(mut self, key: fn(&T) -> String) -> Self {
        self.key = Key::Owned(key);
        self
    }

    /// The topic's name.
    pub const fn name(&self) -> Name {
        self.name
    }

    /// A specification of this topic, to create it from.
    pub const fn spec(&self) -> TopicSpec {
        TopicSpec::new(self.name)
    }

    /// The message of a value: validated, encoded and keyed.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with the paths of the fields, [`ErrorKind::Codec`].
    pub fn encode(&self, value: &T) -> Result<Message> {
        let fields = (self.validate)(value);
        if !fields.is_empty() {
            return Err(self.error(ErrorKind::Invalid, "publish", "").with_fields(fields));
        }
        let payload = self.codec.encode(value).map_err(|source| {
            self.error(ErrorKind::Codec, "publish", format!("cannot encode the value: {source}"))
                .with_source(source)
        })?;
        let message = Message::new(payload).with_content_type(self.codec.content_type());
        Ok(match &self.key {
            Key::None => message,
            Key::Borrowed(key) => message.with_key(Bytes::copy_from_slice(key(value).as_bytes())),
            Key::Owned(key) => message.with_key(key(value)),
        })
    }

    /// The value of a message: decoded and validated.
    ///
    /// # Errors
    /// [`ErrorKind::Codec`], [`ErrorKind::Invalid`] with the paths of the fields.
    pub fn decode(&self, message: &Message) -> Result<T> {
        let value = self.codec.decode(message).map_err(|source| {
            self.error(ErrorKind::Codec, "consume", format!("cannot decode the payload: {source}"))
                .with_source(source)
        })?;
        let fields = (self.validate)(&value);
        if !fields.is_empty() {
            return Err(self.error(ErrorKind::Invalid, "consume", "").with_fields(fields));
        }
        Ok(value)
    }

    fn error(
        &self,
        kind: ErrorKind,
        operation: &'static str,
        message: impl Into<std::borrow::Cow<'static, str>>,
    ) -> Error {
        Error::new(kind, operation, message).with("topic", self.name)
    }
}

fn garde_fields<T: Validate<Context = ()>>(value: &T) -> Vec<FieldError> {
    let Err(report) = value.validate() else { return Vec::new() };
    let field = |(path, error): &(garde::Path, garde::Error)| FieldError {
        path: path.to_string(),
        message: error.message().to_owned(),
    };
    report.iter().map(field).collect()
}

impl<T> Clone for Topic<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Topic<T> {}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> fmt::Debug for Topic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.name)
    }
}

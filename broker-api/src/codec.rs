//! From a value to payload bytes and back.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::BoxError;
use crate::message::Message;

/// Turns values into payloads and back. A topic has one; [`Json`] is the default.
pub trait Codec<T>: Send + Sync {
    /// The MIME type that published messages carry.
    fn content_type(&self) -> &'static str;

    /// The payload of a value.
    ///
    /// # Errors
    /// Whatever the format reports; the caller gets it as [`ErrorKind::Codec`](crate::ErrorKind).
    fn encode(&self, value: &T) -> Result<Bytes, BoxError>;

    /// The value of a message. The payload comes from anybody: return an error, never panic.
    ///
    /// # Errors
    /// Whatever the format reports.
    fn decode(&self, message: &Message) -> Result<T, BoxError>;
}

/// JSON by `serde_json`.
#[derive(Debug, Clone, Copy)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn encode(&self, value: &T) -> Result<Bytes, BoxError> {
        Ok(serde_json::to_vec(value)?.into())
    }

    fn decode(&self, message: &Message) -> Result<T, BoxError> {
        Ok(serde_json::from_slice(message.payload())?)
    }
}

/// The payload as it is.
#[derive(Debug, Clone, Copy)]
pub struct Raw;

impl Codec<Bytes> for Raw {
    fn content_type(&self) -> &'static str {
        "application/octet-stream"
    }

    fn encode(&self, value: &Bytes) -> Result<Bytes, BoxError> {
        Ok(value.clone())
    }

    fn decode(&self, message: &Message) -> Result<Bytes, BoxError> {
        Ok(message.payload().clone())
    }
}

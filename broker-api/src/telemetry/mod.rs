//! What is told about messages: spans, metrics, and the trace that a message belongs to.
//!
//! The names are those of OpenTelemetry's conventions for messaging; `docs/TELEMETRY.md` has them
//! all, and how to listen.
//!
//! - Spans are `tracing` spans of the target [`SPAN_TARGET`] and the level DEBUG, so a filter for
//!   logs leaves them out unless it names them.
//! - Metrics go through the `metrics` facade, with the feature `metrics`. Install the recorder
//!   before the broker is made.
//! - With the feature `opentelemetry` the trace context travels with the message, as `traceparent`
//!   and `tracestate`. Without it these two are headers like any other.

mod consuming;
#[cfg(feature = "metrics")]
mod lag;
#[cfg(feature = "metrics")]
mod metered;
#[cfg(feature = "metrics")]
mod names;
#[cfg(feature = "opentelemetry")]
mod propagated;
mod publishing;
#[cfg(all(test, feature = "metrics"))]
mod reference;
#[cfg(not(feature = "metrics"))]
mod unmetered;
#[cfg(not(feature = "opentelemetry"))]
mod unpropagated;

// One of each pair is compiled; both have the same methods, so nothing else asks for the features.
#[cfg(feature = "metrics")]
use metered as meters;
#[cfg(feature = "opentelemetry")]
use propagated as propagation;
#[cfg(not(feature = "metrics"))]
use unmetered as meters;
#[cfg(not(feature = "opentelemetry"))]
use unpropagated as propagation;

pub(crate) use consuming::{Consuming, Counted};
pub(crate) use meters::{Received, Telemetry};
pub(crate) use publishing::Sending;

use crate::error::ErrorKind;

/// The target of all spans. A filter that lets them through: `info,anybroker::span=debug`.
pub const SPAN_TARGET: &str = "anybroker::span";

/// The bounds of the buckets, in seconds, that the conventions advise for the histograms
/// `messaging.client.operation.duration` and `messaging.process.duration`. Give them to the
/// recorder, whose own defaults are seldom fit.
pub const DURATION_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// The value of `error.type` for an error of this crate: a name from a small, fixed set.
fn error_type(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "Invalid",
        ErrorKind::Codec => "Codec",
        ErrorKind::TooLarge => "TooLarge",
        ErrorKind::InvalidName => "InvalidName",
        ErrorKind::UnknownTopic => "UnknownTopic",
        ErrorKind::TopicExists => "TopicExists",
        ErrorKind::Mismatch => "Mismatch",
        ErrorKind::Unroutable => "Unroutable",
        ErrorKind::Unsupported => "Unsupported",
        ErrorKind::Unauthenticated => "Unauthenticated",
        ErrorKind::Unauthorized => "Unauthorized",
        ErrorKind::Configuration => "Configuration",
        ErrorKind::Unavailable => "Unavailable",
        ErrorKind::Timeout => "Timeout",
        ErrorKind::Closed => "Closed",
        ErrorKind::Fenced => "Fenced",
        ErrorKind::Handler => "Handler",
        // The name that the conventions have for it.
        ErrorKind::Other => "_OTHER",
    }
}

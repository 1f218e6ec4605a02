//! One message on its way out: its span, and what is counted of it.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::Span;
use tracing::field::{Empty, display};

use super::meters::{PublisherMeters, Started, Telemetry};
use super::propagation::{Remote, inject};
use super::{SPAN_TARGET, error_type};
use crate::backend::Receipt;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::name::Name;
use crate::stats::Counts;

/// A publish that has begun and has no answer yet.
pub(crate) struct Sending {
    /// `None` where nobody listens; boxed, because every message in flight has the room for it.
    span: Option<Box<Span>>,
    meters: PublisherMeters,
    started: Started,
    counts: Arc<Counts>,
}

impl Telemetry {
    /// A publish has begun, at this time. A message that belongs to a trace already, as one that is
    /// moved on by a consumer does, continues that one; any other the trace that is current here.
    pub(crate) fn sending(
        &self,
        topic: Name,
        message: Option<&Message>,
        at: Instant,
        counts: Arc<Counts>,
    ) -> Sending {
        let span = tracing::debug_span!(
            target: SPAN_TARGET,
            "send",
            otel.name = format_args!("send {topic}"),
            otel.kind = "producer",
            otel.status_code = Empty,
            messaging.system = self.system(topic),
            messaging.operation.name = "send",
            messaging.operation.type = "send",
            messaging.destination.name = topic.as_str(),
            messaging.destination.partition.id = Empty,
            messaging.message.id = Empty,
            messaging.message.conversation_id = message.and_then(Message::correlation_id),
            messaging.kafka.offset = Empty,
            error.type = Empty,
        );
        let span = (!span.is_disabled()).then(|| Box::new(span));
        if let (Some(span), Some(message)) = (&span, message) {
            Remote::of(message).adopt(span);
        }
        Sending { span, meters: self.publisher(topic), started: Started::at(at), counts }
    }
}

impl Sending {
    /// Has the message carry on the trace, unless it belongs to one.
    pub(crate) fn inject(&self, message: &mut Message) {
        inject(self.span.as_deref(), message);
    }

    /// It is sent somewhere else than was asked for.
    pub(crate) fn goes_to(&mut self, topic: Name, telemetry: &Telemetry) {
        self.meters = telemetry.publisher(topic);
        if let Some(span) = &self.span {
            span.record("otel.name", display(format_args!("send {topic}")));
            span.record("messaging.destination.name", topic.as_str());
        }
    }

    /// Nothing was sent.
    pub(crate) fn refused(self, error: &Error) {
        self.ended(Some(error_type(error.kind())));
    }

    /// The message is now the backend's.
    pub(crate) fn handed_over(&self, message: &Message) {
        self.meters.handed_over();
        if let (Some(span), Some(id)) = (&self.span, message.id()) {
            span.record("messaging.message.id", display(id));
        }
    }

    /// The broker answered what was handed over.
    pub(crate) fn answered(self, result: &Result<Receipt>) {
        let error = result.as_ref().err().map(|error| error_type(error.kind()));
        self.meters.answered(error);
        if let (Some(span), Ok(receipt)) = (&self.span, result) {
            span.record("messaging.destination.partition.id", display(receipt.partition));
            if let Some(offset) = receipt.offset {
                span.record("messaging.kafka.offset", offset as i64);
            }
        }
        self.ended(error);
    }

    #[cfg(all(test, feature = "metrics"))]
    pub(super) fn fields(&self) -> &'static tracing::field::FieldSet {
        self.span.as_ref().and_then(|span| span.metadata()).expect("somebody listens").fields()
    }

    fn ended(self, error: Option<&'static str>) {
        self.counts.published(error.is_none());
        self.meters.ended(self.started, error);
        if let Some(span) = &self.span {
            fail(span, error);
        }
    }
}

/// Marks a span as failed.
pub(super) fn fail(span: &Span, error: Option<&'static str>) {
    if let Some(error) = error {
        span.record("error.type", error);
        span.record("otel.status_code", "error");
    }
}

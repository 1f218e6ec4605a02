//! Messages on their way in: the spans of handlers, and what is counted of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tracing::Span;
use tracing::field::{self, Empty};

use super::meters::{ConsumerMeters, Started, Telemetry};
use super::propagation::{Remote, within};
use super::publishing::fail;
use super::{SPAN_TARGET, error_type};
use crate::consumer::{Context, Failure};
use crate::error::ErrorKind;
use crate::message::Message;
use crate::name::Name;

/// What one consumer tells. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Consuming(Arc<Inner>);

struct Inner {
    system: &'static str,
    topic: Name,
    group: Name,
    meters: ConsumerMeters,
}

impl Telemetry {
    pub(crate) fn consuming(&self, topic: Name, group: Name) -> Consuming {
        let (system, meters) = (self.system(topic), self.consumer(topic, group));
        Consuming(Arc::new(Inner { system, topic, group, meters }))
    }
}

impl Consuming {
    /// A message in the consumer's hands, counted until this is dropped.
    pub(crate) fn hold(&self) -> Option<Counted> {
        self.0.meters.are_heard().then(|| {
            self.0.meters.holds(1.0);
            Counted(self.clone())
        })
    }

    /// A message could not be handled this time.
    pub(crate) fn failed(&self, kind: ErrorKind) {
        self.0.meters.failed(error_type(kind));
    }

    /// A message failed, and is handled again in place.
    pub(crate) fn retried(&self) {
        self.0.meters.retried("immediate");
    }

    /// A message failed, and was stored to be handled again after a delay.
    pub(crate) fn delayed(&self) {
        self.0.meters.retried("delayed");
    }

    /// A message was stored as a dead letter, for this reason.
    pub(crate) fn dead_lettered(&self, kind: ErrorKind) {
        self.0.meters.dead_lettered(error_type(kind));
    }

    /// A message was given up, for this reason.
    pub(crate) fn discarded(&self, kind: ErrorKind) {
        self.0.meters.discarded(error_type(kind));
    }

    /// Calls a handler for one message, in a span that continues the message's trace. Each attempt
    /// is a call of its own.
    pub(crate) async fn call(
        &self,
        context: &Context,
        // A reference, so that the handler's future is not moved once more.
        handling: Pin<&mut impl Future<Output = Result<(), Failure>>>,
    ) -> Result<(), Failure> {
        let span = self.span(Some(context));
        let remote = Remote::of(context.message());
        remote.adopt(&span);
        let started = self.0.meters.call();
        let ended = within(&span, &remote, handling).await;
        self.ended(&span, started, ended.as_ref().err());
        ended
    }

    /// Calls a handler for a batch, in a span that is linked to the trace of each of its messages.
    pub(crate) async fn call_batch(
        &self,
        contexts: &[Context],
        handling: Pin<&mut impl Future<Output = Vec<Result<(), Failure>>>>,
    ) -> Vec<Result<(), Failure>> {
        let span = self.span(None);
        if !span.is_disabled() {
            span.record("messaging.batch.message_count", contexts.len() as i64);
            contexts.iter().for_each(|context| Remote::of(context.message()).link(&span));
        }
        let started = self.0.meters.call();
        let ended = within(&span, &Remote::none(), handling).await;
        self.ended(&span, started, ended.iter().find_map(|ended| ended.as_ref().err()));
        ended
    }

    /// A span without a parent: what runs the consumer is not the cause of the message.
    fn span(&self, one: Option<&Context>) -> Span {
        let Inner { system, topic, group, .. } = *self.0;
        let message = one.map(Context::message);
        tracing::debug_span!(
            target: SPAN_TARGET,
            parent: None,
            "process",
            otel.name = format_args!("process {topic}"),
            otel.kind = "consumer",
            otel.status_code = Empty,
            messaging.system = system,
            messaging.operation.name = "process",
            messaging.operation.type = "process",
            messaging.destination.name = topic.as_str(),
            messaging.consumer.group.name = group.as_str(),
            messaging.destination.partition.id = one.map(|one| field::display(one.partition())),
            messaging.message.id = message.and_then(Message::id).map(field::display),
            messaging.message.conversation_id = message.and_then(Message::correlation_id),
            messaging.kafka.offset = one.and_then(Context::offset).map(|offset| offset as i64),
            messaging.batch.message_count = Empty,
            anybroker.attempt = one.map(|one| i64::from(one.attempt())),
            error.type = Empty,
        )
    }

    #[cfg(all(test, feature = "metrics"))]
    pub(super) fn fields(&self) -> &'static tracing::field::FieldSet {
        self.span(None).metadata().expect("somebody listens").fields()
    }

    fn ended(&self, span: &Span, started: Started, failure: Option<&Failure>) {
        let error = failure.map(|failure| error_type(failure.kind()));
        self.0.meters.called(started, error);
        fail(span, error);
    }
}

/// A message that is counted as being in a consumer's hands until this is dropped.
pub(crate) struct Counted(Consuming);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.meters.holds(-1.0);
    }
}

//! What `propagated.rs` does, without the feature `opentelemetry`: the headers are left alone.

use std::future::Future;

use tracing::{Instrument, Span};

use crate::message::Message;

pub(super) struct Remote;

impl Remote {
    pub(super) fn none() -> Self {
        Self
    }

    pub(super) fn of(_: &Message) -> Self {
        Self
    }

    pub(super) fn adopt(&self, _: &Span) {}
    pub(super) fn link(&self, _: &Span) {}
}

pub(super) fn inject(_: Option<&Span>, _: &mut Message) {}

pub(super) fn within<F: Future>(
    span: &Span,
    _: &Remote,
    work: F,
) -> impl Future<Output = F::Output> {
    work.instrument(span.clone())
}

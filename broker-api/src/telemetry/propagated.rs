//! The W3C trace context in the headers of a message.
//!
//! It is written and read here, not by the process's global propagator, so that it works without
//! one, has these two names on every broker, and is bounded whatever a stranger writes.

use std::future::Future;

use futures_util::future::Either;
use opentelemetry::Context;
use opentelemetry::trace::{
    FutureExt, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use tracing::level_filters::LevelFilter;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::headers::{HeaderValue, Headers};
use crate::limits::{MAX_HEADERS, MAX_HEADERS_BYTES};
use crate::message::Message;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// The size of a `traceparent` of version 00.
const TRACEPARENT_BYTES: usize = 55;

/// The longest `tracestate` that is passed on, which is the least that everybody has to.
const MAX_TRACESTATE_BYTES: usize = 512;

/// The trace that a message belongs to, as its headers say.
pub(super) struct Remote(Option<SpanContext>);

impl Remote {
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn of(message: &Message) -> Self {
        Self(read(message.headers()))
    }

    /// Makes the span, which has not begun, a child of the message's.
    pub(super) fn adopt(&self, span: &Span) {
        if let Some(context) = self.context() {
            // It fails where nobody listens to the span, and then it is not needed.
            drop(span.set_parent(context));
        }
    }

    pub(super) fn link(&self, span: &Span) {
        if let Some(remote) = &self.0 {
            span.add_link(remote.clone());
        }
    }

    fn context(&self) -> Option<Context> {
        let remote = self.0.clone()?;
        Some(Context::new().with_remote_span_context(remote))
    }
}

/// Writes the trace into the headers, unless they have one or there is no room for it: the span's,
/// or where nobody listens to our spans the one that is current.
pub(super) fn inject(span: Option<&Span>, message: &mut Message) {
    if message.headers().get(TRACEPARENT).is_some() {
        return;
    }
    let valid = |context: &Context| {
        let span = context.span();
        Some(span.span_context()).filter(|span| span.is_valid()).cloned()
    };
    let context = span.and_then(|span| valid(&span.context()));
    let context = context.or_else(|| Context::map_current(valid));
    let context = context.or_else(|| match LevelFilter::current() {
        // Nobody listens to any span, so none is current; asking for one costs more than this.
        LevelFilter::OFF => None,
        _ => valid(&Span::current().context()),
    });
    if let Some(context) = context {
        write(&context, message);
    }
}

/// Does the work in the span, or where nobody listens to that in the message's trace, so that it
/// goes on in the spans of the application.
pub(super) fn within<F: Future>(
    span: &Span,
    remote: &Remote,
    work: F,
) -> impl Future<Output = F::Output> {
    let heard = || span.context().span().span_context().is_valid();
    let work = match remote.context() {
        Some(context) if !heard() => Either::Right(work.with_context(context)),
        _ => Either::Left(work),
    };
    work.instrument(span.clone())
}

fn write(context: &SpanContext, message: &mut Message) {
    let (trace, span) = (context.trace_id(), context.span_id());
    let parent = format!("00-{trace}-{span}-{:02x}", context.trace_flags() & TraceFlags::SAMPLED);
    let state = Some(context.trace_state().header())
        .filter(|state| !state.is_empty() && state.len() <= MAX_TRACESTATE_BYTES);
    let bytes = TRACEPARENT.len()
        + parent.len()
        + state.as_ref().map_or(0, |state| TRACESTATE.len() + state.len());
    let headers = message.headers();
    // Telemetry never makes a message too large for the rules.
    if headers.len() + 2 > MAX_HEADERS || headers.byte_len() + bytes > MAX_HEADERS_BYTES {
        return;
    }
    let headers = message.headers_mut();
    headers.append(TRACEPARENT, parent);
    if let Some(state) = state {
        headers.set(TRACESTATE, state);
    }
}

fn read(headers: &Headers) -> Option<SpanContext> {
    // The last one is the nearest to us, where clients in between added theirs.
    let last = |name| headers.get_all(name).last().and_then(HeaderValue::as_str);
    let (trace, span, flags) = read_parent(last(TRACEPARENT)?)?;
    let state = last(TRACESTATE)
        .filter(|state| state.len() <= MAX_TRACESTATE_BYTES)
        .filter(|state| state.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')))
        .and_then(|state| state.parse().ok())
        .unwrap_or(TraceState::NONE);
    let context = SpanContext::new(trace, span, flags, true, state);
    context.is_valid().then_some(context)
}

/// Reads `version-trace-span-flags` in lower-case hexadecimal; later versions may have more behind.
fn read_parent(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let bytes = text.as_bytes();
    let (fixed, more) = bytes.split_at_checked(TRACEPARENT_BYTES)?;
    let shape = fixed.iter().enumerate().all(|(place, byte)| match place {
        2 | 35 | 52 => *byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    });
    let version_fits = match &fixed[..2] {
        b"00" => more.is_empty(),
        b"ff" => false,
        _ => more.is_empty() || more[0] == b'-',
    };
    if !shape || !version_fits {
        return None;
    }
    // The shape says that it is ASCII so far.
    let trace = TraceId::from_hex(&text[3..35]).ok()?;
    let span = SpanId::from_hex(&text[36..52]).ok()?;
    let flags = u8::from_str_radix(&text[53..55], 16).ok()?;
    Some((trace, span, TraceFlags::new(flags) & TraceFlags::SAMPLED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn with(parent: impl Into<HeaderValue>, state: impl Into<HeaderValue>) -> Message {
        Message::new("x").with_header(TRACEPARENT, parent).with_header(TRACESTATE, state)
    }

    #[test]
    fn a_trace_context_survives_its_way_through_headers() {
        let read_first = read(with(PARENT, "a=1,b@c=2").headers()).unwrap();
        assert!(read_first.is_remote() && read_first.is_sampled());
        let mut message = Message::new("x").with_header("own", "1");
        write(&read_first, &mut message);
        assert_eq!(message.headers().get_str(TRACEPARENT), Some(PARENT));
        assert_eq!(message.headers().get_str(TRACESTATE), Some("a=1,b@c=2"));
        assert_eq!(read(message.headers()).unwrap(), read_first);
    }

    #[test]
    fn of_several_the_last_counts_and_a_later_version_may_have_more() {
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-00-what-comes";
        let message = with(PARENT, "a=1").with_header(TRACEPARENT, later);
        let read = read(message.headers()).unwrap();
        assert_eq!(read.span_id().to_string(), "00f067aa0ba902b8");
        assert!(!read.is_sampled());
    }

    #[test]
    fn a_trace_parent_that_breaks_the_rules_is_none() {
        for bad in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0é",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(read(with(bad, "a=1").headers()), None, "{bad}");
        }
        let message = Message::new("x").with_header(TRACEPARENT, HeaderValue::Null);
        assert_eq!(read(message.headers()), None);
    }

    #[test]
    fn a_trace_state_that_is_too_long_or_malformed_is_left_out_and_the_trace_kept() {
        let long = format!("a={}", "x".repeat(MAX_TRACESTATE_BYTES));
        for bad in [long, "a".to_owned(), "A=1".to_owned(), "a=\u{e9}".to_owned()] {
            let read = read(with(PARENT, bad.clone()).headers()).expect(&bad);
            assert_eq!(*read.trace_state(), TraceState::NONE, "{bad}");
        }
    }

    #[test]
    fn no_trace_is_written_where_the_headers_are_full() {
        let context = read(with(PARENT, "a=1").headers()).unwrap();
        let mut message = Message::new("x").with_header("h", vec![0; MAX_HEADERS_BYTES - 60]);
        write(&context, &mut message);
        assert_eq!(message.headers().len(), 1);
    }

    proptest! {
        #[test]
        fn whatever_a_stranger_writes_is_read_without_harm_and_stays_bounded(
            parent in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..80),
                "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,20})?".prop_map(String::into_bytes),
            ],
            state in proptest::collection::vec(any::<u8>(), 0..1000),
        ) {
            if let Some(context) = read(with(parent, state).headers()) {
                let mut message = Message::new("x");
                write(&context, &mut message);
                prop_assert!(message.headers().byte_len() <= 75 + 10 + MAX_TRACESTATE_BYTES);
                prop_assert_eq!(read(message.headers()).map(|read| read.trace_id()), Some(context.trace_id()));
            }
        }
    }
}

//! Traces, through the in-memory exporter of `opentelemetry_sdk`.

use std::cell::RefCell;
use std::time::Duration;

use broker_api::dead_letter::{Filter, Pace, dead_letter_topic};
use broker_api::telemetry::SPAN_TARGET;
use broker_api::{Broker, Context, Message, Name, Permanent};
use opentelemetry::trace::{
    FutureExt, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, TracerProvider,
};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing::Instrument;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};

use super::{GROUP, OUT, WORK, broker, in_the_end, paused};

/// Runs a test whose spans are exported, and gives them in the order they began.
fn traced(ours: bool, test: impl Future<Output = ()>) -> Vec<SpanData> {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let level = if ours { LevelFilter::DEBUG } else { LevelFilter::OFF };
    let filter = Targets::new().with_default(LevelFilter::INFO).with_target(SPAN_TARGET, level);
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter));
    let _listening = tracing::subscriber::set_default(subscriber);
    paused(test);
    let mut spans = exporter.get_finished_spans().unwrap();
    spans.sort_by_key(|span| span.start_time);
    spans
}

fn named<'a>(spans: &'a [SpanData], name: &str) -> Vec<&'a SpanData> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn only<'a>(spans: &'a [SpanData], name: &str) -> &'a SpanData {
    let named = named(spans, name);
    assert_eq!(named.len(), 1, "{name} among {spans:#?}");
    named[0]
}

fn attribute(span: &SpanData, name: &str) -> Option<String> {
    let mut attributes = span.attributes.iter();
    attributes.find(|a| a.key.as_str() == name).map(|a| a.value.to_string())
}

/// That each span is the parent of the next one, in one trace.
fn assert_chain(spans: &[&SpanData]) {
    for pair in spans.windows(2) {
        let [parent, child] = pair else { unreachable!("windows of two") };
        assert_eq!(child.parent_span_id, parent.span_context.span_id(), "{}", child.name);
        assert_eq!(child.span_context.trace_id(), parent.span_context.trace_id());
    }
}

async fn consume<F, Fut>(broker: &Broker, handler: F)
where
    F: Fn(String, Context) -> Fut,
    Fut: Future<Output = Result<(), broker_api::Failure>>,
{
    broker.consumer(WORK, GROUP).until(in_the_end()).run(handler).await.unwrap();
}

#[test]
fn a_trace_goes_on_in_the_handler_and_in_what_it_publishes() {
    let spans = traced(true, async {
        let broker = broker().await;
        let value = "x".to_owned();
        let publish = broker.publish(WORK, &value).id("id-1").correlation_id("talk");
        let request = tracing::info_span!("request");
        async { publish.await.unwrap() }.instrument(request).await;
        consume(&broker, |value, context| async move {
            async { context.publish(OUT, &value).await }
                .instrument(tracing::info_span!("work inside"))
                .await?;
            Ok(())
        })
        .await;
        let out = broker.consumer(OUT, GROUP).until(in_the_end());
        out.run(|_, _| async { Ok(()) }).await.unwrap();
    });
    let (sent, processed) = (only(&spans, "send work"), only(&spans, "process work"));
    let (request, inside) = (only(&spans, "request"), only(&spans, "work inside"));
    let (out, last) = (only(&spans, "send out"), only(&spans, "process out"));
    assert_chain(&[request, sent, processed, inside, out, last]);

    assert_eq!((&sent.span_kind, &sent.status), (&SpanKind::Producer, &Status::Unset));
    assert_eq!((&processed.span_kind, &processed.status), (&SpanKind::Consumer, &Status::Unset));
    let attributes = |span| {
        [
            "messaging.system",
            "messaging.operation.name",
            "messaging.operation.type",
            "messaging.destination.name",
            "messaging.destination.partition.id",
            "messaging.consumer.group.name",
            "messaging.message.id",
            "messaging.message.conversation_id",
            "messaging.kafka.offset",
            "anybroker.attempt",
            "error.type",
        ]
        .map(|name| attribute(span, name).unwrap_or_default())
        .join("|")
    };
    assert_eq!(attributes(sent), "memory|send|send|work|0||id-1|talk|0||");
    assert_eq!(attributes(processed), "memory|process|process|work|0|group|id-1|talk|0|1|");
    assert_eq!(attribute(out, "messaging.message.conversation_id"), Some("talk".into()));
}

#[test]
fn a_trace_goes_on_to_the_dead_letter_and_with_it_when_it_is_redriven() {
    let spans = traced(true, async {
        let broker = broker().await;
        broker.publish(WORK, &"x".to_owned()).await.unwrap();
        consume(&broker, |_, _| async { Err("for good").permanent() }).await;
        let topic = dead_letter_topic(WORK.name(), Name::new(GROUP)).unwrap();
        let letters = broker.dead_letters(topic);
        letters.redrive(&Filter::default(), Pace::Unlimited).await.unwrap();
        consume(&broker, |_, _| async { Ok(()) }).await;
    });
    let (sent, processed) = (only(&spans, "send work"), named(&spans, "process work"));
    let dead = only(&spans, "send work.group.dlt");
    let redriven = only(&spans, "send work.group.retry");
    assert_eq!(processed.len(), 2);
    // All are caused by the message: it carries the span that it was published in.
    for caused in [processed[0], dead, redriven, processed[1]] {
        assert_chain(&[sent, caused]);
    }
    assert_eq!(attribute(processed[0], "error.type"), Some("Handler".into()));
    assert!(matches!(processed[0].status, Status::Error { .. }));
    assert_eq!(processed[1].status, Status::Unset);
    assert_eq!(attribute(processed[1], "anybroker.attempt"), Some("2".into()));
}

#[test]
fn a_publish_that_fails_is_a_span_that_failed() {
    let spans = traced(true, async {
        let broker = broker().await;
        let nowhere = broker.publish(WORK.named(Name::new("nowhere")), &"x".to_owned());
        nowhere.await.unwrap_err();
    });
    let sent = only(&spans, "send nowhere");
    assert_eq!(attribute(sent, "error.type"), Some("UnknownTopic".into()));
    assert!(matches!(sent.status, Status::Error { .. }));
}

#[test]
fn a_batch_is_linked_to_the_trace_of_each_of_its_messages() {
    let spans = traced(true, async {
        let broker = broker().await;
        for _ in 0..2 {
            broker.publish(WORK, &"x".to_owned()).await.unwrap();
        }
        let consumer = broker.consumer(WORK, GROUP).until(in_the_end());
        let batches = consumer.batches(2, Duration::from_secs(1));
        batches.run(|batch| async move { batch.iter().map(|_| Ok(())).collect() }).await.unwrap();
    });
    let batch = only(&spans, "process work");
    assert_eq!(batch.parent_span_id, SpanId::INVALID);
    assert_eq!(attribute(batch, "messaging.batch.message_count"), Some("2".into()));
    let links: Vec<_> = batch.links.iter().map(|link| link.span_context.span_id()).collect();
    let sent = named(&spans, "send work");
    let sent: Vec<_> = sent.iter().map(|span| span.span_context.span_id()).collect();
    assert_eq!((links.len(), links), (2, sent));
}

#[test]
fn where_our_spans_are_filtered_out_those_of_the_application_are_one_trace() {
    let spans = traced(false, async {
        let broker = broker().await;
        let value = "x".to_owned();
        let publish = async { broker.publish(WORK, &value).await.unwrap() };
        publish.instrument(tracing::info_span!("request")).await;
        consume(&broker, |_, _| async { Ok(()) }.instrument(tracing::info_span!("handling"))).await;
    });
    let names: Vec<_> = spans.iter().map(|span| span.name.as_ref()).collect();
    assert_eq!(names, ["request", "handling"]);
    assert_chain(&[&spans[0], &spans[1]]);
}

#[test]
fn without_tracing_the_context_of_opentelemetry_travels() {
    let (trace, span) = (TraceId::from(7), SpanId::from(8));
    let state: TraceState = "vendor=1".parse().unwrap();
    let request = SpanContext::new(trace, span, TraceFlags::SAMPLED, false, state);
    let context = opentelemetry::Context::new().with_remote_span_context(request.clone());
    let seen = RefCell::new(Vec::new());
    paused(async {
        let broker = broker().await;
        let value = "x".to_owned();
        async { broker.publish(WORK, &value).await.unwrap() }.with_context(context).await;
        consume(&broker, |_, _| async {
            let current = opentelemetry::Context::current();
            seen.borrow_mut().push(current.span().span_context().clone());
            Ok(())
        })
        .await;
    });
    let seen = seen.into_inner();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].trace_id(), seen[0].span_id()), (trace, span));
    assert_eq!(seen[0].trace_state(), request.trace_state());
}

#[test]
fn where_there_is_no_trace_the_headers_are_left_alone() {
    let seen = RefCell::new(Vec::new());
    paused(async {
        let broker = broker().await;
        broker.publish(WORK, &"x".to_owned()).header("own", "1").await.unwrap();
        let message = Message::new("\"x\"").with_header("traceparent", "not one");
        broker.publish_message(WORK.name(), message).await.unwrap();
        consume(&broker, |_, context| {
            seen.borrow_mut().push(context.message().headers().clone());
            async { Ok(()) }
        })
        .await;
    });
    let headers: Vec<Vec<_>> = seen
        .borrow()
        .iter()
        .map(|headers| headers.iter().map(|(name, _)| name.to_owned()).collect())
        .collect();
    assert_eq!(headers, [["own"], ["traceparent"]]);
}

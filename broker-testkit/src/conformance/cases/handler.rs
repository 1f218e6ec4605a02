//! What a handler says, and what a consumer makes of it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use broker_api::consumer::Request;
use broker_api::{Breaker, Bytes, Context, Message, Name, Permanent, RecentIds, Retry, Topic};
use tower_layer::layer_fn;
use tower_service::Service;

use super::super::bench::Bench;
use super::super::case::cases;
use super::super::fault::{Fault, Verdict, ensure, ensure_eq};
use super::super::handling::Seen;

cases! { "handler";
    a_handler_that_panics_has_failed,
    a_handler_past_its_time_limit_has_failed,
    the_pause_that_a_handler_asks_for_counts,
    what_a_handler_publishes_is_confirmed_before_its_message_is_settled,
    what_the_group_has_handled_is_not_handled_again,
    the_trace_of_a_message_comes_to_every_attempt,
    the_trace_in_scope_goes_on_in_the_handler_and_in_what_it_publishes,
    layers_see_every_attempt_and_a_permanent_failure_survives_them,
    a_breaker_stops_calling_tries_again_and_health_says_so,
}

const RAW: Topic<Bytes> = Topic::raw("raw");
const SHORT: Duration = Duration::from_millis(200);
const HOUR: Duration = Duration::from_secs(3600);

/// A topic for a consumer's handler, and a group that keeps what the case publishes.
pub(super) async fn work(bench: &Bench, partitions: u32) -> Result<(Topic<Bytes>, Name), Fault> {
    let topic = RAW.named(bench.topic("work", partitions).await?);
    let group = bench.declared(topic.name(), "group").await?;
    for made in ["retry", "retry.200ms", "retry.400ms", "retry.3s", "dlt", "dlt.done"] {
        bench.made_by_consumer(topic.name(), group, made)?;
    }
    Ok((topic, group))
}

/// Tries again soon, and for ever.
pub(super) fn quick() -> Retry {
    Retry::forever().initial(Duration::from_millis(1)).max(Duration::from_millis(5))
}

/// What a handler saw: the payload and the attempt.
pub(super) fn seen_as(payload: &Bytes, context: &Context) -> String {
    format!("{} {}", String::from_utf8_lossy(payload), context.attempt())
}

async fn a_handler_that_panics_has_failed(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["first", "second"]).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        seen.add(seen_as(&payload, &context));
        assert!(payload != "first" || context.attempt() > 1, "a panic that the case wants");
        Ok(())
    };
    let consumer = broker.consumer(topic, group.as_str()).retry(quick());
    bench.consume(consumer, handler, seen.count(3)).await?;
    ensure_eq!(seen.all(), ["first 1", "first 2", "second 1"], "the attempts");
    Ok(())
}

async fn a_handler_past_its_time_limit_has_failed(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["job"]).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        seen.add(seen_as(&payload, &context));
        if context.attempt() == 1 {
            std::future::pending::<()>().await;
        }
        Ok(())
    };
    let consumer = broker.consumer(topic, group.as_str()).handler_timeout(SHORT).retry(quick());
    bench.consume(consumer, handler, seen.count(2)).await?;
    ensure_eq!(seen.all(), ["job 1", "job 2"], "the attempts");
    Ok(())
}

async fn the_pause_that_a_handler_asks_for_counts(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    bench.publish(topic.name(), 0, ["job"]).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        seen.add(seen_as(&payload, &context));
        match context.attempt() {
            1 => Err(broker_api::Failure::from("not now").retry_after(Duration::from_millis(1))),
            _ => Ok(()),
        }
    };
    // The policy's own pause would be far too long for this case.
    let retry = Retry::forever().initial(HOUR).max(HOUR);
    let consumer = broker.consumer(topic, group.as_str()).retry(retry);
    bench.consume(consumer, handler, seen.count(2)).await?;
    ensure_eq!(seen.all(), ["job 1", "job 2"], "the attempts");
    Ok(())
}

async fn what_a_handler_publishes_is_confirmed_before_its_message_is_settled(
    bench: &Bench,
) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let output = RAW.named(bench.topic("output", 1).await?);
    let listeners = bench.declared(output.name(), "listeners").await?;
    let missing = RAW.named(bench.name("missing")?);
    let broker = bench.broker().await?;
    let message = Message::new("job").with_correlation_id("talk");
    broker.publish_message(topic.name(), message).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        seen.add(seen_as(&payload, &context));
        // What is not confirmed is a failure of the handler, though it returns `Ok`.
        let to = if context.attempt() == 1 { missing } else { output };
        context.publish(to, &payload).await?;
        Ok(())
    };
    let consumer = broker.consumer(topic, group.as_str()).retry(quick());
    bench.consume(consumer, handler, seen.count(2)).await?;
    ensure_eq!(seen.all(), ["job 1", "job 2"], "the attempts");
    let delivery = bench.join(output.name(), listeners).await?.next().await?;
    ensure_eq!(delivery.message().payload(), "job", "the output");
    ensure_eq!(delivery.message().correlation_id(), Some("talk"), "the conversation");
    delivery.ack();
    Ok(())
}

async fn what_the_group_has_handled_is_not_handled_again(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    for (payload, id) in [("1", "x"), ("again", "x"), ("2", "y")] {
        broker.publish_message(topic.name(), Message::new(payload)).id(id).partition(0).await?;
    }
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        seen.add(seen_as(&payload, &context));
        // A failure is not yet handled.
        if context.attempt() == 1 { Err("not now".into()) } else { Ok(()) }
    };
    let consumer = broker.consumer(topic, group.as_str()).dedup(RecentIds::new(10)).retry(quick());
    bench.consume(consumer, handler, seen.count(4)).await?;
    ensure_eq!(seen.all(), ["1 1", "1 2", "2 1", "2 2"], "what the handler saw");
    bench.mark(topic.name(), 1).await?;
    let rest = bench.join(topic.name(), group).await?.texts_before_markers(1).await?;
    ensure!(rest.is_empty(), "what was not handled again is not settled: {rest:?}");
    Ok(())
}

async fn the_trace_of_a_message_comes_to_every_attempt(bench: &Bench) -> Verdict {
    bench.require_replay().await?;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    let letters = bench.made_by_consumer(topic.name(), group, "dlt")?;
    let message =
        Message::new("job").with_header("traceparent", parent).with_header("tracestate", "a=1,b=2");
    broker.publish_message(topic.name(), message).await?;
    let trace_of = |message: &Message| {
        let header = |name| message.headers().get_str(name).unwrap_or("missing").to_owned();
        format!("{} {}", header("traceparent"), header("tracestate"))
    };
    let seen = Seen::default();
    let handler = async |_, context: Context| {
        seen.add(trace_of(context.message()));
        Err("never".into())
    };
    // In the topic, in place, and after a delay.
    let retry = quick().attempts(2).delays([SHORT]);
    let consumer = broker.consumer(topic, group.as_str()).retry(retry);
    let arrived = async { bench.dead_letters(&broker, letters, 1).await.map(drop) };
    bench.consume(consumer, handler, arrived).await?;
    let trace = format!("{parent} a=1,b=2");
    ensure_eq!(seen.all(), [&*trace; 4], "the trace in each attempt");
    let letter = bench.dead_letters(&broker, letters, 1).await?.remove(0);
    ensure_eq!(trace_of(&letter.message), trace, "the trace in the dead letter");
    Ok(())
}

#[cfg(not(feature = "opentelemetry"))]
async fn the_trace_in_scope_goes_on_in_the_handler_and_in_what_it_publishes(_: &Bench) -> Verdict {
    let text = "broker-testkit was built without its feature `opentelemetry`";
    Err(super::super::fault::Fault::Ignored(text.to_owned()))
}

#[cfg(feature = "opentelemetry")]
async fn the_trace_in_scope_goes_on_in_the_handler_and_in_what_it_publishes(
    bench: &Bench,
) -> Verdict {
    use opentelemetry::Context as Scope;
    use opentelemetry::trace::{
        FutureExt as _, SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    };

    let trace = TraceId::from(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
    let parent = SpanId::from(0x00f0_67aa_0ba9_02b7);
    let span = SpanContext::new(trace, parent, TraceFlags::SAMPLED, false, TraceState::NONE);
    let scope = Scope::new().with_remote_span_context(span);
    let (topic, group) = work(bench, 1).await?;
    let output = RAW.named(bench.topic("output", 1).await?);
    let others = bench.declared(output.name(), "others").await?;
    let broker = bench.broker().await?;
    let publishing = async { broker.publish(topic, &Bytes::from("job")).await };
    publishing.with_context(scope).await?;
    let seen = Seen::default();
    let handler = async |payload: Bytes, context: Context| {
        context.publish(output, &payload).await?;
        seen.add(Scope::current().span().span_context().trace_id().to_string());
        Ok(())
    };
    bench.consume(broker.consumer(topic, group.as_str()), handler, seen.count(1)).await?;
    ensure_eq!(seen.all(), [trace.to_string()], "the trace in scope of the handler");
    let published = bench.join(output.name(), others).await?.next().await?;
    let header = published.message().headers().get_str("traceparent").unwrap_or("missing");
    ensure!(header.contains(&trace.to_string()), "the trace of what it published: {header}");
    Ok(())
}

/// A service that counts its calls, around another one.
#[derive(Clone)]
struct Counting<'a, S> {
    calls: &'a Seen,
    inner: S,
}

impl<T, S: Service<Request<T>>> Service<Request<T>> for Counting<'_, S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<T>) -> S::Future {
        self.calls.add(request.context.attempt().to_string());
        self.inner.call(request)
    }
}

async fn layers_see_every_attempt_and_a_permanent_failure_survives_them(bench: &Bench) -> Verdict {
    bench.require_replay().await?;
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.broker().await?;
    let letters = bench.made_by_consumer(topic.name(), group, "dlt")?;
    bench.publish(topic.name(), 0, ["job"]).await?;
    let calls = Seen::default();
    let (stop, stopped) = super::super::handling::stopper();
    let handler = |_, context: Context| async move {
        match context.attempt() {
            1 => Err("not now".into()),
            _ => Err("never").permanent(),
        }
    };
    let counting = layer_fn(|inner| Counting { calls: &calls, inner });
    let consumer = broker.consumer(topic, group.as_str()).retry(quick()).until(stopped);
    let running = bench.tamper().consumer(consumer).layer(counting).run(handler);
    let done = async {
        let arrived = bench.dead_letters(&broker, letters, 1).await.map(drop);
        stop.now();
        arrived
    };
    let (ran, done) = tokio::join!(running, done);
    done?;
    ran?;
    ensure_eq!(calls.all(), ["1", "2"], "the attempts that the layer saw");
    Ok(())
}

async fn a_breaker_stops_calling_tries_again_and_health_says_so(bench: &Bench) -> Verdict {
    let (topic, group) = work(bench, 1).await?;
    let broker = bench.connect().await?;
    bench.publish(topic.name(), 0, ["job"]).await?;
    let mended = AtomicBool::new(false);
    let seen = Seen::default();
    let calls = RefCell::new(Vec::new());
    let called = Seen::default();
    let handler = async |_, _| {
        calls.borrow_mut().push(Instant::now());
        called.add("called");
        match mended.load(Ordering::SeqCst) {
            false => Err("the database is down".into()),
            true => {
                seen.add("handled");
                Ok(())
            }
        }
    };
    let breaker = Breaker { ratio: 1.0, calls: 3, window: HOUR, pause: SHORT };
    let consumer = broker.consumer(topic, group.as_str()).retry(quick()).breaker(breaker);
    // A consumer that is joining has a problem as well.
    let is_open = || {
        let mut problems = broker.health().consumers.into_iter().filter_map(|c| c.problem);
        problems.any(|problem| problem.contains("circuit breaker"))
    };
    let opened = async {
        let look = || if is_open() { Ok(()) } else { Err(format!("{:?}", broker.health())) };
        tokio::select! {
            opened = bench.until("health that shows the open breaker", look) => opened?,
            _ = called.count(100) => ensure!(false, "a hundred calls failed, and it is not open"),
        }
        mended.store(true, Ordering::SeqCst);
        seen.count(1).await?;
        let look =
            || if broker.health().is_up() { Ok(()) } else { Err(format!("{:?}", broker.health())) };
        bench.until("health that is up again", look).await
    };
    bench.consume(consumer, handler, opened).await?;
    let calls = calls.into_inner();
    ensure!(calls.len() >= 4, "{} calls, three to open it and one to try", calls.len());
    let paused = calls[3].duration_since(calls[2]);
    ensure!(paused >= SHORT, "it paused for {paused:?} only");
    Ok(broker.close().await?)
}

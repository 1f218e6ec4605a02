//! Metrics through the `metrics` facade. `unmetered.rs` has the same without the feature.
//!
//! What a message meets on its good way is a handle made once for its topic and group. Only a
//! failure looks its metric up, by labels that are all static. Where no recorder is installed,
//! nothing is counted and no clock is read.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use metrics::{
    Counter, Gauge, Histogram, IntoF64, Key, KeyName, Label, Level, Metadata, with_recorder,
};
use tokio::time::Instant;

use super::lag::LagWatch;
use super::names::{self, Kind, Metric};
use crate::backend::Backend;
use crate::delivery::Delivery;
use crate::name::Name;

static METADATA: Metadata<'static> = Metadata::new("anybroker", Level::INFO, Some(module_path!()));

/// What a broker tells.
pub(crate) struct Telemetry {
    backend: Arc<dyn Backend>,
    topics: RwLock<HashMap<Name, PublisherMeters>>,
    /// Set when it was found that nobody listens.
    unheard: AtomicBool,
}

impl Telemetry {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        names::ALL.into_iter().for_each(describe);
        Self { backend, topics: RwLock::default(), unheard: AtomicBool::new(false) }
    }

    pub(super) fn system(&self, topic: Name) -> &'static str {
        self.backend.system_of(topic)
    }

    pub(super) fn publisher(&self, topic: Name) -> PublisherMeters {
        if self.unheard.load(Ordering::Relaxed) {
            return PublisherMeters(None);
        }
        let known = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(meters) = known.get(&topic) {
            return meters.clone();
        }
        drop(known);
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let new = || PublisherMeters::new(Labels::new(self.system(topic), topic));
        let meters = topics.entry(topic).or_insert_with(new).clone();
        self.unheard.store(meters.0.is_none(), Ordering::Relaxed);
        meters
    }

    pub(super) fn consumer(&self, topic: Name, group: Name) -> ConsumerMeters {
        let labels = Labels::new(self.system(topic), topic).with(names::GROUP, group.as_str());
        ConsumerMeters::new(labels, |gauge| {
            LagWatch::begin(self.backend.clone(), topic, group, gauge)
        })
    }

    /// A count of what is received of these topics, by a group or in a reading.
    pub(crate) fn received(&self, group: Option<Name>, topics: &[Name]) -> Received {
        let counter = |topic: &Name| {
            let labels = Labels::new(self.system(*topic), *topic).with(names::OPERATION, "receive");
            let labels = match group {
                Some(group) => labels.with(names::GROUP, group.as_str()),
                None => labels,
            };
            (*topic, labels.counter(&names::CONSUMED))
        };
        Received(topics.iter().map(counter).collect())
    }
}

fn describe(metric: &Metric) {
    with_recorder(|recorder| {
        let (name, unit) = (KeyName::from_const_str(metric.name), Some(metric.unit));
        match metric.kind {
            Kind::Counter => recorder.describe_counter(name, unit, metric.about.into()),
            Kind::Gauge => recorder.describe_gauge(name, unit, metric.about.into()),
            Kind::Histogram => recorder.describe_histogram(name, unit, metric.about.into()),
        }
    });
}

/// The attributes of a metric.
#[derive(Clone)]
struct Labels(Vec<Label>);

impl Labels {
    fn new(system: &'static str, topic: Name) -> Self {
        Self(Vec::new()).with(names::SYSTEM, system).with(names::DESTINATION, topic.as_str())
    }

    fn with(&self, name: &'static str, value: &'static str) -> Self {
        let mut labels = self.0.clone();
        labels.push(Label::from_static_parts(name, value));
        Self(labels)
    }

    fn failed(&self, error: &'static str) -> Self {
        self.with(names::ERROR, error)
    }

    fn key(&self, metric: &Metric) -> Key {
        let documented = |label: &Label| metric.attributes.contains(&label.key());
        debug_assert!(self.0.iter().all(documented), "{} with {:?}", metric.name, self.0);
        Key::from_parts(KeyName::from_const_str(metric.name), self.0.clone())
    }

    fn counter(&self, metric: &Metric) -> Counter {
        with_recorder(|recorder| recorder.register_counter(&self.key(metric), &METADATA))
    }

    fn gauge(&self, metric: &Metric) -> Gauge {
        with_recorder(|recorder| recorder.register_gauge(&self.key(metric), &METADATA))
    }

    fn histogram(&self, metric: &Metric) -> Histogram {
        with_recorder(|recorder| recorder.register_histogram(&self.key(metric), &METADATA))
    }
}

/// Whether what is told to this gauge is heard: there is a recorder. It is told that it changes by
/// nothing, which is looked at only by who hears it.
fn is_heard(gauge: &Gauge) -> bool {
    struct Asked<'a>(&'a Cell<bool>);
    impl IntoF64 for Asked<'_> {
        fn into_f64(self) -> f64 {
            self.0.set(true);
            0.0
        }
    }
    let heard = Cell::new(false);
    gauge.increment(Asked(&heard));
    heard.get()
}

/// The metrics of publishing to one topic, if anybody listens. Cheap to clone.
#[derive(Clone)]
pub(super) struct PublisherMeters(Option<Arc<Publisher>>);

struct Publisher {
    sends: Labels,
    durations: Labels,
    sent: Counter,
    duration: Histogram,
    in_flight: Gauge,
}

impl PublisherMeters {
    fn new(labels: Labels) -> Self {
        let in_flight = labels.gauge(&names::PUBLISHING);
        if !is_heard(&in_flight) {
            return Self(None);
        }
        let sends = labels.with(names::OPERATION, "send");
        let durations = sends.with(names::OPERATION_TYPE, "send");
        Self(Some(Arc::new(Publisher {
            sent: sends.counter(&names::SENT),
            duration: durations.histogram(&names::SEND_DURATION),
            in_flight,
            sends,
            durations,
        })))
    }

    pub(super) fn handed_over(&self) {
        if let Some(meters) = &self.0 {
            meters.in_flight.increment(1.0);
        }
    }

    /// The broker answered what was handed over.
    pub(super) fn answered(&self, error: Option<&'static str>) {
        let Some(meters) = &self.0 else { return };
        meters.in_flight.decrement(1.0);
        match error {
            None => meters.sent.increment(1),
            Some(error) => meters.sends.failed(error).counter(&names::SENT).increment(1),
        }
    }

    pub(super) fn ended(&self, started: Started, error: Option<&'static str>) {
        if let Some(meters) = &self.0 {
            let labels = &meters.durations;
            started.record(&meters.duration, labels, &names::SEND_DURATION, error);
        }
    }
}

/// The metrics of consuming one topic in one group.
pub(super) struct ConsumerMeters {
    labels: Labels,
    calls: Labels,
    duration: Histogram,
    in_flight: Gauge,
    /// `None` where nobody listens.
    lag: Option<LagWatch>,
}

impl ConsumerMeters {
    fn new(labels: Labels, watch: impl FnOnce(Gauge) -> LagWatch) -> Self {
        let calls = labels.with(names::OPERATION, "process");
        let in_flight = labels.gauge(&names::HELD);
        Self {
            duration: calls.histogram(&names::PROCESS_DURATION),
            lag: is_heard(&in_flight).then(|| watch(labels.gauge(&names::LAG))),
            in_flight,
            labels,
            calls,
        }
    }

    pub(super) fn are_heard(&self) -> bool {
        self.lag.is_some()
    }

    pub(super) fn holds(&self, more: f64) {
        self.in_flight.increment(more);
    }

    /// A handler is called.
    pub(super) fn call(&self) -> Started {
        Started(self.are_heard().then(Instant::now))
    }

    pub(super) fn called(&self, started: Started, error: Option<&'static str>) {
        started.record(&self.duration, &self.calls, &names::PROCESS_DURATION, error);
    }

    pub(super) fn failed(&self, error: &'static str) {
        self.labels.failed(error).counter(&names::FAILURES).increment(1);
    }

    pub(super) fn retried(&self, kind: &'static str) {
        self.labels.with(names::RETRY, kind).counter(&names::RETRIES).increment(1);
    }

    pub(super) fn dead_lettered(&self, error: &'static str) {
        self.labels.failed(error).counter(&names::DEAD_LETTERS).increment(1);
    }

    pub(super) fn discarded(&self, error: &'static str) {
        self.labels.failed(error).counter(&names::DISCARDS).increment(1);
    }
}

/// When something began, if its duration is recorded.
#[derive(Clone, Copy)]
pub(super) struct Started(Option<Instant>);

impl Started {
    pub(super) fn at(time: Instant) -> Self {
        Self(Some(time))
    }

    /// Records how long it took, in `good` unless it failed.
    fn record(
        self,
        good: &Histogram,
        labels: &Labels,
        metric: &Metric,
        error: Option<&'static str>,
    ) {
        let Some(begin) = self.0 else { return };
        let seconds = begin.elapsed().as_secs_f64();
        match error {
            None => good.record(seconds),
            Some(error) => labels.failed(error).histogram(metric).record(seconds),
        }
    }
}

/// Counts what one subscription receives, of each of its topics.
pub(crate) struct Received(Vec<(Name, Counter)>);

impl Received {
    pub(crate) fn count(&self, batch: &[Delivery]) {
        let topic = |delivery: &Delivery| delivery.received().topic;
        for run in batch.chunk_by(|a, b| topic(a) == topic(b)) {
            if let Some((_, counter)) = self.0.iter().find(|(name, _)| *name == topic(&run[0])) {
                counter.increment(run.len() as u64);
            }
        }
    }
}

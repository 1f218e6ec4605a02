//! Metrics through the `metrics` facade. `unmetered.rs` has the same without the feature.
//!
//! What a message meets on its good way is a handle made once for its topic and group. Only a
//! failure looks its metric up, by labels that are all static.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, with_recorder};
use tokio::time::Instant;

use super::names::{self, Kind, Metric};
use crate::delivery::Delivery;
use crate::name::Name;

static METADATA: Metadata<'static> = Metadata::new("anybroker", Level::INFO, Some(module_path!()));

/// What a broker tells.
pub(crate) struct Telemetry {
    pub(super) system: &'static str,
    topics: RwLock<HashMap<Name, Arc<PublisherMeters>>>,
}

impl Telemetry {
    pub(crate) fn new(system: &'static str) -> Self {
        for metric in names::ALL {
            let describe = |recorder: &dyn metrics::Recorder| {
                let (name, unit) = (KeyName::from_const_str(metric.name), Some(metric.unit));
                match metric.kind {
                    Kind::Counter => recorder.describe_counter(name, unit, metric.about.into()),
                    Kind::Gauge => recorder.describe_gauge(name, unit, metric.about.into()),
                    Kind::Histogram => {
                        recorder.describe_histogram(name, unit, metric.about.into());
                    }
                }
            };
            with_recorder(describe);
        }
        Self { system, topics: RwLock::default() }
    }

    pub(super) fn publisher(&self, topic: Name) -> Arc<PublisherMeters> {
        let known = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(meters) = known.get(&topic) {
            return meters.clone();
        }
        drop(known);
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(PublisherMeters::new(Labels::new(self.system, topic)));
        topics.entry(topic).or_insert_with(new).clone()
    }

    pub(super) fn consumer(&self, topic: Name, group: Name) -> ConsumerMeters {
        ConsumerMeters::new(Labels::new(self.system, topic).with(names::GROUP, group.as_str()))
    }

    /// A count of what is received, by a group or in a reading.
    pub(crate) fn received(&self, group: Option<Name>) -> Received {
        Received { system: self.system, group, topics: Vec::new() }
    }
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

    fn failed(&self, error: Option<&'static str>) -> Self {
        error.map_or_else(|| self.clone(), |error| self.with(names::ERROR, error))
    }

    fn key(&self, metric: &Metric) -> Key {
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

/// The metrics of publishing to one topic.
pub(super) struct PublisherMeters {
    sends: Labels,
    durations: Labels,
    sent: Counter,
    duration: Histogram,
    in_flight: Gauge,
}

impl PublisherMeters {
    fn new(labels: Labels) -> Self {
        let sends = labels.with(names::OPERATION, "send");
        let durations = sends.with(names::OPERATION_TYPE, "send");
        Self {
            sent: sends.counter(&names::SENT),
            duration: durations.histogram(&names::SEND_DURATION),
            in_flight: labels.gauge(&names::PUBLISHING),
            sends,
            durations,
        }
    }

    pub(super) fn handed_over(&self) {
        self.in_flight.increment(1.0);
    }

    /// The broker answered what was handed over.
    pub(super) fn answered(&self, started: Instant, error: Option<&'static str>) {
        self.in_flight.decrement(1.0);
        match error {
            None => self.sent.increment(1),
            Some(_) => self.sends.failed(error).counter(&names::SENT).increment(1),
        }
        self.ended(started, error);
    }

    pub(super) fn ended(&self, started: Instant, error: Option<&'static str>) {
        let seconds = started.elapsed().as_secs_f64();
        match error {
            None => self.duration.record(seconds),
            Some(_) => {
                self.durations.failed(error).histogram(&names::SEND_DURATION).record(seconds);
            }
        }
    }
}

/// The metrics of consuming one topic in one group.
pub(super) struct ConsumerMeters {
    labels: Labels,
    calls: Labels,
    duration: Histogram,
    in_flight: Gauge,
}

impl ConsumerMeters {
    fn new(labels: Labels) -> Self {
        let calls = labels.with(names::OPERATION, "process");
        Self {
            duration: calls.histogram(&names::PROCESS_DURATION),
            in_flight: labels.gauge(&names::HELD),
            labels,
            calls,
        }
    }

    pub(super) fn holds(&self, more: f64) {
        self.in_flight.increment(more);
    }

    pub(super) fn called(&self, started: Started, error: Option<&'static str>) {
        let seconds = started.0.elapsed().as_secs_f64();
        match error {
            None => self.duration.record(seconds),
            Some(_) => {
                self.calls.failed(error).histogram(&names::PROCESS_DURATION).record(seconds);
            }
        }
    }

    pub(super) fn failed(&self, error: &'static str) {
        self.labels.failed(Some(error)).counter(&names::FAILURES).increment(1);
    }

    pub(super) fn retried(&self, kind: &'static str) {
        self.labels.with(names::RETRY, kind).counter(&names::RETRIES).increment(1);
    }

    pub(super) fn dead_lettered(&self, error: &'static str) {
        self.labels.failed(Some(error)).counter(&names::DEAD_LETTERS).increment(1);
    }

    pub(super) fn discarded(&self, error: &'static str) {
        self.labels.failed(Some(error)).counter(&names::DISCARDS).increment(1);
    }
}

/// When a handler was called.
#[derive(Clone, Copy)]
pub(super) struct Started(Instant);

impl Started {
    pub(super) fn now() -> Self {
        Self(Instant::now())
    }
}

/// Counts what one subscription receives.
pub(crate) struct Received {
    system: &'static str,
    group: Option<Name>,
    /// Few, mostly one.
    topics: Vec<(Name, Counter)>,
}

impl Received {
    pub(crate) fn count(&mut self, batch: &[Delivery]) {
        let topic = |delivery: &Delivery| delivery.received().topic;
        for run in batch.chunk_by(|a, b| topic(a) == topic(b)) {
            self.counter(topic(&run[0])).increment(run.len() as u64);
        }
    }

    fn counter(&mut self, topic: Name) -> &Counter {
        let known = self.topics.iter().position(|(name, _)| *name == topic);
        let place = known.unwrap_or_else(|| {
            let labels = Labels::new(self.system, topic).with(names::OPERATION, "receive");
            let labels = match self.group {
                Some(group) => labels.with(names::GROUP, group.as_str()),
                None => labels,
            };
            self.topics.push((topic, labels.counter(&names::CONSUMED)));
            self.topics.len() - 1
        });
        &self.topics[place].1
    }
}

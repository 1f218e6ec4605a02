//! Handing messages to librdkafka in their order, once their topic is known.

mod renewal;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use broker_api::{Confirm, Error, ErrorKind, Name, Outgoing, Result};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::deadlines::Deadlines;
use crate::delivered::{Deliveries, Producer};
use crate::elsewhere::Elsewhere;
use crate::error;
use crate::in_flight::{Flight, InFlight, Oldest};
use crate::link::Link;
use crate::properties::creation_error;
use crate::record;
use crate::topic::Topic;

/// How old what is known may be for a partition beyond it to be refused without asking.
const FRESH: Duration = Duration::from_secs(1);

/// The publishing side.
///
/// A topic is looked up before its first message is handed over; what comes meanwhile is held, in
/// order. When the connection is lost, all topics are forgotten: so what is published then is held
/// as well until a broker answers, and a held message whose time is up certainly was not stored.
pub(crate) struct Publisher {
    state: RwLock<State>,
    in_flight: InFlight,
    deadlines: Deadlines,
    /// There is a topic to look up.
    wanted: Notify,
    link: Arc<Link>,
    config: ClientConfig,
    lone: Lone,
    /// A client to be replaced, and when that was last done.
    failed: Mutex<(Option<Arc<Producer>>, Option<Instant>)>,
}

/// What sends each message in a batch of its own; made when it is first needed.
struct Lone {
    config: ClientConfig,
    producer: Mutex<Option<Arc<Producer>>>,
}

struct State {
    /// `None` once closed.
    producer: Option<Arc<Producer>>,
    topics: HashMap<Name, Route>,
}

enum Route {
    Known(Known),
    /// In a mutex only because a `Confirm` is not `Sync`; it is reached by the write lock alone.
    Held(Mutex<VecDeque<Outgoing>>),
}

impl Route {
    fn held(outgoing: Outgoing) -> Self {
        Self::Held(Mutex::new([outgoing].into()))
    }

    /// What is held, if it is.
    fn into_held(self) -> VecDeque<Outgoing> {
        match self {
            Self::Held(held) => held.into_inner().unwrap_or_else(PoisonError::into_inner),
            Self::Known(_) => VecDeque::new(),
        }
    }

    fn held_mut(&mut self) -> Option<&mut VecDeque<Outgoing>> {
        match self {
            Self::Held(held) => Some(held.get_mut().unwrap_or_else(PoisonError::into_inner)),
            Self::Known(_) => None,
        }
    }
}

struct Known {
    topic: Topic,
    since: Instant,
    producer: Arc<Producer>,
}

/// An answer that is given when no lock is held: it may call a function of somebody else's.
type Answer = (Confirm, Error);

impl Publisher {
    pub(crate) fn new(
        config: &ClientConfig,
        lone: ClientConfig,
        link: Arc<Link>,
    ) -> Result<(Arc<Self>, Arc<Producer>)> {
        let producer = create(config, link.clone(), false)?;
        let publisher = Arc::new(Self {
            state: RwLock::new(State { producer: Some(producer.clone()), topics: HashMap::new() }),
            in_flight: InFlight::default(),
            deadlines: Deadlines::new(),
            wanted: Notify::new(),
            link,
            config: config.clone(),
            lone: Lone { config: lone, producer: Mutex::new(None) },
            failed: Mutex::default(),
        });
        publisher.answer_for(&producer);
        Ok((publisher, producer))
    }

    /// Takes a message over.
    pub(crate) fn publish(self: &Arc<Self>, outgoing: Outgoing) {
        self.deadlines.note(outgoing.deadline);
        {
            let state = self.read();
            if let Some(Route::Known(known)) = state.topics.get(&outgoing.topic)
                && !known.is_outdated_for(&outgoing)
            {
                let failed = self.send(known, outgoing);
                drop(state);
                return answer_all(failed);
            }
        }
        answer_all(self.hold(outgoing));
    }

    /// Keeps a message until its topic is looked up.
    fn hold(self: &Arc<Self>, outgoing: Outgoing) -> Option<Answer> {
        let mut state = self.write();
        if state.producer.is_none() {
            return Some(closed(outgoing));
        }
        let route = state.topics.get_mut(&outgoing.topic);
        match route {
            Some(Route::Held(held)) => {
                held.get_mut().unwrap_or_else(PoisonError::into_inner).push_back(outgoing);
                return None;
            }
            // Looked up between the two locks.
            Some(Route::Known(known)) if !known.is_outdated_for(&outgoing) => {
                return self.send(known, outgoing);
            }
            _ => {}
        }
        state.topics.insert(outgoing.topic, Route::held(outgoing));
        self.wanted.notify_one();
        None
    }

    /// Waits until a topic is to be looked up, and gives all of those. A client that has failed is
    /// replaced here.
    pub(crate) async fn wanted(self: &Arc<Self>) -> Vec<Name> {
        loop {
            self.renew();
            let topics: Vec<_> = {
                let state = self.read();
                let held = state.topics.iter().filter(|(_, r)| matches!(r, Route::Held(_)));
                held.map(|(name, _)| *name).collect()
            };
            if !topics.is_empty() {
                return topics;
            }
            self.wanted.notified().await;
        }
    }

    /// The topics that are known.
    pub(crate) fn known(&self) -> Vec<Name> {
        let state = self.read();
        let known = state.topics.iter().filter(|(_, route)| matches!(route, Route::Known(_)));
        known.map(|(name, _)| *name).collect()
    }

    /// A topic was looked up: what was held for it goes out, or fails.
    pub(crate) fn looked_up(self: &Arc<Self>, name: Name, answer: Result<Topic>) {
        let answer = answer.and_then(|topic| {
            let alone = match topic.is_small() {
                true => Some(self.lone()?),
                false => None,
            };
            Ok((topic, alone))
        });
        let mut failed = Vec::new();
        {
            let mut state = self.write();
            let held = state.topics.remove(&name).map(Route::into_held).unwrap_or_default();
            match (answer, state.producer.clone()) {
                (Ok((topic, alone)), Some(producer)) => {
                    let producer = alone.unwrap_or(producer);
                    let known = Known { topic, since: Instant::now(), producer };
                    failed.extend(held.into_iter().filter_map(|o| self.send(&known, o)));
                    state.topics.insert(name, Route::Known(known));
                }
                (Err(error), Some(_)) => {
                    let report = error::Report::of(&error);
                    let failure = || report.error("publish").with("topic", name);
                    failed.extend(held.into_iter().map(|o| (o.confirm, failure())));
                }
                (_, None) => failed.extend(held.into_iter().map(closed)),
            }
        }
        answer_all(failed);
    }

    /// What is known of a topic may be wrong now.
    pub(crate) fn forget(&self, name: Name) {
        self.write().topics.retain(|n, route| *n != name || matches!(route, Route::Held(_)));
    }

    /// The connection is lost: nothing is known any more.
    pub(crate) fn forget_all(&self) {
        self.write().topics.retain(|_, route| matches!(route, Route::Held(_)));
    }

    /// Answers each message whose time is up, for ever.
    pub(crate) async fn keep_deadlines(&self) {
        loop {
            self.deadlines.passed().await;
            let now = Instant::now();
            let next = [self.in_flight.expire(now), self.expire_held(now)];
            if let Some(next) = next.into_iter().flatten().min() {
                self.deadlines.note(next);
            }
        }
    }

    fn expire_held(&self, now: Instant) -> Option<Instant> {
        let (mut expired, mut next) = (Vec::new(), None::<Instant>);
        let reached = *self.link.follow().borrow();
        for route in self.write().topics.values_mut() {
            let Some(held) = route.held_mut() else { continue };
            for outgoing in std::mem::take(held) {
                if outgoing.deadline <= now {
                    let text = match reached {
                        true => "the topic could not be looked up within the time limit",
                        false => "the broker could not be reached within the time limit",
                    };
                    let error = Error::new(ErrorKind::Timeout, "publish", text).transient();
                    expired.push((outgoing.confirm, error.with("topic", outgoing.topic)));
                } else {
                    next = Some(next.map_or(outgoing.deadline, |n| n.min(outgoing.deadline)));
                    held.push_back(outgoing);
                }
            }
        }
        answer_all(expired);
        next
    }

    /// The oldest message that librdkafka has, at this look.
    pub(crate) fn look(&self) -> Option<Oldest> {
        self.in_flight.look()
    }

    /// The message with this number has its answer.
    pub(crate) fn landed(&self, key: usize) -> Option<Flight> {
        self.in_flight.remove(key)
    }

    /// Sends a message again that was refused together with the others of its batch.
    pub(crate) fn send_alone(self: &Arc<Self>, flight: Flight, message: &BorrowedMessage<'_>) {
        let topic = flight.topic;
        let sent = self.lone().and_then(|producer| {
            let key = self.in_flight.insert(flight);
            let record = BaseRecord {
                topic: topic.as_str(),
                partition: Some(message.partition()),
                payload: message.payload(),
                key: message.key(),
                timestamp: message.timestamp().to_millis(),
                headers: message.headers().map(|headers| headers.detach()),
                delivery_opaque: key,
            };
            producer.send(record).map_err(|(error, _)| {
                self.in_flight.remove(key);
                error::error(error, "publish").with("topic", topic)
            })
        });
        if let Err(error) = sent {
            // Its confirm was dropped with the flight, which said indeterminate.
            tracing::warn!(%error, "a message of a refused batch could not be sent again");
        }
    }

    /// Takes no more messages, answers what is held, and gives the clients to be flushed.
    pub(crate) fn close(&self) -> Vec<Arc<Producer>> {
        let (routes, producer) = {
            let mut state = self.write();
            (std::mem::take(&mut state.topics), state.producer.take())
        };
        let held = routes.into_values().map(Route::into_held);
        answer_all(held.flatten().map(closed));
        let mut lone = self.lone.producer.lock().unwrap_or_else(PoisonError::into_inner);
        producer.into_iter().chain(lone.take()).collect()
    }

    /// Checks a message and gives it to librdkafka; what to answer if that fails.
    fn send(&self, known: &Known, outgoing: Outgoing) -> Option<Answer> {
        let Outgoing { topic, partition, message, deadline, confirm } = outgoing;
        if let Err(error) = known.topic.check(&message, partition) {
            return Some((confirm, error.with("topic", topic)));
        }
        let key = self.in_flight.insert(Flight { confirm: Some(confirm), topic, deadline });
        let record = BaseRecord {
            topic: topic.as_str(),
            partition: partition.and_then(|partition| i32::try_from(partition).ok()),
            payload: Some(&**message.payload()),
            key: message.key().map(|key| &**key),
            timestamp: record::timestamp(&message),
            headers: record::headers(&message),
            delivery_opaque: key,
        };
        let (failure, _) = known.producer.send(record).err()?;
        let confirm = self.in_flight.remove(key).and_then(|flight| flight.confirm)?;
        // What librdkafka does not take was not sent.
        let error = match failure {
            KafkaError::MessageProduction(Code::Fatal) => self.has_failed(known.producer.clone()),
            failure => error::error(failure, "publish"),
        };
        Some((confirm, error.with("topic", topic)))
    }

    fn lone(self: &Arc<Self>) -> Result<Arc<Producer>> {
        let mut lone = self.lone.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = &*lone {
            return Ok(producer.clone());
        }
        let producer = create(&self.lone.config, self.link.clone(), true)?;
        self.answer_for(&producer);
        Ok(lone.insert(producer).clone())
    }

    /// The client for all messages, or for those that go alone, if there is one.
    pub(crate) fn producer(&self, alone: bool) -> Option<Arc<Producer>> {
        match alone {
            false => self.read().producer.clone(),
            true => {
                let lone = self.lone.producer.lock().unwrap_or_else(PoisonError::into_inner);
                lone.clone()
            }
        }
    }

    /// Lets a client's answers come here.
    fn answer_for(self: &Arc<Self>, producer: &Producer) {
        let answers: &OnceLock<_> = &producer.client().context().publisher;
        answers.get_or_init(|| Arc::downgrade(self));
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether the message names a partition that may have been added meanwhile.
    fn is_outdated_for(&self, outgoing: &Outgoing) -> bool {
        outgoing.partition.is_some_and(|partition| partition >= self.topic.partitions)
            && self.since.elapsed() > FRESH
    }
}

fn create(config: &ClientConfig, link: Arc<Link>, alone: bool) -> Result<Arc<Producer>> {
    let created = ThreadedProducer::from_config_and_context(config, Deliveries::new(link, alone));
    created
        .map(|producer| Arc::new(Elsewhere::new(producer)))
        .map_err(|error| creation_error(error, "connect"))
}

fn closed(outgoing: Outgoing) -> Answer {
    let error = Error::new(ErrorKind::Closed, "publish", "the broker is closed");
    (outgoing.confirm, error.with("topic", outgoing.topic))
}

fn answer_all(answers: impl IntoIterator<Item = Answer>) {
    for (confirm, error) in answers {
        confirm.done(Err(error));
    }
}

//! The messages that librdkafka has and that are not answered yet.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use broker_api::{Confirm, Error, ErrorKind, Name};
use slab::Slab;
use tokio::time::Instant;

/// What is kept of a message that was handed over.
#[derive(Debug)]
pub(crate) struct Flight {
    /// `None` once it was answered at its deadline.
    pub(crate) confirm: Option<Confirm>,
    pub(crate) topic: Name,
    pub(crate) deadline: Instant,
}

/// The oldest message in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Oldest {
    pub(crate) topic: Name,
    /// How many looks ago it was handed over.
    pub(crate) looks: u32,
}

/// The messages in flight by the number that librdkafka gives back with their delivery.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    /// With the number of the look at which each was handed over, which costs less than the time.
    flights: Mutex<Slab<(Flight, u32)>>,
    looks: AtomicU32,
}

impl InFlight {
    pub(crate) fn insert(&self, flight: Flight) -> usize {
        let look = self.looks.load(Ordering::Relaxed);
        self.lock().insert((flight, look))
    }

    /// Takes out what was delivered or refused.
    pub(crate) fn remove(&self, key: usize) -> Option<Flight> {
        self.lock().try_remove(key).map(|(flight, _)| flight)
    }

    /// The oldest of all, answered at its deadline or not; what is handed over from now on is one
    /// look younger.
    pub(crate) fn look(&self) -> Option<Oldest> {
        let now = self.looks.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let flights = self.lock();
        let ages = flights.iter().map(|(_, (flight, look))| Oldest {
            topic: flight.topic,
            looks: now.wrapping_sub(*look),
        });
        ages.max_by_key(|oldest| oldest.looks)
    }

    /// Answers what is past its deadline, and gives the next one. The messages stay with
    /// librdkafka, which cannot take single ones back: so nobody can say what becomes of them.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        let (mut expired, mut next) = (Vec::new(), None::<Instant>);
        for (_, (flight, _)) in self.lock().iter_mut() {
            if flight.confirm.is_none() {
                continue;
            }
            if flight.deadline <= now {
                expired.extend(flight.confirm.take().map(|confirm| (confirm, flight.topic)));
            } else {
                next = Some(next.map_or(flight.deadline, |next| next.min(flight.deadline)));
            }
        }
        for (confirm, topic) in expired {
            let text = "the broker did not confirm within the time limit";
            let error = Error::new(ErrorKind::Timeout, "publish", text).indeterminate();
            confirm.done(Err(error.with("topic", topic)));
        }
        next
    }

    fn lock(&self) -> MutexGuard<'_, Slab<(Flight, u32)>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn the_oldest_message_is_as_old_as_the_looks_since() {
        let in_flight = InFlight::default();
        let flight = |topic| Flight { confirm: None, topic, deadline: Instant::now() };
        assert_eq!(in_flight.look(), None);
        let (first, second) = (Name::new("first"), Name::new("second"));
        let key = in_flight.insert(flight(first));
        assert_eq!(in_flight.look(), Some(Oldest { topic: first, looks: 1 }));
        in_flight.insert(flight(second));
        assert_eq!(in_flight.look(), Some(Oldest { topic: first, looks: 2 }));
        in_flight.remove(key);
        assert_eq!(in_flight.look(), Some(Oldest { topic: second, looks: 2 }));
    }

    #[test]
    fn what_is_past_its_deadline_is_answered_once_as_indeterminate() {
        let (in_flight, now) = (InFlight::default(), Instant::now());
        let answers = Arc::new(Mutex::new(Vec::new()));
        let keys: Vec<_> = [1, 2]
            .map(|seconds| {
                let answers = answers.clone();
                in_flight.insert(Flight {
                    confirm: Some(Confirm::from_fn(move |answer| {
                        let error = answer.expect_err("it was not confirmed");
                        answers.lock().unwrap().push((seconds, error.is_indeterminate()));
                    })),
                    topic: Name::new("t"),
                    deadline: now + Duration::from_secs(seconds),
                })
            })
            .into();
        let (first, second) = (now + Duration::from_secs(1), now + Duration::from_secs(2));
        assert_eq!(in_flight.expire(now), Some(first));
        assert_eq!(in_flight.expire(first), Some(second));
        assert_eq!(*answers.lock().unwrap(), [(1, true)]);
        assert!(in_flight.remove(keys[0]).is_some_and(|flight| flight.confirm.is_none()));
        assert!(in_flight.remove(keys[0]).is_none());
        assert_eq!(in_flight.expire(second), None);
        assert_eq!(*answers.lock().unwrap(), [(1, true), (2, true)]);
    }
}

//! The messages that librdkafka has and that are not answered yet.

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

/// The messages in flight by the number that librdkafka gives back with their delivery.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    flights: Mutex<Slab<Flight>>,
}

impl InFlight {
    pub(crate) fn insert(&self, flight: Flight) -> usize {
        self.lock().insert(flight)
    }

    /// Takes out what was delivered or refused.
    pub(crate) fn remove(&self, key: usize) -> Option<Flight> {
        self.lock().try_remove(key)
    }

    /// Answers what is past its deadline, and gives the next one. The messages stay with
    /// librdkafka, which cannot take single ones back: so nobody can say what becomes of them.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        let (mut expired, mut next) = (Vec::new(), None::<Instant>);
        for (_, flight) in self.lock().iter_mut() {
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

    fn lock(&self) -> MutexGuard<'_, Slab<Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

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

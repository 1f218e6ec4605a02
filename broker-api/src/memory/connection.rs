//! A connection to the broker: what a process has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::membership::Ended;
use super::server::Server;
use crate::error::{Error, ErrorKind, Result};
use crate::health::{Connection as Link, ConsumerHealth, Health};

/// A connection. Its sources share it, so it lives as long as the last of them.
#[derive(Debug)]
pub(super) struct Connection {
    server: Arc<Server>,
    /// What its sources and its waiting messages are known by.
    number: u64,
    /// Written under the server's lock, so that nothing begins after the end.
    closed: AtomicBool,
}

impl Connection {
    pub(super) fn new(server: Arc<Server>) -> Arc<Self> {
        let number = server.with(|state, _| state.next_connection());
        Arc::new(Self { server, number, closed: AtomicBool::new(false) })
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn check_open(&self, operation: &'static str) -> Result<()> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(Error::new(ErrorKind::Closed, operation, "the connection is closed")),
            false => Ok(()),
        }
    }

    /// Ends one source of it.
    pub(super) fn close_source(&self, seat: usize) {
        self.server.with(|state, after| state.end(seat, Ended::Closed, after));
    }

    /// Ends all its sources and answers its waiting messages.
    pub(super) fn close(&self) {
        self.server.with(|state, after| {
            self.closed.store(true, Ordering::Release);
            let seats = state.seats.iter().filter(|(_, seat)| seat.connection == self.number);
            let seats: Vec<usize> = seats.map(|(place, _)| place).collect();
            seats.into_iter().for_each(|seat| state.end(seat, Ended::Closed, after));
            state.refuse_all(self.number, after);
        });
    }

    pub(super) fn health(&self) -> Health {
        self.server.with(|state, _| {
            let connection = if self.check_open("health").is_err() {
                Link::Closed
            } else if state.waiting.is_empty() {
                Link::Up
            } else {
                Link::Blocked(state.why_full())
            };
            let mut health = Health::new(connection);
            for (_, seat) in &state.seats {
                let problem = match seat.ended {
                    Some(Ended::Closed) => continue,
                    Some(Ended::Deleted(topic)) => Some(format!("topic {topic} was deleted")),
                    None => None,
                };
                if let (Some(group), true) = (seat.group, seat.connection == self.number) {
                    health.consumers.push(ConsumerHealth { topic: seat.topic, group, problem });
                }
            }
            health
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

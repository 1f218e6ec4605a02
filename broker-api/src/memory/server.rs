//! The broker that all connections share.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Waker;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::connection::Connection;
use super::state::State;
use crate::backend::{Outgoing, Receipt};
use crate::confirm::Confirm;
use crate::error::{Error, ErrorKind, Result};

/// The state behind its lock. Nothing here waits while it holds the lock, and nothing of others'
/// (wakers, confirms) runs under it.
pub(super) struct Server {
    state: Mutex<State>,
    /// Tells the timer that a message waits with an earlier deadline than it knows.
    rearm: Arc<Notify>,
}

/// What is to be done once the lock is released.
#[derive(Default)]
pub(super) struct After {
    wakers: Vec<Waker>,
    answers: Vec<(Confirm, Result<Receipt>)>,
}

/// What became of a message that was handed over.
pub(super) enum Published {
    Answered(Confirm, Result<Receipt>),
    /// There is no room for it now.
    Full(Outgoing),
}

impl After {
    pub(super) fn wake(&mut self, waker: &mut Option<Waker>) {
        self.wakers.extend(waker.take());
    }

    pub(super) fn answer(&mut self, confirm: Confirm, answer: Result<Receipt>) {
        self.answers.push((confirm, answer));
    }
}

impl Server {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new_cyclic(|server| Self {
            state: Mutex::new(State::new(server.clone(), limit)),
            rearm: Arc::default(),
        })
    }

    /// Does something to the state.
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut State, &mut After) -> R) -> R {
        let mut after = After::default();
        let result = {
            // A panic under the lock would be a bug of this module; the state is not left half
            // changed by any that is known, so the others go on.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut state, &mut after)
        };
        after.answers.into_iter().for_each(|(confirm, answer)| confirm.done(answer));
        after.wakers.into_iter().for_each(Waker::wake);
        result
    }

    pub(super) fn publish(self: &Arc<Self>, connection: &Connection, outgoing: Outgoing) {
        let outgoing = match self.with(|state, after| state.publish(outgoing, after)) {
            Published::Answered(confirm, answer) => return confirm.done(answer),
            Published::Full(outgoing) => outgoing,
        };
        let Ok(runtime) = Handle::try_current() else {
            let text = "the in-memory broker is full, and waiting needs a tokio runtime";
            let error = Error::new(ErrorKind::Unavailable, "publish", text).transient();
            return outgoing.confirm.done(Err(error.with("topic", outgoing.topic)));
        };
        let deadline = outgoing.deadline;
        let alarm = self.with(|state, after| {
            state.wait(connection, outgoing, after);
            // Also if it need not wait after all: then the timer finds nothing and ends.
            state.alarm.replace(state.alarm.map_or(deadline, |alarm| alarm.min(deadline)))
        });
        match alarm {
            None => {
                // Made here, not in the task, which may be dropped before it begins.
                let timer = Timer { server: Arc::downgrade(self), running: true };
                runtime.spawn(expire(timer, self.rearm.clone()));
            }
            Some(alarm) if deadline < alarm => self.rearm.notify_one(),
            Some(_) => {}
        }
    }
}

/// Answers the waiting messages whose deadline passes, until none waits.
async fn expire(mut timer: Timer, rearm: Arc<Notify>) {
    while let Some(server) = timer.server.upgrade() {
        let next = server.with(|state, after| {
            state.expire(Instant::now(), after);
            state.alarm
        });
        drop(server);
        let Some(next) = next else { break };
        tokio::select! {
            () = sleep_until(next) => {}
            () = rearm.notified() => {}
        }
    }
    timer.running = false;
}

/// Lets the next message that has to wait start another timer when this one is dropped with its
/// runtime.
struct Timer {
    server: Weak<Server>,
    running: bool,
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(server) = self.server.upgrade().filter(|_| self.running) {
            server.with(|state, _| state.alarm = None);
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}

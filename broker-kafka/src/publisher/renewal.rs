//! Another client in the place of one that librdkafka gave up.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use broker_api::{Error, ErrorKind};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::Producer as _;
use tokio::time::Instant;

use super::{PoisonError, Publisher, Route, create};
use crate::delivered::Producer;
use crate::error;

/// How long at least from one replacement to the next, so that a lasting cause, such as a missing
/// permission, does not cost a client for each message.
const LEAST: Duration = Duration::from_secs(1);

impl Publisher {
    /// This client has failed for good, as an idempotent one does whose sequence is broken: it
    /// never sends again, and answers what it was given by itself. Another one is made in its place.
    ///
    /// Returns the error of the messages that it did not send.
    pub(crate) fn has_failed(&self, client: Arc<Producer>) -> Error {
        let cause = cause(&client);
        self.failed().0 = Some(client);
        self.wanted.notify_one();
        cause
    }

    /// Replaces the client that has failed, if there is one.
    pub(super) fn renew(self: &Arc<Self>) {
        let failed = {
            let mut failed = self.failed();
            let too_soon = failed.1.is_some_and(|last| last.elapsed() < LEAST);
            let Some(client) = failed.0.take().filter(|_| !too_soon) else { return };
            failed.1 = Some(Instant::now());
            client
        };
        self.link.note(format!("a publishing client is replaced: {}", cause(&failed).message()));
        {
            let mut lone = self.lone.producer.lock().unwrap_or_else(PoisonError::into_inner);
            // Who needs it next makes another.
            drop(lone.take_if(|lone| Arc::ptr_eq(lone, &failed)));
        }
        let mut state = self.write();
        if state.producer.as_ref().is_some_and(|producer| Arc::ptr_eq(producer, &failed)) {
            match create(&self.config, self.link.clone(), false) {
                Ok(client) => {
                    self.answer_for(&client);
                    state.producer = Some(client);
                }
                // The next message fails, and has it tried again.
                Err(error) => self.link.note(error.to_string()),
            }
        }
        state.topics.retain(|_, route| matches!(route, Route::Held(_)));
    }

    fn failed(&self) -> MutexGuard<'_, (Option<Arc<Producer>>, Option<Instant>)> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a client has failed.
fn cause(client: &Producer) -> Error {
    let Some((code, reason)) = client.client().fatal_error() else {
        return error::coded(Code::Fatal, "publish");
    };
    let told = error::coded(code, "publish");
    match told.kind() {
        // To be mended by somebody: another client fares no better before that.
        ErrorKind::Unauthorized | ErrorKind::Unauthenticated | ErrorKind::Unsupported => told,
        _ => {
            let text = format!("the publishing client has failed and is replaced: {reason}");
            Error::new(ErrorKind::Unavailable, "publish", text).transient()
        }
    }
}

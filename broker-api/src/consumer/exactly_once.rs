//! Consumers that settle their messages together with what is published for them.

use std::time::Duration;

use super::Consumer;
use crate::backend::{Transactions, unsupported};
use crate::broker::Broker;
use crate::capabilities::Capability;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;

impl<T: 'static> Consumer<T> {
    /// Settles each message by the transaction that publishes what its handler published through
    /// its context ([`Context::publish`](crate::Context::publish)): readers see these outputs once,
    /// and in the order of the messages of each partition, whatever happens in between. Dead letters and
    /// delayed retries go the same way. Of an attempt that failed nothing is published.
    ///
    /// Messages are put into one transaction until there are 10,000, or outputs of 16 MiB, or 100 ms
    /// have passed since the first was done; see [`Consumer::transactions`]. So outputs are seen so
    /// much later. What is done is published after everything before it in its partition: a message
    /// that is tried again in place holds back the outputs of all keys of its partition.
    ///
    /// Handlers may still be called more than once for a message, as when a process dies: what they
    /// do elsewhere is not part of the transaction, and neither is what they publish through the
    /// broker itself. Outputs wait in memory, those of as many messages as may be unsettled and of
    /// two transactions.
    ///
    /// Where the broker has no transactions ([`Capability::Transactions`]), or the dead letters go
    /// to another broker, the consumer ends at its start with an error of kind
    /// [`ErrorKind::Unsupported`]. With [`Consumer::dedup`] it ends with [`ErrorKind::Invalid`]:
    /// what is remembered as handled would be lost with a transaction that is not committed.
    pub fn exactly_once(mut self) -> Self {
        self.exactly_once.get_or_insert_default();
        self
    }

    /// As [`Consumer::exactly_once`], with transactions that are committed as soon as `messages`
    /// are done (at least 1), or `wait` after the first of them. A transaction takes tens of
    /// milliseconds, whatever its size: larger ones are faster and seen later.
    pub fn transactions(mut self, messages: usize, wait: Duration) -> Self {
        self.exactly_once = Some(Transactions { messages: messages.max(1), wait });
        self
    }
}

/// Checks what can be checked before anything is created.
pub(super) fn check(broker: &Broker, topic: Name, dedup: bool) -> Result<()> {
    if dedup {
        let text = "a dedup hook would remember messages whose transaction was not committed";
        return Err(refused(text).with("topic", topic));
    }
    match broker.capabilities(topic).supports(Capability::Transactions) {
        true => Ok(()),
        false => Err(unsupported(&*broker.inner.backend, topic, Capability::Transactions)),
    }
}

pub(super) fn refused(why: &str) -> Error {
    let text = format!("a consumer cannot be exactly once here: {why}");
    Error::new(ErrorKind::Invalid, "consume", text)
}

//! Deliveries, from the broker and back to it.

use async_trait::async_trait;

use super::Outgoing;
#[cfg(doc)]
use super::{Backend, Subscribe};
use crate::delivery::Delivery;
use crate::error::Result;
use crate::message::Message;

/// Where deliveries come from: a membership in a group, or a reading.
#[async_trait]
pub trait Source: Send {
    /// The next deliveries, at least one and at most `max`, as soon as there is one.
    /// `None` when the source has ended: it was closed, or a reading has caught up.
    ///
    /// Behaviour: cancel-safe, a delivery is either returned or still in the source. Of a group's
    /// deliveries no more than [`Subscribe::prefetch`] are handed out and unsettled at any time.
    /// A source that is not asked for long stays a member of its group. Partitions take turns: one
    /// with much to do does not keep the others waiting.
    ///
    /// # Errors
    /// Only what the backend cannot mend by itself. After an error nothing more comes, and what
    /// was unsettled comes back to the group.
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>>;

    /// Prepares to leave: nothing more is handed out, and from now on [`Settle::is_live`] says of
    /// what is at hand whether it should still be handled, because handing it back would bring
    /// back later messages that were settled. `false`, and nothing changes, where a message that
    /// is handed back brings nothing else along, which is the default.
    fn wind_down(&mut self) -> bool {
        false
    }

    /// Makes sure that everything settled so far does not come back, hands back the rest, and
    /// leaves the group; [`Backend::close`] does this for every source. A broker that keeps one
    /// position for each partition repeats what was settled after its first unsettled message. Dropping the source hands back too, and may forget the last settlements.
    ///
    /// # Errors
    /// What could not be flushed.
    async fn close(&mut self) -> Result<()>;
}

/// How deliveries are settled; each [`Delivery`] has one with a token of the backend's.
///
/// The methods are called at most once for a token, from any thread, and neither block nor fail:
/// what goes wrong shows in [`Source::next`] or [`Source::close`]. After the partition was given up
/// they have no effect.
pub trait Settle: Send + Sync {
    /// The message is done: by acknowledging or by rejecting it.
    fn settle(&self, token: u64, settlement: Settlement);

    /// The message is done, together with these messages: they are published and it is settled, or
    /// neither, and then it comes again. Only for deliveries of
    /// [`Backend::subscribe_exactly_once`]; their deadlines do not count, and they are confirmed
    /// when the transaction is committed. Of others it settles nothing, so they come again.
    fn settle_with(&self, token: u64, settlement: Settlement, outputs: Vec<Outgoing>) {
        let _ = (settlement, outputs);
        tracing::error!(token, "a message that no transaction settles was to be settled by one");
    }

    /// The message is to be delivered again, before later messages of its partition that were not
    /// handed out yet; several of one partition in their order there. The message is given back,
    /// so nothing has to be kept for this.
    fn requeue(&self, token: u64, message: Message);

    /// Whether the partition is still to be worked on. `false` from the moment the backend wants
    /// to give it up, or has: what is not begun yet should be handed back, not begun. Where that
    /// would bring back later messages that were settled, it stays `true` for as long as the
    /// partition can be kept.
    ///
    /// It is asked right before a message is begun.
    fn is_live(&self, token: u64) -> bool {
        let _ = token;
        true
    }
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Handled.
    Ack,
    /// Not handled, and not wanted again.
    Reject,
}

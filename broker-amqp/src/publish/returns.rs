//! Which message a returned one is.

use std::collections::HashSet;

use broker_api::MessageId;
use lapin::Confirmation;
use lapin::message::BasicReturnMessage;

use crate::properties;

/// The ids of messages that the broker has returned because no queue wanted them.
///
/// The client hands a returned message to whichever confirm resolves next, which need not be its
/// own. A return always comes before its own confirm, so among all confirms that are there
/// together with a message's own, or were before, there is the one that carries its return: note
/// the returns of all of them first, and decide then. No two messages of one id are in flight on a
/// channel at a time.
#[derive(Debug, Default)]
pub(crate) struct Returns(HashSet<MessageId>);

impl Returns {
    /// Notes what a confirm carries besides its own meaning.
    pub(crate) fn note(&mut self, confirmation: &Confirmation) {
        if let Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) = confirmation
        {
            self.0.extend(id(returned));
        }
    }

    /// Whether the message of this id was returned; asked once.
    pub(crate) fn take(&mut self, id: &MessageId) -> bool {
        !self.0.is_empty() && self.0.remove(id)
    }
}

fn id(returned: &BasicReturnMessage) -> Option<MessageId> {
    properties::id_of(&returned.delivery.properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_answers_return_nothing() {
        let mut returns = Returns::default();
        returns.note(&Confirmation::Ack(None));
        returns.note(&Confirmation::NotRequested);
        assert!(!returns.take(&MessageId::from("a")));
    }

    #[test]
    fn a_return_is_found_by_its_id_whatever_confirm_carried_it_and_counts_once() {
        let mut returns = Returns(["a", "b"].into_iter().map(MessageId::from).collect());
        assert!(!returns.take(&MessageId::from("c")));
        assert!(returns.take(&MessageId::from("b")));
        assert!(!returns.take(&MessageId::from("b")));
        assert!(returns.take(&MessageId::from("a")));
    }
}

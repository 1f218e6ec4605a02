//! The members of all groups that were joined through one connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use broker_api::{ConsumerHealth, Error, ErrorKind, Name, Result};

use crate::member::Member;

/// The members that were not closed yet.
#[derive(Default)]
pub(super) struct Members(Mutex<MembersState>);

#[derive(Default)]
struct MembersState {
    members: Vec<Weak<Member>>,
    closed: bool,
}

impl Members {
    pub(super) fn add(&self, member: &Arc<Member>) -> Result<()> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::new(ErrorKind::Closed, "subscribe", "the broker is closed"));
        }
        state.members.retain(|member| member.strong_count() > 0);
        state.members.push(Arc::downgrade(member));
        Ok(())
    }

    /// Those whose source is still there.
    pub(super) fn here(&self) -> Vec<Arc<Member>> {
        let members: Vec<_> = self.lock().members.iter().filter_map(Weak::upgrade).collect();
        members.into_iter().filter(|member| !member.is_left()).collect()
    }

    pub(super) fn health(&self) -> Vec<ConsumerHealth> {
        self.here().iter().map(|member| member.health()).collect()
    }

    /// A topic was deleted.
    pub(super) fn lose(&self, topic: Name) {
        for member in self.here() {
            if member.topics.contains(&topic) {
                let text = "the topic was deleted";
                let error = Error::new(ErrorKind::UnknownTopic, "consume", text);
                member.fail(error.with("topic", topic).with("group", member.group));
            }
        }
    }

    /// Closes all of them at once.
    pub(super) async fn close(&self) -> Result<()> {
        let members = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.members)
        };
        let members: Vec<_> = members.iter().filter_map(Weak::upgrade).collect();
        members.iter().for_each(|member| member.stop());
        let mut closed = Ok(());
        for member in members {
            closed = closed.and(member.close().await);
        }
        closed
    }

    fn lock(&self) -> MutexGuard<'_, MembersState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

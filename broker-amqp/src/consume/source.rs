//! A membership as the application sees it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use broker_api::{ConsumerHealth, Delivery, Error, ErrorKind, Name, Result, Source, Subscribe};
use tokio::sync::oneshot;

use crate::backend::Core;
use crate::consume::member::Member;
use crate::consume::session::{Session, Signals};
use crate::error;

/// What the task of a membership and its [`Source`] share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) signals: Arc<Signals>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    session: Option<Arc<Session>>,
    ended: Option<Option<Error>>,
}

impl Shared {
    /// Goes over to the deliveries of another channel, or to none.
    pub(crate) fn set_session(&self, session: Option<Arc<Session>>) {
        self.state().session = session;
        self.signals.ready.notify_one();
    }

    /// Nothing more comes; because of the error if there is one.
    pub(crate) fn end(&self, error: Option<Error>) {
        let mut state = self.state();
        state.session = None;
        state.ended.get_or_insert(error);
        self.signals.ready.notify_one();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A consumer in the health of its backend, listed until this is dropped.
#[derive(Debug)]
struct Listed {
    core: Weak<Core>,
    number: u64,
}

impl Listed {
    fn new(core: &Arc<Core>, subscribe: &Subscribe) -> Self {
        let consumer = ConsumerHealth {
            topic: subscribe.topics[0],
            group: subscribe.group.name,
            problem: None,
        };
        Self { core: Arc::downgrade(core), number: core.add_consumer(consumer) }
    }
}

impl Listed {
    fn problem(&self) -> Option<String> {
        self.core.upgrade()?.problem(self.number)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.remove_consumer(self.number);
        }
    }
}

/// Membership in a group. The work is done by a task of its own, so that a member whose
/// application is slow to ask stays one.
#[derive(Debug)]
pub(crate) struct Membership {
    shared: Arc<Shared>,
    /// Asks the task to leave and to answer; dropped, it leaves without an answer.
    leave: Option<oneshot::Sender<oneshot::Sender<Result<()>>>>,
    listed: Listed,
}

impl Membership {
    /// Joins the group. When it returns, the broker knows this member.
    ///
    /// # Errors
    /// Those of [`Backend::subscribe`](broker_api::Backend::subscribe).
    pub(crate) async fn join(core: Arc<Core>, subscribe: Subscribe) -> Result<Self> {
        const OPERATION: &str = "subscribe";
        let mut topics: Vec<(Name, u64)> = Vec::with_capacity(subscribe.topics.len());
        for name in &subscribe.topics {
            let topic = core.topology.declare_group(*name, &subscribe.group, OPERATION).await?;
            if !topics.iter().any(|(known, _)| known == name) {
                topics.push((*name, topic.incarnation));
            }
        }
        let patience = core.config.operation_timeout;
        let shared = Arc::new(Shared::default());
        let (leave, leaving) = oneshot::channel();
        let (joined, joining) = oneshot::channel();
        let listed = Listed::new(&core, &subscribe);
        let member = Member::new(core, subscribe, topics, shared.clone(), listed.number);
        tokio::spawn(member.run(leaving, joined));
        let membership = Self { shared, leave: Some(leave), listed };
        match tokio::time::timeout(patience, joining).await {
            Ok(Ok(joined)) => joined.map(|()| membership),
            Ok(Err(_)) => Err(error::closed(OPERATION)),
            Err(_) => {
                let mut text = format!("the group was not joined within {patience:?}");
                if let Some(problem) = membership.listed.problem() {
                    text = format!("{text}: {problem}");
                }
                Err(Error::new(ErrorKind::Timeout, OPERATION, text).transient())
            }
        }
    }
}

#[async_trait]
impl Source for Membership {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        loop {
            {
                let mut state = self.shared.state();
                if let Some(error) = &mut state.ended {
                    // An error is reported once.
                    return error.take().map_or(Ok(None), Err);
                }
                if let Some(session) = &state.session {
                    let batch = session.hand_out(max);
                    if !batch.is_empty() {
                        return Ok(Some(batch));
                    }
                }
            }
            self.shared.signals.ready.notified().await;
        }
    }

    async fn close(&mut self) -> Result<()> {
        let Some(leave) = self.leave.take() else { return Ok(()) };
        let (answer, answered) = oneshot::channel();
        // The task may have ended by itself.
        if leave.send(answer).is_err() {
            return Ok(());
        }
        answered.await.unwrap_or(Ok(()))
    }
}

//! Running a consumer within a case.

use std::future::{Future, pending};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use broker_api::dead_letter::{DeadLetter, Filter};
use broker_api::{Broker, Consumer, Context, Failure, Group, Name};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::sync::{Notify, oneshot};

use super::bench::Bench;
use super::fault::{Fault, Verdict};

/// Adds a consumer to others.
pub(crate) type Add = Box<dyn FnOnce(Group) -> Group>;

/// How often a case looks at something that cannot tell when it changes.
const LOOK: Duration = Duration::from_millis(50);

impl Bench {
    /// Runs a consumer until `done` ends, then stops it in order.
    pub(crate) async fn consume<T, F, Fut>(
        &self,
        consumer: Consumer<T>,
        handler: F,
        done: impl Future<Output = Verdict>,
    ) -> Verdict
    where
        F: Fn(T, Context) -> Fut,
        Fut: Future<Output = Result<(), Failure>>,
    {
        let (stop, stopped) = oneshot::channel::<()>();
        let tamper = self.tamper();
        let consumer = tamper.consumer(consumer).until(async move { drop(stopped.await) });
        let running = consumer.run(|value, context| {
            let handling = handler(value, context);
            tamper.handle(handling)
        });
        let done = async {
            let done = self.within("what the case waits for", done).await;
            drop(stop);
            done?
        };
        tokio::pin!(running, done);
        tokio::select! {
            ended = &mut running => {
                // Its error, and not what could then not happen any more.
                ended?;
                done.await
            }
            waited = &mut done => {
                // A consumer of which something was missed may never end in order.
                waited?;
                Ok(running.await?)
            }
        }
    }

    /// Runs consumers together, each as it is added to the group, until `shutdown` ends.
    pub(crate) async fn together(
        &self,
        broker: &Broker,
        group: Name,
        consumers: [Add; 2],
        shutdown: impl Future<Output = ()>,
    ) -> broker_api::Result<()> {
        let tamper = self.tamper();
        let shutdown = async {
            shutdown.await;
            if tamper.deaf {
                pending::<()>().await;
            }
        };
        let group = || broker.group(group.as_str());
        if tamper.apart {
            let shutdown = shutdown.shared();
            let apart = consumers.map(|add| add(group()).run(shutdown.clone()));
            return join_all(apart).await.into_iter().collect();
        }
        let all = consumers.into_iter().fold(group(), |group, add| add(group));
        all.run(shutdown).await
    }

    /// Waits until there are so many dead letters in a topic, and gives them.
    pub(crate) async fn dead_letters(
        &self,
        broker: &Broker,
        topic: Name,
        count: usize,
    ) -> Result<Vec<DeadLetter>, Fault> {
        let look = async {
            loop {
                // Until the consumer has created its topics there is nothing to list.
                if broker.describe_topic(topic).await.is_ok() {
                    let letters = broker.dead_letters(topic).list(&Filter::default()).await?;
                    if letters.len() >= count {
                        return Ok(letters);
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        self.within(&format!("{count} dead letters"), look).await?
    }

    /// The name of a topic that a consumer makes for itself, which is deleted after the case.
    pub(crate) fn made_by_consumer(
        &self,
        topic: Name,
        group: Name,
        what: &str,
    ) -> Result<Name, Fault> {
        let name = Name::intern(&format!("{topic}.{group}.{what}"))?;
        self.delete_afterwards(name);
        Ok(name)
    }
}

/// Something to stop a consumer with from within its handler, and what to give to `until`.
pub(crate) fn stopper() -> (Stop, impl Future<Output = ()> + Send + 'static) {
    let (stop, stopped) = oneshot::channel::<()>();
    (Stop(Mutex::new(Some(stop))), async move { drop(stopped.await) })
}

pub(crate) struct Stop(Mutex<Option<oneshot::Sender<()>>>);

impl Stop {
    pub(crate) fn now(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// What handlers saw, in their order.
#[derive(Default)]
pub(crate) struct Seen {
    seen: Mutex<Vec<String>>,
    more: Notify,
}

impl Seen {
    pub(crate) fn add(&self, what: impl Into<String>) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(what.into());
        self.more.notify_waiters();
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until there are so many.
    pub(crate) async fn count(&self, count: usize) -> Verdict {
        self.until(|seen| seen.len() >= count).await;
        Ok(())
    }

    /// Waits until this holds of them.
    pub(crate) async fn until(&self, holds: impl Fn(&[String]) -> bool) {
        loop {
            let more = self.more.notified();
            if holds(&self.all()) {
                return;
            }
            more.await;
        }
    }
}

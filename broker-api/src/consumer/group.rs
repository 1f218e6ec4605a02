//! Many consumers in one process, started and stopped together.

use std::fmt;
use std::future::Future;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;

use super::{Consumer, Context, Failure};
use crate::broker::Broker;
use crate::error::Result;
use crate::topic::Topic;

/// Consumers that run together: when one of them fails for good the others are stopped in order,
/// and none is started again behind your back.
///
/// ```
/// # use broker_api::{Broker, Topic};
/// # const CREATED: Topic<bytes::Bytes> = Topic::raw("video.created");
/// # const LIKED: Topic<bytes::Bytes> = Topic::raw("video.liked");
/// # async fn consume(broker: Broker, shutdown: impl Future<Output = ()>) -> broker_api::Result<()> {
/// broker
///     .group("video-counters")
///     .on(CREATED, |video, _| async move { Ok(println!("created {video:?}")) })
///     .on(LIKED, |video, _| async move { Ok(println!("liked {video:?}")) })
///     .run(shutdown)
///     .await
/// # }
/// ```
#[must_use = "nothing is consumed before `run`"]
pub struct Group {
    broker: Broker,
    name: String,
    stop: watch::Sender<bool>,
    consumers: Vec<BoxFuture<'static, Result<()>>>,
}

impl Broker {
    /// Consumers to be run together, in this group unless said otherwise.
    pub fn group(&self, name: &str) -> Group {
        Group {
            broker: self.clone(),
            name: name.to_owned(),
            stop: watch::Sender::new(false),
            consumers: Vec::new(),
        }
    }
}

impl Group {
    /// Adds a consumer of this topic with the default settings.
    pub fn on<T, F, Fut>(self, topic: Topic<T>, handler: F) -> Self
    where
        T: Send + 'static,
        F: Fn(T, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let consumer = self.broker.consumer(topic, &self.name);
        self.with(consumer, handler)
    }

    /// Adds a consumer with its own settings, of any group.
    pub fn with<T, F, Fut>(mut self, consumer: Consumer<T>, handler: F) -> Self
    where
        T: Send + 'static,
        F: Fn(T, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.consumers.push(Box::pin(consumer.or_until(self.stopped()).run(handler)));
        self
    }

    /// Adds a [`Scheduler`](crate::Scheduler), for messages that are to be delivered later.
    pub fn scheduler(mut self) -> Self {
        let scheduler = self.broker.scheduler().until(self.stopped());
        self.consumers.push(Box::pin(scheduler.run()));
        self
    }

    fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopped = self.stop.subscribe();
        async move {
            // An error means that the group is gone, which is the same.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    }

    /// Runs all consumers, in the caller's own task, until `shutdown` ends or one of them fails;
    /// then stops them all: what is being handled is finished, the rest is handed back.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the handlers, and hands back every message not acknowledged.
    ///
    /// # Errors
    /// The first error of a consumer.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let Self { stop, consumers, .. } = self;
        let mut running: FuturesUnordered<_> = consumers.into_iter().collect();
        let mut outcome = Ok(());
        tokio::pin!(shutdown);
        let mut stopping = false;
        loop {
            tokio::select! {
                () = &mut shutdown, if !stopping => {}
                ended = running.next() => match ended {
                    None => return outcome,
                    Some(ended) => outcome = outcome.and(ended),
                }
            }
            // The end of any of them is the end of all.
            stopping = true;
            stop.send_replace(true);
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("name", &self.name)
            .field("consumers", &self.consumers.len())
            .finish_non_exhaustive()
    }
}

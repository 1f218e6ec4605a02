//! Publishers and members of groups, as applications have them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker_api::{Broker, Bytes, Context, Failure, Message, Retry, Topic};
use broker_testkit::history::Client;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::dice::Dice;
use crate::subject::Address;

/// How many messages a publisher has under way.
const WINDOW: usize = 64;
/// How often each publishes.
const PACE: Duration = Duration::from_millis(4);
/// One in so many calls of a handler fails.
const FAILING: u64 = 200;
/// How long anything may take to stop.
const STOP: Duration = Duration::from_secs(40);

/// One that publishes to keys of its own, without waiting for one confirmation before the next.
pub(crate) struct Publisher {
    pub(crate) keys: Vec<String>,
    pub(crate) broker: Broker,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Publisher {
    /// `timeout` is that of each message.
    pub(crate) async fn start(
        address: &Address,
        topic: Topic<Bytes>,
        name: &str,
        client: Client,
        mut dice: Dice,
        timeout: Duration,
    ) -> broker_api::Result<Self> {
        let broker = address.connect().await?;
        let keys: Vec<String> = (0..5).map(|n| format!("{name}-{n}")).collect();
        let (stop, stopped) = watch::channel(false);
        let work = Work { broker: broker.clone(), topic, client, timeout };
        let own = keys.clone();
        let task = tokio::spawn(async move { work.publish(&own, &mut dice, stopped).await });
        Ok(Self { keys, broker, stop, task })
    }

    /// Stops, and waits for the answers.
    pub(crate) async fn stop(self) -> Result<(), String> {
        self.stop.send_replace(true);
        match timeout(STOP, self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("a publisher: {error}")),
            Err(_) => return Err(format!("a publisher had no answers within {STOP:?}")),
        }
        close(&self.broker).await
    }
}

struct Work {
    broker: Broker,
    topic: Topic<Bytes>,
    client: Client,
    timeout: Duration,
}

impl Work {
    async fn publish(&self, keys: &[String], dice: &mut Dice, stopped: watch::Receiver<bool>) {
        let window = Arc::new(Semaphore::new(WINDOW));
        let mut numbers = HashMap::<&str, u64>::new();
        let mut answers = JoinSet::new();
        let mut pace = tokio::time::interval(PACE);
        while !*stopped.borrow() {
            pace.tick().await;
            while answers.try_join_next().is_some() {}
            let Ok(room) = window.clone().acquire_owned().await else { return };
            let key = &keys[dice.below(keys.len() as u64) as usize];
            let number = numbers.entry(key).or_default();
            let message = Message::new(number.to_string()).with_key(key.clone());
            self.client.publishing(key, *number);
            let publish = self.broker.publish_message(self.topic.name(), message);
            match publish.timeout(self.timeout).enqueue().await {
                Ok(confirmation) => {
                    let (client, key, number) = (self.client.clone(), key.clone(), *number);
                    answers.spawn(async move {
                        client.published(&key, number, &confirmation.await);
                        drop(room);
                    });
                }
                Err(error) => {
                    self.client.published(key, *number, &Err::<(), _>(error));
                }
            }
            *number += 1;
        }
        answers.join_all().await;
    }
}

/// A member of a group, with a connection of its own.
pub(crate) struct Member {
    pub(crate) group: &'static str,
    pub(crate) broker: Broker,
    /// Set, the next call of the handler never ends; it unsets it.
    pub(crate) hang: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    task: JoinHandle<broker_api::Result<()>>,
}

impl Member {
    pub(crate) async fn start(
        address: &Address,
        topic: Topic<Bytes>,
        group: &'static str,
        client: Client,
        dice: Dice,
    ) -> broker_api::Result<Self> {
        let broker = address.connect().await?;
        let hang = Arc::new(AtomicBool::new(false));
        let (stop, mut stopped) = watch::channel(false);
        let retry =
            Retry::forever().initial(Duration::from_millis(5)).max(Duration::from_millis(50));
        let consumer =
            broker.consumer(topic, group).concurrency(8).retry(retry).until(async move {
                // Without a sender there is nobody left to stop it for.
                let _ = stopped.wait_for(|stopped| *stopped).await;
            });
        let job = Arc::new(Job { group, client, dice, hang: hang.clone() });
        let run = consumer.run(move |payload, context| {
            let job = job.clone();
            async move { job.handle(&payload, &context).await }
        });
        Ok(Self { group, broker, hang, stop, task: tokio::spawn(run) })
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Leaves the group as one should, and says how its consumer ended.
    pub(crate) async fn stop(self) -> Result<broker_api::Result<()>, String> {
        self.stop.send_replace(true);
        let ended = match timeout(STOP, self.task).await {
            Ok(ended) => ended.map_err(|error| format!("a member: {error}"))?,
            Err(_) => return Err(format!("a member did not stop within {STOP:?}")),
        };
        close(&self.broker).await?;
        Ok(ended)
    }

    /// Drops everything it has, with messages in hand.
    pub(crate) async fn abandon(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

struct Job {
    group: &'static str,
    client: Client,
    dice: Dice,
    hang: Arc<AtomicBool>,
}

impl Job {
    async fn handle(&self, payload: &Bytes, context: &Context) -> Result<(), Failure> {
        let key = String::from_utf8_lossy(context.message().key().ok_or("no key")?).into_owned();
        let number = std::str::from_utf8(payload)?.parse()?;
        self.client.received(self.group, &key, number, context.attempt());
        if self.hang.swap(false, Ordering::Relaxed) {
            return std::future::pending().await;
        }
        let mut dice = self.dice.of(&key, number + u64::from(context.attempt()));
        if dice.below(FAILING) == 0 {
            return Err("bad luck".into());
        }
        for _ in 0..dice.below(4) {
            tokio::task::yield_now().await;
        }
        self.client.handled(self.group, &key, number);
        Ok(())
    }
}

async fn close(broker: &Broker) -> Result<(), String> {
    match timeout(STOP, broker.close()).await {
        Ok(closed) => closed.map_err(|error| format!("closing a connection: {error:?}")),
        Err(_) => Err(format!("closing a connection took more than {STOP:?}")),
    }
}

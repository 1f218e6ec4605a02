//! What a case works at: fresh names, topics, connections.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use broker_api::{
    Backend, Broker, Capability, ErrorKind, GroupSpec, Message, MessageId, Name, Read, Result,
    Settings, Subscribe, TopicSpec,
};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};

use super::fault::{Fault, Verdict};
use super::fixture::{Dress, Fixture, ForeignMessage, Outage};
use super::inbox::{Inbox, MARKER};
use super::tamper::Tamper;

/// How long closing one connection may take when a case is over.
const CLOSE: Duration = Duration::from_secs(30);

/// How often to look at what tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(10);

/// A day, so that what a case publishes is surely there while it runs.
const RETENTION: Duration = Duration::from_secs(24 * 3600);

/// The place that one case works at, and what has to be cleaned up after it.
pub(crate) struct Bench {
    fixture: Fixture,
    needs: &'static [Capability],
    /// Tells the names of this case from those of every other case and run.
    tag: String,
    made: AtomicU32,
    first: OnceCell<Broker>,
    /// Weak, because a case drops its connections to play a process that is gone.
    connections: Mutex<Vec<Weak<dyn Backend>>>,
    topics: Mutex<Vec<Name>>,
}

impl Bench {
    pub(crate) fn new(fixture: Fixture, needs: &'static [Capability]) -> Self {
        static CASES: AtomicU32 = AtomicU32::new(0);
        // The last digits of a UUID are random, and the process keeps one of them.
        static RUN: LazyLock<String> = LazyLock::new(|| {
            let id = MessageId::new().to_string();
            id[id.len() - 8..].to_owned()
        });
        let tag = format!("{}-{}", *RUN, CASES.fetch_add(1, Ordering::Relaxed));
        Self {
            fixture,
            needs,
            tag,
            made: AtomicU32::new(0),
            first: OnceCell::new(),
            connections: Mutex::default(),
            topics: Mutex::default(),
        }
    }

    /// How long to wait for one thing.
    pub(crate) fn patience(&self) -> Duration {
        self.fixture.patience
    }

    /// What a runtime with a flaw does otherwise than it is told.
    pub(crate) fn tamper(&self) -> &Tamper {
        &self.fixture.tamper
    }

    /// A name that nothing has, for a topic.
    pub(crate) fn name(&self, label: &str) -> Result<Name> {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        self.named(&format!("conformance-{n}-{}-{label}", self.tag))
    }

    /// This name, for a topic.
    pub(crate) fn named(&self, name: &str) -> Result<Name> {
        let name = Name::intern(name)?;
        self.delete_afterwards(name);
        Ok(name)
    }

    /// Deletes a topic after the case, if it is there then.
    pub(crate) fn delete_afterwards(&self, topic: Name) {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).push(topic);
    }

    /// A name for a group.
    pub(crate) fn group(&self, label: &str) -> Result<Name> {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        Name::intern(&format!("conformance-{n}-{}-{label}", self.tag))
    }

    /// A new topic of so many partitions, which can do what the case needs.
    pub(crate) async fn topic(&self, label: &str, partitions: u32) -> Result<Name, Fault> {
        let spec = TopicSpec::new(self.name(label)?).partitions(partitions);
        self.create(&spec).await?;
        Ok(spec.name)
    }

    /// A new topic that is kept for replay, where the broker has to be told to.
    pub(crate) fn kept(&self, spec: TopicSpec) -> TopicSpec {
        let kept = [Capability::Replay, Capability::StartPosition];
        match self.needs.iter().any(|need| kept.contains(need)) {
            true => spec.retention(RETENTION),
            false => spec,
        }
    }

    /// Creates a topic, and asks it for what the case needs.
    pub(crate) async fn create(&self, spec: &TopicSpec) -> Verdict {
        let broker = self.broker().await?;
        if spec.compacted {
            self.require(&broker, spec.name, Capability::Compaction)?;
        }
        let created = broker.create_topic(&self.kept(*spec)).await;
        if created.as_ref().is_err_and(|error| error.kind() != ErrorKind::Unsupported) {
            return Ok(created?);
        }
        for need in self.needs {
            self.require(&broker, spec.name, *need)?;
        }
        Ok(created?)
    }

    /// Ends the case as ignored where topics cannot be read again, whatever their specification:
    /// what only keeps messages for later needs that.
    pub(crate) async fn require_replay(&self) -> Verdict {
        let broker = self.broker().await?;
        let spec = TopicSpec::new(self.name("replay")?).partitions(1).retention(RETENTION);
        match broker.create_topic(&spec).await {
            Err(error) if error.kind() != ErrorKind::Unsupported => Err(error.into()),
            created => {
                self.require(&broker, spec.name, Capability::Replay)?;
                Ok(created?)
            }
        }
    }

    /// Ends the case as ignored if the topic cannot do this.
    pub(crate) fn require(&self, broker: &Broker, topic: Name, need: Capability) -> Verdict {
        match broker.capabilities(topic).why_not(need) {
            None => Ok(()),
            Some(why) => Err(Fault::Ignored(format!("{need} is not supported: {why}"))),
        }
    }

    /// The connection that the case uses where one is enough.
    pub(crate) async fn broker(&self) -> Result<Broker, Fault> {
        let settings = self.tamper().settings(Settings::default());
        let connect = async || Ok::<_, Fault>(Broker::with_settings(self.open().await?, settings));
        Ok(self.first.get_or_try_init(connect).await?.clone())
    }

    /// Another connection, as of another process. When all clones and subscriptions are dropped
    /// without closing it, the process is gone.
    pub(crate) async fn connect(&self) -> Result<Broker, Fault> {
        self.connect_with(Settings::default()).await
    }

    pub(crate) async fn connect_with(&self, settings: Settings) -> Result<Broker, Fault> {
        let settings = self.tamper().settings(settings);
        Ok(Broker::with_settings(self.backend().await?, settings))
    }

    /// The backend of another connection, without the core around it.
    pub(crate) async fn backend(&self) -> Result<Arc<dyn Backend>, Fault> {
        let backend = self.open().await?;
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.push(Arc::downgrade(&backend));
        Ok(backend)
    }

    async fn open(&self) -> Result<Arc<dyn Backend>, Fault> {
        Ok(self.within("connecting", (self.fixture.connect)()).await??)
    }

    /// Joins a group at the first connection, with room for many deliveries.
    pub(crate) async fn join(&self, topic: Name, group: Name) -> Result<Inbox, Fault> {
        self.join_at(&self.broker().await?, topic, group, 1_000).await
    }

    /// Joins a group that begins with the oldest message.
    pub(crate) async fn join_at(
        &self,
        broker: &Broker,
        topic: Name,
        group: Name,
        prefetch: usize,
    ) -> Result<Inbox, Fault> {
        let subscribe = Subscribe { prefetch, ..Subscribe::new(topic, GroupSpec::new(group)) };
        self.subscribe(broker, subscribe).await
    }

    pub(crate) async fn subscribe(
        &self,
        broker: &Broker,
        subscribe: Subscribe,
    ) -> Result<Inbox, Fault> {
        let joined = self.within("subscribing", broker.subscribe(subscribe)).await??;
        Ok(Inbox::new(joined, broker.clone(), self.patience()))
    }

    /// Reads a topic without a group.
    pub(crate) async fn read(&self, read: Read) -> Result<Inbox, Fault> {
        let broker = self.broker().await?;
        let reading = self.within("beginning to read", broker.read(read)).await??;
        Ok(Inbox::new(reading, broker, self.patience()))
    }

    /// Makes a group exist, and gives its name.
    pub(crate) async fn declared(&self, topic: Name, label: &str) -> Result<Name, Fault> {
        let group = self.group(label)?;
        self.broker().await?.declare_group(topic, &GroupSpec::new(group)).await?;
        Ok(group)
    }

    /// Publishes texts to one partition, and waits until all are confirmed.
    pub(crate) async fn publish<S: AsRef<str>>(
        &self,
        topic: Name,
        partition: u32,
        texts: impl IntoIterator<Item = S>,
    ) -> Verdict {
        let broker = self.broker().await?;
        let mut confirmations = Vec::new();
        for text in texts {
            let message = Message::new(text.as_ref().to_owned());
            let publish = broker.publish_message(topic, message).partition(partition);
            confirmations.push(publish.enqueue().await?);
        }
        for confirmation in confirmations {
            self.within("the confirmation of a message", confirmation).await??;
        }
        Ok(())
    }

    /// Publishes [`MARKER`] to each partition: who gets those, and nothing before them, was sent
    /// nothing else.
    pub(crate) async fn mark(&self, topic: Name, partitions: u32) -> Verdict {
        for partition in 0..partitions {
            self.publish(topic, partition, [MARKER]).await?;
        }
        Ok(())
    }

    /// Waits for something that has to happen.
    pub(crate) async fn within<T>(
        &self,
        what: &str,
        future: impl Future<Output = T>,
    ) -> Result<T, Fault> {
        let waited = timeout(self.patience(), future).await;
        waited.map_err(|_| Fault::failed(format!("{what} took more than {:?}", self.patience())))
    }

    /// Looks again and again until it is as it should be; the error of a look says how it is.
    pub(crate) async fn until(
        &self,
        what: &str,
        look: impl Fn() -> std::result::Result<(), String>,
    ) -> Verdict {
        let end = Instant::now() + self.patience();
        loop {
            match look() {
                Ok(()) => return Ok(()),
                Err(is) if Instant::now() > end => {
                    let patience = self.patience();
                    return Err(Fault::failed(format!(
                        "no {what} within {patience:?}; it is {is}"
                    )));
                }
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    /// Stops the real broker.
    pub(crate) async fn stop_broker(&self) -> Verdict {
        Ok((self.require_outage()?.stop)().await?)
    }

    /// Starts the real broker again.
    pub(crate) async fn start_broker(&self) -> Verdict {
        Ok((self.require_outage()?.start)().await?)
    }

    /// How the broker can be stopped; ends the case as ignored where it cannot.
    pub(crate) fn require_outage(&self) -> std::result::Result<&Outage, Fault> {
        self.fixture.outage.as_ref().map_err(|why| Fault::Ignored(why.clone()))
    }

    /// Publishes as another client would, or ends the case as ignored.
    pub(crate) async fn publish_foreign(
        &self,
        topic: Name,
        partition: u32,
        payload: &[u8],
        dress: Dress,
    ) -> Verdict {
        let Some(publish) = &self.fixture.foreign else {
            let why = "the fixture does not say how to publish with another client";
            return Err(Fault::Ignored(why.into()));
        };
        let message = ForeignMessage { topic, partition, payload: payload.to_vec(), dress };
        Ok(publish(message).await?)
    }

    /// Deletes the topics and closes the connections, as much of it as can be done.
    pub(crate) async fn clean_up(&self) -> Verdict {
        let mut wrong = Vec::new();
        // Consumers first, or they see their topic vanish.
        for backend in taken(&self.connections).iter().filter_map(Weak::upgrade) {
            note(&mut wrong, "closing a connection", timeout(CLOSE, backend.close()).await);
        }
        let topics = taken(&self.topics);
        if !topics.is_empty() {
            let broker = self.broker().await?;
            for topic in topics {
                match timeout(CLOSE, broker.delete_topic(topic)).await {
                    Ok(Err(error)) if error.kind() == ErrorKind::UnknownTopic => {}
                    deleted => note(&mut wrong, "deleting a topic", deleted),
                }
            }
        }
        if let Some(first) = self.first.get() {
            note(&mut wrong, "closing the first connection", timeout(CLOSE, first.close()).await);
        }
        if let Some(clean) = &self.fixture.clean
            && let Err(error) = clean().await
        {
            wrong.push(format!("the fixture's clean-up: {error}"));
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Fault::failed(wrong.join("\n"))),
        }
    }
}

fn taken<T>(list: &Mutex<Vec<T>>) -> Vec<T> {
    std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner))
}

fn note(
    wrong: &mut Vec<String>,
    what: &str,
    done: std::result::Result<Result<()>, tokio::time::error::Elapsed>,
) {
    match done {
        Ok(Ok(())) => {}
        Ok(Err(error)) => wrong.push(format!("{what}: {error:?}")),
        Err(_) => wrong.push(format!("{what} took more than {CLOSE:?}")),
    }
}

/// A time before anything that the case publishes.
pub(crate) fn an_hour_ago() -> SystemTime {
    SystemTime::now() - Duration::from_secs(3600)
}

//! An application under test, on the in-memory broker.

use std::collections::HashSet;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use broker_api::dead_letter::{DeadLetter, Filter, headers};
use broker_api::{
    BoxError, Broker, ErrorKind, Memory, Message, MessageId, Name, Read, Receipt, Received, Result,
    Topic,
};
use tokio::time::{Instant, sleep};

/// How long to wait for quiet where nothing is said.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often to look whether it is quiet.
const LOOK: Duration = Duration::from_millis(1);

/// An in-memory broker for the test of an application, that can tell what was published and when
/// everything is handled.
///
/// ```
/// # use broker_api::{Broker, Topic, TopicSpec, Result};
/// # use broker_testkit::harness::Harness;
/// const ORDERS: Topic<u32> = Topic::unchecked("orders");
/// const INVOICES: Topic<u32> = Topic::unchecked("invoices");
///
/// /// The application: an invoice for each order.
/// async fn application(broker: Broker) -> Result<()> {
///     broker.create_topic(&ORDERS.spec()).await?;
///     broker.create_topic(&INVOICES.spec()).await?;
///     let out = &broker;
///     let invoice = |order: u32, _| async move {
///         out.publish(INVOICES, &(order * 100)).await?;
///         Ok(())
///     };
///     broker.consumer(ORDERS, "billing").run(invoice).await
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let harness = Harness::new();
/// harness.run(application(harness.broker()), async {
///     harness.publish(ORDERS, &7).await?;
///     harness.quiet().await?;
///     assert_eq!(harness.published(INVOICES).await?, [700]);
///     Ok(())
/// }).await
/// # }
/// ```
pub struct Harness {
    memory: Memory,
    broker: Broker,
    patience: Duration,
    /// What the test published to, which some group has to handle.
    inputs: Mutex<HashSet<Name>>,
    /// The failures that the test has been told of.
    told: Mutex<HashSet<String>>,
}

impl Harness {
    /// A new broker without topics.
    pub fn new() -> Self {
        let memory = Memory::new();
        Self {
            broker: Broker::new(memory.connect()),
            memory,
            patience: PATIENCE,
            inputs: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Sets how long to wait before something that does not happen counts as never; 10 s otherwise.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// A connection for the application.
    pub fn broker(&self) -> Broker {
        Broker::new(self.memory.connect())
    }

    /// Runs the application beside the test, until the test ends. What happens first counts: the
    /// result of the test, or the application's end, which here is an error.
    ///
    /// # Errors
    /// Those of the test; the application's; a text if the application ended by itself.
    pub async fn run<E: Into<BoxError>>(
        &self,
        application: impl Future<Output = std::result::Result<(), E>>,
        test: impl Future<Output = std::result::Result<(), BoxError>>,
    ) -> std::result::Result<(), BoxError> {
        tokio::select! {
            biased;
            tested = test => tested,
            ended = application => match ended {
                Ok(()) => Err("the application ended before the test".into()),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// Publishes a value that the application is to handle. It waits for the topic to be created.
    ///
    /// # Errors
    /// Those of [`Broker::publish`].
    pub async fn publish<T>(&self, topic: Topic<T>, value: &T) -> Result<Receipt> {
        self.publish_message(topic.name(), topic.encode(value)?).await
    }

    /// Publishes a message that the application is to handle, whatever is wrong with it.
    ///
    /// # Errors
    /// Those of [`Broker::publish_message`].
    pub async fn publish_message(&self, topic: Name, message: Message) -> Result<Receipt> {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).insert(topic);
        let end = Instant::now() + self.patience;
        loop {
            match self.broker.publish_message(topic, message.clone()).await {
                Err(error) if error.kind() == ErrorKind::UnknownTopic && Instant::now() < end => {
                    sleep(LOOK).await;
                }
                published => return published,
            }
        }
    }

    /// What was published to a topic so far, in the order it was published; nothing if there is no
    /// such topic.
    ///
    /// # Errors
    /// What cannot be decoded or is not valid, see [`Topic::decode`].
    pub async fn published<T>(&self, topic: Topic<T>) -> Result<Vec<T>> {
        let messages = self.published_messages(topic.name()).await?;
        messages.iter().map(|received| topic.decode(&received.message)).collect()
    }

    /// As [`Harness::published`], with keys, headers and partitions instead of values.
    ///
    /// # Errors
    /// Those of [`Broker::read`].
    pub async fn published_messages(&self, topic: Name) -> Result<Vec<Received>> {
        let mut reading = match self.broker.read(Read::new(topic)).await {
            Err(error) if error.kind() == ErrorKind::UnknownTopic => return Ok(Vec::new()),
            reading => reading?,
        };
        let mut all = Vec::new();
        while let Some(delivery) = reading.next().await? {
            all.push(delivery.received().clone());
        }
        // Partitions have no order among them; the ids that this crate family makes do.
        all.sort_by_key(|received| match received.message.id() {
            Some(MessageId::Uuid(uuid)) => Some(*uuid),
            _ => None,
        });
        Ok(all)
    }

    /// Waits until it is quiet: what the test published has a group, and no group has anything left
    /// to handle, nor in hand.
    ///
    /// # Errors
    /// What a handler gave up on since the last call, with the handler's error; what is left when
    /// the patience is at its end.
    pub async fn quiet(&self) -> std::result::Result<(), Disquiet> {
        let end = Instant::now() + self.patience;
        loop {
            let left = self.left();
            if left.is_empty() {
                break;
            }
            if Instant::now() > end {
                return Err(Disquiet::Unhandled { left, patience: self.patience });
            }
            sleep(LOOK).await;
        }
        let letters = self.new_dead_letters().await.map_err(Disquiet::Broker)?;
        match letters.is_empty() {
            true => Ok(()),
            false => Err(Disquiet::Failed(letters)),
        }
    }

    /// What is not handled, a sentence each.
    fn left(&self) -> Vec<String> {
        let backlog = self.memory.backlog();
        let mut left = Vec::new();
        for topic in self.inputs.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let groups = backlog.iter().find(|(name, _)| name == topic);
            if groups.is_none_or(|(_, groups)| groups.is_empty()) {
                left.push(format!("no group consumes {topic}"));
            }
        }
        for (topic, groups) in &backlog {
            for (group, messages) in groups.iter().filter(|(_, messages)| *messages > 0) {
                left.push(format!("{group} has {messages} messages of {topic} left"));
            }
        }
        left
    }

    /// The dead letters that no call gave before.
    async fn new_dead_letters(&self) -> Result<Vec<DeadLetter>> {
        let mut letters = Vec::new();
        for (topic, _) in self.memory.backlog() {
            // Beside the dead letters themselves, these carry their headers.
            if topic.as_str().ends_with(".done") || topic.as_str().contains(".retry") {
                continue;
            }
            let messages = self.published_messages(topic).await?;
            let is_letter =
                |r: &Received| r.message.headers().get(headers::DEAD_LETTER_ID).is_some();
            if messages.iter().any(is_letter) {
                letters.extend(self.broker.dead_letters(topic).list(&Filter::default()).await?);
            }
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        letters.retain(|letter| told.insert(letter.id.clone()));
        Ok(letters)
    }
}

impl Default for Harness {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness").field("backlog", &self.memory.backlog()).finish_non_exhaustive()
    }
}

/// Why it is not quiet.
#[derive(Debug)]
#[non_exhaustive]
pub enum Disquiet {
    /// Handlers gave up on these messages.
    Failed(Vec<DeadLetter>),
    /// Something is left to be handled.
    Unhandled {
        /// What, a sentence each.
        left: Vec<String>,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The broker could not be asked.
    Broker(broker_api::Error),
}

impl fmt::Display for Disquiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(letters) => {
                for (n, letter) in letters.iter().enumerate() {
                    let unknown = || "?".to_owned();
                    let group = letter.group.clone().unwrap_or_else(unknown);
                    let topic = letter.topic.clone().unwrap_or_else(unknown);
                    let error = letter.error.clone().unwrap_or_else(unknown);
                    let line = if n == 0 { "" } else { "\n" };
                    write!(f, "{line}{group} gave up on a message of {topic}: {error}")?;
                }
                Ok(())
            }
            Self::Unhandled { left, patience } => {
                write!(f, "not quiet within {patience:?}: {}", left.join("; "))
            }
            Self::Broker(error) => error.fmt(f),
        }
    }
}

impl StdError for Disquiet {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Broker(error) => error.source(),
            _ => None,
        }
    }
}

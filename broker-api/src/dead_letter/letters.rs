//! Looking at dead letters, putting them back, and discarding them.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use tokio::time::{MissedTickBehavior, interval};

use super::headers::History;
use super::{create_topic, retry_topic};
use crate::backend::Read;
use crate::broker::Broker;
use crate::delivery::Received;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::Name;

/// A message that a group could not handle, and why.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its identity; another one each time the same message is dead-lettered.
    pub id: String,
    /// The message as it was published: payload, key and headers.
    pub message: Message,
    /// The topic it was published to, if it says so.
    pub topic: Option<String>,
    /// Its partition there.
    pub partition: Option<u32>,
    /// Its offset there, where the broker has offsets.
    pub offset: Option<u64>,
    /// The group that could not handle it.
    pub group: Option<String>,
    /// What went wrong, as the name of an [`ErrorKind`].
    pub kind: Option<String>,
    /// What went wrong, in words.
    pub error: Option<String>,
    /// How often the handler was called for it.
    pub attempts: u32,
    /// When it failed first.
    pub first_failure: Option<SystemTime>,
    /// When it failed last.
    pub last_failure: Option<SystemTime>,
    /// How often it was put back before.
    pub redrives: u32,
    /// What was left out of the message, in words, because it had no room in the dead-letter topic.
    /// Such a message cannot be put back.
    pub left_out: Option<String>,
}

/// Which dead letters; what is left out matches all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only these identities.
    pub ids: Option<HashSet<String>>,
    /// Only of this original topic.
    pub topic: Option<String>,
    /// Only of this group.
    pub group: Option<String>,
    /// Only with this kind of error.
    pub kind: Option<String>,
    /// Only with this key.
    pub key: Option<Vec<u8>>,
    /// Only those that failed last at this time or later.
    pub since: Option<SystemTime>,
    /// Only those that failed last before this time.
    pub before: Option<SystemTime>,
}

impl Filter {
    fn matches(&self, letter: &DeadLetter) -> bool {
        let same = |wanted: &Option<String>, is: &Option<String>| wanted.is_none() || wanted == is;
        let key = letter.message.key().map(|key| key.as_ref());
        self.ids.as_ref().is_none_or(|ids| ids.contains(&letter.id))
            && same(&self.topic, &letter.topic)
            && same(&self.group, &letter.group)
            && same(&self.kind, &letter.kind)
            && self.key.as_ref().is_none_or(|wanted| key == Some(wanted))
            && self.since.is_none_or(|since| letter.last_failure.is_some_and(|at| at >= since))
            && self.before.is_none_or(|before| letter.last_failure.is_some_and(|at| at < before))
    }
}

/// How fast dead letters are put back.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Pace {
    /// One after the other, each confirmed.
    #[default]
    Unlimited,
    /// At most so many in a second; 0 counts as 1.
    PerSecond(u32),
}

/// The dead letters in one dead-letter topic that were neither put back nor discarded yet.
///
/// What became of a dead letter is recorded in a topic beside it, `{dead-letter topic}.done`, so
/// the dead letters themselves stay as they are.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    broker: Broker,
    topic: Name,
}

impl Broker {
    /// The dead letters in this dead-letter topic.
    pub fn dead_letters(&self, topic: Name) -> DeadLetters {
        DeadLetters { broker: self.clone(), topic }
    }
}

impl DeadLetters {
    /// Those that match, the oldest first. They are all held in memory: narrow the filter, or use
    /// [`Broker::read`], where there may be very many.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`]; [`ErrorKind::Unsupported`] where the topic cannot be replayed.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<DeadLetter>> {
        let done = self.done().await?;
        let mut letters = Vec::new();
        let mut reading = self.broker.read(Read::new(self.topic)).await?;
        while let Some(delivery) = reading.next().await? {
            let letter = DeadLetter::new(delivery.received());
            if !done.contains(&letter.id) && filter.matches(&letter) {
                letters.push(letter);
            }
        }
        Ok(letters)
    }

    /// Puts those that match back to the group that failed, and to no other, and says which. The
    /// group's consumer handles them with all its attempts anew; one that fails again becomes a new
    /// dead letter with its whole history. To see beforehand which it would be, use
    /// [`DeadLetters::list`] with the same filter.
    ///
    /// # Cancel safety
    /// Each is recorded as done only after it was put back and confirmed, so an interrupted call
    /// loses nothing; the one at hand may be put back again by the next call, with the same
    /// message id.
    ///
    /// # Errors
    /// The first that could not be put back: [`ErrorKind::UnknownTopic`] if its group's consumer
    /// never ran here, [`ErrorKind::Invalid`] if it does not say where it came from or is not
    /// whole ([`DeadLetter::left_out`]).
    pub async fn redrive(&self, filter: &Filter, pace: Pace) -> Result<Vec<DeadLetter>> {
        let letters = self.list(filter).await?;
        let records = self.records().await?;
        let mut ticks = match pace {
            Pace::Unlimited => None,
            Pace::PerSecond(number) => Some(interval(Duration::from_secs(1) / number.max(1))),
        };
        if let Some(ticks) = &mut ticks {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        for letter in &letters {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            let (to, message) = letter.to_be_redriven()?;
            self.broker.publish_message(to, message).with_any_headers().await?;
            self.record(records, letter, "redriven").await?;
        }
        Ok(letters)
    }

    /// Takes those that match off the list for good, and says which.
    ///
    /// # Errors
    /// Those of publishing the record of it; the ones before are discarded.
    pub async fn discard(&self, filter: &Filter) -> Result<Vec<DeadLetter>> {
        let letters = self.list(filter).await?;
        let records = self.records().await?;
        for letter in &letters {
            self.record(records, letter, "discarded").await?;
        }
        Ok(letters)
    }

    /// The identities of those that were put back or discarded.
    async fn done(&self) -> Result<HashSet<String>> {
        let topic = self.records().await?;
        let mut done = HashSet::new();
        let mut reading = self.broker.read(Read::new(topic)).await?;
        while let Some(delivery) = reading.next().await? {
            if let Some(key) = delivery.message().key() {
                done.insert(String::from_utf8_lossy(key).into_owned());
            }
        }
        Ok(done)
    }

    async fn record(&self, to: Name, letter: &DeadLetter, outcome: &'static str) -> Result<()> {
        let record = Message::new(outcome).with_key(letter.id.clone());
        self.broker.publish_message(to, record).await.map(drop)
    }

    /// The topic of the records, created where it is not there.
    async fn records(&self) -> Result<Name> {
        let topic = Name::intern(&format!("{}.done", self.topic))?;
        create_topic(&self.broker, topic, self.topic, true).await?;
        Ok(topic)
    }
}

impl DeadLetter {
    fn new(received: &Received) -> Self {
        let (history, message) = History::take(received.message.clone());
        // Somebody else's message in the topic has no identity but its place.
        let place = || format!("{}-{}", received.partition, received.offset.unwrap_or_default());
        Self {
            id: history.id.unwrap_or_else(place),
            message,
            topic: history.topic,
            partition: history.partition,
            offset: history.offset,
            group: history.group,
            kind: history.kind,
            error: history.error,
            attempts: history.attempts,
            first_failure: history.first_failure,
            last_failure: history.last_failure,
            redrives: history.redrives,
            left_out: history.left_out,
        }
    }

    /// The message for the group's retry topic, with what has happened to it so far.
    fn to_be_redriven(&self) -> Result<(Name, Message)> {
        let (Some(topic), Some(group)) = (&self.topic, &self.group) else {
            let text = "the message does not say which topic and group it comes from";
            return Err(Error::new(ErrorKind::Invalid, "redrive", text).with("id", &self.id));
        };
        if let Some(left_out) = &self.left_out {
            let text = format!("the message is not whole, it was too large: {left_out}");
            return Err(Error::new(ErrorKind::Invalid, "redrive", text).with("id", &self.id));
        }
        let history = History {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
            group: self.group.clone(),
            attempts: self.attempts,
            first_failure: self.first_failure,
            last_failure: self.last_failure,
            id: Some(self.id.clone()),
            redrives: self.redrives.saturating_add(1),
            ..History::default()
        };
        let to = retry_topic(Name::intern(topic)?, Name::intern(group)?, Duration::ZERO)?;
        Ok((to, history.put(self.message.clone())))
    }
}

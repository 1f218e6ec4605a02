//! Where a message goes that could not be handled in place.

use std::time::Duration;

use uuid::Uuid;

use super::Unprocessable;
use crate::backend::{GroupSpec, Subscribe};
use crate::broker::Broker;
use crate::dead_letter::headers::History;
use crate::dead_letter::{create_topic, dead_letter_topic, retry_topic};
use crate::delivery::Received;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::name::Name;
use crate::schedule;

/// The stations of a failed message of one topic and group: its delayed retries, then its end.
#[derive(Debug)]
pub(super) struct Escalation {
    topic: Name,
    group: GroupSpec,
    /// Each delay with its topic.
    delays: Vec<(Duration, Name)>,
    end: End,
}

#[derive(Debug)]
enum End {
    /// The dead-letter topic, and the one through which dead letters come back.
    DeadLetter {
        topic: Name,
        redriven: Name,
    },
    Discard,
    Stop,
}

/// What is to be done with a failed message.
pub(super) enum Next {
    /// Publish this to be handled again after a delay, then settle.
    Delay(Name, Message),
    /// Publish this as a dead letter, then settle.
    DeadLetter(Name, Message),
    Discard,
    Stop,
}

impl Escalation {
    pub(super) fn new(
        topic: Name,
        group: GroupSpec,
        delays: &[Duration],
        unprocessable: Unprocessable,
        dead_letters: Option<Name>,
    ) -> Result<Self> {
        let name = group.name;
        let delay = |delay: &Duration| Ok((*delay, retry_topic(topic, name, *delay)?));
        Ok(Self {
            topic,
            group,
            delays: delays.iter().map(delay).collect::<Result<_>>()?,
            end: match unprocessable {
                Unprocessable::Stop => End::Stop,
                Unprocessable::Discard => End::Discard,
                Unprocessable::DeadLetter => End::DeadLetter {
                    topic: match dead_letters {
                        Some(topic) => topic,
                        None => dead_letter_topic(topic, name)?,
                    },
                    redriven: retry_topic(topic, name, Duration::ZERO)?,
                },
            },
        })
    }

    /// Creates the topics of all stations, and the group in those that it consumes itself, so that
    /// what is published there is never unroutable.
    pub(super) async fn create(&self, broker: &Broker) -> Result<()> {
        if let End::DeadLetter { topic, .. } = self.end {
            create_topic(broker, topic, self.topic, true).await?;
        }
        for topic in self.immediate().into_iter().chain(self.delays.iter().map(|(_, topic)| *topic))
        {
            create_topic(broker, topic, self.topic, false).await?;
            broker.inner.backend.declare_group(topic, &self.own_group()).await?;
        }
        Ok(())
    }

    /// Whether a transaction that settles a message can publish to its stations.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where a station is on another
    /// broker than the topic.
    pub(super) async fn check_outputs(&self, broker: &Broker) -> Result<()> {
        let end = match self.end {
            End::DeadLetter { topic, .. } => Some(topic),
            _ => None,
        };
        let probe = Message::new("").with_key("");
        for station in self.delays.iter().map(|(_, topic)| *topic).chain(end) {
            let backend = &broker.inner.backend;
            backend.check_output(self.topic, station, None, &probe).await?;
        }
        Ok(())
    }

    /// The topic whose messages come back at once: redriven ones.
    pub(super) fn immediate(&self) -> Option<Name> {
        match self.end {
            End::DeadLetter { redriven, .. } => Some(redriven),
            _ => None,
        }
    }

    /// A membership for each topic whose messages wait.
    pub(super) fn delayed(&self, prefetch: usize) -> impl Iterator<Item = Subscribe> {
        self.delays.iter().map(move |(_, topic)| Subscribe {
            prefetch,
            ..Subscribe::new(*topic, self.own_group())
        })
    }

    /// What is to be done with a message that failed like this. `may_wait` is false for a failure
    /// that no delay will mend.
    pub(super) fn next(
        &self,
        received: &Received,
        history: &History,
        error: &Error,
        may_wait: bool,
    ) -> Next {
        let now = schedule::now();
        let mut history = History {
            topic: Some(self.topic.as_str().to_owned()),
            partition: Some(received.partition),
            offset: received.offset,
            group: Some(self.group.name.as_str().to_owned()),
            kind: Some(format!("{:?}", error.kind())),
            error: Some(in_words(error)),
            first_failure: history.first_failure.or(Some(now)),
            last_failure: Some(now),
            due: None,
            left_out: None,
            ..history.clone()
        };
        if may_wait && let Some((delay, topic)) = self.delays.get(history.delays) {
            history.delays += 1;
            history.due = now.checked_add(*delay);
            return Next::Delay(*topic, history.put(received.message.clone()));
        }
        match self.end {
            End::DeadLetter { topic, .. } => {
                history.id = Some(Uuid::now_v7().to_string());
                Next::DeadLetter(topic, history.put(received.message.clone()))
            }
            End::Discard => Next::Discard,
            End::Stop => Next::Stop,
        }
    }

    /// The group as it is in its own retry topics: from the oldest message on, wherever it began in
    /// the topic, and in the same order, because one membership covers both.
    fn own_group(&self) -> GroupSpec {
        GroupSpec { order: self.group.order, ..GroupSpec::new(self.group.name) }
    }
}

/// The error without operation and context, which the other headers have.
fn in_words(error: &Error) -> String {
    let fields = error.fields().iter().map(|field| match field.path.is_empty() {
        true => field.message.clone(),
        false => format!("{}: {}", field.path, field.message),
    });
    let texts = Some(error.message().to_owned()).filter(|text| !text.is_empty()).into_iter();
    texts.chain(fields).collect::<Vec<_>>().join("; ")
}

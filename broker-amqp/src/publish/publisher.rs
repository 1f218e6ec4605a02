//! The task that publishes the messages of one topic.

use std::collections::{HashSet, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use broker_api::limits::check_size;
use broker_api::{
    Confirm, Error, ErrorKind, Message, MessageId, Name, Outgoing, Receipt, Result,
    partition_for_key,
};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{Channel, Confirmation};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::backend::Parts;
use crate::publish::in_flight::InFlight;
use crate::publish::outbox::Outbox;
use crate::publish::returns::Returns;
use crate::registry::Topic;
use crate::topology::declare;
use crate::{error, names, properties};

const OPERATION: &str = "publish";

/// How many messages may be on their way: enough to keep the broker busy. More would only make the
/// client slower, which looks through them for every answer of the broker.
const WINDOW: usize = 4_000;

/// How long a topic's task stays without a message.
const IDLE: Duration = Duration::from_secs(60);

/// How long to wait before a channel is tried again after an error.
const PAUSE: Duration = Duration::from_millis(100);

/// Publishes the messages of one topic, in their order.
pub(super) struct Publisher {
    topic: Name,
    outbox: Arc<Outbox>,
    parts: Parts,
    /// Taken out of the outbox and not handed to the client.
    backlog: VecDeque<Outgoing>,
    /// Ids in flight; a second message of one waits.
    ids: HashSet<MessageId>,
    returns: Returns,
    /// For messages without a key: the next partition.
    next: u32,
    /// The names that every publish needs.
    exchange: ShortString,
    routing_keys: Vec<ShortString>,
    /// The earliest deadline since the last look at all of them.
    deadline: Option<Instant>,
}

/// A message on its way.
struct Entry {
    id: MessageId,
    partition: u32,
    deadline: Instant,
    /// `None` once it is answered, though the broker has not.
    confirm: Option<Confirm>,
    /// To publish it again if it was certainly not sent.
    message: Option<Message>,
    chosen: Option<u32>,
}

/// What became of a message.
enum Sent {
    /// The client did not send it.
    Unsent,
    /// It was sent, and the connection or channel ended before the answer.
    Lost(lapin::Error),
    Answered(Confirmation),
}

/// A channel with the topic as it was found.
struct Open {
    channel: Arc<Channel>,
    frame_max: usize,
}

type Opening = Pin<Box<dyn Future<Output = Result<Open>> + Send>>;
type Flight = InFlight<Entry, Sent>;

impl Publisher {
    pub(super) fn new(topic: Name, outbox: Arc<Outbox>, parts: Parts) -> Self {
        Self {
            topic,
            outbox,
            parts,
            backlog: VecDeque::new(),
            ids: HashSet::new(),
            returns: Returns::default(),
            next: 0,
            exchange: names::exchange(topic),
            routing_keys: Vec::new(),
            deadline: None,
        }
    }

    pub(super) async fn run(mut self, mut closing: watch::Receiver<bool>) {
        let outbox = self.outbox.clone();
        let mut states = self.parts.publish.watch();
        let mut flight = Flight::new();
        let mut taken = Vec::new();
        let (mut open, mut opening): (Option<Open>, Option<Opening>) = (None, None);
        loop {
            outbox.take(&mut taken);
            self.accept(&mut taken);
            if self.backlog.is_empty() {
                opening = None;
            } else if let Some(channel) = &open {
                match self.parts.registry.topic(self.topic) {
                    Some(topic) => self.send(&topic, channel, &mut flight),
                    None => open = None,
                }
            } else if flight.len() == 0 && opening.is_none() {
                opening = Some(Box::pin(open_channel(self.parts.clone(), self.topic)));
            }
            let done = self.backlog.is_empty() && flight.len() == 0;
            if done && *closing.borrow() && outbox.close_if_empty() {
                return;
            }
            tokio::select! {
                biased;
                answers = poll_fn(|cx| flight.poll_answers(cx)), if flight.len() > 0 => {
                    if let Some(lost) = self.answer(answers) {
                        open = None;
                        self.parts.publish.suspect();
                        tracing::debug!(error = %lost, topic = %self.topic, "channel lost");
                    }
                }
                () = outbox.filled() => {}
                opened = async { opening.as_mut()?.await.into() }, if opening.is_some() => {
                    opening = None;
                    match opened {
                        Some(Ok(opened)) => open = Some(opened),
                        Some(Err(error)) => self.refuse(error).await,
                        None => {}
                    }
                }
                () = sleep_until(self.deadline.unwrap_or_else(Instant::now)),
                    if self.deadline.is_some() => self.expire(&mut flight),
                // So that messages that wait while the broker is blocked go on.
                changed = states.changed(), if !self.backlog.is_empty() => drop(changed),
                () = async { drop(closing.wait_for(|closing| *closing).await) }, if done => {}
                () = tokio::time::sleep(IDLE), if done => {
                    if outbox.close_if_empty() {
                        return;
                    }
                }
            }
        }
    }

    fn accept(&mut self, taken: &mut Vec<Outgoing>) {
        for outgoing in taken.drain(..) {
            self.watch(outgoing.deadline);
            self.backlog.push_back(outgoing);
        }
    }

    fn watch(&mut self, deadline: Instant) {
        self.deadline = Some(self.deadline.map_or(deadline, |first| first.min(deadline)));
    }

    /// Hands over what there is room for.
    fn send(&mut self, topic: &Topic, open: &Open, flight: &mut Flight) {
        if !self.parts.publish.takes_messages() {
            return;
        }
        while flight.len() < WINDOW
            && let Some(outgoing) = self.backlog.pop_front()
        {
            if let Some(id) = outgoing.message.id()
                && self.ids.contains(id)
            {
                self.backlog.push_front(outgoing);
                return;
            }
            self.send_one(topic, open, flight, outgoing);
        }
    }

    fn send_one(&mut self, topic: &Topic, open: &Open, flight: &mut Flight, outgoing: Outgoing) {
        let Outgoing { partition: chosen, message, deadline, confirm, .. } = outgoing;
        let ready = self.partition(topic, chosen, &message).and_then(|partition| {
            check_size(&message, topic.max_message_bytes)?;
            Ok((partition, properties::write(&message, open.frame_max)?))
        });
        let (partition, properties) = match ready {
            Ok(ready) => ready,
            Err(error) => return confirm.done(Err(error.with("topic", self.topic))),
        };
        // The core gives every message an id.
        let id = message.id().cloned().unwrap_or_default();
        self.ids.insert(id.clone());
        let (channel, exchange) = (open.channel.clone(), self.exchange.clone());
        let routing_key = self.routing_key(partition);
        let payload = message.payload().clone();
        let entry = Entry {
            id,
            partition,
            deadline,
            confirm: Some(confirm),
            message: Some(message),
            chosen,
        };
        flight.push(entry, async move {
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let published =
                channel.basic_publish(exchange, routing_key, options, &payload, properties);
            match published.await {
                // Reported where not all of it was written to the connection.
                Err(_) => Sent::Unsent,
                Ok(confirm) => match confirm.await {
                    Ok(confirmation) => Sent::Answered(confirmation),
                    Err(error) => Sent::Lost(error),
                },
            }
        });
    }

    fn routing_key(&mut self, partition: u32) -> ShortString {
        let index = partition as usize;
        while self.routing_keys.len() <= index {
            self.routing_keys.push(names::routing_key(self.routing_keys.len() as u32));
        }
        self.routing_keys[index].clone()
    }

    fn partition(&mut self, topic: &Topic, chosen: Option<u32>, message: &Message) -> Result<u32> {
        match (chosen, message.key()) {
            (Some(partition), _) if partition >= topic.partitions => {
                let text = format!(
                    "partition {partition} does not exist, the topic has {}",
                    topic.partitions
                );
                Err(Error::new(ErrorKind::Invalid, OPERATION, text))
            }
            (Some(partition), _) => Ok(partition),
            (None, Some(key)) => Ok(partition_for_key(key, topic.partitions)),
            (None, None) => {
                let partition = self.next % topic.partitions;
                self.next = partition + 1;
                Ok(partition)
            }
        }
    }

    /// Answers messages; the error if the channel is gone.
    fn answer(&mut self, answers: Vec<(Entry, Sent)>) -> Option<lapin::Error> {
        let (mut lost, mut unsent) = (None, false);
        for (_, sent) in &answers {
            if let Sent::Answered(confirmation) = sent {
                self.returns.note(confirmation);
            }
        }
        let mut again = Vec::new();
        for (mut entry, sent) in answers {
            self.ids.remove(&entry.id);
            let result = match sent {
                Sent::Unsent => {
                    unsent = true;
                    again.extend(entry.again(self.topic));
                    continue;
                }
                Sent::Answered(_) if self.returns.take(&entry.id) => Err(unroutable()),
                Sent::Answered(Confirmation::Ack(_)) => {
                    Ok(Receipt { partition: entry.partition, offset: None })
                }
                Sent::Answered(_) => Err(nacked()),
                Sent::Lost(error) => {
                    let result = Err(self.doubtful(&error));
                    lost = Some(error);
                    result
                }
            };
            if let Some(confirm) = entry.confirm.take() {
                confirm.done(result.map_err(|error| error.with("topic", self.topic)));
            }
        }
        // In front of the others, and in their order.
        again.into_iter().rev().for_each(|outgoing| self.backlog.push_front(outgoing));
        if unsent && lost.is_none() {
            lost = Some(std::io::Error::other("not connected").into());
        }
        lost
    }

    /// The error of a message whose answer was lost.
    fn doubtful(&self, lost: &lapin::Error) -> Error {
        let deleted = error::reply_code(lost) == Some(error::code::NOT_FOUND);
        if deleted || self.parts.registry.topic(self.topic).is_none() {
            // Whatever was stored went with the topic.
            return Error::new(ErrorKind::UnknownTopic, OPERATION, "the topic was deleted");
        }
        let text = "the connection was lost before RabbitMQ confirmed the message";
        Error::new(ErrorKind::Unavailable, OPERATION, text)
            .indeterminate()
            .with_source(lost.clone())
    }

    /// The channel could not be opened.
    async fn refuse(&mut self, error: Error) {
        if error.is_transient() {
            self.parts.publish.suspect();
            tokio::time::sleep(PAUSE).await;
            return;
        }
        for outgoing in self.backlog.drain(..) {
            let error = error::again(&error, OPERATION).with("topic", self.topic);
            outgoing.confirm.done(Err(error));
        }
    }

    /// Answers what has waited until its deadline.
    fn expire(&mut self, flight: &mut Flight) {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let mut keep = |deadline| next = Some(next.map_or(deadline, |n: Instant| n.min(deadline)));
        let mut waiting = VecDeque::with_capacity(self.backlog.len());
        for outgoing in self.backlog.drain(..) {
            if outgoing.deadline > now {
                keep(outgoing.deadline);
                waiting.push_back(outgoing);
                continue;
            }
            let text = "the message was not sent within its time limit";
            let error = Error::new(ErrorKind::Timeout, OPERATION, text).transient();
            outgoing.confirm.done(Err(error.with("topic", self.topic)));
        }
        self.backlog = waiting;
        for entry in flight.entries_mut().filter(|entry| entry.confirm.is_some()) {
            if entry.deadline > now {
                keep(entry.deadline);
                continue;
            }
            entry.message = None;
            if let Some(confirm) = entry.confirm.take() {
                let text = "RabbitMQ did not confirm the message within its time limit";
                let error = Error::new(ErrorKind::Timeout, OPERATION, text).indeterminate();
                confirm.done(Err(error.with("topic", self.topic)));
            }
        }
        self.deadline = next;
    }
}

impl Entry {
    /// The message as it was before, if somebody still waits for it.
    fn again(self, topic: Name) -> Option<Outgoing> {
        let (message, confirm) = (self.message?, self.confirm?);
        Some(Outgoing { topic, partition: self.chosen, message, deadline: self.deadline, confirm })
    }
}

/// A channel for the topic, which is made sure to be there.
async fn open_channel(parts: Parts, topic: Name) -> Result<Open> {
    let topic = parts.topology.topic(topic, OPERATION).await?;
    let channel = parts.publish.channel(OPERATION).await?;
    let prepared = async {
        declare::topic(&channel, &topic).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await
    };
    prepared.await.map_err(|e| error::failed(OPERATION, e))?;
    Ok(Open { channel: channel.into(), frame_max: parts.publish.frame_max() })
}

fn unroutable() -> Error {
    let text = "the topic has no group and no retention, so RabbitMQ keeps no message for it";
    Error::new(ErrorKind::Unroutable, OPERATION, text)
}

/// Of several queues one may have it and another not.
fn nacked() -> Error {
    let text = "RabbitMQ could not store the message in every queue it is for; if this lasts, a \
        queue is damaged and has to be deleted";
    Error::new(ErrorKind::Unavailable, OPERATION, text).indeterminate()
}

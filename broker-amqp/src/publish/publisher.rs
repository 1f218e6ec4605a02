//! The task that publishes the messages of one topic.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use broker_api::limits::check_size;
use broker_api::{Error, MessageId, Name, Outgoing, Receipt, Result};
use lapin::Confirmation;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::backend::Parts;
use crate::publish::OPERATION;
use crate::publish::entry::{self, Entry, Sent};
use crate::publish::in_flight::InFlight;
use crate::publish::open::Open;
use crate::publish::outbox::Outbox;
use crate::publish::partitions::Partitions;
use crate::publish::returns::Returns;
use crate::registry::Topic;
use crate::{error, names, properties};

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
    /// Handed to the client in this order, and not sent by it. They go back to the front of the
    /// backlog when it is known which ones they are.
    unsent: BTreeMap<u64, Outgoing>,
    sequence: u64,
    /// Ids in flight; a second message of one waits.
    ids: HashSet<MessageId>,
    returns: Returns,
    partitions: Partitions,
    exchange: ShortString,
    /// The earliest deadline since the last look at all of them.
    deadline: Option<Instant>,
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
            unsent: BTreeMap::new(),
            sequence: 0,
            ids: HashSet::new(),
            returns: Returns::default(),
            partitions: Partitions::default(),
            exchange: names::exchange(topic),
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
            if flight.len() == 0 {
                self.take_back_unsent();
            }
            if self.backlog.is_empty() {
                opening = None;
            } else if let Some(channel) = &open {
                match self.parts.registry.topic(self.topic) {
                    Some(topic) => self.send(&topic, channel, &mut flight),
                    None => {
                        open = None;
                        continue;
                    }
                }
            } else if flight.len() == 0 && opening.is_none() {
                opening = Some(Box::pin(Open::channel(self.parts.clone(), self.topic)));
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
        let partition = self.partitions.choose(topic.partitions, chosen, message.key());
        let ready = partition.and_then(|partition| {
            check_size(&message, topic.max_message_bytes)?;
            Ok((partition, properties::write(&message, topic.has_stream(), open.frame_max)?))
        });
        let (partition, properties) = match ready {
            Ok(ready) => ready,
            Err(error) => return confirm.done(Err(error.with("topic", self.topic))),
        };
        // The core gives every message an id.
        let id = message.id().cloned().unwrap_or_default();
        self.ids.insert(id.clone());
        let (channel, exchange) = (open.channel.clone(), self.exchange.clone());
        let routing_key = self.partitions.routing_key(partition);
        let payload = message.payload().clone();
        self.sequence += 1;
        let entry = Entry {
            sequence: self.sequence,
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
                Err(error) => Sent::Unsent(error),
                Ok(confirm) => match confirm.await {
                    Ok(confirmation) => Sent::Answered(confirmation),
                    Err(error) => Sent::Lost(error),
                },
            }
        });
    }

    /// Answers messages; the error if the channel is gone.
    fn answer(&mut self, answers: Vec<(Entry, Sent)>) -> Option<lapin::Error> {
        let mut gone = None;
        let alone = self.ids.len() == 1;
        for (_, sent) in &answers {
            if let Sent::Answered(confirmation) = sent {
                self.returns.note(confirmation);
            }
        }
        for (mut entry, sent) in answers {
            self.ids.remove(&entry.id);
            let result = match sent {
                Sent::Unsent(error) => {
                    gone = Some(error);
                    let sequence = entry.sequence;
                    self.unsent.extend(entry.again(self.topic).map(|again| (sequence, again)));
                    continue;
                }
                Sent::Lost(error) => {
                    let is_there = self.parts.registry.topic(self.topic).is_some();
                    let result = Err(entry::doubtful(&error, is_there, alone));
                    gone = Some(error);
                    result
                }
                Sent::Answered(_) if self.returns.take(&entry.id) => match self.has_queues() {
                    // With a new channel what is missing is made again.
                    true => {
                        gone = Some(std::io::Error::other("no queue has taken a message").into());
                        Err(entry::without_queues())
                    }
                    false => Err(entry::unroutable()),
                },
                Sent::Answered(Confirmation::Ack(_)) => {
                    Ok(Receipt { partition: entry.partition, offset: None })
                }
                Sent::Answered(_) => Err(entry::nacked()),
            };
            entry.answer(self.topic, result);
        }
        gone
    }

    fn has_queues(&self) -> bool {
        let topic = self.parts.registry.topic(self.topic);
        topic.is_some_and(|topic| topic.has_stream() || topic.groups.values().any(|g| g.ready))
    }

    fn take_back_unsent(&mut self) {
        while let Some((_, last)) = self.unsent.pop_last() {
            self.backlog.push_front(last);
        }
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
            let error = entry::unsent_in_time().with("topic", self.topic);
            outgoing.confirm.done(Err(error));
        }
        self.backlog = waiting;
        for entry in flight.entries_mut().filter(|entry| entry.confirm.is_some()) {
            if entry.deadline > now {
                keep(entry.deadline);
                continue;
            }
            entry.message = None;
            entry.answer(self.topic, Err(entry::unconfirmed_in_time()));
        }
        self.deadline = next;
    }
}

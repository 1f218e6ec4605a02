//! The task of one membership: it consumes, settles at the broker, comes back after an outage, and
//! leaves in order.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use broker_api::{Error, ErrorKind, Name, Order, Result, Subscribe};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::backend::Core;
use crate::consume::attached::{Arrived, Attached};
use crate::consume::lane::{Lane, Wanted};
use crate::consume::seat::Seat;
use crate::consume::source::Shared;
use crate::error;
use crate::handshake::Version;
use crate::link::Link;

const OPERATION: &str = "subscribe";

/// How long what is settled behind a gap waits for the gap to close: one frame then says it all.
const GAP: Duration = Duration::from_millis(2);

/// How long to wait before consuming is tried again after an error.
const PAUSE: Duration = Duration::from_millis(200);

/// Tells to leave, and whom to answer.
pub(super) type Leaving = oneshot::Receiver<oneshot::Sender<Result<()>>>;

/// A member of a group.
pub(super) struct Member {
    core: Arc<Core>,
    /// The shared connection; or one of its own, after somebody's message had ended the shared one.
    link: Link,
    alone: bool,
    id: u64,
    subscribe: Subscribe,
    /// The topics, and which ones of those names.
    topics: Vec<(Name, u64)>,
    shared: Arc<Shared>,
    /// Its number in the backend's health.
    health: u64,
}

/// Why consuming on a channel ended.
enum End {
    Leave(Option<oneshot::Sender<Result<()>>>),
    /// The channel is gone; whether because of a message that the client cannot read.
    Lost(Error, bool),
    /// The topic has changed so that the channel has to be made anew.
    Again,
    Failed(Error),
}

impl Member {
    pub(super) fn new(
        core: Arc<Core>,
        subscribe: Subscribe,
        topics: Vec<(Name, u64)>,
        shared: Arc<Shared>,
        health: u64,
    ) -> Self {
        let link = core.consume.clone();
        let id = Uuid::now_v7().as_u64_pair().1;
        Self { core, link, alone: false, id, subscribe, topics, shared, health }
    }

    /// Consumes until it is to leave, or can never go on.
    pub(super) async fn run(mut self, mut leaving: Leaving, joined: oneshot::Sender<Result<()>>) {
        let mut joined = Some(joined);
        let core = self.core.clone();
        let mut closing = core.closing.subscribe();
        let (error, answer) = loop {
            let attached = tokio::select! {
                biased;
                answer = &mut leaving => break (None, answer.ok()),
                _ = closing.wait_for(|closing| *closing) => break (None, None),
                attached = self.attach() => attached,
            };
            let mut attached = match attached {
                Ok(attached) => attached,
                Err(error) if error.is_permanent() => break (Some(error), None),
                Err(error) => {
                    self.troubled(&error);
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            core.set_problem(self.health, None);
            self.shared.set_session(Some(attached.session.clone()));
            if let Some(joined) = joined.take() {
                let _ = joined.send(Ok(()));
            }
            let end = tokio::select! {
                biased;
                answer = &mut leaving => End::Leave(answer.ok()),
                _ = closing.wait_for(|closing| *closing) => End::Leave(None),
                end = self.consume(&mut attached) => end,
            };
            self.shared.set_session(None);
            match end {
                End::Leave(answer) => {
                    let left = self.leave(attached).await;
                    match answer {
                        Some(answer) => drop(answer.send(left)),
                        None => core.note_close(left),
                    }
                    break (None, None);
                }
                End::Lost(error, unreadable) => {
                    attached.session.end();
                    self.troubled(&error);
                    if unreadable && let Err(error) = self.go_alone(error).await {
                        break (Some(error), None);
                    }
                }
                End::Again => {
                    let _ = self.leave(attached).await;
                }
                End::Failed(error) => {
                    let _ = self.leave(attached).await;
                    break (Some(error), None);
                }
            }
        };
        match (error, joined) {
            (Some(error), Some(joined)) => drop(joined.send(Err(error))),
            (Some(error), None) if error.kind() != ErrorKind::Closed => {
                // It shows until the application has done with the source.
                core.set_problem(self.health, Some(error.to_string()));
                self.shared.end(Some(error));
            }
            _ => {
                core.remove_consumer(self.health);
                self.shared.end(None);
            }
        }
        if let Some(answer) = answer {
            let _ = answer.send(Ok(()));
        }
    }

    fn troubled(&self, error: &Error) {
        self.core.last_error.note(error);
        self.core.set_problem(self.health, Some(error.to_string()));
        self.link.suspect();
    }

    /// A message that the client cannot read ends its connection. On one of its own each member
    /// finds out whether it is the one whose queue has the message; the others go on.
    async fn go_alone(&mut self, error: Error) -> Result<()> {
        if self.alone {
            return Err(error.with("group", self.subscribe.group.name));
        }
        match self.link.sibling().await {
            Ok(link) => {
                self.link = link;
                self.alone = true;
            }
            Err(error) if error.is_permanent() => return Err(error),
            // The shared connection comes back, is ended again by the message, and this is tried again.
            Err(error) => self.troubled(&error),
        }
        Ok(())
    }

    /// Consumes all queues on a new channel. One that is not there any more is made again.
    async fn attach(&self) -> Result<Attached> {
        match self.try_attach().await? {
            Err(e) if error::is_missing(&e) => {
                for (name, _) in &self.topics {
                    self.core.topology.restore(*name, OPERATION).await?;
                }
                self.try_attach().await?
            }
            attached => attached,
        }
        .map_err(|e| error::failed(OPERATION, e))
    }

    async fn try_attach(&self) -> Result<lapin::Result<Attached>> {
        let channel = self.link.channel(OPERATION).await?;
        let (mut wanted, mut seats) = (Vec::new(), Vec::new());
        for (name, incarnation) in &self.topics {
            let topic = self.core.topology.topic(*name, OPERATION).await?;
            let known = topic.groups.contains_key(&self.subscribe.group.name);
            if topic.incarnation != *incarnation || !known {
                return Err(error::unknown_topic(OPERATION, *name));
            }
            wanted.extend(Wanted::of(&topic, &self.subscribe.group));
            if let Some(seat) = self.seat(*name, topic.partitions).await {
                seats.push((*name, seat));
            }
        }
        let signals = self.shared.signals.clone();
        Ok(Attached::attach(channel, wanted, self.id, seats, &self.subscribe, signals).await)
    }

    /// Takes a place among the members, where that decides who gets what.
    async fn seat(&self, topic: Name, partitions: u32) -> Option<Seat> {
        let group = &self.subscribe.group;
        let decides = group.order == Order::Key
            && partitions > 1
            && self.link.version().is_some_and(Version::has_consumer_priorities);
        if !decides {
            return None;
        }
        Seat::take(&self.link, topic, group.name, partitions).await
    }

    async fn consume(&mut self, attached: &mut Attached) -> End {
        let mut changes = self.core.registry.changes();
        changes.mark_changed();
        let shared = self.shared.clone();
        let (mut frames, mut behind) = (Vec::new(), false);
        loop {
            tokio::select! {
                biased;
                arrived = poll_fn(|cx| attached.poll_arrived(cx)) => match arrived {
                    Arrived::Some(arrived) => attached.take_in(arrived, &self.core.registry),
                    Arrived::Lost(e) => {
                        let unreadable = error::is_unreadable(&e);
                        return End::Lost(error::failed(OPERATION, e), unreadable);
                    }
                    Arrived::Ended(lane) => match self.ended(&attached.lanes[lane]).await {
                        Some(end) => return end,
                        None => continue,
                    },
                },
                _ = shared.signals.settled.notified() => {
                    behind = attached.tell(false, &mut frames);
                }
                _ = tokio::time::sleep(GAP), if behind => {
                    behind = attached.tell(true, &mut frames);
                }
                _ = changes.changed() => {
                    if let Some(end) = self.follow(attached).await {
                        return end;
                    }
                }
            }
            if let Some(end) = self.finish_histories(attached).await {
                return end;
            }
        }
    }

    /// The broker ended a consumer: its queue was deleted.
    async fn ended(&self, lane: &Lane) -> Option<End> {
        if lane.history && !self.has_history(lane.topic, lane.partition) {
            return None;
        }
        match self.core.topology.topic(lane.topic, OPERATION).await {
            Ok(_) => Some(End::Again),
            Err(error) if error.is_permanent() => Some(End::Failed(error)),
            Err(error) => Some(End::Lost(error, false)),
        }
    }

    fn has_history(&self, topic: Name, partition: Option<u32>) -> bool {
        let group = self.subscribe.group.name;
        self.core.registry.look(|state| {
            let group = state.topic(topic).and_then(|topic| topic.groups.get(&group));
            group.is_some_and(|g| partition.is_some_and(|p| g.history.contains(&p)))
        })
    }

    /// Follows what was changed about the topics.
    async fn follow(&self, attached: &mut Attached) -> Option<End> {
        let mut missing = Vec::new();
        for (name, incarnation) in &self.topics {
            let topic = self.core.registry.topic(*name);
            let Some(topic) = topic.filter(|topic| topic.incarnation == *incarnation) else {
                return Some(End::Failed(error::unknown_topic(OPERATION, *name)));
            };
            let wanted = Wanted::of(&topic, &self.subscribe.group).into_iter();
            missing.extend(wanted.filter(|wanted| !attached.consumes(wanted)));
        }
        if missing.is_empty() {
            return None;
        }
        let added = attached.add(missing).await;
        added.err().map(|e| End::Lost(error::failed(OPERATION, e), false))
    }

    /// Goes on to the present where a history is handled to its end.
    async fn finish_histories(&self, attached: &mut Attached) -> Option<End> {
        for (number, mark) in attached.handled_histories() {
            attached.session.settle_mark(mark);
            attached.tell(true, &mut Vec::new());
            let lane = &mut attached.lanes[number];
            lane.mark = None;
            let group = self.subscribe.group.name;
            let drained = self.core.topology.drained(lane.topic, group, lane.partition?).await;
            if let Err(error) = drained {
                return Some(End::Lost(error, false));
            }
        }
        None
    }

    async fn leave(&self, attached: Attached) -> Result<()> {
        let left = attached.leave(self.core.config.operation_timeout).await;
        left.map_err(|error| error.with("group", self.subscribe.group.name))
    }
}

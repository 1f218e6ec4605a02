//! A reading of a topic without a group.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use async_trait::async_trait;

use super::connection::Connection;
use super::state::State;
use crate::backend::{Read, Source, Until};
use crate::delivery::{Delivery, Received};
use crate::error::{Error, ErrorKind, Result};

/// A reading: places in the logs, which nobody else knows of.
#[derive(Debug)]
pub(super) struct Reader {
    connection: Arc<Connection>,
    seat: usize,
    topic: usize,
    cursors: Vec<Cursor>,
    /// Which cursor is looked at first, so that all get their turn.
    turn: usize,
    /// Partitions that are added later are read too.
    grows: bool,
    done: bool,
}

#[derive(Debug)]
struct Cursor {
    partition: u32,
    next: u64,
    /// Where the reading ends; `None` if it follows.
    end: Option<u64>,
}

impl Reader {
    pub(super) fn open(connection: Arc<Connection>, read: &Read) -> Result<Self> {
        let (seat, topic, cursors) = connection.server().with(|state, _| {
            connection.check_open("read")?;
            let topic = state.find(read.topic, "read")?;
            state.tidy_all(topic);
            let cursors = cursors(state, topic, read)?;
            Ok((state.read(connection.number(), topic), topic, cursors))
        })?;
        let grows = read.partitions.is_none() && read.until == Until::Followed;
        Ok(Self { connection, seat, topic, cursors, turn: 0, grows, done: false })
    }

    fn poll(
        &mut self,
        state: &mut State,
        max: usize,
        waker: &Waker,
    ) -> Poll<Result<Option<Vec<Delivery>>>> {
        if let Some(end) = state.seats[self.seat].end_of() {
            return Poll::Ready(end);
        }
        let topic = &state.topics[self.topic];
        if self.grows {
            let new = self.cursors.len() as u32..topic.partitions();
            self.cursors.extend(new.map(|partition| Cursor { partition, next: 0, end: None }));
        }
        let max = max.max(1);
        let mut batch = Vec::new();
        for _ in 0..self.cursors.len() {
            if batch.len() == max {
                break;
            }
            self.turn = (self.turn + 1) % self.cursors.len();
            let cursor = &mut self.cursors[self.turn];
            let end = cursor.end.unwrap_or(u64::MAX);
            let messages = topic.logs[cursor.partition as usize].from(cursor.next);
            let messages = messages.take_while(|(offset, _)| *offset < end);
            for (offset, message) in messages.take(max - batch.len()) {
                cursor.next = offset + 1;
                batch.push(Delivery::unsettled(Received {
                    message: message.clone(),
                    topic: topic.name,
                    partition: cursor.partition,
                    offset: Some(offset),
                    redeliveries: Some(0),
                }));
            }
        }
        if !batch.is_empty() {
            return Poll::Ready(Ok(Some(batch)));
        }
        // All have an end or none has.
        if self.cursors.iter().all(|cursor| cursor.end.is_some()) {
            return Poll::Ready(Ok(None));
        }
        state.seats[self.seat].sleep(waker);
        Poll::Pending
    }
}

fn cursors(state: &State, topic: usize, read: &Read) -> Result<Vec<Cursor>> {
    let topic = &state.topics[topic];
    let mut partitions = match &read.partitions {
        Some(partitions) => partitions.clone(),
        None => (0..topic.partitions()).collect(),
    };
    partitions.sort_unstable();
    partitions.dedup();
    let highest = partitions.last().copied();
    if highest.is_none_or(|highest| highest >= topic.partitions()) {
        let text = format!(
            "partitions to read: {partitions:?}, the topic has 0 to {}",
            topic.partitions() - 1
        );
        let error = Error::new(ErrorKind::Invalid, "read", text);
        return Err(error.with("topic", read.topic));
    }
    let cursor = |partition: u32| {
        let log = &topic.logs[partition as usize];
        let end = (read.until == Until::CaughtUp).then(|| log.end());
        Cursor { partition, next: log.offset_of(read.start), end }
    };
    Ok(partitions.into_iter().map(cursor).collect())
}

#[async_trait]
impl Source for Reader {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        if self.done {
            return Ok(None);
        }
        let server = self.connection.server().clone();
        let next = poll_fn(|cx| server.with(|state, _| self.poll(state, max, cx.waker()))).await;
        self.done = !matches!(next, Ok(Some(_)));
        next
    }

    async fn close(&mut self) -> Result<()> {
        self.done = true;
        self.connection.close_source(self.seat);
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.connection.server().with(|state, after| state.remove(self.seat, after));
    }
}

//! A topic read again from its stream, without a group.

use std::sync::Arc;

use async_trait::async_trait;
use broker_api::{Delivery, Error, ErrorKind, Name, Read, Received, Result, Source, Start, Until};
use lapin::message::Delivery as Raw;
use lapin::types::ShortString;

use crate::backend::Core;
use crate::error;
use crate::names;
use crate::properties::{self, Mark};
use crate::stream::{Begin, Place, Stream, is_there, put_mark};
use crate::topology::without_stream;

const OPERATION: &str = "read";

/// A reading.
pub(crate) struct Reading {
    core: Arc<Core>,
    topic: Name,
    partitions: Option<Vec<u32>>,
    begin: Begin,
    /// The mark after which it ends.
    fence: Option<String>,
    stream: Option<Stream>,
}

impl Reading {
    /// Begins to read: what is published after this returns is seen by one that follows.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownTopic`], [`ErrorKind::Unsupported`] without a stream, and those of the
    /// connection.
    pub(crate) async fn begin(core: Arc<Core>, read: Read) -> Result<Self> {
        let topic = core.topology.topic(read.topic, OPERATION).await?;
        if !topic.has_stream() {
            return Err(without_stream(OPERATION, "replay", topic.name));
        }
        let mut unknown = read.partitions.iter().flatten().filter(|p| **p >= topic.partitions);
        if let Some(partition) = unknown.next() {
            let text =
                format!("partition {partition} does not exist, the topic has {}", topic.partitions);
            let error = Error::new(ErrorKind::Invalid, OPERATION, text);
            return Err(error.with("topic", topic.name));
        }
        let queue = names::stream(topic.name);
        if !is_there(&core.consume, &queue, OPERATION).await? {
            // Whoever creates the topic has said so, and is not done yet.
            core.topology.restore(topic.name, OPERATION).await?;
        }
        let place = Place::before(read.start);
        let prefetch = core.config.read_prefetch;
        let mut stream = Stream::new(core.consume.clone(), queue.clone(), prefetch, place);
        let mut fence = None;
        if read.until == Until::CaughtUp {
            let id = put_mark(&core.publish, &queue, Mark::Fence, OPERATION).await?;
            fence = Some(id.to_string());
        }
        if read.start == Start::Latest {
            // Where "now" is has to be known before a lost connection can be gone on from.
            stream = latest(&core, topic.name, prefetch).await?;
        }
        let ended = fence.is_some() && read.start == Start::Latest;
        Ok(Self {
            core,
            topic: read.topic,
            partitions: read.partitions,
            begin: Begin::new(read.start),
            fence,
            stream: (!ended).then_some(stream),
        })
    }

    /// The delivery that a message of the stream is, if it is asked for.
    fn delivery(&mut self, offset: u64, raw: Raw, partitions: u32) -> Option<Delivery> {
        let partition = names::partition_of(raw.routing_key.as_str(), partitions);
        let wanted = self.partitions.as_ref().is_none_or(|wanted| wanted.contains(&partition));
        if !wanted {
            return None;
        }
        let message = properties::read(&raw.properties, raw.data).message;
        if !self.begin.admits(partition, offset, message.timestamp()) {
            return None;
        }
        let (topic, offset) = (self.topic, Some(offset));
        let redeliveries = Some(0);
        Some(Delivery::unsettled(Received { message, topic, partition, offset, redeliveries }))
    }

    async fn next_batch(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        let mut batch = Vec::new();
        while let Some(stream) = &mut self.stream {
            let came = match stream.try_next() {
                Some(came) => came,
                None if !batch.is_empty() => break,
                None => match stream.next(OPERATION).await? {
                    Some(came) => came,
                    None => {
                        self.stream = None;
                        return Err(error::unknown_topic(OPERATION, self.topic));
                    }
                },
            };
            let (offset, raw) = came;
            if Mark::of(&raw.properties).is_some() {
                let id = raw.properties.message_id().as_ref().map(ShortString::as_str);
                if id == self.fence.as_deref() && id.is_some() {
                    self.stream = None;
                }
                continue;
            }
            let known = self.core.registry.look(|s| s.topic(self.topic).map(|t| t.partitions));
            let delivery = self.delivery(offset, raw, known.unwrap_or(u32::MAX));
            batch.extend(delivery);
            if batch.len() >= max {
                break;
            }
        }
        Ok(Some(batch).filter(|batch| !batch.is_empty()))
    }
}

/// A stream that goes on from now.
async fn latest(core: &Core, topic: Name, prefetch: u16) -> Result<Stream> {
    let queue = names::stream(topic);
    loop {
        let mut stream = Stream::new(core.consume.clone(), queue.clone(), prefetch, Place::Last);
        if !stream.attach(OPERATION).await? {
            return Err(error::unknown_topic(OPERATION, topic));
        }
        let fence = put_mark(&core.publish, &queue, Mark::Fence, OPERATION).await?.to_string();
        while let Some((_, raw)) = stream.next_here(OPERATION).await? {
            let id = raw.properties.message_id().as_ref().map(ShortString::as_str);
            if id == Some(&fence) {
                return Ok(stream);
            }
        }
    }
}

#[async_trait]
impl Source for Reading {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Delivery>>> {
        // Held while it is waited only: closing waits for all who hold one.
        let mut closing = self.core.closing.subscribe();
        let result = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => Ok(None),
            batch = self.next_batch(max) => batch,
        };
        if !matches!(result, Ok(Some(_))) {
            self.stream = None;
        }
        result
    }

    async fn close(&mut self) -> Result<()> {
        self.stream = None;
        Ok(())
    }
}

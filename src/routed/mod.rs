//! Several brokers as one: each topic lives on the broker that its name is routed to.

mod merged;
mod routes;

use std::sync::Arc;

use broker_api::{
    Backend, Capabilities, Connection, Error, ErrorKind, GroupSpec, Health, Message, Name,
    Outgoing, Read, Result, Source, Subscribe, TopicDescription, TopicSpec, Transactions,
    async_trait,
};

use merged::Merged;
pub(crate) use routes::Routes;

/// Several brokers as one backend. Every topic is on one of them, by its name.
///
/// A group that consumes topics of different brokers gets their messages mixed, each in the order
/// of its own broker, and its prefetch is that of all together.
pub struct Routed {
    /// The brokers, each once; the first is that of the topics without a route.
    backends: Vec<Arc<dyn Backend>>,
    routes: Routes<usize>,
}

impl Routed {
    /// All topics on this broker, unless routes are added.
    pub fn new(default: Arc<dyn Backend>) -> Self {
        Self { backends: vec![default], routes: Routes::default() }
    }

    /// Routes topics to a broker. The pattern is the name of a topic, or the beginning of names and
    /// a `*`. The name of a topic stands also for the names made from it, `{name}.…`: its retry and
    /// dead-letter topics are where it is. Of the patterns that fit a name the longest decides.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](broker_api::ErrorKind::Configuration) for a pattern that no
    /// topic can have, and for one that is there already.
    pub fn route(mut self, pattern: &str, to: &Arc<dyn Backend>) -> Result<Self> {
        let known = self.backends.iter().position(|known| Arc::ptr_eq(known, to));
        self.routes.add(pattern, known.unwrap_or(self.backends.len()))?;
        if known.is_none() {
            self.backends.push(to.clone());
        }
        Ok(self)
    }

    fn index(&self, topic: Name) -> usize {
        self.routes.find(topic).copied().unwrap_or(0)
    }

    fn of(&self, topic: Name) -> &Arc<dyn Backend> {
        &self.backends[self.index(topic)]
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Backend for Routed {
    fn system(&self) -> &'static str {
        "routed"
    }

    fn system_of(&self, topic: Name) -> &'static str {
        self.of(topic).system_of(topic)
    }

    fn capabilities(&self, topic: Name) -> Capabilities {
        self.of(topic).capabilities(topic)
    }

    fn publish(&self, outgoing: Outgoing) {
        self.of(outgoing.topic).publish(outgoing);
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Source>> {
        let mut parts: Vec<(usize, Subscribe)> = Vec::new();
        for topic in &subscribe.topics {
            let index = self.index(*topic);
            match parts.iter_mut().find(|(known, _)| *known == index) {
                Some((_, part)) => part.topics.push(*topic),
                None => {
                    parts.push((index, Subscribe { topics: vec![*topic], ..subscribe.clone() }))
                }
            }
        }
        if parts.len() == 1 {
            let (index, part) = parts.remove(0);
            return self.backends[index].subscribe(part).await;
        }
        let mut sources: Vec<Box<dyn Source>> = Vec::with_capacity(parts.len());
        for (index, part) in parts {
            match self.backends[index].subscribe(part).await {
                Ok(source) => sources.push(source),
                Err(error) => {
                    merged::close_all(&mut sources).await.ok();
                    return Err(error);
                }
            }
        }
        Ok(Box::new(Merged::new(sources, subscribe.prefetch)))
    }

    async fn subscribe_exactly_once(
        &self,
        subscribe: Subscribe,
        transactions: Transactions,
    ) -> Result<Box<dyn Source>> {
        let index = subscribe.topics.first().map_or(0, |topic| self.index(*topic));
        if let Some(other) = subscribe.topics.iter().find(|topic| self.index(**topic) != index) {
            return Err(elsewhere("subscribe", *other));
        }
        self.backends[index].subscribe_exactly_once(subscribe, transactions).await
    }

    async fn check_output(
        &self,
        input: Name,
        topic: Name,
        partition: Option<u32>,
        message: &Message,
    ) -> Result<()> {
        if self.index(input) != self.index(topic) {
            return Err(elsewhere("publish", topic));
        }
        self.of(topic).check_output(input, topic, partition, message).await
    }

    async fn read(&self, read: Read) -> Result<Box<dyn Source>> {
        self.of(read.topic).read(read).await
    }

    async fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        self.of(spec.name).create_topic(spec).await
    }

    async fn describe_topic(&self, topic: Name) -> Result<TopicDescription> {
        self.of(topic).describe_topic(topic).await
    }

    async fn add_partitions(&self, topic: Name, total: u32) -> Result<()> {
        self.of(topic).add_partitions(topic, total).await
    }

    async fn delete_topic(&self, topic: Name) -> Result<()> {
        self.of(topic).delete_topic(topic).await
    }

    async fn declare_group(&self, topic: Name, group: &GroupSpec) -> Result<()> {
        self.of(topic).declare_group(topic, group).await
    }

    async fn lag(&self, topic: Name, group: Name) -> Result<u64> {
        self.of(topic).lag(topic, group).await
    }

    fn health(&self) -> Health {
        let mut health = Health::new(Connection::Up);
        for backend in &self.backends {
            let one = backend.health();
            if badness(&one.connection) > badness(&health.connection) {
                health.connection = one.connection;
            }
            health.consumers.extend(one.consumers);
            health.lost.extend(one.lost);
            let at =
                |health: &Option<(std::time::SystemTime, String)>| health.as_ref().map(|e| e.0);
            if at(&one.last_error) > at(&health.last_error) {
                let named = |(time, text)| (time, format!("{}: {text}", backend.system()));
                health.last_error = one.last_error.map(named);
            }
        }
        health
    }

    async fn close(&self) -> Result<()> {
        // All are closed, at the same time, whatever one of them says.
        let closing = self.backends.iter().map(|backend| backend.close());
        futures_util::future::join_all(closing).await.into_iter().collect()
    }
}

impl std::fmt::Debug for Routed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let systems: Vec<_> = self.backends.iter().map(|backend| backend.system()).collect();
        f.debug_struct("Routed").field("backends", &systems).field("routes", &self.routes).finish()
    }
}

/// The error for what one transaction would have to do on two brokers.
fn elsewhere(operation: &'static str, topic: Name) -> Error {
    let text = "transactions is not supported by routed: the topic is on another broker than the \
                messages that are settled, and no transaction spans both";
    Error::new(ErrorKind::Unsupported, operation, text).with("topic", topic)
}

fn badness(connection: &Connection) -> u8 {
    match connection {
        Connection::Up => 0,
        Connection::Blocked(_) => 1,
        Connection::Connecting => 2,
        Connection::Reconnecting { .. } => 3,
        Connection::Closed => 4,
        Connection::Refused(_) => 6,
        // A state that is new to this function is nothing good.
        _ => 5,
    }
}

//! What consumers do in time, by a clock that is paused: minutes pass in an instant, and exactly.

mod pauses;
mod stopping;

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::Consumer;
use crate::{Broker, Memory, Message, Name, Settings, Topic};

const WORK: Topic<Bytes> = Topic::raw("work");
const GROUP: &str = "group";
const SECOND: Duration = Duration::from_secs(1);

/// A broker with these messages, in one partition.
async fn broker_with(messages: &[&'static str]) -> Broker {
    let settings = Settings { drain_timeout: 10 * SECOND, ..Settings::default() };
    let broker = Broker::with_settings(std::sync::Arc::new(Memory::new()), settings);
    broker.create_topic(&WORK.spec().partitions(1)).await.unwrap();
    for message in messages {
        publish(&broker, message).await;
    }
    broker
}

/// Publishes a message; what is before a colon is its key.
async fn publish(broker: &Broker, text: &'static str) {
    let mut message = Message::new(text);
    if let Some((key, _)) = text.split_once(':') {
        message = message.with_key(key);
    }
    broker.publish_message(WORK.name(), message).await.unwrap();
}

/// A consumer that is stopped after so long.
fn consumer(broker: &Broker, time: Duration) -> Consumer<Bytes> {
    broker.consumer(WORK, GROUP).until(sleep(time))
}

async fn lag(broker: &Broker) -> u64 {
    broker.lag(WORK.name(), Name::new(GROUP)).await.unwrap()
}

/// When something happened, in milliseconds from the start, to the nearest ten: the timer counts in
/// whole ones, and what is due at a time of day has lost its fractions.
struct Log<E>(Instant, RefCell<Vec<(u128, E)>>);

impl<E> Log<E> {
    fn new() -> Self {
        Self(Instant::now(), RefCell::default())
    }

    fn add(&self, event: E) {
        let at = (self.0.elapsed().as_millis() + 5) / 10 * 10;
        self.1.borrow_mut().push((at, event));
    }

    fn take(&self) -> Vec<(u128, E)> {
        self.1.take()
    }
}

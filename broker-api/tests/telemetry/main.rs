//! What is told about messages, as real recorders hear it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod counts;
mod traces;

use std::time::Duration;

use broker_api::{Broker, Memory, Topic};
use tokio::time::sleep;

/// What the handlers of these tests do is in the value.
const WORK: Topic<String> = Topic::unchecked("work");
/// Where they publish to.
const OUT: Topic<String> = Topic::unchecked("out");
const GROUP: &str = "group";

async fn broker() -> Broker {
    let broker = Broker::new(Memory::new());
    for topic in [WORK, OUT] {
        broker.create_topic(&topic.spec().partitions(1)).await.unwrap();
    }
    broker
}

/// The end of a consumer, when all is done that can be: the clock is paused, so no time passes
/// before nobody has anything left to do.
async fn in_the_end() {
    sleep(Duration::from_secs(60)).await;
}

/// Runs a test with a clock that is paused.
fn paused<F: Future>(test: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(test)
}

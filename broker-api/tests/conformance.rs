//! The conformance suite on the in-memory broker.

use std::process::ExitCode;
use std::time::Duration;

use broker_api::{Backend, Confirm, Foreign, HeaderValue, Memory, Message, Outgoing};
use broker_testkit::conformance::{self, Dress, Fixture, ForeignMessage};
use tokio::sync::oneshot;
use tokio::time::Instant;

fn main() -> ExitCode {
    conformance::run("memory", || async {
        let memory = Memory::new();
        let publisher = memory.connect();
        Ok(Fixture::new(move || {
            let connection = memory.connect();
            async { Ok(connection) }
        })
        .foreign(move |message| publish(publisher.connect(), message)))
    })
}

/// Publishes past the checks and additions that [`broker_api::Broker`] makes.
async fn publish(
    memory: Memory,
    foreign: ForeignMessage,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut message = Message::new(foreign.payload);
    if let Dress::Headers(headers) = foreign.dress {
        headers.iter().for_each(|(name, value)| message.headers_mut().append(*name, *value));
    }
    if foreign.dress == Dress::Odd {
        let encoded = vec![1].into();
        let number = HeaderValue::Foreign(Box::new(Foreign { text: "42".into(), encoded }));
        message = message
            .with_id("not a UUID")
            .with_header("null", HeaderValue::Null)
            .with_header("empty", "")
            .with_header("binary", vec![0xff, 0x00])
            .with_header("number", number)
            .with_header("twice", "1")
            .with_header("twice", "2");
    }
    let (sender, answer) = oneshot::channel();
    memory.publish(Outgoing {
        topic: foreign.topic,
        partition: Some(foreign.partition),
        message,
        deadline: Instant::now() + Duration::from_secs(30),
        confirm: Confirm::from_fn(|result| drop(sender.send(result))),
    });
    answer.await??;
    Ok(())
}

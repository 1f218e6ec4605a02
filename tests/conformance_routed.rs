//! The conformance suite on two in-memory brokers behind one [`Routed`], which has the topics of
//! most cases on both.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anybroker::{
    Backend, Confirm, Foreign, HeaderValue, Memory, Message, Outgoing, Result, Routed,
};
use broker_testkit::conformance::{self, Dress, Fixture, ForeignMessage};
use tokio::sync::oneshot;
use tokio::time::Instant;

fn main() -> ExitCode {
    conformance::run("routed", || async {
        let (first, second) = (Memory::new(), Memory::new());
        let publisher = routed(&first, &second)?;
        Ok(Fixture::new(move || {
            let routed = routed(&first, &second);
            async { routed }
        })
        .foreign(move |message| {
            let answer = publish(&publisher, message);
            async move {
                answer.await??;
                Ok(())
            }
        }))
    })
}

/// The suite numbers the names of a case; every second number is routed to the second broker.
fn routed(first: &Memory, second: &Memory) -> Result<Routed> {
    let second: Arc<dyn Backend> = Arc::new(second.connect());
    let odd = (1..200).step_by(2).map(|n| format!("conformance-{n}-*"));
    let default = Routed::new(Arc::new(first.connect()));
    odd.into_iter().try_fold(default, |routed, pattern| routed.route(&pattern, &second))
}

/// Publishes past the checks and additions that [`anybroker::Broker`] makes.
fn publish(
    routed: &Routed,
    foreign: ForeignMessage,
) -> oneshot::Receiver<Result<anybroker::Receipt>> {
    let mut message = Message::new(foreign.payload);
    if let Dress::Headers(headers) = foreign.dress {
        headers.iter().for_each(|(name, value)| message.headers_mut().append(*name, *value));
    }
    if foreign.dress == Dress::Odd {
        let number = Foreign { text: "42".into(), encoded: vec![1].into() };
        message = message
            .with_id("not a UUID")
            .with_header("null", HeaderValue::Null)
            .with_header("binary", vec![0xff, 0x00])
            .with_header("number", HeaderValue::Foreign(Box::new(number)))
            .with_header("twice", "1")
            .with_header("twice", "2");
    }
    let (sender, answer) = oneshot::channel();
    routed.publish(Outgoing {
        topic: foreign.topic,
        partition: Some(foreign.partition),
        message,
        deadline: Instant::now() + Duration::from_secs(30),
        confirm: Confirm::from_fn(|result| drop(sender.send(result))),
    });
    answer
}

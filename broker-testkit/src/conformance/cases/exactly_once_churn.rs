//! Messages are settled together with what their handlers publish, whatever happens meanwhile.

use std::time::Duration;

use broker_api::Broker;

use super::super::bench::Bench;
use super::super::case::cases;
use super::super::fault::{Fault, Verdict, ensure, ensure_eq};
use super::super::handling::{Stop, stopper};
use super::super::inbox::texts;
use super::exactly_once::Place;

cases! { "exactly_once";
    members_that_come_go_and_vanish_publish_every_output_once [Transactions],
}

/// How many messages of each key are published for members that come and go.
const MANY: usize = 120;
const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

async fn members_that_come_go_and_vanish_publish_every_output_once(bench: &Bench) -> Verdict {
    let place = Place::new(bench, 6).await?;
    let broker = bench.broker().await?;
    let publishing = async {
        for n in 0..MANY {
            let next = KEYS.map(|key| format!("{key}-{n:04}"));
            place.fill(&broker, &next).await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, Fault>(())
    };
    let coming_and_going = async {
        let mut last = None;
        for round in 0..6 {
            let member = bench.connect().await?;
            let (stop, stopped) = stopper();
            let consumer = place.consumer(&member).concurrency(4).until(stopped);
            let handler = move |payload, context| place.pass_on(payload, context);
            let running = tokio::spawn(consumer.run(handler));
            tokio::time::sleep(Duration::from_millis(300)).await;
            if let Some((before, stop, running)) = last.replace((member, stop, running)) {
                leave(bench, before, stop, running, round % 2 == 0).await?;
            }
        }
        Ok::<_, Fault>(last)
    };
    let (published, last) = tokio::join!(publishing, coming_and_going);
    published?;
    place.see(bench, MANY * KEYS.len()).await?;
    if let Some((member, stop, running)) = last? {
        leave(bench, member, stop, running, true).await?;
    }
    let outputs = place.outputs(bench).await?;
    for key in KEYS {
        let of_key: Vec<_> = outputs.iter().filter(|o| o.starts_with(key)).cloned().collect();
        ensure_eq!(of_key, texts(key, MANY), "the outputs of one key");
    }
    let left = place.left(bench, 6).await?;
    ensure!(left.is_empty(), "not settled although it was published: {left:?}");
    Ok(())
}

pub(super) async fn outputs_of_transactions_are_seen_once_through_an_outage(
    bench: &Bench,
) -> Verdict {
    bench.require_outage()?;
    let place = Place::new(bench, 3).await?;
    let broker = bench.broker().await?;
    let inputs = ["a", "b", "c", "d"].map(|key| texts(key, 200)).concat();
    place.fill(&broker, &inputs).await?;
    let member = bench.connect().await?;
    let (stop, stopped) = stopper();
    let handler = move |payload, context| async move {
        // So that the outage finds it at work.
        tokio::time::sleep(Duration::from_millis(5)).await;
        place.pass_on(payload, context).await
    };
    let consumer = place.consumer(&member).concurrency(4).until(stopped);
    let running = tokio::spawn(consumer.run(handler));
    place.see(bench, 50).await?;
    bench.stop_broker().await?;
    bench.start_broker().await?;
    place.see(bench, inputs.len()).await?;
    leave(bench, member, stop, running, true).await?;
    let outputs = place.outputs(bench).await?;
    for key in ["a", "b", "c", "d"] {
        let of_key: Vec<_> = outputs.iter().filter(|o| o.starts_with(key)).cloned().collect();
        ensure_eq!(of_key, texts(key, 200), "the outputs of one key");
    }
    let left = place.left(bench, 3).await?;
    ensure!(left.is_empty(), "not settled although it was published: {left:?}");
    Ok(())
}

/// A member leaves in order, or its task is gone.
async fn leave(
    bench: &Bench,
    member: Broker,
    stop: Stop,
    running: tokio::task::JoinHandle<broker_api::Result<()>>,
    in_order: bool,
) -> Verdict {
    if in_order {
        stop.now();
        bench.within("the end of a member", running).await???;
        return Ok(member.close().await?);
    }
    running.abort();
    // Cancelled, which is what was wanted.
    let _ = running.await;
    Ok(())
}

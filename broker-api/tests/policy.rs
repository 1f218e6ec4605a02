//! Whatever handlers say, every message ends as the policy says, and keys stay in order.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use broker_api::dead_letter::{Filter, dead_letter_topic};
use broker_api::{Broker, Bytes, Context, Failure, Memory, Message, Name, Permanent, Retry, Topic};
use proptest::prelude::*;

const WORK: Topic<Bytes> = Topic::raw("work");
const GROUP: &str = "group";

/// What the handler says to one message, attempt by attempt.
#[derive(Debug, Clone, Copy)]
enum Plan {
    /// This many failures, then success.
    Fails(u32),
    /// This many failures, then one for good.
    Permanent(u32),
    /// This many panics, then success.
    Panics(u32),
}

#[derive(Debug, Clone)]
struct Story {
    messages: Vec<(Option<u8>, Plan)>,
    attempts: u32,
    delays: usize,
    concurrency: usize,
}

fn story() -> impl Strategy<Value = Story> {
    let plan = (0u32..8, 0u8..6).prop_map(|(times, kind)| match kind {
        0 => Plan::Permanent(times),
        1 => Plan::Panics(times),
        2 | 3 => Plan::Fails(times),
        _ => Plan::Fails(0),
    });
    let messages = proptest::collection::vec((proptest::option::of(0u8..3), plan), 1..25);
    (messages, 1u32..4, 0usize..3, 1usize..5).prop_map(
        |(messages, attempts, delays, concurrency)| Story {
            messages,
            attempts,
            delays,
            concurrency,
        },
    )
}

/// How a message has to end: acknowledged or in the dead letters, at which attempt.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum End {
    Acked(u32),
    Dead(u32),
}

fn wanted(story: &Story, plan: Plan) -> End {
    let most = story.attempts * (story.delays as u32 + 1);
    match plan {
        Plan::Fails(times) | Plan::Panics(times) if times < most => End::Acked(times + 1),
        Plan::Permanent(times) if times < most => End::Dead(times + 1),
        _ => End::Dead(most),
    }
}

fn answer(plan: Plan, attempt: u32) -> Result<(), Failure> {
    match plan {
        Plan::Fails(times) if attempt <= times => Err("not now".into()),
        Plan::Panics(times) if attempt <= times => panic!("a panic that the case wants"),
        Plan::Permanent(times) if attempt <= times => Err("not yet for good".into()),
        Plan::Permanent(_) => Err("for good").permanent(),
        _ => Ok(()),
    }
}

/// The calls of the handler for one key: which message, and which attempt.
type Calls = Vec<(usize, u32)>;

/// Runs the story, and gives how each message ended and the calls for each key.
async fn run(story: &Story) -> (Vec<Option<End>>, HashMap<u8, Calls>) {
    let broker = Broker::new(Memory::new());
    broker.create_topic(&WORK.spec().partitions(2)).await.unwrap();
    for (n, (key, _)) in story.messages.iter().enumerate() {
        let message = Message::new(n.to_string());
        let message = match key {
            Some(key) => message.with_key(vec![*key]),
            None => message,
        };
        broker.publish_message(WORK.name(), message).await.unwrap();
    }
    let ends = RefCell::new(vec![None; story.messages.len()]);
    let calls: RefCell<HashMap<u8, Calls>> = RefCell::default();
    let handler = async |payload: Bytes, context: Context| {
        let n: usize = std::str::from_utf8(&payload).unwrap().parse().unwrap();
        let (key, plan) = story.messages[n];
        if let Some(key) = key {
            calls.borrow_mut().entry(key).or_default().push((n, context.attempt()));
        }
        // Lets other handlers in between.
        tokio::task::yield_now().await;
        answer(plan, context.attempt())?;
        assert_eq!(ends.borrow()[n], None, "{n} was handled again after it had succeeded");
        ends.borrow_mut()[n] = Some(End::Acked(context.attempt()));
        Ok(())
    };
    let delays = (1..=story.delays as u64).map(|n| Duration::from_secs(10 * n));
    let retry = Retry::exponential().attempts(story.attempts).delays(delays);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let consumer = broker
        .consumer(WORK, GROUP)
        .retry(retry)
        .concurrency(story.concurrency)
        .until(async { drop(stopped.await) });
    let letters = dead_letter_topic(WORK.name(), Name::new(GROUP)).unwrap();
    let settled = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let dead = broker.dead_letters(letters).list(&Filter::default()).await.unwrap();
            let acked = ends.borrow().iter().flatten().count();
            if dead.len() + acked >= story.messages.len() {
                drop(stop);
                return dead;
            }
        }
    };
    let (ran, dead) = tokio::join!(consumer.run(handler), settled);
    ran.unwrap();
    let mut ends = ends.into_inner();
    for letter in dead {
        let n: usize = std::str::from_utf8(letter.message.payload()).unwrap().parse().unwrap();
        assert_eq!(ends[n], None, "{n} was acknowledged, or is in the dead letters twice");
        ends[n] = Some(End::Dead(letter.attempts));
    }
    // What is left to the group now was neither acknowledged nor moved on.
    let mut rest = broker.consumer(WORK, GROUP).subscribe().await.unwrap();
    broker.publish_message(WORK.name(), Message::new("last")).partition(0).await.unwrap();
    broker.publish_message(WORK.name(), Message::new("last")).partition(1).await.unwrap();
    for _ in 0..2 {
        let delivery = rest.next().await.unwrap().unwrap();
        assert_eq!(delivery.message().payload(), "last", "it came again");
        delivery.ack();
    }
    (ends, calls.into_inner())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_message_ends_as_the_policy_says_and_keys_stay_in_order(story in story()) {
        // The panics of the handlers are part of the story; their reports would hide the others.
        std::panic::set_hook(Box::new(|info| {
            if !info.to_string().contains("a panic that the case wants") {
                eprintln!("{info}");
            }
        }));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let (ends, calls) = runtime.block_on(run(&story));
        for (n, (_, plan)) in story.messages.iter().enumerate() {
            prop_assert_eq!(ends[n], Some(wanted(&story, *plan)), "message {} of {:?}", n, story);
        }
        for (key, calls) in calls {
            let first = calls.iter().filter(|(_, attempt)| *attempt == 1);
            prop_assert!(first.is_sorted(), "key {} was begun in the order {:?}", key, calls);
            for pair in calls.windows(2) {
                let [(n, attempt), next] = [pair[0], pair[1]];
                // Until a message has succeeded or has moved on, no other of its key is handled.
                let ended = matches!(ends[n], Some(End::Acked(at) | End::Dead(at)) if at == attempt);
                if !ended && attempt % story.attempts != 0 {
                    prop_assert_eq!(next, (n, attempt + 1), "key {}: {:?}", key, calls);
                }
            }
        }
    }
}

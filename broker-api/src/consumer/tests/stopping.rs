//! At the end.

use std::future::pending;

use super::*;
use crate::{Context, Retry};

#[tokio::test(start_paused = true)]
async fn what_is_being_handled_when_it_is_stopped_is_finished_and_nothing_else_begun() {
    let broker = broker_with(&["1", "2"]).await;
    let log = Log::new();
    let handler = |text: Bytes, _| {
        let log = &log;
        async move {
            sleep(5 * SECOND).await;
            log.add(text);
            Ok(())
        }
    };
    let began = Instant::now();
    consumer(&broker, SECOND).run(handler).await.unwrap();
    assert_eq!(began.elapsed(), 5 * SECOND);
    assert_eq!(log.take(), [(5_000, Bytes::from("1"))]);
    assert_eq!(lag(&broker).await, 1);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_end_within_the_drain_time_is_cancelled_and_handed_back() {
    let broker = broker_with(&["1", "2"]).await;
    let began = Instant::now();
    let handler = |_, _| async {
        pending::<()>().await;
        Ok(())
    };
    consumer(&broker, SECOND).concurrency(2).run(handler).await.unwrap();
    assert_eq!((began.elapsed(), lag(&broker).await), (11 * SECOND, 2));

    let began = Instant::now();
    let handler = |_: Vec<(Bytes, Context)>| pending();
    consumer(&broker, SECOND).batches(2, SECOND).run(handler).await.unwrap();
    assert_eq!((began.elapsed(), lag(&broker).await), (11 * SECOND, 2));
}

#[tokio::test(start_paused = true)]
async fn closing_the_broker_waits_as_long_and_no_longer() {
    let broker = broker_with(&["1"]).await;
    let running = consumer(&broker, 3_600 * SECOND).run(|_, _| async {
        sleep(5 * SECOND).await;
        Ok(())
    });
    let closing = async {
        sleep(SECOND).await;
        broker.close().await.unwrap();
        Instant::now()
    };
    let began = Instant::now();
    let (ran, closed) = tokio::join!(running, closing);
    ran.unwrap();
    assert_eq!(closed - began, 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_for_its_next_attempt_is_handed_back_at_once() {
    let broker = broker_with(&["1"]).await;
    let retry = Retry::exponential().initial(3_600 * SECOND).max(3_600 * SECOND);
    let began = Instant::now();
    let consumer = consumer(&broker, SECOND).retry(retry);
    consumer.run(|_, _| async { Err("not now".into()) }).await.unwrap();
    assert_eq!((began.elapsed(), lag(&broker).await), (SECOND, 1));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_gives_way_when_another_member_takes_its_partition() {
    let broker = broker_with(&[]).await;
    broker.add_partitions(WORK.name(), 2).await.unwrap();
    for partition in 0..2 {
        let message = Message::new(partition.to_string());
        broker.publish_message(WORK.name(), message).partition(partition).await.unwrap();
    }
    let retry = Retry::exponential().initial(3_600 * SECOND).max(3_600 * SECOND);
    let log = Log::new();
    let handler = |_, context: Context| {
        log.add(context.attempt());
        async { Err("not now".into()) }
    };
    let first = consumer(&broker, 60 * SECOND).retry(retry.clone()).concurrency(2).run(handler);
    let second = async {
        sleep(10 * SECOND).await;
        consumer(&broker, 20 * SECOND).retry(retry).run(handler).await
    };
    let (one, other) = tokio::join!(first, second);
    one.and(other).unwrap();
    let log = log.take();
    assert_eq!(log[..2], [(0, 1), (0, 1)]);
    // It looks five times a second; what it had begun counts for nobody else.
    let (at, attempt) = log[2];
    assert!((10_000..=10_200).contains(&at), "{log:?}");
    assert_eq!(attempt, 1);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_does_not_keep_it_from_stopping() {
    let broker = broker_with(&["1", "2"]).await;
    let breaker = crate::Breaker { ratio: 1.0, calls: 1, window: SECOND, pause: 3_600 * SECOND };
    let began = Instant::now();
    let consumer = consumer(&broker, SECOND).breaker(breaker).retry(Retry::forever());
    consumer.run(|_, _| async { Err("down".into()) }).await.unwrap();
    assert_eq!((began.elapsed(), lag(&broker).await), (SECOND, 2));
}

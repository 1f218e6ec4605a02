//! Between attempts.

use std::time::Duration;

use super::*;
use crate::health::ConsumerHealth;
use crate::{Breaker, Context, Failure, Retry};

const MS: Duration = Duration::from_millis(1);

fn plain() -> Retry {
    Retry::exponential().jitter(false)
}

fn failing(log: &Log<u32>) -> impl Fn(Bytes, Context) -> std::future::Ready<Result<(), Failure>> {
    |_, context| {
        log.add(context.attempt());
        std::future::ready(Err("not now".into()))
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_in_place_have_the_pauses_of_the_policy() {
    let broker = broker_with(&["x"]).await;
    let log = Log::new();
    let retry = plain().attempts(5).max(400 * MS);
    consumer(&broker, 60 * SECOND).retry(retry).run(failing(&log)).await.unwrap();
    assert_eq!(log.take(), [(0, 1), (100, 2), (300, 3), (700, 4), (1100, 5)]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_asks_for_a_pause_gets_that_one() {
    let broker = broker_with(&["x"]).await;
    let log = Log::new();
    let handler = |_, context: Context| {
        log.add(context.attempt());
        async { Err(Failure::from("not yet").retry_after(7 * SECOND)) }
    };
    consumer(&broker, 60 * SECOND).retry(plain().attempts(3)).run(handler).await.unwrap();
    assert_eq!(log.take(), [(0, 1), (7_000, 2), (14_000, 3)]);
}

#[tokio::test(start_paused = true)]
async fn after_each_delay_there_are_as_many_attempts_again() {
    let broker = broker_with(&["x"]).await;
    let log = Log::new();
    let retry = plain().attempts(2).delays([10 * SECOND, 60 * SECOND]);
    consumer(&broker, 300 * SECOND).retry(retry).run(failing(&log)).await.unwrap();
    let wanted = [(0, 1), (100, 2), (10_100, 3), (10_200, 4), (70_200, 5), (70_300, 6)];
    assert_eq!(log.take(), wanted);
}

#[tokio::test(start_paused = true)]
async fn while_one_key_pauses_the_others_go_on() {
    let broker = broker_with(&["a:1", "a:2", "b:3"]).await;
    let log = Log::new();
    let handler = |text: Bytes, context: Context| {
        log.add(text.clone());
        async move {
            match (text.as_ref(), context.attempt()) {
                (b"a:1", 1) => Err("not now".into()),
                _ => Ok(()),
            }
        }
    };
    let consumer = consumer(&broker, 60 * SECOND).retry(plain()).concurrency(2);
    consumer.run(handler).await.unwrap();
    let wanted = [(0, "a:1"), (0, "b:3"), (100, "a:1"), (100, "a:2")];
    assert_eq!(log.take(), wanted.map(|(at, text)| (at, Bytes::from(text))));
}

#[tokio::test(start_paused = true)]
async fn a_delay_in_order_holds_back_its_key_alone_though_one_message_is_handled_at_a_time() {
    let broker = broker_with(&["a:1", "a:2", "b:3", "c:4"]).await;
    let log = Log::new();
    let handler = |text: Bytes, context: Context| {
        log.add((text.clone(), context.attempt()));
        let fails = [b"a:1", b"c:4"].contains(&text.as_ref().try_into().unwrap_or(b"   "));
        async move { if fails { Err("not now".into()) } else { Ok(()) } }
    };
    let retry = Retry::none().delays([10 * SECOND, 60 * SECOND]).in_order();
    consumer(&broker, 300 * SECOND).retry(retry).run(handler).await.unwrap();
    let at = |seconds: u128, text: &'static str, attempt| {
        (1_000 * seconds, (Bytes::from(text), attempt))
    };
    let wanted = [
        at(0, "a:1", 1),
        at(0, "b:3", 1),
        at(0, "c:4", 1),
        at(10, "a:1", 2),
        at(10, "c:4", 2),
        at(70, "a:1", 3),
        at(70, "c:4", 3),
        at(70, "a:2", 1),
    ];
    let mut log = log.take();
    // Those of one time come in any order.
    log.sort();
    let mut wanted = wanted.to_vec();
    wanted.sort();
    assert_eq!(log, wanted);
    assert_eq!(lag(&broker).await, 0);
    let letters = crate::dead_letter::dead_letter_topic(WORK.name(), Name::new(GROUP)).unwrap();
    let letters = broker.dead_letters(letters).list(&Default::default()).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.attempts).collect::<Vec<_>>(), [3, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_delay_in_order_does_not_hold_up_the_end() {
    let broker = broker_with(&["a:1", "a:2"]).await;
    let log = Log::new();
    let retry = Retry::none().delays([3_600 * SECOND]).in_order();
    consumer(&broker, 60 * SECOND).retry(retry).run(failing(&log)).await.unwrap();
    assert_eq!((log.take(), log.0.elapsed()), (vec![(0, 1)], 60 * SECOND));
    assert_eq!(lag(&broker).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_in_order_is_not_stuck_and_one_whose_handler_hangs_is() {
    for (hangs, stuck) in [(false, 0), (true, 1)] {
        let broker = broker_with(&["a:1"]).await;
        let handler = |_, _| async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Err("not now".into())
        };
        let retry = Retry::none().delays([3_600 * SECOND]).in_order();
        let running = consumer(&broker, 3_000 * SECOND).retry(retry).run(handler);
        let looking = async {
            sleep(2_000 * SECOND).await;
            broker.health().lost.len()
        };
        assert_eq!(tokio::join!(running, looking).1, stuck, "hangs: {hangs}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_longer_than_its_limit_is_cancelled_and_has_failed() {
    struct Cancelled<'a>(&'a Log<&'static str>);
    impl Drop for Cancelled<'_> {
        fn drop(&mut self) {
            self.0.add("cancelled");
        }
    }
    let broker = broker_with(&["x"]).await;
    let log = Log::new();
    let handler = |_, context: Context| {
        log.add("called");
        let log = &log;
        async move {
            if context.attempt() == 1 {
                let _cancelled = Cancelled(log);
                sleep(SECOND + 10 * MS).await;
            } else {
                sleep(SECOND - 10 * MS).await;
            }
            log.add("done");
            Ok(())
        }
    };
    let consumer = consumer(&broker, 60 * SECOND).retry(plain()).handler_timeout(SECOND);
    consumer.run(handler).await.unwrap();
    let wanted = [(0, "called"), (1_000, "cancelled"), (1_100, "called"), (2_090, "done")];
    assert_eq!(log.take(), wanted);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_lets_one_message_try_after_each_pause() {
    let broker = broker_with(&["1", "2", "3", "4"]).await;
    let log = Log::new();
    let problem = || {
        let problems =
            broker.health().consumers.into_iter().filter_map(|c: ConsumerHealth| c.problem);
        problems.count()
    };
    // Both calls that count fail, then the first probe, and nothing after that.
    let handler = |text: Bytes, _| {
        log.add((text, problem()));
        let failed = log.1.borrow().len() <= 3;
        async move { if failed { Err("down".into()) } else { Ok(()) } }
    };
    let breaker = Breaker { ratio: 1.0, calls: 2, window: 60 * SECOND, pause: 10 * SECOND };
    let consumer = consumer(&broker, 60 * SECOND).retry(plain()).concurrency(2).breaker(breaker);
    consumer.run(handler).await.unwrap();
    let log = log.take();
    let times: Vec<_> = log.iter().map(|(at, (_, problems))| (*at, *problems)).collect();
    // It has not opened before the second call has ended.
    assert_eq!(times[..4], [(0, 0), (0, 0), (10_000, 1), (20_000, 1)]);
    // The probe that works lets all others go on, at once.
    assert!(times[4..].iter().all(|(at, _)| (20_000..21_000).contains(at)), "{times:?}");
    let mut handled: Vec<_> = log[3..].iter().map(|(_, (text, _))| text.clone()).collect();
    handled.sort();
    assert_eq!(handled, ["1", "2", "3", "4"].map(Bytes::from));
    assert_eq!((problem(), lag(&broker).await), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_handed_over_when_it_is_full_or_its_time_is_over() {
    let broker = broker_with(&["1", "2", "3"]).await;
    let log = Log::new();
    let handler = |batch: Vec<(Bytes, Context)>| {
        log.add(batch.len());
        async move { batch.iter().map(|_| Ok(())).collect() }
    };
    let late = async {
        sleep(20 * SECOND).await;
        publish(&broker, "4").await;
        sleep(SECOND).await;
        publish(&broker, "5").await;
    };
    let running = consumer(&broker, 60 * SECOND).batches(2, 5 * SECOND).run(handler);
    let (ran, ()) = tokio::join!(running, late);
    ran.unwrap();
    assert_eq!(log.take(), [(0, 2), (5_000, 1), (21_000, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_failed_in_a_batch_comes_again_after_its_pause_and_the_others_do_not_wait() {
    let broker = broker_with(&["a:1", "b:2", "a:3", "b:4"]).await;
    let log = Log::new();
    let handler = |batch: Vec<(Bytes, Context)>| {
        log.add(batch.iter().map(|(text, _)| text.clone()).collect::<Vec<_>>());
        let first = |(text, context): &(Bytes, Context)| match context.attempt() {
            1 if text.as_ref() == b"a:1" => Err("not now".into()),
            _ => Ok(()),
        };
        let outcomes = batch.iter().map(first).collect();
        async { outcomes }
    };
    let consumer = consumer(&broker, 60 * SECOND).retry(plain());
    consumer.batches(2, 10 * MS).run(handler).await.unwrap();
    let wanted: [(u128, &[&str]); 3] =
        [(0, &["a:1", "b:2"]), (10, &["b:4"]), (100, &["a:1", "a:3"])];
    let wanted = wanted.map(|(at, texts)| (at, texts.iter().map(|t| Bytes::from(*t)).collect()));
    assert_eq!(log.take(), wanted);
}

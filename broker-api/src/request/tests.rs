//! Requests by a clock that is paused.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::{REPLY_ERROR, REPLY_TO, REPLY_TO_PARTITION};
use crate::{
    Broker, Context, ErrorKind, GroupSpec, Memory, Message, Name, Result, Retry, Subscribe, Topic,
};

const QUESTIONS: Topic<u32> = Topic::unchecked("questions");
const ANSWERS: Topic<u32> = Topic::unchecked("answers");
const SECOND: Duration = Duration::from_secs(1);

async fn broker() -> Broker {
    let broker = Broker::new(Memory::new());
    broker.create_topic(&QUESTIONS.spec().partitions(1)).await.unwrap();
    broker
}

/// Answers each number with its double, as late by milliseconds as the number says.
fn doubling(broker: &Broker) -> JoinHandle<Result<()>> {
    let consumer = broker.consumer(QUESTIONS, "doubling").concurrency(20_000).retry(Retry::none());
    tokio::spawn(consumer.run(|number, context: Context| async move {
        sleep(Duration::from_millis(number.into())).await;
        match number {
            13 => context.reply_error(ANSWERS, "an unlucky number").await?,
            _ => context.reply(ANSWERS, &(2 * number)).await?,
        }
        Ok(())
    }))
}

/// The next question as it was published, and a way to answer it by hand.
async fn question(broker: &Broker) -> Message {
    let subscribe = Subscribe::new(QUESTIONS.name(), GroupSpec::new(Name::new("by-hand")));
    let mut questions = broker.subscribe(subscribe).await.unwrap();
    let delivery = questions.next().await.unwrap().unwrap();
    let message = delivery.message().clone();
    delivery.ack();
    message
}

async fn answer(broker: &Broker, question: &Message, answer: Message) {
    let partition = question.headers().get_str(REPLY_TO_PARTITION).unwrap().parse().unwrap();
    let answer = answer.with_correlation_id(question.correlation_id().unwrap());
    let topic = Name::intern(question.headers().get_str(REPLY_TO).unwrap()).unwrap();
    broker.publish_message(topic, answer).partition(partition).await.unwrap();
}

fn waiting(broker: &Broker) -> usize {
    10_000 - broker.inner.requests.room.available_permits()
}

#[tokio::test(start_paused = true)]
async fn each_of_many_questions_gets_its_own_answer() {
    let broker = broker().await;
    let _answering = doubling(&broker);
    // The later ones are answered first.
    let numbers = (100..200).rev();
    let asked = numbers.clone().map(|number| broker.request(QUESTIONS, &number, ANSWERS));
    let answers = join_all(asked.map(IntoFuture::into_future)).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers, numbers.map(|number| 2 * number).collect::<Vec<_>>());
    assert_eq!(waiting(&broker), 0);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_an_answer_too() {
    let broker = broker().await;
    let _answering = doubling(&broker);
    let error = broker.request(QUESTIONS, &13, ANSWERS).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Handler, "an unlucky number"));
    assert!(error.is_permanent());
    assert_eq!(error.context("topic"), Some("questions"));
}

#[tokio::test(start_paused = true)]
async fn a_question_waits_as_long_as_it_may_and_what_comes_later_is_dropped() {
    let broker = broker().await;
    let _answering = doubling(&broker);
    let began = Instant::now();
    let error = broker.request(QUESTIONS, &1_500, ANSWERS).timeout(SECOND).await.unwrap_err();
    assert_eq!((error.kind(), error.is_indeterminate()), (ErrorKind::Timeout, true), "{error:?}");
    assert_eq!(began.elapsed().as_secs_f64().round(), 1.0);
    sleep(SECOND).await;
    let for_ever = broker.request(QUESTIONS, &1, ANSWERS).timeout(Duration::MAX);
    assert_eq!(for_ever.await.unwrap(), 2);
    assert_eq!(waiting(&broker), 0);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_given_up_is_forgotten() {
    let broker = broker().await;
    broker.declare_group(QUESTIONS.name(), &GroupSpec::new(Name::new("g"))).await.unwrap();
    let asking = tokio::spawn(broker.request(QUESTIONS, &1, ANSWERS).into_future());
    sleep(SECOND).await;
    assert_eq!((waiting(&broker), broker.inner.requests.kept(ANSWERS.name())), (1, 1));
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    assert_eq!(waiting(&broker), 0);
    assert_eq!(broker.inner.requests.kept(ANSWERS.name()), 0);
}

#[tokio::test(start_paused = true)]
async fn more_questions_than_may_wait_have_to_wait_for_room() {
    let broker = broker().await;
    let room = broker.inner.requests.room.clone().acquire_many_owned(10_000).await.unwrap();
    let error = broker.request(QUESTIONS, &1, ANSWERS).timeout(SECOND).await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Timeout, true), "{error:?}");
    // Nothing was asked, not even the topic of the answers was created.
    let error = broker.describe_topic(ANSWERS.name()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownTopic);
    let _answering = doubling(&broker);
    let asking = tokio::spawn(broker.request(QUESTIONS, &1, ANSWERS).into_future());
    sleep(SECOND).await;
    drop(room);
    assert_eq!(asking.await.unwrap().unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_asked_is_an_error_at_once() {
    let broker = broker().await;
    let missing = Topic::<u32>::unchecked("missing");
    let error = broker.request(missing, &1, ANSWERS).await.unwrap_err();
    assert_eq!((error.kind(), error.context("topic")), (ErrorKind::UnknownTopic, Some("missing")));
    let error = broker.request(QUESTIONS, &1, ANSWERS).header("x-broker-own", "1").await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidName);
    assert_eq!(waiting(&broker), 0);
    broker.close().await.unwrap();
    let error = broker.request(QUESTIONS, &1, ANSWERS).await.unwrap_err();
    assert_eq!((error.kind(), error.is_permanent()), (ErrorKind::Closed, true));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_what_it_should_be_is_an_error() {
    let broker = broker().await;
    let asking = tokio::spawn(broker.request(QUESTIONS, &1, ANSWERS).into_future());
    let question = question(&broker).await;
    answer(&broker, &question, Message::new("no number")).await;
    let error = asking.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Codec, "request"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn only_the_answer_to_the_question_counts() {
    let broker = broker().await;
    let asking = tokio::spawn(broker.request(QUESTIONS, &1, ANSWERS).into_future());
    let question = question(&broker).await;
    for stranger in [Message::new("7"), Message::new("8").with_correlation_id("another")] {
        for partition in 0..6 {
            let publish = broker.publish_message(ANSWERS.name(), stranger.clone());
            publish.partition(partition).await.unwrap();
        }
    }
    answer(&broker, &question, Message::new("2")).await;
    answer(&broker, &question, Message::new("3")).await;
    assert_eq!(asking.await.unwrap().unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_answers_that_are_not_read_any_more() {
    let broker = broker().await;
    let group = GroupSpec::new(Name::new("g"));
    broker.declare_group(QUESTIONS.name(), &group).await.unwrap();
    let asking = tokio::spawn(broker.request(QUESTIONS, &1, ANSWERS).into_future());
    sleep(SECOND).await;
    broker.delete_topic(ANSWERS.name()).await.unwrap();
    let error = asking.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.is_indeterminate()), (ErrorKind::UnknownTopic, true));
    // The next one begins anew.
    let _answering = doubling(&broker);
    assert_eq!(broker.request(QUESTIONS, &2, ANSWERS).await.unwrap(), 4);

    let asking = tokio::spawn(broker.request(QUESTIONS, &10_000, ANSWERS).into_future());
    sleep(SECOND).await;
    broker.inner.backend.close().await.unwrap();
    let error = asking.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.is_indeterminate()), (ErrorKind::Closed, true), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_goes_to_no_topic_but_the_one_agreed_on() {
    let broker = broker().await;
    let outcome = |question: Message| {
        let broker = broker.clone();
        async move {
            broker.publish_message(QUESTIONS.name(), question).await.unwrap();
            let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
            let consumer = broker.consumer(QUESTIONS, "g").retry(Retry::none());
            let handler = |_, context: Context| {
                let sender = sender.clone();
                async move {
                    sender.send(context.reply(ANSWERS, &1).await).unwrap();
                    Ok(())
                }
            };
            let mut receiver = receiver;
            tokio::select! {
                _ = consumer.run(handler) => unreachable!("it runs for ever"),
                outcome = receiver.recv() => outcome.unwrap(),
            }
        }
    };
    let error = outcome(Message::new("1").with_header(REPLY_TO, "salaries")).await.unwrap_err();
    assert_eq!((error.kind(), error.context("topic")), (ErrorKind::Invalid, Some("answers")));
    // Nobody asked for this one, so there is nothing to answer.
    outcome(Message::new("1")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_error_keeps_its_words_whatever_they_are() {
    let broker = broker().await;
    let asking = tokio::spawn(broker.request(QUESTIONS, &1, ANSWERS).into_future());
    let question = question(&broker).await;
    let payload = Bytes::from(vec![b'a', 0xff, b'b']);
    answer(&broker, &question, Message::new(payload).with_header(REPLY_ERROR, "true")).await;
    assert_eq!(asking.await.unwrap().unwrap_err().message(), "a\u{fffd}b");
}

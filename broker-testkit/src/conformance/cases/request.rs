//! Questions that are answered.

use std::time::Duration;

use broker_api::{Broker, Consumer, Context, Failure, Message, Name, Retry, Topic};
use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::super::bench::Bench;
use super::super::case::cases;
use super::super::fault::{Fault, Verdict, ensure, ensure_eq, ensure_kind};
use super::super::fixture::Dress;
use super::super::handling::{Seen, stopper};

cases! { "request";
    each_question_gets_its_own_answer,
    an_answer_comes_to_the_process_that_asked,
    a_question_waits_for_whoever_answers_it,
    an_error_is_an_answer_too,
    a_question_that_nobody_answers_in_time_has_failed_and_a_late_answer_is_dropped,
    an_answer_to_a_message_that_wants_none_is_not_published,
    a_client_that_knows_the_headers_can_ask_and_answer,
    a_question_that_a_stranger_forged_ends_as_a_dead_letter_and_the_next_is_answered,
}

/// How long an answer may take across an outage: longer than any broker takes to start.
const LIMIT: Duration = Duration::from_secs(100);

const QUESTIONS: Topic<u32> = Topic::unchecked("questions");
const ANSWERS: Topic<u32> = Topic::unchecked("answers");

/// A topic of questions with a group that answers them, and one of answers.
struct Talk<'a> {
    bench: &'a Bench,
    questions: Topic<u32>,
    answers: Topic<u32>,
    group: Name,
}

impl<'a> Talk<'a> {
    async fn new(bench: &'a Bench) -> Result<Self, Fault> {
        bench.require_replay().await?;
        let questions = QUESTIONS.named(bench.topic("questions", 2).await?);
        let group = bench.declared(questions.name(), "group").await?;
        for made in ["retry", "dlt"] {
            bench.made_by_consumer(questions.name(), group, made)?;
        }
        // Created by the first question.
        let answers = ANSWERS.named(bench.name("answers")?);
        Ok(Self { bench, questions, answers, group })
    }

    fn consumer(&self, broker: &Broker) -> Consumer<u32> {
        broker.consumer(self.questions, self.group.as_str()).retry(Retry::none()).concurrency(8)
    }

    /// Doubles what it is asked, until `done` ends.
    async fn doubling(&self, broker: &Broker, done: impl Future<Output = Verdict>) -> Verdict {
        let double = async |n: u32, context: Context| self.double(n, &context).await;
        self.bench.consume(self.consumer(broker), double, done).await
    }

    async fn double(&self, n: u32, context: &Context) -> Result<(), Failure> {
        match n {
            13 => context.reply_error(self.answers, "an unlucky number").await?,
            _ => context.reply(self.answers, &(2 * n)).await?,
        }
        Ok(())
    }

    /// Asks, and has to get the answer.
    async fn ask(&self, broker: &Broker, number: u32) -> Verdict {
        let answer = broker.request(self.questions, &number, self.answers);
        ensure_eq!(answer.timeout(self.bench.patience()).await?, 2 * number, "the answer");
        Ok(())
    }
}

async fn each_question_gets_its_own_answer(bench: &Bench) -> Verdict {
    let talk = Talk::new(bench).await?;
    let broker = bench.broker().await?;
    let asked = async {
        let asked = join_all((100..150).map(|number| talk.ask(&broker, number))).await;
        asked.into_iter().collect()
    };
    talk.doubling(&broker, asked).await
}

async fn an_answer_comes_to_the_process_that_asked(bench: &Bench) -> Verdict {
    let talk = Talk::new(bench).await?;
    let answering = bench.broker().await?;
    let mut asking = Vec::new();
    for _ in 0..4 {
        asking.push(bench.connect().await?);
    }
    let asked = async {
        for round in 0..3 {
            let each = asking.iter().enumerate();
            let asked = join_all(each.map(|(n, broker)| talk.ask(broker, 100 * round + n as u32)));
            asked.await.into_iter().collect::<Verdict>()?;
        }
        Ok(())
    };
    talk.doubling(&answering, asked).await
}

async fn a_question_waits_for_whoever_answers_it(bench: &Bench) -> Verdict {
    let talk = Talk::new(bench).await?;
    let broker = bench.broker().await?;
    // Another group sees the question, so it is published before anybody answers.
    let watchers = bench.declared(talk.questions.name(), "watchers").await?;
    let mut watching = bench.join(talk.questions.name(), watchers).await?;
    let published = Semaphore::new(0);
    let asked = async {
        let asked = talk.ask(&broker, 21).await;
        published.add_permits(1);
        asked
    };
    let answered = async {
        ensure_eq!(watching.handle(1).await?, ["21"], "the question");
        let done = async {
            drop(published.acquire().await?);
            Ok(())
        };
        talk.doubling(&broker, done).await
    };
    let (asked, answered) = tokio::join!(asked, answered);
    asked.and(answered)
}

async fn an_error_is_an_answer_too(bench: &Bench) -> Verdict {
    let talk = Talk::new(bench).await?;
    let broker = bench.broker().await?;
    let asked = async {
        let result = broker.request(talk.questions, &13, talk.answers).await;
        let error = ensure_kind!(result, Handler, "an answer that is an error");
        ensure_eq!(error.message(), "an unlucky number", "its words");
        talk.ask(&broker, 14).await
    };
    talk.doubling(&broker, asked).await
}

async fn a_question_that_nobody_answers_in_time_has_failed_and_a_late_answer_is_dropped(
    bench: &Bench,
) -> Verdict {
    let talk = Talk::new(bench).await?;
    let broker = bench.broker().await?;
    let (seen, late) = (Seen::default(), Semaphore::new(0));
    let handler = async |n: u32, context: Context| {
        if n == 1 {
            // The first question is answered after it has failed.
            drop(late.acquire().await?);
        }
        let answered = talk.double(n, &context).await;
        seen.add(n.to_string());
        answered
    };
    let (stop, stopped) = stopper();
    let answering = talk.consumer(&broker).until(stopped).run(handler);
    let asked = async {
        // So that the time limit of the next one is not for creating the topic of the answers.
        talk.ask(&broker, 0).await?;
        let asking = broker.request(talk.questions, &1, talk.answers);
        let limit = bench.tamper().answer_timeout(Duration::from_secs(1));
        let error = ensure_kind!(asking.timeout(limit).await, Timeout, "no answer");
        ensure!(error.is_indeterminate(), "the question may be handled yet: {error:?}");
        late.add_permits(1);
        seen.count(2).await?;
        // The late answer is before these, in the partition that is read.
        for number in 2..5 {
            talk.ask(&broker, number).await?;
        }
        Ok(())
    };
    let asked = async {
        let asked = bench.within("asking", asked).await;
        // Whatever became of it, the handler is to end.
        late.add_permits(1);
        stop.now();
        asked?
    };
    let (answered, asked) = tokio::join!(answering, asked);
    asked?;
    Ok(answered?)
}

async fn an_answer_to_a_message_that_wants_none_is_not_published(bench: &Bench) -> Verdict {
    let talk = Talk::new(bench).await?;
    let broker = bench.broker().await?;
    broker.publish(talk.questions, &1).await?;
    let seen = Seen::default();
    let handler = async |n: u32, context: Context| {
        // A topic that does not exist: publishing to it would fail.
        let answered = talk.double(n, &context).await;
        seen.add(format!("{n} {:?}", answered.is_ok()));
        answered
    };
    bench.consume(talk.consumer(&broker), handler, seen.count(1)).await?;
    ensure_eq!(seen.all(), ["1 true"], "what the handler saw");
    ensure_kind!(broker.describe_topic(talk.answers.name()).await, UnknownTopic, "the answers");
    Ok(())
}

async fn a_client_that_knows_the_headers_can_ask_and_answer(bench: &Bench) -> Verdict {
    let talk = Talk::new(bench).await?;
    let broker = bench.broker().await?;
    // One that answers, by what is in the question alone.
    let others = bench.declared(talk.questions.name(), "others").await?;
    let mut inbox = bench.join(talk.questions.name(), others).await?;
    let answered = async {
        let delivery = inbox.next().await?;
        let question = delivery.message();
        let header = |name| question.headers().get_str(name).unwrap_or_default().to_owned();
        ensure_eq!(header("reply-to"), talk.answers.name().as_str(), "where to answer");
        let id = question.correlation_id().unwrap_or_default().to_owned();
        let answer = Message::new("42").with_correlation_id(id);
        let publish = broker.publish_message(talk.answers.name(), answer);
        publish.partition(header("reply-to-partition").parse()?).await?;
        delivery.ack();
        Ok(())
    };
    let (asked, answered) = tokio::join!(talk.ask(&broker, 21), answered);
    answered.and(asked)?;

    // One that asks, and reads the answers in its own way.
    let readers = bench.declared(talk.answers.name(), "readers").await?;
    let question = Message::new("4")
        .with_correlation_id("mine")
        .with_header("reply-to", talk.answers.name().as_str());
    broker.publish_message(talk.questions.name(), question).await?;
    let mut inbox = bench.join(talk.answers.name(), readers).await?;
    let answered = async {
        loop {
            let delivery = inbox.next().await?;
            let message = delivery.message().clone();
            delivery.ack();
            if message.correlation_id() == Some("mine") {
                ensure_eq!(message.payload(), "8", "the answer");
                return Ok(());
            }
        }
    };
    talk.doubling(&broker, answered).await
}

/// One of the cases of an outage.
pub(super) async fn a_request_survives_an_outage(bench: &Bench) -> Verdict {
    bench.require_outage()?;
    let talk = Talk::new(bench).await?;
    let broker = bench.connect().await?;
    let (asked, go_on) = (Semaphore::new(0), Semaphore::new(0));
    let handler = async |n: u32, context: Context| {
        if n == 1 {
            asked.add_permits(1);
            drop(go_on.acquire().await?);
        }
        talk.double(n, &context).await
    };
    let outage = async {
        drop(asked.acquire().await?);
        bench.stop_broker().await?;
        bench.start_broker().await?;
        go_on.add_permits(2);
        Verdict::Ok(())
    };
    let asked = async {
        let asking = broker.request(talk.questions, &1, talk.answers);
        let (answer, outage) = tokio::join!(asking.timeout(LIMIT).into_future(), outage);
        outage?;
        ensure_eq!(answer?, 2, "the answer");
        talk.ask(&broker, 2).await
    };
    let (stop, stopped) = stopper();
    let answering = talk.consumer(&broker).until(stopped).run(handler);
    let asked = async {
        let asked = asked.await;
        stop.now();
        asked
    };
    let (answered, asked) = tokio::join!(answering, asked);
    asked?;
    Ok(answered?)
}

async fn a_question_that_a_stranger_forged_ends_as_a_dead_letter_and_the_next_is_answered(
    bench: &Bench,
) -> Verdict {
    let talk = Talk::new(bench).await?;
    let broker = bench.broker().await?;
    const FORGED: [&[(&str, &str)]; 2] = [
        &[("reply-to", "somebody else's"), ("correlation-id", "x")],
        &[("reply-to", ""), ("reply-to-partition", "4294967295")],
    ];
    for headers in FORGED {
        bench.publish_foreign(talk.questions.name(), 0, b"21", Dress::Headers(headers)).await?;
    }
    let letters = Name::intern(&format!("{}.{}.dlt", talk.questions.name(), talk.group))?;
    let asked = async {
        talk.ask(&broker, 21).await?;
        bench.dead_letters(&broker, letters, FORGED.len()).await.map(drop)
    };
    talk.doubling(&broker, asked).await
}

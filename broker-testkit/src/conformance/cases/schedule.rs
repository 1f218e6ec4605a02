//! What is published later.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broker_api::dead_letter::Filter;
use broker_api::{Broker, Bytes, Message, Name, Publish, Received, Settings, Topic};

use super::super::bench::Bench;
use super::super::case::cases;
use super::super::fault::{Fault, Verdict, ensure, ensure_eq, ensure_kind};
use super::super::fixture::Dress;
use super::super::handling::stopper;
use super::super::inbox::{sorted, text, texts};

cases! { "schedule";
    what_is_put_off_comes_as_it_was_and_never_before_its_time,
    messages_come_in_the_order_of_their_times_however_they_were_published,
    what_is_put_off_survives_a_restart_of_the_scheduler,
    several_schedulers_publish_each_message_once,
    what_was_not_put_off_passes_what_was,
    nothing_can_be_put_off_before_a_scheduler_has_run,
    what_cannot_be_delivered_is_refused_when_it_is_put_off,
    a_message_whose_topic_is_gone_when_it_is_due_becomes_a_dead_letter,
    a_ticket_that_a_stranger_wrote_is_followed_or_becomes_a_dead_letter,
}

const RAW: Topic<Bytes> = Topic::raw("raw");

/// Long enough for a message to wait in more than one of the schedulers' topics.
const LATER: Duration = Duration::from_millis(2_300);

/// Schedulers of this case alone, and a topic with a group for what they publish.
struct Schedule<'a> {
    bench: &'a Bench,
    settings: Settings,
    topic: Topic<Bytes>,
    group: Name,
}

impl<'a> Schedule<'a> {
    async fn new(bench: &'a Bench) -> Result<Self, Fault> {
        let scheduled = bench.name("scheduled")?;
        for made in ["now", "1s", "10s", "2m", "20m", "4h"] {
            bench.named(&format!("{scheduled}.{made}"))?;
        }
        for made in ["dlt", "dlt.done", "retry"] {
            bench.made_by_consumer(scheduled, Name::new("scheduler"), made)?;
        }
        let settings = Settings { scheduled, ..Settings::default() };
        let topic = RAW.named(bench.topic("work", 1).await?);
        let group = bench.declared(topic.name(), "group").await?;
        Ok(Self { bench, settings, topic, group })
    }

    async fn connect(&self) -> Result<Broker, Fault> {
        self.bench.connect_with(self.settings).await
    }

    /// Runs a scheduler until `done` ends.
    async fn run(&self, broker: &Broker, done: impl Future<Output = Verdict>) -> Verdict {
        let (stop, stopped) = stopper();
        let running = broker.scheduler().until(stopped).run();
        let done = async {
            let done = self.bench.within("what the case waits for", done).await;
            stop.now();
            done?
        };
        let (ran, done) = tokio::join!(running, done);
        done?;
        Ok(ran?)
    }

    /// Runs a scheduler until the first message can be put off.
    async fn introduce(&self, broker: &Broker) -> Verdict {
        self.run(broker, self.known(broker)).await
    }

    /// Waits until a scheduler has created what it needs.
    async fn known(&self, broker: &Broker) -> Verdict {
        let letters = self.dead_letters()?;
        while broker.describe_topic(letters).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn dead_letters(&self) -> Result<Name, Fault> {
        Ok(Name::intern(&format!("{}.scheduler.dlt", self.settings.scheduled))?)
    }

    fn publish(&self, broker: &Broker, text: &str) -> Publish {
        broker.publish(self.topic, &Bytes::from(text.to_owned()))
    }

    /// The next so many messages, each with the time when it was seen.
    async fn take(&self, broker: &Broker, n: usize) -> Result<Vec<(Received, SystemTime)>, Fault> {
        let mut inbox = self.bench.join_at(broker, self.topic.name(), self.group, 100).await?;
        let mut taken = Vec::new();
        while taken.len() < n {
            let delivery = inbox.next().await?;
            taken.push((delivery.received().clone(), SystemTime::now()));
            delivery.ack();
        }
        inbox.close().await?;
        Ok(taken)
    }

    /// Wants nothing more than what was taken.
    async fn ensure_no_more(&self) -> Verdict {
        self.bench.mark(self.topic.name(), 1).await?;
        let mut inbox = self.bench.join(self.topic.name(), self.group).await?;
        let rest = inbox.texts_before_markers(1).await?;
        ensure!(rest.is_empty(), "more came: {rest:?}");
        Ok(())
    }
}

fn texts_of(taken: &[(Received, SystemTime)]) -> Vec<String> {
    taken.iter().map(|(received, _)| text(&received.message)).collect()
}

async fn what_is_put_off_comes_as_it_was_and_never_before_its_time(bench: &Bench) -> Verdict {
    let schedule = Schedule::new(bench).await?;
    let broker = schedule.connect().await?;
    schedule.introduce(&broker).await?;
    let own = UNIX_EPOCH + Duration::from_millis(1_234_567);
    let message = Message::new(vec![0xff, 0, 0xfe])
        .with_key(vec![0, 0xff])
        .with_header("b", "1")
        .with_header("a", vec![0xff])
        .with_header("b", "2")
        .with_id("the-id")
        .with_timestamp(own)
        .with_content_type("application/x-odd")
        .with_correlation_id("talk");
    let due = SystemTime::now() + LATER;
    let topic = schedule.topic.name();
    broker.publish_message(topic, message.clone()).deliver_at(due).await?;
    let plain = SystemTime::now() + 2 * LATER;
    schedule.publish(&broker, "plain").deliver_after(2 * LATER).await?;
    let come = async {
        let mut taken = schedule.take(&broker, 2).await?;
        // Where the scheduler begins after both times, they have no order.
        taken.sort_by_key(|(received, _)| text(&received.message) == "plain");
        let (first, seen) = &taken[0];
        ensure!(*seen >= due, "early by {:?}", due.duration_since(*seen));
        ensure_eq!(first.message, message, "the message");
        ensure_eq!(first.message.headers(), message.headers(), "its headers");
        let (second, seen) = &taken[1];
        ensure!(*seen >= plain, "early by {:?}", plain.duration_since(*seen));
        ensure_eq!(text(&second.message), "plain", "the second");
        ensure!(second.message.headers().is_empty(), "headers were added: {second:?}");
        // Whole milliseconds, so it may be cut below the due time by one.
        let stamp = second.message.timestamp().unwrap_or(UNIX_EPOCH) + Duration::from_millis(1);
        ensure!(stamp > plain, "its timestamp is before its time: {second:?}");
        Ok(())
    };
    schedule.run(&broker, come).await?;
    schedule.ensure_no_more().await
}

async fn messages_come_in_the_order_of_their_times_however_they_were_published(
    bench: &Bench,
) -> Verdict {
    let schedule = Schedule::new(bench).await?;
    let broker = schedule.connect().await?;
    schedule.introduce(&broker).await?;
    let come = async {
        // Once this one has come the scheduler is at work wherever the others wait: what is late
        // already when it begins has no order.
        schedule.publish(&broker, "first").deliver_after(LATER).await?;
        ensure_eq!(texts_of(&schedule.take(&broker, 1).await?), ["first"], "the first");
        // Far enough apart to be in the order of their times, which are to the second.
        let begin = SystemTime::now() + Duration::from_secs(1);
        let due = |n: u32| begin + n * Duration::from_millis(1_500);
        for n in [3, 0, 2, 1] {
            schedule.publish(&broker, &n.to_string()).deliver_at(due(n)).await?;
        }
        let taken = schedule.take(&broker, 4).await?;
        ensure_eq!(texts_of(&taken), ["0", "1", "2", "3"], "the order");
        for (n, (_, seen)) in (0..).zip(&taken) {
            let early = due(n).duration_since(*seen);
            ensure!(*seen >= due(n), "message {n} is early by {early:?}");
        }
        Ok(())
    };
    schedule.run(&broker, come).await
}

async fn what_is_put_off_survives_a_restart_of_the_scheduler(bench: &Bench) -> Verdict {
    let schedule = Schedule::new(bench).await?;
    let first = schedule.connect().await?;
    schedule.introduce(&first).await?;
    let due = SystemTime::now() + 2 * LATER;
    for text in texts("a", 20) {
        schedule.publish(&first, &text).deliver_at(due).await?;
    }
    schedule.publish(&first, "early").deliver_after(Duration::from_millis(1)).await?;
    // This scheduler stops as soon as it has published anything. The others wait then, unless it
    // took so long to begin that their time has come too.
    let mut came = Vec::new();
    let one = async {
        came.extend(schedule.take(&first, 1).await?);
        Ok(())
    };
    schedule.run(&first, one).await?;
    first.close().await?;
    drop(first);

    let second = schedule.connect().await?;
    let rest = async {
        came.extend(schedule.take(&second, 20).await?);
        Ok(())
    };
    schedule.run(&second, rest).await?;
    let all = [texts("a", 20), vec!["early".to_owned()]].concat();
    ensure_eq!(sorted(texts_of(&came)), all, "what both schedulers published");
    for (received, seen) in came.iter().filter(|(received, _)| text(&received.message) != "early") {
        ensure!(*seen >= due, "{} came before its time", text(&received.message));
    }
    schedule.ensure_no_more().await
}

async fn several_schedulers_publish_each_message_once(bench: &Bench) -> Verdict {
    let schedule = Schedule::new(bench).await?;
    let (one, other) = (schedule.connect().await?, schedule.connect().await?);
    schedule.introduce(&one).await?;
    let all = texts("a", 60);
    let come = async {
        for (n, text) in all.iter().enumerate() {
            let delay = Duration::from_millis(n as u64 * 50);
            schedule.publish(&one, text).deliver_after(delay).await?;
        }
        let taken = schedule.take(&one, all.len()).await?;
        ensure_eq!(sorted(texts_of(&taken)), all, "what came");
        schedule.ensure_no_more().await
    };
    let (stop, stopped) = stopper();
    let come = async {
        let come = schedule.run(&one, come).await;
        stop.now();
        come
    };
    let (ran, come) = tokio::join!(other.scheduler().until(stopped).run(), come);
    come?;
    Ok(ran?)
}

async fn what_was_not_put_off_passes_what_was(bench: &Bench) -> Verdict {
    let schedule = Schedule::new(bench).await?;
    let broker = schedule.connect().await?;
    schedule.introduce(&broker).await?;
    schedule.publish(&broker, "later").key("k").deliver_after(LATER).await?;
    schedule.publish(&broker, "now").key("k").await?;
    let over = SystemTime::now() - Duration::from_secs(3600);
    schedule.publish(&broker, "at a time that is over").key("k").deliver_at(over).await?;
    let come = async {
        let came = texts_of(&schedule.take(&broker, 3).await?);
        ensure_eq!(came, ["now", "at a time that is over", "later"], "the order");
        Ok(())
    };
    schedule.run(&broker, come).await
}

async fn nothing_can_be_put_off_before_a_scheduler_has_run(bench: &Bench) -> Verdict {
    let schedule = Schedule::new(bench).await?;
    let broker = schedule.connect().await?;
    let result = schedule.publish(&broker, "a").deliver_after(LATER).await;
    let error = ensure_kind!(result, Unroutable, "without a scheduler");
    ensure!(error.is_permanent(), "that is permanent: {error:?}");
    schedule.introduce(&broker).await?;
    schedule.publish(&broker, "a").deliver_after(LATER).await?;
    Ok(())
}

async fn what_cannot_be_delivered_is_refused_when_it_is_put_off(bench: &Bench) -> Verdict {
    let schedule = Schedule::new(bench).await?;
    let broker = schedule.connect().await?;
    schedule.introduce(&broker).await?;
    let missing = RAW.named(bench.name("missing")?);
    let publish = broker.publish(missing, &Bytes::from("a")).deliver_after(LATER);
    ensure_kind!(publish.await, UnknownTopic, "a topic that is not there");
    let publish = schedule.publish(&broker, "a").partition(1).deliver_after(LATER);
    ensure_kind!(publish.await, Invalid, "a partition that is not there");
    let large = Bytes::from(vec![0; broker_api::DEFAULT_MAX_MESSAGE_BYTES + 1]);
    let publish = broker.publish(schedule.topic, &large).deliver_after(LATER);
    ensure_kind!(publish.await, TooLarge, "a message that is too large");
    let publish = schedule.publish(&broker, "a").header("x-broker-own", "1").deliver_after(LATER);
    ensure_kind!(publish.await, InvalidName, "a reserved header");
    Ok(())
}

async fn a_message_whose_topic_is_gone_when_it_is_due_becomes_a_dead_letter(
    bench: &Bench,
) -> Verdict {
    bench.require_replay().await?;
    let schedule = Schedule::new(bench).await?;
    let broker = schedule.connect().await?;
    schedule.introduce(&broker).await?;
    let topic = schedule.topic.name();
    schedule.publish(&broker, "orphan").id("the-id").deliver_after(LATER).await?;
    broker.delete_topic(topic).await?;
    let letters = schedule.dead_letters()?;
    let arrived = async { bench.dead_letters(&broker, letters, 1).await.map(drop) };
    schedule.run(&broker, arrived).await?;
    let letters = broker.dead_letters(letters).list(&Filter::default()).await?;
    let kinds: Vec<_> = letters.iter().map(|letter| letter.kind.as_deref()).collect();
    ensure_eq!(kinds, [Some("UnknownTopic")], "{letters:?}");
    ensure_eq!(text(&letters[0].message), "orphan", "the payload");
    Ok(())
}

async fn a_ticket_that_a_stranger_wrote_is_followed_or_becomes_a_dead_letter(
    bench: &Bench,
) -> Verdict {
    const TOPIC: &str = "x-broker-scheduled-topic";
    const DUE: &str = "x-broker-scheduled-ms";
    const NEVER: &str = "conformance-there-is-no-such-topic";
    const FORGED: [&[(&str, &str)]; 6] = [
        &[],
        &[(TOPIC, "no name!"), (DUE, "0")],
        &[(TOPIC, NEVER), (DUE, "soon")],
        &[(TOPIC, NEVER), (DUE, "0"), ("x-broker-scheduled-partition", "-1")],
        &[(TOPIC, NEVER), (DUE, "0"), ("x-broker-scheduled-since-ms", "18446744073709551615")],
        &[(TOPIC, NEVER), (DUE, "0"), ("x-broker-attempts", "4294967295")],
    ];
    bench.require_replay().await?;
    let schedule = Schedule::new(bench).await?;
    let broker = schedule.connect().await?;
    schedule.introduce(&broker).await?;
    let base = schedule.settings.scheduled;
    for (n, headers) in FORGED.into_iter().enumerate() {
        let waiting = Name::intern(&format!("{base}.{}", ["now", "10s"][n % 2]))?;
        let text = format!("forged {n}");
        bench.publish_foreign(waiting, 0, text.as_bytes(), Dress::Headers(headers)).await?;
    }
    schedule.publish(&broker, "ours").deliver_after(LATER).await?;
    let letters = schedule.dead_letters()?;
    let come = async {
        let came = texts_of(&schedule.take(&broker, 1).await?);
        ensure_eq!(came, ["ours"], "what was put off by us");
        bench.dead_letters(&broker, letters, FORGED.len()).await.map(drop)
    };
    schedule.run(&broker, come).await?;
    let letters = broker.dead_letters(letters).list(&Filter::default()).await?;
    let payloads: Vec<_> = letters.iter().map(|letter| text(&letter.message)).collect();
    let wanted: Vec<_> = (0..FORGED.len()).map(|n| format!("forged {n}")).collect();
    ensure_eq!(sorted(payloads), wanted, "{letters:?}");
    Ok(())
}

/// One of the cases of an outage.
pub(super) async fn a_scheduled_message_survives_an_outage(bench: &Bench) -> Verdict {
    bench.require_outage()?;
    let schedule = Schedule::new(bench).await?;
    let broker = schedule.connect().await?;
    let due = SystemTime::now() + 2 * LATER;
    let come = async {
        schedule.known(&broker).await?;
        for text in texts("a", 20) {
            schedule.publish(&broker, &text).deliver_at(due).await?;
        }
        bench.stop_broker().await?;
        bench.start_broker().await?;
        let mut came = Vec::new();
        // One whose confirmation was lost is published again.
        while came.len() < 20 {
            for (received, seen) in schedule.take(&broker, 20 - came.len()).await? {
                ensure!(seen >= due, "early by {:?}", due.duration_since(seen));
                came.push(text(&received.message));
            }
            came.sort();
            came.dedup();
        }
        ensure_eq!(came, texts("a", 20), "what came");
        Ok(())
    };
    schedule.run(&broker, come).await
}

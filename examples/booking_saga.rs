//! A booking saga: each step of a booking is an event, a step that fails has the steps before it
//! compensated in reverse order, and a process that is killed anywhere goes on where it was.
//!
//! `cargo run --example booking_saga [publish|consume|both|dead-letters] [FILE]`
//!
//! Every handler does one thing and publishes what happened; that is confirmed before the event it
//! came from is settled, so no step is lost. A handler may run twice for one event: what was done
//! already is known from the events, read again at the start, and from the services it calls,
//! which do nothing twice for one idempotency key. Here they are lines of FILE.

mod shared;

use std::collections::{BTreeMap, HashSet};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anybroker::{Broker, Consumer, Context, Failure, GroupSpec, Name, Permanent, Read, Topic};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{JsonLines, Outcome, Task, operator};
use tokio::sync::watch;

/// What the services do for a booking, in this order.
const STEPS: [&str; 3] = ["reserve hotel", "charge card", "issue ticket"];

#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
struct Booking {
    #[garde(length(min = 1))]
    booking: String,
    #[garde(contains("@"))]
    email: String,
    /// A step that the services refuse, to have something to compensate.
    #[garde(skip)]
    refused: Option<usize>,
}

/// That something was done, undone or refused for a booking.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
struct Step {
    #[garde(dive)]
    booking: Booking,
    #[garde(range(max = 2))]
    step: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
struct Email {
    #[garde(contains("@"))]
    to: String,
    #[garde(length(min = 1))]
    text: String,
}

const STARTED: Topic<Booking> = Topic::new("saga.booking.started").keyed(|b| &b.booking);
const COMPLETED: Topic<Step> =
    Topic::new("saga.booking.step.completed").keyed(|s| &s.booking.booking);
const FAILED: Topic<Step> = Topic::new("saga.booking.step.failed").keyed(|s| &s.booking.booking);
const COMPENSATED: Topic<Step> =
    Topic::new("saga.booking.step.compensated").keyed(|s| &s.booking.booking);
const EMAIL: Topic<Email> = Topic::new("notification.email.send").keyed(|e| &e.to);

const SAGA: Name = Name::new("booking-saga");
const NOTIFICATION: Name = Name::new("notification");
/// Where events of all topics end that nobody can handle.
const DEAD_LETTERS: Name = Name::new("dlq.failed-events");

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    shared::exit(run().await)
}

async fn run() -> Outcome {
    let task = Task::from_args("booking_saga.jsonl", &["dead-letters"])?;
    let broker = shared::connect().await?;
    // Kept for a week, so that they can be read again.
    let week = Duration::from_secs(7 * 24 * 3600);
    for spec in [STARTED.spec(), COMPLETED.spec(), FAILED.spec(), COMPENSATED.spec(), EMAIL.spec()]
    {
        broker.create_topic(&spec.retention(week)).await?;
        let group = if spec.name == EMAIL.name() { NOTIFICATION } else { SAGA };
        broker.declare_group(spec.name, &GroupSpec::new(group)).await?;
    }
    let started = if task.publishes() { Some(publish(&broker).await?) } else { None };
    match &*task.what {
        "dead-letters" => operator::show(&broker, &[DEAD_LETTERS]).await?,
        "publish" => {}
        _ => consume(&broker, &task, started).await?,
    }
    Ok(broker.close().await?)
}

/// What was started here, by the bookings' names.
struct Started {
    bookings: Vec<String>,
    /// The one that nobody can handle.
    invalid: String,
}

/// Starts bookings, some of which will be refused at one of the steps.
async fn publish(broker: &Broker) -> anybroker::Result<Started> {
    let run = anybroker::MessageId::new().to_string();
    let bookings: Vec<Booking> = (0..12)
        .map(|n| Booking {
            booking: format!("{run}-{n}"),
            email: format!("guest-{n}@example.com"),
            refused: (n % 3 == 2).then_some(n / 3 % STEPS.len()),
        })
        .collect();
    let invalid =
        Booking { booking: format!("{run}-invalid"), email: "nobody".into(), refused: None };
    // As by a client in another language, which knows nothing of our rules.
    let unchecked = Topic::unchecked(STARTED.name().as_str()).keyed(|b: &Booking| &b.booking);
    let id = invalid.booking.clone();
    broker.publish(unchecked, &invalid).correlation_id(id).await?;
    for booking in &bookings {
        broker.publish(STARTED, booking).correlation_id(booking.booking.clone()).await?;
    }
    println!(
        "started {} bookings as {run}, {} of which a service will refuse, and an invalid one",
        bookings.len(),
        bookings.len() / 3
    );
    let bookings = bookings.into_iter().map(|booking| booking.booking).collect();
    Ok(Started { bookings, invalid: invalid.booking })
}

/// Works on bookings: until a signal, or until all that were started here have ended.
async fn consume(broker: &Broker, task: &Task, started: Option<Started>) -> Outcome {
    let complete = watch::Sender::new(false);
    let stop = shared::stop(complete.subscribe());
    let saga = Arc::new(Saga {
        services: Mutex::new(Services::open(&task.file)?),
        ended: watch::Sender::default(),
    });
    let known = saga.recover(broker).await?;
    println!("consuming into {}; {known} events of before are known", task.file.display());

    let mut group = broker.group(SAGA.as_str());
    let on = saga.clone();
    group = group.with(failing_to(broker, STARTED, SAGA), move |booking, context| {
        let saga = on.clone();
        async move { saga.next_step(booking, 0, &context).await }
    });
    let on = saga.clone();
    group = group.with(failing_to(broker, COMPLETED, SAGA), move |done: Step, context| {
        let saga = on.clone();
        async move { saga.next_step(done.booking, done.step + 1, &context).await }
    });
    for topic in [FAILED, COMPENSATED] {
        let on = saga.clone();
        group = group.with(failing_to(broker, topic, SAGA), move |step: Step, context| {
            let saga = on.clone();
            async move { saga.undo(step.booking, step.step, &context).await }
        });
    }
    let on = saga.clone();
    group = group.with(failing_to(broker, EMAIL, NOTIFICATION), move |email, context| {
        let saga = on.clone();
        async move { saga.notify(&email, &context) }
    });

    let all_ended = async {
        if let Some(started) = started {
            let all = |ended: &HashSet<_>| started.bookings.iter().all(|b| ended.contains(b));
            // Nobody drops the sender before.
            let _ = saga.ended.subscribe().wait_for(all).await;
            operator::dead(broker, DEAD_LETTERS, &started.invalid).await?;
            complete.send_replace(true);
        }
        std::future::pending().await
    };
    tokio::select! {
        ran = group.run(stop) => ran?,
        failed = all_ended => return failed,
    }
    println!("{} bookings ended", saga.ended.borrow().len());
    for (what, count) in saga.services().counts() {
        println!("  {what}: {count}");
    }
    Ok(operator::show(broker, &[DEAD_LETTERS]).await?)
}

/// A consumer whose messages end with those of all others where nobody can handle them.
fn failing_to<T>(broker: &Broker, topic: Topic<T>, group: Name) -> Consumer<T> {
    broker.consumer(topic, group.as_str()).dead_letter_topic(DEAD_LETTERS.as_str())
}

struct Saga {
    services: Mutex<Services>,
    /// The bookings that came to their end in this process.
    ended: watch::Sender<HashSet<String>>,
}

impl Saga {
    /// Learns from the events what was done before this process. The services know it too, but
    /// these are the saga's own books.
    async fn recover(&self, broker: &Broker) -> anybroker::Result<usize> {
        let mut events = 0;
        for (topic, verb) in [(COMPLETED, "do"), (COMPENSATED, "undo")] {
            let mut reading = broker.read(Read::new(topic.name())).await?;
            while let Some(delivery) = reading.next().await? {
                // What cannot be decoded is in the dead letters, not in the books.
                if let Ok(Step { booking, step }) = topic.decode(delivery.message()) {
                    self.services().known.insert(key(verb, &booking, step));
                    events += 1;
                }
            }
        }
        Ok(events)
    }

    /// Has the next step done; after the last the guest is told.
    async fn next_step(
        &self,
        booking: Booking,
        step: usize,
        context: &Context,
    ) -> Result<(), Failure> {
        if step == STEPS.len() {
            return self.tell(booking, "is confirmed", context).await;
        }
        if booking.refused == Some(step) {
            return Ok(context.publish(FAILED, &Step { booking, step }).await?);
        }
        self.services().perform(key("do", &booking, step))?;
        Ok(context.publish(COMPLETED, &Step { booking, step }).await?)
    }

    /// Has the step before this one undone; when there is none the guest is told.
    async fn undo(&self, booking: Booking, step: usize, context: &Context) -> Result<(), Failure> {
        let Some(step) = step.checked_sub(1) else {
            return self.tell(booking, "had to be cancelled", context).await;
        };
        self.services().perform(key("undo", &booking, step))?;
        Ok(context.publish(COMPENSATED, &Step { booking, step }).await?)
    }

    async fn tell(&self, booking: Booking, what: &str, context: &Context) -> Result<(), Failure> {
        let text = format!("your booking {} {what}", booking.booking);
        Ok(context.publish(EMAIL, &Email { to: booking.email, text }).await?)
    }

    /// Sends an email, once for each booking, whose id the conversation has.
    fn notify(&self, email: &Email, context: &Context) -> Result<(), Failure> {
        let booking = context.message().correlation_id().ok_or("no correlation id").permanent()?;
        self.services().perform(format!("email {booking} to {}", email.to))?;
        self.ended.send_if_modified(|ended| ended.insert(booking.to_owned()));
        Ok(())
    }

    fn services(&self) -> std::sync::MutexGuard<'_, Services> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The idempotency key of what a service does.
fn key(verb: &str, booking: &Booking, step: usize) -> String {
    format!("{verb} {} {}", booking.booking, STEPS[step])
}

/// The services that a booking needs: a line of a file for everything they did.
struct Services {
    file: JsonLines,
    known: HashSet<String>,
    done: BTreeMap<String, u32>,
}

impl Services {
    fn open(path: &std::path::Path) -> std::io::Result<Self> {
        let (file, done) = JsonLines::open::<String>(path)?;
        Ok(Self { file, known: done.into_iter().collect(), done: BTreeMap::new() })
    }

    /// Does it, unless it was done before. When it returns, it is on the disk.
    fn perform(&mut self, key: String) -> std::io::Result<()> {
        if self.known.contains(&key) {
            return Ok(());
        }
        self.file.append(&key)?;
        self.known.insert(key.clone());
        let verb = key.split(' ').next().unwrap_or_default().to_owned();
        let step = STEPS.iter().find(|step| key.ends_with(*step)).unwrap_or(&"sent");
        *self.done.entry(format!("{verb}: {step}")).or_default() += 1;
        Ok(())
    }

    fn counts(&self) -> impl Iterator<Item = (&str, u32)> {
        self.done.iter().map(|(what, count)| (what.as_str(), *count))
    }
}

//! A booking saga: each step of a booking is an event, a step that fails has the steps before it
//! compensated in reverse order, and a process that is killed anywhere goes on where it was.
//!
//! `cargo run --example booking_saga [publish|consume|both] [FILE]`
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

use anybroker::{Broker, Context, Failure, GroupSpec, Name, Permanent, Read, Topic};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{JsonLines, Outcome, Task};
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
const DEAD_LETTERS: &str = "dlq.failed-events";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    shared::exit(run().await)
}

async fn run() -> Outcome {
    let task = Task::from_args("booking_saga.jsonl")?;
    let broker = shared::connect().await?;
    // Kept for a week, so that they can be read again.
    let week = Duration::from_secs(7 * 24 * 3600);
    for spec in [STARTED.spec(), COMPLETED.spec(), FAILED.spec(), COMPENSATED.spec(), EMAIL.spec()]
    {
        broker.create_topic(&spec.retention(week)).await?;
        let group = if spec.name == EMAIL.name() { NOTIFICATION } else { SAGA };
        broker.declare_group(spec.name, &GroupSpec::new(group)).await?;
    }
    let mut expected = 0;
    if task.publish {
        expected = publish(&broker).await?;
    }
    if task.consume {
        consume(&broker, &task, expected).await?;
    }
    Ok(broker.close().await?)
}

/// Starts bookings, some of which will be refused at one of the steps.
async fn publish(broker: &Broker) -> anybroker::Result<usize> {
    let run = anybroker::MessageId::new().to_string();
    let bookings: Vec<Booking> = (0..12)
        .map(|n| Booking {
            booking: format!("{run}-{n}"),
            email: format!("guest-{n}@example.com"),
            refused: (n % 3 == 2).then_some(n / 3 % STEPS.len()),
        })
        .collect();
    for booking in &bookings {
        broker.publish(STARTED, booking).correlation_id(booking.booking.clone()).await?;
    }
    println!(
        "started {} bookings, {} of which a service will refuse",
        bookings.len(),
        bookings.len() / 3
    );
    Ok(bookings.len())
}

/// Works on bookings: until a signal, or until as many ended as were started here.
async fn consume(broker: &Broker, task: &Task, expected: usize) -> Outcome {
    let complete = watch::Sender::new(false);
    let stop = shared::stop(complete.subscribe());
    let saga = Arc::new(Saga {
        services: Mutex::new(Services::open(&task.file)?),
        ended: watch::Sender::new(0),
    });
    let known = saga.recover(broker).await?;
    println!("consuming into {}; {known} events of before are known", task.file.display());

    let consumer = |topic| broker.consumer(topic, SAGA.as_str()).dead_letter_topic(DEAD_LETTERS);
    let (on_completed, on_failed, on_compensated, on_email) =
        (saga.clone(), saga.clone(), saga.clone(), saga.clone());
    let on_started = saga.clone();
    let mut ended = saga.ended.subscribe();
    let enough = async {
        if expected > 0 && ended.wait_for(|ended| *ended >= expected).await.is_ok() {
            complete.send_replace(true);
        }
        std::future::pending::<()>().await;
    };
    let group = broker
        .group(SAGA.as_str())
        .with(
            broker.consumer(STARTED, SAGA.as_str()).dead_letter_topic(DEAD_LETTERS),
            move |booking, context| {
                let saga = on_started.clone();
                async move { saga.next_step(booking, 0, &context).await }
            },
        )
        .with(consumer(COMPLETED), move |Step { booking, step }, context| {
            let saga = on_completed.clone();
            async move { saga.next_step(booking, step + 1, &context).await }
        })
        .with(consumer(FAILED), move |Step { booking, step }, context| {
            let saga = on_failed.clone();
            async move { saga.undo(booking, step, &context).await }
        })
        .with(consumer(COMPENSATED), move |Step { booking, step }, context| {
            let saga = on_compensated.clone();
            async move { saga.undo(booking, step, &context).await }
        })
        .with(
            broker.consumer(EMAIL, NOTIFICATION.as_str()).dead_letter_topic(DEAD_LETTERS),
            move |email, context| {
                let saga = on_email.clone();
                async move { saga.notify(&email, &context) }
            },
        );
    tokio::select! {
        ran = group.run(stop) => ran?,
        () = enough => {}
    }
    println!("{} bookings ended", *saga.ended.borrow());
    for (what, count) in saga.services().counts() {
        println!("  {what}: {count}");
    }
    Ok(())
}

struct Saga {
    services: Mutex<Services>,
    /// How many bookings came to their end in this process.
    ended: watch::Sender<usize>,
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
        self.ended.send_modify(|ended| *ended += 1);
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

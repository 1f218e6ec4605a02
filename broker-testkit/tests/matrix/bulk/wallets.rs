//! Many wallets, each with operations in an order, while the broker is killed and connections are cut.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use broker_api::{
    Broker, Bytes, Context, Failure, GroupSpec, Message, Name, Retry, Topic, TopicSpec,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::PATIENCE;
use crate::Outcome;
use crate::dice::Dice;
use crate::subject::Subject;

const WALLETS: usize = 1_000;
const OPERATIONS: Topic<Bytes> = Topic::raw("operations");
const GROUP: Name = Name::new("wallets");
const MEMBERS: usize = 3;
/// One in so many calls of the handler fails.
const FAILING: u64 = 1_000;
/// How often to look whether it goes on.
const LOOK: Duration = Duration::from_millis(100);

/// `LOAD_OPERATIONS`: how many each wallet has.
pub(super) fn operations() -> u64 {
    let given = std::env::var("LOAD_OPERATIONS").ok().and_then(|number| number.parse().ok());
    given.unwrap_or(200)
}

/// What an operation adds to its wallet.
fn amount(wallet: usize, operation: u64) -> i64 {
    Dice::new(wallet as u64).of("amount", operation).below(2_001) as i64 - 1_000
}

#[derive(Default)]
struct Wallet {
    /// The operation that comes next.
    next: u64,
    balance: i64,
}

#[derive(Default)]
struct Book {
    wallets: Vec<Mutex<Wallet>>,
    applied: AtomicU64,
    /// Operations that came before the one that was next.
    early: AtomicU64,
    /// And those that had come already.
    again: AtomicU64,
    calls: AtomicU64,
    /// Publishes whose outcome nobody knows, and those that failed for certain: both are repeated.
    unsure: AtomicU64,
    failed: AtomicU64,
}

pub(super) async fn run(subject: &Subject) -> Outcome<String> {
    let operations = operations();
    let all = operations * WALLETS as u64;
    let address = subject.address();
    let control = address.connect().await?;
    let topic = OPERATIONS.name();
    control.create_topic(&TopicSpec::new(topic).partitions(6)).await?;
    control.declare_group(topic, &GroupSpec::new(GROUP)).await?;
    let wallets = (0..WALLETS).map(|_| Mutex::default()).collect();
    let book = Arc::new(Book { wallets, ..Book::default() });

    let (stop, stopped) = watch::channel(false);
    let mut members = JoinSet::new();
    for _ in 0..MEMBERS {
        let (broker, book, mut stopped) = (address.connect().await?, book.clone(), stopped.clone());
        let retry = Retry::forever().initial(Duration::from_millis(2));
        let consumer =
            broker.consumer(OPERATIONS, GROUP.as_str()).concurrency(32).retry(retry).until(
                async move {
                    let _ = stopped.wait_for(|stopped| *stopped).await;
                },
            );
        members.spawn(async move {
            let handler = move |payload, context| {
                let book = book.clone();
                async move { book.apply(&payload, &context) }
            };
            consumer.run(handler).await?;
            broker.close().await
        });
    }
    let mut publishers = JoinSet::new();
    let publisher = address.connect().await?;
    for wallet in 0..WALLETS {
        publishers.spawn(publish(publisher.clone(), book.clone(), wallet, operations));
    }

    book.reach(all / 4).await?;
    subject.proxy().cut();
    book.reach(all / 2).await?;
    subject.kill().await?;
    subject.restart().await?;
    book.reach(all / 4 * 3).await?;
    subject.proxy().reset();
    book.reach(all).await?;
    publishers.join_all().await;

    stop.send_replace(true);
    while let Some(ended) = members.join_next().await {
        match ended? {
            Err(error) if error.is_indeterminate() => {}
            ended => ended?,
        }
    }
    book.judge(operations)?;
    let end = Instant::now() + PATIENCE;
    while let lag @ 1.. = control.lag(topic, GROUP).await? {
        if Instant::now() > end {
            return Err(format!("a lag of {lag} is left").into());
        }
        tokio::time::sleep(LOOK).await;
    }
    let count = |count: &AtomicU64| count.load(Relaxed);
    Ok(format!(
        "{all} operations, {operations} in order for each wallet; connections closed, broker killed, \
         connections reset; {} publishes of unknown outcome and {} that failed were repeated, {} \
         operations came again; wrong balances 0, out of order 0",
        count(&book.unsure),
        count(&book.failed),
        count(&book.again)
    ))
}

/// One operation after the other, each until it is confirmed.
async fn publish(broker: Broker, book: Arc<Book>, wallet: usize, operations: u64) {
    for operation in 0..operations {
        let message = Message::new(operation.to_string()).with_key(wallet.to_string());
        while let Err(error) = broker.publish_message(OPERATIONS.name(), message.clone()).await {
            let count = if error.is_indeterminate() { &book.unsure } else { &book.failed };
            count.fetch_add(1, Relaxed);
            tokio::task::yield_now().await;
        }
    }
}

impl Book {
    fn apply(&self, payload: &Bytes, context: &Context) -> Result<(), Failure> {
        let key = context.message().key().ok_or("no key")?;
        let wallet: usize = std::str::from_utf8(key)?.parse()?;
        let operation: u64 = std::str::from_utf8(payload)?.parse()?;
        let call = self.calls.fetch_add(1, Relaxed);
        if call % FAILING == FAILING - 1 {
            return Err("bad luck".into());
        }
        let mut is = self.wallets[wallet].lock().unwrap_or_else(PoisonError::into_inner);
        if operation == is.next {
            is.next += 1;
            is.balance += amount(wallet, operation);
            self.applied.fetch_add(1, Relaxed);
        } else {
            let count = if operation < is.next { &self.again } else { &self.early };
            count.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Waits until so many operations are applied; something has to happen all the time.
    async fn reach(&self, number: u64) -> Outcome {
        let (mut seen, mut since) = (self.applied.load(Relaxed), Instant::now());
        while seen < number {
            if since.elapsed() > PATIENCE {
                let early = self.early.load(Relaxed);
                return Err(
                    format!("nothing more after {seen} operations, {early} too early").into()
                );
            }
            tokio::time::sleep(LOOK).await;
            let applied = self.applied.load(Relaxed);
            if applied > seen {
                (seen, since) = (applied, Instant::now());
            }
        }
        Ok(())
    }

    fn judge(&self, operations: u64) -> Outcome {
        let wrong = self.wallets.iter().enumerate().filter(|(number, wallet)| {
            let is = wallet.lock().unwrap_or_else(PoisonError::into_inner);
            let right: i64 = (0..operations).map(|operation| amount(*number, operation)).sum();
            (is.next, is.balance) != (operations, right)
        });
        match (wrong.count(), self.early.load(Relaxed)) {
            (0, 0) => Ok(()),
            (wrong, early) => Err(format!("wrong balances {wrong}, out of order {early}").into()),
        }
    }
}

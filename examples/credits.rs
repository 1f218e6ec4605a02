//! Credits: operations on the credits of users come over two topics, and are counted in their
//! order, each once, also when it is delivered twice. The ledger survives the process.
//!
//! `cargo run --example credits [publish|consume|both|dead-letters|redrive|mishap] [FILE]`
//!
//! `mishap` shows what becomes of operations that are invalid or of a locked user: they end as dead
//! letters, and are put back when the cause is mended. The same step by step, on a real broker:
//! consume with `LARGEST=50 LOCKED=user-3`, look at `dead-letters`, `redrive`, consume without.

mod shared;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::process::ExitCode;

use anybroker::dead_letter::dead_letter_topic;
use anybroker::{Broker, Failure, GroupSpec, MessageId, Name, Retry, Topic};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{JsonLines, Outcome, Task, operator, trouble};
use tokio::sync::watch;

/// The end of a process that earned or cost credits.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
struct ProcessEnd {
    #[garde(length(min = 1))]
    operation_id: String,
    #[garde(length(min = 1))]
    user: String,
    #[garde(range(min = -1_000_000, max = 1_000_000), custom(trouble::not_too_large))]
    credits: i64,
}

const PROCESS_END: Topic<ProcessEnd> =
    Topic::new("credits_process_end_topic").keyed(|end| &end.user);
const PROCESS_END_GROUP: Name = Name::new("zaaz-server-credits-process-end-group");

const MULTIMODEL: Topic<ProcessEnd> =
    Topic::new("credits_process_end_multimodel_topic").keyed(|end| &end.user);
const MULTIMODEL_GROUP: Name = Name::new("zaaz-server-credits-process-end-multimodel-group");

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    shared::exit(run().await)
}

async fn run() -> Outcome {
    let task = Task::from_args("credits.jsonl", &["dead-letters", "redrive", "mishap"])?;
    trouble::from_env()?;
    let broker = shared::connect().await?;
    let (mut dead_letters, mut published) = (Vec::new(), Vec::new());
    for (topic, group) in [(PROCESS_END, PROCESS_END_GROUP), (MULTIMODEL, MULTIMODEL_GROUP)] {
        broker.create_topic(&topic.spec()).await?;
        broker.declare_group(topic.name(), &GroupSpec::new(group)).await?;
        dead_letters.push(dead_letter_topic(topic.name(), group)?);
        if task.publishes() {
            published.extend(publish(&broker, topic).await?);
        }
    }
    let consuming = consume(&broker, &task, &published);
    match &*task.what {
        "dead-letters" => operator::show(&broker, &dead_letters).await?,
        "redrive" => operator::redrive(&broker, &dead_letters).await?,
        "mishap" => {
            trouble::begin(50, "user-3");
            let refused = published.iter().filter(|o| trouble::refuses(o.credits, &o.user)).count();
            operator::mend_during(consuming, &broker, &dead_letters, refused).await?;
        }
        "publish" => {}
        _ => consuming.await?,
    }
    Ok(broker.close().await?)
}

/// Publishes operations, some of them twice.
async fn publish(broker: &Broker, topic: Topic<ProcessEnd>) -> anybroker::Result<Vec<ProcessEnd>> {
    let mut operations = Vec::new();
    for n in 0..50 {
        let operation = ProcessEnd {
            operation_id: MessageId::new().to_string(),
            user: format!("user-{}", n % 5),
            credits: if n % 10 < 5 { 100 } else { -30 },
        };
        // A publisher that got no answer in time publishes again.
        let times = if n % 10 == 0 { 2 } else { 1 };
        operations.extend(std::iter::repeat_n(operation, times));
    }
    for result in broker.publish_all(topic, &operations).await {
        result?;
    }
    println!("published 50 operations to {}, 5 of them twice", topic.name());
    Ok(operations)
}

/// Counts operations: until a signal, or until all that were published here are counted.
async fn consume(broker: &Broker, task: &Task, published: &[ProcessEnd]) -> Outcome {
    let complete = watch::Sender::new(false);
    let [stop, stop_multimodel] = [(); 2].map(|()| shared::stop(complete.subscribe()));
    let ledger = RefCell::new(Ledger::open(&task.file)?);
    println!("consuming both topics into {}", task.file.display());
    let mut expected: HashMap<_, u32> = HashMap::new();
    for operation in published {
        *expected.entry(operation.operation_id.clone()).or_default() += 1;
    }
    let expected = RefCell::new(expected);
    let count = async |operation: ProcessEnd, _| -> Result<(), Failure> {
        trouble::check_locked(&operation.user)?;
        ledger.borrow_mut().count(&operation)?;
        let mut expected = expected.borrow_mut();
        if let Some(times) = expected.get_mut(&operation.operation_id) {
            *times -= 1;
            if *times == 0 {
                expected.remove(&operation.operation_id);
            }
            if expected.is_empty() {
                complete.send_replace(true);
            }
        }
        Ok(())
    };

    let retry = Retry::exponential().attempts(3);
    let process_end = broker
        .consumer(PROCESS_END, PROCESS_END_GROUP.as_str())
        .concurrency(16)
        .retry(retry.clone())
        .until(stop)
        .run(&count);
    let multimodel = broker
        .consumer(MULTIMODEL, MULTIMODEL_GROUP.as_str())
        .concurrency(16)
        .retry(retry.clone())
        .until(stop_multimodel)
        .run(&count);
    tokio::try_join!(process_end, multimodel)?;
    let ledger = ledger.into_inner();
    println!("counted {} operations, {} came again", ledger.counted, ledger.repeated);
    for (user, balance) in &ledger.balances {
        println!("  {user}: {balance}");
    }
    Ok(())
}

/// An operation as it was counted: a line of the ledger.
#[derive(Serialize, Deserialize)]
struct Entry {
    operation_id: String,
    user: String,
    credits: i64,
    /// What the user has after it.
    balance: i64,
}

/// The balances of all users, and the operations they come from, in a file.
///
/// An operation and the balance after it are one line, so that they are stored together or not at
/// all. It remembers every operation there ever was; a service would drop the old ones.
struct Ledger {
    file: JsonLines,
    balances: BTreeMap<String, i64>,
    known: HashSet<String>,
    counted: u32,
    repeated: u32,
}

impl Ledger {
    fn open(path: &Path) -> std::io::Result<Self> {
        let (file, entries) = JsonLines::open::<Entry>(path)?;
        let balances = entries.iter().map(|entry| (entry.user.clone(), entry.balance)).collect();
        let known = entries.into_iter().map(|entry| entry.operation_id).collect();
        Ok(Self { file, balances, known, counted: 0, repeated: 0 })
    }

    /// Counts an operation, unless it was counted before. When it returns, it is on the disk.
    fn count(&mut self, operation: &ProcessEnd) -> std::io::Result<()> {
        if self.known.contains(&operation.operation_id) {
            self.repeated += 1;
            return Ok(());
        }
        let balance = self.balances.get(&operation.user).unwrap_or(&0) + operation.credits;
        let ProcessEnd { operation_id, user, credits } = operation.clone();
        self.file.append(&Entry { operation_id, user, credits, balance })?;
        self.balances.insert(operation.user.clone(), balance);
        self.known.insert(operation.operation_id.clone());
        self.counted += 1;
        Ok(())
    }
}

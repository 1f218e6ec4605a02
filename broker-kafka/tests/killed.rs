//! Consumers that settle by transactions, in processes of their own that are killed (SIGKILL) again
//! and again: a reader sees every output once, and in the order of its key.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::io::Read as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use broker_api::{Broker, Bytes, Context, Failure, GroupSpec, Name, Read, Topic, Until};
use broker_kafka::{GroupProtocol, Kafka, KafkaConfig};
use broker_testkit::brokers::RealBroker;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::runtime::Runtime;
use tokio::time::timeout;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// In its environment a process finds what it works with: the brokers and the three names.
const ORDER: &str = "KILLED_ORDER";

const KEYS: usize = 24;
/// Of each key.
const MESSAGES: usize = 400;
const KILLS: usize = 5;
/// How long nothing may be seen: sessions and transactions of the dead have to end.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let Ok(runtime) = Runtime::new() else { return ExitCode::FAILURE };
    if let Ok(order) = std::env::var(ORDER) {
        return match runtime.block_on(consume(&order)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("a consumer: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let arguments = Arguments::from_args();
    let trial = Trial::ignorable_test(
        "every output of consumers that are killed is seen once and in order",
        move || runtime.block_on(attempt()),
    );
    libtest_mimic::run(&arguments, vec![trial]).exit_code()
}

async fn attempt() -> Result<Completion, Failed> {
    let real = RealBroker::kafka();
    let brokers = match real.address().await {
        Ok(brokers) => brokers,
        Err(unready) => {
            return match unready.why_absent() {
                Some(tried) => Ok(Completion::ignored_with(tried)),
                None => Err(Failed::from(format!("{unready:?}"))),
            };
        }
    };
    kill_and_judge(&brokers).await.map_err(|error| error.to_string())?;
    Ok(Completion::Completed)
}

fn config(brokers: &str) -> KafkaConfig {
    KafkaConfig {
        group_protocol: GroupProtocol::Classic,
        // So that the partitions of a killed consumer are soon another's.
        session_timeout: Some(Duration::from_secs(6)),
        heartbeat_interval: Some(Duration::from_millis(500)),
        ..KafkaConfig::new(brokers)
    }
}

/// `key-7` of `key-7 0042`.
fn key(text: &Bytes) -> String {
    String::from_utf8_lossy(text).split(' ').next().unwrap_or_default().to_owned()
}

fn topic(name: &str) -> Outcome<Topic<Bytes>> {
    Ok(Topic::raw("topic").named(Name::intern(name)?).keyed_owned(key))
}

/// What a process does until it is killed, or alone.
async fn consume(order: &str) -> Outcome {
    std::thread::spawn(|| {
        // Nothing ever comes, but the end of the process that started this one.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let [brokers, input, output, group] = order.split(' ').collect::<Vec<_>>()[..] else {
        return Err("an order has four words".into());
    };
    let (input, output) = (topic(input)?, topic(output)?);
    let broker = Broker::new(Kafka::connect(config(brokers)).await?);
    let handler = |text: Bytes, context: Context| async move {
        tokio::time::sleep(Duration::from_millis(3)).await;
        context.publish(output, &text).await?;
        Ok::<_, Failure>(())
    };
    let consumer = broker.consumer(input, group).concurrency(8);
    Ok(consumer.transactions(100, Duration::from_millis(20)).run(handler).await?)
}

/// Killed with its handle.
struct Process(Child);

impl Process {
    fn start(order: &str) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        Ok(Self(command.env(ORDER, order).stdin(Stdio::piped()).spawn()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails for one that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn kill_and_judge(brokers: &str) -> Outcome {
    let broker = Broker::new(Kafka::connect(config(brokers)).await?);
    let run = broker_api::MessageId::new();
    let [input, output, group] = ["in", "out", "group"].map(|what| format!("killed-{what}-{run}"));
    broker.create_topic(&topic(&input)?.spec().partitions(6)).await?;
    broker.create_topic(&topic(&output)?.spec().partitions(3)).await?;
    broker.declare_group(Name::intern(&input)?, &GroupSpec::new(Name::intern(&group)?)).await?;
    let texts: Vec<Bytes> = (0..MESSAGES)
        .flat_map(|n| (0..KEYS).map(move |key| format!("key-{key} {n:04}").into()))
        .collect();
    for published in broker.publish_all(topic(&input)?, &texts).await {
        published?;
    }

    let order = format!("{brokers} {input} {output} {group}");
    let mut processes = vec![Process::start(&order)?, Process::start(&order)?];
    let read = Read { until: Until::Followed, ..Read::new(Name::intern(&output)?) };
    let mut reading = broker.read(read).await?;
    let mut kills = 0;
    for seen in 0..texts.len() {
        if kills < KILLS && seen >= (kills + 1) * texts.len() / (KILLS + 2) {
            kills += 1;
            processes.remove(0).0.kill()?;
            processes.push(Process::start(&order)?);
        }
        let next = timeout(PATIENCE, reading.next()).await;
        let next = next.map_err(|_| format!("nothing more was seen after {seen} outputs"))?;
        next?.ok_or("the reading ended")?;
    }
    reading.close().await?;
    drop(processes);
    judge(&broker, &output, &texts).await?;
    println!("{} outputs, {kills} kills", texts.len());
    for name in
        [&input, &output, &format!("{input}.{group}.dlt"), &format!("{input}.{group}.retry")]
    {
        broker.delete_topic(Name::intern(name)?).await?;
    }
    Ok(broker.close().await?)
}

/// Reads all that can be seen again, from the beginning.
async fn judge(broker: &Broker, output: &str, texts: &[Bytes]) -> Outcome {
    let mut seen: BTreeMap<String, Vec<Bytes>> = BTreeMap::new();
    let mut reading = broker.read(Read::new(Name::intern(output)?)).await?;
    while let Some(delivery) = timeout(PATIENCE, reading.next()).await?? {
        let text = delivery.message().payload().clone();
        seen.entry(key(&text)).or_default().push(text);
    }
    let mut wanted: HashMap<String, Vec<Bytes>> = HashMap::new();
    for text in texts {
        wanted.entry(key(text)).or_default().push(text.clone());
    }
    for (key, wanted) in wanted {
        let seen = seen.remove(&key).unwrap_or_default();
        if let Some(place) =
            (0..wanted.len().max(seen.len())).find(|n| seen.get(*n) != wanted.get(*n))
        {
            return Err(format!(
                "{key}: {} outputs for {} messages; the first that differs is {:?}, wanted {:?}",
                seen.len(),
                wanted.len(),
                seen.get(place),
                wanted.get(place)
            )
            .into());
        }
    }
    Ok(())
}

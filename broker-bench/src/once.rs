//! What `exactly_once` costs a consumer whose handler publishes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use broker_api::{BoxError, Broker, Bytes, GroupSpec, Name, Topic, TopicSpec};
use tokio::sync::oneshot;

use crate::Which;
use crate::contender::{Contender, Publishing};
use crate::cost::{Latencies, median};
use crate::load::Load;

/// Messages handled at a time: outputs of plain handlers are confirmed one by one, so only many at
/// a time fill a batch.
const HANDLERS: usize = 256;

const PARTITIONS: u32 = 6;

const WAIT: Duration = Duration::from_millis(100);

/// How messages are settled: how many a transaction has at most, and how long it waits for them.
const WAYS: [(&str, Option<(usize, Duration)>); 3] = [
    ("plainly", None),
    ("exactly once, up to 10,000 in a transaction, as unless set", Some((10_000, WAIT))),
    ("exactly once, up to 1,000 in a transaction", Some((1_000, WAIT))),
];

/// The table: a handler that publishes a message for each that it gets, in turn with and without.
pub(crate) async fn measure(
    broker: &Broker,
    publisher: &dyn Contender,
    load: Load,
    rounds: usize,
    mut topic: impl FnMut() -> String,
) -> Result<String, BoxError> {
    let input = topic();
    let output: Topic<Bytes> = Topic::raw("output").named(Name::intern(&topic())?);
    publisher.create(&input, PARTITIONS).await?;
    broker.create_topic(&TopicSpec::new(output.name()).partitions(PARTITIONS)).await?;
    publisher.publish(&input, load, Publishing::Pipelined, &mut Latencies::new()?).await?;
    let input: Topic<Bytes> = Topic::raw("input").named(Name::intern(&input)?);
    let mut rates = [const { Vec::new() }; WAYS.len()];
    for round in 0..rounds {
        for turn in 0..WAYS.len() {
            let way = (round + turn) % WAYS.len();
            let group = Name::intern(&format!("once-{round}-{way}"))?;
            broker.declare_group(input.name(), &GroupSpec::new(group)).await?;
            let transactions = WAYS[way].1;
            let rate = rate(broker, input, output, group, transactions, load.messages).await?;
            rates[way].push(rate);
        }
    }
    for topic in [input, output] {
        broker.delete_topic(topic.name()).await?;
    }
    let mut table = format!(
        "\n### {:?}: a handler that publishes, plainly and exactly once\n\n\
         {HANDLERS} at a time, {PARTITIONS} partitions.\n\n\
         | | messages/s | ratio |\n|---|---:|---:|\n",
        Which::Kafka,
    );
    let rates = rates.map(median);
    for ((way, _), rate) in WAYS.iter().zip(rates) {
        table += &format!("| {way} | {rate:.0} | {:.2} |\n", rate / rates[0]);
    }
    Ok(table)
}

/// Messages a second, from the first that is handled until the last is settled.
async fn rate(
    broker: &Broker,
    input: Topic<Bytes>,
    output: Topic<Bytes>,
    group: Name,
    transactions: Option<(usize, Duration)>,
    messages: usize,
) -> Result<f64, BoxError> {
    let (handled, begin) = (AtomicUsize::new(0), Mutex::new(None::<Instant>));
    let (stop, stopped) = oneshot::channel::<()>();
    let stop = Mutex::new(Some(stop));
    let consumer = broker.consumer(input, group.as_str()).concurrency(HANDLERS);
    let consumer = consumer.until(async { drop(stopped.await) });
    let consumer = match transactions {
        Some((messages, wait)) => consumer.transactions(messages, wait),
        None => consumer,
    };
    let handle = consumer.run(|payload: Bytes, context| {
        let (handled, begin, stop) = (&handled, &begin, &stop);
        async move {
            if handled.load(Ordering::Relaxed) == 0 {
                lock(begin).get_or_insert_with(Instant::now);
            }
            context.publish(output, &payload).await?;
            if handled.fetch_add(1, Ordering::Relaxed) + 1 == messages {
                drop(lock(stop).take());
            }
            Ok(())
        }
    });
    // Leaving commits what is settled, so this ends after the last transaction.
    handle.await?;
    let begin = lock(&begin).ok_or("nothing was handled")?;
    match broker.lag(input.name(), group).await? {
        // The marks of transactions are no messages of `input`, so all of it is settled.
        0 => Ok(messages as f64 / begin.elapsed().as_secs_f64()),
        lag => Err(format!("{lag} messages were not settled").into()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

//! Many tasks on many threads at once: that nobody sleeps on, and that no lock is held too long.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use broker_api::Broker;
use tokio::task::JoinSet;

const KEYS: usize = 20;
const EACH: usize = 200;

async fn consume(
    memory: Memory,
    order: Order,
    settled: Arc<Mutex<HashMap<String, Vec<usize>>>>,
    left: Arc<AtomicUsize>,
) {
    let mut round = 0;
    while left.load(Ordering::SeqCst) > 0 {
        round += 1;
        let mut source = join(&memory, order, 16);
        let mut count = 0;
        // Members come and go all the time, some with messages in hand.
        while count < 40 {
            let next = tokio::time::timeout(Duration::from_millis(50), source.next(8)).await;
            let Ok(batch) = next else { break };
            for (n, delivery) in batch.unwrap().unwrap().into_iter().enumerate() {
                count += 1;
                tokio::task::yield_now().await;
                if (n + round).is_multiple_of(7) || !delivery.is_live() {
                    // Hands this one and the rest back, so that a key stays in order.
                    break;
                }
                let message = delivery.message().clone();
                let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
                let n = std::str::from_utf8(message.payload()).unwrap().parse().unwrap();
                // Under the lock, so that the record and the settlement are one.
                let mut settled = settled.lock().unwrap();
                settled.entry(key).or_default().push(n);
                delivery.ack();
                left.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

async fn run(order: Order) -> HashMap<String, Vec<usize>> {
    // Small enough that publishers have to wait now and then.
    let memory = Memory::with_limit(100_000);
    create(&memory, TopicSpec::new(TOPIC));
    drop(join(&memory, order, 1));
    let settled = Arc::new(Mutex::new(HashMap::new()));
    let left = Arc::new(AtomicUsize::new(KEYS * EACH));
    let mut tasks = JoinSet::new();
    for key in 0..KEYS {
        let broker = Broker::new(memory.connect());
        tasks.spawn(async move {
            for n in 0..EACH {
                let message = Message::new(n.to_string()).with_key(key.to_string());
                broker.publish_message(TOPIC, message).await.unwrap();
            }
        });
    }
    for _ in 0..4 {
        tasks.spawn(consume(memory.connect(), order, settled.clone(), left.clone()));
    }
    let all = async {
        while let Some(done) = tasks.join_next().await {
            done.unwrap()
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("somebody sleeps on");
    let settled = settled.lock().unwrap();
    settled.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_key_is_settled_in_order_and_once_while_members_come_and_go() {
    let settled = run(Order::Key).await;
    assert_eq!(settled.len(), KEYS);
    for (key, order) in settled {
        assert_eq!(order, (0..EACH).collect::<Vec<_>>(), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_message_is_settled_once_while_members_come_and_go() {
    for (_, mut order) in run(Order::None).await {
        order.sort_unstable();
        assert_eq!(order, (0..EACH).collect::<Vec<_>>());
    }
}

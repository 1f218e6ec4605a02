//! What is kept of messages in hand: positions, lanes, acknowledgements.

use broker_api::{Bytes, Message, Name, Settlement, Watermark};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};

use crate::lanes::Lanes;
use crate::ledger::{Delivered, Ledger};

const IN_HAND: u64 = 100_000;

/// In which order messages are settled.
#[derive(Debug, Clone, Copy)]
enum Order {
    AsTheyCame,
    Backwards,
    Shuffled,
}

const ORDERS: [Order; 3] = [Order::AsTheyCame, Order::Backwards, Order::Shuffled];

impl Order {
    /// The numbers 0 to `count - 1`.
    fn of(self, count: u64) -> Vec<u64> {
        let mut numbers: Vec<u64> = (0..count).collect();
        match self {
            Self::AsTheyCame => {}
            Self::Backwards => numbers.reverse(),
            // Multiplying by an odd number mixes, and gives no number twice.
            Self::Shuffled => {
                numbers.sort_by_key(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            }
        }
        numbers
    }
}

/// 100,000 messages in hand of one partition, settled one by one.
#[divan::bench(args = ORDERS)]
fn watermark(bencher: Bencher, order: Order) {
    let order = order.of(IN_HAND);
    let full = || {
        let mut watermark = Watermark::new(0);
        for offset in 0..IN_HAND {
            watermark.track(offset, ());
        }
        watermark
    };
    bencher.counter(ItemsCount::new(IN_HAND)).with_inputs(full).bench_values(|mut watermark| {
        for offset in &order {
            watermark.settle(*offset);
            black_box(watermark.position());
        }
        watermark
    });
}

/// 10,000 messages through the lanes of a consumer, 256 at a time, of so many keys.
#[divan::bench(args = [1, 100, 10_000])]
fn lanes(bencher: Bencher, keys: usize) {
    const MESSAGES: usize = 10_000;
    let keys: Vec<Bytes> = (0..keys).map(|key| Bytes::from(format!("user-{key}"))).collect();
    bencher.counter(ItemsCount::new(MESSAGES)).with_inputs(Lanes::new).bench_values(|mut lanes| {
        let mut number = 0;
        while number < MESSAGES {
            for _ in 0..256 {
                let place = (Name::new("topic"), (number % 6) as u32);
                lanes.push(place, Some(keys[number % keys.len()].clone()), number);
                number += 1;
            }
            while let Some((lane, job)) = lanes.pop() {
                black_box(job);
                if let Some(lane) = lane {
                    lanes.done(lane);
                }
            }
        }
        lanes
    });
}

/// 10,000 deliveries of a channel handed out and settled, and the frames that say so.
#[divan::bench(args = ORDERS)]
fn coalesced_acks(bencher: Bencher, order: Order) {
    const DELIVERIES: u64 = 10_000;
    let order = order.of(DELIVERIES);
    let full = || {
        let mut ledger = Ledger::new(DELIVERIES as usize, 6);
        for tag in 1..=DELIVERIES {
            let message = Message::new(Bytes::from_static(b"x"));
            ledger.deliver(tag as usize % 6, Delivered { tag, message, partition: 0, returned: 0 });
        }
        ledger.hand_out(DELIVERIES as usize, |_, _, _, _, _| {});
        ledger
    };
    bencher.counter(ItemsCount::new(DELIVERIES)).with_inputs(full).bench_values(|mut ledger| {
        let mut frames = Vec::new();
        for some in order.chunks(64) {
            for number in some {
                ledger.settle(number + 1, Settlement::Ack);
            }
            ledger.tell(true, &mut frames);
        }
        (ledger, frames)
    });
}

//! Random interleavings compared with a model: what may be delivered is derived from nothing but
//! what was published, settled and is in hand.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use proptest::prelude::*;

const PREFETCH: usize = 5;

#[derive(Debug, Clone)]
enum Step {
    Publish(u32),
    Join,
    /// The member of this rank goes: closed first, or just dropped.
    Leave(usize, bool),
    /// The member of this rank asks for so many.
    Take(usize, usize),
    /// The delivery of this rank in hand is settled: acknowledged or rejected.
    Settle(usize, bool),
    Requeue(usize),
    /// A delivery that its member has lost is settled, too late.
    Late(usize, bool),
    AddPartition,
    SecondConnectionCloses,
}

fn step() -> impl Strategy<Value = Step> {
    let rank = any::<usize>;
    prop_oneof![
        8 => (0u32..8).prop_map(Step::Publish),
        2 => Just(Step::Join),
        1 => (rank(), any::<bool>()).prop_map(|(n, close)| Step::Leave(n, close)),
        8 => (rank(), 1usize..8).prop_map(|(n, max)| Step::Take(n, max)),
        8 => (rank(), any::<bool>()).prop_map(|(n, ack)| Step::Settle(n, ack)),
        3 => rank().prop_map(Step::Requeue),
        1 => (rank(), any::<bool>()).prop_map(|(n, ack)| Step::Late(n, ack)),
        1 => Just(Step::AddPartition),
        1 => Just(Step::SecondConnectionCloses),
    ]
}

struct Held {
    member: usize,
    delivery: Delivery,
}

struct World {
    order: Order,
    memory: Memory,
    /// Half of the members are on this connection.
    second: Memory,
    members: BTreeMap<usize, Box<dyn Source>>,
    on_second: BTreeSet<usize>,
    joined: usize,
    partitions: u32,
    published: BTreeSet<(u32, u64)>,
    settled: BTreeSet<(u32, u64)>,
    handed_out: BTreeMap<(u32, u64), u32>,
    held: Vec<Held>,
    /// Deliveries of members that are gone.
    lost: Vec<Delivery>,
}

impl World {
    fn new(order: Order) -> Self {
        let memory = Memory::new();
        create(&memory, TopicSpec::new(TOPIC).partitions(2));
        let group = GroupSpec { order, ..GroupSpec::new(GROUP) };
        now(memory.declare_group(TOPIC, &group)).unwrap();
        let second = memory.connect();
        Self {
            order,
            memory,
            second,
            members: BTreeMap::new(),
            on_second: BTreeSet::new(),
            joined: 0,
            partitions: 2,
            published: BTreeSet::new(),
            settled: BTreeSet::new(),
            handed_out: BTreeMap::new(),
            held: Vec::new(),
            lost: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish(key) => {
                let receipt = publish(&self.memory, key % self.partitions, Message::new("x"));
                assert!(self.published.insert((receipt.partition, receipt.offset.unwrap())));
            }
            Step::Join if self.members.len() < 4 => {
                self.joined += 1;
                let second = self.joined.is_multiple_of(2);
                let memory = if second { &self.second } else { &self.memory };
                self.members.insert(self.joined, join(memory, self.order, PREFETCH));
                if second {
                    self.on_second.insert(self.joined);
                }
            }
            Step::Join => {}
            Step::Leave(rank, close) => {
                let Some(member) = self.member(rank) else { return };
                let mut source = self.members.remove(&member).unwrap();
                if close {
                    now(source.close()).unwrap();
                }
                drop(source);
                self.lose(member);
            }
            Step::Take(rank, max) => {
                let Some(member) = self.member(rank) else { return };
                let batch = take(self.members.get_mut(&member).unwrap(), max);
                assert!(batch.len() <= max);
                batch.into_iter().for_each(|delivery| self.deliver(member, delivery));
            }
            Step::Settle(rank, ack) => {
                let Some(Held { delivery, .. }) = self.pick(rank) else { return };
                assert!(self.settled.insert(place(&delivery)));
                if ack { delivery.ack() } else { delivery.reject() }
            }
            Step::Requeue(rank) => {
                let Some(Held { delivery, .. }) = self.pick(rank) else { return };
                delivery.requeue();
            }
            Step::Late(rank, ack) => {
                let count = self.lost.len();
                if count > 0 {
                    let delivery = self.lost.remove(rank % count);
                    assert!(!delivery.is_live());
                    if ack { delivery.ack() } else { delivery.requeue() }
                }
            }
            Step::AddPartition if self.partitions < 6 => {
                self.partitions += 1;
                now(self.memory.add_partitions(TOPIC, self.partitions)).unwrap();
            }
            Step::AddPartition => {}
            Step::SecondConnectionCloses => {
                now(self.second.close()).unwrap();
                for member in std::mem::take(&mut self.on_second) {
                    if let Some(mut source) = self.members.remove(&member) {
                        assert!(now(source.next(1)).unwrap().is_none());
                        self.lose(member);
                    }
                }
                self.second = self.memory.connect();
            }
        }
    }

    fn member(&self, rank: usize) -> Option<usize> {
        self.members.keys().nth(rank % self.members.len().max(1)).copied()
    }

    fn pick(&mut self, rank: usize) -> Option<Held> {
        let count = self.held.len();
        (count > 0).then(|| self.held.remove(rank % count))
    }

    fn lose(&mut self, member: usize) {
        self.lost
            .extend(self.held.extract_if(.., |held| held.member == member).map(|h| h.delivery));
    }

    /// Checks that a member may have this delivery now.
    fn deliver(&mut self, member: usize, delivery: Delivery) {
        let at = place(&delivery);
        assert!(delivery.is_live());
        assert!(self.published.contains(&at));
        assert!(!self.settled.contains(&at), "{at:?} was settled");
        let in_hand = |at: &(u32, u64)| self.held.iter().find(|held| place(&held.delivery) == *at);
        assert!(in_hand(&at).is_none(), "{at:?} is in hand");
        for before in self.published.range((at.0, 0)..at) {
            let by = in_hand(before).map(|held| held.member);
            let fine = match self.order {
                Order::Key => by == Some(member),
                Order::None => by.is_some(),
            };
            assert!(
                self.settled.contains(before) || fine,
                "{before:?} is unsettled with {by:?}, but {at:?} went to {member}"
            );
        }
        let times = self.handed_out.entry(at).or_default();
        assert_eq!(delivery.received().redeliveries, Some(*times));
        *times += 1;
        self.held.push(Held { member, delivery });
        let has = self.held.iter().filter(|held| held.member == member).count();
        assert!(has <= PREFETCH, "{has} in hand");
    }

    /// Lets the members that are left do the rest: everything has to reach one of them.
    fn finish(mut self) {
        self.step(Step::Join);
        let mut idle = 0;
        while idle < 2 {
            let before = self.settled.len();
            for rank in 0..self.members.len() {
                self.step(Step::Take(rank, 100));
            }
            while !self.held.is_empty() {
                self.step(Step::Settle(0, true));
            }
            idle = if self.settled.len() == before { idle + 1 } else { 0 };
        }
        assert_eq!(self.settled, self.published, "something was lost");
        let counts: Vec<_> = self.members.keys().copied().collect();
        assert!(
            self.order == Order::None || counts.len() as u32 > self.partitions || {
                // Each member got its part: one more message in every partition reaches them all.
                for partition in 0..self.partitions {
                    self.step(Step::Publish(partition));
                }
                for rank in 0..counts.len() {
                    self.step(Step::Take(rank, 100));
                }
                counts.iter().all(|member| self.held.iter().any(|held| held.member == *member))
            }
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_lost_nothing_settled_comes_back_and_keys_stay_in_order(
        steps in proptest::collection::vec(step(), 0..150),
        none in any::<bool>(),
    ) {
        let mut world = World::new(if none { Order::None } else { Order::Key });
        steps.into_iter().for_each(|step| world.step(step));
        world.finish();
    }
}

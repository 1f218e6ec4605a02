//! Which message may be handled next: one of a key at a time, partitions in turn.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::name::Name;

/// A partition of a topic.
pub(crate) type Place = (Name, u32);

/// From so many partitions on one that has no job is forgotten for another.
const MANY: usize = 1_024;

/// Jobs waiting to be handled. Those of one lane come out one at a time and in order; different
/// lanes, and jobs without one, are independent. Partitions take turns.
pub(crate) struct Lanes<J> {
    /// The partitions that had a job, in the order of their first ones. There are few, and looking
    /// through them costs less than hashing their names.
    partitions: Vec<Partition<J>>,
    /// The partition of the last job that was pushed: mostly that of the next one too.
    last: usize,
    /// The partitions that have something ready, in the order of their turns.
    turns: VecDeque<usize>,
}

struct Partition<J> {
    place: Place,
    /// Keys with a job that is ready or being handled; the queue holds those behind it.
    ///
    /// The hash is one for speed: there are no more keys here than the prefetch, so keys that are
    /// made to collide would cost little.
    busy: HashMap<Bytes, VecDeque<J>, RandomState>,
    ready: VecDeque<Job<J>>,
}

struct Job<J> {
    key: Option<Bytes>,
    job: J,
}

/// A key within its partition. Given out with a job, and given back when the job is done.
#[derive(Debug)]
pub(crate) struct Lane {
    partition: usize,
    key: Bytes,
}

impl<J> Lanes<J> {
    pub(crate) fn new() -> Self {
        Self { partitions: Vec::new(), last: 0, turns: VecDeque::new() }
    }

    /// Adds a job behind those of its key, if it has one.
    pub(crate) fn push(&mut self, place: Place, key: Option<Bytes>, job: J) {
        let number = self.number(place);
        let partition = &mut self.partitions[number];
        if let Some(key) = &key {
            match partition.busy.entry(key.clone()) {
                Entry::Occupied(mut behind) => return behind.get_mut().push_back(job),
                Entry::Vacant(idle) => drop(idle.insert(VecDeque::new())),
            }
        }
        self.make_ready(number, Job { key, job });
    }

    /// Whether a job may be handled now.
    pub(crate) fn has_ready(&self) -> bool {
        !self.turns.is_empty()
    }

    /// The next job that may be handled now, with the lane to give back when it is done.
    pub(crate) fn pop(&mut self) -> Option<(Option<Lane>, J)> {
        let number = self.turns.pop_front()?;
        let ready = &mut self.partitions.get_mut(number)?.ready;
        let Job { key, job } = ready.pop_front()?;
        if !ready.is_empty() {
            self.turns.push_back(number);
        }
        Some((key.map(|key| Lane { partition: number, key }), job))
    }

    /// Frees a lane whose job is done; the next one of its key becomes ready.
    pub(crate) fn done(&mut self, lane: Lane) {
        let Lane { partition: number, key } = lane;
        let Some(partition) = self.partitions.get_mut(number) else { return };
        let Entry::Occupied(mut behind) = partition.busy.entry(key) else { return };
        match behind.get_mut().pop_front() {
            Some(job) => {
                let key = Some(behind.key().clone());
                self.make_ready(number, Job { key, job });
            }
            None => drop(behind.remove()),
        }
    }

    /// Takes out all jobs that have not been given out. The lanes of those that have stay taken
    /// until they are done.
    pub(crate) fn drain(&mut self) -> Vec<J> {
        self.turns.clear();
        let mut all = Vec::new();
        for Partition { busy, ready, .. } in &mut self.partitions {
            for Job { key, job } in ready.drain(..) {
                all.push(job);
                all.extend(key.and_then(|key| busy.remove(&key)).into_iter().flatten());
            }
            for behind in busy.values_mut() {
                all.extend(behind.drain(..));
            }
        }
        all
    }

    fn number(&mut self, place: Place) -> usize {
        // The number first: it is what differs.
        let is_it = |p: &Partition<J>| p.place.1 == place.1 && p.place.0 == place.0;
        if self.partitions.get(self.last).is_some_and(is_it) {
            return self.last;
        }
        self.last = self.partitions.iter().position(is_it).unwrap_or_else(|| self.add(place));
        self.last
    }

    fn add(&mut self, place: Place) -> usize {
        let partitions = &mut self.partitions;
        // Partitions come from anybody's headers too, so there is no end to them.
        let idle = |p: &Partition<J>| p.busy.is_empty() && p.ready.is_empty();
        if partitions.len() >= MANY
            && let Some(number) = partitions.iter().position(idle)
        {
            partitions[number].place = place;
            return number;
        }
        partitions.push(Partition { place, busy: HashMap::default(), ready: VecDeque::new() });
        partitions.len() - 1
    }

    fn make_ready(&mut self, number: usize, job: Job<J>) {
        let ready = &mut self.partitions[number].ready;
        if ready.is_empty() {
            self.turns.push_back(number);
        }
        ready.push_back(job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A job that is out, as (partition, key, number).
    type Out = (Option<Lane>, (u32, Option<u8>, usize));

    fn place(partition: u32) -> Place {
        (Name::new("t"), partition)
    }

    #[test]
    fn partitions_take_turns() {
        let mut lanes = Lanes::new();
        for n in 0..3 {
            lanes.push(place(0), None, (0, n));
        }
        lanes.push(place(1), None, (1, 0));
        let order: Vec<_> = std::iter::from_fn(|| lanes.pop()).map(|(_, job)| job).collect();
        assert_eq!(order, [(0, 0), (1, 0), (0, 1), (0, 2)]);
    }

    #[test]
    fn a_slow_key_delays_only_itself() {
        let mut lanes = Lanes::new();
        for (key, n) in [("a", 1), ("a", 2), ("b", 3)] {
            lanes.push(place(0), Some(Bytes::from(key)), n);
        }
        let (slow, first) = lanes.pop().unwrap();
        assert_eq!((first, lanes.pop().unwrap().1), (1, 3));
        assert!(lanes.pop().is_none(), "2 has to wait for 1");
        lanes.done(slow.unwrap());
        assert_eq!(lanes.pop().unwrap().1, 2);
    }

    #[test]
    fn after_a_drain_a_key_that_is_out_still_has_its_lane() {
        let mut lanes = Lanes::new();
        for (key, n) in [("a", 1), ("a", 2), ("b", 3), ("b", 4)] {
            lanes.push(place(0), Some(Bytes::from(key)), n);
        }
        let (out, _) = lanes.pop().unwrap();
        assert_eq!((lanes.drain().len(), lanes.pop().is_none()), (3, true));
        lanes.push(place(0), Some(Bytes::from("a")), 5);
        assert!(lanes.pop().is_none(), "1 of the same key is still out");
        lanes.push(place(0), Some(Bytes::from("b")), 6);
        assert_eq!(lanes.pop().unwrap().1, 6);
        lanes.done(out.unwrap());
        assert_eq!(lanes.pop().unwrap().1, 5);
    }

    #[test]
    fn partitions_without_jobs_are_forgotten_when_there_are_many() {
        let mut lanes = Lanes::new();
        lanes.push(place(0), Some(Bytes::from("a")), 0);
        let (kept, _) = lanes.pop().unwrap();
        for partition in 1..5_000 {
            lanes.push(place(partition), Some(Bytes::from("a")), partition);
            let (lane, job) = lanes.pop().unwrap();
            assert_eq!(job, partition);
            lanes.done(lane.unwrap());
        }
        assert_eq!(lanes.partitions.len(), MANY);
        lanes.push(place(0), Some(Bytes::from("a")), 1);
        assert!(lanes.pop().is_none(), "0 of the same key is still out");
        lanes.done(kept.unwrap());
        assert_eq!(lanes.pop().unwrap().1, 1);
    }

    proptest! {
        /// Whatever is pushed, popped and done in whatever order: of each key at most one is out,
        /// each comes out once and in order, and in the end nothing is left behind.
        #[test]
        fn each_key_comes_out_one_at_a_time_and_in_order(
            steps in proptest::collection::vec((0u8..3, 0u32..2, proptest::option::of(0u8..3)), 0..200),
        ) {
            let mut lanes = Lanes::new();
            let mut out: Vec<Out> = Vec::new();
            let mut last: HashMap<(u32, u8), usize> = HashMap::new();
            let (mut pushed, mut popped) = (0, 0);
            let mut check = |popped: &Out, out: &[Out]| {
                let (partition, key, n) = popped.1;
                if let Some(key) = key {
                    prop_assert!(out.iter().all(|(_, (p, k, _))| (*p, *k) != (partition, Some(key))));
                    let before = last.insert((partition, key), n);
                    prop_assert!(before.is_none_or(|before| before < n));
                }
                Ok(())
            };
            for (n, (step, partition, key)) in steps.into_iter().enumerate() {
                match step {
                    0 => {
                        let bytes = key.map(|key| Bytes::copy_from_slice(&[key]));
                        lanes.push(place(partition), bytes, (partition, key, n));
                        pushed += 1;
                    }
                    1 => if let Some(job) = lanes.pop() {
                        check(&job, &out)?;
                        out.push(job);
                        popped += 1;
                    },
                    _ => if !out.is_empty() {
                        let (lane, _) = out.swap_remove(n % out.len());
                        if let Some(lane) = lane { lanes.done(lane); }
                    },
                }
            }
            while popped < pushed {
                match lanes.pop() {
                    Some(job) => { check(&job, &out)?; out.push(job); popped += 1; }
                    None => {
                        let (lane, _) = out.pop().expect("something is out while something waits");
                        if let Some(lane) = lane { lanes.done(lane); }
                    }
                }
            }
            for (lane, _) in out { if let Some(lane) = lane { lanes.done(lane); } }
            let empty = |p: &Partition<_>| p.busy.is_empty() && p.ready.is_empty();
            prop_assert!(lanes.partitions.iter().all(empty) && lanes.turns.is_empty());
        }
    }
}

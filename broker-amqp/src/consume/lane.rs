//! The queues that a member consumes.

use broker_api::{GroupSpec, Name, Order};
use lapin::Consumer;
use lapin::types::ShortString;

use crate::names;
use crate::registry::Topic;

/// A queue to be consumed.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) topic: Name,
    /// `None` where the queue has all partitions.
    pub(super) partition: Option<u32>,
    /// How many partitions the topic has.
    pub(super) of: u32,
    /// It has what was published before the group was declared.
    pub(super) history: bool,
    pub(super) queue: ShortString,
}

/// A queue that is consumed.
pub(super) struct Lane {
    pub(super) topic: Name,
    pub(super) partition: Option<u32>,
    pub(super) queue: ShortString,
    pub(super) history: bool,
    pub(super) consumer: Consumer,
    /// The mark at the end of a history.
    pub(super) mark: Option<u64>,
    /// The broker has ended the consumer.
    pub(super) ended: bool,
}

impl Wanted {
    /// The queues that a group has for a topic now: of a partition whose history is not handled yet
    /// only the one with the history.
    pub(super) fn of(topic: &Topic, group: &GroupSpec) -> Vec<Self> {
        let histories = topic.groups.get(&group.name).map(|group| &group.history);
        let wanted = |partition: Option<u32>| {
            let number = partition.unwrap_or(0);
            let has_history = |p| histories.is_some_and(|histories| histories.contains(&p));
            let history = partition.is_some_and(has_history);
            let queue = match history {
                true => names::history(topic.name, group.name, number),
                false => names::queue(topic.name, group.name, group.order, number),
            };
            Self { topic: topic.name, partition, of: topic.partitions, history, queue }
        };
        match group.order {
            Order::None => vec![wanted(None)],
            Order::Key => (0..topic.partitions).map(|p| wanted(Some(p))).collect(),
        }
    }

    /// It, consumed.
    pub(super) fn consumed_by(self, consumer: Consumer) -> Lane {
        let Self { topic, partition, history, queue, .. } = self;
        Lane { topic, partition, queue, history, consumer, mark: None, ended: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Event, State};
    use broker_api::TopicSpec;

    const T: Name = Name::new("t");

    fn queues(order: Order, history: Vec<u32>) -> Vec<(String, Option<u32>)> {
        let group = GroupSpec { order, ..GroupSpec::new(Name::new("g")) };
        let (topic, name) = (|| "t".to_owned(), || "g".to_owned());
        let mut state = State::default();
        let events = [
            Event::creation(&TopicSpec::new(T).partitions(3), 6),
            Event::Group { topic: topic(), group: name(), order: order.into() },
            Event::Ready { topic: topic(), group: name(), history },
        ];
        for (place, event) in (0..).zip(&events) {
            assert!(state.apply(place, event));
        }
        let wanted = Wanted::of(state.topic(T).unwrap(), &group);
        wanted.into_iter().map(|w| (w.queue.to_string(), w.partition)).collect()
    }

    #[test]
    fn a_group_in_order_has_a_queue_for_each_partition() {
        let expected = [("t:g:0", Some(0)), ("t:g:1", Some(1)), ("t:g:2", Some(2))];
        assert_eq!(queues(Order::Key, vec![]), expected.map(|(q, p)| (q.to_owned(), p)));
    }

    #[test]
    fn a_group_without_order_has_one_queue() {
        assert_eq!(queues(Order::None, vec![]), [("t:g".to_owned(), None)]);
    }

    #[test]
    fn a_history_comes_before_its_partition() {
        let expected = ["t:g:0", "t:g:1:history", "t:g:2"];
        let queues = queues(Order::Key, vec![1]).into_iter().map(|(queue, _)| queue);
        assert_eq!(queues.collect::<Vec<_>>(), expected);
    }
}

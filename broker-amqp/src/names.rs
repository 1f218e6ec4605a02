//! What the exchanges and queues of a topic are called.
//!
//! Topic and group names may contain dots, so what is made of both is joined by a colon, which they
//! cannot contain: with dots, group `b.c` of topic `a` and group `c` of topic `a.b` would share
//! their queues.

use broker_api::{Name, Order};
use lapin::types::ShortString;

/// The exchange that publishers publish to, with the partition number as the routing key.
pub(crate) fn exchange(topic: Name) -> ShortString {
    topic.as_str().into()
}

/// Where messages with any other routing key go on to: foreign publishers know no partitions.
pub(crate) fn unkeyed_exchange(topic: Name) -> ShortString {
    format!("{topic}:unkeyed").into()
}

/// The stream queue that keeps the messages of a topic with retention.
pub(crate) fn stream(topic: Name) -> ShortString {
    format!("{topic}::stream").into()
}

/// The queue whose owner may change the topology of the topic.
pub(crate) fn lock(topic: Name) -> ShortString {
    format!("{topic}::lock").into()
}

/// The queue of a group for one partition, or for all where it keeps no order.
pub(crate) fn queue(topic: Name, group: Name, order: Order, partition: u32) -> ShortString {
    match order {
        Order::Key => format!("{topic}:{group}:{partition}").into(),
        Order::None => format!("{topic}:{group}").into(),
    }
}

/// The queue that belongs to the member of a group in this seat, and has no messages.
pub(crate) fn seat(topic: Name, group: Name, number: u32) -> ShortString {
    format!("{topic}:{group}:seat:{number}").into()
}

/// The queue with what was published before the group was declared, for one partition. It is
/// consumed before the other one, and deleted then.
pub(crate) fn history(topic: Name, group: Name, partition: u32) -> ShortString {
    format!("{topic}:{group}:{partition}:history").into()
}

/// A partition as a routing key.
pub(crate) fn routing_key(partition: u32) -> ShortString {
    partition.to_string().into()
}

/// The partition that a routing key means among `partitions`; 0 for any other key.
pub(crate) fn partition_of(routing_key: &str, partitions: u32) -> u32 {
    let number = routing_key.parse().ok().filter(|n| *n < partitions);
    // "+1" and "01" parse, but are bound to nothing.
    number.filter(|n: &u32| n.to_string() == routing_key).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_different_topics_never_share_a_queue() {
        let queue = |topic, group| queue(Name::new(topic), Name::new(group), Order::Key, 0);
        assert_ne!(queue("a", "b.c"), queue("a.b", "c"));
        let plain = super::queue(Name::new("a"), Name::new("stream"), Order::None, 0);
        assert_ne!(plain, stream(Name::new("a")));
    }

    #[test]
    fn a_routing_key_that_is_no_partition_means_the_first() {
        for (key, partition) in [("2", 2), ("3", 0), ("", 0), ("02", 0), ("+1", 0), ("x", 0)] {
            assert_eq!(partition_of(key, 3), partition, "{key:?}");
        }
    }
}

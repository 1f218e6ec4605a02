//! What topics and groups there are, as the log of the registry tells it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use broker_api::{DEFAULT_MAX_MESSAGE_BYTES, Name, Order, TopicDescription};

use crate::registry::event::Event;

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) name: Name,
    /// Where its creation stands in the log: another topic of the same name has another one.
    pub(crate) incarnation: u64,
    pub(crate) partitions: u32,
    pub(crate) copies: Option<u16>,
    pub(crate) retention: Option<Duration>,
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) max_message_bytes: usize,
    pub(crate) deleting: bool,
    pub(crate) groups: BTreeMap<Name, Group>,
}

/// A group of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) order: Order,
    /// Its queues are there.
    pub(crate) ready: bool,
    /// The partitions whose history is not consumed yet.
    pub(crate) history: BTreeSet<u32>,
}

impl Topic {
    /// Whether it keeps its messages in a stream.
    pub(crate) fn has_stream(&self) -> bool {
        self.retention.is_some() || self.retention_bytes.is_some()
    }

    pub(crate) fn description(&self) -> TopicDescription {
        let mut description = TopicDescription::new(self.name, self.partitions);
        description.replication = self.copies;
        description.retention = self.retention;
        description.retention_bytes = self.retention_bytes;
        description.max_message_bytes = Some(self.max_message_bytes);
        description
    }
}

/// All topics, from the log up to some place.
#[derive(Debug, Default)]
pub(crate) struct State {
    topics: HashMap<Name, Topic>,
}

impl State {
    pub(crate) fn topic(&self, name: Name) -> Option<&Topic> {
        self.topics.get(&name)
    }

    /// Takes in the event at this place of the log; whether it changed anything. One that comes
    /// too late, as the second creation of a topic does, has no effect.
    pub(crate) fn apply(&mut self, place: u64, event: &Event) -> bool {
        self.try_apply(place, event).unwrap_or(false)
    }

    /// `None` where it names something that is not there.
    fn try_apply(&mut self, place: u64, event: &Event) -> Option<bool> {
        let name = |name: &str| Name::intern(name).ok();
        match event {
            Event::Topic { topic, partitions, .. } => {
                let name = name(topic)?;
                if self.topics.contains_key(&name) || *partitions == 0 {
                    return Some(false);
                }
                self.topics.insert(name, created(name, place, event)?);
            }
            Event::Partitions { topic, total } => {
                let topic = self.topics.get_mut(&name(topic)?).filter(|t| !t.deleting)?;
                if *total <= topic.partitions {
                    return Some(false);
                }
                topic.partitions = *total;
            }
            Event::Deleting { topic } => {
                let topic = self.topics.get_mut(&name(topic)?)?;
                return Some(!std::mem::replace(&mut topic.deleting, true));
            }
            Event::Deleted { topic } => {
                self.topics.remove(&name(topic)?)?;
            }
            Event::Group { topic, group, order } => {
                let topic = self.topics.get_mut(&name(topic)?).filter(|t| !t.deleting)?;
                let group = name(group)?;
                if topic.groups.contains_key(&group) {
                    return Some(false);
                }
                let made = Group { order: (*order).into(), ready: false, history: BTreeSet::new() };
                topic.groups.insert(group, made);
            }
            Event::Ready { topic, group, history } => {
                let group = self.group(topic, group)?;
                if group.ready {
                    return Some(false);
                }
                group.ready = true;
                group.history = history.iter().copied().collect();
            }
            Event::Drained { topic, group, partition } => {
                return Some(self.group(topic, group)?.history.remove(partition));
            }
            Event::Sync => return Some(false),
        }
        Some(true)
    }

    fn group(&mut self, topic: &str, group: &str) -> Option<&mut Group> {
        let topic = self.topics.get_mut(&Name::intern(topic).ok()?)?;
        topic.groups.get_mut(&Name::intern(group).ok()?)
    }
}

fn created(name: Name, incarnation: u64, event: &Event) -> Option<Topic> {
    let Event::Topic {
        partitions, copies, retention_ms, retention_bytes, max_message_bytes, ..
    } = event
    else {
        return None;
    };
    let max_message_bytes = max_message_bytes.and_then(|bytes| usize::try_from(bytes).ok());
    Some(Topic {
        name,
        incarnation,
        partitions: *partitions,
        copies: *copies,
        retention: retention_ms.map(|ms| match ms {
            u64::MAX => Duration::MAX,
            ms => Duration::from_millis(ms),
        }),
        retention_bytes: *retention_bytes,
        max_message_bytes: max_message_bytes.unwrap_or(DEFAULT_MAX_MESSAGE_BYTES),
        deleting: false,
        groups: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker_api::TopicSpec;

    const T: Name = Name::new("t");
    const G: Name = Name::new("g");

    fn creation(partitions: u32) -> Event {
        Event::creation(&TopicSpec::new(T).partitions(partitions), 6)
    }

    fn group(order: Order) -> Event {
        Event::Group { topic: "t".into(), group: "g".into(), order: order.into() }
    }

    #[test]
    fn the_first_creation_in_the_log_counts() {
        let mut state = State::default();
        assert!(state.apply(0, &creation(3)));
        assert!(!state.apply(1, &creation(5)));
        assert_eq!(state.topic(T).map(|t| (t.incarnation, t.partitions)), Some((0, 3)));
    }

    #[test]
    fn a_topic_that_is_being_deleted_takes_nothing_new() {
        let mut state = State::default();
        let deleting = Event::Deleting { topic: "t".into() };
        assert!(!state.apply(0, &deleting));
        state.apply(1, &creation(3));
        assert!(state.apply(2, &deleting));
        assert!(!state.apply(3, &deleting));
        assert!(!state.apply(4, &group(Order::Key)));
        assert!(!state.apply(5, &Event::Partitions { topic: "t".into(), total: 9 }));
        assert!(!state.apply(6, &creation(3)), "it is still there");
        assert!(state.apply(7, &Event::Deleted { topic: "t".into() }));
        assert!(state.topic(T).is_none());
        assert!(state.apply(8, &creation(4)));
        assert_eq!(state.topic(T).map(|t| t.incarnation), Some(8));
    }

    #[test]
    fn a_group_is_made_once_and_then_ready() {
        let mut state = State::default();
        state.apply(0, &creation(3));
        assert!(state.apply(1, &group(Order::Key)));
        assert!(!state.apply(2, &group(Order::None)));
        let ready = Event::Ready { topic: "t".into(), group: "g".into(), history: vec![0, 2] };
        assert!(state.apply(3, &ready) && !state.apply(4, &ready));
        let drained = Event::Drained { topic: "t".into(), group: "g".into(), partition: 2 };
        assert!(state.apply(5, &drained) && !state.apply(6, &drained));
        let group = &state.topic(T).unwrap().groups[&G];
        assert_eq!((group.order, group.ready), (Order::Key, true));
        assert_eq!(group.history, BTreeSet::from([0]));
    }

    #[test]
    fn partitions_only_become_more() {
        let mut state = State::default();
        state.apply(0, &creation(3));
        let grow = |total| Event::Partitions { topic: "t".into(), total };
        assert!(state.apply(1, &grow(5)) && !state.apply(2, &grow(4)) && !state.apply(3, &grow(5)));
        assert_eq!(state.topic(T).map(|t| t.partitions), Some(5));
    }

    #[test]
    fn what_is_kept_for_ever_is_described_so() {
        let spec = TopicSpec::new(T).retention(Duration::MAX);
        let mut state = State::default();
        state.apply(0, &Event::creation(&spec, 6));
        let description = state.topic(T).unwrap().description();
        assert_eq!(description.retention, Some(Duration::MAX));
        assert_eq!(spec.differences(&description), Vec::<String>::new());
    }

    #[test]
    fn an_event_of_an_unknown_topic_or_with_a_bad_name_has_no_effect() {
        let mut state = State::default();
        assert!(!state.apply(0, &group(Order::Key)) && !state.apply(1, &Event::Sync));
        let bad = Event::Partitions { topic: "not a name!".into(), total: 2 };
        assert!(!state.apply(2, &bad));
    }
}

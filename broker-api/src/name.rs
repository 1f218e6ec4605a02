//! Names that are valid on every broker.

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::{Error, ErrorKind, Result};

/// The longest topic or group name, in bytes. Kafka stops at 249 and RabbitMQ at 255; what is
/// left is room for the names that are made from both (`{topic}.{group}.retry.{delay}`).
pub const MAX_NAME_BYTES: usize = 200;

/// The most bytes of a topic's name plus twice its group's. The longest name made from them has the
/// group in it twice: RabbitMQ's queue of the group's own retry topic.
pub const MAX_TOPIC_AND_GROUP_BYTES: usize = 220;

/// The name of a topic or of a consumer group: 1 to [`MAX_NAME_BYTES`] of `a-z A-Z 0-9 . _ -`,
/// neither `.` nor `..`. That is Kafka's rule, which RabbitMQ's contains.
///
/// It is `Copy`: a name made at run time is interned and lives as long as the process.
#[derive(Clone, Copy, Eq, PartialOrd, Ord)]
pub struct Name(&'static str);

impl PartialEq for Name {
    /// Mostly it is the same memory: names are compared several times for each message.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0) || self.0 == other.0
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// The most names that are kept because a message said them.
const MAX_RECEIVED: usize = 10_000;

static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);

/// The names that were made at run time.
#[derive(Default)]
struct Names {
    all: HashSet<&'static str>,
    /// How many of them a message said first.
    received: usize,
}

impl Names {
    fn keep(&mut self, name: &str) -> Name {
        if let Some(known) = self.all.get(name) {
            return Name(known);
        }
        let kept: &'static str = Box::leak(name.into());
        self.all.insert(kept);
        Name(kept)
    }

    fn receive(&mut self, name: &str) -> Result<Name> {
        checked(name)?;
        if !self.all.contains(name) {
            if self.received == MAX_RECEIVED {
                let why = "it is new here, and messages have said too many new names already";
                return Err(Error::new(ErrorKind::InvalidName, "name", why).with("name", name));
            }
            self.received += 1;
        }
        Ok(self.keep(name))
    }
}

fn checked(name: &str) -> Result<()> {
    check(name.as_bytes()).map_err(|why| {
        let shown: String = name.chars().take(64).collect();
        Error::new(ErrorKind::InvalidName, "name", why).with("name", format!("{shown:?}"))
    })
}

impl Name {
    /// A name known when the program is built. A bad one does not compile where this is a constant.
    ///
    /// # Panics
    /// On a name that breaks the rule.
    pub const fn new(name: &'static str) -> Self {
        match check(name.as_bytes()) {
            Ok(()) => Self(name),
            Err(_) => panic!("a topic or group name is 1 to 200 of a-z A-Z 0-9 . _ -"),
        }
    }

    /// A name made at run time.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`], which says what is wrong with it.
    pub fn intern(name: &str) -> Result<Self> {
        checked(name)?;
        Ok(NAMES.lock().unwrap_or_else(PoisonError::into_inner).keep(name))
    }

    /// A name that a message says, which anybody may have written. It is interned too, but no more
    /// than 10,000 of those that are new: they are never forgotten.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`], which says what is wrong with it.
    pub(crate) fn received(name: &str) -> Result<Self> {
        NAMES.lock().unwrap_or_else(PoisonError::into_inner).receive(name)
    }

    /// The name as text.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

const fn check(name: &[u8]) -> std::result::Result<(), &'static str> {
    if name.is_empty() {
        return Err("the name is empty; it needs 1 to 200 of a-z A-Z 0-9 . _ -");
    }
    if name.len() > MAX_NAME_BYTES {
        return Err("the name is too long; the limit is 200 bytes");
    }
    if name[0] == b'.' && (name.len() == 1 || (name.len() == 2 && name[1] == b'.')) {
        return Err("the names . and .. are not allowed");
    }
    let mut i = 0;
    while i < name.len() {
        if !matches!(name[i], b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-') {
            return Err("the name has a character other than a-z A-Z 0-9 . _ -");
        }
        i += 1;
    }
    Ok(())
}

/// Checks a topic and a group that are used together.
///
/// # Errors
/// [`ErrorKind::InvalidName`] if together they leave no room for the names made from both.
pub(crate) fn check_pair(topic: Name, group: Name) -> Result<()> {
    let length = topic.0.len() + 2 * group.0.len();
    if length <= MAX_TOPIC_AND_GROUP_BYTES {
        return Ok(());
    }
    let why = format!(
        "the topic's name and twice the group's have {length} bytes, the limit is {MAX_TOPIC_AND_GROUP_BYTES}"
    );
    Err(Error::new(ErrorKind::InvalidName, "name", why).with("topic", topic).with("group", group))
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_of_kafka() {
        for good in ["a", "feature_usage_topic", "video.created", "A-1_b.c", "..."] {
            assert!(Name::intern(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a b", "ä", "a/b", "a\n", &"x".repeat(201)] {
            let error = Name::intern(bad).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::InvalidName, "{bad}");
        }
    }

    #[test]
    fn a_name_interned_twice_is_the_same_memory() {
        let (a, b) = (Name::intern("twice").unwrap(), Name::intern("twice").unwrap());
        assert!(std::ptr::eq(a.as_str(), b.as_str()));
    }

    #[test]
    fn what_messages_say_is_kept_up_to_a_limit_and_known_names_always_are() {
        let mut names = Names::default();
        let known = names.keep("known-before");
        for n in 0..MAX_RECEIVED {
            assert!(names.receive(&format!("said-{n}")).is_ok());
        }
        assert_eq!(names.receive("one-more").unwrap_err().kind(), ErrorKind::InvalidName);
        assert!(std::ptr::eq(names.receive("known-before").unwrap().as_str(), known.as_str()));
        assert!(names.receive("said-0").is_ok());
        assert!(names.receive("not a name").is_err());
        assert_eq!(names.all.len(), MAX_RECEIVED + 1);
    }

    #[test]
    fn topic_and_group_leave_room_for_names_made_from_both() {
        let long = Name::intern(&"t".repeat(200)).unwrap();
        assert!(check_pair(long, Name::new("0123456789")).is_ok());
        assert!(check_pair(long, Name::new("0123456789a")).is_err());
    }
}

//! What a backend can do for a topic, and why not where it cannot.

use std::borrow::Cow;
use std::fmt;

/// Something that not every backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// Reading a topic again without a group ([`Backend::read`](crate::Backend::read)).
    Replay,
    /// A message without any consumer group is kept, and a new group can begin before now.
    StartPosition,
    /// Receipts and deliveries carry the offset of the message in its partition.
    Offsets,
    /// Deliveries count how often they were handed over before.
    DeliveryCount,
    /// Members of a group share its partitions evenly by themselves.
    Balance,
    /// A partition that another member is to have is taken from one that does not settle what it
    /// holds of it: that is handled again by the other, and what the first one settles late has no
    /// effect. Elsewhere the partition stays until all that is held of it is settled.
    Revocation,
    /// Only the newest message of each key is kept.
    Compaction,
    /// Partitions can be added to a topic.
    AddPartitions,
    /// How many messages a group has not settled can be asked.
    Lag,
    /// A message can be settled together with what is published for it, both or neither
    /// ([`Consumer::exactly_once`](crate::Consumer::exactly_once)).
    Transactions,
}

/// What a backend can do for one topic: everything but what is listed as missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    missing: Vec<(Capability, Cow<'static, str>)>,
}

impl Capabilities {
    /// Everything.
    pub const fn all() -> Self {
        Self { missing: Vec::new() }
    }

    /// All but this one, with the reason, in words that complete "not supported: …".
    pub fn without(mut self, capability: Capability, why: impl Into<Cow<'static, str>>) -> Self {
        self.missing.push((capability, why.into()));
        self
    }

    /// Whether it can be done.
    pub fn supports(&self, capability: Capability) -> bool {
        self.why_not(capability).is_none()
    }

    /// Why it cannot be done; `None` if it can.
    pub fn why_not(&self, capability: Capability) -> Option<&str> {
        let mut missing = self.missing.iter();
        missing.find(|(c, _)| *c == capability).map(|(_, why)| why.as_ref())
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replay => "replay",
            Self::StartPosition => "start position",
            Self::Offsets => "offsets",
            Self::DeliveryCount => "delivery count",
            Self::Balance => "balance",
            Self::Revocation => "revocation",
            Self::Compaction => "compaction",
            Self::AddPartitions => "adding partitions",
            Self::Lag => "lag",
            Self::Transactions => "transactions",
        })
    }
}

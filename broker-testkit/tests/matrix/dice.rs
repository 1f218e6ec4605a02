//! Chance that can be had again by its seed.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// A source of numbers (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice of their own for this, the same each time.
    pub(crate) fn of(&self, name: &str, number: u64) -> Self {
        let mut hasher = DefaultHasher::new();
        (self.0, name, number).hash(&mut hasher);
        Self(hasher.finish())
    }

    /// The next number below this one.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }
}

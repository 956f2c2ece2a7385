//! Repeatable choices.

use std::hash::{BuildHasher as _, RandomState};

/// A generator of numbers (`SplitMix64`): the same seed, the same numbers.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From `TLOG_TEST_SEED`, else from the system; prints the seed, which a failed test then shows.
    ///
    /// # Panics
    /// When the variable is no number.
    #[must_use]
    pub fn from_environment() -> Self {
        let seed = match std::env::var("TLOG_TEST_SEED") {
            Ok(text) => text.parse().expect("TLOG_TEST_SEED is a number"),
            Err(_) => RandomState::new().hash_one(std::process::id()),
        };
        println!("TLOG_TEST_SEED={seed}");
        Self(seed)
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, 0 for 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64().checked_rem(bound).unwrap_or(0)
    }

    /// An index into something of `length`.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = count.div_ceil(8);
        let mut bytes: Vec<u8> = (0..words).flat_map(|_| self.next_u64().to_le_bytes()).collect();
        bytes.truncate(count);
        bytes
    }
}

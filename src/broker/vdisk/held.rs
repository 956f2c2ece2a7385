//! Blocks beyond a gap, held until it fills.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::record::vdisk::Block;
use crate::types::limits::{VDISK_HELD_BLOCKS, VDISK_HELD_BYTES};

/// Memory of one held block beside its data.
const BLOCK_OVERHEAD_BYTES: usize = 256;

/// Memory for held blocks of all vdisks together.
#[derive(Debug, Clone)]
pub struct HeldBudget {
    left: Arc<AtomicUsize>,
}

impl HeldBudget {
    /// A budget of `bytes`.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)) }
    }

    fn take(&self, bytes: usize) -> bool {
        // Only a count: nothing is read that another thread wrote.
        let less = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What came of a block beyond the gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// It is held now, or was already.
    Held,
    /// No room; the client sends it again.
    Dropped,
    /// Another block of that sequence is held.
    Conflict,
}

/// The held blocks of one vdisk, by sequence.
#[derive(Debug)]
pub(super) struct Held {
    blocks: BTreeMap<u64, (Block, u64)>,
    bytes: usize,
    budget: HeldBudget,
}

fn cost(block: &Block) -> usize {
    block.data.len() + BLOCK_OVERHEAD_BYTES
}

impl Held {
    pub fn new(budget: HeldBudget) -> Self {
        Self { blocks: BTreeMap::new(), bytes: 0, budget }
    }

    /// Holds a block; `arrival` is its place in the order of arrival.
    pub fn hold(&mut self, mut block: Block, arrival: u64) -> Hold {
        if let Some((held, _)) = self.blocks.get(&block.sequence) {
            return if held.hash == block.hash { Hold::Held } else { Hold::Conflict };
        }
        let bytes = cost(&block);
        let full = self.blocks.len() >= VDISK_HELD_BLOCKS || self.bytes + bytes > VDISK_HELD_BYTES;
        if full || !self.budget.take(bytes) {
            return Hold::Dropped;
        }
        // A slice would keep the whole read buffer in memory, uncounted.
        block.data = Bytes::copy_from_slice(&block.data);
        self.bytes += bytes;
        self.blocks.insert(block.sequence, (block, arrival));
        Hold::Held
    }

    /// Takes the block of this sequence out.
    pub fn take(&mut self, sequence: u64) -> Option<(Block, u64)> {
        let taken = self.blocks.remove(&sequence)?;
        let bytes = cost(&taken.0);
        self.bytes -= bytes;
        self.budget.give(bytes);
        Some(taken)
    }

    pub fn clear(&mut self) {
        self.blocks.clear();
        self.budget.give(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::vdisk::Place;

    fn block(sequence: u64, bytes: usize) -> Block {
        Block {
            sequence,
            place: Place::Index(0),
            operation: 1,
            hash: [0; 32],
            timestamp: 0,
            data: vec![0; bytes].into(),
        }
    }

    #[test]
    fn what_is_taken_or_cleared_is_given_back() {
        let budget = HeldBudget::new(3 * BLOCK_OVERHEAD_BYTES);
        let mut one = Held::new(budget.clone());
        let mut other = Held::new(budget);
        assert_eq!(one.hold(block(1, 0), 0), Hold::Held);
        assert_eq!(one.hold(block(2, BLOCK_OVERHEAD_BYTES), 1), Hold::Held);
        assert_eq!(other.hold(block(1, 0), 0), Hold::Dropped);
        assert!(one.take(2).is_some());
        assert_eq!(other.hold(block(1, 0), 0), Hold::Held);
        one.clear();
        assert_eq!(other.hold(block(2, 0), 1), Hold::Held);
        drop(other);
        assert_eq!(one.hold(block(5, 2 * BLOCK_OVERHEAD_BYTES), 1), Hold::Held);
    }

    #[test]
    fn one_vdisk_has_its_own_bound() {
        let mut held = Held::new(HeldBudget::new(usize::MAX));
        for sequence in 0..VDISK_HELD_BLOCKS as u64 {
            assert_eq!(held.hold(block(sequence, 0), sequence), Hold::Held);
        }
        assert_eq!(held.hold(block(9999, 0), 0), Hold::Dropped);
        assert_eq!(held.hold(Block { hash: [1; 32], ..block(7, 0) }, 0), Hold::Conflict);
        held.clear();
        assert_eq!(held.hold(block(1, VDISK_HELD_BYTES), 0), Hold::Dropped);
    }
}

//! Which leader epoch wrote which offsets: no checksum covers that field of a batch's header.

use std::sync::{PoisonError, RwLock};

use crate::types::{LeaderEpoch, Offset};

/// Epochs with their first offsets, both rising. What lies before the first entry was written in an unknown one.
#[derive(Debug, Default)]
pub(super) struct Epochs(RwLock<Vec<(LeaderEpoch, Offset)>>);

impl Epochs {
    /// Takes over what the layer above knows.
    pub(super) fn set(&self, known: Vec<(LeaderEpoch, Offset)>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// A batch at `offset`, the log's end, is of `epoch`.
    pub(super) fn note(&self, epoch: LeaderEpoch, offset: Offset) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.last().is_none_or(|(last, _)| *last != epoch) {
            known.push((epoch, offset));
        }
    }

    /// Whether a batch of `epoch` may stand at `offset`.
    pub(super) fn allow(&self, epoch: LeaderEpoch, offset: Offset) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let before = known.partition_point(|(_, first)| *first <= offset);
        let entry = before.checked_sub(1).and_then(|last| known.get(last));
        entry.is_none_or(|(of, _)| *of == epoch)
    }
}

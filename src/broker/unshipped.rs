//! How much of a partition is not shipped yet: what would be lost with this machine.

use std::collections::VecDeque;

use crate::types::Offset;

/// Batches are counted together up to so many bytes, so that a backlog takes 24 bytes for each of these.
const STRETCH_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, Copy)]
struct Stretch {
    end: Offset,
    bytes: u64,
    since_ms: i64,
}

/// What is not shipped of one partition, oldest first.
#[derive(Debug, Default)]
pub(super) struct Unshipped(VecDeque<Stretch>);

/// How far shipping is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Lag {
    /// Exact to one stretch.
    pub bytes: u64,
    /// When the oldest of it was appended, ms since 1970.
    pub since_ms: Option<i64>,
}

impl Lag {
    /// Of both together.
    pub(super) fn and(self, other: Self) -> Self {
        let since_ms = self.since_ms.into_iter().chain(other.since_ms).min();
        Self { bytes: self.bytes + other.bytes, since_ms }
    }
}

impl Unshipped {
    /// What is below `end` and not counted yet was appended.
    pub(super) fn add(&mut self, end: Offset, bytes: u64, now_ms: i64) {
        match self.0.back_mut() {
            Some(last) if last.bytes + bytes <= STRETCH_BYTES => {
                (last.end, last.bytes) = (end, last.bytes + bytes);
            }
            _ => self.0.push_back(Stretch { end, bytes, since_ms: now_ms }),
        }
    }

    /// Everything below `shipped` is on the shard servers.
    pub(super) fn shipped_upto(&mut self, shipped: Offset) {
        while self.0.front().is_some_and(|first| first.end <= shipped) {
            self.0.pop_front();
        }
    }

    pub(super) fn lag(&self) -> Lag {
        let bytes = self.0.iter().map(|stretch| stretch.bytes).sum();
        Lag { bytes, since_ms: self.0.front().map(|first| first.since_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shipped_counts_no_more_and_nothing_is_left_at_the_end() {
        let mut unshipped = Unshipped::default();
        assert_eq!(unshipped.lag(), Lag::default());
        for n in 0..3000 {
            unshipped.add(n + 1, 1000, 50 + n);
        }
        assert_eq!(unshipped.lag(), Lag { bytes: 3_000_000, since_ms: Some(50) });
        unshipped.shipped_upto(1500);
        let half = unshipped.lag();
        assert!((1_500_000..1_500_000 + STRETCH_BYTES).contains(&half.bytes), "{half:?}");
        assert!(half.since_ms > Some(50) && half.since_ms <= Some(1550), "{half:?}");
        unshipped.shipped_upto(3000);
        assert_eq!(unshipped.lag(), Lag::default());
        assert_eq!(half.and(Lag { bytes: 1, since_ms: Some(7) }).since_ms, Some(7));
    }
}

//! A set of bytes of a disk, in bounded memory.

use std::collections::BTreeMap;

/// Disjoint ranges that do not touch each other, at most `most` of them.
#[derive(Debug)]
pub(super) struct Extents {
    /// Start and end, exclusive.
    ranges: BTreeMap<u64, u64>,
    most: usize,
}

impl Extents {
    pub(super) fn new(most: usize) -> Self {
        Self { ranges: BTreeMap::new(), most }
    }

    /// Whether all bytes of `start..end` are in it; of an empty range they are.
    pub(super) fn cover(&self, start: u64, end: u64) -> bool {
        let before = self.ranges.range(..=start).next_back();
        start >= end || before.is_some_and(|(_, behind)| *behind >= end)
    }

    /// Whether any byte of `start..end` is in it.
    pub(super) fn touch(&self, start: u64, end: u64) -> bool {
        let before = self.ranges.range(..end).next_back();
        start < end && before.is_some_and(|(_, behind)| *behind > start)
    }

    /// Adds `start..end`. False, and nothing is changed, where there is no room for another range.
    pub(super) fn add(&mut self, start: u64, end: u64) -> bool {
        if self.cover(start, end) {
            return true;
        }
        let (mut first, mut behind) = (start, end);
        // From the last one that begins at or before the end on downwards, as long as they reach the start.
        let mut met = Vec::new();
        for (at, to) in self.ranges.range(..=end).rev() {
            if *to < start {
                break;
            }
            (first, behind) = (first.min(*at), behind.max(*to));
            met.push(*at);
        }
        if met.is_empty() && self.ranges.len() >= self.most {
            return false;
        }
        for at in met {
            self.ranges.remove(&at);
        }
        self.ranges.insert(first, behind);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::Random;

    #[test]
    fn it_is_what_a_plain_row_of_bytes_is() {
        for seed in 0..300 {
            let mut random = Random(seed);
            let most = if random.coin() { 3 } else { 100 };
            let mut extents = Extents::new(most);
            let mut plain = [false; 64];
            for _ in 0..40 {
                let start = random.below(64);
                let end = start + random.below(65 - start);
                let bytes = start as u64..end as u64;
                let context = format!("seed {seed}, {bytes:?} and {extents:?}");
                assert_eq!(
                    extents.cover(bytes.start, bytes.end),
                    plain[start..end].iter().all(|is_in| *is_in),
                    "{context}"
                );
                assert_eq!(
                    extents.touch(bytes.start, bytes.end),
                    plain[start..end].iter().any(|is_in| *is_in),
                    "{context}"
                );
                if extents.add(bytes.start, bytes.end) {
                    plain[start..end].fill(true);
                } else {
                    assert!(extents.ranges.len() == most, "{context}");
                }
                let runs = plain.windows(2).filter(|pair| pair[0] && !pair[1]).count();
                assert_eq!(extents.ranges.len(), runs + usize::from(plain[63]), "{context}");
                assert!(extents.ranges.len() <= most);
            }
        }
    }
}

//! Which bytes of a segment were found to be what was written, since the segment was opened.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::Error;
use super::segment::View;
use super::walk::Found;

/// Separate stretches that are remembered per segment, 8 KiB at most. Readers in order make one; random ones that make
/// more are checked again.
const STRETCHES: usize = 512;

/// Stretches of bytes from the begin of a batch to the end of one, apart from each other and in order.
#[derive(Debug, Default)]
pub(super) struct Stretches(Vec<(u64, u64)>);

impl Stretches {
    /// Whether all bytes of `from..to` are in it.
    fn cover(&self, from: u64, to: u64) -> bool {
        let before = self.0.partition_point(|(begin, _)| *begin <= from);
        let last = before.checked_sub(1).and_then(|last| self.0.get(last));
        last.is_some_and(|(_, end)| *end >= to)
    }

    fn add(&mut self, from: u64, to: u64) {
        let first = self.0.partition_point(|(_, end)| *end < from);
        let behind = self.0.partition_point(|(begin, _)| *begin <= to);
        let touched = self.0.get(first..behind).unwrap_or_default();
        let begin = touched.first().map_or(from, |(begin, _)| from.min(*begin));
        let end = touched.last().map_or(to, |(_, end)| to.max(*end));
        self.0.splice(first..behind, [(begin, end)]);
        if self.0.len() > STRETCHES {
            self.0 = vec![(begin, end)];
        }
    }
}

/// The bytes of one segment that need no second look.
#[derive(Debug, Default)]
pub(super) struct Proved(Mutex<Stretches>);

impl Proved {
    // A panic under this lock forgets nothing that was not proved.
    fn stretches(&self) -> MutexGuard<'_, Stretches> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn covers(&self, from: u64, to: u64) -> bool {
        self.stretches().cover(from, to)
    }

    pub(super) fn add(&self, from: u64, to: u64) {
        self.stretches().add(from, to);
    }
}

impl View {
    /// Whether a batch, whose header was checked, is intact: by its CRC the first time, later by memory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn prove(&self, found: &Found) -> Result<bool, Error> {
        let proved = &self.segment.proved;
        if proved.covers(found.position, found.end()) {
            return Ok(true);
        }
        let intact = self.is_intact(found)?;
        if intact {
            proved.add(found.position, found.end());
        }
        Ok(intact)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stretches_are_a_set_of_bytes(steps in proptest::collection::vec((0u64..200, 1u64..20), 1..60)) {
            let (mut stretches, mut model) = (Stretches::default(), [false; 240]);
            for (from, length) in steps {
                let range = from as usize..(from + length) as usize;
                prop_assert_eq!(stretches.cover(from, from + length), model[range.clone()].iter().all(|b| *b));
                stretches.add(from, from + length);
                model[range].fill(true);
                prop_assert!(stretches.0.windows(2).all(|pair| pair[0].1 < pair[1].0));
            }
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut stretches = Stretches::default();
        for i in 0..10_000 {
            stretches.add(3 * i, 3 * i + 1);
            assert!(stretches.0.len() <= STRETCHES);
            assert!(stretches.cover(3 * i, 3 * i + 1));
        }
    }
}

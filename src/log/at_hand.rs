//! Reads that need not wait: who reads in order goes on where a read ended, and of what was proved only the headers are
//! looked at, as far as they are in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::reader::Range;
use super::segment::View;
use crate::record::HEADER_BYTES;
use crate::types::Offset;

/// Ends that are remembered per segment: of so many readers in order at a time.
const ENDS: usize = 8;

/// Headers that one such read looks at, each by a call of its own: 20 µs in all. Where batches are smaller the search with a
/// window does better, on a thread that may take its time.
const HEADERS: usize = 32;

/// One byte of so many is looked for before it is believed that the rest is in memory too.
const LOOKED_AT_BYTES: usize = 512 * 1024;

/// Where reads of a segment ended, newest last: first offset behind, and its position. A hint: whoever goes on there checks
/// that the batch at that position has that offset.
#[derive(Debug, Default)]
pub(super) struct Ends(Mutex<Vec<(Offset, u64)>>);

impl Ends {
    fn ends(&self) -> MutexGuard<'_, Vec<(Offset, u64)>> {
        // Whole entries only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, offset: Offset, position: u64) {
        let mut ends = self.ends();
        ends.retain(|(known, _)| *known != offset);
        if ends.len() >= ENDS {
            ends.remove(0);
        }
        ends.push((offset, position));
    }

    pub(super) fn position_of(&self, offset: Offset) -> Option<u64> {
        let ends = self.ends();
        ends.iter().find(|(known, _)| *known == offset).map(|(_, position)| *position)
    }
}

impl View {
    /// Where the batch with `target` begins if that is known without a search.
    pub(super) fn known_position(&self, target: Offset) -> Option<u64> {
        if target == self.segment.base {
            return Some(0);
        }
        self.segment.ends.position_of(target).filter(|position| *position < self.bytes)
    }

    /// What [`super::Reader::locate_range`] would give, of `least` bytes at least. None where that takes a search, a look at
    /// a body, or waiting for the disk: no call in here waits for it.
    pub(super) fn run_at_hand(
        &self,
        target: Offset,
        upto: Offset,
        max_bytes: usize,
        least: usize,
    ) -> Option<Range> {
        let (begin, file) = (self.known_position(target)?, &self.segment.file);
        let (mut position, mut expected) = (begin, target);
        let mut left = HEADERS;
        while expected < upto.min(self.next_offset) {
            left = left.checked_sub(1)?;
            let mut head = [0; HEADER_BYTES];
            if !file.read_at_hand(&mut head, position) {
                return None;
            }
            let header = self.check_header(&head, position, expected).ok()?;
            let end = position + header.total_bytes() as u64;
            if header.next_offset() > upto || end - begin > max_bytes as u64 {
                break;
            }
            (position, expected) = (end, header.next_offset());
        }
        let bytes =
            usize::try_from(position - begin).ok().filter(|bytes| *bytes >= least.max(1))?;
        if !self.segment.proved.covers(begin, position) {
            return None;
        }
        // Headers alone may be what is left of it in memory.
        let looks = (begin..position).step_by(LOOKED_AT_BYTES).chain([position - 1]);
        for at in looks {
            if !file.read_at_hand(&mut [0], at) {
                return None;
            }
        }
        self.segment.ends.add(expected, position);
        let pinned = file.pinned().ok()?;
        let file = pinned.unwrap_or_else(|| Arc::clone(file));
        Some(Range { file, position: begin, bytes, next_offset: expected })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::{Disk as _, FileDisk, OpenMode};
    use crate::log::testing::{self, Model, ModelBatch, checkpoint, content};
    use crate::log::{Error, Log};

    fn filled(dir: &Path) -> (Log, Model) {
        let mut log = testing::open(&FileDisk, dir, 0, 0);
        let mut model = Model::default();
        for _ in 0..30 {
            let batch = ModelBatch::new(model.end(0), &[1, 2], 40);
            log.append(&batch.bytes, 0).unwrap();
            model.0.push(batch);
        }
        let end = checkpoint(&mut log);
        drop(log);
        (testing::open(&FileDisk, dir, 0, end), model)
    }

    fn flip(path: &Path, position: usize) {
        let file = FileDisk.open(path, OpenMode::Write).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, position as u64).unwrap();
        file.write_all_at(&[byte[0] ^ 1], position as u64).unwrap();
    }

    #[test]
    fn only_what_a_read_led_to_and_what_was_proved_is_at_hand() {
        let temp = tempfile::tempdir().unwrap();
        let (log, model) = filled(&temp.path().join("t-3"));
        let (reader, end) = (log.reader(), model.end(0));
        let two = model.0[0].bytes.len() + model.0[1].bytes.len();
        assert!(reader.range_at_hand(0, end, two, 1).is_none(), "nothing was proved");
        let first = reader.locate_range(0, end, two).unwrap().unwrap();
        // The begin of a segment, and where the read ended.
        assert_eq!(content(&reader.range_at_hand(0, end, two, 1).unwrap()), content(&first));
        assert!(reader.range_at_hand(0, end, two, two + 1).is_none(), "that is less than asked");
        assert!(reader.range_at_hand(2, end, two, 1).is_none(), "no read ended there");
        // Proved, or not: the whole interval was.
        if let Some(next) = reader.range_at_hand(first.next_offset, end, 1 << 20, 1) {
            assert!(reader.is_checked_behind(&first, next.bytes));
        }
        // All of it, in the same pieces as with a search.
        let mut next = 0;
        while let Some(range) = reader.locate_range(next, end, two).unwrap() {
            next = range.next_offset;
        }
        let (mut next, mut all) = (0, Vec::new());
        while let Some(range) = reader.range_at_hand(next, end, two, 1) {
            assert_eq!(range.bytes, reader.locate_range(next, end, two).unwrap().unwrap().bytes);
            next = range.next_offset;
            all.extend(content(&range));
        }
        assert_eq!((next, all), (end, model.bytes(0, end).0));
        // Bounds.
        assert!(reader.range_at_hand(0, 1, two, 1).is_none());
        assert_eq!(reader.range_at_hand(0, 3, two, 1).unwrap().next_offset, 2);
        assert!(reader.range_at_hand(end, end, two, 1).is_none());
        assert!(reader.starting_at(2).range_at_hand(0, end, two, 1).is_none());
    }

    #[test]
    fn a_damaged_header_is_never_at_hand() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("t-3");
        let (log, model) = filled(&dir);
        let (reader, end) = (log.reader(), model.end(0));
        let (first, second) = (model.0[0].bytes.len(), model.0[1].bytes.len());
        let path = dir.join("00000000000000000000.log");
        reader.locate_range(0, end, first + second).unwrap().unwrap();
        // Base offset and magic; a length that is wrong shows in what stands behind it.
        for at in [7, 16] {
            flip(&path, first + at);
            let found = reader.range_at_hand(0, end, first + second, 1);
            assert!(found.is_none_or(|range| range.bytes == first), "{at}");
            let read = reader.locate_range(2, end, 1);
            assert!(matches!(read, Err(Error::Damaged { from: 2, .. })), "{at}");
            flip(&path, first + at);
        }
        assert_eq!(reader.range_at_hand(0, end, first + second, 1).unwrap().next_offset, 4);
    }

    #[test]
    fn ends_are_bounded_and_the_oldest_is_forgotten() {
        let ends = Ends::default();
        for offset in 0..100 {
            ends.add(offset, offset as u64 * 10);
            ends.add(offset, offset as u64 * 10);
        }
        assert_eq!(ends.position_of(99), Some(990));
        assert_eq!(ends.position_of(92), Some(920));
        assert_eq!(ends.position_of(91), None);
        assert!(ends.ends().len() == ENDS);
    }
}

//! Reading a sealed segment again, whatever was found of it before: what the disk has done to it since.
//!
//! Nothing is decided here about damage. What does not stand its checks is forgotten as proved and named as a suspect: the
//! next read of it looks anew, and says what every reader is told. A sidecar and indexes that are not what was written are
//! made anew, as at a first read.

use std::sync::Arc;

use super::check::Check;
use super::error::Error;
use super::proof::Sidecar;
use super::reader::Reader;
use super::segment::View;
use super::walk::{Step, Walk};
use crate::disk::page_cache;
use crate::types::Offset;

/// Bytes read at once.
const WINDOW_BYTES: u64 = 64 * 1024;

/// A sealed segment that is read again, piece by piece.
#[derive(Debug)]
pub struct Scrub {
    view: View,
    check: Option<Arc<Check>>,
    /// All of it was read for a sidecar, and it was not in the page cache before.
    was_cold: bool,
    /// Everything before was read.
    position: u64,
    offset: Offset,
}

/// What one step read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// Bytes of batches.
    pub bytes: u64,
    /// Bytes of batches read before that, for a sidecar that had to be made.
    pub made_from: u64,
    /// First and next offset of what did not stand its checks.
    pub suspect: Option<(Offset, Offset)>,
    /// Whether the sidecar or an index was not what had been written, and was made anew.
    pub renewed: bool,
}

impl Reader {
    /// The first sealed segment that has offsets at or above `from`, to be read again.
    #[must_use]
    pub fn scrub(&self, from: Offset) -> Option<Scrub> {
        let first = self.sealed.partition_point(|view| view.next_offset <= from);
        let view = self.sealed.get(first)?.clone();
        let offset = view.segment.base;
        Some(Scrub { view, check: None, was_cold: false, position: 0, offset })
    }
}

impl Scrub {
    /// Offset behind the segment.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.view.next_offset
    }

    /// Whether all of it was read, or it is no part of the log any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.position >= self.view.bytes || self.is_retired()
    }

    /// Reads on: about `bytes`, one batch at least, up to the first suspect.
    ///
    /// # Errors
    /// [`Error::Io`]; the rest of the segment is to be left to the next time.
    pub fn step(&mut self, bytes: u64) -> Result<Scrubbed, Error> {
        let mut done = Scrubbed::default();
        let begin = self.position;
        let upto = begin.saturating_add(bytes).min(self.view.bytes);
        let path = &self.view.segment.paths.log;
        let file = &self.view.segment.file;
        let pinned = file.pinned().map_err(Error::io("open", path))?;
        let pinned = pinned.unwrap_or_else(|| Arc::clone(file));
        let fd = pinned.as_fd();
        // What others read stays in the page cache, what only this brings there goes again. The end is looked at, for what
        // the system reads ahead comes from before.
        let is_cold = fd.is_some_and(|fd| !page_cache::holds(fd, upto.saturating_sub(1)));
        if begin == 0 {
            self.renew(&mut done)?;
            self.was_cold = is_cold && done.made_from > 0;
        }
        done.suspect = match self.check.clone() {
            Some(check) => self.intervals(&check, upto)?,
            None => self.batches(upto)?,
        };
        done.bytes = self.position - begin;
        if let Some(fd) = fd.filter(|_| is_cold || self.was_cold) {
            page_cache::drop_range(fd, begin, done.bytes);
        }
        if done.suspect.is_some() {
            self.view.segment.proved.forget();
        }
        Ok(done)
    }

    fn is_retired(&self) -> bool {
        matches!(*self.view.segment.sidecar(), Sidecar::Retired)
    }

    /// Looks at sidecar and indexes as they are on disk now, and has them made anew where they are not what was written.
    fn renew(&mut self, done: &mut Scrubbed) -> Result<(), Error> {
        let segment = &self.view.segment;
        let path = &segment.paths.check;
        let was_usable = match *segment.sidecar() {
            Sidecar::Usable(_) => true,
            Sidecar::Unread | Sidecar::Unusable => false,
            Sidecar::Retired => return Ok(()),
        };
        let stored = Check::open(&segment.disk, path).map_err(Error::io("read", path))?;
        let (base, bytes, next) = (segment.base, self.view.bytes, self.view.next_offset);
        let renewed = match stored.filter(|stored| stored.summary.is_of(base, bytes, next)) {
            Some(stored) => {
                let sums = segment.indexes().sums();
                sums.map_err(Error::io("read", &segment.paths.index))? != stored.summary.indexes
            }
            None => {
                done.made_from = bytes;
                // Else none was made yet.
                was_usable
            }
        };
        let mut sidecar = segment.sidecar();
        if matches!(*sidecar, Sidecar::Retired) {
            done.made_from = 0;
            return Ok(());
        }
        sidecar.forget();
        drop(sidecar);
        self.check = self.view.check()?;
        done.renewed = renewed && self.check.is_some();
        Ok(())
    }

    /// By the intervals of the sidecar.
    fn intervals(&mut self, check: &Check, upto: u64) -> Result<Option<(Offset, Offset)>, Error> {
        let base = self.view.segment.base;
        while self.position < upto {
            let path = &self.view.segment.paths.check;
            let stretches = check.stretches(self.position, upto);
            let stretches = stretches.map_err(Error::io("read", path))?;
            if stretches.is_empty() {
                // Deleted, or damaged since: batch by batch, then.
                self.check = None;
                return self.batches(upto);
            }
            for stretch in stretches {
                let from = self.offset;
                let is_good = self.view.is_good(&stretch)?;
                self.position = stretch.end;
                self.offset = base + Offset::from(stretch.next);
                if !is_good {
                    return Ok(Some((from, self.offset)));
                }
            }
        }
        Ok(None)
    }

    /// By what each batch says of itself.
    fn batches(&mut self, upto: u64) -> Result<Option<(Offset, Offset)>, Error> {
        let view = self.view.clone();
        let mut walk = Walk::from(&view, self.position, self.offset).with_window(WINDOW_BYTES);
        while self.position < upto {
            let suspect = match walk.next()? {
                Step::Batch(found) => {
                    let (from, to) = (found.header.base_offset, found.header.next_offset());
                    self.offset = to;
                    (!walk.is_intact(&found)?).then_some((from, to))
                }
                Step::Damaged(range) => {
                    self.offset = range.to;
                    Some((range.from, range.to))
                }
                Step::End => {
                    self.position = view.bytes;
                    return Ok(None);
                }
            };
            self.position = if walk.is_lost() { view.bytes } else { walk.position() };
            if suspect.is_some() {
                return Ok(suspect);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rustix::fd::AsFd as _;

    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::disk::{Disk as _, FileDisk};
    use crate::log::segment::Paths;
    use crate::log::testing::{self, Model, ModelBatch, checkpoint, dir};
    use crate::log::{Fault, Log};

    const END: Offset = 120;

    /// 60 batches of 2 records in several segments, all of them read.
    fn read_once(disk: &SimDisk) -> (Log, Model) {
        let (mut log, mut model) = (testing::open(disk, &dir(), 0, 0), Model::default());
        for time in 0..60 {
            let batch = ModelBatch::new(model.end(0), &[time, time], 40);
            log.append(&batch.bytes, 0).unwrap();
            model.0.push(batch);
        }
        checkpoint(&mut log);
        drop(log);
        let log = testing::open(disk, &dir(), 0, END);
        assert!(scrub_all(&log).iter().all(|done| done.suspect.is_none()));
        assert_eq!(read_all(&log), []);
        (log, model)
    }

    /// All that is wrong, as a pass over the log says it; every sealed byte is looked at.
    fn scrub_all(log: &Log) -> Vec<Scrubbed> {
        let (mut from, mut all, mut bytes) = (0, Vec::new(), 0);
        while let Some(mut scrub) = log.reader().scrub(from) {
            while !scrub.is_over() {
                let done = scrub.step(300).unwrap();
                bytes += done.bytes;
                all.push(done);
            }
            from = scrub.next_offset();
        }
        let sealed = log.segments().into_iter().filter(|segment| segment.is_sealed);
        assert_eq!(bytes, sealed.map(|segment| segment.bytes).sum::<u64>());
        all
    }

    /// Damage that a reader who copies nothing meets.
    fn read_all(log: &Log) -> Vec<(Offset, Offset, Fault)> {
        let (reader, mut from, mut damage) = (log.reader(), 0, Vec::new());
        while from < END {
            match reader.locate_range(from, END, 100) {
                Ok(range) => from = range.unwrap().next_offset,
                Err(Error::Damaged { from: first, to, fault, .. }) => {
                    damage.push((first, to, fault));
                    from = to;
                }
                Err(error) => panic!("{error}"),
            }
        }
        damage
    }

    fn first() -> Paths {
        Paths::new(&dir(), 0)
    }

    #[test]
    fn what_became_wrong_after_it_was_read_is_found_and_then_told_to_readers() {
        for sidecar in [true, false] {
            // Of the first batches: base offset, length, epoch, magic, body, and a body further on.
            for at in [7, 11, 15, 16, 80, 500] {
                if at == 15 && !sidecar {
                    // Nothing else knows of an epoch, where it is not said from above.
                    continue;
                }
                let disk = SimDisk::new();
                let (log, _) = read_once(&disk);
                disk.flip(&first().log, at, 1);
                if !sidecar {
                    disk.remove_file(&first().check).unwrap();
                }
                assert!(scrub_all(&log).iter().any(|it| it.suspect.is_some()), "byte {at}");
                let told = read_all(&log);
                assert!(!told.is_empty(), "byte {at}, {sidecar}");
                assert!(told.iter().all(|(from, to, _)| from < to && *to < 30), "{told:?}");
                disk.flip(&first().log, at, 1);
                assert!(scrub_all(&log).iter().all(|done| done.suspect.is_none()));
                assert_eq!(read_all(&log), []);
            }
        }
    }

    #[test]
    fn sidecar_and_indexes_that_became_wrong_are_made_anew() {
        let paths: [fn(Paths) -> PathBuf; 3] = [|it| it.check, |it| it.index, |it| it.time_index];
        for path in paths {
            let disk = SimDisk::new();
            let (log, _) = read_once(&disk);
            let path = path(first());
            let right = disk.read_all(&path, 1 << 20).unwrap();
            for at in 0..right.len() {
                disk.flip(&path, at, 4);
                let renewed = scrub_all(&log).iter().filter(|done| done.renewed).count();
                assert_eq!(renewed, 1, "byte {at} of {}", path.display());
                assert_eq!(disk.read_all(&path, 1 << 20).unwrap(), right);
                assert_eq!(read_all(&log), []);
            }
        }
    }

    #[test]
    fn what_nobody_else_reads_leaves_the_page_cache_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("t-3");
        let mut log = testing::open(&FileDisk, &path, 0, 0);
        for time in 0..60 {
            let batch = ModelBatch::new(2 * time, &[time, time], 40);
            log.append(&batch.bytes, 0).unwrap();
        }
        checkpoint(&mut log);
        let file = std::fs::File::open(path.join(format!("{:020}.log", 0))).unwrap();
        page_cache::drop_range(file.as_fd(), 0, file.metadata().unwrap().len());
        let can_drop = !page_cache::holds(file.as_fd(), 0);
        let mut scrub = log.reader().scrub(0).unwrap();
        while !scrub.is_over() {
            assert_eq!(scrub.step(1 << 20).unwrap().suspect, None);
        }
        assert!(!can_drop || !page_cache::holds(file.as_fd(), 0));
        // Retired, it is let go of.
        log.detach_below(END).unwrap().unlink().unwrap();
        assert!(log.reader().scrub(0).is_none());
    }

    #[test]
    fn a_segment_that_is_deleted_meanwhile_is_left() {
        let disk = SimDisk::new();
        let (mut log, _) = read_once(&disk);
        let mut scrub = log.reader().scrub(0).unwrap();
        scrub.step(100).unwrap();
        log.detach_below(scrub.next_offset()).unwrap().unlink().unwrap();
        assert!(scrub.is_over());
    }
}

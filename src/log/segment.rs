//! One segment: its file, its two indexes and its sidecar, and what of it may be seen.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::at_hand::Ends;
use super::check::{self, FileSum, Heads, Summary};
use super::epochs::Epochs;
use super::error::Error;
use super::index::Index;
use super::offset_index::OffsetEntry;
use super::proof::{Proved, Sidecar};
use super::time_index::TimeEntry;
use super::walk::{Step, Walk};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::record::{BatchHeader, HEADER_BYTES};
use crate::types::{LeaderEpoch, Offset};

/// End of the names of files that are not yet part of the log.
pub(super) const NEW: &str = ".new";

/// The names of a segment's files.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub(super) log: PathBuf,
    pub(super) index: PathBuf,
    pub(super) time_index: PathBuf,
    pub(super) check: PathBuf,
}

impl Paths {
    pub(super) fn new(dir: &Path, base: Offset) -> Self {
        let name = |extension| dir.join(format!("{base:020}.{extension}"));
        Self {
            log: name("log"),
            index: name("index"),
            time_index: name("timeindex"),
            check: name("check"),
        }
    }

    /// The names under which the files of a segment are written that is to take the place of others.
    pub(super) fn beside(dir: &Path, base: Offset) -> Self {
        let name = |extension| dir.join(format!("{base:020}.{extension}{NEW}"));
        Self {
            log: name("log"),
            index: name("index"),
            time_index: name("timeindex"),
            check: name("check"),
        }
    }

    /// Removes what exists of them; the `.log` first, for without it nobody looks at the others.
    pub(super) fn remove(&self, disk: &dyn Disk) -> Result<(), Error> {
        for path in [&self.log, &self.index, &self.time_index, &self.check] {
            match disk.remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(Error::io("remove", path))?,
            }
        }
        Ok(())
    }
}

/// The base offset of the first segment file in `dir`, by its name; none where there is no file or no directory.
///
/// # Errors
/// As the system gives them.
pub fn first_offset_in(disk: &dyn Disk, dir: &Path) -> std::io::Result<Option<Offset>> {
    match disk.list(dir) {
        Ok(names) => Ok(names.iter().filter_map(|name| base_offset_of(name)).min()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The base offset in a file name of the form `<20 digits>.log`.
pub(super) fn base_offset_of(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(".log")?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// Both indexes, and how many bytes of batches came since their last entries.
#[derive(Debug)]
pub(super) struct Indexes {
    pub(super) offsets: Index<OffsetEntry>,
    pub(super) times: Index<TimeEntry>,
    pub(super) bytes_since_entry: u64,
    /// What the sidecar will say; none unless all batches of the segment were written since it was opened.
    pub(super) heads: Option<Heads>,
}

impl Indexes {
    /// For a segment without batches, or for one whose index files are not believed.
    pub(super) fn growing(disk: &Arc<dyn Disk>, paths: &Paths) -> Self {
        Self {
            offsets: Index::growing(Arc::clone(disk), paths.index.clone()),
            times: Index::growing(Arc::clone(disk), paths.time_index.clone()),
            bytes_since_entry: 0,
            heads: None,
        }
    }

    pub(super) fn emptied(&self) -> Self {
        let (offsets, times) = (self.offsets.emptied(), self.times.emptied());
        Self { offsets, times, bytes_since_entry: 0, heads: None }
    }

    /// Lengths and checksums of both files.
    pub(super) fn sums(&self) -> io::Result<(FileSum, FileSum)> {
        Ok((self.offsets.sum()?, self.times.sum()?))
    }

    /// Takes over what came into `old` after the first `bytes` bytes of the segment, where `next` is the first offset.
    fn adopt_after(&mut self, old: &mut Self, bytes: u64, next: u32) {
        self.offsets.adopt(&mut old.offsets, |entry| u64::from(entry.position) >= bytes);
        self.times.adopt(&mut old.times, |entry| entry.relative_offset >= next);
    }
}

/// What all handles of a segment share. How much of the file counts is said by each [`View`].
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) base: Offset,
    pub(super) paths: Paths,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) epochs: Arc<Epochs>,
    pub(super) proved: Proved,
    pub(super) ends: Ends,
    sidecar: Mutex<Sidecar>,
    /// The sidecar's file, written and not yet synced.
    unsynced: Mutex<Option<Arc<dyn DiskFile>>>,
    interval_bytes: u64,
    indexes: RwLock<Indexes>,
}

impl Segment {
    pub(super) fn new(
        (disk, base, paths): (&Arc<dyn Disk>, Offset, Paths),
        file: Arc<dyn DiskFile>,
        interval_bytes: u32,
        indexes: Indexes,
        epochs: &Arc<Epochs>,
    ) -> Arc<Self> {
        Arc::new(Self {
            base,
            paths,
            file,
            disk: Arc::clone(disk),
            epochs: Arc::clone(epochs),
            proved: Proved::default(),
            ends: Ends::default(),
            sidecar: Mutex::default(),
            unsynced: Mutex::default(),
            interval_bytes: u64::from(interval_bytes),
            indexes: RwLock::new(indexes),
        })
    }

    pub(super) fn interval_bytes(&self) -> u64 {
        self.interval_bytes
    }

    // A panic under these locks leaves hints at worst, and those are checked at every use.
    pub(super) fn indexes(&self) -> RwLockReadGuard<'_, Indexes> {
        self.indexes.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn indexes_mut(&self) -> RwLockWriteGuard<'_, Indexes> {
        self.indexes.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the sidecar. Held while it is made, so that two readers do not make it twice; taken before the
    /// lock of the indexes.
    pub(super) fn sidecar(&self) -> MutexGuard<'_, Sidecar> {
        self.sidecar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files' names are about to be gone, or another's. Waits for who writes to them; nobody does afterwards.
    pub(super) fn leave(&self) {
        *self.sidecar() = Sidecar::Retired;
    }

    /// The files are about to be unlinked or replaced. As [`Segment::leave`], and its readers still read it.
    pub(super) fn retire(&self) {
        self.leave();
        // Where it cannot be opened its readers will see that.
        self.file.hold().ok();
    }

    /// Offsets of one segment are at most 2^31 apart ([`View::reaches`]).
    pub(super) fn relative(&self, offset: Offset) -> u32 {
        u32::try_from(offset - self.base).unwrap_or(u32::MAX)
    }

    /// Writes the indexes' new entries, unsynced.
    pub(super) fn flush_indexes(&self) -> Result<(), Error> {
        let mut indexes = self.indexes_mut();
        indexes.offsets.flush().map_err(Error::io("write", &self.paths.index))?;
        indexes.times.flush().map_err(Error::io("write", &self.paths.time_index))
    }

    /// All files of the segment that wait for a sync.
    pub(super) fn take_unsynced(&self) -> Vec<(PathBuf, Arc<dyn DiskFile>)> {
        let mut indexes = self.indexes_mut();
        let index = indexes.offsets.take_unsynced().map(|file| (self.paths.index.clone(), file));
        let times = indexes.times.take_unsynced().map(|file| (self.paths.time_index.clone(), file));
        let log = (self.paths.log.clone(), Arc::clone(&self.file));
        let check = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner).take();
        let check = check.map(|file| (self.paths.check.clone(), file));
        std::iter::once(log).chain(index).chain(times).chain(check).collect()
    }
}

/// The highest timestamp of some batches and the last offset of the first batch that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Highest {
    pub(super) timestamp: i64,
    pub(super) last_offset: Offset,
}

/// A segment as it was at one moment: the first `bytes` of its file, offsets `segment.base..next_offset`.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) segment: Arc<Segment>,
    pub(super) bytes: u64,
    pub(super) next_offset: Offset,
    pub(super) highest: Option<Highest>,
    /// Of the newest batch; unknown where it was there when the log was opened.
    pub(super) appended_ms: Option<i64>,
}

impl View {
    /// A new segment.
    pub(super) fn create(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        base: Offset,
        interval_bytes: u32,
        epochs: &Arc<Epochs>,
    ) -> Result<Self, Error> {
        Self::create_at(disk, Paths::new(dir, base), base, interval_bytes, epochs)
    }

    /// A new segment with its files under these names.
    pub(super) fn create_at(
        disk: &Arc<dyn Disk>,
        paths: Paths,
        base: Offset,
        interval_bytes: u32,
        epochs: &Arc<Epochs>,
    ) -> Result<Self, Error> {
        let file =
            disk.open(&paths.log, OpenMode::CreateNew).map_err(Error::io("create", &paths.log))?;
        let mut indexes = Indexes::growing(disk, &paths);
        indexes.heads = Some(Heads::default());
        let segment = Segment::new((disk, base, paths), file, interval_bytes, indexes, epochs);
        Ok(Self { segment, bytes: 0, next_offset: base, highest: None, appended_ms: None })
    }

    /// Whether `last_offset` can stand in this segment's indexes.
    pub(super) fn reaches(&self, last_offset: Offset) -> bool {
        last_offset - self.segment.base <= Offset::from(i32::MAX)
    }

    /// Writes whole batches at the end, unsynced, and counts them in.
    pub(super) fn write(&mut self, bytes: &[u8], headers: &[BatchHeader]) -> Result<(), Error> {
        let path = &self.segment.paths.log;
        self.segment.file.write_all_at(bytes, self.bytes).map_err(Error::io("write", path))?;
        let segment = Arc::clone(&self.segment);
        // These came from memory: there is nothing to find in them that was not there when they were acknowledged.
        segment.proved.add(self.bytes, self.bytes + bytes.len() as u64);
        let mut indexes = segment.indexes_mut();
        for header in headers {
            segment.epochs.note(LeaderEpoch(header.leader_epoch), header.base_offset);
            self.note(&mut indexes, self.bytes, header);
            self.bytes += header.total_bytes() as u64;
            self.next_offset = header.next_offset();
        }
        Ok(())
    }

    /// Counts a batch at `position` into the highest timestamp and, where one is due, into the indexes.
    pub(super) fn note(&mut self, indexes: &mut Indexes, position: u64, header: &BatchHeader) {
        let last_offset = header.last_offset();
        self.note_timestamp(header);
        let due = indexes.bytes_since_entry > self.segment.interval_bytes;
        if due && let Ok(position) = u32::try_from(position) {
            let relative_offset = self.segment.relative(last_offset);
            indexes.offsets.push(OffsetEntry { relative_offset, position });
            self.note_highest(indexes);
            indexes.bytes_since_entry = 0;
        }
        if let Some(heads) = &mut indexes.heads {
            let first = self.segment.relative(header.base_offset);
            heads.note(header, first, u32::try_from(position).unwrap_or(u32::MAX), due);
        }
        indexes.bytes_since_entry += header.total_bytes() as u64;
    }

    pub(super) fn note_timestamp(&mut self, header: &BatchHeader) {
        if self.highest.is_none_or(|highest| header.max_timestamp > highest.timestamp) {
            let (timestamp, last_offset) = (header.max_timestamp, header.last_offset());
            self.highest = Some(Highest { timestamp, last_offset });
        }
    }

    pub(super) fn note_highest(&self, indexes: &mut Indexes) {
        if let Some(Highest { timestamp, last_offset }) = self.highest {
            let relative_offset = self.segment.relative(last_offset);
            indexes.times.push(TimeEntry { timestamp, relative_offset });
        }
    }

    /// Nothing more is appended: writes the indexes out, the time index with a last entry for the highest timestamp, and
    /// the sidecar, if what it says is known.
    pub(super) fn seal(&self) -> Result<(), Error> {
        let segment = &self.segment;
        let mut indexes = segment.indexes_mut();
        self.note_highest(&mut indexes);
        let sums = indexes.sums().map_err(Error::io("read", &segment.paths.index))?;
        indexes.offsets.seal().map_err(Error::io("write", &segment.paths.index))?;
        indexes.times.seal().map_err(Error::io("write", &segment.paths.time_index))?;
        if let Some(heads) = &indexes.heads {
            let (path, summary) = (&segment.paths.check, self.summary(sums, heads));
            let file = check::write(segment.disk.as_ref(), path, &summary, heads);
            let file = file.map_err(Error::io("write", path))?;
            indexes.heads = None;
            *segment.unsynced.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        }
        Ok(())
    }

    /// What the sidecar says of the whole segment.
    pub(super) fn summary(&self, indexes: (FileSum, FileSum), heads: &Heads) -> Summary {
        Summary {
            base: self.segment.base,
            next_offset: self.next_offset,
            bytes: self.bytes,
            batch_count: heads.batch_count(),
            highest: self.highest,
            indexes,
            interval_count: heads.interval_count(),
        }
    }

    /// The header at `position`, if there are bytes and sense enough for one.
    pub(super) fn header_at(&self, position: u64) -> Result<Option<BatchHeader>, Error> {
        if position.checked_add(HEADER_BYTES as u64).is_none_or(|end| end > self.bytes) {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_BYTES];
        self.read_exact(&mut bytes, position)?;
        Ok(BatchHeader::parse(&bytes).ok())
    }

    pub(super) fn read_exact(&self, buffer: &mut [u8], position: u64) -> Result<(), Error> {
        let path = &self.segment.paths.log;
        self.segment.file.read_exact_at(buffer, position).map_err(Error::io("read", path))
    }

    /// Makes both indexes anew from the batches, for an entry was found wrong.
    pub(super) fn rebuild_indexes(&self) -> Result<(), Error> {
        let mut scratch = Self { highest: None, ..self.clone() };
        let mut fresh = self.segment.indexes().emptied();
        let mut walk = Walk::begin(self);
        loop {
            match walk.next()? {
                Step::Batch(found) => scratch.note(&mut fresh, found.position, &found.header),
                Step::End => break,
                // Readers name it when they come there.
                Step::Damaged(_) => {}
            }
        }
        let mut indexes = self.segment.indexes_mut();
        fresh.bytes_since_entry = indexes.bytes_since_entry;
        fresh.heads = indexes.heads.take();
        fresh.adopt_after(&mut indexes, self.bytes, self.segment.relative(self.next_offset));
        if indexes.offsets.is_sealed() {
            scratch.note_highest(&mut fresh);
            fresh.offsets.seal().map_err(Error::io("write", &self.segment.paths.index))?;
            fresh.times.seal().map_err(Error::io("write", &self.segment.paths.time_index))?;
            // A sealed segment is not synced again, and would keep both open.
            let files = [fresh.offsets.take_unsynced(), fresh.times.take_unsynced()];
            for file in files.into_iter().flatten() {
                file.sync().map_err(Error::io("sync", &self.segment.paths.index))?;
            }
        }
        *indexes = fresh;
        Ok(())
    }
}

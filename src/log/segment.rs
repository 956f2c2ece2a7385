//! One segment: its file, its two indexes, and what of it may be seen.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::epochs::Epochs;
use super::error::Error;
use super::index::Index;
use super::offset_index::OffsetEntry;
use super::proof::Proved;
use super::time_index::TimeEntry;
use super::walk::{Step, Walk};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::record::{BatchHeader, HEADER_BYTES};
use crate::types::{LeaderEpoch, Offset};

/// The names of a segment's three files.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub(super) log: PathBuf,
    pub(super) index: PathBuf,
    pub(super) time_index: PathBuf,
}

impl Paths {
    pub(super) fn new(dir: &Path, base: Offset) -> Self {
        let name = |extension| dir.join(format!("{base:020}.{extension}"));
        Self { log: name("log"), index: name("index"), time_index: name("timeindex") }
    }

    /// Removes what exists of the three; the indexes last, for without its `.log` nobody looks at them.
    pub(super) fn remove(&self, disk: &dyn Disk) -> Result<(), Error> {
        for path in [&self.log, &self.index, &self.time_index] {
            match disk.remove_file(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(Error::io("remove", path))?,
            }
        }
        Ok(())
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
}

impl Indexes {
    /// For a segment without batches, or for one whose index files are not believed.
    pub(super) fn growing(disk: &Arc<dyn Disk>, paths: &Paths) -> Self {
        Self {
            offsets: Index::growing(Arc::clone(disk), paths.index.clone()),
            times: Index::growing(Arc::clone(disk), paths.time_index.clone()),
            bytes_since_entry: 0,
        }
    }

    fn emptied(&self) -> Self {
        Self { offsets: self.offsets.emptied(), times: self.times.emptied(), bytes_since_entry: 0 }
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
    pub(super) epochs: Arc<Epochs>,
    pub(super) proved: Proved,
    interval_bytes: u64,
    indexes: RwLock<Indexes>,
}

impl Segment {
    pub(super) fn new(
        base: Offset,
        paths: Paths,
        file: Arc<dyn DiskFile>,
        interval_bytes: u32,
        indexes: Indexes,
        epochs: Arc<Epochs>,
    ) -> Arc<Self> {
        Arc::new(Self {
            base,
            paths,
            file,
            epochs,
            proved: Proved::default(),
            interval_bytes: u64::from(interval_bytes),
            indexes: RwLock::new(indexes),
        })
    }

    // A panic under these locks leaves hints at worst, and those are checked at every use.
    pub(super) fn indexes(&self) -> RwLockReadGuard<'_, Indexes> {
        self.indexes.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn indexes_mut(&self) -> RwLockWriteGuard<'_, Indexes> {
        self.indexes.write().unwrap_or_else(PoisonError::into_inner)
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
        std::iter::once(log).chain(index).chain(times).collect()
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
        let paths = Paths::new(dir, base);
        let file =
            disk.open(&paths.log, OpenMode::CreateNew).map_err(Error::io("create", &paths.log))?;
        let indexes = Indexes::growing(disk, &paths);
        let segment = Segment::new(base, paths, file, interval_bytes, indexes, Arc::clone(epochs));
        Ok(Self { segment, bytes: 0, next_offset: base, highest: None })
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
        if indexes.bytes_since_entry > self.segment.interval_bytes
            && let Ok(position) = u32::try_from(position)
        {
            let relative_offset = self.segment.relative(last_offset);
            indexes.offsets.push(OffsetEntry { relative_offset, position });
            self.note_highest(indexes);
            indexes.bytes_since_entry = 0;
        }
        indexes.bytes_since_entry += header.total_bytes() as u64;
    }

    pub(super) fn note_timestamp(&mut self, header: &BatchHeader) {
        if self.highest.is_none_or(|highest| header.max_timestamp > highest.timestamp) {
            let (timestamp, last_offset) = (header.max_timestamp, header.last_offset());
            self.highest = Some(Highest { timestamp, last_offset });
        }
    }

    fn note_highest(&self, indexes: &mut Indexes) {
        if let Some(Highest { timestamp, last_offset }) = self.highest {
            let relative_offset = self.segment.relative(last_offset);
            indexes.times.push(TimeEntry { timestamp, relative_offset });
        }
    }

    /// Nothing more is appended: writes the indexes out, the time index with a last entry for the highest timestamp.
    pub(super) fn seal(&self) -> Result<(), Error> {
        let mut indexes = self.segment.indexes_mut();
        self.note_highest(&mut indexes);
        indexes.offsets.seal().map_err(Error::io("write", &self.segment.paths.index))?;
        indexes.times.seal().map_err(Error::io("write", &self.segment.paths.time_index))
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
        fresh.adopt_after(&mut indexes, self.bytes, self.segment.relative(self.next_offset));
        if indexes.offsets.is_sealed() {
            scratch.note_highest(&mut fresh);
            fresh.offsets.seal().map_err(Error::io("write", &self.segment.paths.index))?;
            fresh.times.seal().map_err(Error::io("write", &self.segment.paths.time_index))?;
        }
        *indexes = fresh;
        Ok(())
    }
}

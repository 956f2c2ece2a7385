//! The log of one partition: appending, rolling, deleting from the front.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::compaction::{Installed, Position, Replacement};
use super::config::Config;
use super::epochs::Epochs;
use super::error::{DamagedRange, Error, Fault};
use super::partition_meta;
use super::reader::Reader;
use super::recovery::recover;
use super::segment::{Segment, View};
use crate::disk::{Disk, DiskFile};
use crate::record::{BatchHeader, Batches};
use crate::types::{LeaderEpoch, Offset, TopicPartition};

/// One partition's segments. Owned and changed by one task; others read through [`Log::reader`].
#[derive(Debug)]
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    id: TopicPartition,
    config: Config,
    /// Shared with readers, copied when it changes while one of them lives.
    sealed: Arc<Vec<View>>,
    active: Option<View>,
    /// When the first batch of the active segment came; unknown until the first append to one that was there.
    begun_ms: Option<i64>,
    /// Local start while there are no segments.
    empty_at: Offset,
    /// Offsets before the first segment that no file has.
    front: Option<Arc<DamagedRange>>,
    damage: Vec<DamagedRange>,
    epochs: Arc<Epochs>,
    dir_exists: bool,
    dirty: DirtySet,
    /// First and next offset of the segments whose files are being replaced.
    replacing: Option<(Offset, Offset)>,
    poisoned: Arc<AtomicBool>,
}

/// What has changed since the last [`Log::take_dirty`].
#[derive(Debug, Default)]
struct DirtySet {
    segments: BTreeMap<Offset, Arc<Segment>>,
    files: Vec<(PathBuf, Arc<dyn DiskFile>)>,
    dir: bool,
    parent: bool,
}

/// Size and age of a segment, for retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// First offset.
    pub base_offset: Offset,
    /// Offset behind the last one.
    pub next_offset: Offset,
    /// Bytes of batches.
    pub bytes: u64,
    /// Highest timestamp of its batches in milliseconds, -1 without one.
    pub max_timestamp_ms: i64,
    /// When its newest batch was appended; unknown of what was there when the log was opened.
    pub appended_ms: Option<i64>,
    /// Whether nothing more is appended to it.
    pub is_sealed: bool,
}

impl Log {
    /// Opens the partition's directory `dir`. `end` is the recovery point: everything at or above it is cut, and the
    /// caller appends it again from the commit log. `start` is the local start offset as the caller knows it: the log
    /// begins there if there is no data, and of data that ends before it with a gap behind, only deleted rests can be
    /// left, which are removed. Data that is whole from below `start` up to `end` is kept. A directory of another topic
    /// id is removed where no data is due. Nothing is created: that is left to the first append.
    ///
    /// What is missing or found damaged below `end` is no error: see [`Log::damage`].
    ///
    /// # Errors
    /// [`Error::Foreign`] and [`Error::Meta`] where the directory is, or may be, that of another partition while data is
    /// due; [`Error::BadRange`], [`Error::Io`].
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        id: TopicPartition,
        start: Offset,
        end: Offset,
        config: Config,
    ) -> Result<Self, Error> {
        let epochs = Arc::<Epochs>::default();
        let found = recover(&disk, &dir, id, (start, end), &config, &epochs)?;
        let front = found.damage.first().filter(|range| range.fault == Fault::Missing);
        let front = front.cloned().map(Arc::new);
        let segments = found.dirty.into_iter().map(|segment| (segment.base, segment)).collect();
        Ok(Self {
            disk,
            dir,
            id,
            config,
            sealed: Arc::new(found.sealed),
            active: found.active,
            begun_ms: None,
            empty_at: end,
            front,
            damage: found.damage,
            epochs,
            dir_exists: found.dir_exists,
            dirty: DirtySet {
                segments,
                files: Vec::new(),
                dir: found.dir_changed,
                parent: found.parent_changed,
            },
            replacing: None,
            poisoned: Arc::default(),
        })
    }

    /// Says in which leader epoch the offsets were written that are there already: each epoch with its first offset, both
    /// rising. A batch that names another one is damaged, for no checksum of Kafka's covers that field. Appends add to it.
    pub fn set_epochs(&mut self, epochs: Vec<(LeaderEpoch, Offset)>) {
        self.epochs.set(epochs);
    }

    /// Takes other settings from now on: sizes and ages hold from the next append on, the index interval from the next
    /// segment on.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// Appends whole batches, the first with [`Log::end_offset`] as base offset. They can be read at once, and are
    /// durable after the sync of a later [`Log::take_dirty`]. `now_ms` is the time by which segments grow old, in
    /// milliseconds since 1970.
    ///
    /// # Errors
    /// [`Error::Batch`] and [`Error::NotContiguous`]: nothing was appended. [`Error::Io`]: any part was, and every
    /// later call is [`Error::Poisoned`]; unless the disk is full ([`Error::is_no_room`]): the batches below
    /// [`Log::end_offset`] were appended then, and the rest may be given again.
    pub fn append(&mut self, batches: &[u8], now_ms: i64) -> Result<(), Error> {
        self.check_poison()?;
        let mut headers = Vec::new();
        let mut expected = self.end_offset();
        for batch in Batches::new(batches) {
            let (header, _) = batch.map_err(Error::Batch)?;
            if header.base_offset != expected || header.next_offset() <= expected {
                return Err(Error::NotContiguous { expected, got: header.base_offset });
            }
            expected = header.next_offset();
            headers.push(header);
        }
        self.poison_on_error(|log| log.append_checked(batches, &headers, now_ms))
    }

    fn append_checked(
        &mut self,
        mut bytes: &[u8],
        mut headers: &[BatchHeader],
        now_ms: i64,
    ) -> Result<(), Error> {
        if let Some(first) = headers.first().filter(|_| self.is_old(now_ms)) {
            self.begin_segment(first.base_offset)?;
        }
        while let Some(first) = headers.first() {
            let (count, length) = match &self.active {
                Some(active) => run_into(active, headers, &self.config),
                None => (0, 0),
            };
            if count == 0 {
                self.begin_segment(first.base_offset)?;
                continue;
            }
            let ((run, rest), (run_headers, rest_headers)) =
                (bytes.split_at(length), headers.split_at(count));
            if let Some(active) = &mut self.active {
                self.begun_ms.get_or_insert(now_ms);
                active.write(run, run_headers)?;
                active.appended_ms = Some(now_ms);
                self.dirty.segments.insert(active.segment.base, Arc::clone(&active.segment));
            }
            (bytes, headers) = (rest, rest_headers);
        }
        Ok(())
    }

    /// Whether the active segment is too old for another batch.
    fn is_old(&mut self, now_ms: i64) -> bool {
        let Some(active) = self.active.as_ref().filter(|active| active.bytes > 0) else {
            return false;
        };
        let config = &self.config;
        let begun_ms = *self.begun_ms.get_or_insert_with(|| {
            // It was there before this start. The stamp of its first batch is the best guess within what is possible.
            let first = active.header_at(0).ok().flatten();
            let stamp = first.map_or(now_ms, |header| header.max_timestamp);
            stamp.clamp(now_ms.saturating_sub(config.segment_ms), now_ms)
        });
        config.is_old(begun_ms, now_ms)
    }

    /// Seals the active segment, if there is one with data, so that it can be deleted; the next append begins another.
    ///
    /// # Errors
    /// [`Error::Io`] and then [`Error::Poisoned`], as of [`Log::append`]; on a full disk it may be called again.
    pub fn roll(&mut self) -> Result<(), Error> {
        self.check_poison()?;
        if self.active.as_ref().is_none_or(|active| active.bytes == 0) {
            return Ok(());
        }
        self.empty_at = self.end_offset();
        self.poison_on_error(Self::seal_active)
    }

    fn seal_active(&mut self) -> Result<(), Error> {
        if let Some(active) = &self.active {
            active.seal()?;
            self.dirty.segments.insert(active.segment.base, Arc::clone(&active.segment));
            self.dirty.dir = true;
        }
        if let Some(active) = self.active.take() {
            Arc::make_mut(&mut self.sealed).push(active);
        }
        Ok(())
    }

    fn begin_segment(&mut self, base: Offset) -> Result<(), Error> {
        self.seal_active()?;
        if !self.dir_exists {
            // Synced with the next checkpoint: one sync of the parent for all the partitions that are new.
            let created = match self.disk.create_dir(&self.dir) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.disk.create_dir_all(&self.dir)
                }
                // By an attempt before this one, which found no room for the rest.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
                other => other,
            };
            created.map_err(Error::io("create", &self.dir))?;
            self.dirty.parent = true;
            let meta = partition_meta::create(self.disk.as_ref(), &self.dir, self.id)?;
            self.dirty.files.push((partition_meta::path(&self.dir), meta));
            self.dir_exists = true;
        }
        let interval = self.config.index_interval_bytes;
        self.begun_ms = None;
        self.active = Some(View::create(&self.disk, &self.dir, base, interval, &self.epochs)?);
        self.dirty.dir = true;
        Ok(())
    }

    /// What of the acknowledged data was found to be damaged or missing when the log was opened, in order. The rest is
    /// served, and appends go on. Only what an open looks at is in it (lengths, the ends of segments): what a read meets
    /// is said by [`Error::Damaged`].
    #[must_use]
    pub fn damage(&self) -> &[DamagedRange] {
        &self.damage
    }

    /// First local offset, read or damaged.
    #[must_use]
    pub fn start_offset(&self) -> Offset {
        if let Some(front) = &self.front {
            return front.from;
        }
        let first = self.sealed.first().or(self.active.as_ref());
        first.map_or(self.empty_at, |view| view.segment.base)
    }

    /// The offset that the next batch must have.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        let last = self.active.as_ref().or(self.sealed.last());
        last.map_or(self.empty_at, |view| view.next_offset)
    }

    /// Bytes of all batches, indexes not counted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sealed.iter().chain(&self.active).map(|view| view.bytes).sum()
    }

    /// All segments in order.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let info = |view: &View, is_sealed| SegmentInfo {
            base_offset: view.segment.base,
            next_offset: view.next_offset,
            bytes: view.bytes,
            max_timestamp_ms: view.highest.map_or(-1, |highest| highest.timestamp),
            appended_ms: view.appended_ms,
            is_sealed,
        };
        let sealed = self.sealed.iter().map(|view| info(view, true));
        sealed.chain(self.active.iter().map(|view| info(view, false))).collect()
    }

    /// A handle on what can be read now. Cheap.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader {
            sealed: Arc::clone(&self.sealed),
            active: self.active.clone(),
            front: self.front.clone(),
            start: self.start_offset(),
            end: self.end_offset(),
        }
    }

    /// Everything that has changed since the last call and is not synced. The index entries of the changed segments are
    /// written out; where the disk is full for that, nothing is taken, and the sync of what is given says so. To be
    /// synced outside the caller's lock.
    pub fn take_dirty(&mut self) -> Dirty {
        let mut failed = self.check_poison().err();
        if failed.is_none() {
            let flushed = self.dirty.segments.values().map(|segment| segment.flush_indexes());
            failed = flushed.collect::<Result<(), Error>>().err();
        }
        let set = match &failed {
            Some(error) if error.is_no_room() => DirtySet::default(),
            _ => std::mem::take(&mut self.dirty),
        };
        let mut files = set.files;
        let mut dir = set.dir;
        for segment in set.segments.values() {
            // An index file may have been created.
            dir = true;
            files.extend(segment.take_unsynced());
        }
        let parent = self.dir.parent().filter(|_| set.parent).map(Path::to_owned);
        Dirty {
            disk: Arc::clone(&self.disk),
            files,
            dir: (dir && self.dir_exists).then(|| self.dir.clone()),
            parent,
            failed,
            poisoned: Arc::clone(&self.poisoned),
        }
    }

    /// Takes the sealed segments that are wholly below `offset`, up to the first that is being replaced, out of the log:
    /// nothing new reads them, readers taken before still do. Their files are for the caller to unlink, outside of its lock.
    /// Cheap.
    ///
    /// # Errors
    /// [`Error::Poisoned`].
    pub fn detach_below(&mut self, offset: Offset) -> Result<Detached, Error> {
        self.check_poison()?;
        let offset = self.replacing.map_or(offset, |(first, _)| offset.min(first));
        let count = self.sealed.partition_point(|view| view.next_offset <= offset);
        if count > 0 {
            self.empty_at = self.end_offset();
        }
        let views: Vec<View> = Arc::make_mut(&mut self.sealed).drain(..count).collect();
        for view in &views {
            self.dirty.segments.remove(&view.segment.base);
        }
        self.front.take_if(|front| front.to <= offset);
        Ok(Detached { disk: Arc::clone(&self.disk), dir: self.dir.clone(), views })
    }

    /// Claims the segments that a compaction has written anew, so that nothing else changes their files. False where they
    /// are no longer what it read, wait for a sync, or others are claimed: the replacement is then to be discarded.
    pub fn begin_replacement(&mut self, replacement: &Replacement) -> bool {
        let Some(at) = self.place_of(replacement) else { return false };
        let old = self.sealed.iter().skip(at).take(replacement.old().len());
        let is_synced = |view: &View| !self.dirty.segments.contains_key(&view.segment.base);
        if self.check_poison().is_err() || self.replacing.is_some() || !old.clone().all(is_synced) {
            return false;
        }
        self.replacing = Some(replacement.range());
        true
    }

    /// Serves what [`Replacement::install`] put in place. Readers taken before still read what was there.
    pub fn end_replacement(&mut self, replacement: Installed) {
        self.replacing = None;
        let Some(at) = self.place_of(&replacement.0) else { return };
        let (count, view) = (replacement.0.old().len(), replacement.0.into_view());
        let sealed = Arc::make_mut(&mut self.sealed);
        sealed.splice(at..at + count, [view]);
    }

    /// Where the segments stand that are to be replaced.
    fn place_of(&self, replacement: &Replacement) -> Option<usize> {
        let old = replacement.old();
        let first = &old.first()?.segment;
        let at = self.sealed.iter().position(|view| Arc::ptr_eq(&view.segment, first))?;
        let here = self.sealed.get(at..at + old.len())?;
        here.iter().zip(old).all(|(a, b)| Arc::ptr_eq(&a.segment, &b.segment)).then_some(at)
    }

    /// How far the log was compacted, as it is kept in its directory.
    #[must_use]
    pub fn clean_position(&self) -> Position {
        Position::of(&self.disk, &self.dir)
    }

    /// Removes the whole directory, durably.
    ///
    /// # Errors
    /// [`Error::Io`]; any part may then be gone.
    pub fn remove(self) -> Result<(), Error> {
        self.sealed.iter().chain(&self.active).for_each(View::retire);
        self.disk.remove_dir_all(&self.dir).map_err(Error::io("remove", &self.dir))?;
        match self.dir.parent() {
            Some(parent) => match self.disk.sync_dir(parent) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                synced => synced.map_err(Error::io("sync", parent)),
            },
            None => Ok(()),
        }
    }

    fn check_poison(&self) -> Result<(), Error> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::Poisoned { dir: self.dir.clone() });
        }
        Ok(())
    }

    fn poison_on_error<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let result = change(self);
        if result.as_ref().is_err_and(|error| !error.is_no_room()) {
            self.poisoned.store(true, Ordering::Release);
        }
        result
    }
}

/// Segments that are no part of the log any more, and whose files are still there. Dropped, they stay until the log is
/// opened again.
#[derive(Debug)]
#[must_use = "the files stay unless this is unlinked"]
pub struct Detached {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    views: Vec<View>,
}

impl Detached {
    /// How many segments.
    #[must_use]
    pub fn len(&self) -> usize {
        self.views.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// Bytes of their batches.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.views.iter().map(|view| view.bytes).sum()
    }

    /// Unlinks the files, from the front, and syncs the directory. Blocking.
    ///
    /// # Errors
    /// [`Error::Io`]; some may be left, which the next open with a higher start removes.
    pub fn unlink(self) -> Result<(), Error> {
        if self.views.is_empty() {
            return Ok(());
        }
        // Each is let go of at once: only its readers still hold it open.
        for view in self.views {
            view.retire();
            view.segment.paths.remove(self.disk.as_ref())?;
        }
        match self.disk.sync_dir(&self.dir) {
            // The whole partition was deleted meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map_err(Error::io("sync", &self.dir)),
        }
    }
}

/// How many of the batches, and how many bytes, go into the active segment. A segment without data takes any one.
fn run_into(active: &View, headers: &[BatchHeader], config: &Config) -> (usize, usize) {
    let (mut count, mut length) = (0, 0);
    for header in headers {
        let (have, bytes) = (active.bytes + length as u64, header.total_bytes());
        let fits = config.fits(have, bytes as u64) && active.reaches(header.last_offset());
        if !fits && have > 0 {
            break;
        }
        count += 1;
        length += bytes;
    }
    (count, length)
}

/// Files and directories with changes that are not synced. Their descriptors stay open until this is dropped. Dropping
/// it without a sync poisons the log, for nobody would sync them any more.
#[derive(Debug)]
#[must_use = "the log is poisoned unless this is synced"]
pub struct Dirty {
    disk: Arc<dyn Disk>,
    files: Vec<(PathBuf, Arc<dyn DiskFile>)>,
    dir: Option<PathBuf>,
    parent: Option<PathBuf>,
    failed: Option<Error>,
    poisoned: Arc<AtomicBool>,
}

impl Dirty {
    /// Whether there is nothing to sync.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
            && self.dir.is_none()
            && self.parent.is_none()
            && self.failed.is_none()
    }

    /// Syncs the files, then their directory, then the directory above it.
    ///
    /// # Errors
    /// [`Error::Io`] of the first sync that fails, or of an index write before. The log is then poisoned: it is to be
    /// opened again at the last recovery point.
    pub fn sync(mut self) -> Result<(), Error> {
        if let Some(error) = self.failed.take() {
            if !error.is_no_room() {
                self.poisoned.store(true, Ordering::Release);
            }
            return Err(error);
        }
        for (path, file) in &self.files {
            file.sync().map_err(Error::io("sync", path))?;
        }
        for dir in self.dir.iter().chain(&self.parent) {
            self.disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        }
        (self.dir, self.parent) = (None, None);
        self.files.clear();
        Ok(())
    }
}

impl Drop for Dirty {
    fn drop(&mut self) {
        if !self.is_empty() {
            self.poisoned.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests;

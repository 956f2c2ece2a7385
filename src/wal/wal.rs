//! The commit log as its owner sees it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{Encoded, Entry, Link};
use super::recovery::{self, Recovered};
use super::spare::{self, Spare, SpareJob, Spares};
use super::writer::{FileWriter, file_name};
use super::{Config, Error, ReplayError};
use crate::disk::{Disk, OpenMode, is_no_room};
use crate::types::{CommitNumber, DataDirId};

/// A file that is not written any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealed {
    pub(super) first: CommitNumber,
    /// Up to the end of its last commit.
    pub(super) bytes: u64,
    /// Of the file.
    pub(super) length: u64,
}

/// The commit log of one data directory.
#[derive(Debug)]
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    id: DataDirId,
    config: Config,
    sealed: VecDeque<Sealed>,
    /// First commit of the file that is written, there or to come.
    active_first: CommitNumber,
    active: FileWriter,
    last: Link,
    spares: Spares,
    /// First commit of the file during which a spare was last asked for: a job that failed is not repeated at once.
    spare_asked: CommitNumber,
    /// There was no room for another file, which was said.
    no_room: bool,
    poisoned: bool,
}

impl Wal {
    /// Opens the commit log in `dir`, or creates it where `after` is 0, and hands every commit above `after` to
    /// `replay`, in order, each once. `after` is the caller's checkpoint: nothing at or below it is needed any more;
    /// 0 where there is none.
    ///
    /// A torn tail is passed over, and written over. All that was handed to `replay` is durable on return; before, the
    /// last commit may not be.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Missing`], [`Error::Foreign`], [`Error::NewerFormat`], [`Error::Replay`] and
    /// [`Error::Io`]. No acknowledged commit is cut then, and another attempt may be made. `replay` may have been
    /// called.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        id: DataDirId,
        after: CommitNumber,
        config: Config,
        replay: &mut dyn FnMut(CommitNumber, Vec<Entry>) -> Result<(), ReplayError>,
    ) -> Result<Self, Error> {
        let recovered = recovery::recover(&*disk, dir, id, after, &config, replay)?;
        Ok(Self::with(disk, dir, id, config, recovered))
    }

    /// Begins the commit log of a new data directory in `dir`: its first commit will be `after + 1`. For a directory
    /// without a checkpoint: what an interrupted first start left there, files without a commit, is removed.
    ///
    /// # Errors
    /// [`Error::InUse`] where a commit is found, [`Error::Foreign`], [`Error::NewerFormat`], [`Error::Io`].
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        id: DataDirId,
        after: CommitNumber,
        config: Config,
    ) -> Result<Self, Error> {
        let recovered = recovery::begin(&*disk, dir, id, after)?;
        Ok(Self::with(disk, dir, id, config, recovered))
    }

    fn with(
        disk: Arc<dyn Disk>,
        dir: &Path,
        id: DataDirId,
        config: Config,
        recovered: Recovered,
    ) -> Self {
        let Recovered { sealed, active_first, active, last, spares } = recovered;
        Self {
            disk,
            dir: dir.to_owned(),
            id,
            config,
            sealed,
            active_first,
            active,
            last,
            spares,
            spare_asked: 0,
            no_room: false,
            poisoned: false,
        }
    }

    /// Writes one commit and syncs it; no entries at all make a commit too. Durable on return.
    ///
    /// # Errors
    /// [`Error::NoRoom`]: nothing was written, and the call may be made again.
    /// [`Error::TooLarge`] for entries of more than [`COMMIT_BYTES`](crate::types::limits::COMMIT_BYTES) in all, by
    /// [`Entry::stored_bytes`]; nothing was done. [`Error::Io`]: the commit may or may not be found by the next
    /// [`Wal::open`], every later call is [`Error::Poisoned`].
    pub fn commit(&mut self, entries: &[Entry]) -> Result<CommitNumber, Error> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        let frame = Encoded::commit(self.last, self.id, entries)?;
        self.poisoned = true;
        if self.active.is_full(&frame, self.config.file_bytes) {
            self.roll()?;
        }
        if let Err(error) = self.active.allocate(&frame) {
            self.poisoned = !matches!(error, Error::NoRoom { .. });
            return Err(error);
        }
        self.active.append(&frame, entries)?;
        self.last = frame.link();
        self.poisoned = false;
        Ok(self.last.number)
    }

    /// Goes on in another file. Where there is no room for one the file that is written grows beyond its size: a disk
    /// without a free inode can still take commits.
    fn roll(&mut self) -> Result<(), Error> {
        let next = match self.prepare_next() {
            Err(Error::Io { source, .. }) if is_no_room(&source) => {
                if !std::mem::replace(&mut self.no_room, true) {
                    tracing::warn!(%source, "no room for another file of the commit log");
                }
                return Ok(());
            }
            prepared => prepared?,
        };
        self.no_room = false;
        let full = std::mem::replace(&mut self.active, next);
        let (first, bytes, length) = (self.active_first, full.position, full.length);
        self.sealed.push_back(Sealed { first, bytes, length });
        self.active_first = self.last.next_number();
        self.active.activate(&*self.disk, &self.dir, self.active_first)
    }

    /// A spare, or else an empty file that grows. It is named by no commit yet, so what fails here harms nothing that
    /// was written.
    fn prepare_next(&mut self) -> Result<FileWriter, Error> {
        let (path, mode) = match self.spares.take() {
            Some(spare) => (spare.path, OpenMode::Write),
            None => (self.spares.new_path(&self.dir), OpenMode::CreateNew),
        };
        let next = FileWriter::prepare(&*self.disk, path.clone(), mode, self.last, self.id);
        next.inspect_err(|_| spare::remove(&*self.disk, &path))
    }

    /// Number of the last commit; 0 where there was none yet.
    #[must_use]
    pub fn last_commit(&self) -> CommitNumber {
        self.last.number
    }

    /// Gives up the files all of whose commits are at or below `upto`, but never the one that is written: they become
    /// spares, or go where there are enough. Returns the bytes of their commits. Durable on return. The caller's
    /// checkpoint must be durable at `upto` or above: from then on [`Wal::open`] needs it as `after`.
    ///
    /// # Errors
    /// [`Error::Io`], every later call is then [`Error::Poisoned`]; [`Error::Poisoned`].
    pub fn free_upto(&mut self, upto: CommitNumber) -> Result<u64, Error> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        let mut freed = 0;
        self.poisoned = true;
        while let Some(oldest) = self.sealed.front().copied() {
            let next_first = self.sealed.get(1).map_or(self.active_first, |next| next.first);
            if next_first > upto.saturating_add(1) {
                break;
            }
            self.free(oldest)?;
            freed += oldest.bytes;
            self.sealed.pop_front();
        }
        if freed > 0 {
            self.disk.sync_dir(&self.dir).map_err(Error::io("sync", &self.dir))?;
        }
        self.poisoned = false;
        Ok(freed)
    }

    fn free(&mut self, file: Sealed) -> Result<(), Error> {
        let path = self.dir.join(file_name(file.first));
        if !self.spares.wants(file.length, &self.config) {
            return self.disk.remove_file(&path).map_err(Error::io("remove", &path));
        }
        let spare = Spare { path: self.spares.new_path(&self.dir), length: file.length };
        match self.disk.rename(&path, &spare.path) {
            // The directory cannot take the other name.
            Err(error) if is_no_room(&error) => {
                return self.disk.remove_file(&path).map_err(Error::io("remove", &path));
            }
            renamed => renamed.map_err(Error::io("rename", &path))?,
        }
        self.spares.add(spare);
        Ok(())
    }

    /// A spare to be made now, for the caller to [`run`](SpareJob::run) on another thread, one at a time, and to hand
    /// back by [`Wal::add_spare`]. At most once per file that is written, and for the first not before that is half
    /// full: a log that is hardly used stays small.
    pub fn wanted_spare(&mut self) -> Option<SpareJob> {
        let soon = !self.sealed.is_empty() || self.active.position >= self.config.file_bytes / 2;
        let asked = self.spare_asked == self.active_first;
        if asked || !soon || self.spares.count() > 0 || self.config.spare_files == 0 {
            return None;
        }
        self.spare_asked = self.active_first;
        Some(self.spares.job(&self.disk, &self.dir, &self.config))
    }

    /// Takes a spare that was made. It is removed where there are enough by now.
    pub fn add_spare(&mut self, spare: Spare) {
        if self.spares.wants(spare.length, &self.config) {
            self.spares.add(spare);
        } else {
            spare::remove(&*self.disk, &spare.path);
        }
    }

    /// Removes the spares, to give their room to others.
    pub fn drop_spares(&mut self) {
        self.spares.remove_all(&*self.disk);
    }

    /// Bytes of the commits that are not freed, with what frames and files need around them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sealed.iter().map(|file| file.bytes).sum::<u64>() + self.active.position
    }

    /// Bytes of all files, spares included; not of a spare that is being made.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|file| file.length).sum();
        sealed + self.active.length + self.spares.bytes()
    }
}

#[cfg(test)]
pub(super) mod tests;

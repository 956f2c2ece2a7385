//! The commit log as its owner sees it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{Encoded, Entry, Link};
use super::recovery::{self, Recovered};
use super::writer::{FileWriter, file_name};
use super::{Config, Error, ReplayError};
use crate::disk::Disk;
use crate::types::{CommitNumber, DataDirId};

/// A file that is not written any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealed {
    pub(super) first: CommitNumber,
    pub(super) bytes: u64,
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
    poisoned: bool,
}

impl Wal {
    /// Opens the commit log in `dir`, or creates it where `after` is 0, and hands every commit above `after` to `replay`, in order, each
    /// once. `after` is the caller's checkpoint: nothing at or below it is needed any more; 0 where there is none.
    ///
    /// A torn tail is cut. All that was handed to `replay` is durable on return; before, the last commit may not be.
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
        let Recovered { sealed, active_first, active, last } =
            recovery::recover(&*disk, dir, id, after, replay)?;
        let dir = dir.to_owned();
        let poisoned = false;
        Ok(Self { disk, dir, id, config, sealed, active_first, active, last, poisoned })
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
        let Recovered { sealed, active_first, active, last } =
            recovery::begin(&*disk, dir, id, after)?;
        let dir = dir.to_owned();
        Ok(Self { disk, dir, id, config, sealed, active_first, active, last, poisoned: false })
    }

    /// Writes one commit and syncs it; no entries at all make a commit too. Durable on return.
    ///
    /// # Errors
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
        self.active.append(&frame, entries)?;
        self.last = frame.link();
        self.poisoned = false;
        Ok(self.last.number)
    }

    fn roll(&mut self) -> Result<(), Error> {
        let next = FileWriter::create(&*self.disk, &self.dir, self.last, self.id)?;
        let full = std::mem::replace(&mut self.active, next);
        self.sealed.push_back(Sealed { first: self.active_first, bytes: full.position });
        self.active_first = self.last.next_number();
        Ok(())
    }

    /// Number of the last commit; 0 where there was none yet.
    #[must_use]
    pub fn last_commit(&self) -> CommitNumber {
        self.last.number
    }

    /// Removes the files all of whose commits are at or below `upto`, but never the one that is written. Returns the
    /// bytes freed. Durable on return. The caller's checkpoint must be durable at `upto` or above: from then on
    /// [`Wal::open`] needs it as `after`.
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
            let path = self.dir.join(file_name(oldest.first));
            self.disk.remove_file(&path).map_err(Error::io("remove", &path))?;
            freed += oldest.bytes;
            self.sealed.pop_front();
        }
        if freed > 0 {
            self.disk.sync_dir(&self.dir).map_err(Error::io("sync", &self.dir))?;
        }
        self.poisoned = false;
        Ok(freed)
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sealed.iter().map(|file| file.bytes).sum::<u64>() + self.active.position
    }
}

#[cfg(test)]
mod tests;

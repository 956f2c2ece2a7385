//! Files that wait for their use: freed ones, and new ones that were filled with zeros.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::ALIGN_BYTES;
use super::{Config, Error};
use crate::disk::{Disk, OpenMode};

/// Zeros are written and synced in pieces of this size, so that a commit beside them waits for one piece at most.
const PIECE_BYTES: usize = 1 << 20;

/// A file without a commit that is needed, whose blocks are there.
#[derive(Debug)]
pub struct Spare {
    pub(super) path: PathBuf,
    pub(super) length: u64,
}

/// A new spare to be made, on whatever thread: see [`Wal::wanted_spare`](super::Wal::wanted_spare).
#[derive(Debug)]
pub struct SpareJob {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    bytes: u64,
}

impl SpareJob {
    /// What it will take of the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fills the file. It is for [`Wal::add_spare`](super::Wal::add_spare) then.
    ///
    /// # Errors
    /// [`Error::Io`], a full disk included. The file is removed then, and the commit log is none the worse.
    pub fn run(self) -> Result<Spare, Error> {
        match self.fill() {
            Ok(()) => Ok(Spare { path: self.path, length: self.bytes }),
            Err(error) => {
                remove(&*self.disk, &self.path);
                Err(error)
            }
        }
    }

    fn fill(&self) -> Result<(), Error> {
        let path = &self.path;
        let file = self.disk.open(path, OpenMode::CreateNew).map_err(Error::io("create", path))?;
        let zeros = vec![0; PIECE_BYTES];
        let mut position = 0;
        while position < self.bytes {
            let left = usize::try_from(self.bytes - position).unwrap_or(PIECE_BYTES);
            let piece = &zeros[..left.min(PIECE_BYTES)];
            file.write_all_synced(&[IoSlice::new(piece)], position)
                .map_err(Error::io("fill", path))?;
            position += piece.len() as u64;
        }
        Ok(())
    }
}

/// The spares of a directory, in names `spare-<number>` of which none is used twice by one process.
#[derive(Debug)]
pub(super) struct Spares {
    files: Vec<Spare>,
    next: u64,
}

impl Spares {
    /// What earlier processes left: as much of it as `config` wants is kept, the rest is removed.
    pub(super) fn find(disk: &dyn Disk, dir: &Path, config: &Config) -> Result<Self, Error> {
        let mut spares = Self { files: Vec::new(), next: 1 };
        for name in disk.list(dir).map_err(Error::io("list", dir))? {
            let Some(number) = spare_number(&name) else { continue };
            spares.next = spares.next.max(number + 1);
            let path = dir.join(name);
            let file = disk.open(&path, OpenMode::Read).map_err(Error::io("open", &path))?;
            let length = file.len().map_err(Error::io("measure", &path))?;
            if spares.wants(length, config) {
                spares.files.push(Spare { path, length });
            } else {
                disk.remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(spares)
    }

    /// Whether there is a place for a file of this length. One that is less than half of a file, as after an
    /// interrupted filling, would hardly spare a commit anything; one that is more would be kept for nothing.
    pub(super) fn wants(&self, length: u64, config: &Config) -> bool {
        let fits = length >= config.file_bytes / 2 && length <= full_length(config);
        self.files.len() < config.spare_files && fits
    }

    pub(super) fn count(&self) -> usize {
        self.files.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|spare| spare.length).sum()
    }

    pub(super) fn take(&mut self) -> Option<Spare> {
        self.files.pop()
    }

    pub(super) fn add(&mut self, spare: Spare) {
        self.files.push(spare);
    }

    /// A path that nothing has.
    pub(super) fn new_path(&mut self, dir: &Path) -> PathBuf {
        let path = dir.join(format!("spare-{}", self.next));
        self.next += 1;
        path
    }

    pub(super) fn job(&mut self, disk: &Arc<dyn Disk>, dir: &Path, config: &Config) -> SpareJob {
        let path = self.new_path(dir);
        SpareJob { disk: Arc::clone(disk), path, bytes: full_length(config) }
    }

    pub(super) fn remove_all(&mut self, disk: &dyn Disk) {
        for spare in self.files.drain(..) {
            remove(disk, &spare.path);
        }
    }
}

fn full_length(config: &Config) -> u64 {
    config.file_bytes.next_multiple_of(ALIGN_BYTES as u64)
}

fn spare_number(name: &str) -> Option<u64> {
    let number: u32 = name.strip_prefix("spare-")?.parse().ok()?;
    (format!("spare-{number}") == name).then_some(number.into())
}

/// Removes a file that nothing is read from. Where that fails the next start does it.
pub(super) fn remove(disk: &dyn Disk, path: &Path) {
    if let Err(error) = disk.remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a spare file of the commit log stays");
    }
}

#[cfg(test)]
mod tests;

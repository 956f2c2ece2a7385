//! The file of the commit log that is written.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Error;
use super::frame::{ALIGN_BYTES, Encoded, Entry, Frame, Kind, Link, padding};
use crate::disk::{Disk, DiskFile, OpenMode, is_no_room};
use crate::types::{CommitNumber, DataDirId};

/// Name of the file whose first commit is `first`.
pub(super) fn file_name(first: CommitNumber) -> String {
    format!("{first:020}.log")
}

/// The first commit of the file with this name, if it is a name of ours.
pub(super) fn first_commit(name: &str) -> Option<CommitNumber> {
    let first = name.strip_suffix(".log")?.parse().ok()?;
    (first > 0 && file_name(first) == name).then_some(first)
}

/// A file that grows takes so much room ahead of its commits.
const ALLOCATED_AHEAD_BYTES: u64 = 1 << 20;

/// The open file and where its next commit goes.
#[derive(Debug)]
pub(super) struct FileWriter {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    /// End of the last commit; a multiple of 512.
    pub(super) position: u64,
    /// Of the file, which was written before where this is more than `position`.
    pub(super) length: u64,
    /// Up to here the file has blocks, as far as is known.
    allocated: u64,
}

impl FileWriter {
    /// Gives the file at `path`, which no commit is looked for in, the header for the commits behind `previous`. The
    /// header is durable on return, the file's name need not be.
    pub(super) fn prepare(
        disk: &dyn Disk,
        path: PathBuf,
        mode: OpenMode,
        previous: Link,
        id: DataDirId,
    ) -> Result<Self, Error> {
        let file = disk.open(&path, mode).map_err(Error::io("open", &path))?;
        let length = file.len().map_err(Error::io("measure", &path))?;
        let mut writer = Self { file, path, position: 0, length, allocated: length };
        writer.append(&Encoded::file(previous, id), &[])?;
        Ok(writer)
    }

    /// Gives a prepared file the name under which commits from `first` on are looked for. Durable on return.
    pub(super) fn activate(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        first: CommitNumber,
    ) -> Result<(), Error> {
        let path = dir.join(file_name(first));
        disk.rename(&self.path, &path).map_err(Error::io("rename", &self.path))?;
        self.path = path;
        disk.sync_dir(dir).map_err(Error::io("sync", dir))
    }

    /// Opens the file that recovery found to be the last, to go on at `position`: writes header and last commit again
    /// (the module page says why). What is behind stays, until it is overwritten. Durable on return.
    pub(super) fn reopen(
        disk: &dyn Disk,
        dir: &Path,
        path: &Path,
        header: &Frame,
        last: Option<(u64, &Frame)>,
        position: u64,
    ) -> Result<Self, Error> {
        let file = disk.open(path, OpenMode::Write).map_err(Error::io("open", path))?;
        for (at, frame) in [(0, header)].into_iter().chain(last) {
            let parts = [IoSlice::new(&frame.bytes), padding(frame.bytes.len())];
            file.write_all_vectored_at(&parts, at).map_err(Error::io("write", path))?;
        }
        file.sync().map_err(Error::io("sync", path))?;
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        let length = file.len().map_err(Error::io("measure", path))?;
        Ok(Self { file, path: path.to_owned(), position, length, allocated: length })
    }

    /// Whether the file has a commit, and `frame` would make it longer than `file_bytes`.
    pub(super) fn is_full(&self, frame: &Encoded, file_bytes: u64) -> bool {
        let has_commit = self.position > ALIGN_BYTES as u64;
        has_commit && frame.head.end(self.position) > file_bytes
    }

    /// Takes the room for a frame behind the last one, so that the write does not fail for want of it; while the file
    /// grows some more, so that not every commit does so.
    pub(super) fn allocate(&mut self, frame: &Encoded) -> Result<(), Error> {
        let end = frame.head.end(self.position);
        if end <= self.allocated {
            return Ok(());
        }
        let from = self.allocated;
        let allocate = |end: u64| self.file.allocate(from, end - from);
        let allocated = match allocate(end + ALLOCATED_AHEAD_BYTES) {
            Err(error) if is_no_room(&error) => allocate(end).map(|_| end),
            other => other.map(|_| end + ALLOCATED_AHEAD_BYTES),
        };
        self.allocated = allocated.map_err(|source| match is_no_room(&source) {
            true => Error::NoRoom { path: self.path.clone(), source },
            false => Error::Io { op: "take room in", path: self.path.clone(), source },
        })?;
        Ok(())
    }

    /// Writes a frame behind the last one. Durable on return.
    pub(super) fn append(&mut self, frame: &Encoded, entries: &[Entry]) -> Result<(), Error> {
        debug_assert!(frame.head.kind == Kind::Commit || self.position == 0);
        let parts = frame.parts(entries);
        self.file
            .write_all_synced(&parts, self.position)
            .map_err(Error::io("write and sync", &self.path))?;
        self.position = frame.head.end(self.position);
        self.length = self.length.max(self.position);
        self.allocated = self.allocated.max(self.length);
        Ok(())
    }
}

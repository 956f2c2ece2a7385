//! The one door to files.
//!
//! Everything that must survive a crash goes through [`Disk`] and [`DiskFile`], so that the same code runs on the
//! real file system ([`FileDisk`]) and on the simulated one of the crash tests, which forgets and tears what was not
//! synced.
//!
//! Rules that the callers keep, and that a `Disk` assumes:
//! * A new file is durable after [`DiskFile::sync`] **and** [`Disk::sync_dir`] of its directory.
//! * A file is replaced by [`Disk::replace`] only: write a temporary, sync, rename, sync the directory.
//! * After a failed sync nothing of that file is believed again: the page cache may show what the disk does not have.
//! * EINTR and short writes are finished here and never seen by a caller. A write that cannot be finished is an error
//!   (`WriteZero`).
//! * Want of room ([`is_no_room`]) is no failed sync where it meets a write, a creation or [`DiskFile::allocate`]: the
//!   same call may be made again. Where it meets a sync, it is one.
//!
//! A [`Reserve`] holds room back for what must not fail when the file system is full, and [`ReservedDisk`] gives it out.

mod file;
mod layer;
pub mod page_cache;
mod reserve;
#[cfg(test)]
pub mod sim;

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

pub use file::FileDisk;
pub use layer::Layer;
pub use reserve::{Reserve, ReservedDisk};

/// Whether the call failed for want of room alone: the disk, or what is left to this user of it, is full.
#[must_use]
pub fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What a file system has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Its size.
    pub total_bytes: u64,
    /// Bytes that this user may still write.
    pub free_bytes: u64,
    /// Files and directories that this user may still create; `u64::MAX` where nothing but room limits them.
    pub free_inodes: u64,
}

/// How [`Disk::open`] opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file, for reading and writing; fails with `AlreadyExists` when there is one.
    CreateNew,
}

/// What [`Disk::lock`] gives: the claim ends when it is dropped, or with the process.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "open as long as the lock is held")] Option<File>);

/// A file system. All paths are taken as given.
pub trait Disk: Send + Sync + Debug {
    /// Opens a file.
    ///
    /// # Errors
    /// As the system gives them.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a directory and its missing parents, and syncs each directory that got a new entry.
    ///
    /// # Errors
    /// As the system gives them.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Creates one directory in a parent that exists; durable after [`Disk::sync_dir`] of the parent. For many at once,
    /// where [`Disk::create_dir_all`] would sync the parent for each.
    ///
    /// # Errors
    /// As the system gives them; `NotFound` where the parent is missing, unless that is created too, as here.
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.create_dir_all(path)
    }

    /// Names of the entries of a directory, sorted.
    ///
    /// # Errors
    /// As the system gives them; `NotFound` when there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Whether something has this name.
    ///
    /// # Errors
    /// As the system gives them: what cannot be looked at is not taken for absent.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Renames a file or directory; durable after [`Disk::sync_dir`] of both parents.
    ///
    /// # Errors
    /// As the system gives them.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; durable after [`Disk::sync_dir`] of its parent.
    ///
    /// # Errors
    /// As the system gives them.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory with everything in it. Nothing happens when there is none.
    ///
    /// # Errors
    /// As the system gives them.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes the entries of a directory durable.
    ///
    /// # Errors
    /// As the system gives them.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// What the file system of `path` has left.
    ///
    /// # Errors
    /// As the system gives them.
    fn space(&self, path: &Path) -> io::Result<Space>;

    /// Which file system `path` lies on: the same number means the same room. The default has one.
    ///
    /// # Errors
    /// As the system gives them.
    fn file_system(&self, path: &Path) -> io::Result<u64> {
        let _ = path;
        Ok(0)
    }

    /// Claims the file at `path`, created when missing, for one holder until the [`Lock`] is dropped. The default
    /// locks nothing: it is for disks that no other process can see.
    ///
    /// # Errors
    /// `WouldBlock` when another holder, of this or another process, has it; else as the system gives them.
    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let _ = path;
        Ok(Lock(None))
    }

    /// Puts `bytes` in place of the file at `path`, which afterwards holds either the old or the new content whole.
    /// Durable on return.
    ///
    /// # Errors
    /// As the system gives them; the old content then still stands, or the new one does.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let temporary = path.with_extension("tmp");
        if self.exists(&temporary)? {
            self.remove_file(&temporary)?;
        }
        let write = || {
            let file = self.open(&temporary, OpenMode::CreateNew)?;
            file.write_all_at(bytes, 0)?;
            file.sync()?;
            self.rename(&temporary, path)
        };
        write().inspect_err(|_| {
            // Where it cannot be removed either the next attempt does it.
            self.remove_file(&temporary).ok();
        })?;
        self.sync_dir(dir)
    }

    /// The whole content of a file of at most `limit` bytes.
    ///
    /// # Errors
    /// As the system gives them; `InvalidData` when it is longer.
    fn read_all(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let length = file.len()?;
        if length > limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{length} bytes long, {limit} are expected at most"),
            ));
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// An open file. Reads and writes name their position; there is no cursor.
pub trait DiskFile: Send + Sync + Debug {
    /// Reads up to `buffer.len()` bytes; 0 only at the end of the file or for an empty buffer.
    ///
    /// # Errors
    /// As the system gives them.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes all of `bytes`; the file grows as needed.
    ///
    /// # Errors
    /// As the system gives them; any part may then have been written.
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;

    /// Writes all of `parts` one behind the other.
    ///
    /// # Errors
    /// As the system gives them; any part may then have been written.
    fn write_all_vectored_at(&self, parts: &[io::IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut at = position;
        for part in parts {
            self.write_all_at(part, at)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Writes all of `parts` one behind the other, durable on return. Only this range is made durable; where the file
    /// system can, by one call. What was written before and not synced may be left as it is.
    ///
    /// # Errors
    /// As the system gives them; any part may then have been written, and the rules of a failed sync hold.
    fn write_all_synced(&self, parts: &[io::IoSlice<'_>], position: u64) -> io::Result<()> {
        self.write_all_vectored_at(parts, position)?;
        self.sync()
    }

    /// Fills `buffer` from what the system has of the file in memory. False where it would have to wait for the disk, where
    /// that cannot be told, and where the read fails: nothing was read then.
    fn read_at_hand(&self, buffer: &mut [u8], position: u64) -> bool {
        let _ = (buffer, position);
        false
    }

    /// The descriptor, for what the system does with a file by itself. None where there is no such thing.
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The file behind this handle where that is another one that is opened and closed as needed: it stays open as long as
    /// it is held. None where the handle is the file.
    ///
    /// # Errors
    /// As the system gives them, if it has to be opened.
    fn pinned(&self) -> io::Result<Option<Arc<dyn DiskFile>>> {
        Ok(None)
    }

    /// The name of the file is about to go, or to be another's: it stays open from here on.
    ///
    /// # Errors
    /// As the system gives them, if it has to be opened.
    fn hold(&self) -> io::Result<()> {
        Ok(())
    }

    /// Takes the room for a range, so that a later write to it does not fail for want of room. The length stays as it
    /// is. False where the file system knows no such thing, as the default: nothing was done then.
    ///
    /// # Errors
    /// As the system gives them.
    fn allocate(&self, position: u64, length: u64) -> io::Result<bool> {
        let _ = (position, length);
        Ok(false)
    }

    /// Makes the content and the length durable (fdatasync).
    ///
    /// # Errors
    /// As the system gives them; see the module page for what that means.
    fn sync(&self) -> io::Result<()>;

    /// Cuts or extends (with zeros) to `length` bytes.
    ///
    /// # Errors
    /// As the system gives them.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// As the system gives them.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no content.
    ///
    /// # Errors
    /// As the system gives them.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads exactly `buffer.len()` bytes.
    ///
    /// # Errors
    /// As the system gives them; `UnexpectedEof` where the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(&mut buffer[done..], position + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        Ok(())
    }
}

//! The data directory: held by one process at a time.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::Error;
use crate::disk::{Disk, FileDisk, is_no_room};

const LOCK: &str = "LOCK";

/// The data directory, locked against other processes until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory when it is missing, and locks it.
    ///
    /// # Errors
    /// [`Error::Locked`] with the holder's process id, or [`Error::DataDir`].
    pub fn lock(path: &Path) -> Result<Self, Error> {
        let fault = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| Error::DataDir { path, source }
        };
        FileDisk.create_dir_all(path).map_err(fault(path))?;
        let lock_path = path.join(LOCK);
        // Never truncated on open: its content names the process that holds it.
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(fault(&lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Who holds it is a courtesy; that somebody does is the error.
                let holder = match lock.read_to_string(&mut text) {
                    Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
                    _ => "?".to_owned(),
                };
                return Err(Error::Locked { path: path.to_owned(), holder });
            }
            Err(error) => return Err(fault(&lock_path)(error.into())),
        }
        match name_holder(&mut lock) {
            // A courtesy that a full disk does without.
            Err(error) if !is_no_room(&error) => return Err(fault(&lock_path)(error)),
            _ => {}
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Writes this process's id over the last holder's, whose block is kept: on a full disk there may be no other.
fn name_holder(lock: &mut File) -> io::Result<()> {
    let id = format!("{}\n", std::process::id());
    lock.write_all(id.as_bytes())?;
    lock.set_len(id.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_with_the_first_ones_process_id() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = DataDir::lock(&path).unwrap();
        let error = DataDir::lock(&path).unwrap_err();
        assert_eq!(error.exit_code(), 11);
        assert!(error.to_string().contains(&format!("process {};", std::process::id())), "{error}");
        drop(first);
        DataDir::lock(&path).unwrap();
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(DataDir::lock(&path), Err(Error::DataDir { .. })));
    }
}

//! The real file system.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::{Disk, DiskFile, Lock, OpenMode, Space};

/// The system's limit on parts in one call (`IOV_MAX`).
const CALL_PARTS: usize = 1024;

/// The operating system's files.
#[derive(Debug, Default, Clone, Copy)]
pub struct FileDisk;

impl Disk for FileDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(options.open(path)?))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(Path::new("/"));
        self.create_dir_all(parent)?;
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        self.sync_dir(parent)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.try_lock()?;
        Ok(Lock(Some(file)))
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            // File systems that make inodes as they go count none.
            free_inodes: if stat.f_files == 0 { u64::MAX } else { stat.f_favail },
        })
    }

    fn file_system(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.dev())
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        loop {
            match FileExt::read_at(self, buffer, position) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn read_at_hand(&self, buffer: &mut [u8], position: u64) -> bool {
        let (wanted, mut parts) = (buffer.len(), [IoSliceMut::new(buffer)]);
        // A short read is as good as none: what is missing is on the disk.
        rustix::io::preadv2(self, &mut parts, position, ReadWriteFlags::NOWAIT) == Ok(wanted)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, position)
    }

    fn write_all_vectored_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        write_all(parts, position, |parts, at| rustix::io::pwritev(self, parts, at))
    }

    fn write_all_synced(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        // More would be several calls, and so several syncs.
        if parts.len() <= CALL_PARTS {
            match write_all(parts, position, |parts, at| {
                rustix::io::pwritev2(self, parts, at, ReadWriteFlags::DSYNC)
            }) {
                Err(error) if does_not_know_dsync(&error) => {}
                done => return done,
            }
        }
        self.write_all_vectored_at(parts, position)?;
        self.sync_data()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(AsFd::as_fd(self))
    }

    fn allocate(&self, position: u64, length: u64) -> io::Result<bool> {
        loop {
            match rustix::fs::fallocate(self, FallocateFlags::KEEP_SIZE, position, length) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        File::set_len(self, length)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// The file system has no such write, or the kernel no such call. Nothing was written then, and no sync failed.
fn does_not_know_dsync(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::OPNOTSUPP | Errno::NOSYS))
}

/// Calls `write` until all of `parts` is written: with what is left after a short write, again after EINTR.
fn write_all(
    parts: &[IoSlice<'_>],
    position: u64,
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> rustix::io::Result<usize>,
) -> io::Result<()> {
    let mut parts: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut left = &mut parts[..];
    let mut at = position;
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        let batch = left.len().min(CALL_PARTS);
        match write(&left[..batch], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten bytes in four parts through a system that answers by `script`; what arrived and what was asked of it.
    fn scripted(script: &[Result<usize, Errno>]) -> (io::Result<()>, Vec<u8>, usize) {
        let (mut arrived, mut answers) = (vec![0; 7], script.iter());
        let parts = [&b"01"[..], b"", b"23456", b"789"].map(IoSlice::new);
        let result = write_all(&parts, 7, |parts, at| {
            assert_eq!(at, arrived.len() as u64);
            let written = (*answers.next().expect("more calls than the script has"))?;
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
            arrived.extend(&bytes[..written]);
            Ok(written)
        });
        (result, arrived.split_off(7), answers.len())
    }

    #[test]
    fn short_and_interrupted_writes_are_finished() {
        for first in 1..10 {
            let script = [Err(Errno::INTR), Ok(first), Err(Errno::INTR), Ok(10 - first)];
            let (result, arrived, left) = scripted(&script);
            assert_eq!((&arrived[..], left), (&b"0123456789"[..], 0));
            result.unwrap();
        }
    }

    #[test]
    fn a_write_that_does_not_go_on_is_an_error() {
        let (result, arrived, _) = scripted(&[Ok(4), Ok(0)]);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WriteZero);
        assert_eq!(arrived, b"0123");
        let (result, _, _) = scripted(&[Ok(4), Err(Errno::NOSPC)]);
        assert!(crate::disk::is_no_room(&result.unwrap_err()));
    }

    #[test]
    fn only_a_missing_feature_leads_to_the_other_way_to_sync() {
        for errno in [Errno::OPNOTSUPP, Errno::NOSYS] {
            assert!(does_not_know_dsync(&errno.into()));
        }
        for errno in [Errno::IO, Errno::NOSPC, Errno::INTR, Errno::INVAL] {
            assert!(!does_not_know_dsync(&errno.into()));
        }
    }

    #[test]
    fn a_synced_write_of_few_or_many_parts_arrives_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = FileDisk.open(&path, OpenMode::CreateNew).unwrap();
        for count in [3, CALL_PARTS, CALL_PARTS + 1] {
            let pieces: Vec<Vec<u8>> = (0..count).map(|i| vec![i as u8; i % 7]).collect();
            let parts: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            file.write_all_synced(&parts, 0).unwrap();
            assert!(FileDisk.read_all(&path, 1 << 20).unwrap() == pieces.concat());
        }
    }

    #[test]
    fn a_vectored_write_of_many_parts_arrives_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = FileDisk.open(&path, OpenMode::CreateNew).unwrap();
        let pieces: Vec<Vec<u8>> = (0..3000usize).map(|i| vec![i as u8; i % 7]).collect();
        let parts: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        file.write_all_vectored_at(&parts, 5).unwrap();
        let mut expected = vec![0; 5];
        expected.extend(pieces.concat());
        assert_eq!(FileDisk.read_all(&path, 1 << 20).unwrap(), expected);
    }

    #[test]
    fn replace_leaves_the_new_content_and_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        FileDisk.replace(&path, b"one").unwrap();
        FileDisk.replace(&path, b"two").unwrap();
        assert_eq!(FileDisk.read_all(&path, 10).unwrap(), b"two");
        assert_eq!(FileDisk.list(dir.path()).unwrap(), ["state"]);
    }

    #[test]
    fn a_lock_has_one_holder_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = FileDisk.lock(&path).unwrap();
        assert_eq!(FileDisk.lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        FileDisk.lock(&path).unwrap();
    }

    #[test]
    fn missing_parents_are_created() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        FileDisk.create_dir_all(&deep).unwrap();
        FileDisk.create_dir_all(&deep).unwrap();
        assert!(FileDisk.exists(&deep).unwrap());
    }
}

//! Room that is held back for what must not fail when the file system is full.
//!
//! ```text
//!   <directory>/00 … 15    files of equal length whose blocks are there, content without meaning
//!
//!   a call of a ReservedDisk ──no room──▶ one piece is unlinked ──▶ the same call again, while there are pieces
//! ```
//!
//! Pieces, so that no more is given to the neighbours of this file system than is needed; and each piece holds an inode.
//! They are made again by [`Reserve::refill`], which is called where there is room.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, Layer, OpenMode, Space, is_no_room};

/// Pieces of a whole reserve.
const PIECES: usize = 16;
/// The floor is one of so many parts of the reserve.
const FLOOR_SHARE: u64 = 8;
/// Zeros are written so many at a time where blocks can be had by no other way.
const ZEROS_BYTES: usize = 1 << 20;

/// The reserve of a directory.
#[derive(Debug)]
pub struct Reserve {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    piece_bytes: u64,
    /// Which pieces are there.
    held: Mutex<[bool; PIECES]>,
}

impl Reserve {
    /// The reserve in `dir`, whose parent exists, as an earlier process left it: nothing is made or removed but what is no
    /// whole piece of a reserve of `bytes`.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn find(disk: Arc<dyn Disk>, dir: PathBuf, bytes: u64) -> io::Result<Self> {
        let piece_bytes = bytes.div_ceil(PIECES as u64);
        let mut held = [false; PIECES];
        for (number, held) in held.iter_mut().enumerate() {
            let path = piece(&dir, number);
            if disk.exists(&path)? {
                *held = disk.open(&path, OpenMode::Read)?.len()? == piece_bytes;
                if !*held {
                    disk.remove_file(&path)?;
                }
            }
        }
        Ok(Self { disk, dir, piece_bytes, held: Mutex::new(held) })
    }

    /// The disk whose calls fall back on this reserve.
    #[must_use]
    pub fn disk(self: &Arc<Self>) -> Arc<dyn Disk> {
        Arc::new(ReservedDisk { inner: Arc::clone(&self.disk), reserve: Arc::clone(self) })
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Size of the whole reserve.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.piece_bytes * PIECES as u64
    }

    /// Bytes that are to stay free beside the reserve, so that it is not used for every small thing.
    #[must_use]
    pub fn floor_bytes(&self) -> u64 {
        self.bytes() / FLOOR_SHARE
    }

    /// What of it is not there.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        let missing = self.held().iter().filter(|held| !**held).count();
        self.piece_bytes * missing as u64
    }

    /// Size of what one call of [`Reserve::refill`] makes.
    #[must_use]
    pub fn piece_bytes(&self) -> u64 {
        self.piece_bytes
    }

    /// What its file system has left.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn space(&self) -> io::Result<Space> {
        self.disk.space(self.dir.parent().unwrap_or(&self.dir))
    }

    /// Whether `path` takes its room from the same file system.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn is_beside(&self, path: &Path) -> io::Result<bool> {
        let dir = self.dir.parent().unwrap_or(&self.dir);
        Ok(self.disk.file_system(dir)? == self.disk.file_system(path)?)
    }

    /// Makes one piece that is missing, if one is.
    ///
    /// # Errors
    /// As the system gives them; nothing is made then.
    pub fn refill(&self) -> io::Result<()> {
        let mut held = self.held();
        let Some(number) = held.iter().position(|held| !held) else { return Ok(()) };
        let path = piece(&self.dir, number);
        if !self.disk.exists(&self.dir)? {
            self.disk.create_dir(&self.dir)?;
        }
        let made = self.make(&path);
        if made.is_err() {
            self.remove(&path);
        }
        made?;
        held[number] = true;
        Ok(())
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        let file = self.disk.open(path, OpenMode::CreateNew)?;
        if !file.allocate(0, self.piece_bytes)? {
            let zeros = vec![0; ZEROS_BYTES];
            let mut position = 0;
            while position < self.piece_bytes {
                let left = usize::try_from(self.piece_bytes - position).unwrap_or(ZEROS_BYTES);
                file.write_all_at(&zeros[..left.min(ZEROS_BYTES)], position)?;
                position += left.min(ZEROS_BYTES) as u64;
            }
            file.sync()?;
        }
        // The length says that the piece is whole. What a crash takes of it is made again.
        file.set_len(self.piece_bytes)
    }

    /// Gives up one piece, and says whether there was one.
    fn release(&self) -> bool {
        let mut held = self.held();
        let Some(number) = held.iter().rposition(|held| *held) else { return false };
        held[number] = false;
        self.remove(&piece(&self.dir, number));
        true
    }

    /// Where that fails the next start does it.
    fn remove(&self, path: &Path) {
        let removed = self.disk.remove_file(path).and_then(|()| self.disk.sync_dir(&self.dir));
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a piece of the disk reserve stays");
            }
            _ => {}
        }
    }

    fn held(&self) -> MutexGuard<'_, [bool; PIECES]> {
        // Nothing panics under this lock.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the call, again with a piece less in the reserve as long as there is no room for it.
    fn with<T>(&self, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match call() {
                Err(error) if is_no_room(&error) && self.release() => {}
                done => return done,
            }
        }
    }
}

fn piece(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("{number:02}"))
}

/// A disk whose writes and creations fall back on a [`Reserve`] before they fail for want of room. Syncs do not: see the
/// page of the folder.
#[derive(Debug)]
pub struct ReservedDisk {
    inner: Arc<dyn Disk>,
    reserve: Arc<Reserve>,
}

impl Layer for ReservedDisk {
    fn below(&self) -> &dyn Disk {
        &*self.inner
    }

    fn open_file(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.taking_room(|| self.inner.open(path, mode))?;
        Ok(match mode {
            OpenMode::Read => file,
            OpenMode::Write | OpenMode::CreateNew => {
                Arc::new(ReservedFile { inner: file, reserve: Arc::clone(&self.reserve) })
            }
        })
    }

    fn taking_room<T>(&self, call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        self.reserve.with(call)
    }
}

#[derive(Debug)]
struct ReservedFile {
    inner: Arc<dyn DiskFile>,
    reserve: Arc<Reserve>,
}

impl DiskFile for ReservedFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, position)
    }

    fn read_at_hand(&self, buffer: &mut [u8], position: u64) -> bool {
        self.inner.read_at_hand(buffer, position)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.reserve.with(|| self.inner.write_all_at(bytes, position))
    }

    fn write_all_vectored_at(&self, parts: &[io::IoSlice<'_>], position: u64) -> io::Result<()> {
        self.reserve.with(|| self.inner.write_all_vectored_at(parts, position))
    }

    fn write_all_synced(&self, parts: &[io::IoSlice<'_>], position: u64) -> io::Result<()> {
        self.inner.write_all_synced(parts, position)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.as_fd()
    }

    fn allocate(&self, position: u64, length: u64) -> io::Result<bool> {
        self.reserve.with(|| self.inner.allocate(position, length))
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.reserve.with(|| self.inner.set_len(length))
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FileDisk;
    use crate::disk::sim::SimDisk;

    const CAPACITY: u64 = 64 << 20;
    const BYTES: u64 = 8 << 20;

    fn whole(disk: &SimDisk) -> Arc<Reserve> {
        let reserve =
            Reserve::find(Arc::new(disk.clone()), PathBuf::from("/reserve"), BYTES).unwrap();
        while reserve.missing_bytes() > 0 {
            reserve.refill().unwrap();
        }
        Arc::new(reserve)
    }

    /// Takes what is left, and gives its file.
    fn fill(disk: &SimDisk) -> Arc<dyn DiskFile> {
        let file = disk.open(Path::new("/others"), OpenMode::CreateNew).unwrap();
        let free = disk.space(Path::new("/")).unwrap().free_bytes;
        file.allocate(0, free).unwrap();
        file
    }

    #[test]
    fn on_a_full_disk_the_reserve_takes_writes_and_creations_as_far_as_it_goes() {
        let disk = SimDisk::new();
        disk.set_capacity(CAPACITY, 100);
        let reserve = whole(&disk);
        fill(&disk);
        let reserved = reserve.disk();
        let file = reserved.open(Path::new("/new"), OpenMode::CreateNew).unwrap();
        assert_eq!(reserve.missing_bytes(), 0);
        file.write_all_at(&[7; 1000], 0).unwrap();
        assert_eq!(reserve.missing_bytes(), reserve.piece_bytes());
        assert!(file.allocate(0, reserve.bytes() - 4096).unwrap());
        assert_eq!(reserve.missing_bytes(), reserve.bytes());
        let error = file.write_all_at(&[7; 8192], reserve.bytes() - 4096).unwrap_err();
        assert!(is_no_room(&error), "{error}");
        assert_eq!(reserved.read_all(Path::new("/new"), 1 << 30).unwrap()[..1000], [7; 1000]);
    }

    #[test]
    fn a_piece_is_an_inode() {
        let disk = SimDisk::new();
        disk.set_capacity(CAPACITY, PIECES as u64 + 2);
        let reserve = whole(&disk);
        let reserved = reserve.disk();
        for number in 0..=PIECES {
            reserved.create_dir(&PathBuf::from(format!("/d{number}"))).unwrap();
        }
        assert!(is_no_room(&reserved.create_dir(Path::new("/one-more")).unwrap_err()));
    }

    #[test]
    fn a_sync_is_not_tried_again() {
        let disk = SimDisk::new();
        disk.set_capacity(CAPACITY, 100);
        let reserve = whole(&disk);
        let file = reserve.disk().open(Path::new("/log"), OpenMode::CreateNew).unwrap();
        fill(&disk);
        let error = file.write_all_synced(&[io::IoSlice::new(&[1; 512])], 0).unwrap_err();
        assert!(is_no_room(&error), "{error}");
        assert_eq!(reserve.missing_bytes(), 0);
    }

    #[test]
    fn a_start_finds_whole_pieces_and_makes_the_others_when_there_is_room() {
        let disk = SimDisk::new();
        disk.set_capacity(CAPACITY, 100);
        let reserve = whole(&disk);
        let others = fill(&disk);
        reserve.disk().open(Path::new("/a"), OpenMode::CreateNew).unwrap();
        reserve.disk().replace(Path::new("/a"), &[1; 10]).unwrap();
        assert!(is_no_room(&reserve.refill().unwrap_err()));
        disk.open(Path::new("/reserve/03"), OpenMode::Write).unwrap().set_len(5).unwrap();
        let found =
            Reserve::find(Arc::new(disk.clone()), PathBuf::from("/reserve"), BYTES).unwrap();
        assert_eq!(found.missing_bytes(), 2 * found.piece_bytes());
        drop(others);
        disk.remove_file(Path::new("/others")).unwrap();
        assert_eq!(whole(&disk).missing_bytes(), 0);
    }

    #[test]
    fn the_blocks_of_a_real_piece_are_there() {
        use std::os::unix::fs::MetadataExt as _;
        let root = tempfile::tempdir().unwrap();
        let reserve =
            Reserve::find(Arc::new(FileDisk), root.path().join("reserve"), BYTES).unwrap();
        reserve.refill().unwrap();
        let metadata = std::fs::metadata(root.path().join("reserve/00")).unwrap();
        assert_eq!(metadata.len(), reserve.piece_bytes());
        assert!(metadata.blocks() * 512 >= reserve.piece_bytes());
        assert_eq!(reserve.bytes() - reserve.missing_bytes(), reserve.piece_bytes());
    }
}

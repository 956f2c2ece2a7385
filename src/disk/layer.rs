//! A disk that stands before another one: what it does not do itself it passes on, said once for all of them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Disk, DiskFile, Lock, OpenMode, Space};

/// What makes a disk before another one differ from that. Every call of [`Disk`] is passed on by one implementation, so a
/// call that is new there is thought of here, for all layers.
pub trait Layer: Send + Sync + std::fmt::Debug {
    /// The other one.
    fn below(&self) -> &dyn Disk;

    /// Opens a file, as of [`Disk::open`].
    ///
    /// # Errors
    /// As the disk below gives them.
    fn open_file(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a call that may take room.
    ///
    /// # Errors
    /// As of the call.
    fn taking_room<T>(&self, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T>
    where
        Self: Sized,
    {
        call()
    }
}

/// [`Disk::replace`] and [`Disk::read_all`] are made of the other calls, and so take the layer's way by themselves.
impl<L: Layer> Disk for L {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.open_file(path, mode)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.taking_room(|| self.below().create_dir_all(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.taking_room(|| self.below().create_dir(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.below().list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.below().exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.taking_room(|| self.below().rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.below().remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.below().remove_dir_all(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.below().sync_dir(dir)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.below().space(path)
    }

    fn file_system(&self, path: &Path) -> io::Result<u64> {
        self.below().file_system(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.taking_room(|| self.below().lock(path))
    }
}

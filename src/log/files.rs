//! Segment files that are open only while there is room for them: thousands of partitions share a number of descriptors.
//!
//! [`Files`] stands before a disk and hands out segment files (other files pass through) that open themselves when they
//! are used. When more are open than allowed, those close that were not used for the longest time, by the second chance
//! algorithm: a ring of files, each with a mark that its use sets and a look at it takes away.
//!
//! * A file with writes that are not synced stays open: closing it could lose the news that they failed. Where only such
//!   ones are left, the oldest is synced first. A sync that failed is never tried again: the file says so to each later
//!   one, the checkpoint's among them.
//! * A file whose name is about to go, because its segment is deleted or replaced, is opened and stays so
//!   ([`DiskFile::hold`]): its readers still read it, and no other file that takes its name is taken for it. Of a deleted
//!   topic the files are not held: a late reader may find none, or a namesake's, which its partition
//!   does not hand out, being deleted.
//! * A file that somebody reads or sends from at the moment counts as open and is not closed.
//! * What a reader is given to send from ([`DiskFile::pinned`]) is the open file itself.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard, Weak};

use super::segment::base_offset_of;
use crate::disk::{Disk, DiskFile, Layer, OpenMode};

/// Files that are gone may be so many more in the ring than there are.
const SLACK: usize = 64;

/// A disk of which a bounded number of segment files is open.
#[derive(Debug)]
pub struct Files {
    disk: Arc<dyn Disk>,
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    most: usize,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Files that were open when they came in; the front is looked at next.
    files: VecDeque<Weak<Shared>>,
    /// How many are open now.
    open: usize,
}

impl Files {
    /// At most `most` segment files of `disk` are open, apart from those that cannot be closed.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, most: usize) -> Self {
        let pool = Arc::new(Pool { most: most.max(1), ring: Mutex::default() });
        Self { disk, pool }
    }

    /// Segment files that are open now.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.pool.ring().open
    }
}

impl Pool {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Counted by whole steps: a panic leaves a count that is too high at worst.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a file in that is about to be opened, and closes others where there are too many.
    fn admit(&self, file: &Arc<Shared>) {
        let mut unsynced = None;
        // Let go behind the ring's lock: who has the last handle of a file counts it out.
        let mut seen = Vec::new();
        let mut ring = self.ring();
        ring.open += 1;
        // Twice round: the first look may only take marks away.
        let mut looks = 2 * ring.files.len();
        while ring.open > self.most && looks > 0 {
            looks -= 1;
            let Some(candidate) = ring.files.pop_front() else { break };
            let Some(open) = candidate.upgrade() else { continue };
            match open.try_close() {
                Closing::Closed => ring.open -= 1,
                Closing::Unsynced => {
                    unsynced.get_or_insert_with(|| Arc::clone(&open));
                    ring.files.push_back(candidate);
                }
                Closing::InUse => ring.files.push_back(candidate),
                Closing::Held => {}
            }
            seen.push(open);
        }
        if ring.files.len() > 2 * ring.open + SLACK {
            ring.files.retain(|file| file.strong_count() > 0);
        }
        ring.files.push_back(Arc::downgrade(file));
        let over = ring.open > self.most;
        drop(ring);
        drop(seen);
        if let Some(oldest) = unsynced.filter(|_| over) {
            // It is closed in its turn. A failure is not this caller's: the file remembers it, and its own log meets it with
            // the next checkpoint, which must sync it.
            oldest.sync().ok();
        }
    }

    fn closed_one(&self) {
        let mut ring = self.ring();
        ring.open = ring.open.saturating_sub(1);
    }

    /// Takes back an admission: the file could not be opened, or another use of it was faster and is in the ring already.
    fn dismiss(&self, file: &Arc<Shared>) {
        let mut ring = self.ring();
        ring.open = ring.open.saturating_sub(1);
        let admitted = |entry: &Weak<Shared>| std::ptr::eq(entry.as_ptr(), Arc::as_ptr(file));
        if let Some(at) = ring.files.iter().rposition(admitted) {
            ring.files.remove(at);
        }
    }
}

enum Closing {
    Closed,
    /// Used since the last look, or at this moment, or about to be opened.
    InUse,
    Unsynced,
    /// It stays open as long as there is a handle.
    Held,
}

/// What the handle of a file and the ring have of it.
#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    pool: Arc<Pool>,
    path: PathBuf,
    /// How to open it again.
    mode: OpenMode,
    open: RwLock<Option<Arc<dyn DiskFile>>>,
    used: AtomicBool,
    held: AtomicBool,
    /// Raised before and after each write, so that a sync beside a write does not count for it.
    writes: AtomicU64,
    /// `writes` as it was before the last sync that went well.
    synced: AtomicU64,
    /// A sync failed. The system tells that once, and the next sync would say that all is well: it must not be asked.
    failed: AtomicBool,
    /// Held during a sync: of two at once one would be told of a failure, and the other that all is well.
    syncing: Mutex<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.slot().is_some() {
            self.pool.closed_one();
        }
    }
}

impl Shared {
    fn slot(&self) -> RwLockWriteGuard<'_, Option<Arc<dyn DiskFile>>> {
        // A panic leaves the file open or closed, and either is fine.
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_close(&self) -> Closing {
        if self.held.load(Ordering::Acquire) {
            return Closing::Held;
        }
        if self.used.swap(false, Ordering::Relaxed) {
            return Closing::InUse;
        }
        let Ok(mut slot) = self.open.try_write() else { return Closing::InUse };
        if self.held.load(Ordering::Acquire) {
            // Since the look above: who holds it took it for open.
            return Closing::Held;
        }
        if self.writes.load(Ordering::Acquire) != self.synced.load(Ordering::Acquire) {
            return Closing::Unsynced;
        }
        if slot.as_ref().is_some_and(|open| Arc::strong_count(open) > 1) {
            // Somebody reads or sends from it: letting go of it would only make it uncounted.
            return Closing::InUse;
        }
        match slot.take() {
            Some(_) => Closing::Closed,
            None => Closing::InUse,
        }
    }

    /// Syncs it if it is open; closed ones have no writes of this handle that wait for it.
    fn sync(&self) -> io::Result<()> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner).clone();
        open.map_or(Ok(()), |open| self.sync_open(open.as_ref()))
    }

    /// What fails here is never want of room, which may be tried again: see [`crate::disk`] on failed syncs.
    fn sync_open(&self, open: &dyn DiskFile) -> io::Result<()> {
        let failed = |why: String| Err(io::Error::other(why));
        let path = self.path.display();
        let _turn = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.failed.load(Ordering::Acquire) {
            return failed(format!("an earlier sync of {path} failed"));
        }
        let writes = self.writes.load(Ordering::Acquire);
        if let Err(error) = open.sync() {
            self.failed.store(true, Ordering::Release);
            return failed(format!("cannot sync {path}: {error}"));
        }
        self.synced.fetch_max(writes, Ordering::AcqRel);
        Ok(())
    }
}

/// The handle of a segment file.
#[derive(Debug)]
struct Pooled(Arc<Shared>);

impl Pooled {
    /// The open file.
    fn file(&self) -> io::Result<Arc<dyn DiskFile>> {
        let shared = &self.0;
        if let Some(open) = &*shared.open.read().unwrap_or_else(PoisonError::into_inner) {
            // Not by the use that opened it: what is read once goes before what is read often.
            shared.used.store(true, Ordering::Relaxed);
            return Ok(Arc::clone(open));
        }
        // Before the slot is taken: others are closed meanwhile, which takes theirs.
        shared.pool.admit(shared);
        let mut slot = shared.slot();
        if let Some(open) = &*slot {
            shared.pool.dismiss(shared);
            return Ok(Arc::clone(open));
        }
        match shared.disk.open(&shared.path, shared.mode) {
            Ok(open) => Ok(Arc::clone(slot.insert(open))),
            Err(error) => {
                drop(slot);
                shared.pool.dismiss(shared);
                Err(error)
            }
        }
    }

    fn write<T>(&self, write: impl FnOnce(&dyn DiskFile) -> io::Result<T>) -> io::Result<T> {
        // Counted before it is opened, so that it is not closed in between.
        self.0.writes.fetch_add(1, Ordering::AcqRel);
        let written = self.file().and_then(|file| write(file.as_ref()));
        self.0.writes.fetch_add(1, Ordering::AcqRel);
        written
    }
}

impl DiskFile for Pooled {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file()?.read_at(buffer, position)
    }

    /// Not of a file that would have to be opened.
    fn read_at_hand(&self, buffer: &mut [u8], position: u64) -> bool {
        let open = self.0.open.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.0.used.fetch_or(open.is_some(), Ordering::Relaxed);
        open.is_some_and(|open| open.read_at_hand(buffer, position))
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.write(|file| file.write_all_at(bytes, position))
    }

    fn write_all_vectored_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.write(|file| file.write_all_vectored_at(parts, position))
    }

    fn write_all_synced(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.write(|file| file.write_all_synced(parts, position))
    }

    fn pinned(&self) -> io::Result<Option<Arc<dyn DiskFile>>> {
        self.file().map(Some)
    }

    fn hold(&self) -> io::Result<()> {
        self.0.held.store(true, Ordering::Release);
        self.file().map(drop)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_open(self.file()?.as_ref())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.write(|file| file.set_len(length))
    }

    fn len(&self) -> io::Result<u64> {
        self.file()?.len()
    }
}

impl Layer for Files {
    fn below(&self) -> &dyn Disk {
        &*self.disk
    }

    fn open_file(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let name = path.file_name().and_then(|name| name.to_str());
        if name.and_then(base_offset_of).is_none() {
            return self.disk.open(path, mode);
        }
        let open = self.disk.open(path, mode)?;
        let shared = Arc::new(Shared {
            disk: Arc::clone(&self.disk),
            pool: Arc::clone(&self.pool),
            path: path.to_owned(),
            mode: if mode == OpenMode::CreateNew { OpenMode::Write } else { mode },
            open: RwLock::new(Some(open)),
            used: AtomicBool::new(false),
            held: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            syncing: Mutex::default(),
        });
        self.pool.admit(&shared);
        Ok(Arc::new(Pooled(shared)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;

    fn path(number: usize) -> PathBuf {
        PathBuf::from(format!("/{number:020}.log"))
    }

    fn create(files: &Files, count: usize) -> Vec<Arc<dyn DiskFile>> {
        (0..count).map(|number| files.open(&path(number), OpenMode::CreateNew).unwrap()).collect()
    }

    fn files(most: usize) -> (SimDisk, Files) {
        let disk = SimDisk::new();
        (disk.clone(), Files::new(Arc::new(disk), most))
    }

    fn read(file: &dyn DiskFile) -> u8 {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).unwrap();
        byte[0]
    }

    #[test]
    fn many_files_share_few_descriptors_and_keep_their_contents() {
        let (_, files) = files(10);
        let handles = create(&files, 100);
        for (number, handle) in (0..).zip(&handles) {
            handle.write_all_at(&[number], 0).unwrap();
            handle.sync().unwrap();
        }
        for round in 0..3 {
            for (number, handle) in (0..).zip(&handles) {
                assert_eq!(read(handle.as_ref()), number, "round {round}");
                assert!(files.open_count() <= 11, "{} are open", files.open_count());
            }
        }
        drop(handles);
        assert_eq!(files.open_count(), 0);
    }

    #[test]
    fn a_file_that_is_read_all_the_time_stays_open() {
        let (_, files) = files(4);
        let handles = create(&files, 20);
        let open = |handle: &Arc<dyn DiskFile>| {
            Arc::as_ptr(&handle.pinned().unwrap().unwrap()).cast::<()>() as usize
        };
        let often = open(&handles[0]);
        for handle in &handles[1..] {
            handle.len().unwrap();
            assert_eq!(open(&handles[0]), often);
        }
    }

    #[test]
    fn unsynced_files_stay_open_or_are_synced_first() {
        let (disk, files) = files(4);
        let handles = create(&files, 40);
        for (number, handle) in (0..).zip(&handles) {
            handle.write_all_at(&[number], 0).unwrap();
        }
        disk.sync_dir(Path::new("/")).unwrap();
        let synced = disk.operations().len();
        assert!(synced > 60, "some were synced to be closed");
        for (number, handle) in (0..).zip(&handles) {
            assert_eq!(read(handle.as_ref()), number);
        }
        handles.iter().for_each(|handle| handle.sync().unwrap());
        let after = disk.crash(1);
        for number in 0..40 {
            let file = after.open(&path(number), OpenMode::Read).unwrap();
            assert_eq!(read(file.as_ref()), number as u8);
        }
    }

    #[test]
    fn a_held_file_is_read_when_its_name_is_gone_or_another_s() {
        let (disk, files) = files(2);
        let handles = create(&files, 10);
        for (number, handle) in (0..).zip(&handles) {
            handle.write_all_at(&[number], 0).unwrap();
            handle.sync().unwrap();
        }
        handles[3].hold().unwrap();
        disk.remove_file(&path(3)).unwrap();
        handles[4].hold().unwrap();
        disk.rename(&path(5), &path(4)).unwrap();
        handles.iter().skip(6).for_each(|handle| assert_ne!(handle.len().unwrap(), 0));
        assert_eq!(read(handles[3].as_ref()), 3);
        assert_eq!(read(handles[4].as_ref()), 4);
    }

    #[test]
    fn a_file_that_cannot_be_opened_again_leaves_nothing_behind() {
        let (disk, files) = files(1);
        let handles = create(&files, 2);
        handles[0].sync().unwrap();
        handles[1].len().unwrap();
        disk.remove_file(&path(0)).unwrap();
        for _ in 0..10 {
            assert_eq!(handles[0].len().unwrap_err().kind(), io::ErrorKind::NotFound);
            handles[1].len().unwrap();
        }
        assert_eq!(files.open_count(), 1);
        assert!(files.pool.ring().files.len() <= 2, "{:?}", files.pool.ring());
    }

    /// Of two syncs at once one is told of the failure, as the system does it, and the other that all is well.
    #[derive(Debug)]
    struct Once(Arc<dyn DiskFile>, AtomicBool);

    impl DiskFile for Once {
        fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
            self.0.read_at(buffer, position)
        }

        fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
            self.0.write_all_at(bytes, position)
        }

        fn sync(&self) -> io::Result<()> {
            if self.1.swap(true, Ordering::SeqCst) {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
            Err(io::Error::other("failed"))
        }

        fn set_len(&self, length: u64) -> io::Result<()> {
            self.0.set_len(length)
        }

        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
    }

    #[derive(Debug)]
    struct Telling(SimDisk);

    impl Layer for Telling {
        fn below(&self) -> &dyn Disk {
            &self.0
        }

        fn open_file(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
            Ok(Arc::new(Once(self.0.open(path, mode)?, AtomicBool::new(false))))
        }
    }

    #[test]
    fn a_failure_that_another_sync_was_told_of_is_told_to_both() {
        let files = Files::new(Arc::new(Telling(SimDisk::new())), 4);
        let file = files.open(&path(0), OpenMode::CreateNew).unwrap();
        file.write_all_at(&[1], 0).unwrap();
        let both = std::thread::scope(|scope| {
            let syncs = [(); 2].map(|()| scope.spawn(|| file.sync().is_err()));
            syncs.map(|sync| sync.join().unwrap())
        });
        assert_eq!(both, [true, true]);
    }

    #[test]
    fn a_failed_sync_on_the_way_is_told_by_the_file_s_own_for_ever() {
        let (disk, files) = files(1);
        let handles = create(&files, 2);
        handles[0].write_all_at(&[1], 0).unwrap();
        disk.fail_at(disk.operations().len(), 5);
        for handle in [&handles[1], &handles[0], &handles[1]] {
            handle.len().unwrap();
        }
        for _ in 0..2 {
            let error = handles[0].sync().unwrap_err();
            assert!(error.to_string().contains("an earlier sync"), "{error}");
        }
    }
}

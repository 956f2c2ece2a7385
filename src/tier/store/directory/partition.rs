//! What is remembered of one partition's directory while the store is open.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use crate::disk::Disk;
use crate::tier::store::Fence;
use crate::tier::store::manifest_file::ManifestFile;

/// Fragments whose shards share a subdirectory.
const BUCKET_FRAGMENTS: u64 = 4096;

/// Subdirectories remembered per partition; writers and readers of old data touch few at a time.
const BUCKETS: usize = 16;

/// One partition. Locks are taken in the order fence, manifest, buckets.
#[derive(Debug)]
pub(super) struct Partition {
    pub dir: PathBuf,
    /// Read by every put until it is done, so that none lands behind a fence that rose meanwhile.
    pub fence: RwLock<Option<Fence>>,
    /// Opened at its first use.
    pub manifest: Mutex<Option<ManifestFile>>,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    /// The partition's own directory is durable.
    made: bool,
    open: BTreeMap<u64, Arc<Bucket>>,
}

impl Partition {
    pub fn new(dir: PathBuf, fence: Option<Fence>) -> Self {
        Self {
            dir,
            fence: RwLock::new(fence),
            manifest: Mutex::default(),
            buckets: Mutex::default(),
        }
    }

    /// Makes the partition's own directory and its way from `root` durable.
    pub fn make(&self, disk: &dyn Disk, root: &Path) -> io::Result<()> {
        let mut buckets = lock(&self.buckets);
        if !buckets.made {
            make_durable(disk, root, &self.dir)?;
            buckets.made = true;
        }
        Ok(())
    }

    /// The subdirectory for a fragment; without `create`, `None` when it does not exist.
    pub fn bucket(
        &self,
        disk: &dyn Disk,
        root: &Path,
        number: u64,
        create: bool,
    ) -> io::Result<Option<Arc<Bucket>>> {
        let key = number / BUCKET_FRAGMENTS;
        let mut buckets = lock(&self.buckets);
        if let Some(bucket) = buckets.open.get(&key) {
            return Ok(Some(Arc::clone(bucket)));
        }
        let dir = self.dir.join("s").join(format!("{key:013x}"));
        if !create && !disk.exists(&dir)? {
            return Ok(None);
        }
        // A former process may have ended between a rename and its sync: what is visible is made durable before
        // anything is concluded from it. Nobody else is in here yet, so every temporary file is a leftover.
        make_durable(disk, root, &dir)?;
        for name in disk.list(&dir)?.iter().filter(|name| name.ends_with(".tmp")) {
            disk.remove_file(&dir.join(name))?;
        }
        disk.sync_dir(&dir)?;
        let bucket = Arc::new(Bucket { dir, group: GroupSync::default() });
        if buckets.open.len() >= BUCKETS {
            // Those at work stay, else their temporary files would be taken for leftovers.
            buckets.open.retain(|_, bucket| Arc::strong_count(bucket) > 1);
        }
        buckets.open.insert(key, Arc::clone(&bucket));
        Ok(Some(bucket))
    }

    /// Forgets what is remembered of the directory, which is gone.
    pub fn forget(&self) {
        *lock(&self.buckets) = Buckets::default();
    }
}

fn make_durable(disk: &dyn Disk, root: &Path, dir: &Path) -> io::Result<()> {
    disk.create_dir_all(dir)?;
    for parent in dir.ancestors().skip(1).take_while(|parent| parent.starts_with(root)) {
        disk.sync_dir(parent)?;
    }
    Ok(())
}

/// A subdirectory of shards.
#[derive(Debug)]
pub(super) struct Bucket {
    pub dir: PathBuf,
    group: GroupSync,
}

impl Bucket {
    /// Makes every entry made before this call durable; one sync serves all who wait.
    pub fn sync(&self, disk: &dyn Disk) -> io::Result<()> {
        self.group.sync(|| disk.sync_dir(&self.dir))
    }
}

/// Joins concurrent syncs: who comes while one runs waits for the next, which one of the waiting does for all.
#[derive(Debug, Default)]
pub(super) struct GroupSync {
    state: Mutex<SyncState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SyncState {
    requested: u64,
    /// All requests up to this one are answered.
    done: u64,
    running: bool,
    /// Requests at and below it failed, with what the system said.
    failed: Option<(u64, io::ErrorKind, String)>,
}

impl GroupSync {
    /// Returns after a run of `sync` that began after this call did.
    pub fn sync(&self, sync: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.requested += 1;
        let ticket = state.requested;
        loop {
            if state.done >= ticket {
                // The last failure may have been of a later run: then this one's success is not known any more.
                return match &state.failed {
                    Some((upto, kind, text)) if *upto >= ticket => {
                        Err(io::Error::new(*kind, text.clone()))
                    }
                    _ => Ok(()),
                };
            }
            if state.running {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.running = true;
            let upto = state.requested;
            drop(state);
            let result = sync();
            state = lock(&self.state);
            state.running = false;
            state.done = upto;
            if let Err(error) = result {
                state.failed = Some((upto, error.kind(), error.to_string()));
            }
            self.changed.notify_all();
        }
    }
}

/// No code under these locks panics between changes that belong together.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn syncs_are_joined_and_none_returns_before_one_that_began_after_it() {
        let group = GroupSync::default();
        let (written, synced, runs) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let mine = written.fetch_add(1, Ordering::SeqCst) + 1;
                        let run = || {
                            let upto = written.load(Ordering::SeqCst);
                            runs.fetch_add(1, Ordering::SeqCst);
                            std::thread::yield_now();
                            synced.fetch_max(upto, Ordering::SeqCst);
                            Ok(())
                        };
                        group.sync(run).unwrap();
                        assert!(synced.load(Ordering::SeqCst) >= mine);
                    }
                });
            }
        });
        assert!(runs.load(Ordering::SeqCst) <= 400);
    }

    #[test]
    fn a_failed_sync_fails_those_who_waited_for_it_and_not_the_next() {
        let group = GroupSync::default();
        assert!(group.sync(|| Err(io::Error::other("broken"))).is_err());
        assert!(group.sync(|| Ok(())).is_ok());
    }
}

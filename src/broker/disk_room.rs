//! The disk of the data directory as the broker looks at it: carries out what [`Room`] decides.
//!
//! A look is one `statvfs`, which costs little more than any call of the system. The first append behind an idle time
//! looks, and so does the committer before each commit; nobody looks on a timer but the committer while batches are
//! refused, and the server for its `/readyz`.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::metrics::Metrics;
use super::room::{Look, Room, State};
use crate::disk::Reserve;
use crate::task;
use crate::types::in_words;

/// How often what waits for room is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// How the disk of the data directory is, for `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskStatus {
    /// The data directory.
    pub path: PathBuf,
    /// Whether batches and topics are taken.
    pub state: State,
    /// As last seen; none where the file system does not say.
    pub look: Option<Look>,
    /// What was accepted waits for room.
    pub waits: bool,
}

#[derive(Debug, Default)]
struct Inner {
    room: Room,
    /// Somebody waits for room, which was said.
    waiting: usize,
    /// Bytes of batches that left the queue and are not in segments yet.
    committed_bytes: u64,
    refilling: bool,
    stopping: bool,
    /// The spare files of the commit log are to go. Whoever looks may find that; the committer sees to it.
    drop_spares: bool,
}

/// Shared by the committer, the applier and who appends.
#[derive(Debug)]
pub(super) struct DiskRoom {
    path: PathBuf,
    reserve: Arc<Reserve>,
    /// Whether the reserve is made where it is missing.
    keeps_reserve: bool,
    inner: Mutex<Inner>,
    changed: Condvar,
    metrics: Metrics,
}

impl DiskRoom {
    pub(super) fn new(
        path: PathBuf,
        reserve: Arc<Reserve>,
        keeps_reserve: bool,
        metrics: Metrics,
    ) -> Arc<Self> {
        let (inner, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Self { path, reserve, keeps_reserve, inner, changed, metrics })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics under this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> Option<Look> {
        let space = self.reserve.space().ok()?;
        let whole = Look {
            space,
            reserve_bytes: self.reserve.bytes(),
            missing_bytes: self.reserve.missing_bytes(),
            piece_bytes: self.reserve.piece_bytes(),
            floor_bytes: self.reserve.floor_bytes(),
        };
        // One that was never to be made is missed by nobody.
        let missing_bytes = if self.keeps_reserve { whole.missing_bytes } else { 0 };
        Some(Look { missing_bytes, ..whole })
    }

    /// Looks at the disk, and has the reserve made where there is room for it.
    pub(super) fn look(self: &Arc<Self>) {
        let seen = self.seen();
        let mut inner = self.lock();
        let effects = inner.room.looked(seen);
        inner.drop_spares |= effects.drop_spares;
        self.metrics.disk_is(inner.room.last_look(), inner.room.state());
        if effects.refill && !inner.refilling && !inner.stopping {
            inner.refilling = true;
            drop(inner);
            self.start_refill();
        }
    }

    /// Whether the commit log's spare files are to go; said once.
    pub(super) fn wants_spares(&self) -> bool {
        std::mem::take(&mut self.lock().drop_spares)
    }

    fn start_refill(self: &Arc<Self>) {
        let room = Arc::clone(self);
        let started = task::critical_thread("disk-reserve", move || room.refill());
        if let Err(error) = started {
            task::die(71, &format!("no thread for the disk reserve: {error}"));
        }
    }

    /// Makes pieces of the reserve while there is room for them.
    fn refill(&self) {
        loop {
            let made = self.reserve.refill();
            if let Err(error) = &made {
                tracing::debug!(%error, "no piece of the disk reserve could be made");
            }
            let seen = self.seen();
            let mut inner = self.lock();
            inner.room.refilled(made.is_ok());
            let goes_on = inner.room.looked(seen).refill && made.is_ok() && !inner.stopping;
            self.metrics.disk_is(inner.room.last_look(), inner.room.state());
            if !goes_on {
                inner.refilling = false;
                drop(inner);
                self.changed.notify_all();
                return;
            }
        }
    }

    /// How the disk is now.
    pub(super) fn status(self: &Arc<Self>) -> DiskStatus {
        self.look();
        let inner = self.lock();
        DiskStatus {
            path: self.path.clone(),
            state: inner.room.state(),
            look: inner.room.last_look(),
            waits: inner.waiting > 0,
        }
    }

    /// As last seen.
    pub(super) fn state(&self) -> State {
        self.lock().room.state()
    }

    /// Whether a batch may be queued when `bytes` and `batches` of all are queued with it.
    pub(super) fn takes(&self, bytes: usize, batches: usize) -> bool {
        let inner = self.lock();
        let takes = inner.room.takes(bytes, batches, inner.committed_bytes);
        drop(inner);
        if !takes {
            self.metrics.append_refused();
        }
        takes
    }

    /// So many bytes of batches leave the queue to be committed, and will take as much room in segments.
    pub(super) fn commits(&self, bytes: usize) {
        self.lock().committed_bytes += bytes as u64;
    }

    /// So many of them are in segments, or need to be there no more.
    pub(super) fn applied(&self, bytes: usize) {
        let mut inner = self.lock();
        inner.committed_bytes = inner.committed_bytes.saturating_sub(bytes as u64);
    }

    /// Whether so many partitions may be created now.
    pub(super) fn takes_partitions(self: &Arc<Self>, count: usize) -> bool {
        self.look();
        self.lock().room.takes_partitions(count)
    }

    /// Whether a spare file of the commit log leaves plenty to others.
    pub(super) fn takes_spare(&self, bytes: u64) -> bool {
        self.lock().room.takes_spare(bytes)
    }

    /// Makes `write` until it finds room. Its last refusal, when the broker stops before.
    pub(super) fn until_written<T, E: std::error::Error + 'static>(
        self: &Arc<Self>,
        is_no_room: impl Fn(&E) -> bool,
        mut write: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let first = write();
        match first {
            Err(error) if is_no_room(&error) => self.wait(error, is_no_room, write),
            done => done,
        }
    }

    fn wait<T, E: std::error::Error + 'static>(
        self: &Arc<Self>,
        mut refusal: E,
        is_no_room: impl Fn(&E) -> bool,
        mut write: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut inner = self.lock();
        if inner.stopping {
            return Err(refusal);
        }
        inner.waiting += 1;
        inner.room.waits();
        self.metrics.disk_is(inner.room.last_look(), inner.room.state());
        tracing::error!(
            path = %self.path.display(),
            error = in_words(&refusal),
            "the disk is full and the reserve is used up: what was accepted waits, reads go on; free some space there"
        );
        let done = loop {
            if inner.stopping {
                break Err(refusal);
            }
            let waited = self.changed.wait_timeout(inner, TRY_AGAIN);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            match write() {
                Err(error) if is_no_room(&error) => refusal = error,
                done => {
                    inner = self.lock();
                    break done;
                }
            }
            inner = self.lock();
        };
        inner.waiting -= 1;
        if inner.waiting == 0 {
            inner.room.waits_no_more();
        }
        drop(inner);
        if done.is_ok() {
            tracing::info!("what waited for room on the disk was written");
        }
        self.look();
        done
    }

    /// Nothing waits for room from now on, and the reserve stays as it is. Blocks while a piece of it is being made.
    pub(super) fn stop(&self) {
        let mut inner = self.lock();
        inner.stopping = true;
        self.changed.notify_all();
        while inner.refilling {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

//! The committer: takes what all partitions queued, writes it as one commit, syncs once, answers all.
//!
//! One thread owns the commit log and the durable [`Catalogue`]. At most one commit is in flight while the next one
//! gathers; there is no timer while work comes in. Behind the sync the [`Applier`] has the batches go to their segments
//! through the page cache, then the high watermark moves, then the answers go out. A failed write or sync of the commit
//! log ends the process without an answer. A spare file for the commit log that cannot be made does not.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::applier::{Applier, Commit};
use super::catalogue::{Catalogue, Event};
use super::checkpoint::{Checkpoint, CheckpointError};
use super::error::AppendError;
use super::local_log::LocalLog;
use super::metrics::Metrics;
use super::partition::Partition;
use crate::clock;
use crate::disk::Disk;
use crate::task;
use crate::types::{CommitNumber, TopicId, TopicPartition, in_words, limits};
use crate::wal::{Entry, Spare, Wal};

/// Kinds of commit log entries. A kind is never given another meaning.
pub(super) mod kind {
    /// Whole record batches of a partition.
    pub const BATCHES: u8 = 1;
    /// A catalogue event as JSON.
    pub const EVENT: u8 = 2;
    /// The time of the commit, ms since 1970, i64 little-endian; stands before the batches it is about.
    pub const TIME: u8 = 3;
}

/// An idle committer adds one empty commit after this time, so that a successor names the last acknowledged one.
const IDLE: Duration = Duration::from_millis(500);

/// Free bytes below which no batch is taken, so that what is under way, deletions and the next checkpoint find room.
const RESERVE_BYTES: u64 = 64 << 20;
/// Free space is looked at again after so many committed bytes, and at most so often while there is too little.
const LOOK_BYTES: u64 = 4 << 20;
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A spare commit log file is made where so many times its size is free above the reserve.
const SPARE_SHARE: u64 = 8;

/// The committer is gone: the process is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker is stopping")]
pub struct Stopped;

/// One thing to commit: its bytes, what follows, who waits.
pub(super) struct Work {
    pub entry: Entry,
    pub then: Then,
    pub done: oneshot::Sender<()>,
}

/// What a synced entry means.
pub(super) enum Then {
    Write(Arc<Partition>),
    /// The durable state takes the event, then the live state follows.
    Apply(Event, Box<dyn FnOnce() + Send>),
}

/// What the committer is asked to do, in order.
#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    /// Of the batches in `work`.
    bytes: usize,
    /// The disk has no room but the reserve.
    full: bool,
    /// A checkpoint ended: the commit up to which it was written, if it was.
    checkpointed: Option<Option<CommitNumber>>,
    /// The making of a spare commit log file ended, well or not.
    spare_made: Option<Option<Spare>>,
    stopping: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics half-way; a poisoned lock changes nothing.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Settings of the committer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Config {
    /// A checkpoint is due when the commit log grew by so much since the last.
    pub checkpoint_bytes: u64,
    /// Nothing is committed while the commit log above the last checkpoint is longer: it bounds recovery.
    pub commit_log_bytes: u64,
}

/// A cheap handle to the committer.
#[derive(Clone)]
pub(super) struct Committer {
    shared: Arc<Shared>,
    /// Bytes of batches that may wait.
    queue_bytes: usize,
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Committer")
    }
}

impl Committer {
    /// A handle. Work may be queued before the thread runs, up to `queue_bytes` of batches.
    pub(super) fn new(queue_bytes: usize) -> Self {
        let shared = Arc::new(Shared { queue: Mutex::default(), arrived: Condvar::new() });
        Self { shared, queue_bytes }
    }

    /// Queues a batch whose offsets are assigned. The caller holds the partition's turn, which fixes the order.
    /// The receiver resolves once the batch is committed and visible, and fails when the broker stops before.
    pub(super) fn append(
        &self,
        partition: Arc<Partition>,
        batch: Bytes,
    ) -> Result<oneshot::Receiver<()>, AppendError> {
        let TopicPartition { topic, partition: index } = partition.id();
        let entry = Entry { kind: kind::BATCHES, topic, partition: index, payload: batch };
        let mut queue = self.shared.lock();
        if queue.full {
            return Err(AppendError::DiskFull);
        }
        // One batch is always taken, however small the budget.
        if queue.bytes > 0 && queue.bytes + entry.payload.len() > self.queue_bytes {
            return Err(AppendError::Busy);
        }
        queue.bytes += entry.payload.len();
        self.push(queue, entry, Then::Write(partition)).map_err(|Stopped| AppendError::Stopping)
    }

    /// Queues an event. The receiver resolves once it is durable.
    pub(super) fn event(&self, event: Event) -> Result<oneshot::Receiver<()>, Stopped> {
        self.event_then(event, Box::new(|| ()))
    }

    /// Queues an event; `then` runs once it is durable, before anything behind it is settled.
    pub(super) fn event_then(
        &self,
        event: Event,
        then: Box<dyn FnOnce() + Send>,
    ) -> Result<oneshot::Receiver<()>, Stopped> {
        let text = serde_json::to_vec(&event)
            .expect("an event is made of texts and numbers, which JSON can carry");
        let entry = entry_of_none(kind::EVENT, text.into());
        self.push(self.shared.lock(), entry, Then::Apply(event, then))
    }

    /// Queues an event and waits until it is durable.
    ///
    /// # Errors
    /// [`Stopped`]; it may then be durable or not.
    pub(super) async fn record(&self, event: Event) -> Result<(), Stopped> {
        self.event(event)?.await.map_err(|_| Stopped)
    }

    /// Commits what is queued, writes a clean checkpoint and ends the thread. Work queued afterwards is refused.
    pub(super) fn stop(&self) {
        self.shared.lock().stopping = true;
        self.shared.arrived.notify_one();
    }

    fn push(
        &self,
        mut queue: MutexGuard<'_, Queue>,
        entry: Entry,
        then: Then,
    ) -> Result<oneshot::Receiver<()>, Stopped> {
        if queue.stopping {
            return Err(Stopped);
        }
        let (done, receiver) = oneshot::channel();
        queue.work.push_back(Work { entry, then, done });
        drop(queue);
        self.shared.arrived.notify_one();
        Ok(receiver)
    }
}

/// An entry that is about no partition.
fn entry_of_none(kind: u8, payload: Bytes) -> Entry {
    Entry { kind, topic: TopicId([0; 16]), partition: 0, payload }
}

/// What the committer's thread owns.
pub(super) struct Owned {
    pub disk: Arc<dyn Disk>,
    pub wal: Wal,
    pub catalogue: Catalogue,
    pub data_dir: PathBuf,
    pub checkpoint_path: PathBuf,
    pub config: Config,
    pub local_log: Arc<LocalLog>,
    pub metrics: Metrics,
}

/// Starts the thread. It ends after [`Committer::stop`].
pub(super) fn start(
    committer: &Committer,
    owned: Owned,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let shared = Arc::clone(&committer.shared);
    let Owned { disk, wal, catalogue, data_dir, checkpoint_path, config, local_log, metrics } =
        owned;
    let applier = Applier::start(catalogue)?;
    task::critical_thread("committer", move || {
        let checkpointed_bytes = wal.bytes();
        let thread = Thread {
            shared,
            owned: Mine { disk, wal, data_dir, checkpoint_path, config, local_log, metrics },
            applier,
            checkpointed_bytes,
            checkpointing: false,
            making_spare: false,
            since_look: LOOK_BYTES,
        };
        thread.run();
    })
}

/// The catalogue and the segments to sync for a checkpoint.
struct CheckpointJob {
    checkpoint: Checkpoint,
    dirty: Vec<Arc<Partition>>,
}

/// What of [`Owned`] the thread keeps to itself.
struct Mine {
    disk: Arc<dyn Disk>,
    wal: Wal,
    data_dir: PathBuf,
    checkpoint_path: PathBuf,
    config: Config,
    local_log: Arc<LocalLog>,
    metrics: Metrics,
}

struct Thread {
    shared: Arc<Shared>,
    owned: Mine,
    applier: Applier,
    /// Bytes of the commit log when the last checkpoint was begun, less what was freed since.
    checkpointed_bytes: u64,
    checkpointing: bool,
    making_spare: bool,
    /// Bytes committed since the disk's free space was looked at.
    since_look: u64,
}

/// What the thread woke up for.
enum Next {
    Commit(Vec<Work>),
    Idle,
    Stop,
}

impl Thread {
    fn run(mut self) {
        let mut named_by_successor = true;
        loop {
            match self.next(named_by_successor) {
                Next::Commit(work) => {
                    self.commit(work);
                    named_by_successor = false;
                }
                Next::Idle => {
                    self.write(&[]);
                    named_by_successor = true;
                }
                Next::Stop => break,
            }
            self.checkpoint_when_due();
            self.make_spare_when_wanted();
        }
        self.stop();
    }

    /// Waits for work. While nothing comes in there is one wake-up, for the empty commit, and then none.
    fn next(&mut self, named_by_successor: bool) -> Next {
        loop {
            self.look_at_disk();
            let shared = Arc::clone(&self.shared);
            let mut queue = shared.lock();
            if let Some(written) = queue.checkpointed.take() {
                drop(queue);
                self.checkpoint_ended(written);
                continue;
            }
            if let Some(spare) = queue.spare_made.take() {
                drop(queue);
                self.making_spare = false;
                spare.into_iter().for_each(|spare| self.owned.wal.add_spare(spare));
                continue;
            }
            let held =
                self.checkpointing && self.since_checkpoint() > self.owned.config.commit_log_bytes;
            if !queue.work.is_empty() && !held {
                return Next::Commit(take_commit(&mut queue));
            }
            let is_busy = self.checkpointing || self.making_spare;
            if queue.stopping && !is_busy && queue.work.is_empty() {
                return Next::Stop;
            }
            let patience = match (queue.full, named_by_successor || held) {
                (true, _) => Some(LOOK_AGAIN),
                (false, false) => Some(IDLE),
                (false, true) => None,
            };
            let Some(patience) = patience else {
                drop(shared.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner));
                continue;
            };
            let (queue, timeout) = shared
                .arrived
                .wait_timeout(queue, patience)
                .unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() && queue.work.is_empty() && !named_by_successor {
                return Next::Idle;
            }
        }
    }

    /// Growth of the commit log since the last checkpoint was begun.
    fn since_checkpoint(&self) -> u64 {
        self.owned.wal.bytes().saturating_sub(self.checkpointed_bytes)
    }

    /// Frees what the checkpoint made needless; where it could not be written the old one stands, and the next is due
    /// as usual.
    fn checkpoint_ended(&mut self, written: Option<CommitNumber>) {
        self.checkpointing = false;
        let Some(commit) = written else { return };
        match self.owned.wal.free_upto(commit) {
            Ok(freed) => {
                self.owned.local_log.commit_log_is(self.owned.wal.disk_bytes());
                self.checkpointed_bytes = self.checkpointed_bytes.saturating_sub(freed);
            }
            Err(error) => {
                task::die(74, &format!("cannot free the commit log: {}", in_words(&error)))
            }
        }
    }

    /// Batches are refused while the disk is nearly full, and taken again by themselves. Room that only spares hold is
    /// given to them.
    fn look_at_disk(&mut self) {
        let full = self.shared.lock().full;
        if !full && self.since_look < LOOK_BYTES {
            return;
        }
        self.since_look = 0;
        let free = self.owned.disk.free_bytes(&self.owned.data_dir);
        let now_full = free.as_ref().is_ok_and(|free| *free < RESERVE_BYTES);
        if now_full {
            self.owned.wal.drop_spares();
        }
        if now_full != full {
            self.shared.lock().full = now_full;
            if now_full {
                tracing::error!(
                    path = %self.owned.data_dir.display(),
                    reserve_bytes = RESERVE_BYTES,
                    "the disk is full: nothing is appended until there is room; free space there or delete topics"
                );
            } else {
                tracing::info!("the disk has room again");
            }
        }
    }

    fn write(&mut self, entries: &[Entry]) -> CommitNumber {
        let started = clock::monotonic();
        match self.owned.wal.commit(entries) {
            Ok(commit) => {
                self.owned.metrics.committed(entries.len(), started.elapsed());
                self.owned.local_log.commit_log_is(self.owned.wal.disk_bytes());
                commit
            }
            Err(error) => task::die(
                74,
                &format!("the commit log cannot be written or synced: {}", in_words(&error)),
            ),
        }
    }

    fn commit(&mut self, work: Vec<Work>) {
        let now_ms = clock::wall_ms();
        let time = Bytes::copy_from_slice(&now_ms.to_le_bytes());
        let mut entries = Vec::with_capacity(work.len() + 1);
        entries.push(entry_of_none(kind::TIME, time));
        entries.extend(work.iter().map(|work| work.entry.clone()));
        let commit = self.write(&entries);
        self.since_look += entries.iter().map(|entry| entry.stored_bytes() as u64).sum::<u64>();
        let has_more = !self.shared.lock().work.is_empty();
        self.applier.apply(Commit { number: commit, now_ms, work }, has_more);
    }

    fn checkpoint_when_due(&mut self) {
        if self.checkpointing || self.since_checkpoint() < self.owned.config.checkpoint_bytes {
            return;
        }
        self.checkpointed_bytes = self.owned.wal.bytes();
        self.checkpointing = true;
        let now_ms = clock::wall_ms();
        // All commits are applied then.
        let commit = self.owned.wal.last_commit();
        let job = self.applier.with(|state| {
            state.catalogue.expire_producers(now_ms);
            state.dirty.values().for_each(|partition| partition.expire_producers(now_ms));
            let catalogue = state.catalogue.clone();
            CheckpointJob {
                checkpoint: Checkpoint { commit, clean: false, catalogue },
                dirty: state.dirty.drain().map(|(_, partition)| partition).collect(),
            }
        });
        let disk = Arc::clone(&self.owned.disk);
        let path = self.owned.checkpoint_path.clone();
        let shared = Arc::clone(&self.shared);
        let metrics = self.owned.metrics.clone();
        let started = task::critical_thread("checkpoint", move || {
            let commit = job.checkpoint.commit;
            let written = match carry_out(&job, &*disk, &path) {
                Ok(()) => Some(commit),
                Err(error) => {
                    tracing::error!(
                        error = in_words(&error),
                        "no checkpoint: the commit log is kept, and it is tried again"
                    );
                    None
                }
            };
            metrics.checkpointed();
            shared.lock().checkpointed = Some(written);
            shared.arrived.notify_one();
        });
        if let Err(error) = started {
            task::die(71, &format!("no thread for a checkpoint: {error}"));
        }
    }

    /// The next commit log file is filled with zeros meanwhile, where that leaves plenty of room to others.
    fn make_spare_when_wanted(&mut self) {
        if self.making_spare {
            return;
        }
        let Some(job) = self.owned.wal.wanted_spare() else { return };
        let needed = RESERVE_BYTES + SPARE_SHARE * job.bytes();
        if !self.owned.disk.free_bytes(&self.owned.data_dir).is_ok_and(|free| free > needed) {
            return;
        }
        self.making_spare = true;
        let shared = Arc::clone(&self.shared);
        let started = task::critical_thread("commit-log-spare", move || {
            let made = job.run();
            if let Err(error) = &made {
                // A growing file serves as well, if not as fast.
                tracing::warn!(error = in_words(error), "no spare file for the commit log");
            }
            shared.lock().spare_made = Some(made.ok());
            shared.arrived.notify_one();
        });
        if let Err(error) = started {
            task::die(71, &format!("no thread for a spare file: {error}"));
        }
    }

    fn stop(self) {
        let state = self.applier.stop();
        let job = CheckpointJob {
            checkpoint: Checkpoint {
                commit: self.owned.wal.last_commit(),
                clean: true,
                catalogue: state.catalogue,
            },
            dirty: state.dirty.into_values().collect(),
        };
        if let Err(error) = carry_out(&job, &*self.owned.disk, &self.owned.checkpoint_path) {
            tracing::error!(
                error = in_words(&error),
                "no checkpoint: the next start recovers from the commit log"
            );
        }
    }
}

/// Syncs the segments, then writes the checkpoint that says so.
fn carry_out(
    job: &CheckpointJob,
    disk: &dyn Disk,
    path: &std::path::Path,
) -> Result<(), CheckpointError> {
    for partition in &job.dirty {
        if let Err(error) = partition.sync_segments() {
            task::die(
                74,
                &format!("segments of {} cannot be synced: {}", partition.id(), in_words(&error)),
            );
        }
    }
    job.checkpoint.write(disk, path)
}

/// As much as one commit may hold, in order. Room is left for the time.
fn take_commit(queue: &mut Queue) -> Vec<Work> {
    let mut bytes = ONE_ENTRY_BYTES;
    let count = queue
        .work
        .iter()
        .take_while(|work| {
            bytes += work.entry.stored_bytes();
            bytes <= limits::COMMIT_BYTES
        })
        .count()
        .max(1);
    let taken: Vec<Work> = queue.work.drain(..count).collect();
    let batches = taken.iter().filter(|work| matches!(work.then, Then::Write(_)));
    queue.bytes -= batches.map(|work| work.entry.payload.len()).sum::<usize>();
    taken
}

/// More than the head and payload of an entry that is no batch's take.
const ONE_ENTRY_BYTES: usize = 1024;

const _: () = assert!(limits::COMMIT_BYTES >= limits::RECORD_BATCH_BYTES + 2 * ONE_ENTRY_BYTES);

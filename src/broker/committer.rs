//! The committer: takes what all partitions queued, writes it as one commit, syncs once, answers all.
//!
//! One thread owns the commit log and the durable [`Catalogue`]. At most one commit is in flight while the next one
//! gathers; there is no timer while work comes in. Behind the sync the [`Applier`] has the batches go to their segments
//! through the page cache, then the high watermark moves, then the answers go out. A failed write or sync of the commit
//! log ends the process without an answer. A spare file for the commit log that cannot be made does not, nor does a full
//! disk: see [`DiskRoom`].

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::applier::{Applier, Commit};
use super::catalogue::{Catalogue, Event};
use super::checkpoint::{Checkpoint, CheckpointError};
use super::disk_room::DiskRoom;
use super::error::AppendError;
use super::local_log::LocalLog;
use super::metrics::Metrics;
use super::partition::Partition;
use super::room;
use crate::disk::Disk;
use crate::types::{CommitNumber, TopicId, TopicPartition, in_words, limits};
use crate::wal::{self, Entry, Spare, Wal};
use crate::{clock, log, task};

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

/// The disk is looked at so often while there is too little room.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A checkpoint that could not be written is tried again behind so long, while nothing can be committed without one.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// A spare commit log file is made where so many times its size is free.
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
    /// An append looked at the disk since the last commit.
    looked: bool,
    /// No batches are taken: the commit log is as long as it may be, and no checkpoint can be written.
    refuses: bool,
    /// A checkpoint ended.
    checkpointed: Option<CheckpointEnd>,
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
    /// Nothing is committed while the commit log above the last checkpoint that was written is longer: it bounds recovery. It
    /// is freed by whole files, so this is to be several of them.
    pub commit_log_bytes: u64,
}

/// A cheap handle to the committer.
#[derive(Clone)]
pub(super) struct Committer {
    shared: Arc<Shared>,
    room: Arc<DiskRoom>,
    /// Bytes of batches that may wait.
    queue_bytes: usize,
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Committer")
    }
}

impl Committer {
    /// Whether the disk has room for so much that is not urgent.
    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        self.room.takes_spare(bytes)
    }

    /// A handle. Work may be queued before the thread runs, up to `queue_bytes` of batches.
    pub(super) fn new(queue_bytes: usize, room: Arc<DiskRoom>) -> Self {
        let shared = Arc::new(Shared { queue: Mutex::default(), arrived: Condvar::new() });
        Self { shared, room, queue_bytes }
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
        if queue.work.is_empty() {
            // Others may have filled the disk since the last commit.
            self.room.look();
            queue.looked = true;
        }
        if !self.room.takes(queue.bytes + entry.payload.len(), queue.work.len() + 1) {
            drop(queue);
            // For it to look now and then until there is room.
            self.shared.arrived.notify_one();
            return Err(AppendError::DiskFull);
        }
        if queue.refuses {
            return Err(AppendError::NoCheckpoint);
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
        self.room.stop();
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
    let room = Arc::clone(&committer.room);
    let Owned { disk, wal, catalogue, checkpoint_path, config, local_log, metrics } = owned;
    let applier = Applier::start(catalogue, Arc::clone(&room))?;
    task::critical_thread("committer", move || {
        let checkpointed_bytes = wal.bytes();
        let thread = Thread {
            shared,
            room,
            owned: Mine { disk, wal, checkpoint_path, config, local_log, metrics },
            applier,
            checkpointed_bytes,
            checkpointing: false,
            checkpoint_failed: None,
            unsynced: Vec::new(),
            making_spare: false,
        };
        thread.run();
    })
}

/// The catalogue and the segments to sync for a checkpoint.
struct CheckpointJob {
    checkpoint: Checkpoint,
    dirty: Vec<Arc<Partition>>,
}

/// How a checkpoint ended.
enum CheckpointEnd {
    Written(CommitNumber),
    /// These are to be synced by the next one.
    Not(Vec<Arc<Partition>>),
}

/// Why there is no checkpoint.
#[derive(Debug, thiserror::Error)]
enum NoCheckpoint {
    #[error("the indexes of {partition} cannot be written")]
    Segments { partition: TopicPartition, source: log::Error },
    #[error(transparent)]
    File(#[from] CheckpointError),
}

/// What of [`Owned`] the thread keeps to itself.
struct Mine {
    disk: Arc<dyn Disk>,
    wal: Wal,
    checkpoint_path: PathBuf,
    config: Config,
    local_log: Arc<LocalLog>,
    metrics: Metrics,
}

struct Thread {
    shared: Arc<Shared>,
    room: Arc<DiskRoom>,
    owned: Mine,
    applier: Applier,
    /// Bytes of the commit log when the last checkpoint was begun, less what was freed since.
    checkpointed_bytes: u64,
    checkpointing: bool,
    /// When the last one could not be written.
    checkpoint_failed: Option<Instant>,
    /// What the last checkpoint was to sync, where it could not be written.
    unsynced: Vec<Arc<Partition>>,
    making_spare: bool,
}

/// What the thread woke up for.
enum Next {
    Commit(Vec<Work>),
    Idle,
    /// The commit log is as long as it may be.
    Checkpoint,
    Stop,
}

impl Thread {
    fn run(mut self) {
        let mut named_by_successor = true;
        loop {
            match self.next(named_by_successor) {
                Next::Commit(work) => {
                    // Nothing is committed behind what was given up: its offsets are handed out already.
                    if !self.commit(work) {
                        break;
                    }
                    named_by_successor = false;
                }
                Next::Idle => {
                    self.write(&[]);
                    named_by_successor = true;
                }
                Next::Checkpoint => {}
                Next::Stop => break,
            }
            if self.applier.is_stuck() {
                break;
            }
            self.checkpoint_when_due();
            self.make_spare_when_wanted();
        }
        self.stop();
    }

    /// Waits for work. While nothing comes in there is one wake-up, for the empty commit, and then none.
    fn next(&mut self, named_by_successor: bool) -> Next {
        loop {
            let shared = Arc::clone(&self.shared);
            if !std::mem::take(&mut shared.lock().looked) {
                self.room.look();
            }
            drop_spares_where_room_is_wanted(&mut self.owned.wal, &self.room);
            let mut queue = shared.lock();
            if let Some(end) = queue.checkpointed.take() {
                drop(queue);
                self.checkpoint_ended(end);
                continue;
            }
            if let Some(spare) = queue.spare_made.take() {
                drop(queue);
                self.making_spare = false;
                spare.into_iter().for_each(|spare| self.owned.wal.add_spare(spare));
                continue;
            }
            let is_long = self.must_checkpoint();
            if is_long && !self.checkpointing && !queue.stopping && !self.checkpoint_failed_lately()
            {
                return Next::Checkpoint;
            }
            // What is queued waits for one that is under way. Behind one that failed it goes on, for it may be what cures that:
            // a deletion; but no more batches are taken.
            queue.refuses = is_long && self.checkpoint_failed.is_some();
            let held = is_long && self.checkpointing && !queue.stopping && !queue.refuses;
            if !queue.work.is_empty() && !held {
                return Next::Commit(take_commit(&mut queue, &self.room));
            }
            let is_busy = self.checkpointing || self.making_spare;
            if queue.stopping && !is_busy && queue.work.is_empty() {
                return Next::Stop;
            }
            let refuses = self.room.state() != room::State::Room;
            let patience = match (refuses || is_long, named_by_successor || held) {
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

    /// Whether the commit log above the last checkpoint that was written is as long as it may be.
    fn must_checkpoint(&self) -> bool {
        self.owned.wal.bytes() > self.owned.config.commit_log_bytes
    }

    fn checkpoint_failed_lately(&self) -> bool {
        self.checkpoint_failed.is_some_and(|at| at.elapsed() < TRY_AGAIN)
    }

    /// Growth of the commit log since the last checkpoint was begun.
    fn since_checkpoint(&self) -> u64 {
        self.owned.wal.bytes().saturating_sub(self.checkpointed_bytes)
    }

    /// Frees what the checkpoint made needless; where it could not be written the old one stands, and the next is due
    /// as usual.
    fn checkpoint_ended(&mut self, end: CheckpointEnd) {
        self.checkpointing = false;
        let commit = match end {
            CheckpointEnd::Written(commit) => {
                self.checkpoint_failed = None;
                commit
            }
            CheckpointEnd::Not(unsynced) => {
                self.unsynced = unsynced;
                self.checkpoint_failed = Some(clock::monotonic());
                return;
            }
        };
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

    /// `None` when there was no room for it until the broker was to stop.
    fn write(&mut self, entries: &[Entry]) -> Option<CommitNumber> {
        let started = clock::monotonic();
        let wal = &mut self.owned.wal;
        let written = self.room.until_written(
            |error| matches!(error, wal::Error::NoRoom { .. }),
            || {
                wal.commit(entries).or_else(|error| match error {
                    // Their room is better used than kept.
                    wal::Error::NoRoom { .. } => {
                        wal.drop_spares();
                        wal.commit(entries)
                    }
                    error => Err(error),
                })
            },
        );
        match written {
            Ok(commit) => {
                self.owned.metrics.committed(entries.len(), started.elapsed());
                self.owned.local_log.commit_log_is(self.owned.wal.disk_bytes());
                Some(commit)
            }
            Err(wal::Error::NoRoom { .. }) => None,
            Err(error) => task::die(
                74,
                &format!("the commit log cannot be written or synced: {}", in_words(&error)),
            ),
        }
    }

    /// Whether there was room for it before the broker was to stop.
    fn commit(&mut self, work: Vec<Work>) -> bool {
        let now_ms = clock::wall_ms();
        let time = Bytes::copy_from_slice(&now_ms.to_le_bytes());
        let mut entries = Vec::with_capacity(work.len() + 1);
        entries.push(entry_of_none(kind::TIME, time));
        entries.extend(work.iter().map(|work| work.entry.clone()));
        let Some(commit) = self.write(&entries) else {
            // Nobody was answered.
            tracing::error!(
                entries = work.len(),
                "stopped without room for what waited to be committed"
            );
            return false;
        };
        // Where it may have to wait for room, this thread is needed to look for some.
        let has_more =
            !self.shared.lock().work.is_empty() || self.room.state() != room::State::Room;
        let (wal, room) = (&mut self.owned.wal, &self.room);
        self.applier.apply(Commit { number: commit, now_ms, work }, has_more, || {
            room.look();
            drop_spares_where_room_is_wanted(wal, room);
        });
        true
    }

    fn checkpoint_when_due(&mut self) {
        let is_due = self.since_checkpoint() >= self.owned.config.checkpoint_bytes
            || (self.must_checkpoint() && !self.checkpoint_failed_lately());
        if self.checkpointing || !is_due {
            return;
        }
        let now_ms = clock::wall_ms();
        // All commits are applied then.
        let commit = self.owned.wal.last_commit();
        let unsynced = &mut self.unsynced;
        let (wal, room) = (&mut self.owned.wal, &self.room);
        let meanwhile = || {
            room.look();
            drop_spares_where_room_is_wanted(wal, room);
        };
        let job = self.applier.with_all(meanwhile, |state| {
            state.catalogue.expire_producers(now_ms);
            state.dirty.values().for_each(|partition| partition.expire_producers(now_ms));
            let catalogue = state.catalogue.clone();
            CheckpointJob {
                checkpoint: Checkpoint { commit, clean: false, catalogue },
                dirty: unsynced
                    .drain(..)
                    .chain(state.dirty.drain().map(|(_, partition)| partition))
                    .collect(),
            }
        });
        // The broker stops, and a commit waits for room to be applied: the checkpoint would say of it that it was.
        let Some(job) = job else { return };
        self.checkpointed_bytes = self.owned.wal.bytes();
        self.checkpointing = true;
        let disk = Arc::clone(&self.owned.disk);
        let path = self.owned.checkpoint_path.clone();
        let shared = Arc::clone(&self.shared);
        let metrics = self.owned.metrics.clone();
        let started = task::critical_thread("checkpoint", move || {
            let end = match carry_out(&job, &*disk, &path) {
                Ok(()) => {
                    metrics.checkpointed();
                    CheckpointEnd::Written(job.checkpoint.commit)
                }
                Err(error) => {
                    tracing::error!(
                        error = in_words(&error),
                        "no checkpoint: the commit log is kept, and it is tried again"
                    );
                    CheckpointEnd::Not(job.dirty)
                }
            };
            shared.lock().checkpointed = Some(end);
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
        if !self.room.takes_spare(SPARE_SHARE * job.bytes()) {
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

    fn stop(mut self) {
        // Where something was given up one may still be at work: what it was to sync is to be synced, and it writes the file
        // that is about to be written.
        while self.checkpointing {
            let shared = Arc::clone(&self.shared);
            let mut queue = shared.lock();
            let end = loop {
                if let Some(end) = queue.checkpointed.take() {
                    break end;
                }
                queue = shared.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            drop(queue);
            self.checkpoint_ended(end);
        }
        // Those who wait for what is not committed any more learn that the broker stops.
        let left = std::mem::take(&mut self.shared.lock().work);
        drop(left);
        let Some(state) = self.applier.stop() else {
            tracing::error!(
                "stopped without room for what was committed: it is in the commit log, and the next start writes it where it \
                 belongs; free some space for that"
            );
            return;
        };
        let job = CheckpointJob {
            checkpoint: Checkpoint {
                commit: self.owned.wal.last_commit(),
                clean: true,
                catalogue: state.catalogue,
            },
            dirty: self.unsynced.into_iter().chain(state.dirty.into_values()).collect(),
        };
        if let Err(error) = carry_out(&job, &*self.owned.disk, &self.owned.checkpoint_path) {
            tracing::error!(
                error = in_words(&error),
                "no checkpoint: the next start recovers from the commit log"
            );
        }
    }
}

/// The room of files that are only kept for later is better used by what waits for some.
fn drop_spares_where_room_is_wanted(wal: &mut Wal, room: &Arc<DiskRoom>) {
    if room.wants_spares() {
        wal.drop_spares();
    }
}

/// Syncs the segments, then writes the checkpoint that says so.
fn carry_out(
    job: &CheckpointJob,
    disk: &dyn Disk,
    path: &std::path::Path,
) -> Result<(), NoCheckpoint> {
    for partition in &job.dirty {
        match partition.sync_segments() {
            Ok(()) => {}
            Err(source) if source.is_no_room() => {
                return Err(NoCheckpoint::Segments { partition: partition.id(), source });
            }
            Err(error) => task::die(
                74,
                &format!("segments of {} cannot be synced: {}", partition.id(), in_words(&error)),
            ),
        }
    }
    job.checkpoint.write(disk, path)?;
    for partition in &job.dirty {
        if let Some(state) = job.checkpoint.catalogue.partition(partition.id()) {
            partition.checkpointed_upto(state.log_end);
        }
    }
    Ok(())
}

/// As much as one commit may hold, in order. Room is left for the time.
fn take_commit(queue: &mut Queue, room: &DiskRoom) -> Vec<Work> {
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
    let bytes = batch_bytes(&taken);
    queue.bytes -= bytes;
    room.commits(bytes);
    taken
}

/// Bytes of the batches among them.
pub(super) fn batch_bytes(work: &[Work]) -> usize {
    let batches = work.iter().filter(|work| matches!(work.then, Then::Write(_)));
    batches.map(|work| work.entry.payload.len()).sum()
}

/// More than the head and payload of an entry that is no batch's take.
const ONE_ENTRY_BYTES: usize = 1024;

const _: () = assert!(limits::COMMIT_BYTES >= limits::RECORD_BATCH_BYTES + 2 * ONE_ENTRY_BYTES);

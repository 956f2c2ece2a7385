//! The one face of a partition: append, read, offsets. A caller cannot tell where a record lies.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use super::catalogue::{AppendMark, EpochStart, Event, PartitionState, Run};
use super::committer::{Committer, Stopped};
use super::error::{AppendError, ReadError};
use super::metrics::Metrics;
use super::topic_config::{TimestampType, TopicOptions};
use crate::clock;
use crate::log::{self, Log, ProducerStates, Reader, Verdict};
use crate::record::{self, BatchHeader};
use crate::types::{
    CommitNumber, LeaderEpoch, Offset, Sequence, TopicName, TopicPartition, Watermarks, limits,
};

/// Who appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A Kafka producer: all checks.
    Kafka,
    /// The TLog front end, which holds the vdisk's write right and built the batch itself.
    Vdisk,
}

/// A committed batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendResult {
    /// Offset of its first record; of the first append when a producer sent it again.
    pub base_offset: Offset,
    /// Time of the append in ms where the topic stamps by it, else -1.
    pub log_append_time_ms: i64,
    /// First offset of the partition that can be read.
    pub log_start_offset: Offset,
}

/// A record found by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampedOffset {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp in ms.
    pub timestamp_ms: i64,
    /// The epoch it was written in.
    pub leader_epoch: LeaderEpoch,
}

/// What is decided in a partition's turn: the order of appends and what depends on it.
#[derive(Debug)]
struct Turn {
    next_offset: Offset,
    epoch: LeaderEpoch,
    epochs: Vec<EpochStart>,
    producers: ProducerStates,
    runs: Vec<Run>,
    /// Of batches that are not shipped, oldest first. Kept for partitions that ship only.
    marks: Vec<AppendMark>,
    deleted: bool,
}

/// A partition of a topic. One for each, shared by all.
pub struct Partition {
    id: TopicPartition,
    topic: TopicName,
    options: Arc<RwLock<Arc<TopicOptions>>>,
    turn: Mutex<Turn>,
    log: RwLock<Log>,
    watermarks: watch::Sender<Watermarks>,
    ship_to: watch::Sender<Offset>,
    committer: Committer,
    metrics: Metrics,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition").field("topic", &self.topic).field("id", &self.id).finish()
    }
}

/// What all partitions of a topic are made with.
pub(super) struct Parts {
    pub topic: TopicName,
    pub options: Arc<RwLock<Arc<TopicOptions>>>,
    pub committer: Committer,
    pub metrics: Metrics,
}

impl Partition {
    /// A partition as the catalogue describes it, over its local log.
    pub(super) fn new(
        id: TopicPartition,
        state: &PartitionState,
        start_number: u64,
        log: Log,
        parts: Parts,
    ) -> Arc<Self> {
        let local_start = if log.end_offset() > log.start_offset() {
            log.start_offset().max(state.local_start)
        } else {
            state.local_start
        };
        let shipped = if state.ships { state.shipped().max(local_start) } else { local_start };
        let watermarks = Watermarks {
            log_start: state.log_start,
            local_start,
            complete: if state.ships { state.complete.max(local_start) } else { local_start },
            shipped,
            high_watermark: state.log_end,
            log_end: state.log_end,
        };
        watermarks.assert_ordered();
        Arc::new(Self {
            id,
            topic: parts.topic,
            options: parts.options,
            turn: Mutex::new(Turn {
                next_offset: state.log_end,
                epoch: state.live_epoch(start_number),
                epochs: state.epochs.clone(),
                producers: state.producers.clone(),
                runs: state.runs.clone(),
                marks: state.marks.clone(),
                deleted: false,
            }),
            log: RwLock::new(log),
            watermarks: watch::Sender::new(watermarks),
            ship_to: watch::Sender::new(shipped),
            committer: parts.committer,
            metrics: parts.metrics,
        })
    }

    /// Identity.
    #[must_use]
    pub fn id(&self) -> TopicPartition {
        self.id
    }

    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The topic's options as they are now.
    #[must_use]
    pub fn options(&self) -> Arc<TopicOptions> {
        Arc::clone(&self.options.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// All watermarks at one moment.
    #[must_use]
    pub fn watermarks(&self) -> Watermarks {
        *self.watermarks.borrow()
    }

    /// Changes with every move of a watermark; deletion of the topic is a change too, see [`Partition::is_deleted`].
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Watermarks> {
        self.watermarks.subscribe()
    }

    /// The epoch that the next batch is written in.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.turn().epoch
    }

    /// Whether the topic is gone.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.turn().deleted
    }

    /// The sequence runs of a vdisk, oldest first.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        self.turn().runs.clone()
    }

    /// Asks that everything below `upto` is shipped as soon as possible. Nothing happens where nothing ships.
    pub fn request_ship(&self, upto: Offset) {
        self.ship_to.send_if_modified(|to| {
            let further = upto > *to;
            *to = upto.max(*to);
            further
        });
    }

    /// Appends one batch. It is checked and its place in the order fixed on return; the future resolves once it is
    /// committed: synced and visible. The caller holds memory for it (see `Broker::reserve`).
    ///
    /// # Errors
    /// [`AppendError`]; nothing was appended then. From the future: [`AppendError::Stopping`], and the batch may or
    /// may not be there after a restart.
    pub fn append(
        self: &Arc<Self>,
        batch: Bytes,
        origin: Origin,
    ) -> Result<
        impl Future<Output = Result<AppendResult, AppendError>> + Send + 'static + use<>,
        AppendError,
    > {
        let header = self.check(&batch, origin)?;
        let now_ms = clock::wall_ms();
        let mut batch = BytesMut::from(batch);
        let mut log_append_time_ms = -1;
        if self.options().timestamp_type == TimestampType::LogAppendTime {
            record::set_log_append_time(&mut batch, now_ms);
            log_append_time_ms = now_ms;
        }
        let (base_offset, receiver) = self.queue(batch, header, now_ms)?;
        let partition = Arc::clone(self);
        Ok(async move {
            match receiver {
                Some(receiver) => receiver.await.map_err(|_| AppendError::Stopping)?,
                // Sent again while the first one is still on its way: its commit answers both.
                None => partition.committed(base_offset).await?,
            }
            let log_start_offset = partition.watermarks().log_start;
            Ok(AppendResult { base_offset, log_append_time_ms, log_start_offset })
        })
    }

    fn check(&self, batch: &Bytes, origin: Origin) -> Result<BatchHeader, AppendError> {
        let options = self.options();
        let limit = options.max_message_bytes.min(limits::RECORD_BATCH_BYTES);
        if batch.len() > limit {
            return Err(AppendError::TooLarge { bytes: batch.len(), limit });
        }
        let header = record::check_batch(batch).map_err(AppendError::from_header)?;
        if origin == Origin::Vdisk {
            return Ok(header);
        }
        if options.vdisk {
            return Err(AppendError::VdiskTopic { topic: self.topic.clone() });
        }
        if header.is_transactional() {
            return Err(AppendError::Transactional);
        }
        if options.validate_records {
            record::check_records(batch, &header).map_err(AppendError::InvalidRecord)?;
        }
        Ok(header)
    }

    /// The turn: producer check, offsets, queue. `None` when the batch is there already.
    fn queue(
        self: &Arc<Self>,
        mut batch: BytesMut,
        mut header: BatchHeader,
        now_ms: i64,
    ) -> Result<(Offset, Option<tokio::sync::oneshot::Receiver<()>>), AppendError> {
        let mut turn = self.turn();
        if turn.deleted {
            return Err(AppendError::Deleted);
        }
        if header.producer_id >= 0 {
            match turn.producers.check(&header)? {
                Verdict::Append => {}
                Verdict::Duplicate { base_offset, .. } => return Ok((base_offset, None)),
            }
        }
        header.base_offset = turn.next_offset;
        header.leader_epoch = turn.epoch.0;
        record::assign(&mut batch, header.base_offset, turn.epoch);
        let bytes = batch.len();
        // Before the batch is queued: the committer may be through with it before this turn ends.
        self.set_log_end(header.next_offset());
        let queued = self.committer.append(Arc::clone(self), batch.freeze());
        let receiver = queued.map_err(|Stopped| {
            self.set_log_end(header.base_offset);
            AppendError::Stopping
        })?;
        if header.producer_id >= 0 {
            turn.producers.apply(&header, now_ms);
        }
        if turn.epochs.last().is_none_or(|last| last.epoch < turn.epoch) {
            let start = EpochStart { epoch: turn.epoch, first_offset: header.base_offset };
            turn.epochs.push(start);
        }
        turn.next_offset = header.next_offset();
        drop(turn);
        self.metrics.appended(bytes);
        Ok((header.base_offset, Some(receiver)))
    }

    /// Nobody waits for the log end, so nobody is woken.
    fn set_log_end(&self, log_end: Offset) {
        self.watermarks.send_if_modified(|marks| {
            marks.log_end = log_end;
            false
        });
    }

    /// Begins a sequence run at the next offset. Every later append is behind it; the future resolves once it is
    /// durable.
    ///
    /// # Errors
    /// [`AppendError::Deleted`], [`AppendError::Stopping`].
    pub fn start_run(
        &self,
        first_sequence: Sequence,
    ) -> Result<impl Future<Output = Result<(), AppendError>> + Send + 'static + use<>, AppendError>
    {
        let mut turn = self.turn();
        if turn.deleted {
            return Err(AppendError::Deleted);
        }
        let run = Run { first_offset: turn.next_offset, first_sequence };
        let event = Event::RunStarted { topic: self.id.topic, run };
        let receiver = self.committer.event(event).map_err(|Stopped| AppendError::Stopping)?;
        turn.runs.push(run);
        drop(turn);
        Ok(async move { receiver.await.map_err(|_| AppendError::Stopping) })
    }

    /// Waits until `offset` is below the high watermark.
    async fn committed(&self, offset: Offset) -> Result<(), AppendError> {
        let mut watch = self.watch();
        loop {
            if watch.borrow_and_update().high_watermark > offset {
                return Ok(());
            }
            if self.is_deleted() {
                return Err(AppendError::Deleted);
            }
            watch.changed().await.map_err(|_| AppendError::Stopping)?;
        }
    }

    /// Whole batches from the one containing `from`, below the high watermark: about `max_bytes`, but one batch at
    /// least where there is one. Empty at the high watermark.
    ///
    /// # Errors
    /// [`ReadError`].
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn read(&self, from: Offset, max_bytes: usize) -> Result<Bytes, ReadError> {
        let marks = self.watermarks();
        if self.is_deleted() {
            return Err(ReadError::Deleted);
        }
        if from < marks.log_start || from > marks.high_watermark {
            return Err(ReadError::OutOfRange {
                requested: from,
                start: marks.log_start,
                end: marks.high_watermark,
            });
        }
        if from == marks.high_watermark {
            return Ok(Bytes::new());
        }
        let reader = self.reader();
        Ok(blocking(move || reader.read(from, marks.high_watermark, max_bytes)).await??)
    }

    /// The first record stamped at or above `timestamp_ms`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn offset_for_timestamp(
        &self,
        timestamp_ms: i64,
    ) -> Result<Option<TimestampedOffset>, ReadError> {
        let marks = self.watermarks();
        let reader = self.reader();
        let found =
            blocking(move || reader.offset_for_timestamp(timestamp_ms, marks.high_watermark))
                .await??;
        Ok(found.map(TimestampedOffset::from))
    }

    /// The first record with the highest timestamp.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn max_timestamp(&self) -> Result<Option<TimestampedOffset>, ReadError> {
        let marks = self.watermarks();
        let reader = self.reader();
        let local = blocking(move || reader.max_timestamp(marks.high_watermark)).await??;
        Ok(local.map(TimestampedOffset::from))
    }

    /// The local log, for reading outside of every lock.
    pub(super) fn reader(&self) -> Reader {
        self.log.read().unwrap_or_else(PoisonError::into_inner).reader()
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        // Nothing panics inside a turn but on a broken invariant, which ends the process anyway.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For the committer, recovery and the shipper.
impl Partition {
    /// Writes a committed batch to its segment and makes it visible.
    pub(super) fn write_committed(
        &self,
        batch: &Bytes,
        commit: CommitNumber,
        appended_ms: i64,
    ) -> Result<(), log::Error> {
        let end = {
            let mut log = self.log.write().unwrap_or_else(PoisonError::into_inner);
            log.append(batch)?;
            log.end_offset()
        };
        if self.options().ships {
            let mut turn = self.turn();
            let first_offset = self.watermarks.borrow().high_watermark;
            if turn.marks.last().is_none_or(|mark| mark.commit != commit) {
                turn.marks.push(AppendMark { first_offset, commit, appended_ms });
            }
        }
        self.move_watermarks(|marks| marks.high_watermark = end);
        Ok(())
    }

    /// Syncs what was written to the segments so far.
    pub(super) fn sync_segments(&self) -> Result<(), log::Error> {
        let dirty = self.log.write().unwrap_or_else(PoisonError::into_inner).take_dirty();
        dirty.sync()
    }

    /// Refuses every later append and wakes all who wait.
    pub(super) fn mark_deleted(&self) {
        self.turn().deleted = true;
        self.watermarks.send_modify(|_| ());
    }

    /// Changes watermarks and checks their order.
    pub(super) fn move_watermarks(&self, change: impl FnOnce(&mut Watermarks)) {
        self.watermarks.send_modify(|marks| {
            change(marks);
            if marks.complete < marks.local_start {
                marks.complete = marks.local_start;
            }
            if marks.shipped < marks.complete {
                marks.shipped = marks.complete;
            }
            marks.assert_ordered();
        });
    }
}

impl From<(Offset, i64, i32)> for TimestampedOffset {
    fn from((offset, timestamp_ms, epoch): (Offset, i64, i32)) -> Self {
        Self { offset, timestamp_ms, leader_epoch: LeaderEpoch(epoch) }
    }
}

/// Runs file work off the tasks' threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ReadError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ReadError::Stopping)
}

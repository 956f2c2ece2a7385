//! The one face of a partition: append, read, offsets. A caller cannot tell where a record lies.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Semaphore, watch};

use super::catalogue::{
    AppendMark, EpochStart, Event, PRODUCER_AGE_MS, PartitionState, Run, add_mark, add_run,
    forget_marks_below,
};
use super::committer::{Committer, Stopped};
use super::epochs::{EpochEnd, epoch_end};
use super::error::{AppendError, ReadError};
use super::local_log::LocalLog;
use super::metrics::Metrics;
use super::recovery::log_config;
use super::topic_config::{TimestampType, TopicOptions};
use super::unshipped::{Lag, Unshipped};
use crate::log::{self, Log, ProducerRoom, ProducerStates, Reader, Verdict};
use crate::record::{self, BatchHeader};
use crate::tier::ShipHandle;
use crate::types::{
    CommitNumber, LeaderEpoch, Offset, Sequence, TopicName, TopicPartition, Watermarks, limits,
};
use crate::{clock, task};

pub(super) mod compaction;
mod front;

use compaction::Compaction;

/// Where the rest of a partition's log lies when it is not on local disk.
pub(super) trait ColdReader: Send + Sync + std::fmt::Debug {
    /// Whole batches from the one containing `from`, one at least, about `max_bytes`, all below `upto`.
    fn read(
        self: Arc<Self>,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
    ) -> futures_util::future::BoxFuture<'static, Result<Bytes, ReadError>>;

    /// The first record of `[from, upto)` stamped at or above `timestamp_ms`.
    fn offset_for_timestamp(
        self: Arc<Self>,
        timestamp_ms: i64,
        range: (Offset, Offset),
    ) -> futures_util::future::BoxFuture<'static, Result<Option<TimestampedOffset>, ReadError>>;

    /// The first record of `[from, upto)` with the highest timestamp.
    fn max_timestamp(
        self: Arc<Self>,
        range: (Offset, Offset),
    ) -> futures_util::future::BoxFuture<'static, Result<Option<TimestampedOffset>, ReadError>>;
}

/// Lookups by time hold a whole batch, 64 MiB at most, in memory that no request's budget counts: so many at a time in the
/// whole process.
static LOOKING: Semaphore = Semaphore::const_new(2);

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
    /// Of partitions that ship.
    unshipped: Unshipped,
    deleted: bool,
}

/// A batch whose place is fixed.
struct Queued {
    base_offset: Offset,
    timestamp_ms: i64,
    /// `None` when the batch is there already.
    receiver: Option<tokio::sync::oneshot::Receiver<()>>,
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
    cold: RwLock<Option<Arc<dyn ColdReader>>>,
    shipper: Mutex<Option<ShipHandle>>,
    gone: AtomicBool,
    /// That the local disk gives an error where something is read.
    pub(super) unreadable_said: AtomicBool,
    /// Why its directory could not be opened. The log is then what is kept aside for it.
    offline: Option<String>,
    /// Whether a thread checks ahead of a reader.
    pub(super) checks_ahead: Arc<AtomicBool>,
    /// Held while files are unlinked.
    unlinking: Mutex<()>,
    compaction: Compaction,
    committer: Committer,
    producer_room: Arc<ProducerRoom>,
    local_log: Arc<LocalLog>,
    pub(super) metrics: Metrics,
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
    /// Of all partitions; those of `state` are counted in it.
    pub producer_room: Arc<ProducerRoom>,
    pub local_log: Arc<LocalLog>,
    pub metrics: Metrics,
    /// See [`Partition::offline`].
    pub offline: Option<String>,
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
        let local_start = state.local_start;
        let mut watermarks = Watermarks {
            log_start: state.log_start,
            local_start,
            complete: local_start,
            shipped: local_start,
            high_watermark: state.log_end,
            log_end: state.log_end,
        };
        if state.ships {
            // After a rebuild the local log begins where shipping ended: what lies below has no local copy whose
            // deletion must wait, so it counts as complete here, and the tier says which fragments lack shards.
            watermarks.complete = state.complete.max(local_start);
            watermarks.shipped = state.shipped().max(watermarks.complete);
        }
        // Recovery checked what it read, and a new topic is in order by its making.
        assert_eq!(watermarks.broken_order(), None, "{watermarks:?}");
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
                unshipped: found_unshipped(state, &log, watermarks.shipped),
                deleted: false,
            }),
            log: RwLock::new(log),
            watermarks: watch::Sender::new(watermarks),
            ship_to: watch::Sender::new(watermarks.shipped),
            cold: RwLock::new(None),
            shipper: Mutex::new(None),
            gone: AtomicBool::new(false),
            unreadable_said: AtomicBool::new(false),
            offline: parts.offline,
            checks_ahead: Arc::default(),
            unlinking: Mutex::default(),
            compaction: Compaction::new(state.log_end),
            committer: parts.committer,
            producer_room: parts.producer_room,
            local_log: parts.local_log,
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

    /// Why it can be neither read nor written before a start that can open its directory; none where all is well.
    #[must_use]
    pub fn offline(&self) -> Option<&str> {
        self.offline.as_deref()
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

    /// The newest epoch at or below `epoch` and where its committed records end; `None` if nothing is known of it.
    ///
    /// Source: KIP-320.
    #[must_use]
    pub fn epoch_end(&self, epoch: LeaderEpoch) -> Option<EpochEnd> {
        let turn = self.turn();
        epoch_end(&turn.epochs, turn.epoch, self.watermarks().high_watermark, epoch)
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
        self.check_online().map_err(|why| AppendError::Offline { why })?;
        let header = self.check(&batch, origin)?;
        let now_ms = clock::wall_ms();
        let mut batch = BytesMut::from(batch);
        let by_append = self.options().timestamp_type == TimestampType::LogAppendTime;
        if by_append {
            record::set_log_append_time(&mut batch, now_ms);
        } else if header.is_log_append_time() {
            record::clear_log_append_time(&mut batch);
        }
        let header = BatchHeader::parse(&batch).map_err(AppendError::from_header)?;
        let Queued { base_offset, timestamp_ms, receiver } = self.queue(batch, header, now_ms)?;
        let partition = Arc::clone(self);
        Ok(async move {
            match receiver {
                Some(receiver) => receiver.await.map_err(|_| AppendError::Stopping)?,
                // Sent again while the first one is still on its way: its commit answers both.
                None => partition.committed(base_offset).await?,
            }
            let log_append_time_ms = if by_append { timestamp_ms } else { -1 };
            let log_start_offset = partition.watermarks().log_start;
            Ok(AppendResult { base_offset, log_append_time_ms, log_start_offset })
        })
    }

    fn check(&self, batch: &Bytes, origin: Origin) -> Result<BatchHeader, AppendError> {
        let options = self.options();
        let limit = match origin {
            Origin::Kafka => options.max_message_bytes.min(limits::RECORD_BATCH_BYTES),
            // The batch is the vdisk's own joining of blocks, each of which was checked.
            Origin::Vdisk => limits::RECORD_BATCH_BYTES,
        };
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
        if header.producer_id >= limits::PRODUCER_IDS {
            return Err(AppendError::UnknownProducerId { producer_id: header.producer_id });
        }
        if options.validate_records {
            record::check_records(batch, &header).map_err(AppendError::InvalidRecord)?;
        }
        if options.compaction.is_some() {
            record::check_keys(batch, &header).map_err(AppendError::InvalidRecord)?;
        }
        Ok(header)
    }

    /// The turn: producer check, offsets, queue.
    fn queue(
        self: &Arc<Self>,
        mut batch: BytesMut,
        mut header: BatchHeader,
        now_ms: i64,
    ) -> Result<Queued, AppendError> {
        let mut turn = self.turn();
        if turn.deleted {
            return Err(AppendError::Deleted);
        }
        if let Some(limit_bytes) = self.local_log.refuses() {
            return Err(AppendError::LocalLogFull { limit_bytes });
        }
        if header.producer_id >= 0 {
            match turn.producers.check(&header)? {
                Verdict::Append => {}
                Verdict::Duplicate { base_offset, timestamp } => {
                    return Ok(Queued { base_offset, timestamp_ms: timestamp, receiver: None });
                }
            }
        }
        header.base_offset = turn.next_offset;
        header.leader_epoch = turn.epoch.0;
        record::assign(&mut batch, header.base_offset, turn.epoch);
        let bytes = batch.len();
        // Before the batch is queued: the committer may be through with it before this turn ends.
        self.set_log_end(header.next_offset());
        let queued = self.committer.append(Arc::clone(self), batch.freeze());
        let receiver = queued.inspect_err(|_| self.set_log_end(header.base_offset))?;
        if header.producer_id >= 0 {
            turn.producers.apply(&header, now_ms, &self.producer_room);
        }
        if turn.epochs.last().is_none_or(|last| last.epoch < turn.epoch) {
            let start = EpochStart { epoch: turn.epoch, first_offset: header.base_offset };
            turn.epochs.push(start);
        }
        turn.next_offset = header.next_offset();
        drop(turn);
        self.metrics.appended(bytes);
        let (base_offset, timestamp_ms) = (header.base_offset, header.max_timestamp);
        Ok(Queued { base_offset, timestamp_ms, receiver: Some(receiver) })
    }

    /// Nobody waits for the log end, so nobody is woken.
    fn set_log_end(&self, log_end: Offset) {
        self.watermarks.send_if_modified(|marks| {
            marks.log_end = log_end;
            false
        });
    }

    /// As if so much had been handed out that is not committed yet.
    #[cfg(test)]
    pub fn pretend_log_end(&self, log_end: Offset) {
        self.set_log_end(log_end);
    }

    /// Begins a sequence run at the next offset. Every later append is behind it; the future resolves once it is
    /// durable.
    ///
    /// # Errors
    /// [`AppendError::Offline`], [`AppendError::Deleted`], [`AppendError::Stopping`].
    pub fn start_run(
        &self,
        first_sequence: Sequence,
    ) -> Result<impl Future<Output = Result<(), AppendError>> + Send + 'static + use<>, AppendError>
    {
        self.check_online().map_err(|why| AppendError::Offline { why })?;
        let mut turn = self.turn();
        if turn.deleted {
            return Err(AppendError::Deleted);
        }
        let run = Run { first_offset: turn.next_offset, first_sequence };
        let event = Event::RunStarted { topic: self.id.topic, run };
        let receiver = self.committer.event(event).map_err(|Stopped| AppendError::Stopping)?;
        add_run(&mut turn.runs, run);
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

    /// The first record stamped at or above `timestamp_ms`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn offset_for_timestamp(
        &self,
        timestamp_ms: i64,
    ) -> Result<Option<TimestampedOffset>, ReadError> {
        self.check_online().map_err(|why| ReadError::Offline { why })?;
        let marks = self.watermarks();
        if marks.log_start < marks.local_start {
            let found = self
                .cold()?
                .offset_for_timestamp(timestamp_ms, (marks.log_start, marks.local_start))
                .await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        let reader = self.reader().starting_at(marks.log_start);
        let turn = LOOKING.acquire().await;
        let found = blocking(move || {
            let _turn = turn;
            reader.offset_for_timestamp(timestamp_ms, marks.high_watermark)
        });
        let found = found.await??;
        Ok(found.map(TimestampedOffset::from))
    }

    /// The first record with the highest timestamp.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn max_timestamp(&self) -> Result<Option<TimestampedOffset>, ReadError> {
        self.check_online().map_err(|why| ReadError::Offline { why })?;
        let marks = self.watermarks();
        let cold = if marks.log_start < marks.local_start {
            self.cold()?.max_timestamp((marks.log_start, marks.local_start)).await?
        } else {
            None
        };
        let reader = self.reader().starting_at(marks.log_start);
        let turn = LOOKING.acquire().await;
        let local = blocking(move || {
            let _turn = turn;
            reader.max_timestamp(marks.high_watermark)
        });
        let local = local.await??;
        let local = local.map(TimestampedOffset::from);
        Ok(match (cold, local) {
            (Some(cold), Some(local)) if local.timestamp_ms > cold.timestamp_ms => Some(local),
            (None, local) => local,
            (cold, _) => cold,
        })
    }

    /// Why not, else.
    pub(super) fn check_online(&self) -> Result<(), String> {
        self.offline.clone().map_or(Ok(()), Err)
    }

    /// The local log, for reading outside of every lock.
    pub(super) fn reader(&self) -> Reader {
        self.log.read().unwrap_or_else(PoisonError::into_inner).reader()
    }

    pub(super) fn cold(&self) -> Result<Arc<dyn ColdReader>, ReadError> {
        self.cold
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or(ReadError::Unavailable { why: "no shard servers are configured".to_owned() })
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
        let options = self.options();
        let end = {
            let mut log = self.log.write().unwrap_or_else(PoisonError::into_inner);
            log.set_config(log_config(&options));
            log.append(batch, appended_ms)?;
            log.end_offset()
        };
        self.local_log.appended(batch.len() as u64);
        if options.ships {
            let mut turn = self.turn();
            let first_offset = self.watermarks.borrow().high_watermark;
            add_mark(&mut turn.marks, AppendMark { first_offset, commit, appended_ms });
            turn.unshipped.add(end, batch.len() as u64, appended_ms);
        }
        self.move_watermarks(|marks| marks.high_watermark = end);
        Ok(())
    }

    /// Syncs what was written to the segments so far.
    pub(super) fn sync_segments(&self) -> Result<(), log::Error> {
        let dirty = {
            let mut log = self.log.write().unwrap_or_else(PoisonError::into_inner);
            if self.gone.load(Ordering::SeqCst) {
                // Its indexes would be written by names that may be another's.
                return Ok(());
            }
            log.take_dirty()
        };
        match dirty.sync() {
            Err(_) if self.gone.load(Ordering::SeqCst) => Ok(()),
            other => other,
        }
    }

    /// Refuses every later append and wakes all who wait.
    pub(super) fn mark_deleted(&self) {
        let mut turn = self.turn();
        turn.deleted = true;
        turn.producers.clear(&self.producer_room);
        drop(turn);
        self.watermarks.send_modify(|_| ());
    }

    /// Lets the tier read what is no longer on local disk.
    pub(super) fn set_cold(&self, cold: Arc<dyn ColdReader>) {
        *self.cold.write().unwrap_or_else(PoisonError::into_inner) = Some(cold);
    }

    pub(super) fn set_shipper(&self, handle: ShipHandle) {
        *self.shipper.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
    }

    /// Ends shipping; on return nothing of it is under way.
    pub(super) async fn stop_shipping(&self) {
        let handle = self.shipper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle {
            handle.stop().await;
        }
    }

    /// Exclusive bound up to which shipping was asked for.
    pub(super) fn ship_to(&self) -> watch::Receiver<Offset> {
        self.ship_to.subscribe()
    }

    /// The marks that cover `[from, upto)`; the first may begin below `from`.
    pub(super) fn marks(&self, from: Offset, upto: Offset) -> Vec<AppendMark> {
        let turn = self.turn();
        let first = turn.marks.partition_point(|mark| mark.first_offset <= from).saturating_sub(1);
        let marks = turn.marks.get(first..).unwrap_or_default();
        marks.iter().take_while(|mark| mark.first_offset < upto).copied().collect()
    }

    /// Later batches are written in this epoch at least. Nobody is shown it before it is durable.
    pub(super) fn raise_epoch(self: &Arc<Self>, at_least: LeaderEpoch) {
        let TopicPartition { topic, partition } = self.id;
        let event = Event::EpochRaised { topic, partition, epoch: at_least };
        let this = Arc::clone(self);
        let then = Box::new(move || {
            let mut turn = this.turn();
            turn.epoch = turn.epoch.max(at_least);
        });
        // A broker that stops raises it again at its next start.
        drop(self.committer.event_then(event, then));
    }

    /// Makes an event about this partition durable.
    pub(super) async fn record(&self, event: Event) -> Result<(), Stopped> {
        self.committer.record(event).await
    }

    /// Everything below `shipped` is on the shard servers.
    pub(super) fn shipped_upto(&self, shipped: Offset) {
        let mut turn = self.turn();
        forget_marks_below(&mut turn.marks, shipped);
        turn.unshipped.shipped_upto(shipped);
        drop(turn);
        self.move_watermarks(|marks| marks.shipped = marks.shipped.max(shipped));
    }

    /// How far shipping is behind here.
    pub(super) fn lag(&self) -> Lag {
        self.turn().unshipped.lag()
    }

    /// Everything below `complete` was read back and verified.
    pub(super) fn completed_upto(&self, complete: Offset) {
        self.move_watermarks(|marks| marks.complete = marks.complete.max(complete));
    }

    /// Changes watermarks. Where their order would not hold afterwards the process ends: going on would delete or show
    /// what must not be.
    pub(super) fn move_watermarks(&self, change: impl FnOnce(&mut Watermarks)) {
        self.watermarks.send_if_modified(|marks| {
            let before = *marks;
            let mut after = before;
            change(&mut after);
            if let Some(broken) = after.broken_order() {
                task::die(70, &format!("{broken} in {}: {after:?}", self.id));
            }
            *marks = after;
            after != before
        });
    }

    /// Refuses every later append if nothing was ever appended to this partition of a plain topic, and says whether it does.
    pub(super) fn mark_deleted_if_empty(&self) -> bool {
        let mut turn = self.turn();
        // Where all records were deleted, the log start is there too.
        if turn.next_offset == 0 {
            turn.deleted = true;
        }
        turn.deleted
    }

    /// The files are about to be unlinked: from here on nothing about them can fail.
    pub(super) fn mark_gone(&self) {
        self.gone.store(true, Ordering::SeqCst);
    }

    /// The idempotent producers that it knows, and the newest batch of each.
    #[cfg(test)]
    pub(super) fn producers(&self) -> std::collections::HashMap<i64, Offset> {
        self.turn().producers.newest_batches()
    }

    /// Forgets producers that wrote nothing for long.
    pub(super) fn expire_producers(&self, now_ms: i64) {
        self.turn().producers.expire(now_ms, PRODUCER_AGE_MS, &self.producer_room);
    }
}

/// What an earlier process left unshipped: the bytes of the segments that have it, so at most one segment too many.
fn found_unshipped(state: &PartitionState, log: &Log, shipped: Offset) -> Unshipped {
    let mut unshipped = Unshipped::default();
    if state.ships && shipped < state.log_end {
        let segments = log.segments();
        let holds = segments.iter().filter(|segment| segment.next_offset > shipped);
        let since_ms = state.marks.first().map_or_else(clock::wall_ms, |mark| mark.appended_ms);
        unshipped.add(state.log_end, holds.map(|segment| segment.bytes).sum(), since_ms);
    }
    unshipped
}

impl From<(Offset, i64, i32)> for TimestampedOffset {
    fn from((offset, timestamp_ms, epoch): (Offset, i64, i32)) -> Self {
        Self { offset, timestamp_ms, leader_epoch: LeaderEpoch(epoch) }
    }
}

/// Runs file work off the tasks' threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ReadError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ReadError::Stopping)
}

#[cfg(test)]
mod tests;

//! What is deleted when: records that a client wants gone or that a topic no longer keeps, and local segments that the tier
//! has.
//!
//! ```text
//!                       every interval                       half of the limit taken
//!   topic that does not ship                topic that ships             |
//!   segments, retention.*                   fragments, retention.*       |      DeleteRecords
//!            |                                   |    local.retention.*  |          |
//!            v                                   v           v           v          v
//!        log start                           log start    local start  local start  log start
//!            +---------- event durable, watermarks moved, segments unlinked --------+
//! ```
//!
//! What goes is decided in `log/retention`. Rules that hold for all ways:
//!
//! * The event is durable before a file is unlinked, and recovery finishes what a crash cut short.
//! * Of a topic that ships nothing goes above the complete offset, by whatever way: its fragments continue each other for
//!   ever, and nothing that is not on the shard servers is dropped. A request to delete waits until its records are there.
//! * The active segment is sealed first when it goes by age or size. Above the start of a request it is left alone.
//! * Plain topics go by the stamps of their records, those without one and vdisks by the time of the append. That of segments
//!   which were there at the start is taken to be the start, of fragments it is known.
//! * Local retention keeps what became complete a short while ago, for shard servers that sync once a second may lose that
//!   together. Where the local log has taken half of its limit this is not looked at.
//! * What lies below the log start of a topic that ships leaves the shard servers at the next interval.
//! * A partition that is offline is left alone.
//! * Of a topic that is compacted local retention takes what was compacted and is like that on the shard servers: compaction
//!   works on local segments only. Early deletion does not look at this.
//!
//! The one timer is the interval; while the local log is below its share nothing else wakes up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::broker::Broker;
use super::catalogue::DeletionReason;
use super::committer::Stopped;
use super::error::DeleteRecordsError;
use super::local_log::LocalLogUse;
use super::metrics::Reason;
use super::partition::Partition;
use super::shipping::Shipped;
use super::topics::Topic;
use crate::log::SegmentInfo;
use crate::log::retention::{Breach, Cut, Piece, cuts};
use crate::types::{Offset, TopicPartition, in_words};
use crate::{clock, task};

/// Local data of a topic that ships stays so long after it became complete.
const AFTER_COMPLETE_MS: i64 = 10 * 60 * 1000;

/// Early deletion looks so often at most while it finds nothing to delete, and at least while there is too much.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const LOOK_AT_LEAST: Duration = Duration::from_secs(10);

/// Active segments below this size are left alone by early deletion: they free next to nothing.
const WORTH_A_ROLL: u64 = 1 << 20;

/// What the retention of a broker remembers.
#[derive(Debug)]
pub(super) struct Retention {
    /// Stands for the time of appends that is not known.
    started_ms: i64,
    completes: Mutex<BTreeMap<TopicPartition, Completes>>,
    stop: CancellationToken,
}

/// Complete offsets of a partition and when they were seen, by rising times.
type Completes = VecDeque<(i64, Offset)>;

impl Retention {
    pub(super) fn new(now_ms: i64) -> Self {
        let stop = CancellationToken::new();
        Self { started_ms: now_ms, completes: Mutex::default(), stop }
    }

    /// Ends the task.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// The offset up to which a partition is complete for long enough.
    fn settled(&self, id: TopicPartition, complete: Offset, now_ms: i64) -> Offset {
        let mut all = self.completes.lock().unwrap_or_else(PoisonError::into_inner);
        settled(all.entry(id).or_default(), complete, now_ms)
    }

    /// Forgets partitions that are gone.
    fn forget_all_but(&self, there: impl Fn(TopicPartition) -> bool) {
        let mut all = self.completes.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|id, _| there(*id));
    }

    fn newest_append(&self, segment: &SegmentInfo) -> i64 {
        segment.appended_ms.unwrap_or(self.started_ms)
    }

    fn pieces(&self, segments: &[SegmentInfo], by_append: bool) -> Vec<Piece> {
        let newest = |segment: &SegmentInfo| match segment.max_timestamp_ms {
            stamp @ 0.. if !by_append => stamp,
            _ => self.newest_append(segment),
        };
        let filled = segments.iter().filter(|segment| segment.bytes > 0);
        filled
            .map(|segment| Piece {
                next_offset: segment.next_offset,
                bytes: segment.bytes,
                newest_ms: newest(segment),
            })
            .collect()
    }
}

fn settled(seen: &mut Completes, complete: Offset, now_ms: i64) -> Offset {
    seen.push_back((now_ms, complete));
    let is_old = |(at_ms, _): &(i64, Offset)| now_ms.saturating_sub(*at_ms) >= AFTER_COMPLETE_MS;
    while seen.get(1).is_some_and(is_old) {
        seen.pop_front();
    }
    seen.front().filter(|first| is_old(first)).map_or(Offset::MIN, |(_, complete)| *complete)
}

/// Starts the task that looks after all topics until the broker stops.
pub(super) fn start(broker: &Arc<Broker>, interval: Duration) {
    let (weak, stop) = (Arc::downgrade(broker), broker.retention.stop.clone());
    let local_log = Arc::clone(&broker.local_log);
    let work = async move {
        let mut next = tokio::time::Instant::now() + interval;
        let mut wanted = false;
        loop {
            let again = if wanted { LOOK_AT_LEAST } else { interval };
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = tokio::time::sleep(again) => {}
                () = local_log.early_deletion() => {}
            }
            let Some(broker) = weak.upgrade() else { return };
            if tokio::time::Instant::now() >= next {
                broker.enforce_retention(clock::wall_ms()).await;
                next = tokio::time::Instant::now() + interval;
            }
            let freed = broker.delete_early().await;
            drop(broker);
            if freed == 0 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            local_log.looked();
            wanted = local_log.usage().deletes_early();
        }
    };
    task::spawn_critical("retention", async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    });
}

impl Broker {
    /// What segments and commit log take of their limit.
    #[must_use]
    pub fn local_log(&self) -> LocalLogUse {
        self.local_log.usage()
    }

    /// Deletes the records of a partition below `before`, or below the high watermark where that is `None`. Durable on
    /// return. Where the topic ships they are shipped first, for which `patience` is given. Returns where the log starts.
    ///
    /// # Errors
    /// [`DeleteRecordsError`]; nothing is deleted then, unless it says otherwise.
    ///
    /// # Cancel safety
    /// When it is dropped the records may be deleted or not.
    pub async fn delete_records(
        &self,
        topic: &Topic,
        partition: &Arc<Partition>,
        before: Option<Offset>,
        patience: Duration,
    ) -> Result<Offset, DeleteRecordsError> {
        let options = topic.options();
        partition.check_online().map_err(|why| DeleteRecordsError::Offline { why })?;
        if options.compacts && !options.deletes {
            return Err(DeleteRecordsError::Compacted { topic: topic.name().clone() });
        }
        if options.vdisk && !options.vdisk_deletable {
            return Err(DeleteRecordsError::Vdisk { topic: topic.name().clone() });
        }
        let marks = partition.watermarks();
        let upto = before.unwrap_or(marks.high_watermark);
        if !(0..=marks.high_watermark).contains(&upto) {
            return Err(DeleteRecordsError::OutOfRange {
                requested: upto,
                end: marks.high_watermark,
            });
        }
        if upto > marks.log_start {
            if options.ships {
                complete_upto(partition, upto, patience).await?;
            }
            if partition.is_deleted() {
                return Err(DeleteRecordsError::Deleted);
            }
            let moved = partition.move_log_start(upto, DeletionReason::Requested).await;
            moved.map_err(|Stopped| DeleteRecordsError::Stopping)?;
            self.unlink(topic, partition, Reason::Requested).await;
        }
        Ok(partition.watermarks().log_start)
    }

    /// Does what the retention of all topics asks for at `now_ms`, and what was left of it before.
    pub async fn enforce_retention(&self, now_ms: i64) {
        self.retention.forget_all_but(|id| self.topic_by_id(&id.topic).is_some());
        for topic in self.topics() {
            for partition in topic.partitions() {
                partition.expire_producers(now_ms);
                if partition.is_deleted() || partition.offline().is_some() {
                    continue;
                }
                let done = self.enforce(&topic, partition, now_ms).await;
                if done == Err(Stopped) {
                    return;
                }
            }
        }
    }

    async fn enforce(
        &self,
        topic: &Topic,
        partition: &Arc<Partition>,
        now_ms: i64,
    ) -> Result<(), Stopped> {
        let options = topic.options();
        // Of segments that were active when the start moved.
        if has_rests(partition) {
            self.unlink(topic, partition, Reason::Requested).await;
        }
        if options.deletes && !options.retention.keeps_all() {
            if options.ships {
                self.enforce_on_fragments(topic, partition, now_ms).await?;
            } else {
                self.enforce_on_segments(topic, partition, now_ms).await?;
            }
        }
        if options.ships {
            self.enforce_locally(topic, partition, now_ms).await?;
        }
        // Nothing was ever deleted of a vdisk that keeps all, and its servers need not be asked.
        if options.ships
            && (!options.vdisk || options.vdisk_deletable || !options.retention.keeps_all())
        {
            self.trim(topic, partition).await;
        }
        Ok(())
    }

    /// Removes from the shard servers what lies below the log start.
    async fn trim(&self, topic: &Topic, partition: &Arc<Partition>) {
        let (Some(tier), marks) = (&self.tier, partition.watermarks()) else { return };
        let local = Arc::new(Shipped(Arc::clone(partition)));
        match tier.trim(&topic.info(), local, marks.log_start).await {
            Ok(0) => {}
            Ok(fragments) => {
                tracing::info!(topic = %topic.name(), fragments, "deleted records are gone from the shard servers");
            }
            Err(error) => {
                let why = in_words(&error);
                tracing::info!(topic = %topic.name(), why, "deleted records stay on the shard servers until those answer");
            }
        }
    }

    async fn enforce_on_segments(
        &self,
        topic: &Topic,
        partition: &Arc<Partition>,
        now_ms: i64,
    ) -> Result<(), Stopped> {
        let pieces = self.retention.pieces(&partition.segments(), false);
        let ceiling = partition.watermarks().high_watermark;
        for cut in cuts(&pieces, 0, &topic.options().retention, ceiling, now_ms) {
            self.roll(topic, partition, cut.start).await;
            self.cut(topic, partition, cut).await?;
        }
        Ok(())
    }

    /// The fragments are the log of a topic that ships: they reach back to where it starts.
    async fn enforce_on_fragments(
        &self,
        topic: &Topic,
        partition: &Arc<Partition>,
        now_ms: i64,
    ) -> Result<(), Stopped> {
        let Some(tier) = &self.tier else { return Ok(()) };
        let marks = partition.watermarks();
        if marks.log_start == marks.shipped {
            return Ok(());
        }
        let fragments = match tier.fragments(&topic.info(), partition.id()).await {
            Ok(fragments) => fragments,
            Err(error) => {
                let why = in_words(&error);
                tracing::warn!(topic = %topic.name(), why, "retention waits for the shard servers");
                return Ok(());
            }
        };
        let is_vdisk = topic.options().vdisk;
        let there = fragments.iter().filter(|fragment| fragment.next_offset > marks.log_start);
        let pieces: Vec<Piece> = there
            .map(|fragment| Piece {
                next_offset: fragment.next_offset,
                bytes: fragment.bytes,
                newest_ms: match fragment.max_timestamp_ms {
                    stamp @ 0.. if !is_vdisk => stamp,
                    _ => fragment.appended_ms,
                },
            })
            .collect();
        let unshipped =
            partition.segments().into_iter().filter(|it| it.base_offset >= marks.shipped);
        let behind = unshipped.map(|segment| segment.bytes).sum();
        let bounds = topic.options().retention;
        for cut in cuts(&pieces, behind, &bounds, marks.complete, now_ms) {
            self.cut(topic, partition, cut).await?;
        }
        Ok(())
    }

    async fn enforce_locally(
        &self,
        topic: &Topic,
        partition: &Arc<Partition>,
        now_ms: i64,
    ) -> Result<(), Stopped> {
        let marks = partition.watermarks();
        let settled = self.retention.settled(partition.id(), marks.complete, now_ms);
        let ceiling = settled.min(partition.settled_by_compaction());
        let options = topic.options();
        if options.local_retention.keeps_all() {
            return Ok(());
        }
        let pieces = self.retention.pieces(&partition.segments(), options.vdisk);
        let Some(cut) = cuts(&pieces, 0, &options.local_retention, ceiling, now_ms).pop() else {
            return Ok(());
        };
        self.roll(topic, partition, cut.start).await;
        if cut.start > marks.local_start {
            partition.move_local_start(cut.start).await?;
        }
        self.unlink(topic, partition, Reason::LocalRetention).await;
        Ok(())
    }

    async fn cut(
        &self,
        topic: &Topic,
        partition: &Arc<Partition>,
        cut: Cut,
    ) -> Result<(), Stopped> {
        let (event, counted) = match cut.breach {
            Breach::Age => (DeletionReason::Age, Reason::Age),
            Breach::Size => (DeletionReason::Size, Reason::Size),
        };
        if cut.start > partition.watermarks().log_start {
            partition.move_log_start(cut.start, event).await?;
            tracing::info!(topic = %topic.name(), partition = partition.id().partition, log_start = cut.start, reason = ?cut.breach, "records are deleted by retention");
        }
        self.unlink(topic, partition, counted).await;
        Ok(())
    }

    /// Deletes complete segments, the oldest of all partitions first, until the local log takes its share again. Returns the
    /// bytes that went.
    pub(super) async fn delete_early(&self) -> u64 {
        let mut wanted = self.local_log.usage().early_bytes();
        if wanted == 0 {
            return 0;
        }
        let mut candidates = Vec::new();
        for topic in self.topics().into_iter().filter(|topic| topic.options().ships) {
            let served = |it: &&Arc<Partition>| !it.is_deleted() && it.offline().is_none();
            for partition in topic.partitions().iter().filter(served) {
                candidates.extend(self.candidates(&topic, partition));
            }
        }
        candidates.sort_by_key(|candidate| (candidate.is_active, candidate.newest_ms));
        let mut starts: BTreeMap<TopicPartition, Candidate> = BTreeMap::new();
        for candidate in candidates {
            if wanted == 0 {
                break;
            }
            wanted = wanted.saturating_sub(candidate.bytes);
            starts.insert(candidate.partition.id(), candidate);
        }
        let mut freed = 0;
        for Candidate { topic, partition, next_offset, .. } in starts.into_values() {
            self.roll(&topic, &partition, next_offset).await;
            if next_offset > partition.watermarks().local_start
                && partition.move_local_start(next_offset).await == Err(Stopped)
            {
                return freed;
            }
            freed += self.unlink(&topic, &partition, Reason::LocalLimit).await;
        }
        freed
    }

    /// The complete segments of a partition. A young one before older ones makes those as young.
    fn candidates(&self, topic: &Arc<Topic>, partition: &Arc<Partition>) -> Vec<Candidate> {
        let complete = partition.watermarks().complete;
        let mut newest_ms = i64::MIN;
        let segments = partition.segments().into_iter();
        let whole = segments.take_while(|segment| segment.next_offset <= complete);
        whole
            .filter(|segment| segment.is_sealed || segment.bytes >= WORTH_A_ROLL)
            .map(|segment| {
                newest_ms = newest_ms.max(self.retention.newest_append(&segment));
                Candidate {
                    topic: Arc::clone(topic),
                    partition: Arc::clone(partition),
                    next_offset: segment.next_offset,
                    bytes: segment.bytes,
                    newest_ms,
                    is_active: !segment.is_sealed,
                }
            })
            .collect()
    }

    async fn roll(&self, topic: &Topic, partition: &Arc<Partition>, end: Offset) {
        let rolling = Arc::clone(partition);
        let rolled = tokio::task::spawn_blocking(move || rolling.roll_at(end)).await;
        if let Ok(Err(error)) = rolled {
            let error = in_words(&error);
            tracing::error!(topic = %topic.name(), error, "a segment cannot be sealed");
        }
    }

    /// Unlinks what is below the local start. Gives the bytes that went.
    async fn unlink(&self, topic: &Topic, partition: &Arc<Partition>, reason: Reason) -> u64 {
        let of = Arc::clone(partition);
        match tokio::task::spawn_blocking(move || of.delete_local()).await {
            Ok(Ok(freed)) if freed.segments > 0 => {
                self.metrics.deleted(reason, freed.segments, freed.bytes);
                freed.bytes
            }
            Ok(Err(error)) => {
                let error = in_words(&error);
                tracing::warn!(topic = %topic.name(), error, "files of deleted records stay until the next start");
                0
            }
            // Nothing went, or the runtime ends.
            Ok(Ok(_)) | Err(_) => 0,
        }
    }
}

/// A segment that may be deleted early.
struct Candidate {
    topic: Arc<Topic>,
    partition: Arc<Partition>,
    next_offset: Offset,
    bytes: u64,
    newest_ms: i64,
    is_active: bool,
}

fn has_rests(partition: &Partition) -> bool {
    let first = partition.segments().into_iter().next();
    let local_start = partition.watermarks().local_start;
    first.is_some_and(|segment| segment.is_sealed && segment.next_offset <= local_start)
}

/// Has everything below `upto` shipped, and waits until it is complete.
pub(super) async fn complete_upto(
    partition: &Partition,
    upto: Offset,
    patience: Duration,
) -> Result<(), DeleteRecordsError> {
    partition.request_ship(upto);
    let mut watch = partition.watch();
    let complete = async {
        loop {
            if watch.borrow_and_update().complete >= upto {
                return Ok(());
            }
            if partition.is_deleted() {
                return Err(DeleteRecordsError::Deleted);
            }
            watch.changed().await.map_err(|_| DeleteRecordsError::Stopping)?;
        }
    };
    tokio::time::timeout(patience, complete).await.unwrap_or_else(|_| {
        let complete = partition.watermarks().complete;
        Err(DeleteRecordsError::NotShipped { requested: upto, complete })
    })
}

#[cfg(test)]
pub(super) mod shipping_tests;
#[cfg(test)]
mod tests;

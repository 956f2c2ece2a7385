//! The front of a partition's log: where it starts, and what of it leaves the local disk.
//!
//! ```text
//!   event queued -> synced -> durable state, watermarks -> segments leave the log -> files unlinked, directory synced
//!                             (nobody reads below)        (lock, short)            (no lock; recovery does the rest)
//! ```

use super::*;
use crate::broker::catalogue::{DeletionReason, trim_epochs};
use crate::log::SegmentInfo;

/// What left the local disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::broker) struct Freed {
    /// Count of segments.
    pub segments: usize,
    /// Bytes of their batches.
    pub bytes: u64,
}

impl Partition {
    /// Deletes all records below `log_start`, which is not above the high watermark nor, where the tier keeps the
    /// partition, above the complete offset. Durable on return, and seen by nobody before; the files are still there.
    pub(in crate::broker) async fn move_log_start(
        self: &Arc<Self>,
        log_start: Offset,
        reason: DeletionReason,
    ) -> Result<(), Stopped> {
        let TopicPartition { topic, partition } = self.id;
        let event = Event::LogStartMoved { topic, partition, log_start, reason };
        let this = Arc::clone(self);
        let then = Box::new(move || this.log_starts_at(log_start));
        self.committer.event_then(event, then)?.await.map_err(|_| Stopped)
    }

    /// What [`Event::LogStartMoved`] does to the durable state.
    fn log_starts_at(&self, log_start: Offset) {
        trim_epochs(&mut self.turn().epochs, log_start);
        let ships = self.options().ships;
        self.move_watermarks(|marks| {
            marks.log_start = marks.log_start.max(log_start);
            marks.local_start = marks.local_start.max(log_start);
            if !ships {
                marks.complete = marks.local_start;
                marks.shipped = marks.local_start;
            }
        });
    }

    /// Leaves all records below `local_start`, which is not above the complete offset, to the tier. As
    /// [`Partition::move_log_start`].
    pub(in crate::broker) async fn move_local_start(
        self: &Arc<Self>,
        local_start: Offset,
    ) -> Result<(), Stopped> {
        let TopicPartition { topic, partition } = self.id;
        let event = Event::LocalStartMoved { topic, partition, local_start };
        let this = Arc::clone(self);
        let then = Box::new(move || {
            this.move_watermarks(|marks| marks.local_start = marks.local_start.max(local_start));
        });
        self.committer.event_then(event, then)?.await.map_err(|_| Stopped)
    }

    /// The segments on local disk, in order.
    pub(in crate::broker) fn segments(&self) -> Vec<SegmentInfo> {
        self.log.read().unwrap_or_else(PoisonError::into_inner).segments()
    }

    /// Bytes of batches on local disk.
    pub(in crate::broker) fn local_bytes(&self) -> u64 {
        self.log.read().unwrap_or_else(PoisonError::into_inner).bytes()
    }

    /// The ranges of acknowledged data that the last open found damaged or missing.
    #[cfg(test)]
    pub(in crate::broker) fn damage(&self) -> Vec<log::DamagedRange> {
        self.log.read().unwrap_or_else(PoisonError::into_inner).damage().to_vec()
    }

    /// Seals the active segment if it still ends at `end`, so that it can be deleted.
    pub(in crate::broker) fn roll_at(&self, end: Offset) -> Result<(), log::Error> {
        let mut log = self.log.write().unwrap_or_else(PoisonError::into_inner);
        let active_end =
            log.segments().last().filter(|last| !last.is_sealed).map(|it| it.next_offset);
        if active_end == Some(end) { log.roll() } else { Ok(()) }
    }

    /// Unlinks the sealed segments that are wholly below the local start. Blocking.
    ///
    /// # Errors
    /// Files may then be left, which the next start removes.
    pub(in crate::broker) fn delete_local(&self) -> Result<Freed, log::Error> {
        let _unlinking = self.unlinking();
        if self.gone.load(Ordering::SeqCst) {
            return Ok(Freed::default());
        }
        let local_start = self.watermarks().local_start;
        let detached = {
            let mut log = self.log.write().unwrap_or_else(PoisonError::into_inner);
            log.detach_below(local_start)?
        };
        let freed = Freed { segments: detached.len(), bytes: detached.bytes() };
        self.local_log.freed(freed.bytes);
        detached.unlink().map(|()| freed)
    }

    /// The directory is about to be removed, and perhaps to be another topic's: on return nothing is unlinked or written in
    /// there any more. Blocking.
    pub(in crate::broker) fn leave_disk(&self) {
        let _unlinking = self.unlinking();
        self.mark_gone();
        self.reader().leave();
        self.local_log.freed(self.local_bytes());
    }

    fn unlinking(&self) -> MutexGuard<'_, ()> {
        self.unlinking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

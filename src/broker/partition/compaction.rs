//! What the cleaner asks of a partition.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Partition;
use crate::broker::recovery::log_config;
use crate::broker::topic_config::CompactionOptions;
use crate::log::compaction::{By, Pass, Position, Replacement, Rules};
use crate::log::{self, SegmentInfo};
use crate::types::{Offset, in_words};

/// What a partition knows about its compaction.
#[derive(Debug)]
pub(in crate::broker) struct Compaction {
    /// Recovery does not write below it any more.
    checkpointed: AtomicI64,
    /// Held while a pass writes files.
    at_work: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    /// Everything below was compacted; not known before it was read.
    clean_upto: Option<Offset>,
    /// A pass failed, and so would the next.
    given_up: bool,
    /// Files were being replaced when there was no room for it. Their segments are in nobody's hands until that is done.
    unfinished: Option<Replacement>,
}

/// How much of a partition compaction would look at for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) struct Dirtiness {
    /// Bytes that were not compacted yet, of all bytes that may be, in millionths.
    pub(in crate::broker) millionths: u64,
    /// They are many enough or old enough.
    pub(in crate::broker) is_due: bool,
}

/// What a partition may compact now.
#[derive(Debug, Clone, Copy)]
struct Scope {
    clean_upto: Offset,
    upto: Offset,
    options: CompactionOptions,
}

impl Compaction {
    pub(super) fn new(checkpointed: Offset) -> Self {
        Self { checkpointed: AtomicI64::new(checkpointed), at_work: Mutex::default() }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // What it says is read again where it is not known.
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Partition {
    /// A checkpoint says that the segments are synced below `log_end`.
    pub(in crate::broker) fn checkpointed_upto(&self, log_end: Offset) {
        self.compaction.checkpointed.fetch_max(log_end, Ordering::SeqCst);
    }

    /// Waits until a pass has seen that the partition is gone. Blocking.
    pub(in crate::broker) fn await_compaction(&self) {
        drop(self.compaction.progress());
    }

    /// None if the topic is not compacted, a pass failed, or there is nothing new. Blocking: it may read a small file.
    pub(in crate::broker) fn dirtiness(&self, now_ms: i64) -> Option<Dirtiness> {
        let mut progress = self.compaction.progress();
        let (scope, segments) = self.scope(&mut progress, now_ms)?;
        let in_scope = |segment: &&SegmentInfo| segment.next_offset <= scope.upto;
        let dirty = |segment: &&SegmentInfo| segment.next_offset > scope.clean_upto;
        let all: u64 = segments.iter().filter(in_scope).map(|segment| segment.bytes).sum();
        let new = segments.iter().filter(in_scope).filter(dirty);
        let oldest_ms = new.clone().map(|segment| segment.max_timestamp_ms).find(|ms| *ms >= 0);
        let bytes: u64 = new.map(|segment| segment.bytes).sum();
        let millionths = bytes.saturating_mul(1_000_000) / all.max(1);
        let CompactionOptions { min_dirty_millionths, max_lag_ms, .. } = scope.options;
        let is_old = oldest_ms.is_some_and(|ms| now_ms.saturating_sub(ms) > max_lag_ms);
        let is_due = millionths >= min_dirty_millionths || is_old;
        Some(Dirtiness { millionths, is_due })
    }

    /// One pass. Whether it came to its end: a topic that is deleted meanwhile ends it, a broker that is `stopping`, and a
    /// segment that waits for the next checkpoint. Blocking: it reads and writes whole segments.
    ///
    /// # Errors
    /// [`log::Error`]: the partition is not compacted again before the next start. What was replaced is right by itself.
    pub(in crate::broker) fn compact(
        &self,
        now_ms: i64,
        stopping: &AtomicBool,
    ) -> Result<bool, log::Error> {
        let mut progress = self.compaction.progress();
        let result = self.pass(&mut progress, now_ms, stopping);
        match &result {
            Ok(true) => self.metrics.compacted(),
            Ok(false) => {}
            Err(_) if self.is_gone() => return Ok(false),
            Err(error) if error.is_no_room() => {
                tracing::warn!(topic = %self.topic, partition = %self.id, error = in_words(error), "compaction waits for room on the disk");
                return Ok(false);
            }
            Err(_) => {
                progress.given_up = true;
                self.metrics.compaction_failed();
            }
        }
        result
    }

    fn pass(
        &self,
        progress: &mut Progress,
        now_ms: i64,
        stopping: &AtomicBool,
    ) -> Result<bool, log::Error> {
        if let Some(replacement) = progress.unfinished.take() {
            self.install(progress, replacement)?;
        }
        let Some((scope, _)) = self.scope(progress, now_ms) else { return Ok(false) };
        let options = self.options();
        let marks = self.watermarks();
        let rules = Rules {
            by: if options.vdisk { By::Extent } else { By::Key },
            now_ms,
            delete_retention_ms: scope.options.delete_retention_ms,
            // The tier keeps every record, and readers go on from it to what is left here.
            drops_deletions: !options.ships && marks.log_start >= marks.local_start,
            producers: self.turn().producers.newest_batches(),
            config: log_config(&options),
        };
        let reader = self.reader();
        let Some(mut pass) = Pass::begin(&reader, scope.clean_upto, scope.upto, rules)? else {
            return Ok(false);
        };
        // The room of what is replaced is free when nobody reads it any more.
        drop(reader);
        let segment_bytes = log_config(&options).segment_bytes;
        while !self.is_gone() && !stopping.load(Ordering::SeqCst) {
            if !self.committer.has_room_for(segment_bytes.min(self.local_bytes())) {
                // A segment is there twice until it is replaced, and the reserve is not for that.
                return Ok(false);
            }
            let Some(replacement) = pass.step()? else {
                let clean_upto = pass.clean_upto();
                self.clean_position().write(clean_upto)?;
                progress.clean_upto = Some(clean_upto);
                return Ok(true);
            };
            let begun = self.log_mut().begin_replacement(&replacement);
            if !begun {
                replacement.discard()?;
                return Ok(false);
            }
            self.install(progress, replacement)?;
        }
        Ok(false)
    }

    /// Without the log's lock: appends go on.
    fn install(&self, progress: &mut Progress, replacement: Replacement) -> Result<(), log::Error> {
        let installed = match replacement.install() {
            Ok(installed) => installed,
            Err(error) => {
                progress.unfinished = Some(replacement);
                return Err(error);
            }
        };
        let (bytes, left) = replacement.bytes();
        self.log_mut().end_replacement(installed);
        self.metrics.replaced(bytes, left);
        self.local_log.appended(left);
        self.local_log.freed(bytes);
        Ok(())
    }

    /// What may be compacted, and all segments.
    fn scope(&self, progress: &mut Progress, now_ms: i64) -> Option<(Scope, Vec<SegmentInfo>)> {
        let topic = self.options();
        let options = topic
            .compaction
            .filter(|_| !progress.given_up && !self.is_gone() && self.offline.is_none())?;
        let clean_upto = match progress.clean_upto {
            Some(clean_upto) => clean_upto,
            None => match self.clean_position().read() {
                Ok(clean_upto) => *progress.clean_upto.insert(clean_upto),
                Err(error) => {
                    tracing::warn!(%error, partition = %self.id, "it is not known how far a partition was compacted");
                    return None;
                }
            },
        };
        let marks = self.watermarks();
        let checkpointed = self.compaction.checkpointed.load(Ordering::SeqCst);
        let mut limit = checkpointed.min(marks.high_watermark);
        if topic.ships {
            // A fragment that is sent again has the bytes that it had.
            limit = limit.min(marks.complete);
        }
        let segments = self.log.read().unwrap_or_else(PoisonError::into_inner).segments();
        let stable_ms = now_ms.saturating_sub(options.min_lag_ms);
        let may_go = |segment: &&SegmentInfo| {
            let is_old = options.min_lag_ms == 0 || segment.max_timestamp_ms <= stable_ms;
            segment.is_sealed && segment.next_offset <= limit && is_old
        };
        let upto = segments.iter().take_while(may_go).last()?.next_offset;
        (upto > clean_upto).then_some((Scope { clean_upto, upto, options }, segments))
    }

    fn clean_position(&self) -> Position {
        self.log.read().unwrap_or_else(PoisonError::into_inner).clean_position()
    }

    fn log_mut(&self) -> std::sync::RwLockWriteGuard<'_, log::Log> {
        self.log.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }
}

//! What the cleaner asks of a partition.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Partition;
use crate::broker::recovery::log_config;
use crate::broker::topic_config::CompactionOptions;
use crate::log::compaction::{By, Pass, Position, Replacement, Rules};
use crate::log::{self, SegmentInfo};
use crate::tier::InStep;
use crate::types::{Offset, in_words};

/// What a partition knows about its compaction.
#[derive(Debug)]
pub(in crate::broker) struct Compaction {
    /// Recovery does not write below it any more.
    checkpointed: AtomicI64,
    /// Held while a pass writes files.
    at_work: Mutex<Progress>,
    /// Counts the passes that may have left less of what is shipped, for the tier, which seals that anew.
    passes: watch::Sender<u64>,
    /// What the tier said last of that.
    in_step: Mutex<InStep>,
    /// Everything below was compacted, as far as this process knows.
    clean_upto: AtomicI64,
    given_up: AtomicBool,
}

#[derive(Debug, Default)]
struct Progress {
    /// Everything below was compacted; not known before it was read.
    clean_upto: Option<Offset>,
    /// Segments were replaced, and the tier was not told.
    replaced: bool,
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
        Self {
            checkpointed: AtomicI64::new(checkpointed),
            at_work: Mutex::default(),
            passes: watch::Sender::new(0),
            in_step: Mutex::default(),
            clean_upto: AtomicI64::new(Offset::MIN),
            given_up: AtomicBool::new(false),
        }
    }

    /// The fragments against the local log, if no pass changed that since they were compared.
    fn in_step(&self) -> Option<InStep> {
        let step = *self.in_step.lock().unwrap_or_else(PoisonError::into_inner);
        (step.pass > 0 && step.pass == *self.passes.borrow()).then_some(step)
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

    /// Rises with each pass of which the tier is to know.
    pub(in crate::broker) fn compacted(&self) -> watch::Receiver<u64> {
        self.compaction.passes.subscribe()
    }

    /// The tier has compared its fragments with the local log, and sealed anew what held more.
    pub(in crate::broker) fn fragments_in_step(&self, step: InStep) {
        *self.compaction.in_step.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    /// Up to where local segments of a topic that ships may go by age and size: what is compacted, and has gone to the tier
    /// like that, so that no more is kept there. Everything where nothing is compacted (any more).
    pub(in crate::broker) fn settled_by_compaction(&self) -> Offset {
        if self.options().compaction.is_none() || self.compaction.given_up.load(Ordering::SeqCst) {
            return Offset::MAX;
        }
        let clean_upto = self.compaction.clean_upto.load(Ordering::SeqCst);
        self.compaction.in_step().map_or(Offset::MIN, |step| step.upto.min(clean_upto))
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
        if std::mem::take(&mut progress.replaced) || matches!(result, Ok(true)) {
            self.compaction.passes.send_modify(|passes| *passes += 1);
        }
        match &result {
            Ok(true) => self.metrics.compacted(),
            Ok(false) => {}
            Err(_) if self.is_gone() => return Ok(false),
            Err(error) if error.is_no_room() => {
                tracing::warn!(topic = %self.topic, partition = %self.id, error = in_words(error), "compaction waits for room on the disk");
                return Ok(false);
            }
            Err(_) => {
                self.compaction.given_up.store(true, Ordering::SeqCst);
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
            // What the tier compared was what this replaces.
            self.compaction.passes.send_modify(|passes| *passes += 1);
        }
        let Some((scope, _)) = self.scope(progress, now_ms) else { return Ok(false) };
        let options = self.options();
        let marks = self.watermarks();
        let rules = Rules {
            by: if options.vdisk { By::Extent } else { By::Key },
            now_ms,
            delete_retention_ms: scope.options.delete_retention_ms,
            // Below the local start there are older records, in fragments that nobody compacts.
            drops_deletions: marks.log_start >= marks.local_start,
            kept_elsewhere: options.ships.then(|| self.same_in_tier(scope.clean_upto)),
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
                self.is_clean(progress, clean_upto);
                return Ok(true);
            };
            progress.replaced = true;
            let begun = self.log_mut().begin_replacement(&replacement);
            if !begun {
                replacement.discard()?;
                return Ok(false);
            }
            self.install(progress, replacement)?;
        }
        Ok(false)
    }

    /// The offset below which no fragment holds a record that the local log has not: `clean_upto`, or none.
    fn same_in_tier(&self, clean_upto: Offset) -> Offset {
        let is_same = |step: InStep| step.whole && step.upto >= clean_upto;
        if self.compaction.in_step().is_some_and(is_same) { clean_upto } else { Offset::MIN }
    }

    fn is_clean(&self, progress: &mut Progress, clean_upto: Offset) {
        progress.clean_upto = Some(clean_upto);
        self.compaction.clean_upto.store(clean_upto, Ordering::SeqCst);
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
        let given_up = self.compaction.given_up.load(Ordering::SeqCst);
        let is_served = !given_up && !self.is_gone() && self.offline.is_none();
        let options = topic.compaction.filter(|_| is_served)?;
        let clean_upto = match progress.clean_upto {
            Some(clean_upto) => clean_upto,
            None => match self.clean_position().read() {
                Ok(clean_upto) => {
                    self.is_clean(progress, clean_upto);
                    if topic.ships && clean_upto > self.watermarks().local_start {
                        // Whether the tier was in step is not known after a start.
                        self.compaction.passes.send_modify(|passes| *passes += 1);
                    }
                    clean_upto
                }
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

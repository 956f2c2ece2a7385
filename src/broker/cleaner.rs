//! The cleaner: compacts the topics whose `cleanup.policy` says so, one partition at a time.
//!
//! ```text
//!   every 15 s ---> of all partitions that are due, the dirtiest ---> Pass (log/compaction) ---> again, until none is
//!                       |                                               reads, writes, replaces segments
//!                       | dirty bytes / bytes >= min.cleanable.dirty.ratio
//!                       | or the oldest dirty segment is older than max.compaction.lag.ms
//! ```
//!
//! * A partition is compacted up to the first segment that is active, above the last checkpoint or the high watermark,
//!   younger than `min.compaction.lag.ms`, or, where the topic ships, not complete. How old a segment is says its highest
//!   timestamp, so `max.compaction.lag.ms` is kept up to the length of one segment.
//! * The work is on a blocking thread; neither the committer nor a reader waits for it but for the moment in which the
//!   segments change.
//! * The timer is all there is while no topic is compacted.
//! * A partition with damage, or with a disk that fails, is left alone until the next start; one that finds no room is
//!   tried again. A pass begins no segment for which there is no room beside the reserve.
//!
//! # Topics that ship
//!
//! ```text
//!   Pass over local segments -> the tier compares -> fragments that hold more are sealed anew -> "in step"
//!                                                    (`tier/generations`)                         |
//!         local retention takes what is compacted and in step <----------------------------------+
//!         the next pass may drop deletions of what was in step when it began <-------------------+
//! ```
//!
//! * What a deletion, or a zeroing of a vdisk, deletes may still be in a fragment, and a rebuild, or a reader that begins
//!   below the local start, would get it. So a deletion goes only where the pass begins in step with **all** fragments that
//!   are not deleted, and where it lies below what was compacted before: then what it deletes left the local log in an
//!   earlier pass, and the fragments with it. What goes in the pass itself counts as there for zeroings. A pass that was
//!   broken off counts as one, for it may have left less.
//! * Where fragments begin below the local start (after local retention, early deletion or a rebuild) nothing can be
//!   compared with them: they stay as they are, and no deletion goes any more.
//! * How far the tier is in step is not stored: a start has it compared again. A fragment that cannot be sealed anew, the
//!   newest one until there is a newer, and servers that are away keep deletions, and that part of the local log, in place.
//! * Early deletion under the limit of the local log looks at none of this, nor does local retention where compaction was
//!   given up: what goes stays in the tier as it was shipped, with deletions that count, only less compact.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::broker::Broker;
use super::partition::Partition;
use crate::{clock, task};

/// Kafka: `log.cleaner.backoff.ms`.
const INTERVAL: Duration = Duration::from_secs(15);

/// Lets a broker stop while a pass is at work.
#[derive(Debug, Default)]
pub(super) struct Cleaner {
    stopping: AtomicBool,
    /// Held during a pass.
    at_work: Mutex<()>,
}

impl Cleaner {
    /// No pass is at work on return, and none begins any more. Waits for a segment that is being written. Blocking.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        drop(self.at_work.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn compact_dirtiest(&self, partitions: &[Arc<Partition>], now_ms: i64) -> bool {
        let _at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stopping.load(Ordering::SeqCst) {
            return false;
        }
        let due = partitions.iter().filter_map(|partition| {
            let dirtiness = partition.dirtiness(now_ms).filter(|dirtiness| dirtiness.is_due)?;
            Some((dirtiness.millionths, partition))
        });
        let Some((_, partition)) = due.max_by_key(|(millionths, _)| *millionths) else {
            return false;
        };
        match partition.compact(now_ms, &self.stopping) {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    partition = %partition.id(),
                    topic = %partition.topic(),
                    "a partition cannot be compacted, and is left as it is until the next start"
                );
                true
            }
        }
    }
}

/// Starts the task. It ends with the broker.
pub(super) fn start(broker: &Arc<Broker>) {
    let broker = Arc::downgrade(broker);
    drop(task::spawn("cleaner", async move {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let Some(broker) = broker.upgrade() else { return };
            while broker.compact(clock::wall_ms()).await {}
        }
    }));
}

impl Broker {
    /// Compacts the dirtiest of the partitions that are due at `now_ms`. Whether there was one, and it was compacted.
    pub async fn compact(self: &Arc<Self>, now_ms: i64) -> bool {
        let topics = self.topics().into_iter().filter(|topic| topic.options().compaction.is_some());
        let partitions: Vec<Arc<Partition>> =
            topics.flat_map(|topic| topic.partitions().to_vec()).collect();
        if partitions.is_empty() {
            return false;
        }
        let cleaner = Arc::clone(&self.cleaner);
        let work =
            tokio::task::spawn_blocking(move || cleaner.compact_dirtiest(&partitions, now_ms));
        // It does not panic; a runtime that ends drops it.
        work.await.unwrap_or(false)
    }
}

#[cfg(test)]
mod shipping_tests;
#[cfg(test)]
mod tests;

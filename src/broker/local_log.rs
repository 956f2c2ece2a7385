//! What segments and commit log take of the disk, and how much they may.
//!
//! ```text
//!   0 ········ 50 % ·································· 95 % ··· limit
//!              complete segments are deleted early,       nothing is appended
//!              oldest first over all partitions
//! ```
//!
//! Counted are the bytes of batches in all segments and the files of the commit log; indexes (some hundredths) are not.
//! Nothing is ever dropped to stay within the limit: early deletion takes what the tier holds complete, and what no tier
//! holds fills the disk until appends are refused. TLog clients wait then, Kafka producers are told to try again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use super::metrics::Metrics;

/// Complete segments are deleted early from this share of the limit on, and down to it.
const EARLY_PERCENT: u64 = 50;

/// Nothing is appended from this share of the limit on, until there is some room again.
const FULL_PERCENT: u64 = 95;
const ROOM_PERCENT: u64 = 90;

/// The least that the limit is where nobody gave one: a smaller disk is guarded by its own end.
const LEAST_LIMIT: u64 = 1 << 30;

/// The most that it is.
const MOST_LIMIT: u64 = 100 << 30;

/// The limit where none is given: half of what would be free without the local log. Asked anew at each start, so that it
/// follows a disk that others fill.
pub(super) fn default_limit(free_bytes: u64, taken_bytes: u64) -> u64 {
    (free_bytes.saturating_add(taken_bytes) / 2).clamp(LEAST_LIMIT, MOST_LIMIT)
}

/// How full the local log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalLogUse {
    /// Bytes of segments and commit log.
    pub bytes: u64,
    /// What they may take.
    pub limit_bytes: u64,
    /// Whether appends are refused.
    pub is_full: bool,
}

impl LocalLogUse {
    fn has_reached(&self, percent: u64) -> bool {
        u128::from(self.bytes) * 100 >= u128::from(self.limit_bytes) * u128::from(percent)
    }

    /// Whether complete segments are deleted before their retention says so.
    #[must_use]
    pub fn deletes_early(&self) -> bool {
        self.has_reached(EARLY_PERCENT)
    }

    /// Bytes that are to be deleted early.
    #[must_use]
    pub(super) fn early_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.limit_bytes / 100 * EARLY_PERCENT)
    }
}

/// The account of the local log: shared by all partitions and the committer.
#[derive(Debug)]
pub(super) struct LocalLog {
    limit_bytes: u64,
    segments: AtomicU64,
    commit_log: AtomicU64,
    /// With `segments` and `commit_log` in one order for all threads: who changes one sees the other's change, or is seen.
    is_full: AtomicBool,
    /// Early deletion was asked for and has not looked yet.
    asked: AtomicBool,
    wanted: Notify,
    metrics: Metrics,
}

impl LocalLog {
    pub(super) fn new(limit_bytes: u64, segments: u64, commit_log: u64, metrics: Metrics) -> Self {
        metrics.local_log_limit_is(limit_bytes);
        let this = Self {
            limit_bytes,
            segments: AtomicU64::new(segments),
            commit_log: AtomicU64::new(commit_log),
            is_full: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            wanted: Notify::new(),
            metrics,
        };
        this.changed();
        this
    }

    pub(super) fn usage(&self) -> LocalLogUse {
        let is_full = self.is_full.load(Ordering::SeqCst);
        let bytes = self.segments.load(Ordering::SeqCst) + self.commit_log.load(Ordering::SeqCst);
        LocalLogUse { bytes, limit_bytes: self.limit_bytes, is_full }
    }

    /// The limit, where it leaves no room for another batch.
    pub(super) fn refuses(&self) -> Option<u64> {
        self.is_full.load(Ordering::Relaxed).then_some(self.limit_bytes)
    }

    pub(super) fn appended(&self, bytes: u64) {
        self.segments.fetch_add(bytes, Ordering::SeqCst);
        self.changed();
    }

    pub(super) fn freed(&self, bytes: u64) {
        // Everything that is freed was counted before.
        self.segments.fetch_sub(bytes, Ordering::SeqCst);
        self.changed();
    }

    pub(super) fn commit_log_is(&self, bytes: u64) {
        self.commit_log.store(bytes, Ordering::SeqCst);
        self.changed();
    }

    fn changed(&self) {
        let mut now = self.usage();
        self.metrics.local_log_is(now.bytes);
        // Looked at again behind each change: who freed something meanwhile may have looked before it.
        loop {
            let full = now.has_reached(if now.is_full { ROOM_PERCENT } else { FULL_PERCENT });
            if full == now.is_full {
                break;
            }
            if self.is_full.swap(full, Ordering::SeqCst) != full {
                self.say(full, now);
            }
            now = self.usage();
        }
        if now.deletes_early() && !self.asked.swap(true, Ordering::Relaxed) {
            self.wanted.notify_one();
        }
    }

    fn say(&self, full: bool, LocalLogUse { bytes, limit_bytes, .. }: LocalLogUse) {
        if full {
            tracing::error!(
                bytes,
                limit_bytes,
                "the local log is full: nothing is appended until there is room; shorten the retention of topics that do not ship, delete records or topics, or raise -local-log-limit"
            );
        } else {
            tracing::info!(bytes, limit_bytes, "the local log has room again");
        }
    }

    /// Waits until complete segments are to be deleted early. One waits.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub(super) async fn early_deletion(&self) {
        self.wanted.notified().await;
    }

    /// Whoever comes above the share from here on asks again.
    pub(super) fn looked(&self) {
        self.asked.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn shares_of_the_limit_ask_for_deletion_and_refuse() {
        let metrics = Metrics::new(&mut Registry::default());
        let log = LocalLog::new(1000, 0, 100, metrics);
        log.appended(399);
        assert!(!log.usage().deletes_early());
        log.commit_log_is(101);
        assert!(log.usage().deletes_early() && log.refuses().is_none());
        assert!(log.asked.load(Ordering::Relaxed));
        log.appended(449);
        assert_eq!((log.usage().bytes, log.refuses()), (949, None));
        log.appended(1);
        assert_eq!((log.usage().early_bytes(), log.refuses()), (450, Some(1000)));
        // Not at each byte that comes and goes.
        log.freed(50);
        assert_eq!((log.usage().bytes, log.refuses()), (900, Some(1000)));
        log.freed(1);
        assert_eq!(log.refuses(), None);
    }

    #[test]
    fn bytes_that_come_and_go_on_two_threads_leave_the_right_answer() {
        let metrics = Metrics::new(&mut Registry::default());
        let log = LocalLog::new(1000, 899, 0, metrics);
        for _ in 0..200 {
            std::thread::scope(|scope| {
                scope.spawn(|| log.appended(61));
                scope.spawn(|| log.appended(40));
            });
            assert_eq!(log.refuses(), Some(1000));
            std::thread::scope(|scope| {
                scope.spawn(|| log.freed(96));
                scope.spawn(|| log.appended(1));
                scope.spawn(|| log.freed(6));
            });
            assert_eq!(log.refuses(), None, "{:?}", log.usage());
        }
    }

    #[test]
    fn a_limit_that_nobody_gave_is_half_of_the_room_within_bounds() {
        let gib = 1 << 30;
        assert_eq!(default_limit(30 * gib, 10 * gib), 20 * gib);
        assert_eq!(default_limit(0, 0), gib);
        assert_eq!(default_limit(u64::MAX, 1), 100 * gib);
    }
}

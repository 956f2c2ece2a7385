//! What the broker counts.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::room::{Look, State};
use super::unshipped::Lag;

/// Metrics of the broker and its commit log, an event-named method each.
#[derive(Debug, Clone)]
pub struct Metrics {
    sync_seconds: Histogram,
    commit_batches: Histogram,
    append_bytes: Counter,
    append_batches: Counter,
    checkpoints: Counter,
    mended_ranges: Counter,
    scrubbed_bytes: Counter,
    scrub_damage: Counter,
    scrub_pass_seconds: Gauge,
    partitions: Gauge,
    offline_partitions: Gauge,
    compactions: Counter,
    compacted_bytes: Counter,
    kept_bytes: Counter,
    failed_compactions: Counter,
    disk_free_bytes: Gauge,
    disk_reserve_bytes: Gauge,
    disk_full: Gauge,
    appends_refused: Counter,
    ship_lag_bytes: Gauge,
    ship_lag_seconds: Gauge,
    deleted_segments: Family<Deletion, Counter>,
    deleted_bytes: Family<Deletion, Counter>,
    local_log_bytes: Gauge,
    local_log_limit_bytes: Gauge,
}

/// Why segments left the local disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Reason {
    /// Their records were deleted by a client's request.
    Requested,
    /// Their records were older than the topic keeps them.
    Age,
    /// The topic held more than it may.
    Size,
    /// The tier has them, and the topic keeps no more locally.
    LocalRetention,
    /// The tier has them, and the local log took much of its limit.
    LocalLimit,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Deletion {
    reason: Reason,
}

impl Metrics {
    /// Registers all of them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            sync_seconds: Histogram::new(exponential_buckets(50e-6, 2.0, 16)),
            commit_batches: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            append_bytes: Counter::default(),
            append_batches: Counter::default(),
            checkpoints: Counter::default(),
            mended_ranges: Counter::default(),
            scrubbed_bytes: Counter::default(),
            scrub_damage: Counter::default(),
            scrub_pass_seconds: Gauge::default(),
            partitions: Gauge::default(),
            offline_partitions: Gauge::default(),
            deleted_segments: Family::default(),
            deleted_bytes: Family::default(),
            local_log_bytes: Gauge::default(),
            local_log_limit_bytes: Gauge::default(),
            disk_free_bytes: Gauge::default(),
            disk_reserve_bytes: Gauge::default(),
            disk_full: Gauge::default(),
            appends_refused: Counter::default(),
            ship_lag_bytes: Gauge::default(),
            ship_lag_seconds: Gauge::default(),
            compactions: Counter::default(),
            compacted_bytes: Counter::default(),
            kept_bytes: Counter::default(),
            failed_compactions: Counter::default(),
        };
        registry.register(
            "wal_sync_duration_seconds",
            "Time of one commit: write and sync",
            metrics.sync_seconds.clone(),
        );
        registry.register(
            "wal_commit_batches",
            "Entries in one commit",
            metrics.commit_batches.clone(),
        );
        registry.register(
            "log_append_bytes",
            "Bytes of record batches appended",
            metrics.append_bytes.clone(),
        );
        registry.register(
            "log_append_batches",
            "Record batches appended",
            metrics.append_batches.clone(),
        );
        registry.register("wal_checkpoints", "Checkpoints written", metrics.checkpoints.clone());
        registry.register("broker_partitions", "Partitions served", metrics.partitions.clone());
        registry.register(
            "broker_offline_partitions",
            "Partitions whose directory could not be opened; `/readyz` names them",
            metrics.offline_partitions.clone(),
        );
        metrics.register_local_log(registry);
        metrics.register_disk(registry);
        metrics
    }

    fn register_local_log(&self, registry: &mut Registry) {
        registry.register(
            "log_mended_ranges",
            "Damaged ranges of local data that were put right from the shard servers",
            self.mended_ranges.clone(),
        );
        registry.register(
            "log_scrubbed_bytes",
            "Bytes of sealed segments that the scrubber read again",
            self.scrubbed_bytes.clone(),
        );
        registry.register(
            "log_scrub_damage",
            "Damaged ranges, sidecars, indexes and unreadable segments that the scrubber found, mended or not",
            self.scrub_damage.clone(),
        );
        registry.register(
            "log_scrub_last_pass_timestamp_seconds",
            "When the scrubber last had looked at every sealed segment, seconds since 1970; 0 before the first time",
            self.scrub_pass_seconds.clone(),
        );
        registry.register(
            "log_deleted_segments",
            "Segments deleted from the local disk, by reason",
            self.deleted_segments.clone(),
        );
        registry.register(
            "log_deleted_bytes",
            "Bytes of record batches deleted from the local disk, by reason",
            self.deleted_bytes.clone(),
        );
        registry.register(
            "local_log_bytes",
            "Bytes of segments and commit log",
            self.local_log_bytes.clone(),
        );
        registry.register(
            "local_log_limit_bytes",
            "Bytes that segments and commit log may take",
            self.local_log_limit_bytes.clone(),
        );
        registry.register(
            "log_compactions",
            "Passes of compaction over a partition that came to their end",
            self.compactions.clone(),
        );
        registry.register(
            "log_compaction_replaced_bytes",
            "Bytes of segments that compaction replaced",
            self.compacted_bytes.clone(),
        );
        registry.register(
            "log_compaction_written_bytes",
            "Bytes of the segments that took their place",
            self.kept_bytes.clone(),
        );
        registry.register(
            "log_failed_compactions",
            "Passes of compaction that failed; the partition is left alone until the next start",
            self.failed_compactions.clone(),
        );
    }

    fn register_disk(&self, registry: &mut Registry) {
        registry.register(
            "disk_free_bytes",
            "Free on the file system of the data directory, the reserve not counted",
            self.disk_free_bytes.clone(),
        );
        registry.register(
            "disk_reserve_bytes",
            "Held back there for what must not fail on a full disk",
            self.disk_reserve_bytes.clone(),
        );
        registry.register(
            "disk_full",
            "1 while appends and new topics are refused for want of room or inodes, else 0",
            self.disk_full.clone(),
        );
        registry.register(
            "log_appends_refused_disk_full",
            "Times that an append was refused, or put off, for want of room",
            self.appends_refused.clone(),
        );
        registry.register(
            "ship_lag_bytes",
            "Record batches of shipping topics that are not on the shard servers yet",
            self.ship_lag_bytes.clone(),
        );
        registry.register(
            "ship_lag_seconds",
            "Age of the oldest of them",
            self.ship_lag_seconds.clone(),
        );
    }

    pub(super) fn committed(&self, entries: usize, took: Duration) {
        self.sync_seconds.observe(took.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a count for a histogram")]
        self.commit_batches.observe(entries as f64);
    }

    pub(super) fn appended(&self, bytes: usize) {
        self.append_bytes.inc_by(bytes as u64);
        self.append_batches.inc();
    }

    pub(super) fn checkpointed(&self) {
        self.checkpoints.inc();
    }

    pub(super) fn mended(&self) {
        self.mended_ranges.inc();
    }

    pub(super) fn scrubbed(&self, bytes: u64) {
        self.scrubbed_bytes.inc_by(bytes);
    }

    pub(super) fn scrub_found(&self) {
        self.scrub_damage.inc();
    }

    pub(super) fn scrubbed_all(&self, now_ms: i64) {
        self.scrub_pass_seconds.set(now_ms / 1000);
    }

    pub(super) fn deleted(&self, reason: Reason, segments: usize, bytes: u64) {
        self.deleted_segments.get_or_create(&Deletion { reason }).inc_by(segments as u64);
        self.deleted_bytes.get_or_create(&Deletion { reason }).inc_by(bytes);
    }

    pub(super) fn local_log_is(&self, bytes: u64) {
        self.local_log_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn local_log_limit_is(&self, bytes: u64) {
        self.local_log_limit_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn disk_is(&self, look: Option<Look>, state: State) {
        let gauge = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        if let Some(look) = look {
            self.disk_free_bytes.set(gauge(look.space.free_bytes));
            self.disk_reserve_bytes.set(gauge(look.reserve_bytes - look.missing_bytes));
        }
        self.disk_full.set(i64::from(state != State::Room));
    }

    pub(super) fn ship_lag_is(&self, lag: Lag, now_ms: i64) {
        self.ship_lag_bytes.set(i64::try_from(lag.bytes).unwrap_or(i64::MAX));
        let age_ms = lag.since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
        self.ship_lag_seconds.set(age_ms.max(0) / 1000);
    }

    pub(super) fn append_refused(&self) {
        self.appends_refused.inc();
    }

    pub(super) fn compacted(&self) {
        self.compactions.inc();
    }

    pub(super) fn replaced(&self, bytes: u64, by: u64) {
        self.compacted_bytes.inc_by(bytes);
        self.kept_bytes.inc_by(by);
    }

    pub(super) fn compaction_failed(&self) {
        self.failed_compactions.inc();
    }

    pub(super) fn offline_are(&self, count: usize) {
        self.offline_partitions.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn partitions_are(&self, count: usize) {
        self.partitions.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

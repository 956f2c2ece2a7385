//! What the broker counts.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Metrics of the broker and its commit log, an event-named method each.
#[derive(Debug, Clone)]
pub struct Metrics {
    sync_seconds: Histogram,
    commit_batches: Histogram,
    append_bytes: Counter,
    append_batches: Counter,
    checkpoints: Counter,
    mended_ranges: Counter,
    partitions: Gauge,
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
            partitions: Gauge::default(),
            deleted_segments: Family::default(),
            deleted_bytes: Family::default(),
            local_log_bytes: Gauge::default(),
            local_log_limit_bytes: Gauge::default(),
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
        registry.register(
            "log_mended_ranges",
            "Damaged ranges of local data that were put right from the shard servers",
            metrics.mended_ranges.clone(),
        );
        registry.register(
            "log_deleted_segments",
            "Segments deleted from the local disk, by reason",
            metrics.deleted_segments.clone(),
        );
        registry.register(
            "log_deleted_bytes",
            "Bytes of record batches deleted from the local disk, by reason",
            metrics.deleted_bytes.clone(),
        );
        registry.register(
            "local_log_bytes",
            "Bytes of segments and commit log",
            metrics.local_log_bytes.clone(),
        );
        registry.register(
            "local_log_limit_bytes",
            "Bytes that segments and commit log may take",
            metrics.local_log_limit_bytes.clone(),
        );
        registry.register("broker_partitions", "Partitions served", metrics.partitions.clone());
        metrics
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

    pub(super) fn partitions_are(&self, count: usize) {
        self.partitions.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

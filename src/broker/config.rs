//! Settings of the broker.

use std::path::PathBuf;
use std::time::Duration;

use super::scrubber::ScrubConfig;
use crate::types::limits;

/// Settings of the broker.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything local lies below it.
    pub data_dir: PathBuf,
    /// Kafka's node id of this broker.
    pub node_id: i32,
    /// Partitions of a topic that does not say. Kafka: `num.partitions`.
    pub default_partitions: i32,
    /// Whether a client's look at an unknown topic creates it. Kafka: `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// Whether room is held back on the disk: without it a full disk is met with what is left there alone.
    pub keep_reserve: bool,
    /// Bytes that requests and queues may hold together.
    pub memory_budget_bytes: usize,
    /// Idempotent producers that are remembered beside the first of each partition, [`limits::PRODUCERS`] at most.
    pub producers: usize,
    /// A checkpoint is written when so much was committed since the last.
    pub checkpoint_bytes: u64,
    /// Nothing is committed while the commit log above the last checkpoint is longer: it bounds recovery.
    pub commit_log_bytes: u64,
    /// Size at which the commit log goes on in another file.
    pub commit_log_file_bytes: u64,
    /// Segment files that are open at the same time, apart from those with writes that a checkpoint has not synced yet,
    /// and those of deleted or replaced segments that somebody still reads.
    pub open_segments: usize,
    /// What segments and commit log may take of the disk; none: a share of what the disk has.
    pub local_log_limit_bytes: Option<u64>,
    /// How often the retention of all topics is looked at. Kafka: `log.retention.check.interval.ms`.
    pub retention_interval: Duration,
    /// How sealed segments are read again.
    pub scrub: ScrubConfig,
}

impl Config {
    /// Kafka's defaults where Kafka has the setting.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            node_id: 1,
            default_partitions: 1,
            auto_create_topics: true,
            keep_reserve: true,
            memory_budget_bytes: 512 << 20,
            producers: limits::PRODUCERS,
            checkpoint_bytes: 256 << 20,
            commit_log_bytes: 1 << 30,
            commit_log_file_bytes: 64 << 20,
            open_segments: 4096,
            local_log_limit_bytes: None,
            retention_interval: Duration::from_secs(300),
            scrub: ScrubConfig {
                bytes_per_second: 16 << 20,
                interval: Duration::from_secs(7 * 24 * 3600),
            },
        }
    }
}

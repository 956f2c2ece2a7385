//! What a log can be told.

/// Largest segment: positions in Kafka's index files are signed 32-bit numbers.
const MAX_SEGMENT_BYTES: u64 = i32::MAX as u64;

/// Settings of one [`Log`](super::Log).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// A batch that would make the active segment longer than this begins a new one. A longer batch gets a segment
    /// of its own. Bytes; 1 to 2^31 - 1, larger values count as that. Kafka: `segment.bytes`, default 1 GiB.
    pub segment_bytes: u64,
    /// A batch that comes later than this after the first of the active segment begins a new one. Milliseconds between
    /// appends, whatever the batches are stamped with: Kafka goes by the stamps, and so a client could have a segment
    /// made, and a file opened, for each of its batches. Kafka: `segment.ms`, default 7 days.
    pub segment_ms: i64,
    /// Bytes of batches between two index entries. Kafka: `index.interval.bytes`, default 4096.
    pub index_interval_bytes: u32,
}

impl Config {
    pub(super) fn fits(&self, segment: u64, batch: u64) -> bool {
        segment + batch <= self.segment_bytes.min(MAX_SEGMENT_BYTES)
    }

    /// Whether a segment is too old for a batch of `now_ms` if its first one came at `begun_ms`.
    pub(super) fn is_old(&self, begun_ms: i64, now_ms: i64) -> bool {
        now_ms.saturating_sub(begun_ms) > self.segment_ms
    }
}

impl Default for Config {
    fn default() -> Self {
        let segment_ms = 7 * 24 * 60 * 60 * 1000;
        Self { segment_bytes: 1 << 30, segment_ms, index_interval_bytes: 4096 }
    }
}

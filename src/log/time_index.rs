//! Entries of `.timeindex` files: Kafka's 12 bytes, big-endian.

use super::index::Entry;

/// Among the batches up to where this entry was written, `timestamp` is the highest, and the first to have it is the
/// batch whose last offset is `base + relative_offset`. So every batch before that one is older than `timestamp`.
/// Source: Kafka's `TimeIndex`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeEntry {
    pub(super) timestamp: i64,
    pub(super) relative_offset: u32,
}

impl Entry for TimeEntry {
    const BYTES: usize = 12;

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.timestamp.to_be_bytes());
        out.extend(self.relative_offset.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (timestamp, rest) = bytes.split_first_chunk()?;
        Some(Self {
            timestamp: i64::from_be_bytes(*timestamp),
            relative_offset: u32::from_be_bytes(rest.try_into().ok()?),
        })
    }

    fn precedes(&self, next: &Self) -> bool {
        self.timestamp < next.timestamp && self.relative_offset < next.relative_offset
    }
}

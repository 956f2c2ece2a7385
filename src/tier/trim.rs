//! The front of a partition's fragments: what they take, for who decides how much of it stays.

use std::sync::Arc;

use super::fetcher::FetchError;
use super::records::ManifestEntry;
use super::tier::{Tier, TopicInfo};
use crate::types::{Offset, TopicPartition};

/// A stored fragment, as retention sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentSpan {
    /// First offset behind it.
    pub next_offset: Offset,
    /// Bytes of its batches and trailer; what its shards take is more by the parity.
    pub bytes: u64,
    /// Highest timestamp of its records, ms since 1970; -1 without one.
    pub max_timestamp_ms: i64,
    /// When its newest record was appended, ms since 1970.
    pub appended_ms: i64,
}

impl From<&ManifestEntry> for FragmentSpan {
    fn from(entry: &ManifestEntry) -> Self {
        Self {
            next_offset: entry.next_offset(),
            bytes: entry.body_bytes,
            max_timestamp_ms: entry.max_timestamp_ms,
            appended_ms: entry.last_append_ms,
        }
    }
}

impl Tier {
    /// The fragments of a partition in order.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] where they are not known and too few shard servers answer.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn fragments(
        self: &Arc<Self>,
        topic: &TopicInfo,
        id: TopicPartition,
    ) -> Result<Vec<FragmentSpan>, FetchError> {
        let fragments = self.fragments_of(topic, id);
        let spans = fragments
            .look(&self.core, |manifest| Some(manifest.chain().map(FragmentSpan::from).collect()))
            .await?;
        Ok(spans.unwrap_or_default())
    }
}

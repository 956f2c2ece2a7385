//! The front of a partition's fragments: what they take, for who decides how much of it stays, and its removal.
//!
//! ```text
//!   log start durable here -> entry "deleting" on all its servers -> its shards removed
//! ```
//!
//! The mark is what counts: a rebuild begins the log behind what is marked, whether its shards are gone or not, and nobody
//! reads them. It is put under the fence, so that a broker which lost the partition marks nothing. Entries stay: the chain of
//! hashes goes through them, and their numbers are never used again. Whole fragments go; one that holds the log start stays,
//! and a rebuild begins with it. Shards of all generations go, those of attempts to seal it anew that were cut short too; while
//! a fragment is being sealed anew it is left to a later call.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::catalogue::Fragments;
use super::fetcher::{FetchError, shard_name};
use super::generations::ATTEMPTS;
use super::local::Local;
use super::put;
use super::records::{EntryState, ManifestEntry};
use super::store::{ShardName, StoreError};
use super::tier::{Core, Tier, TopicInfo, is_compacted};
use crate::types::{Offset, TopicPartition, in_words};

/// How long one fragment that is sealed anew may hold up the deletion; it goes with a later call then.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// The fragments of a partition in order, without those that are being deleted.
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
        let there = fragments.look(&self.core, |manifest| {
            let there = manifest.chain().filter(|entry| entry.state != EntryState::Deleting);
            Some(there.map(FragmentSpan::from).collect())
        });
        Ok(there.await?.unwrap_or_default())
    }

    /// Removes the fragments that lie wholly below `log_start`, which is durable here. What servers that are away keep is
    /// removed by a later call, as is everything behind it. Returns how many fragments went.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] where the fragments are not known and too few shard servers answer.
    ///
    /// # Cancel safety
    /// A later call goes on.
    pub async fn trim(
        self: &Arc<Self>,
        topic: &TopicInfo,
        local: Arc<dyn Local>,
        log_start: Offset,
    ) -> Result<usize, FetchError> {
        let fragments = self.fragments_of(topic, local.id());
        let swept = fragments.swept();
        if swept >= log_start {
            return Ok(0);
        }
        let below = fragments.look(&self.core, |manifest| {
            let below = manifest.chain().take_while(|entry| entry.next_offset() <= log_start);
            Some(below.filter(|entry| entry.next_offset() > swept).cloned().collect::<Vec<_>>())
        });
        let mut removed = 0;
        for entry in below.await?.unwrap_or_default() {
            let end = entry.next_offset();
            // It is sealed anew just now, for which the servers may be waited for.
            let change = tokio::time::timeout(PATIENCE, fragments.changing()).await;
            let Ok(_change) = change else { return Ok(removed) };
            // As it is by now: a mark on an older generation would be passed over.
            let entry = fragments.numbered(entry.number).unwrap_or(entry);
            let tried = attempts(topic, &entry);
            if let Err(error) = remove(&self.core, &fragments, &local, entry, tried).await {
                let why = in_words(&error);
                tracing::info!(partition = %local.id(), upto = end, why, "a deleted fragment waits for its shard servers");
                return Ok(removed);
            }
            fragments.swept_upto(end);
            removed += 1;
        }
        fragments.swept_upto(log_start);
        Ok(removed)
    }
}

/// Generations that may have shards: attempts to seal it anew may have been cut short.
fn attempts(topic: &TopicInfo, entry: &ManifestEntry) -> RangeInclusive<u32> {
    if entry.generation == 0 && !is_compacted(&topic.record) {
        return 0..=0;
    }
    entry.generation.saturating_sub(ATTEMPTS)..=entry.generation.saturating_add(ATTEMPTS)
}

async fn remove(
    core: &Arc<Core>,
    fragments: &Arc<Fragments>,
    local: &Arc<dyn Local>,
    entry: ManifestEntry,
    generations: RangeInclusive<u32>,
) -> Result<(), StoreError> {
    let id = fragments.id;
    let refused = |reason: String| StoreError::Refused { server: String::new(), reason };
    // Of each shard, the place of its server; none where that one is not configured any more.
    let places: Vec<_> = entry.servers.iter().map(|name| core.servers.by_name(name)).collect();
    let known = places.iter().flatten().count();
    if known < core.config.ship_quorum() {
        // Too few would know of the mark for every rebuild to see it.
        return Err(refused(format!("only {known} of its servers are configured")));
    }
    let entry = if entry.state == EntryState::Deleting {
        entry
    } else {
        let revision = entry.revision.saturating_add(1);
        let marked = ManifestEntry { state: EntryState::Deleting, revision, ..entry };
        let bytes = marked.encode(id, &core.config.keys);
        let bytes = Bytes::from(bytes.map_err(|error| refused(in_words(&error)))?);
        let writer = put::writer(core, &**local);
        for place in places.iter().flatten() {
            let put = core.servers.call(*place, |store| {
                store.put_entry(id, writer, marked.number, bytes.clone(), None)
            });
            put.await?;
        }
        fragments.insert(marked.clone());
        marked
    };
    for (index, place) in places.into_iter().enumerate() {
        let Some(place) = place else { continue };
        for generation in generations.clone() {
            let name = ShardName { generation, ..shard_name(fragments, &entry, index) };
            core.servers.call(place, |store| store.remove_shard(name)).await?;
        }
    }
    Ok(())
}

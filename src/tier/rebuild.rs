//! What a new data directory learns from the shard servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};

use super::catalogue::{Fragments, Listing};
use super::error::RecordError;
use super::fetcher::FetchError;
use super::local::{Head, Run};
use super::records::{EntryState, ManifestEntry, TopicRecord};
use super::shipper::{fold, until_fetched};
use super::tier::{Core, OpenError};
use super::waiting::{LISTING, Progress, Waiting};
use crate::clock;
use crate::log::{ProducerRoom, ProducerStates};
use crate::types::{CommitNumber, LeaderEpoch, Offset, TopicId, TopicPartition, in_words};

/// Partitions that are read at the same time.
const PARTITIONS_AT_ONCE: usize = 16;

/// A lost data directory may have put shards under numbers that no entry names. No number so near above those that were
/// seen is used again: a number has one set of bytes for ever.
const NUMBERS_LEFT_OUT: u64 = 1024;

/// Everything that the servers hold, for a new data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Topics that were not deleted, by id.
    pub topics: Vec<RecoveredTopic>,
    /// Highest commit number in any fragment: the commit log goes on above it.
    pub last_commit: CommitNumber,
    /// Highest producer id in any fragment.
    pub highest_producer_id: Option<i64>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredTopic {
    /// Its record.
    pub record: TopicRecord,
    /// Its partitions, by index.
    pub partitions: Vec<RecoveredPartition>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredPartition {
    /// First offset that can be read.
    pub log_start: Offset,
    /// The offset behind the last one; nothing is held locally below it.
    pub shipped: Offset,
    /// Equal to `shipped`: there is no local copy that would have to wait for more shards.
    pub complete: Offset,
    /// The epoch to write in next: above every one that was seen.
    pub epoch: LeaderEpoch,
    /// Where each epoch began.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// Sequence runs of a vdisk.
    pub runs: Vec<Run>,
    /// Idempotent producers as of `shipped`.
    pub producers: ProducerStates,
    /// The newest fragment.
    pub head: Option<Head>,
    /// The next fragment gets a number above this one.
    pub last_number: Option<u64>,
    /// Ranges, both ends included, that are in no entry or whose fragment was looked at and cannot be opened. Fragments
    /// that were not looked at may turn out to be damaged when they are read.
    pub lost: Vec<(Offset, Offset)>,
}

/// What a partition adds to the whole.
struct Found {
    partition: RecoveredPartition,
    last_commit: CommitNumber,
    highest_producer_id: i64,
}

/// Reads topics and manifests; waits for servers as long as it takes.
pub(super) async fn rebuild(
    core: &Arc<Core>,
    progress: Progress<'_>,
) -> Result<Recovered, OpenError> {
    let records = topics(core, progress).await?;
    let mut recovered = Recovered { highest_producer_id: None, ..Recovered::default() };
    let mut records_count: u64 = 0;
    // Of all partitions, as the broker has it.
    let room = &ProducerRoom::default();
    for record in records {
        if record.deleted || record.shredded {
            continue;
        }
        let indices = 0..record.partitions;
        let found: Vec<Found> = stream::iter(indices.map(|partition| {
            let id = TopicPartition { topic: record.id, partition };
            partition_of(core, &record, id, room, progress)
        }))
        .buffered(PARTITIONS_AT_ONCE)
        .collect()
        .await;
        let mut partitions = Vec::with_capacity(found.len());
        for found in found {
            recovered.last_commit = recovered.last_commit.max(found.last_commit);
            let highest = Some(found.highest_producer_id).filter(|id| *id >= 0);
            recovered.highest_producer_id = recovered.highest_producer_id.max(highest);
            let partition = found.partition;
            records_count += u64::try_from(partition.shipped - partition.log_start).unwrap_or(0);
            for (first, last) in &partition.lost {
                tracing::error!(topic = %record.name, first, last, "offsets are lost: too few shards are left");
            }
            partitions.push(partition);
        }
        recovered.topics.push(RecoveredTopic { record, partitions });
    }
    if !recovered.topics.is_empty() {
        let (topics, records) = (recovered.topics.len(), records_count);
        tracing::info!(cluster = %core.cluster, topics, records, "took over what the shard servers hold");
    }
    Ok(recovered)
}

/// The newest sound record of every topic. A mark of deletion is final, whatever revision another server has: the mark may
/// have been made from an older record.
async fn topics(core: &Arc<Core>, progress: Progress<'_>) -> Result<Vec<TopicRecord>, OpenError> {
    let needed = core.listing_quorum();
    let mut waiting = Waiting::new(&core.servers, LISTING).telling(Some(progress));
    let answers = loop {
        let servers = &core.servers;
        let answers = servers
            .every(|index| async move { servers.call(index, |store| store.topics()).await })
            .await;
        let answered: Vec<_> = answers.into_iter().flatten().collect();
        if answered.len() >= needed {
            break answered;
        }
        waiting.pause(answered.len(), needed, None).await;
    };
    waiting.over();
    let mut newest: BTreeMap<TopicId, Option<TopicRecord>> = BTreeMap::new();
    let mut wrong_key = None;
    for (id, bytes) in answers.into_iter().flatten() {
        let known = newest.entry(id).or_default();
        match TopicRecord::decode(&bytes, id, &core.config.keys) {
            Ok(record) => {
                let rank = |record: &TopicRecord| (record.deleted, record.revision);
                if known.as_ref().is_none_or(|known| rank(known) < rank(&record)) {
                    *known = Some(record);
                }
            }
            Err(RecordError::WrongKey(error)) => wrong_key = Some(error),
            Err(error) => {
                tracing::warn!(topic = %id, error = in_words(&error), "a topic record was not believed");
            }
        }
    }
    if let Some(lost) = newest.iter().find(|(_, record)| record.is_none()) {
        if let Some(error) = wrong_key {
            return Err(OpenError::WrongKey(error));
        }
        tracing::error!(topic = %lost.0, "no shard server has a sound record of a topic: it is lost");
    }
    Ok(newest.into_values().flatten().collect())
}

async fn partition_of(
    core: &Arc<Core>,
    record: &TopicRecord,
    id: TopicPartition,
    room: &ProducerRoom,
    progress: Progress<'_>,
) -> Found {
    let needed = core.listing_quorum();
    let mut waiting = Waiting::new(&core.servers, LISTING).telling(Some(progress));
    let listing = loop {
        let listing = Listing::read(core, id).await;
        if listing.answered >= needed {
            break listing;
        }
        waiting.pause(listing.answered, needed, None).await;
    };
    waiting.over();
    let fragments = Arc::new(Fragments::new(id, core.secret(record)));
    let chain: Vec<ManifestEntry> = listing.manifest.chain().cloned().collect();
    let beyond = beyond(&listing);
    let newest = beyond.last().or(chain.last());
    let mut lost = gaps(&chain, &beyond);
    let (producers, _, unreadable) = fold(core, &fragments, &chain, Some(progress)).await;
    lost.extend(unreadable.iter().filter_map(range));
    if let Some(last) = newest.filter(|last| last.state != EntryState::Deleting) {
        let opened = until_fetched(core, &fragments, last, Some(progress)).await;
        lost.extend(opened.err().as_ref().and_then(range));
    }
    lost.sort_unstable();
    lost.dedup();
    let first_offset = i64::from(is_vdisk(record));
    let log_start = chain.first().map_or(first_offset, |entry| entry.first_offset);
    let shipped = newest.map_or(log_start, ManifestEntry::next_offset);
    // What is being deleted is no part of the log, whether its shards are gone or not.
    let deleted = chain.iter().take_while(|entry| entry.state == EntryState::Deleting).last();
    let log_start = deleted.map_or(log_start, ManifestEntry::next_offset);
    let highest_epoch = listing.highest_epoch();
    let run = |run: super::manifest::Run| Run {
        first_offset: run.first_offset,
        first_sequence: run.first_sequence,
    };
    let partition = RecoveredPartition {
        log_start,
        shipped,
        complete: shipped,
        epoch: LeaderEpoch(highest_epoch.map_or(0, |epoch| epoch.0.saturating_add(1))),
        epochs: epochs(chain.iter().chain(&beyond)),
        runs: listing.manifest.runs().into_iter().map(run).collect(),
        producers: producers.into_log(clock::wall_ms(), room),
        head: newest.map(|entry| Head {
            number: entry.number,
            shipped,
            hash: entry.hash,
            public_hash: entry.public_hash,
        }),
        last_number: highest_epoch
            .map(|_| listing.highest_number().unwrap_or(0).saturating_add(NUMBERS_LEFT_OUT)),
        lost,
    };
    Found {
        partition,
        last_commit: listing.manifest.last_commit(),
        highest_producer_id: listing.manifest.highest_producer_id(),
    }
}

/// The option that makes a topic a vdisk's; such a topic begins at offset 1.
fn is_vdisk(record: &TopicRecord) -> bool {
    record.options.iter().any(|(key, value)| key == "tlog.vdisk" && value == "true")
}

/// True entries behind a break of the chain, in order: their offsets were handed out, and must not be again.
fn beyond(listing: &Listing) -> Vec<ManifestEntry> {
    let Some((_, end)) = listing.manifest.chain_range() else { return Vec::new() };
    let mut beyond: Vec<_> =
        listing.manifest.strays().filter(|entry| entry.first_offset >= end).cloned().collect();
    beyond.sort_by_key(|entry| (entry.next_offset(), entry.leader_epoch, entry.number));
    beyond
}

/// Offsets between the end of the chain and the entries behind its break.
fn gaps(chain: &[ManifestEntry], beyond: &[ManifestEntry]) -> Vec<(Offset, Offset)> {
    let Some(mut end) = chain.last().map(ManifestEntry::next_offset) else { return Vec::new() };
    let mut gaps = Vec::new();
    for entry in beyond {
        if entry.first_offset > end {
            gaps.push((end, entry.first_offset - 1));
        }
        end = end.max(entry.next_offset());
    }
    gaps
}

fn epochs<'a>(entries: impl Iterator<Item = &'a ManifestEntry>) -> Vec<(LeaderEpoch, Offset)> {
    let mut epochs: Vec<(LeaderEpoch, Offset)> = Vec::new();
    for entry in entries {
        if epochs.last().is_none_or(|(epoch, _)| *epoch < entry.leader_epoch) {
            epochs.push((entry.leader_epoch, entry.first_offset));
        }
    }
    epochs
}

fn range(error: &FetchError) -> Option<(Offset, Offset)> {
    match error {
        FetchError::Damaged { first, last, .. } => Some((*first, *last)),
        FetchError::Unavailable { .. } => None,
    }
}

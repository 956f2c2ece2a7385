//! Reading what is no longer on local disk.

use std::sync::Arc;

use bytes::Bytes;

use super::cache::Key;
use super::catalogue::{Fragments, entry_at};
use super::fetcher::{CheckedFragment, FetchError, check, fetch};
use super::records::ManifestEntry;
use super::tier::Core;
use crate::record::{self, BatchHeader, Batches, visit_places};
use crate::types::Offset;

/// Offset, timestamp and leader epoch of a record.
type Stamped = (Offset, i64, i32);

/// Reads one partition from its fragments. Opened fragments stay in a bounded cache; reads that must ask servers wait for
/// permits of their own, so that they never hold up anything else.
#[derive(Debug)]
pub struct TierReader {
    core: Arc<Core>,
    fragments: Arc<Fragments>,
}

impl TierReader {
    pub(super) fn new(core: Arc<Core>, fragments: Arc<Fragments>) -> Self {
        Self { core, fragments }
    }

    /// Whole batches from the one that contains `from`, below `upto`: about `max_bytes`, one batch at least, and never of
    /// more than one fragment. Nothing when `from` is not below `upto`.
    ///
    /// # Errors
    /// [`FetchError`].
    ///
    /// # Cancel safety
    /// Nothing is lost; the fragment may have to be fetched again.
    pub async fn read(
        &self,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
    ) -> Result<Bytes, FetchError> {
        if from >= upto {
            return Ok(Bytes::new());
        }
        let entry = self.entry(from).await?;
        let batches = self.batches(&entry).await?;
        let (mut begin, mut end) = (None, 0);
        let mut at = 0;
        for batch in Batches::new(&batches) {
            let (header, bytes) = batch.map_err(|error| inconsistent(&entry, &error))?;
            let next = at + bytes.len();
            if header.base_offset >= upto {
                break;
            }
            if header.next_offset() > from {
                let start = *begin.get_or_insert(at);
                if start < at && next - start > max_bytes {
                    break;
                }
                end = next;
            }
            at = next;
        }
        let begin = begin.unwrap_or(end);
        Ok(batches.slice(begin..end.max(begin)))
    }

    /// Looks at every shard of the fragment that holds `offset`, where reading is content with the first k good ones.
    /// Nothing of it stays in memory.
    ///
    /// # Errors
    /// [`FetchError`] where it is not known which fragment that is. A fragment that cannot be read is no error but in
    /// [`CheckedFragment::content`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn check(&self, offset: Offset) -> Result<CheckedFragment, FetchError> {
        let mut entry = self.entry(offset).await?;
        if let Err(why) = &self.fragments.secret {
            return Err(FetchError::Unavailable { why: why.clone() });
        }
        let _permit = self.core.cold_reads.acquire().await;
        loop {
            let checked = check(&self.core, &self.fragments, &entry).await;
            if checked.bad.is_empty() {
                return Ok(checked);
            }
            match self.fragments.newer(&self.core, &entry).await {
                Some(newer) => entry = newer,
                None => return Ok(checked),
            }
        }
    }

    /// The first record of `[from, upto)` with this timestamp or a later one.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn offset_for_timestamp(
        &self,
        timestamp_ms: i64,
        from: Offset,
        upto: Offset,
    ) -> Result<Option<Stamped>, FetchError> {
        let mut next = from;
        loop {
            // The maximum of an entry may belong to a record at or above `upto`: then the next one is asked.
            let entry = self.fragments.look(&self.core, |manifest| {
                let found = manifest.chain().find(|entry| {
                    entry.max_timestamp_ms >= timestamp_ms
                        && entry.last_offset >= next
                        && entry.first_offset < upto
                });
                Some(found.cloned())
            });
            let Some(entry) = entry.await?.flatten() else { return Ok(None) };
            let batches = self.batches(&entry).await?;
            next = entry.next_offset();
            let first = move || first_at(&entry, &batches, timestamp_ms, (from, upto));
            if let Some(found) = blocking(first).await? {
                return Ok(Some(found));
            }
        }
    }

    /// The record of `[from, upto)` with the largest timestamp, the first of them.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn max_timestamp(
        &self,
        from: Offset,
        upto: Offset,
    ) -> Result<Option<Stamped>, FetchError> {
        let entries = self.fragments.look(&self.core, |manifest| {
            let within = |e: &&ManifestEntry| e.last_offset >= from && e.first_offset < upto;
            let crosses = |e: &ManifestEntry| e.first_offset < from || e.last_offset >= upto;
            let (crossing, whole): (Vec<_>, Vec<_>) =
                manifest.chain().filter(within).cloned().partition(crosses);
            // `max_by_key` takes the last of equals, the first is wanted.
            let newest =
                |e: &ManifestEntry| (e.max_timestamp_ms, std::cmp::Reverse(e.first_offset));
            let newest = whole.into_iter().max_by_key(newest);
            Some(crossing.into_iter().chain(newest).collect::<Vec<_>>())
        });
        let mut best: Option<Stamped> = None;
        for entry in entries.await?.unwrap_or_default() {
            let batches = self.batches(&entry).await?;
            let found = blocking(move || highest_in(&entry, &batches, (from, upto))).await?;
            let rank = |(offset, timestamp, _): &Stamped| (*timestamp, std::cmp::Reverse(*offset));
            best = best.into_iter().chain(found).max_by_key(rank);
        }
        Ok(best)
    }

    async fn entry(&self, offset: Offset) -> Result<ManifestEntry, FetchError> {
        let found = self.fragments.look(&self.core, |manifest| entry_at(manifest, offset)).await?;
        found.ok_or_else(|| FetchError::Damaged {
            first: offset,
            last: offset,
            what: "no shard server has an entry for it in the manifest".to_owned(),
        })
    }

    async fn batches(&self, entry: &ManifestEntry) -> Result<Bytes, FetchError> {
        let mut entry = entry.clone();
        loop {
            let found = self.batches_of(&entry).await;
            match &found {
                Ok(_) => return found,
                // Its shards go when it was sealed anew.
                Err(_) => match self.fragments.newer(&self.core, &entry).await {
                    Some(newer) => entry = newer,
                    None => return found,
                },
            }
        }
    }

    async fn batches_of(&self, entry: &ManifestEntry) -> Result<Bytes, FetchError> {
        if let Err(why) = &self.fragments.secret {
            return Err(FetchError::Unavailable { why: why.clone() });
        }
        let key = Key {
            partition: self.fragments.id,
            number: entry.number,
            generation: entry.generation,
        };
        let open = async {
            let _permit = self.core.cold_reads.acquire().await;
            let opened = fetch(&self.core, &self.fragments, entry).await?;
            Ok(opened.batches)
        };
        self.core.cache.get(key, open).await
    }
}

/// Records may have to be expanded for it, which is not for a thread of the runtime.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    let stopping = || FetchError::Unavailable { why: "the broker is stopping".to_owned() };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(stopping()))
}

/// Batches were checked when the fragment was opened, so this is never seen.
fn inconsistent(entry: &ManifestEntry, error: &record::Error) -> FetchError {
    FetchError::Damaged {
        first: entry.first_offset,
        last: entry.last_offset,
        what: error.to_string(),
    }
}

fn first_at(
    entry: &ManifestEntry,
    batches: &[u8],
    timestamp_ms: i64,
    range: (Offset, Offset),
) -> Result<Option<Stamped>, FetchError> {
    for batch in Batches::new(batches) {
        let (header, bytes) = batch.map_err(|error| inconsistent(entry, &error))?;
        if header.base_offset >= range.1 {
            break;
        }
        if header.max_timestamp < timestamp_ms {
            continue;
        }
        let mut found = None;
        let first = |stamped: Stamped| {
            if stamped.1 >= timestamp_ms {
                found.get_or_insert(stamped);
            }
        };
        stamps_in(bytes, &header, range, first).map_err(|error| inconsistent(entry, &error))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn highest_in(
    entry: &ManifestEntry,
    batches: &[u8],
    range: (Offset, Offset),
) -> Result<Option<Stamped>, FetchError> {
    let mut best: Option<Stamped> = None;
    for batch in Batches::new(batches) {
        let (header, bytes) = batch.map_err(|error| inconsistent(entry, &error))?;
        if header.base_offset >= range.1 {
            break;
        }
        if best.is_some_and(|(_, timestamp, _)| timestamp >= header.max_timestamp) {
            continue;
        }
        let higher = |stamped: Stamped| {
            if best.is_none_or(|(_, timestamp, _)| timestamp < stamped.1) {
                best = Some(stamped);
            }
        };
        stamps_in(bytes, &header, range, higher).map_err(|error| inconsistent(entry, &error))?;
    }
    Ok(best)
}

/// Tells `visit` the records of a batch that lie in `[from, upto)`, in order.
fn stamps_in(
    batch: &[u8],
    header: &BatchHeader,
    (from, upto): (Offset, Offset),
    mut visit: impl FnMut(Stamped),
) -> Result<(), record::Error> {
    visit_places(batch, header, |_, place| {
        let offset = header.base_offset + i64::from(place.offset_delta);
        if (from..upto).contains(&offset) {
            visit((offset, header.timestamp_of(place.timestamp_delta), header.leader_epoch));
        }
        Ok(())
    })
}

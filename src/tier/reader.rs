//! Reading what is no longer on local disk.

use std::sync::Arc;

use bytes::Bytes;

use super::cache::Key;
use super::catalogue::{Fragments, entry_at};
use super::fetcher::{CheckedFragment, FetchError, check, fetch};
use super::records::ManifestEntry;
use super::tier::Core;
use crate::record::{self, BatchHeader, Batches, Records, plain_records};
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
        let entry = self.entry(offset).await?;
        if let Err(why) = &self.fragments.secret {
            return Err(FetchError::Unavailable { why: why.clone() });
        }
        let _permit = self.core.cold_reads.acquire().await;
        Ok(check(&self.core, &self.fragments, &entry).await)
    }

    /// The first record below `upto` with this timestamp or a later one.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn offset_for_timestamp(
        &self,
        timestamp_ms: i64,
        upto: Offset,
    ) -> Result<Option<Stamped>, FetchError> {
        let mut from = Offset::MIN;
        loop {
            // The maximum of an entry may belong to a record at or above `upto`: then the next one is asked.
            let entry = self.fragments.look(&self.core, |manifest| {
                let found = manifest.chain().find(|entry| {
                    entry.max_timestamp_ms >= timestamp_ms
                        && entry.first_offset >= from
                        && entry.first_offset < upto
                });
                Some(found.cloned())
            });
            let Some(entry) = entry.await?.flatten() else { return Ok(None) };
            let batches = self.batches(&entry).await?;
            if let Some(found) = first_at(&entry, &batches, timestamp_ms, upto)? {
                return Ok(Some(found));
            }
            from = entry.next_offset();
        }
    }

    /// The record below `upto` with the largest timestamp, the first of them.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn max_timestamp(&self, upto: Offset) -> Result<Option<Stamped>, FetchError> {
        let entry = self.fragments.look(&self.core, |manifest| {
            let below = manifest.chain().take_while(|entry| entry.first_offset < upto);
            // `max_by_key` takes the last of equals, the first is wanted.
            let newest =
                below.max_by_key(|e| (e.max_timestamp_ms, std::cmp::Reverse(e.first_offset)));
            Some(newest.cloned())
        });
        let Some(entry) = entry.await?.flatten() else { return Ok(None) };
        let batches = self.batches(&entry).await?;
        let mut newest: Option<i64> = None;
        for batch in Batches::new(&batches) {
            let (header, _) = batch.map_err(|error| inconsistent(&entry, &error))?;
            if header.base_offset < upto {
                newest = newest.max(Some(header.max_timestamp));
            }
        }
        match newest {
            Some(newest) => first_at(&entry, &batches, newest, upto),
            None => Ok(None),
        }
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
    upto: Offset,
) -> Result<Option<Stamped>, FetchError> {
    for batch in Batches::new(batches) {
        let (header, bytes) = batch.map_err(|error| inconsistent(entry, &error))?;
        if header.base_offset >= upto {
            break;
        }
        if header.max_timestamp < timestamp_ms {
            continue;
        }
        let found = first_in_batch(bytes, &header, timestamp_ms, upto)
            .map_err(|error| inconsistent(entry, &error))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn first_in_batch(
    batch: &[u8],
    header: &BatchHeader,
    timestamp_ms: i64,
    upto: Offset,
) -> Result<Option<Stamped>, record::Error> {
    let plain = plain_records(batch, header)?;
    for record in Records::new(&plain, header) {
        let record = record?;
        let offset = header.base_offset + i64::from(record.offset_delta);
        let timestamp = header.timestamp_of(record.timestamp_delta);
        if offset >= upto {
            break;
        }
        if timestamp >= timestamp_ms {
            return Ok(Some((offset, timestamp, header.leader_epoch)));
        }
    }
    Ok(None)
}

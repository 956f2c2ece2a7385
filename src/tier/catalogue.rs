//! What is known of one partition's fragments: read from the servers once, then kept current by the partition's own
//! shipper.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::encryption::TopicSecret;
use super::fetcher::FetchError;
use super::manifest::Manifest;
use super::records::{EntryState, HeadRecord, ManifestEntry};
use super::store::Fence;
use super::tier::Core;
use crate::types::{LeaderEpoch, Offset, TopicPartition, in_words};

/// Of a partition that another broker may hold, the servers are asked at most so often what became of fragments that cannot be
/// read.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What the servers hold about a partition, verified.
#[derive(Debug)]
pub(super) struct Listing {
    pub manifest: Manifest,
    pub heads: Vec<HeadRecord>,
    pub fences: Vec<Fence>,
    /// Servers that answered.
    pub answered: usize,
    /// Records that were not believed, and entries that contradict each other; each in one line.
    pub doubts: Vec<String>,
}

impl Listing {
    /// Asks all servers side by side.
    pub async fn read(core: &Arc<Core>, id: TopicPartition) -> Self {
        let servers = &core.servers;
        let answers = servers
            .every(|index| async move {
                let entries = servers.call(index, |store| store.entries(id)).await?;
                let heads = servers.call(index, |store| store.heads(id)).await?;
                Ok((entries, heads, servers.call(index, |store| store.fence(id)).await?))
            })
            .await;
        let mut listing = Self {
            manifest: Manifest::default(),
            heads: Vec::new(),
            fences: Vec::new(),
            answered: 0,
            doubts: Vec::new(),
        };
        let keys = &core.config.keys;
        let mut lists = Vec::new();
        for (entries, heads, fence) in answers.into_iter().flatten() {
            listing.answered += 1;
            listing.fences.extend(fence);
            let mut list = Vec::with_capacity(entries.len());
            for (number, bytes) in entries {
                match ManifestEntry::decode(&bytes, id, number, keys) {
                    Ok(entry) => list.push(entry),
                    Err(error) => listing.doubts.push(in_words(&error)),
                }
            }
            lists.push(list);
            for (_, bytes) in heads {
                match HeadRecord::decode(&bytes, id, keys) {
                    Ok(head) => listing.heads.push(head),
                    Err(error) => listing.doubts.push(in_words(&error)),
                }
            }
        }
        let abandoned: Vec<u64> =
            listing.heads.iter().flat_map(|head| head.abandoned.iter().copied()).collect();
        let (manifest, conflicts) = Manifest::union(lists, abandoned);
        listing.doubts.extend(conflicts.iter().map(ToString::to_string));
        if let Some(doubt) = listing.doubts.first() {
            let count = listing.doubts.len();
            tracing::warn!(partition = %id, count, first = doubt, "records on shard servers were not believed");
        }
        listing.manifest = manifest;
        listing
    }

    /// Highest epoch that was ever seen.
    pub fn highest_epoch(&self) -> Option<LeaderEpoch> {
        let entries = self.manifest.chain().chain(self.manifest.strays());
        let entries = entries.map(|entry| entry.leader_epoch);
        let heads = self.heads.iter().map(|head| head.epoch);
        entries.chain(heads).chain(self.fences.iter().map(|fence| fence.epoch)).max()
    }

    /// Highest number that was ever seen, abandoned ones included.
    pub fn highest_number(&self) -> Option<u64> {
        let heads = self.heads.iter().map(|head| head.number).max();
        heads.max(self.manifest.next_number().checked_sub(1))
    }
}

/// One partition's fragments.
pub(super) struct Fragments {
    pub id: TopicPartition,
    /// What opens them, or why they cannot be opened.
    pub secret: Result<TopicSecret, String>,
    known: Mutex<Option<Known>>,
    /// Deleted fragments below it have no shards left, as far as this process saw to it.
    swept: Mutex<Offset>,
    /// One reads the servers, the others wait.
    loading: Semaphore,
    /// Held by whoever changes a fragment that is stored: seals it anew, or deletes it.
    changing: Semaphore,
    asked: Mutex<Option<Instant>>,
}

struct Known {
    manifest: Manifest,
    /// Every server was asked and answered: what is not here is nowhere.
    whole: bool,
    /// Claimed here: nobody else changes anything.
    ours: bool,
}

/// Identity only: the rest is large or secret.
impl std::fmt::Debug for Fragments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fragments").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Fragments {
    pub fn new(id: TopicPartition, secret: Result<TopicSecret, String>) -> Self {
        Self {
            id,
            secret,
            known: Mutex::new(None),
            swept: Mutex::new(Offset::MIN),
            loading: Semaphore::new(1),
            changing: Semaphore::new(1),
            asked: Mutex::new(None),
        }
    }

    /// The right to change a fragment that is stored, which one has at a time. What was known of the fragment before may not
    /// be true any more.
    pub async fn changing(&self) -> SemaphorePermit<'_> {
        self.changing.acquire().await.expect("this semaphore is never closed")
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        // No code below panics between two changes that belong together.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the servers for a claim; what is read replaces what was known. `None` where fewer than `needed` answered.
    pub async fn claim_listing(&self, core: &Arc<Core>, needed: usize) -> Option<Listing> {
        let _permit = self.loading.acquire().await;
        let listing = Listing::read(core, self.id).await;
        if listing.answered < needed {
            return None;
        }
        let whole = listing.answered == core.servers.len();
        *self.known() = Some(Known { manifest: listing.manifest.clone(), whole, ours: true });
        Some(listing)
    }

    /// Another broker has the partition.
    pub fn taken(&self) {
        if let Some(known) = self.known().as_mut() {
            known.ours = false;
        }
    }

    /// The entry of a fragment that could not be read, if it was sealed anew meanwhile: the shards of the generation before
    /// are gone then, and nothing is damaged. Where another broker may have done that the servers are asked.
    pub async fn newer(&self, core: &Arc<Core>, than: &ManifestEntry) -> Option<ManifestEntry> {
        let look = |manifest: &Manifest| {
            let found = manifest.get(than.number)?;
            let is_newer =
                found.generation > than.generation && found.state != EntryState::Deleting;
            is_newer.then(|| found.clone())
        };
        let here = || {
            let guard = self.known();
            let known = guard.as_ref()?;
            let found = look(&known.manifest);
            (found.is_some() || known.ours).then_some(found)
        };
        if let Some(found) = here() {
            return found;
        }
        let _permit = self.loading.acquire().await;
        if let Some(found) = here() {
            return found;
        }
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN) {
            // Just now by somebody else. Nobody waits here: claims stand in the same line.
            return None;
        }
        let listing = Listing::read(core, self.id).await;
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.take_in(core, listing, look)
    }

    /// Gives up numbers: they are no part of the log.
    pub fn abandon(&self, numbers: impl IntoIterator<Item = u64>) {
        if let Some(known) = self.known().as_mut() {
            known.manifest.abandon(numbers);
        }
    }

    /// Adds what was just stored.
    pub fn insert(&self, entry: ManifestEntry) {
        if let Some(known) = self.known().as_mut()
            && let Err(conflict) = known.manifest.insert(entry)
        {
            tracing::error!(partition = %self.id, %conflict, "a stored fragment contradicts the manifest");
        }
    }

    /// Calls `look` with the manifest, reading it from the servers when it is not known yet, or when what is wanted is
    /// not in it and a server has not answered last time.
    pub async fn look<T>(
        &self,
        core: &Arc<Core>,
        look: impl Fn(&Manifest) -> Option<T>,
    ) -> Result<Option<T>, FetchError> {
        if let Some(known) = &*self.known() {
            let found = look(&known.manifest);
            if found.is_some() || known.whole {
                return Ok(found);
            }
        }
        let _permit = self.loading.acquire().await;
        if let Some(known) = &*self.known() {
            let found = look(&known.manifest);
            if found.is_some() || known.whole {
                return Ok(found);
            }
        }
        let listing = Listing::read(core, self.id).await;
        let needed = core.listing_quorum();
        if listing.answered < needed {
            let why = format!(
                "{} of {} shard servers answered, {needed} are needed to know what they hold",
                listing.answered,
                core.servers.len()
            );
            return Err(FetchError::Unavailable { why });
        }
        let whole = listing.answered == core.servers.len();
        match self.take_in(core, listing, look) {
            None if !whole => {
                let why = "no shard server that answers knows of it, and some do not answer";
                Err(FetchError::Unavailable { why: why.to_owned() })
            }
            found => Ok(found),
        }
    }

    fn take_in<T>(
        &self,
        core: &Arc<Core>,
        listing: Listing,
        look: impl Fn(&Manifest) -> Option<T>,
    ) -> Option<T> {
        let mut whole = listing.answered == core.servers.len();
        let mut manifest = listing.manifest;
        let mut ours = false;
        let mut guard = self.known();
        // What was shipped meanwhile is in the old one only if the listing was faster.
        if let Some(old) = guard.take() {
            (whole, ours) = (whole || old.whole, old.ours);
            manifest.abandon(old.manifest.abandoned().collect::<Vec<_>>());
            for entry in old.manifest.chain() {
                manifest.insert(entry.clone()).ok();
            }
        }
        let found = look(&manifest);
        *guard = Some(Known { manifest, whole, ours });
        found
    }

    /// The fragments of the log in order, where they are known.
    pub fn chain(&self) -> Vec<ManifestEntry> {
        let known = self.known();
        known.iter().flat_map(|known| known.manifest.chain()).cloned().collect()
    }

    /// The entry of a number, where it is known.
    pub fn numbered(&self, number: u64) -> Option<ManifestEntry> {
        self.known().as_ref()?.manifest.get(number).cloned()
    }

    /// Up to where the shards of deleted fragments are known to be gone.
    pub fn swept(&self) -> Offset {
        *self.swept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shards of all deleted fragments below `offset` are gone.
    pub fn swept_upto(&self, offset: Offset) {
        *self.swept.lock().unwrap_or_else(PoisonError::into_inner) = offset;
    }

    /// The entry of the fragment that holds `offset`, where it is known already.
    pub fn holding(&self, offset: Offset) -> Option<ManifestEntry> {
        entry_at(&self.known().as_ref()?.manifest, offset)
    }
}

/// The fragment that holds an offset. Where the chain is broken (all copies of an entry are lost) those behind the break
/// are still true records of this partition, and of several the newest holds.
pub(super) fn entry_at(manifest: &Manifest, offset: Offset) -> Option<ManifestEntry> {
    let end = manifest.chain_range().map_or(Offset::MIN, |(_, end)| end);
    if offset < end {
        return manifest.entry_at(offset).cloned();
    }
    let beyond = manifest.strays().filter(|entry| {
        entry.first_offset >= end && (entry.first_offset..=entry.last_offset).contains(&offset)
    });
    beyond.max_by_key(|entry| (entry.leader_epoch, entry.number)).cloned()
}

//! Topics that are deleted and whose mark too few shard servers have: told again until enough of them know.
//!
//! ```text
//!   broker: event durable, client answered -> owed -> mark on W servers -> told -> broker: event, forgotten
//!                                              ^             | fewer
//!                                              +-- a server returns, or a growing pause where those that are up refuse
//! ```
//!
//! A mark is final: an id is never used again, so one server that has it outweighs all that do not. W servers with it
//! leave none of the groups that a rebuild listens to without one. What stays on servers that missed the mark is removed by
//! a later start.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::generations::ATTEMPTS;
use super::records::{ManifestEntry, TopicRecord};
use super::servers::Backoff;
use super::status::OwedDeletion;
use super::store::StoreError;
use super::tier::{Core, is_compacted};
use crate::types::{TopicId, TopicPartition, in_words};

/// Longest pause between two tries while enough servers are up and refuse.
const PAUSE: Duration = Duration::from_secs(60);

/// Deleted topics that are remembered so that a record that is still being put does not overwrite the mark: puts end within
/// seconds.
const GONE: usize = 1024;

/// Called once W servers have the mark.
pub type Told = Box<dyn FnOnce() + Send>;

/// What is owed to the servers.
#[derive(Default)]
pub(super) struct Deletions {
    inner: Mutex<Inner>,
    arrived: Notify,
}

#[derive(Default)]
struct Inner {
    owed: BTreeMap<TopicId, Owed>,
    gone: VecDeque<TopicId>,
}

struct Owed {
    /// With the mark.
    record: TopicRecord,
    told: Told,
    /// Servers that took the mark at the newest try.
    marked: Option<usize>,
}

impl Deletions {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code below panics between two changes that belong together.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a deletion over; `record` is as it stood.
    pub fn owe(&self, record: &TopicRecord, told: Told) {
        let mut inner = self.lock();
        inner.gone.push_back(record.id);
        if inner.gone.len() > GONE {
            inner.gone.pop_front();
        }
        inner.owed.insert(record.id, Owed { record: marked(record), told, marked: None });
        drop(inner);
        self.arrived.notify_one();
    }

    pub fn count(&self) -> usize {
        self.lock().owed.len()
    }

    /// Whether the record of this topic must not be put any more.
    pub fn is_gone(&self, topic: &TopicId) -> bool {
        self.lock().gone.contains(topic)
    }

    /// Those that were tried in vain.
    pub fn waiting(&self, needed: usize) -> Vec<OwedDeletion> {
        let inner = self.lock();
        let waiting = inner.owed.values().filter_map(|owed| {
            let marked = owed.marked?;
            Some(OwedDeletion { topic: owed.record.name.clone(), marked, needed })
        });
        waiting.collect()
    }

    fn due(&self, untried_only: bool) -> Vec<TopicRecord> {
        let inner = self.lock();
        let due = inner.owed.values().filter(|owed| !untried_only || owed.marked.is_none());
        due.map(|owed| owed.record.clone()).collect()
    }

    /// Notes how a try went.
    fn tried(&self, record: &TopicRecord, marked: usize, needed: usize) {
        let mut inner = self.lock();
        let Some(owed) = inner.owed.get_mut(&record.id) else { return };
        let before = owed.marked.replace(marked);
        let topic = &record.name;
        if marked < needed {
            if before.is_none() {
                tracing::warn!(%topic, id = %record.id, marked, needed, "a topic is deleted, and too few shard servers could be told: a rebuild from them would bring it back; start those that are away, and they are told");
            }
            return;
        }
        let owed = inner.owed.remove(&record.id);
        drop(inner);
        if before.is_some() {
            tracing::info!(%topic, id = %record.id, marked, "the shard servers know of the deletion now");
        }
        if let Some(owed) = owed {
            (owed.told)();
        }
    }
}

/// The record that says that a topic is gone.
fn marked(record: &TopicRecord) -> TopicRecord {
    let mut record = record.clone();
    if !record.deleted {
        record.deleted = true;
        record.revision = record.revision.saturating_add(1);
    }
    record
}

/// Tells what is owed, and removes what deletions before this start left on servers that were away, until `stop`.
pub(super) async fn run(core: Arc<Core>, stop: CancellationToken) {
    let work = async { tokio::join!(tell_for_ever(&core), clean_up(&core)) };
    tokio::select! {
        () = stop.cancelled() => {}
        _ = work => {}
    }
}

async fn tell_for_ever(core: &Arc<Core>) {
    let mut returned = core.servers.returned();
    let mut backoff = Backoff::upto(PAUSE);
    let mut untried_only = false;
    loop {
        returned.borrow_and_update();
        let needed = core.ship_quorum();
        for record in core.deletions.due(untried_only) {
            let marked = mark(core, &record).await;
            core.deletions.tried(&record, marked, needed);
        }
        let refused = core.deletions.count() > 0 && core.servers.up_count() >= needed;
        let again =
            async { if refused { backoff.pause().await } else { std::future::pending().await } };
        untried_only = tokio::select! {
            () = core.deletions.arrived.notified() => true,
            _ = returned.changed() => false,
            () = again => false,
        };
        if core.deletions.count() == 0 {
            backoff = Backoff::upto(PAUSE);
        }
    }
}

/// Marks a topic deleted on the servers that answer and removes its partitions there. Gives how many have the mark.
pub(super) async fn mark(core: &Arc<Core>, record: &TopicRecord) -> usize {
    let record = &marked(record);
    let bytes: Bytes = match record.encode(&core.config.keys) {
        Ok(bytes) => bytes.into(),
        Err(error) => {
            tracing::error!(topic = %record.name, error = in_words(&error), "a topic cannot be marked deleted");
            return 0;
        }
    };
    let (servers, bytes) = (&core.servers, &bytes);
    let answers = servers
        .every(|index| async move {
            servers.call(index, |store| store.put_topic(record.id, bytes.clone())).await?;
            for partition in 0..record.partitions {
                let id = TopicPartition { topic: record.id, partition };
                let generations = generations(core, index, record, id).await;
                let removed = async {
                    let below = generations?;
                    servers.call(index, |store| store.remove_partition(id, below)).await
                };
                if let Err(error) = removed.await {
                    tracing::debug!(partition = %id, error = in_words(&error), "left to a later start");
                    break;
                }
            }
            Ok(())
        })
        .await;
    answers.iter().filter(|answer| answer.is_ok()).count()
}

/// All generations of which a server may have shards lie below.
async fn generations(
    core: &Arc<Core>,
    server: usize,
    record: &TopicRecord,
    id: TopicPartition,
) -> Result<u32, StoreError> {
    let entries = core.servers.call(server, |store| store.entries(id)).await?;
    let generation = |(number, bytes): &(u64, Bytes)| {
        let entry = ManifestEntry::decode(bytes, id, *number, &core.config.keys);
        entry.map_or(0, |entry| entry.generation)
    };
    let highest = entries.iter().map(generation).max().unwrap_or(0);
    let attempts = if highest > 0 || is_compacted(record) { ATTEMPTS } else { 0 };
    Ok(highest.saturating_add(attempts).saturating_add(1))
}

/// Marks and removes everywhere what any server has the mark of.
async fn clean_up(core: &Arc<Core>) {
    core.servers.at_least(core.ship_quorum()).await;
    let servers = &core.servers;
    let answers = servers
        .every(|index| async move { servers.call(index, |store| store.topics()).await })
        .await;
    let mut deleted = BTreeMap::new();
    for (id, bytes) in answers.into_iter().flatten().flatten() {
        if let Ok(record) = TopicRecord::decode(&bytes, id, &core.config.keys)
            && record.deleted
        {
            deleted.insert(id, record);
        }
    }
    for record in deleted.into_values() {
        mark(core, &record).await;
    }
}

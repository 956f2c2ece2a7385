//! Reading back what was shipped, all n shards of each fragment, before it counts as complete.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;

use super::catalogue::Fragments;
use super::fetcher::{fetch, shard_name};
use super::fragment::{OpenContext, Wanted, open_shard, repair};
use super::local::{Fact, Local};
use super::put;
use super::records::ManifestEntry;
use super::shipper::End;
use super::status::Part;
use super::tier::Core;
use crate::types::Offset;

/// Pause after a fragment could not be completed. What is missing then needs a person, or a server that comes back.
pub(super) const RETRY: Duration = Duration::from_secs(10);

/// Verifies fragment after fragment from `complete` up to what is shipped, and records how far it is. Runs until something
/// ends it.
pub(super) async fn run(
    core: Arc<Core>,
    fragments: Arc<Fragments>,
    local: Arc<dyn Local>,
    mut complete: Offset,
    mut shipped: watch::Receiver<Offset>,
) -> End {
    loop {
        let upto = *shipped.borrow_and_update();
        if complete >= upto {
            if shipped.changed().await.is_err() {
                return End::Stopping;
            }
            continue;
        }
        let whole = match fragments.holding(complete).filter(|entry| entry.next_offset() <= upto) {
            Some(entry) => {
                let done = make_whole(&core, &fragments, &local, &entry).await;
                done.map(|()| entry.next_offset())
            }
            None => Err(format!("no shard server has the manifest entry of offset {complete}")),
        };
        match whole {
            Ok(next) => {
                complete = next;
                core.board.clear(local.id(), Part::Completing);
                core.metrics.completed();
                if local.record(Fact::Completed { upto: complete }).await.is_err() {
                    return End::Stopping;
                }
            }
            Err(why) => {
                let what = format!("it is not complete from offset {complete} on: {why}");
                if core.board.put(local.id(), Part::Completing, what) {
                    tracing::warn!(partition = %local.id(), offset = complete, why, "a fragment is not complete");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Reads all shards back; those that are gone are made again from the others, and all are read once more.
pub(super) async fn make_whole(
    core: &Arc<Core>,
    fragments: &Arc<Fragments>,
    local: &Arc<dyn Local>,
    entry: &ManifestEntry,
) -> Result<(), String> {
    let mut places = Vec::with_capacity(entry.shards());
    for name in &entry.servers {
        let place = core.servers.by_name(name);
        places.push(
            place.ok_or_else(|| format!("its shard server {name} is not configured any more"))?,
        );
    }
    if all_good(core, fragments, entry, &places).await {
        return Ok(());
    }
    let opened = fetch(core, fragments, entry).await.map_err(|error| error.to_string())?;
    let (shared, whose, of) = (Arc::clone(core), Arc::clone(fragments), entry.clone());
    let made = tokio::task::spawn_blocking(move || {
        let secret = whose.secret.as_ref().map_err(Clone::clone)?;
        let context = shared.context(whose.id, secret);
        repair(&opened, &of, &context).map_err(|error| error.to_string())
    });
    let made = made.await.map_err(|error| error.to_string())??;
    put::shards(core, local, (entry.number, entry.generation), &made, &places)
        .await
        .map_err(|error| format!("its shards cannot be made whole: {error:?}"))?;
    // A server may say that it has a shard and still give another one.
    if all_good(core, fragments, entry, &places).await {
        Ok(())
    } else {
        Err("its shards were stored again and still do not read back; check the shard servers' disks".to_owned())
    }
}

async fn all_good(
    core: &Arc<Core>,
    fragments: &Arc<Fragments>,
    entry: &ManifestEntry,
    places: &[usize],
) -> bool {
    let checks = places
        .iter()
        .enumerate()
        .map(|(index, place)| is_good(core, fragments, entry, index, *place));
    join_all(checks).await.iter().all(|good| *good)
}

/// Whether the shard is on its server, opens and is the one that the entry names.
async fn is_good(
    core: &Arc<Core>,
    fragments: &Arc<Fragments>,
    entry: &ManifestEntry,
    index: usize,
    place: usize,
) -> bool {
    let name = shard_name(fragments, entry, index);
    let found = core.servers.until_done(place, |store| store.get_shard(name)).await;
    let Ok(Some(shard)) = found else { return false };
    let (core, fragments, entry) = (Arc::clone(core), Arc::clone(fragments), entry.clone());
    let check = tokio::task::spawn_blocking(move || {
        let Ok(secret) = &fragments.secret else { return false };
        let context: OpenContext<'_> = core.context(fragments.id, secret);
        let opened = open_shard(&shard, name.index, &Wanted::Entry(&entry), &context);
        opened.is_ok_and(|opened| opened.checksum_fits)
    });
    check.await.unwrap_or(false)
}

//! Putting a fragment on its servers, however long that takes.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join_all};

use super::local::Local;
use super::placement;
use super::records::{HeadRecord, ManifestEntry};
use super::servers::{Backoff, Standing};
use super::status::Part;
use super::store::{Fence, ShardName, ShardStore, StoreError, Writer};
use super::tier::Core;
use crate::types::{TopicPartition, in_words};

/// What no patience mends.
#[derive(Debug)]
pub(super) enum PutError {
    /// Another broker has the partition.
    Fenced(Fence),
    /// A shard's name is taken by other bytes.
    Conflict(String),
    /// We made what no server takes.
    Refused(String),
}

/// The writer as of now: the epoch may rise between two tries.
pub(super) fn writer(core: &Core, local: &dyn Local) -> Writer {
    Writer { epoch: local.epoch(), data_dir: core.data_dir }
}

/// Which server takes which shard. Waits while fewer servers than shards can be considered at all.
pub(super) async fn choose(
    core: &Core,
    id: TopicPartition,
    number: u64,
    shards: usize,
) -> Vec<usize> {
    let mut backoff = Backoff::new();
    loop {
        let usable =
            |standing| !matches!(standing, Standing::Foreign { .. } | Standing::Unfit { .. });
        let candidates: Vec<usize> = (0..core.servers.len())
            .filter(|index| core.servers.get(*index).is_some_and(|s| usable(s.standing())))
            .collect();
        let servers: Vec<placement::Server> = candidates
            .iter()
            .filter_map(|index| core.servers.get(*index))
            .map(|server| placement::Server { name: server.name().to_owned(), weight: 1.0 })
            .collect();
        let sharing = core.config.allow_shared_servers;
        match placement::place(id, number, shards, &servers, sharing) {
            Ok(places) => {
                core.board.clear(id, Part::Shipping);
                return places.iter().filter_map(|place| candidates.get(*place).copied()).collect();
            }
            Err(error) => {
                if core.board.put(id, Part::Shipping, format!("it does not ship: {error}")) {
                    tracing::warn!(partition = %id, %error, "a partition cannot ship");
                }
            }
        }
        backoff.pause().await;
    }
}

/// Puts a shard of each index on its server; on return all are stored.
pub(super) async fn shards(
    core: &Arc<Core>,
    local: &Arc<dyn Local>,
    (number, generation): (u64, u32),
    shards: &[Bytes],
    places: &[usize],
) -> Result<(), PutError> {
    let id = local.id();
    let puts = (0u8..).zip(shards.iter().zip(places)).map(|(index, (shard, place))| {
        let name = ShardName { partition: id, number, generation, index };
        settle(core, local, *place, move |store, writer| {
            store.put_shard(name, writer, shard.clone())
        })
    });
    try_join_all(puts).await.map(drop)
}

/// Puts an entry, and the head of a new fragment, on every server of the fragment; on return all have them.
pub(super) async fn entry(
    core: &Arc<Core>,
    local: &Arc<dyn Local>,
    entry: &ManifestEntry,
    head: Option<&HeadRecord>,
    places: &[usize],
) -> Result<(), PutError> {
    let id = local.id();
    let keys = &core.config.keys;
    let refused = |error: super::error::Malformed| PutError::Refused(in_words(&error));
    let entry_bytes = Bytes::from(entry.encode(id, keys).map_err(refused)?);
    let encoded = |head: &HeadRecord| Ok((head.number, Bytes::from(head.encode(id, keys)?)));
    let head = head.map(encoded).transpose().map_err(refused)?;
    let servers: BTreeSet<usize> = places.iter().copied().collect();
    let puts = servers.into_iter().map(|server| {
        let (entry_bytes, head) = (entry_bytes.clone(), head.clone());
        settle(core, local, server, move |store, writer| {
            store.put_entry(id, writer, entry.number, entry_bytes.clone(), head.clone())
        })
    });
    try_join_all(puts).await.map(drop)
}

/// One put, until it is done or can never be. A fence that this data directory itself raised higher is met by rising to it.
async fn settle(
    core: &Arc<Core>,
    local: &Arc<dyn Local>,
    server: usize,
    put: impl for<'a> Fn(&'a dyn ShardStore, Writer) -> BoxFuture<'a, Result<(), StoreError>>
    + Send
    + Sync,
) -> Result<(), PutError> {
    loop {
        let done =
            core.servers.until_done(server, |store| put(store, writer(core, &**local))).await;
        match done {
            Ok(()) => return Ok(()),
            Err(StoreError::Fenced { fence, .. })
                if fence.data_dir == core.data_dir && fence.epoch > local.epoch() =>
            {
                local.raise_epoch(fence.epoch);
            }
            Err(StoreError::Fenced { fence, .. }) => {
                // Ours at our own epoch by now: a raise overtook this put.
                if fence.data_dir != core.data_dir {
                    return Err(PutError::Fenced(fence));
                }
            }
            Err(error @ StoreError::Conflict { .. }) => {
                return Err(PutError::Conflict(in_words(&error)));
            }
            Err(error) => return Err(PutError::Refused(in_words(&error))),
        }
    }
}

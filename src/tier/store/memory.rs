//! A shard server in memory: for `-memorystorage` and tests. It forgets everything with the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::ready;

use super::error::bounded;
use super::shard_store::take_head;
use super::{
    Fence, Head, Numbered, Persistence, Reply, Role, ServerReport, ShardName, ShardStore, Standing,
    StoreError, Writer,
};
use crate::types::limits::{TIER_ADDRESS_BYTES, TIER_RECORD_BYTES, TIER_SHARD_BYTES};
use crate::types::{TopicId, TopicPartition};

/// The store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    name: String,
    run_id: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    meta: Option<Bytes>,
    topics: BTreeMap<TopicId, Bytes>,
    partitions: BTreeMap<TopicPartition, PartitionState>,
    shard_bytes: u64,
}

#[derive(Debug, Default)]
struct PartitionState {
    fence: Option<Fence>,
    entries: BTreeMap<u64, Bytes>,
    heads: Vec<Head>,
    shards: BTreeMap<ShardName, Bytes>,
}

impl PartitionState {
    fn admit(&mut self, server: &str, writer: Writer, raised: Fence) -> Result<(), StoreError> {
        match (writer.against(self.fence.as_ref()), &self.fence) {
            (Standing::Fenced, Some(fence)) => {
                return Err(StoreError::Fenced { server: server.to_owned(), fence: fence.clone() });
            }
            (Standing::Above, _) => self.fence = Some(raised),
            _ => {}
        }
        Ok(())
    }
}

impl MemoryStore {
    /// An empty store. `random` makes its run id.
    #[must_use]
    pub fn new(name: &str, random: [u8; 16]) -> Self {
        let run_id = uuid::Builder::from_random_bytes(random).into_uuid().simple().to_string();
        Self { name: name.to_owned(), run_id, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code below panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn raise(
        &self,
        id: TopicPartition,
        writer: Writer,
        raised_at_ms: i64,
        address: String,
    ) -> Result<(), StoreError> {
        bounded(&self.name, "an address", address.len(), TIER_ADDRESS_BYTES)?;
        let Writer { epoch, data_dir } = writer;
        let raised = Fence { epoch, data_dir, raised_at_ms, address };
        self.state().partitions.entry(id).or_default().admit(&self.name, writer, raised)
    }

    fn store_shard(&self, name: ShardName, writer: Writer, shard: Bytes) -> Result<(), StoreError> {
        bounded(&self.name, "a shard", shard.len(), TIER_SHARD_BYTES)?;
        let mut state = self.state();
        let partition = state.partitions.entry(name.partition).or_default();
        partition.admit(&self.name, writer, Fence::raised_by_put(writer))?;
        match partition.shards.get(&name) {
            Some(old) if *old == shard => Ok(()),
            Some(_) => Err(StoreError::Conflict { server: self.name.clone(), name }),
            None => {
                // A copy: the bytes may be a slice of a larger buffer, which would stay alive with it.
                let bytes = shard.len() as u64;
                partition.shards.insert(name, Bytes::copy_from_slice(&shard));
                state.shard_bytes += bytes;
                Ok(())
            }
        }
    }

    fn store_entry(
        &self,
        id: TopicPartition,
        writer: Writer,
        (number, entry): Numbered,
        head: Option<Head>,
    ) -> Result<(), StoreError> {
        bounded(&self.name, "a manifest entry", entry.len(), TIER_RECORD_BYTES)?;
        if let Some((_, record)) = &head {
            bounded(&self.name, "a head record", record.len(), TIER_RECORD_BYTES)?;
        }
        let mut state = self.state();
        let partition = state.partitions.entry(id).or_default();
        partition.admit(&self.name, writer, Fence::raised_by_put(writer))?;
        partition.entries.insert(number, entry);
        if let Some(head) = head {
            take_head(&mut partition.heads, head);
        }
        Ok(())
    }
}

fn now<'a, T: Send + 'a>(result: Result<T, StoreError>) -> Reply<'a, T> {
    ready(result).boxed()
}

impl ShardStore for MemoryStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn inspect(&self) -> Reply<'_, ServerReport> {
        now(Ok(ServerReport {
            run_id: self.run_id.clone(),
            eviction_policy: None,
            role: Role::Primary,
            loading: false,
            cluster_enabled: false,
            persistence: Persistence::None,
            used_bytes: Some(self.state().shard_bytes),
            max_bytes: None,
        }))
    }

    fn cluster_meta(&self) -> Reply<'_, Option<Bytes>> {
        now(Ok(self.state().meta.clone()))
    }

    fn set_cluster_meta(&self, record: Bytes) -> Reply<'_, Bytes> {
        now(bounded(&self.name, "the cluster record", record.len(), TIER_RECORD_BYTES)
            .map(|()| self.state().meta.get_or_insert(record).clone()))
    }

    fn put_topic(&self, topic: TopicId, record: Bytes) -> Reply<'_, ()> {
        now(bounded(&self.name, "a topic record", record.len(), TIER_RECORD_BYTES).map(|()| {
            self.state().topics.insert(topic, record);
        }))
    }

    fn topics(&self) -> Reply<'_, Vec<(TopicId, Bytes)>> {
        now(Ok(self.state().topics.iter().map(|(id, record)| (*id, record.clone())).collect()))
    }

    fn fence(&self, partition: TopicPartition) -> Reply<'_, Option<Fence>> {
        now(Ok(self.state().partitions.get(&partition).and_then(|state| state.fence.clone())))
    }

    fn raise_fence(
        &self,
        partition: TopicPartition,
        writer: Writer,
        now_ms: i64,
        address: String,
    ) -> Reply<'_, ()> {
        now(self.raise(partition, writer, now_ms, address))
    }

    fn put_shard(&self, name: ShardName, writer: Writer, shard: Bytes) -> Reply<'_, ()> {
        now(self.store_shard(name, writer, shard))
    }

    fn get_shard(&self, name: ShardName) -> Reply<'_, Option<Bytes>> {
        let state = self.state();
        now(Ok(state.partitions.get(&name.partition).and_then(|p| p.shards.get(&name)).cloned()))
    }

    fn remove_shard(&self, name: ShardName) -> Reply<'_, ()> {
        let mut state = self.state();
        let partition = state.partitions.get_mut(&name.partition);
        if let Some(removed) = partition.and_then(|partition| partition.shards.remove(&name)) {
            state.shard_bytes -= removed.len() as u64;
        }
        now(Ok(()))
    }

    fn put_entry(
        &self,
        partition: TopicPartition,
        writer: Writer,
        number: u64,
        entry: Bytes,
        head: Option<Head>,
    ) -> Reply<'_, ()> {
        now(self.store_entry(partition, writer, (number, entry), head))
    }

    fn entries(&self, partition: TopicPartition) -> Reply<'_, Vec<Numbered>> {
        let state = self.state();
        let partition = state.partitions.get(&partition);
        now(Ok(partition
            .map(|p| p.entries.iter().map(|(number, entry)| (*number, entry.clone())).collect())
            .unwrap_or_default()))
    }

    fn heads(&self, partition: TopicPartition) -> Reply<'_, Vec<Head>> {
        let state = self.state();
        now(Ok(state.partitions.get(&partition).map(|p| p.heads.clone()).unwrap_or_default()))
    }

    fn remove_partition(&self, partition: TopicPartition, _generations: u32) -> Reply<'_, ()> {
        let mut state = self.state();
        if let Some(removed) = state.partitions.remove(&partition) {
            state.shard_bytes -=
                removed.shards.values().map(|shard| shard.len() as u64).sum::<u64>();
        }
        now(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn memory_conforms() {
        crate::tier::store::conformance::run(Arc::new(MemoryStore::new("memory", [1; 16]))).await;
    }
}

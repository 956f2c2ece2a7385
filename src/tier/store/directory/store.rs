//! The calls of a store, run on blocking threads.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::sync::Semaphore;

use super::blocking::Directory;
use crate::disk::{Disk, Reserve};
use crate::tier::store::{
    Fence, Head, Numbered, Reply, ServerReport, ShardName, ShardStore, StoreError, Writer,
};
use crate::types::{TopicId, TopicPartition};

/// Calls at work at the same time in one store. They wait for syncs, so more than the disks' queues help nobody, and
/// six stores share the runtime's blocking threads with the rest of the server.
const CALLS: usize = 16;

/// The store in a directory.
#[derive(Debug)]
pub struct DirectoryStore {
    directory: Arc<Directory>,
    calls: Arc<Semaphore>,
}

impl DirectoryStore {
    /// A store in `root`, made when missing. Does no IO; a directory that cannot be opened is an error of each
    /// operation until it can. `random` makes the run id of a new one.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, root: PathBuf, random: [u8; 16]) -> Self {
        Self::with(disk, root, random, None)
    }

    /// As [`DirectoryStore::new`], in a store that refuses shards before they take the last room of the file system that
    /// `reserve` is of.
    #[must_use]
    pub fn beside(
        disk: Arc<dyn Disk>,
        root: PathBuf,
        random: [u8; 16],
        reserve: Arc<Reserve>,
    ) -> Self {
        Self::with(disk, root, random, Some(reserve))
    }

    fn with(
        disk: Arc<dyn Disk>,
        root: PathBuf,
        random: [u8; 16],
        reserve: Option<Arc<Reserve>>,
    ) -> Self {
        let directory = Arc::new(Directory::new(disk, root, random, reserve));
        Self { directory, calls: Arc::new(Semaphore::new(CALLS)) }
    }

    fn call<'a, T: Send + 'static>(
        &'a self,
        body: impl FnOnce(&Directory) -> Result<T, StoreError> + Send + 'static,
    ) -> Reply<'a, T> {
        async move {
            let calls = Arc::clone(&self.calls);
            let permit = calls.acquire_owned().await.expect("this semaphore is never closed");
            let directory = Arc::clone(&self.directory);
            let call = tokio::task::spawn_blocking(move || {
                // Until the work ends, also when nobody awaits it any more.
                let _permit = permit;
                body(&directory)
            });
            call.await.unwrap_or_else(|error| {
                Err(StoreError::Unreachable {
                    server: self.directory.name().to_owned(),
                    source: Box::new(error),
                })
            })
        }
        .boxed()
    }
}

impl ShardStore for DirectoryStore {
    fn name(&self) -> &str {
        self.directory.name()
    }

    fn inspect(&self) -> Reply<'_, ServerReport> {
        self.call(Directory::inspect)
    }

    fn cluster_meta(&self) -> Reply<'_, Option<Bytes>> {
        self.call(Directory::cluster_meta)
    }

    fn set_cluster_meta(&self, record: Bytes) -> Reply<'_, Bytes> {
        self.call(move |directory| directory.set_cluster_meta(record))
    }

    fn put_topic(&self, topic: TopicId, record: Bytes) -> Reply<'_, ()> {
        self.call(move |directory| directory.put_topic(topic, &record))
    }

    fn topics(&self) -> Reply<'_, Vec<(TopicId, Bytes)>> {
        self.call(Directory::topics)
    }

    fn fence(&self, partition: TopicPartition) -> Reply<'_, Option<Fence>> {
        self.call(move |directory| directory.fence(partition))
    }

    fn raise_fence(
        &self,
        partition: TopicPartition,
        writer: Writer,
        now_ms: i64,
        address: String,
    ) -> Reply<'_, ()> {
        self.call(move |directory| directory.raise_fence(partition, writer, now_ms, address))
    }

    fn put_shard(&self, name: ShardName, writer: Writer, shard: Bytes) -> Reply<'_, ()> {
        self.call(move |directory| directory.put_shard(name, writer, &shard))
    }

    fn get_shard(&self, name: ShardName) -> Reply<'_, Option<Bytes>> {
        self.call(move |directory| directory.get_shard(name))
    }

    fn put_entry(
        &self,
        partition: TopicPartition,
        writer: Writer,
        number: u64,
        entry: Bytes,
        head: Option<Head>,
    ) -> Reply<'_, ()> {
        self.call(move |directory| directory.put_entry(partition, writer, (number, entry), head))
    }

    fn entries(&self, partition: TopicPartition) -> Reply<'_, Vec<Numbered>> {
        self.call(move |directory| directory.entries(partition))
    }

    fn heads(&self, partition: TopicPartition) -> Reply<'_, Vec<Head>> {
        self.call(move |directory| directory.heads(partition))
    }

    fn remove_shard(&self, name: ShardName) -> Reply<'_, ()> {
        self.call(move |directory| directory.remove_shard(name))
    }

    fn remove_partition(&self, partition: TopicPartition, _generations: u32) -> Reply<'_, ()> {
        self.call(move |directory| directory.remove_partition(partition))
    }
}

#[cfg(test)]
mod tests;

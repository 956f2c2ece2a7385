//! A shard server that is only read from, whatever the layers above try.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::StoreError;
use super::shard_store::{
    Fence, Head, Numbered, Reply, ServerReport, ShardName, ShardStore, Writer,
};
use crate::types::{TopicId, TopicPartition};

/// Reads from another store and refuses every write. The cluster record is the exception: it seems to be set, and is not,
/// so that an empty server counts as one that holds nothing.
#[derive(Debug)]
pub struct ReadOnlyStore(Arc<dyn ShardStore>);

impl ReadOnlyStore {
    /// Over `store`, of which only the reading operations are called.
    #[must_use]
    pub fn new(store: Arc<dyn ShardStore>) -> Self {
        Self(store)
    }

    fn refuse<T: Send + 'static>(&self) -> Reply<'_, T> {
        let server = self.0.name().to_owned();
        let reason = "it was opened for reading".to_owned();
        std::future::ready(Err(StoreError::Refused { server, reason })).boxed()
    }
}

impl ShardStore for ReadOnlyStore {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn inspect(&self) -> Reply<'_, ServerReport> {
        self.0.inspect()
    }

    fn cluster_meta(&self) -> Reply<'_, Option<Bytes>> {
        self.0.cluster_meta()
    }

    fn set_cluster_meta(&self, record: Bytes) -> Reply<'_, Bytes> {
        async move { Ok(self.0.cluster_meta().await?.unwrap_or(record)) }.boxed()
    }

    fn put_topic(&self, _: TopicId, _: Bytes) -> Reply<'_, ()> {
        self.refuse()
    }

    fn topics(&self) -> Reply<'_, Vec<(TopicId, Bytes)>> {
        self.0.topics()
    }

    fn fence(&self, partition: TopicPartition) -> Reply<'_, Option<Fence>> {
        self.0.fence(partition)
    }

    fn raise_fence(&self, _: TopicPartition, _: Writer, _: i64, _: String) -> Reply<'_, ()> {
        self.refuse()
    }

    fn put_shard(&self, _: ShardName, _: Writer, _: Bytes) -> Reply<'_, ()> {
        self.refuse()
    }

    fn get_shard(&self, name: ShardName) -> Reply<'_, Option<Bytes>> {
        self.0.get_shard(name)
    }

    fn put_entry(
        &self,
        _: TopicPartition,
        _: Writer,
        _: u64,
        _: Bytes,
        _: Option<Head>,
    ) -> Reply<'_, ()> {
        self.refuse()
    }

    fn entries(&self, partition: TopicPartition) -> Reply<'_, Vec<Numbered>> {
        self.0.entries(partition)
    }

    fn heads(&self, partition: TopicPartition) -> Reply<'_, Vec<Head>> {
        self.0.heads(partition)
    }

    fn remove_shard(&self, _: ShardName) -> Reply<'_, ()> {
        self.refuse()
    }

    fn remove_partition(&self, _: TopicPartition, _: u32) -> Reply<'_, ()> {
        self.refuse()
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryStore;
    use super::*;
    use crate::types::{DataDirId, LeaderEpoch};

    #[tokio::test]
    async fn reads_pass_and_writes_do_not() {
        let inner: Arc<dyn ShardStore> = Arc::new(MemoryStore::new("one", [1; 16]));
        let store = ReadOnlyStore::new(Arc::clone(&inner));
        let record = Bytes::from_static(b"record");
        assert_eq!(store.set_cluster_meta(record.clone()).await.unwrap(), record);
        assert_eq!(inner.cluster_meta().await.unwrap(), None);
        let topic = TopicId([1; 16]);
        assert!(store.put_topic(topic, record.clone()).await.is_err());
        inner.put_topic(topic, record.clone()).await.unwrap();
        assert_eq!(store.topics().await.unwrap(), [(topic, record.clone())]);
        let partition = TopicPartition { topic, partition: 0 };
        let writer = Writer { epoch: LeaderEpoch(9), data_dir: DataDirId([1; 16]) };
        assert!(store.raise_fence(partition, writer, 0, String::new()).await.is_err());
        assert!(store.put_entry(partition, writer, 0, record, None).await.is_err());
        assert_eq!(inner.fence(partition).await.unwrap(), None);
    }
}

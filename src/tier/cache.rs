//! Opened fragments in memory, bounded by bytes.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::types::TopicPartition;

/// Which fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub partition: TopicPartition,
    pub number: u64,
    pub generation: u32,
}

/// Weighs its bytes and something for keeping it.
#[derive(Debug, Clone)]
struct Weight;

impl Weighter<Key, Bytes> for Weight {
    fn weight(&self, _: &Key, batches: &Bytes) -> u64 {
        batches.len() as u64 + 256
    }
}

/// The cache. What is larger than all of it is handed through.
#[derive(Debug)]
pub(super) struct FragmentCache(Arc<Cache<Key, Bytes, Weight>>);

impl FragmentCache {
    pub fn new(bytes: u64) -> Self {
        // A guess of how many fit, for the size of its tables.
        let items = usize::try_from(bytes / (128 * 1024)).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        Self(Arc::new(Cache::with_weighter(items, bytes, Weight)))
    }

    /// The batches of a fragment. Of several that ask for the same one, one opens it.
    pub async fn get<E>(
        &self,
        key: Key,
        open: impl Future<Output = Result<Bytes, E>>,
    ) -> Result<Bytes, E> {
        self.0.get_or_insert_async(&key, open).await
    }
}

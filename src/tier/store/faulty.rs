//! A store that fails as servers do, from a seed: for the tests of the layers above.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::{
    Fence, Head, Numbered, Reply, ServerReport, ShardName, ShardStore, StoreError, Writer,
};
use crate::types::{TopicId, TopicPartition};

/// How often what goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Of 100 calls, so many never reach the server.
    pub lost_requests_percent: u8,
    /// Of 100 calls, so many are done and their answer is lost.
    pub lost_replies_percent: u8,
    /// Each call waits up to so long before it reaches the server.
    pub delay_up_to_ms: u64,
    /// No call reaches the server.
    pub down: bool,
}

/// Wraps a store.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ShardStore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    random: u64,
    faults: Faults,
    calls: u64,
}

struct Plan {
    lost_request: bool,
    lost_reply: bool,
    delay: Duration,
}

impl FaultyStore {
    /// The same seed and the same order of calls give the same faults.
    pub fn new(inner: Arc<dyn ShardStore>, seed: u64, faults: Faults) -> Self {
        Self { inner, state: Mutex::new(State { random: seed, faults, calls: 0 }) }
    }

    /// From the next call on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).faults = faults;
    }

    /// Calls so far, failed ones too.
    pub fn calls(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).calls
    }

    fn plan(&self) -> Plan {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.calls += 1;
        let faults = state.faults;
        Plan {
            lost_request: state.below(100) < u64::from(faults.lost_requests_percent) || faults.down,
            lost_reply: state.below(100) < u64::from(faults.lost_replies_percent),
            delay: Duration::from_millis(state.below(faults.delay_up_to_ms + 1)),
        }
    }

    fn pass<'a, T: Send + 'a>(
        &'a self,
        operation: &'static str,
        call: impl FnOnce(&'a dyn ShardStore) -> Reply<'a, T> + Send + 'a,
    ) -> Reply<'a, T> {
        async move {
            let plan = self.plan();
            let server = self.inner.name().to_owned();
            if !plan.delay.is_zero() {
                tokio::time::sleep(plan.delay).await;
            }
            if plan.lost_request {
                return Err(StoreError::Unreachable { server, source: "a made-up fault".into() });
            }
            let answer = call(&*self.inner).await?;
            if plan.lost_reply {
                return Err(StoreError::Timeout { server, operation, after: plan.delay });
            }
            Ok(answer)
        }
        .boxed()
    }
}

impl State {
    /// SplitMix64.
    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }
}

impl ShardStore for FaultyStore {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn inspect(&self) -> Reply<'_, ServerReport> {
        self.pass("inspect", |store| store.inspect())
    }

    fn cluster_meta(&self) -> Reply<'_, Option<Bytes>> {
        self.pass("cluster meta", |store| store.cluster_meta())
    }

    fn set_cluster_meta(&self, record: Bytes) -> Reply<'_, Bytes> {
        self.pass("set cluster meta", |store| store.set_cluster_meta(record))
    }

    fn put_topic(&self, topic: TopicId, record: Bytes) -> Reply<'_, ()> {
        self.pass("put topic", move |store| store.put_topic(topic, record))
    }

    fn topics(&self) -> Reply<'_, Vec<(TopicId, Bytes)>> {
        self.pass("topics", |store| store.topics())
    }

    fn fence(&self, partition: TopicPartition) -> Reply<'_, Option<Fence>> {
        self.pass("fence", move |store| store.fence(partition))
    }

    fn raise_fence(
        &self,
        partition: TopicPartition,
        writer: Writer,
        now_ms: i64,
        address: String,
    ) -> Reply<'_, ()> {
        self.pass("raise fence", move |store| store.raise_fence(partition, writer, now_ms, address))
    }

    fn put_shard(&self, name: ShardName, writer: Writer, shard: Bytes) -> Reply<'_, ()> {
        self.pass("put shard", move |store| store.put_shard(name, writer, shard))
    }

    fn get_shard(&self, name: ShardName) -> Reply<'_, Option<Bytes>> {
        self.pass("get shard", move |store| store.get_shard(name))
    }

    fn put_entry(
        &self,
        partition: TopicPartition,
        writer: Writer,
        number: u64,
        entry: Bytes,
        head: Option<Head>,
    ) -> Reply<'_, ()> {
        self.pass("put entry", move |store| store.put_entry(partition, writer, number, entry, head))
    }

    fn entries(&self, partition: TopicPartition) -> Reply<'_, Vec<Numbered>> {
        self.pass("entries", move |store| store.entries(partition))
    }

    fn heads(&self, partition: TopicPartition) -> Reply<'_, Vec<Head>> {
        self.pass("heads", move |store| store.heads(partition))
    }

    fn remove_shard(&self, name: ShardName) -> Reply<'_, ()> {
        self.pass("remove shard", move |store| store.remove_shard(name))
    }

    fn remove_partition(&self, partition: TopicPartition, generations: u32) -> Reply<'_, ()> {
        self.pass("remove partition", move |store| store.remove_partition(partition, generations))
    }
}

mod tests {
    use super::*;
    use crate::tier::store::MemoryStore;
    use crate::tier::store::conformance::{self, fresh_partition, writer};

    fn faulty(seed: u64, faults: Faults) -> (Arc<MemoryStore>, FaultyStore) {
        let inner = Arc::new(MemoryStore::new("memory", [0; 16]));
        (Arc::clone(&inner), FaultyStore::new(inner, seed, faults))
    }

    #[tokio::test]
    async fn without_faults_the_wrapper_conforms() {
        conformance::run(Arc::new(faulty(1, Faults::default()).1)).await;
    }

    #[tokio::test]
    async fn a_lost_reply_is_done_and_a_lost_request_is_not() {
        let p = fresh_partition();
        let name = ShardName { partition: p, number: 1, generation: 0, index: 0 };
        let bytes = Bytes::from_static(b"x");
        let (inner, store) = faulty(1, Faults { lost_requests_percent: 100, ..Faults::default() });
        assert!(store.put_shard(name, writer(1, 1), bytes.clone()).await.is_err());
        assert_eq!(inner.get_shard(name).await.unwrap(), None);
        store.set_faults(Faults { lost_replies_percent: 100, ..Faults::default() });
        assert!(store.put_shard(name, writer(1, 1), bytes.clone()).await.is_err());
        assert_eq!(inner.get_shard(name).await.unwrap(), Some(bytes));
        store.set_faults(Faults { down: true, ..Faults::default() });
        assert!(store.inspect().await.is_err());
        assert_eq!(store.calls(), 3);
    }

    #[tokio::test]
    async fn a_seed_repeats_its_faults() {
        let faults = Faults { lost_requests_percent: 50, ..Faults::default() };
        let mut runs = Vec::new();
        for seed in [7, 7, 8] {
            let (_, store) = faulty(seed, faults);
            let mut run = Vec::new();
            for _ in 0..32 {
                run.push(store.inspect().await.is_ok());
            }
            runs.push(run);
        }
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
    }
}

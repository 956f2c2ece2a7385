//! For tests: a partition as a broker would keep it, servers that can be cut off and tampered with, and lives of a tier.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::encryption::{KeyRing, MasterKey};
use super::store::{
    Fence, Head as StoredHead, MemoryStore, Numbered, Reply, ServerReport, ShardName, ShardStore,
    StoreError, Writer,
};
use super::*;
use crate::log;
use crate::record::{self, BatchBuilder, Batches};
use crate::types::{
    ClusterId, DataDirId, LeaderEpoch, Offset, TopicId, TopicName, TopicPartition, Watermarks,
};

pub(super) const TOPIC: TopicId = TopicId([0x70; 16]);
pub(super) const CLUSTER: ClusterId = ClusterId([0xc1; 16]);
pub(super) const PARTITION: TopicPartition = TopicPartition { topic: TOPIC, partition: 0 };

/// What is seen of shipping from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// A shard is put.
    Shard,
    /// Entry and head are put.
    Entry,
    /// A shard is read.
    Read,
    /// A shard is removed.
    Remove,
    /// [`Fact::Intended`] becomes durable.
    Intended,
    /// [`Fact::Shipped`] becomes durable.
    Shipped,
    /// [`Fact::Completed`] becomes durable.
    Completed,
    /// [`Fact::Abandoned`] becomes durable.
    Abandoned,
}

/// Begun or done, at which server; facts are at server 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub act: Act,
    pub server: usize,
    pub done: bool,
}

/// Acts in the order in which they began and were done, and those that are held up once they have begun.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub seen: Vec<Seen>,
    pub held: Vec<(Act, usize)>,
}

impl Trace {
    /// How often `act` began, or was done, over all servers.
    pub fn count(&self, act: Act, done: bool) -> usize {
        self.seen.iter().filter(|seen| seen.act == act && seen.done == done).count()
    }
}

/// The trace of a world, shared by its servers and its broker.
#[derive(Debug, Clone, Default)]
pub(super) struct Tracer(Arc<watch::Sender<Trace>>);

impl Tracer {
    /// Sees `act`, which waits here while it is held.
    pub async fn act<T>(&self, act: Act, server: usize, work: impl Future<Output = T>) -> T {
        self.0.send_modify(|trace| trace.seen.push(Seen { act, server, done: false }));
        self.wait(|trace| !trace.held.contains(&(act, server))).await;
        let answer = work.await;
        self.0.send_modify(|trace| trace.seen.push(Seen { act, server, done: true }));
        answer
    }

    pub async fn wait(&self, what: impl FnMut(&Trace) -> bool) {
        self.0.subscribe().wait_for(what).await.unwrap();
    }

    pub fn hold(&self, held: &[(Act, usize)]) {
        self.0.send_modify(|trace| trace.held = held.to_vec());
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.0.borrow().seen.clone()
    }

    pub fn count(&self, act: Act, done: bool) -> usize {
        self.0.borrow().count(act, done)
    }
}

/// Bytes that were ever put under a name, and what was put a second time with others.
#[derive(Debug, Default)]
struct Puts {
    first: HashMap<ShardName, Bytes>,
    changed: Vec<ShardName>,
}

/// A server of a test.
#[derive(Debug)]
pub(super) struct TestStore {
    inner: Arc<dyn ShardStore>,
    index: usize,
    trace: Tracer,
    /// Steps that are still taken, over all servers of a life; shared.
    left: Arc<AtomicI64>,
    /// Shared.
    puts: Arc<Mutex<Puts>>,
    /// What is read in place of what is there.
    pub tampered: Arc<Mutex<HashMap<ShardName, Option<Bytes>>>>,
    /// Answers nothing but errors.
    pub down: Arc<std::sync::atomic::AtomicBool>,
}

impl TestStore {
    fn pass<'a, T: Send + 'a>(
        &'a self,
        call: impl FnOnce(&'a dyn ShardStore) -> Reply<'a, T> + Send + 'a,
    ) -> Reply<'a, T> {
        async move {
            if self.down.load(Ordering::Relaxed) {
                let server = self.inner.name().to_owned();
                return Err(StoreError::Unreachable { server, source: "down".into() });
            }
            one_of(&self.left, call(&*self.inner)).await
        }
        .boxed()
    }

    fn seen<'a, T: Send + 'a>(
        &'a self,
        act: Act,
        call: impl FnOnce(&'a dyn ShardStore) -> Reply<'a, T> + Send + 'a,
    ) -> Reply<'a, T> {
        async move { self.trace.act(act, self.index, self.pass(call)).await }.boxed()
    }
}

/// The process dies at a step: it is taken, and its answer not heard. No later one is taken.
pub(super) async fn one_of<T>(left: &AtomicI64, step: impl Future<Output = T>) -> T {
    let left = left.fetch_sub(1, Ordering::Relaxed);
    if left < 0 {
        std::future::pending::<()>().await;
    }
    let answer = step.await;
    if left == 0 {
        std::future::pending::<()>().await;
    }
    answer
}

impl ShardStore for TestStore {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn inspect(&self) -> Reply<'_, ServerReport> {
        self.pass(|store| store.inspect())
    }
    fn cluster_meta(&self) -> Reply<'_, Option<Bytes>> {
        self.pass(|store| store.cluster_meta())
    }
    fn set_cluster_meta(&self, record: Bytes) -> Reply<'_, Bytes> {
        self.pass(|store| store.set_cluster_meta(record))
    }
    fn put_topic(&self, topic: TopicId, record: Bytes) -> Reply<'_, ()> {
        self.pass(move |store| store.put_topic(topic, record))
    }
    fn topics(&self) -> Reply<'_, Vec<(TopicId, Bytes)>> {
        self.pass(|store| store.topics())
    }
    fn fence(&self, partition: TopicPartition) -> Reply<'_, Option<Fence>> {
        self.pass(move |store| store.fence(partition))
    }
    fn raise_fence(
        &self,
        partition: TopicPartition,
        writer: Writer,
        now_ms: i64,
        address: String,
    ) -> Reply<'_, ()> {
        self.pass(move |store| store.raise_fence(partition, writer, now_ms, address))
    }
    fn put_shard(&self, name: ShardName, writer: Writer, shard: Bytes) -> Reply<'_, ()> {
        let puts = Arc::clone(&self.puts);
        self.seen(Act::Shard, move |store| {
            async move {
                let put = store.put_shard(name, writer, shard.clone()).await;
                // A generation above the first may find its name taken, and must not get it.
                if put.is_ok() || name.generation == 0 {
                    let mut puts = puts.lock().unwrap();
                    if *puts.first.entry(name).or_insert_with(|| shard.clone()) != shard {
                        puts.changed.push(name);
                    }
                }
                put
            }
            .boxed()
        })
    }
    fn get_shard(&self, name: ShardName) -> Reply<'_, Option<Bytes>> {
        if let Some(tampered) = self.tampered.lock().unwrap().get(&name).cloned() {
            return std::future::ready(Ok(tampered)).boxed();
        }
        self.seen(Act::Read, move |store| store.get_shard(name))
    }
    fn put_entry(
        &self,
        partition: TopicPartition,
        writer: Writer,
        number: u64,
        entry: Bytes,
        head: Option<StoredHead>,
    ) -> Reply<'_, ()> {
        self.seen(Act::Entry, move |store| store.put_entry(partition, writer, number, entry, head))
    }
    fn entries(&self, partition: TopicPartition) -> Reply<'_, Vec<Numbered>> {
        self.pass(move |store| store.entries(partition))
    }
    fn heads(&self, partition: TopicPartition) -> Reply<'_, Vec<StoredHead>> {
        self.pass(move |store| store.heads(partition))
    }
    fn remove_shard(&self, name: ShardName) -> Reply<'_, ()> {
        self.seen(Act::Remove, move |store| store.remove_shard(name))
    }
    fn remove_partition(&self, partition: TopicPartition, generations: u32) -> Reply<'_, ()> {
        self.pass(move |store| store.remove_partition(partition, generations))
    }
}

/// Servers that outlive brokers.
pub(super) struct World {
    pub stores: Vec<Arc<dyn ShardStore>>,
    pub trace: Tracer,
    puts: Arc<Mutex<Puts>>,
    pub tampered: Arc<Mutex<HashMap<ShardName, Option<Bytes>>>>,
    pub down: Vec<Arc<std::sync::atomic::AtomicBool>>,
}

impl World {
    pub fn of(stores: Vec<Arc<dyn ShardStore>>) -> Self {
        let down = stores.iter().map(|_| Arc::default()).collect();
        let trace = Tracer::default();
        Self { stores, trace, puts: Arc::default(), tampered: Arc::default(), down }
    }

    pub fn in_memory(servers: u8) -> Self {
        Self::of((0..servers).map(|i| memory(i) as Arc<dyn ShardStore>).collect())
    }

    /// The servers as a life of `calls` calls sees them.
    pub fn servers(&self, calls: i64) -> Vec<Arc<dyn ShardStore>> {
        self.servers_while(&Arc::new(AtomicI64::new(calls)))
    }

    /// The servers as a life sees them that ends when no step is `left`.
    pub fn servers_while(&self, left: &Arc<AtomicI64>) -> Vec<Arc<dyn ShardStore>> {
        let wrap = |(index, (inner, down)): (usize, (&Arc<dyn ShardStore>, &Arc<_>))| {
            Arc::new(TestStore {
                inner: Arc::clone(inner),
                index,
                trace: self.trace.clone(),
                left: Arc::clone(left),
                puts: Arc::clone(&self.puts),
                tampered: Arc::clone(&self.tampered),
                down: Arc::clone(down),
            }) as Arc<dyn ShardStore>
        };
        self.stores.iter().zip(&self.down).enumerate().map(wrap).collect()
    }

    pub fn set_down(&self, server: usize, down: bool) {
        self.down[server].store(down, Ordering::Relaxed);
    }
}

// Here, since a panic in a shipper ends the process, and no test is named.
impl Drop for World {
    fn drop(&mut self) {
        let changed = self.puts.lock().map(|puts| puts.changed.clone()).unwrap_or_default();
        assert!(
            std::thread::panicking() || changed.is_empty(),
            "put with two sets of bytes: {changed:?}"
        );
    }
}

pub(super) fn memory(i: u8) -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(&format!("memory-{i}"), [i + 1; 16]))
}

pub(super) fn config() -> Config {
    let key = MasterKey::new(std::array::from_fn(|i| i as u8)).unwrap();
    Config { flush_size: 4, flush_time_ms: 60_000, ..Config::new(Arc::new(KeyRing::new(1, key))) }
}

pub(super) fn identity(dir: u8, cluster: Option<ClusterId>) -> Identity {
    let data_dir = DataDirId([dir; 16]);
    Identity { data_dir, cluster, fresh: CLUSTER, address: format!("broker-{dir}:9092") }
}

/// A tier that lives until dropped.
pub(super) struct Life {
    pub tier: Arc<Tier>,
    pub recovered: Recovered,
    stop: CancellationToken,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) async fn try_open(
    stores: Vec<Arc<dyn ShardStore>>,
    identity: Identity,
) -> Result<Life, OpenError> {
    let stop = CancellationToken::new();
    let opened =
        Tier::open(config(), stores, identity, Metrics::unregistered(), &|_| {}, stop.clone())
            .await?;
    assert_eq!(opened.cluster, opened.tier.core.cluster);
    Ok(Life { tier: opened.tier, recovered: opened.recovered, stop })
}

/// As [`open`], for a new data directory, with settings of the test's own.
pub(super) async fn open_with(config: Config, stores: Vec<Arc<dyn ShardStore>>) -> Life {
    let (stop, metrics) = (CancellationToken::new(), Metrics::unregistered());
    let opened = Tier::open(config, stores, identity(1, None), metrics, &|_| {}, stop.clone());
    let Opened { tier, recovered, .. } = opened.await.unwrap();
    Life { tier, recovered, stop }
}

pub(super) async fn open(stores: Vec<Arc<dyn ShardStore>>, dir: u8, is_new: bool) -> Life {
    try_open(stores, identity(dir, (!is_new).then_some(CLUSTER))).await.unwrap()
}

/// When the broker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    Never,
    /// Fact number n is not recorded.
    Before(usize),
    /// Fact number n is recorded, and nobody hears of it.
    After(usize),
}

/// What of a partition survives its broker.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub batches: Vec<Bytes>,
    pub marks: Vec<AppendMark>,
    pub runs: Vec<Run>,
    pub epoch: i32,
    pub intent: Option<Intent>,
    pub head: Option<Head>,
    pub last_number: Option<u64>,
    pub complete: Offset,
    pub start: Offset,
    pub facts: usize,
}

impl Disk {
    pub fn vdisk() -> Self {
        Self { complete: 1, start: 1, ..Self::default() }
    }

    pub fn end(&self) -> Offset {
        let last = self.batches.last();
        last.map_or(self.start, |b| record::BatchHeader::parse(b).unwrap().next_offset())
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.batches.concat()
    }

    /// Appends a batch of `records` by a producer whose sequences go on by themselves.
    pub fn append(&mut self, producer: i64, records: i32) {
        let base = self.end();
        let sequence = self.written_by(producer);
        let mut builder = BatchBuilder::new(1_000 * base).producer(producer, 0, sequence);
        for i in 0..i64::from(records) {
            let value = vec![base as u8; 300 + 7 * i as usize];
            builder.push(1_000 * base + i, Some(b"key"), Some(&value), &[]);
        }
        let mut batch = builder.build();
        record::assign(&mut batch, base, LeaderEpoch(self.epoch));
        let commit = self.marks.last().map_or(7, |mark| mark.commit + 1);
        self.marks.push(AppendMark { first_offset: base, commit, appended_ms: 5_000 + base });
        self.batches.push(batch.into());
    }

    fn written_by(&self, producer: i64) -> i32 {
        let headers = self.batches.iter().map(|b| record::BatchHeader::parse(b).unwrap());
        headers.filter(|h| h.producer_id == producer).map(|h| h.record_count).sum()
    }

    fn shipped(&self) -> Offset {
        self.head.map_or(self.start, |head| head.shipped)
    }
}

/// A broker's partition.
#[derive(Debug)]
pub(super) struct Double {
    pub disk: Arc<Mutex<Disk>>,
    pub watermarks: watch::Sender<Watermarks>,
    pub ship_to: watch::Sender<Offset>,
    /// Counts the passes of compaction.
    pub compacted: watch::Sender<u64>,
    pub in_step: watch::Sender<InStep>,
    death: Death,
}

impl Double {
    pub fn new(disk: Disk, death: Death) -> Arc<Self> {
        let (end, shipped) = (disk.end(), disk.shipped());
        let marks = Watermarks {
            log_start: disk.start,
            local_start: disk.start,
            complete: disk.complete.max(disk.start),
            shipped,
            high_watermark: end,
            log_end: end,
        };
        Arc::new(Self {
            disk: Arc::new(Mutex::new(disk)),
            watermarks: watch::Sender::new(marks),
            ship_to: watch::Sender::new(0),
            compacted: watch::Sender::new(0),
            in_step: watch::Sender::default(),
            death,
        })
    }

    pub fn ship(self: &Arc<Self>, life: &Life, info: &TopicInfo) -> ShipHandle {
        self.ship_as(Arc::clone(self) as Arc<dyn Local>, life, info)
    }

    /// As [`Double::ship`], seen through `local`.
    pub fn ship_as(&self, local: Arc<dyn Local>, life: &Life, info: &TopicInfo) -> ShipHandle {
        let disk = self.disk.lock().unwrap().clone();
        let state = ShipState {
            intent: disk.intent.clone(),
            head: disk.head,
            last_number: disk.last_number,
            shipped: disk.shipped(),
            complete: disk.complete,
        };
        let (watermarks, ship_to) = (self.watermarks.subscribe(), self.ship_to.subscribe());
        let compacted = self.compacted.subscribe();
        life.tier.ship(info.clone(), state, local, watermarks, ship_to, compacted)
    }

    pub fn append(&self, producer: i64, records: i32) {
        let mut disk = self.disk.lock().unwrap();
        disk.append(producer, records);
        let end = disk.end();
        self.watermarks.send_modify(|marks| (marks.high_watermark, marks.log_end) = (end, end));
    }

    pub fn ship_all(&self) {
        self.ship_to.send_replace(self.disk.lock().unwrap().end());
    }

    /// Waits until everything is complete; `false` after half a minute.
    pub async fn is_complete(&self) -> bool {
        let end = self.disk.lock().unwrap().end();
        let mut marks = self.watermarks.subscribe();
        let done = marks.wait_for(|marks| marks.complete == end);
        tokio::time::timeout(Duration::from_secs(30), done).await.is_ok()
    }
}

impl Local for Double {
    fn id(&self) -> TopicPartition {
        PARTITION
    }

    fn read(&self, from: Offset, upto: Offset, max_bytes: usize) -> Result<Bytes, log::Error> {
        let disk = self.disk.lock().unwrap();
        let mut bytes = Vec::new();
        for batch in &disk.batches {
            let header = record::BatchHeader::parse(batch).unwrap();
            let wanted = header.next_offset() > from && header.base_offset < upto;
            if wanted && (bytes.is_empty() || bytes.len() + batch.len() <= max_bytes) {
                bytes.extend_from_slice(batch);
            }
        }
        Ok(bytes.into())
    }

    fn marks(&self, from: Offset, upto: Offset) -> Vec<AppendMark> {
        let disk = self.disk.lock().unwrap();
        let first = disk.marks.partition_point(|mark| mark.first_offset <= from).saturating_sub(1);
        disk.marks[first..].iter().filter(|mark| mark.first_offset < upto).copied().collect()
    }

    fn runs(&self) -> Vec<Run> {
        self.disk.lock().unwrap().runs.clone()
    }

    fn epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.disk.lock().unwrap().epoch)
    }

    fn raise_epoch(&self, at_least: LeaderEpoch) {
        let mut disk = self.disk.lock().unwrap();
        disk.epoch = disk.epoch.max(at_least.0);
    }

    fn in_step(&self, step: InStep) {
        self.in_step.send_replace(step);
    }

    fn record(&self, fact: Fact) -> BoxFuture<'static, Result<(), Stopping>> {
        let mut disk = self.disk.lock().unwrap();
        let nth = disk.facts;
        disk.facts += 1;
        let dead = match self.death {
            Death::Never => false,
            Death::Before(n) => nth >= n,
            Death::After(n) => nth > n,
        };
        if dead {
            return std::future::ready(Err(Stopping)).boxed();
        }
        match &fact {
            Fact::Intended(intent) => {
                assert!(disk.intent.is_none(), "one intent at a time");
                assert!(disk.last_number < Some(intent.number), "numbers only rise");
                disk.last_number = Some(intent.number);
                disk.intent = Some(intent.clone());
            }
            Fact::Shipped(head) => {
                disk.last_number = disk.last_number.max(Some(head.number));
                (disk.intent, disk.head) = (None, Some(*head));
            }
            Fact::Abandoned { .. } => disk.intent = None,
            Fact::Completed { upto } => disk.complete = *upto,
        }
        self.watermarks.send_modify(|marks| {
            (marks.shipped, marks.complete) = (disk.shipped(), disk.complete);
            assert_eq!(marks.broken_order(), None);
        });
        let heard = self.death != Death::After(nth);
        std::future::ready(if heard { Ok(()) } else { Err(Stopping) }).boxed()
    }
}

pub(super) fn info(life: &Life, vdisk: bool) -> TopicInfo {
    let secret = life.tier.new_topic_secret(TOPIC, [5; SECRET_RANDOM_BYTES]);
    let bytes: Vec<u8> = (0..secret.len() / 2)
        .map(|i| u8::from_str_radix(&secret[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    let options = if vdisk { vec![("tlog.vdisk".into(), "true".into())] } else { Vec::new() };
    let record = TopicRecord {
        revision: 0,
        id: TOPIC,
        name: TopicName::new("disk-1").unwrap(),
        partitions: 1,
        options,
        secret: Some(SealedSecret::from_bytes(&bytes).unwrap()),
        deleted: false,
        shredded: false,
    };
    TopicInfo { record, vdisk }
}

/// Everything from `from` on, as a reader gets it.
pub(super) async fn read_all(
    reader: &TierReader,
    mut from: Offset,
    upto: Offset,
) -> Result<Vec<u8>, FetchError> {
    let mut all = Vec::new();
    while from < upto {
        let bytes = reader.read(from, upto, 1_500).await?;
        assert!(!bytes.is_empty(), "nothing at {from}");
        for batch in Batches::new(&bytes) {
            from = batch.unwrap().0.next_offset();
        }
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// Names of all fragments on a server.
pub(super) async fn entries(store: &dyn ShardStore) -> BTreeMap<u64, ManifestEntry> {
    let keys = config().keys;
    let decode = |(number, bytes): Numbered| {
        (number, ManifestEntry::decode(&bytes, PARTITION, number, &keys).unwrap())
    };
    store.entries(PARTITION).await.unwrap().into_iter().map(decode).collect()
}

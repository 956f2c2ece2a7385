//! What shipping promises, each promise with the step of which it depends held up, failed or cut off by a death.
//!
//! | a change that | is caught by |
//! |---|---|
//! | puts before the intent is durable | `nothing_is_put_before_the_intent_is_durable`, `a_death_at_any_step_…` |
//! | says shipped before entry and head are on all n servers | `shipped_waits_for_every_shard_and_every_entry`, `a_death_at_any_step_…` |
//! | says shipped with fewer than n shards | `shipped_waits_for_every_shard_and_every_entry` |
//! | says complete without reading each shard | `complete_waits_for_every_shard_to_be_read`, `a_shard_that_does_not_read_back_…` |
//! | reads shards back and does not open them | `a_shard_that_does_not_read_back_…` |
//! | seals a retry anew | `a_retry_after_a_death_puts_the_same_bytes`, `a_death_at_any_step_…` |
//! | takes a put below the fence, or takes its refusal for done | `a_put_that_a_claim_overtook_…`; of each store: `store/conformance.rs` |
//!
//! Nothing here waits for time to show that something does not happen: all tasks of a test share one thread, so that whatever
//! could go on has gone on after enough turns.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::super::rig::*;
use super::super::store::ShardName;
use super::super::{AppendMark, Fact, InStep, Run, Stopping};
use super::tests::{check_unbroken, ended, ship_everything};
use super::*;
use crate::log;
use crate::types::{LeaderEpoch, Offset, Sequence};

/// What ships as one fragment.
fn one_fragment() -> Disk {
    let mut disk = Disk::vdisk();
    disk.runs.push(Run { first_offset: 1, first_sequence: Sequence(100) });
    disk.append(4, 2);
    disk
}

/// A broker's partition whose facts are steps of its life, too.
#[derive(Debug)]
struct Witness {
    inner: Arc<Double>,
    trace: Tracer,
    left: Arc<AtomicI64>,
}

impl Local for Witness {
    fn id(&self) -> TopicPartition {
        self.inner.id()
    }
    fn read(&self, from: Offset, upto: Offset, max_bytes: usize) -> Result<Bytes, log::Error> {
        self.inner.read(from, upto, max_bytes)
    }
    fn marks(&self, from: Offset, upto: Offset) -> Vec<AppendMark> {
        self.inner.marks(from, upto)
    }
    fn runs(&self) -> Vec<Run> {
        self.inner.runs()
    }
    fn epoch(&self) -> LeaderEpoch {
        self.inner.epoch()
    }
    fn raise_epoch(&self, at_least: LeaderEpoch) {
        self.inner.raise_epoch(at_least);
    }
    fn in_step(&self, step: InStep) {
        self.inner.in_step(step);
    }
    fn record(&self, fact: Fact) -> BoxFuture<'static, Result<(), Stopping>> {
        let act = match fact {
            Fact::Intended(_) => Act::Intended,
            Fact::Shipped(_) => Act::Shipped,
            Fact::Abandoned { .. } => Act::Abandoned,
            Fact::Completed { .. } => Act::Completed,
        };
        let (inner, left, trace) =
            (Arc::clone(&self.inner), Arc::clone(&self.left), self.trace.clone());
        // Nothing is durable that nobody waits for.
        async move {
            let durable = async { inner.record(fact).await };
            trace.act(act, 0, one_of(&left, durable)).await
        }
        .boxed()
    }
}

/// A broker that ships all of `disk`, with its first servers' calls and facts as steps.
pub(super) struct Broker {
    life: Life,
    pub local: Arc<Double>,
    handle: ShipHandle,
    left: Arc<AtomicI64>,
}

impl Broker {
    pub async fn start(world: &World, disk: Disk, steps: i64) -> Self {
        let left = Arc::new(AtomicI64::new(i64::MAX));
        let life = open(world.servers_while(&left), 1, disk.epoch == 0).await;
        left.store(steps, Ordering::Relaxed);
        let local = Double::new(disk, Death::Never);
        let (inner, trace) = (Arc::clone(&local), world.trace.clone());
        let witness = Witness { inner, trace, left: Arc::clone(&left) };
        let handle = local.ship_as(Arc::new(witness), &life, &info(&life, true));
        local.ship_all();
        Self { life, local, handle, left }
    }

    fn shipped(&self) -> Offset {
        self.local.watermarks.borrow().shipped
    }

    fn complete(&self) -> Offset {
        self.local.watermarks.borrow().complete
    }

    /// Until the step at which it dies.
    pub async fn dies(&self) {
        while self.left.load(Ordering::Relaxed) >= 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Kills it; gives what its disk holds, as the next life finds it.
    pub async fn end(self) -> Disk {
        self.handle.stop().await;
        let mut disk = self.local.disk.lock().unwrap().clone();
        (disk.facts, disk.epoch) = (0, disk.epoch + 1);
        disk
    }
}

/// Waits for `what`, and until everything that can go on has.
pub(super) async fn quiet_after(trace: &Tracer, what: impl FnMut(&Trace) -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), trace.wait(what)).await;
    waited.unwrap_or_else(|_| panic!("{:?}", trace.seen()));
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

fn shard(number: u64, index: u8) -> ShardName {
    ShardName { partition: PARTITION, number, generation: 0, index }
}

/// All shards of a fragment on all servers: index and bytes.
async fn shards(world: &World, number: u64) -> Vec<(u8, Bytes)> {
    let mut found = Vec::new();
    for store in &world.stores {
        for index in 0..6 {
            let stored = store.get_shard(shard(number, index)).await.unwrap();
            found.extend(stored.map(|bytes| (index, bytes)));
        }
    }
    found
}

/// Without the machine and two of the servers, everything that was said to be shipped is there.
async fn check_shards_alone(world: &World, disk: &Disk, told: Offset, lost: [usize; 2]) {
    if told == disk.start {
        return;
    }
    lost.iter().for_each(|server| world.set_down(*server, true));
    let life = open(world.servers(i64::MAX), 9, true).await;
    let [topic] = &life.recovered.topics[..] else { panic!("{told} was shipped, no topic") };
    let [partition] = &topic.partitions[..] else { panic!("{told} was shipped: {topic:?}") };
    assert!(partition.shipped >= told, "{} after {told} was said", partition.shipped);
    let reader = life.tier.reader(&info(&life, true), PARTITION);
    let read = read_all(&reader, disk.start, partition.shipped).await.unwrap();
    assert!(disk.bytes().starts_with(&read));
    lost.iter().for_each(|server| world.set_down(*server, false));
}

#[tokio::test]
async fn nothing_is_put_before_the_intent_is_durable() {
    let world = World::in_memory(6);
    world.trace.hold(&[(Act::Intended, 0)]);
    let broker = Broker::start(&world, one_fragment(), i64::MAX).await;
    let begun =
        |trace: &Trace| trace.count(Act::Intended, false) + trace.count(Act::Shard, false) > 0;
    quiet_after(&world.trace, begun).await;
    assert_eq!(world.trace.count(Act::Shard, false), 0, "{:?}", world.trace.seen());
    assert_eq!(world.trace.count(Act::Entry, false), 0);
    assert_eq!(world.trace.count(Act::Intended, false), 1);
    world.trace.hold(&[]);
    assert!(broker.local.is_complete().await);
}

#[tokio::test]
async fn shipped_waits_for_every_shard_and_every_entry() {
    for act in [Act::Shard, Act::Entry] {
        for server in 0..6 {
            let world = World::in_memory(6);
            world.trace.hold(&[(act, server)]);
            let broker = Broker::start(&world, one_fragment(), i64::MAX).await;
            let others =
                |trace: &Trace| trace.count(act, true) == 5 || trace.count(Act::Shipped, false) > 0;
            quiet_after(&world.trace, others).await;
            assert_eq!(broker.shipped(), 1, "{act:?} at {server}: {:?}", world.trace.seen());
            assert_eq!(world.trace.count(Act::Shipped, false), 0, "{act:?} at {server}");
            world.trace.hold(&[]);
            assert!(broker.local.is_complete().await, "{act:?} at {server}");
            for act in [Act::Shard, Act::Entry] {
                assert_eq!(world.trace.count(act, true), 6, "{:?}", world.trace.seen());
            }
        }
    }
}

#[tokio::test]
async fn shipped_waits_for_a_server_that_refuses_its_entry_until_it_takes_it() {
    let world = World::in_memory(6);
    world.trace.hold(&[(Act::Entry, 2)]);
    let broker = Broker::start(&world, one_fragment(), i64::MAX).await;
    let begun =
        |trace: &Trace| trace.count(Act::Entry, false) == 6 || trace.count(Act::Shipped, false) > 0;
    quiet_after(&world.trace, begun).await;
    world.set_down(2, true);
    world.trace.hold(&[]);
    quiet_after(&world.trace, |trace| trace.count(Act::Entry, true) == 6).await;
    assert!(entries(&*world.stores[2]).await.is_empty());
    assert_eq!(broker.shipped(), 1, "{:?}", world.trace.seen());
    world.set_down(2, false);
    assert!(broker.local.is_complete().await);
    assert_eq!(entries(&*world.stores[2]).await.len(), 1);
}

#[tokio::test]
async fn complete_waits_for_every_shard_to_be_read() {
    for server in 0..6 {
        let world = World::in_memory(6);
        world.trace.hold(&[(Act::Read, server)]);
        let broker = Broker::start(&world, one_fragment(), i64::MAX).await;
        let others = |trace: &Trace| {
            trace.count(Act::Read, true) == 5 || trace.count(Act::Completed, false) > 0
        };
        quiet_after(&world.trace, others).await;
        assert_eq!((broker.shipped(), broker.complete()), (3, 1), "{server}");
        assert_eq!(world.trace.count(Act::Completed, false), 0, "{server}");
        world.trace.hold(&[]);
        assert!(broker.local.is_complete().await);
    }
}

#[tokio::test]
async fn a_shard_that_does_not_read_back_keeps_its_fragment_from_being_complete() {
    for gone in [false, true] {
        for index in 0..6 {
            let world = World::in_memory(6);
            // Held until the damage is done.
            world.trace.hold(&[(Act::Shipped, 0)]);
            let broker = Broker::start(&world, one_fragment(), i64::MAX).await;
            quiet_after(&world.trace, |trace| trace.count(Act::Shipped, false) == 1).await;
            let stored = shards(&world, 1).await;
            let mut bytes = stored.iter().find(|(of, _)| *of == index).unwrap().1.to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            let read = (!gone).then(|| Bytes::from(bytes));
            world.tampered.lock().unwrap().insert(shard(1, index), read);
            world.trace.hold(&[]);
            let board = || broker.life.tier.status().problems;
            while board().is_empty() && world.trace.count(Act::Completed, false) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!((broker.shipped(), broker.complete()), (3, 1), "{index} {gone}");
            assert!(board()[0].what.contains("do not read back"), "{:?}", board());
        }
    }
}

#[tokio::test]
async fn a_retry_after_a_death_puts_the_same_bytes() {
    for server in 0..6 {
        let world = World::in_memory(6);
        world.trace.hold(&[(Act::Shard, server)]);
        let broker = Broker::start(&world, one_fragment(), i64::MAX).await;
        quiet_after(&world.trace, |trace| trace.count(Act::Shard, true) == 5).await;
        let before = shards(&world, 1).await;
        assert_eq!(before.len(), 5);
        let left = broker.end().await;
        world.trace.hold(&[]);
        let disk = ship_everything(&world, left, false).await;
        check_unbroken(&world, &disk).await;
        assert_eq!(disk.head.unwrap().number, 1);
        let after = shards(&world, 1).await;
        assert_eq!(after.len(), 6);
        assert!(before.iter().all(|shard| after.contains(shard)));
    }
}

#[tokio::test]
async fn a_death_at_any_step_loses_nothing_that_was_said_to_be_shipped() {
    let pairs: Vec<_> = (0..6).flat_map(|a| (a + 1..6).map(move |b| [a, b])).collect();
    for steps in 0.. {
        let world = World::in_memory(6);
        let broker = Broker::start(&world, one_fragment(), steps).await;
        let whole = tokio::select! {
            whole = broker.local.is_complete() => whole,
            () = broker.dies() => false,
        };
        let told = broker.shipped();
        let mut left = broker.end().await;
        let pair = pairs[usize::try_from(steps).unwrap() % pairs.len()];
        check_shards_alone(&world, &left, told, pair).await;
        left.append(4, 2);
        let disk = ship_everything(&world, left, false).await;
        check_unbroken(&world, &disk).await;
        check_shards_alone(&world, &disk, disk.end(), pair).await;
        if whole {
            // Fences, lists, a fact, shards, entries, a fact, reads, a fact.
            assert!(steps >= 6 * 5 + 3, "{steps}");
            return;
        }
    }
}

#[tokio::test]
async fn a_put_that_a_claim_overtook_is_refused_and_ships_nothing() {
    for act in [Act::Shard, Act::Entry] {
        let world = World::in_memory(6);
        world.trace.hold(&std::array::from_fn::<_, 6, _>(|server| (act, server)));
        let old = Broker::start(&world, one_fragment(), i64::MAX).await;
        quiet_after(&world.trace, |trace| trace.count(act, false) == 6).await;

        let others = World::of(world.stores.clone());
        let second = open(others.servers(i64::MAX), 2, true).await;
        let found = second.recovered.topics[0].partitions.first().cloned();
        let (epoch, last_number) =
            found.map_or((5, Some(5_000)), |found| (found.epoch.0, found.last_number));
        let mut disk = Disk { epoch, last_number, ..Disk::vdisk() };
        disk.append(77, 3);
        let new = Double::new(disk, Death::Never);
        let _handle = new.ship(&second, &info(&second, true));
        new.ship_all();
        assert!(new.is_complete().await, "{:?}", second.tier.status());

        world.trace.hold(&[]);
        tokio::time::timeout(Duration::from_secs(10), ended(&old.handle)).await.unwrap();
        assert_eq!(old.shipped(), 1);
        assert_eq!(old.local.disk.lock().unwrap().head, None);
        let problems = old.life.tier.status().problems;
        assert!(problems[0].what.contains("broker-2:9092"), "{problems:?}");
        if act == Act::Shard {
            assert_eq!(shards(&world, 1).await, []);
        }
        for store in &world.stores {
            assert!(!entries(&**store).await.contains_key(&1));
        }
        let reader = second.tier.reader(&info(&second, true), PARTITION);
        let end = new.disk.lock().unwrap().end();
        assert_eq!(read_all(&reader, 1, end).await.unwrap(), new.disk.lock().unwrap().bytes());
    }
}

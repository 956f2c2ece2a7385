use std::collections::BTreeSet;
use std::time::Duration;

use super::super::rig::*;
use super::super::store::redis_process::RedisProcess;
use super::super::store::{DirectoryStore, RedisConfig, RedisStore, ShardName};
use super::super::{FetchError, Run, ShardError, Standing, TierReader};
use super::*;
use crate::record::BatchHeader;
use crate::types::{LeaderEpoch, Sequence};

/// Batches of two producers and of none, two epochs and two sequence runs.
fn some_disk() -> Disk {
    let mut disk = Disk::vdisk();
    disk.runs.push(Run { first_offset: 1, first_sequence: Sequence(100) });
    for (producer, records) in [(4, 2), (-1, 1), (9, 3), (4, 1), (4, 2), (9, 4)] {
        disk.append(producer, records);
    }
    disk.epoch = 2;
    for (producer, records) in [(4, 1), (9, 3), (-1, 5)] {
        disk.append(producer, records);
    }
    disk.runs.push(Run { first_offset: disk.end(), first_sequence: Sequence(7) });
    for (producer, records) in [(4, 3), (9, 2)] {
        disk.append(producer, records);
    }
    disk
}

pub(super) async fn ship_everything(world: &World, disk: Disk, is_new: bool) -> Disk {
    let life = open(world.servers(i64::MAX), 1, is_new).await;
    let info = info(&life, true);
    life.tier.put_topic(&info).await.unwrap();
    let local = Double::new(disk, Death::Never);
    let handle = local.ship(&life, &info);
    local.ship_all();
    assert!(local.is_complete().await, "{:?}", life.tier.status());
    handle.stop().await;
    local.disk.lock().unwrap().clone()
}

/// What a new data directory must learn about `disk` from whatever servers are left.
async fn check_rebuild(servers: Vec<Arc<dyn ShardStore>>, disk: &Disk) {
    let life = open(servers, 9, true).await;
    let [topic] = &life.recovered.topics[..] else { panic!("{:?}", life.recovered.topics) };
    let [partition] = &topic.partitions[..] else { panic!("{topic:?}") };
    assert_eq!(topic.record.name.as_str(), "disk-1");
    assert_eq!((partition.log_start, partition.shipped), (1, disk.end()));
    assert_eq!(partition.complete, partition.shipped);
    assert!(partition.epoch > LeaderEpoch(disk.epoch));
    assert_eq!(partition.head, disk.head);
    assert!(partition.last_number > disk.last_number);
    assert_eq!(partition.runs, disk.runs);
    assert_eq!(partition.lost, []);
    let headers: Vec<_> = disk.batches.iter().map(|b| BatchHeader::parse(b).unwrap()).collect();
    let mut epochs: Vec<(LeaderEpoch, i64)> = Vec::new();
    for header in &headers {
        if epochs.last().is_none_or(|last| last.0.0 != header.leader_epoch) {
            epochs.push((LeaderEpoch(header.leader_epoch), header.base_offset));
        }
    }
    assert_eq!(partition.epochs, epochs);
    assert_eq!(life.recovered.last_commit, disk.marks.last().unwrap().commit);
    assert_eq!(life.recovered.highest_producer_id, Some(9));
    // A resent batch is known again; the next one fits.
    for producer in [4, 9] {
        let last = headers.iter().rev().find(|h| h.producer_id == producer).unwrap();
        let verdict = partition.producers.check(last);
        assert!(matches!(verdict, Ok(crate::log::Verdict::Duplicate { .. })), "{verdict:?}");
        let next = BatchHeader { base_sequence: last.last_sequence() + 1, ..*last };
        assert_eq!(partition.producers.check(&next), Ok(crate::log::Verdict::Append));
    }
    let reader = life.tier.reader(&info(&life, true), PARTITION);
    assert_eq!(read_all(&reader, 1, disk.end()).await.unwrap(), disk.bytes());
}

#[tokio::test]
async fn what_was_shipped_comes_back_without_the_machine_and_any_two_servers() {
    let world = World::in_memory(6);
    let disk = ship_everything(&world, some_disk(), true).await;
    for (a, b) in (0..6usize).flat_map(|a| (a + 1..6).map(move |b| (a, b))) {
        world.set_down(a, true);
        world.set_down(b, true);
        check_rebuild(world.servers(i64::MAX), &disk).await;
        world.set_down(a, false);
        world.set_down(b, false);
        // Replaced by empty ones of the same name.
        let mut servers = world.servers(i64::MAX);
        servers[a] = memory(u8::try_from(a).unwrap());
        servers[b] = memory(u8::try_from(b).unwrap());
        check_rebuild(servers, &disk).await;
    }
}

#[tokio::test]
async fn directories_give_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let directories = || -> Vec<Arc<dyn ShardStore>> {
        let store = |i: u8| {
            let disk = Arc::new(crate::disk::FileDisk);
            Arc::new(DirectoryStore::new(disk, dir.path().join(i.to_string()), [i + 1; 16])) as _
        };
        (0..6).map(store).collect()
    };
    let disk = {
        let world = World::of(directories());
        ship_everything(&world, some_disk(), true).await
    };
    for lost in [1, 4] {
        std::fs::remove_dir_all(dir.path().join(lost.to_string())).unwrap();
    }
    // The locks of the first life go with its last task.
    let mut patience = 200;
    loop {
        let probe = directories();
        if probe[0].inspect().await.is_ok() || patience == 0 {
            break;
        }
        patience -= 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    check_rebuild(directories(), &disk).await;
}

#[tokio::test]
async fn a_death_at_any_fact_loses_nothing_and_seals_no_number_twice() {
    for after in [false, true] {
        for nth in 0.. {
            let death = if after { Death::After(nth) } else { Death::Before(nth) };
            let world = World::in_memory(6);
            let life = open(world.servers(i64::MAX), 1, true).await;
            let topic = info(&life, true);
            let local = Double::new(some_disk(), death);
            let handle = local.ship(&life, &topic);
            local.ship_all();
            let whole = tokio::select! {
                whole = local.is_complete() => whole,
                () = ended(&handle) => false,
            };
            handle.stop().await;
            drop(life);
            let mut left = local.disk.lock().unwrap().clone();
            left.facts = 0;
            left.epoch += 1;
            left.append(4, 2);
            let intended = left.intent.as_ref().map(|intent| intent.number);
            let disk = ship_everything(&world, left, false).await;
            check_unbroken(&world, &disk).await;
            if let Some(number) = intended {
                let stored = entries(&*world.stores[0]).await;
                assert!(stored.contains_key(&number), "the intent was given up needlessly");
            }
            if whole {
                assert!(nth >= 8, "{nth}");
                break;
            }
        }
    }
}

/// Dies at fact `nth` and comes back with other commit numbers, so that no intended body can be made again.
async fn dies_and_forgets(nth: usize) -> (World, Disk, u64) {
    let world = World::in_memory(6);
    let life = open(world.servers(i64::MAX), 1, true).await;
    let local = Double::new(some_disk(), Death::Before(nth));
    let handle = local.ship(&life, &info(&life, true));
    local.ship_all();
    ended(&handle).await;
    let mut left = local.disk.lock().unwrap().clone();
    (left.facts, left.epoch) = (0, left.epoch + 1);
    (1_000..).zip(&mut left.marks).for_each(|(by, mark)| mark.commit += by);
    let number = left.intent.as_ref().unwrap().number;
    let disk = ship_everything(&world, left, false).await;
    check_unbroken(&world, &disk).await;
    (world, disk, number)
}

#[tokio::test]
async fn an_intent_that_cannot_be_made_again_is_taken_from_its_shards_where_its_entry_is_stored() {
    let (world, disk, number) = dies_and_forgets(1).await;
    let stored = entries(&*world.stores[0]).await;
    assert!(stored[&number].last_commit < 1_000);
    check_rebuild(world.servers(i64::MAX), &disk).await;
}

#[tokio::test]
async fn an_intent_that_cannot_be_made_again_and_left_no_entry_is_given_up() {
    let world = World::in_memory(6);
    let mut left = some_disk();
    let life = open(world.servers(i64::MAX), 1, true).await;
    let local = Double::new(left.clone(), Death::After(0));
    let handle = local.ship(&life, &info(&life, true));
    local.ship_all();
    ended(&handle).await;
    left.intent = local.disk.lock().unwrap().intent.clone();
    left.last_number = Some(1);
    (1_000..).zip(&mut left.marks).for_each(|(by, mark)| mark.commit += by);
    drop(life);
    let disk = ship_everything(&world, left, false).await;
    check_unbroken(&world, &disk).await;
    let stored = entries(&*world.stores[0]).await;
    assert_eq!(stored.keys().next(), Some(&2));
}

pub(super) async fn ended(handle: &ShipHandle) {
    while !handle.task.is_finished() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Every server has the same unbroken chain over all offsets, and what is read is what was written.
pub(super) async fn check_unbroken(world: &World, disk: &Disk) {
    let first = entries(&*world.stores[0]).await;
    let life = open(world.servers(i64::MAX), 1, false).await;
    let reader = life.tier.reader(&info(&life, true), PARTITION);
    assert_eq!(read_all(&reader, 1, disk.end()).await.unwrap(), disk.bytes());
    let head = disk.head.unwrap();
    assert_eq!(first[&head.number].hash, head.hash);
    for store in &world.stores {
        let on_chain: BTreeSet<_> = entries(&**store).await.into_values().map(|e| e.hash).collect();
        assert!(on_chain.contains(&head.hash));
    }
}

#[tokio::test]
async fn a_death_at_any_call_to_a_server_loses_nothing_and_seals_no_number_twice() {
    let mut calls = 0;
    loop {
        let world = World::in_memory(6);
        let servers = world.servers(calls);
        let lived = tokio::time::timeout(Duration::from_millis(400), async {
            let Ok(life) = try_open(servers, identity(1, Some(CLUSTER))).await else {
                return (None, false);
            };
            let topic = info(&life, true);
            let local = Double::new(some_disk(), Death::Never);
            let handle = local.ship(&life, &topic);
            local.ship_all();
            let whole = tokio::time::timeout(Duration::from_millis(150), local.is_complete()).await;
            handle.stop().await;
            (Some(local), whole.is_ok())
        });
        let (local, whole) = lived.await.unwrap_or((None, false));
        let mut left = local.map_or_else(some_disk, |local| local.disk.lock().unwrap().clone());
        left.facts = 0;
        left.epoch += 1;
        let disk = ship_everything(&world, left, false).await;
        check_unbroken(&world, &disk).await;
        if whole {
            break;
        }
        // Every call would take minutes; a prime walks over all kinds of them.
        calls += 13;
    }
    assert!(calls > 100, "{calls}");
}

#[derive(Debug, Clone, Copy)]
enum Harm {
    Missing,
    Flipped,
    Truncated,
    WrongIndex,
    OtherFragment,
}

async fn harm(world: &World, number: u64, indices: &[u8], harm: Harm) {
    let entry = entries(&*world.stores[0]).await.remove(&number).unwrap();
    for index in indices {
        let name = |number, index| ShardName { partition: PARTITION, number, generation: 0, index };
        let at = async |name: ShardName| {
            for store in &world.stores {
                if let Some(shard) = store.get_shard(name).await.unwrap() {
                    return shard;
                }
            }
            panic!("no {name}")
        };
        let true_one = at(name(number, *index)).await;
        let other_index = u8::try_from((usize::from(*index) + 1) % entry.shards()).unwrap();
        let harmed = match harm {
            Harm::Missing => None,
            Harm::Flipped => {
                let mut bytes = true_one.to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
                Some(bytes.into())
            }
            Harm::Truncated => Some(true_one.slice(..true_one.len() - 9)),
            Harm::WrongIndex => Some(at(name(number, other_index)).await),
            Harm::OtherFragment => Some(at(name(number + 1, *index)).await),
        };
        world.tampered.lock().unwrap().insert(name(number, *index), harmed);
    }
}

#[tokio::test]
async fn two_of_six_shards_harmed_in_any_way_change_no_read_and_three_are_named() {
    let world = World::in_memory(6);
    let disk = ship_everything(&world, some_disk(), true).await;
    let number = *entries(&*world.stores[0]).await.keys().next().unwrap();
    let mut sets: Vec<Vec<u8>> = (0..6).map(|a| vec![a]).collect();
    sets.extend((0..6).flat_map(|a| (a + 1..6).map(move |b| vec![a, b])));
    sets.extend([vec![0, 1, 2], vec![0, 2, 5], vec![3, 4, 5]]);
    let kinds =
        [Harm::Missing, Harm::Flipped, Harm::Truncated, Harm::WrongIndex, Harm::OtherFragment];
    for kind in kinds {
        for set in &sets {
            harm(&world, number, set, kind).await;
            let life = open(world.servers(i64::MAX), 1, false).await;
            let reader = life.tier.reader(&info(&life, true), PARTITION);
            let read = read_all(&reader, 1, disk.end()).await;
            match (read, set.len()) {
                (Ok(bytes), 1 | 2) => assert_eq!(bytes, disk.bytes(), "{kind:?} {set:?}"),
                (Err(FetchError::Damaged { first: 1, what, .. }), 3) => {
                    assert!(what.contains("3 of 4 needed shards open"), "{what}");
                }
                (other, _) => panic!("{kind:?} {set:?}: {other:?}"),
            }
            world.tampered.lock().unwrap().clear();
        }
    }
}

#[tokio::test]
async fn a_broker_at_a_higher_epoch_fences_the_one_before() {
    let world = World::in_memory(6);
    let first = open(world.servers(i64::MAX), 1, true).await;
    let topic = info(&first, true);
    let old = Double::new(some_disk(), Death::Never);
    let old_handle = old.ship(&first, &topic);
    old.ship_all();
    assert!(old.is_complete().await);

    let second = open(world.servers(i64::MAX), 2, true).await;
    let found = second.recovered.topics[0].partitions[0].clone();
    let mut disk = Disk { start: found.shipped, complete: found.shipped, ..Disk::default() };
    (disk.epoch, disk.head, disk.last_number) = (found.epoch.0, found.head, found.last_number);
    disk.append(77, 3);
    let new = Double::new(disk, Death::Never);
    let _new_handle = new.ship(&second, &topic);
    new.ship_all();
    assert!(new.is_complete().await);

    let before = old.disk.lock().unwrap().head;
    old.append(4, 2);
    old.ship_all();
    tokio::time::timeout(Duration::from_secs(10), ended(&old_handle)).await.unwrap();
    assert_eq!(old.disk.lock().unwrap().head, before);
    let status = first.tier.status();
    let [problem] = &status.problems[..] else { panic!("{status:?}") };
    assert!(
        problem.what.contains("broker-2:9092") && problem.what.contains("stop that broker"),
        "{problem:?}"
    );
    assert!(second.tier.status().problems.is_empty());
    let end = new.disk.lock().unwrap().end();
    let reader = second.tier.reader(&topic, PARTITION);
    let expected = [&some_disk().bytes()[..], &new.disk.lock().unwrap().bytes()].concat();
    assert_eq!(read_all(&reader, 1, end).await.unwrap(), expected);
}

#[tokio::test]
async fn a_server_that_is_down_makes_shipping_wait_and_its_return_ends_the_wait() {
    let world = World::in_memory(6);
    world.set_down(3, true);
    let life = open(world.servers(i64::MAX), 1, true).await;
    let topic = info(&life, true);
    let local = Double::new(some_disk(), Death::Never);
    let _handle = local.ship(&life, &topic);
    local.ship_all();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(local.watermarks.borrow().shipped, 1);
    let status = life.tier.status();
    assert_eq!(status.servers.iter().filter(|s| s.standing != Standing::Up).count(), 1);
    assert!(!status.is_well());
    world.set_down(3, false);
    let back = tokio::time::timeout(Duration::from_secs(3), local.is_complete()).await;
    assert!(back.unwrap());
    assert!(life.tier.status().is_well(), "{:?}", life.tier.status());
}

#[tokio::test]
async fn a_policy_changed_under_a_running_broker_is_noticed_and_ends_shipping_there() {
    let redis = RedisProcess::start(&[]);
    let store = RedisStore::new(&redis.address(), RedisConfig::default()).unwrap();
    let mut stores: Vec<_> = (0..5).map(|i| memory(i) as Arc<dyn ShardStore>).collect();
    stores.push(Arc::new(store));
    let config = Config { audit_interval: Duration::from_millis(20), ..config() };
    let life = open_with(config, stores).await;
    let topic = info(&life, true);
    let local = Double::new(some_disk(), Death::Never);
    let _handle = local.ship(&life, &topic);
    local.ship_all();
    assert!(local.is_complete().await, "{:?}", life.tier.status());

    let standing = async |wanted: fn(&Standing) -> bool| {
        let end = Instant::now() + Duration::from_secs(10);
        while !life.tier.status().servers.iter().any(|server| wanted(&server.standing)) {
            assert!(Instant::now() < end, "{:?}", life.tier.status());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    redis.ask("CONFIG SET maxmemory-policy allkeys-lru");
    standing(|standing| matches!(standing, Standing::Unfit { why } if why.contains("noeviction")))
        .await;
    let shipped = local.watermarks.borrow().shipped;
    local.append(4, 2);
    local.ship_all();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(local.watermarks.borrow().shipped, shipped);
    redis.ask("CONFIG SET maxmemory-policy noeviction");
    let back = tokio::time::timeout(Duration::from_secs(10), local.is_complete()).await;
    assert!(back.unwrap());
    assert!(life.tier.status().is_well(), "{:?}", life.tier.status());
}

#[tokio::test]
async fn a_replaced_server_gets_back_what_is_not_complete() {
    let world = World::in_memory(6);
    let mut disk = ship_everything(&world, some_disk(), true).await;
    // As if the broker had ended before it read anything back.
    disk.complete = 1;
    let mut stores: Vec<_> = world.stores.iter().map(Arc::clone).collect();
    stores[2] = memory(2);
    let replaced = World::of(stores);
    ship_everything(&replaced, disk.clone(), false).await;
    let others: Vec<_> = (0..6).filter(|i| *i != 2).collect();
    for down in others.chunks(2).take(2) {
        down.iter().for_each(|i| replaced.set_down(*i, true));
        check_rebuild(replaced.servers(i64::MAX), &disk).await;
        down.iter().for_each(|i| replaced.set_down(*i, false));
    }
}

#[tokio::test]
async fn servers_of_another_cluster_are_refused_and_a_single_one_is_not_used() {
    let stores = World::in_memory(6);
    ship_everything(&stores, some_disk(), true).await;
    let other = Identity { cluster: Some(ClusterId([3; 16])), ..identity(1, None) };
    let refused = try_open(stores.servers(i64::MAX), other).await.map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::OtherCluster { theirs: CLUSTER, .. }), "{refused}");

    let foreign = memory(5);
    let record = super::super::ClusterMeta::new(ClusterId([3; 16])).encode();
    foreign.set_cluster_meta(record.into()).await.unwrap();
    let mut servers = stores.servers(i64::MAX);
    servers[5] = foreign;
    let life = open(servers, 1, false).await;
    life.tier.core.servers.at_least(5).await;
    let theirs = Standing::Foreign { cluster: ClusterId([3; 16]) };
    assert_eq!(life.tier.status().servers[5].standing, theirs);
}

#[tokio::test]
async fn another_master_key_is_named_when_a_data_directory_is_rebuilt() {
    let world = World::in_memory(6);
    ship_everything(&world, some_disk(), true).await;
    let key = super::super::MasterKey::new(std::array::from_fn(|i| i as u8 ^ 1)).unwrap();
    let config = Config { keys: Arc::new(super::super::KeyRing::new(1, key)), ..config() };
    let stop = CancellationToken::new();
    let servers = world.servers(i64::MAX);
    let opened =
        Tier::open(config, servers, identity(9, None), Metrics::unregistered(), &|_| {}, stop)
            .await;
    let error = opened.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::WrongKey(_)), "{error}");
}

#[tokio::test]
async fn an_old_copy_of_a_data_directory_ships_nothing() {
    let world = World::in_memory(6);
    let old = some_disk();
    ship_everything(&world, old.clone(), true).await;
    let life = open(world.servers(i64::MAX), 1, false).await;
    let local = Double::new(old, Death::Never);
    let handle = local.ship(&life, &info(&life, true));
    local.ship_all();
    tokio::time::timeout(Duration::from_secs(10), ended(&handle)).await.unwrap();
    assert!(life.tier.status().problems[0].what.contains("old copy"));
    assert_eq!(local.disk.lock().unwrap().facts, 0);
}

/// Deletes a topic; resolves once the broker may forget it.
fn told(life: &Life, topic: &TopicInfo) -> tokio::sync::oneshot::Receiver<()> {
    let (done, told) = tokio::sync::oneshot::channel();
    life.tier.delete_topic(topic, Box::new(move || done.send(()).unwrap()));
    told
}

#[tokio::test]
async fn a_deletion_that_no_server_heard_of_is_told_when_they_return() {
    let world = World::in_memory(6);
    drop(ship_everything(&world, some_disk(), true).await);
    (0..6).for_each(|i| world.set_down(i, true));
    let life = open(world.servers(i64::MAX), 1, false).await;
    let topic = info(&life, true);
    let told = told(&life, &topic);
    wait_for(&life, |status| status.deletions.len() == 1).await;
    let deletions = life.tier.status().deletions;
    assert_eq!((deletions[0].marked, deletions[0].needed), (0, 5));
    assert_eq!((life.tier.owed_deletions(), life.tier.status().is_well()), (1, false));
    // One that has not heard of it stays away.
    (0..5).for_each(|i| world.set_down(i, false));
    tokio::time::timeout(Duration::from_secs(10), told).await.unwrap().unwrap();
    assert_eq!((life.tier.owed_deletions(), life.tier.status().deletions), (0, Vec::new()));
    drop(life);
    world.set_down(5, false);
    let fresh = open(world.servers(i64::MAX), 9, true).await;
    assert_eq!(fresh.recovered.topics, []);
}

#[tokio::test]
async fn a_mark_outweighs_a_newer_record_and_is_not_overwritten_by_one_on_its_way() {
    let world = World::in_memory(6);
    let life = open(world.servers(i64::MAX), 1, true).await;
    let mut topic = info(&life, true);
    life.tier.put_topic(&topic).await.unwrap();
    (1..6).for_each(|i| world.set_down(i, true));
    life.tier.put_topic(&topic).await.unwrap_err();
    wait_for(&life, |s| s.servers.iter().filter(|s| s.standing != Standing::Up).count() == 5).await;
    let told = told(&life, &topic);
    wait_for(&life, |status| status.deletions.len() == 1).await;
    topic.record.revision = 7;
    assert!(life.tier.put_topic(&topic).await.unwrap_err().why.contains("deleted"));
    drop((told, life));
    (1..6).for_each(|i| world.set_down(i, false));
    let newer: Bytes = topic.record.encode(&config().keys).unwrap().into();
    for store in &world.stores[1..] {
        store.put_topic(TOPIC, newer.clone()).await.unwrap();
    }
    let fresh = open(world.servers(i64::MAX), 9, true).await;
    assert_eq!(fresh.recovered.topics, []);
}

async fn wait_for(life: &Life, wanted: impl Fn(&Status) -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !wanted(&life.tier.status()) {
        assert!(Instant::now() < end, "{:?}", life.tier.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_rebuild_that_cannot_open_fragments_says_what_it_waits_for_until_it_goes_on() {
    let world = Arc::new(World::in_memory(6));
    let disk = ship_everything(&world, some_disk(), true).await;
    (0..3).for_each(|i| world.set_down(i, true));
    let said = Arc::new(Mutex::new(Vec::<String>::new()));
    let (listen, stop) = (Arc::clone(&said), CancellationToken::new());
    let stores = world.servers(i64::MAX);
    let opening = {
        let stop = stop.clone();
        task::spawn("opening", async move {
            let progress = move |what: &str| listen.lock().unwrap().push(what.to_owned());
            let (id, metrics) = (identity(9, None), Metrics::unregistered());
            Tier::open(config(), stores, id, metrics, &progress, stop).await.unwrap()
        })
    };
    let end = Instant::now() + Duration::from_secs(10);
    let text = loop {
        let last = said.lock().unwrap().last().cloned().unwrap_or_default();
        if last.contains("open fragments") {
            break last;
        }
        assert!(Instant::now() < end, "{said:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(text.contains("3 of 6 answer, 4 are needed to open fragments"), "{text}");
    assert!(text.contains("memory-0 (") && text.contains("memory-2 ("), "{text}");
    assert!(!text.contains("memory-3"), "{text}");
    world.set_down(1, false);
    let opened = tokio::time::timeout(Duration::from_secs(10), opening).await.unwrap().unwrap();
    assert_eq!(opened.recovered.topics[0].partitions[0].shipped, disk.end());
    stop.cancel();
}

#[tokio::test]
async fn a_claim_says_what_it_waits_for_and_takes_it_back() {
    let world = World::in_memory(6);
    let life = open(world.servers(i64::MAX), 1, true).await;
    let topic = info(&life, true);
    life.tier.put_topic(&topic).await.unwrap();
    (0..3).for_each(|i| world.set_down(i, true));
    let local = Double::new(some_disk(), Death::Never);
    let _handle = local.ship(&life, &topic);
    local.ship_all();
    let waits = |status: &Status| status.problems.iter().any(|p| p.what.contains("3 of 6 answer"));
    wait_for(&life, waits).await;
    let what = life.tier.status().problems[0].what.clone();
    assert!(what.contains("5 are needed") && what.contains("memory-1 ("), "{what}");
    (0..3).for_each(|i| world.set_down(i, false));
    assert!(local.is_complete().await);
    wait_for(&life, Status::is_well).await;
}

#[tokio::test]
async fn a_deleted_topic_is_gone_from_all_servers() {
    let world = World::in_memory(6);
    let life = open(world.servers(i64::MAX), 1, true).await;
    let topic = info(&life, true);
    let local = Double::new(some_disk(), Death::Never);
    let handle = local.ship(&life, &topic);
    local.ship_all();
    assert!(local.is_complete().await);
    handle.stop().await;
    told(&life, &topic).await.unwrap();
    for store in &world.stores {
        assert!(entries(&**store).await.is_empty());
    }
    let fresh = open(world.servers(i64::MAX), 9, true).await;
    assert_eq!(fresh.recovered.topics, []);
}

#[tokio::test]
async fn stopping_ships_what_is_left_and_says_what_remains() {
    let world = World::in_memory(6);
    let life = open(world.servers(i64::MAX), 1, true).await;
    let mut disk = Disk::vdisk();
    disk.append(4, 2);
    let local = Double::new(disk.clone(), Death::Never);
    let _handle = local.ship(&life, &info(&life, true));
    let remaining = life.tier.stop(Instant::now() + Duration::from_secs(10)).await;
    assert_eq!(remaining, Remaining::default());
    assert_eq!(local.watermarks.borrow().complete, 3);

    let world = World::in_memory(6);
    let life = open(world.servers(i64::MAX), 1, true).await;
    world.set_down(0, true);
    let local = Double::new(disk, Death::Never);
    let _handle = local.ship(&life, &info(&life, true));
    let remaining = life.tier.stop(Instant::now() + Duration::from_millis(200)).await;
    assert_eq!(remaining, Remaining { partitions: 1, unshipped: 2, incomplete: 0 });
}

#[tokio::test]
async fn records_are_found_by_their_time() {
    let world = World::in_memory(6);
    let disk = ship_everything(&world, some_disk(), true).await;
    let life = open(world.servers(i64::MAX), 1, false).await;
    let reader: Arc<TierReader> = life.tier.reader(&info(&life, true), PARTITION);
    let mut all = Vec::new();
    for batch in &disk.batches {
        let header = BatchHeader::parse(batch).unwrap();
        let stamp =
            |i| (header.base_offset + i, 1_000 * header.base_offset + i, header.leader_epoch);
        all.extend((0..i64::from(header.record_count)).map(stamp));
    }
    for (offset, timestamp, epoch) in &all {
        let found = reader.offset_for_timestamp(*timestamp, 0, disk.end()).await.unwrap();
        assert_eq!(found, Some((*offset, *timestamp, *epoch)));
    }
    let last = *all.last().unwrap();
    assert_eq!(reader.offset_for_timestamp(last.1 + 1, 0, disk.end()).await.unwrap(), None);
    assert_eq!(reader.offset_for_timestamp(0, 0, disk.end()).await.unwrap(), Some(all[0]));
    assert_eq!(reader.max_timestamp(0, disk.end()).await.unwrap(), Some(last));
    assert_eq!(reader.max_timestamp(0, 1).await.unwrap(), None);
    // Bounds within a fragment, and within a batch.
    for from in 0..all.len() {
        for upto in from + 1..=all.len() {
            let (range, upto) = (&all[from..upto], all[upto - 1].0 + 1);
            let found = reader.offset_for_timestamp(0, range[0].0, upto).await.unwrap();
            assert_eq!(found, Some(range[0]));
            let found = reader.max_timestamp(range[0].0, upto).await.unwrap();
            assert_eq!(found, range.last().copied());
        }
    }
}

#[tokio::test]
async fn a_check_looks_at_every_shard_and_names_the_servers_of_the_bad_ones() {
    let world = World::in_memory(6);
    ship_everything(&world, some_disk(), true).await;
    let life = open(world.servers(i64::MAX), 1, false).await;
    let reader: Arc<TierReader> = life.tier.reader(&info(&life, true), PARTITION);
    let whole = reader.check(1).await.unwrap();
    assert_eq!((whole.needed, whole.good, whole.bad.len(), whole.first), (4, 6, 0, 1));
    assert!(whole.content.is_ok_and(|bytes| bytes > 0));

    let entry = entries(&*world.stores[0]).await.remove(&whole.number).unwrap();
    let shard = |index| ShardName {
        partition: PARTITION,
        number: entry.number,
        generation: entry.generation,
        index,
    };
    let store = |index: usize| {
        let at = world.stores.iter().position(|store| store.name() == entry.servers[index]);
        Arc::clone(&world.stores[at.unwrap()])
    };
    // Two that no read would ask for: one is gone, one has lost a bit.
    let stored = store(5).get_shard(shard(5)).await.unwrap().unwrap();
    let mut rotten = stored.to_vec();
    rotten[stored.len() / 2] ^= 1;
    world.tampered.lock().unwrap().extend([(shard(4), None), (shard(5), Some(rotten.into()))]);
    reader.read(1, 2, 1).await.unwrap();
    let degraded = reader.check(1).await.unwrap();
    assert_eq!(degraded.good, 4);
    let bad: Vec<_> = degraded.bad.iter().map(|bad| (&bad.server, &bad.error)).collect();
    assert_eq!(
        bad,
        [(&entry.servers[4], &ShardError::Missing), (&entry.servers[5], &ShardError::Rotten)]
    );
    assert!(degraded.content.is_ok());

    // One more than can be spared.
    world.tampered.lock().unwrap().insert(shard(0), None);
    let lost = reader.check(1).await.unwrap();
    assert_eq!(lost.good, 3);
    assert!(matches!(lost.content, Err(FetchError::Damaged { first: 1, .. })), "{lost:?}");
}

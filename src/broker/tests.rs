//! A broker on the simulated disk: what was acknowledged is there after a power cut at any moment.

mod full;

use std::collections::HashMap;
use std::path::PathBuf;

use bytes::Bytes;
use prometheus_client::registry::Registry;

use super::catalogue::PRODUCER_AGE_MS;
use super::*;
use crate::disk::Disk;
use crate::disk::sim::{Operation, SimDisk};
use crate::record::{BatchBuilder, Batches, Records, plain_records};
use crate::types::{ClusterId, Offset, TopicId};
use std::sync::Arc;

pub(super) fn start(disk: &SimDisk) -> Arc<Broker> {
    try_start(disk).unwrap()
}

pub(super) fn try_start(disk: &SimDisk) -> Result<Arc<Broker>, OpenError> {
    try_start_with(disk, false)
}

fn try_start_with(disk: &SimDisk, keep_reserve: bool) -> Result<Arc<Broker>, OpenError> {
    try_start_as(disk, |config| config.keep_reserve = keep_reserve)
}

fn try_start_as(
    disk: &SimDisk,
    change: impl FnOnce(&mut Config),
) -> Result<Arc<Broker>, OpenError> {
    let path = PathBuf::from("/data");
    let mut data_dir =
        DataDir::open(Arc::new(disk.clone()) as Arc<dyn Disk>, &path, [5; 16]).unwrap();
    let cluster = ClusterId::from_random([1; 16]);
    data_dir.settle(cluster).unwrap();
    let mut config = Config::new(path);
    config.keep_reserve = false;
    // Small, so that files roll and checkpoints are written within a test.
    config.commit_log_file_bytes = 64 * 1024;
    config.checkpoint_bytes = 48 * 1024;
    change(&mut config);
    let metrics = Metrics::new(&mut Registry::default());
    Broker::open(config, &data_dir, Adopted::default(), cluster, None, metrics)
}

pub(super) fn plain(name: &str, partitions: i32) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions, options: Vec::new() }
}

pub(super) fn batch(values: &[String]) -> Bytes {
    let mut builder = BatchBuilder::new(1_000);
    for value in values {
        builder.push(1_000, None, Some(value.as_bytes()), &[]);
    }
    builder.build().into()
}

fn sequenced(value: &str, producer: i64, sequence: i32) -> Bytes {
    let mut builder = BatchBuilder::new(1_000).producer(producer, 0, sequence);
    builder.push(1_000, None, Some(value.as_bytes()), &[]);
    builder.build().into()
}

pub(super) async fn append(partition: &Arc<Partition>, batch: Bytes) -> Offset {
    partition.append(batch, Origin::Kafka).unwrap().await.unwrap().base_offset
}

/// All values of a partition by offset.
pub(super) async fn contents(partition: &Partition) -> Vec<(Offset, String)> {
    let mut found = Vec::new();
    let mut from = partition.watermarks().log_start;
    loop {
        let bytes = partition.read(from, 10_000).await.unwrap();
        if bytes.is_empty() {
            return found;
        }
        for item in Batches::new(&bytes) {
            let (header, batch) = item.unwrap();
            let plain = plain_records(batch, &header).unwrap();
            for record in Records::new(&plain, &header) {
                let record = record.unwrap();
                let offset = header.base_offset + i64::from(record.offset_delta);
                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                found.push((offset, value));
            }
            from = header.next_offset();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_power_cut_at_any_moment() {
    let seed: u64 = rand_seed();
    println!("seed {seed}");
    let disk = SimDisk::new();
    let broker = start(&disk);
    let topic = broker.create_topic(plain("t", 3)).await.unwrap();
    let mut acknowledged: HashMap<i32, Vec<(Offset, String)>> = HashMap::new();
    for round in 0..120u64 {
        for index in 0..3 {
            let values: Vec<String> = (0..=round % 3)
                .map(|n| {
                    format!(
                        "{index}/{round}/{n}/{}",
                        "x".repeat((seed.rotate_left(round as u32) % 700) as usize)
                    )
                })
                .collect();
            let partition = topic.partition(index).unwrap();
            let base = append(partition, batch(&values)).await;
            let entries = acknowledged.entry(index).or_default();
            entries.extend((base..).zip(values));
        }
        if round % 8 == 7 {
            let image = disk.crash(seed.wrapping_add(round));
            check_image(&image, topic.id(), &acknowledged).await;
        }
    }
    broker.stop();
}

async fn check_image(
    image: &SimDisk,
    topic: TopicId,
    acknowledged: &HashMap<i32, Vec<(Offset, String)>>,
) {
    let broker = start(image);
    let topic = broker.topic_by_id(&topic).unwrap();
    for (index, expected) in acknowledged {
        let partition = topic.partition(*index).unwrap();
        assert_eq!(contents(partition).await, *expected, "partition {index}");
        assert!(partition.leader_epoch().0 > 0, "an unclean start raises the epoch");
        let next = append(partition, batch(&["after".to_owned()])).await;
        assert_eq!(next, expected.last().unwrap().0 + 1);
    }
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_leaves_nothing_to_replay_and_no_higher_epoch() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let topic = broker.create_topic(plain("t", 1)).await.unwrap();
    append(topic.partition(0).unwrap(), batch(&["one".to_owned()])).await;
    let first_id = broker.new_producer_id().await.unwrap();
    broker.stop();
    assert!(matches!(
        topic.partition(0).unwrap().append(batch(&["late".to_owned()]), Origin::Kafka).err(),
        Some(AppendError::Stopping)
    ));
    let broker = start(&disk.crash(1));
    let partition = Arc::clone(broker.topic("t").unwrap().partition(0).unwrap());
    assert_eq!(partition.leader_epoch().0, 0);
    assert_eq!(contents(&partition).await, [(0, "one".to_owned())]);
    assert!(broker.new_producer_id().await.unwrap() > first_id);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_stays_deleted_and_its_name_gets_a_new_id() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let old = broker.create_topic(plain("t", 1)).await.unwrap();
    append(old.partition(0).unwrap(), batch(&["old".to_owned()])).await;
    broker.delete_topic(old.id()).await.unwrap();
    assert!(old.is_deleted() && broker.topic("t").is_none());
    assert!(matches!(
        old.partition(0).unwrap().append(batch(&["late".to_owned()]), Origin::Kafka).err(),
        Some(AppendError::Deleted)
    ));
    let new = broker.create_topic(plain("t", 1)).await.unwrap();
    assert_ne!(new.id(), old.id());
    append(new.partition(0).unwrap(), batch(&["new".to_owned()])).await;
    for seed in 0..10 {
        let again = start(&disk.crash(seed));
        assert!(again.topic_by_id(&old.id()).is_none());
        let topic = again.topic("t").unwrap();
        assert_eq!(topic.id(), new.id());
        assert_eq!(contents(topic.partition(0).unwrap()).await, [(0, "new".to_owned())]);
        again.stop();
    }
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_sent_again_is_answered_and_not_appended_also_after_a_crash() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let topic = broker.create_topic(plain("t", 1)).await.unwrap();
    let partition = topic.partition(0).unwrap();
    let first = partition.append(sequenced("a", 7, 0), Origin::Kafka).unwrap();
    let again = partition.append(sequenced("a", 7, 0), Origin::Kafka).unwrap();
    assert_eq!(first.await.unwrap().base_offset, 0);
    assert_eq!(again.await.unwrap().base_offset, 0);
    assert_eq!(append(partition, sequenced("b", 7, 1)).await, 1);
    let image = start(&disk.crash(3));
    let partition = Arc::clone(image.topic("t").unwrap().partition(0).unwrap());
    assert_eq!(append(&partition, sequenced("b", 7, 1)).await, 1);
    assert!(matches!(
        partition.append(sequenced("d", 7, 3), Origin::Kafka).err(),
        Some(AppendError::OutOfOrderSequence)
    ));
    assert_eq!(append(&partition, sequenced("c", 7, 2)).await, 2);
    assert_eq!(contents(&partition).await.len(), 3);
    image.stop();
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_options_are_checked_before_anything_is_made() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    broker.create_topic(plain("a.b", 1)).await.unwrap();
    let refused = |request| {
        let broker = Arc::clone(&broker);
        async move { broker.create_topic(request).await.unwrap_err() }
    };
    assert!(matches!(refused(plain("a.b", 1)).await, CreateTopicError::Exists { .. }));
    assert!(matches!(refused(plain("a_b", 1)).await, CreateTopicError::Collides { .. }));
    assert!(matches!(refused(plain("a b", 1)).await, CreateTopicError::InvalidName(_)));
    assert!(matches!(refused(plain("__x", 1)).await, CreateTopicError::ReservedName));
    assert!(matches!(refused(plain("x", 0)).await, CreateTopicError::InvalidPartitions { .. }));
    let mut vdisk = plain("x", 2);
    vdisk.options = vec![("tlog.vdisk".to_owned(), Some("true".to_owned()))];
    assert!(matches!(refused(vdisk).await, CreateTopicError::InvalidPartitions { .. }));
    let mut odd = plain("x", 1);
    odd.options = vec![("no.such".to_owned(), Some("1".to_owned()))];
    assert!(matches!(refused(odd).await, CreateTopicError::Option(_)));
    assert_eq!(broker.check_topic(plain("x", 3)).unwrap().partitions, 3);
    assert!(broker.topic("x").is_none());
    assert_eq!(broker.topics().len(), 1);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_plain_topic_becomes_a_vdisks_and_any_other_is_refused() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let plain_topic = broker.create_topic(plain("v", 1)).await.unwrap();
    let vdisk = broker.vdisk_topic("v", 1).await.unwrap();
    assert_ne!(vdisk.id(), plain_topic.id());
    assert!(vdisk.options().vdisk && !vdisk.options().vdisk_deletable);
    let partition = vdisk.partition(0).unwrap();
    assert_eq!(partition.watermarks().log_start, 1);
    assert_eq!(broker.vdisk_topic("v", 1).await.unwrap().id(), vdisk.id());
    let run = partition.start_run(crate::types::Sequence(1)).unwrap();
    run.await.unwrap();
    let appended = partition.append(batch(&["x".to_owned()]), Origin::Vdisk).unwrap();
    assert_eq!(appended.await.unwrap().base_offset, 1);
    assert!(matches!(
        partition.append(batch(&["x".to_owned()]), Origin::Kafka).err(),
        Some(AppendError::VdiskTopic { .. })
    ));
    assert!(matches!(broker.delete_topic(vdisk.id()).await, Err(DeleteTopicError::Vdisk { .. })));
    let full = broker.create_topic(plain("full", 1)).await.unwrap();
    append(full.partition(0).unwrap(), batch(&["x".to_owned()])).await;
    for name in ["full", "__x"] {
        assert!(matches!(
            broker.vdisk_topic(name, 1).await,
            Err(VdiskTopicError::NotAVdisk { .. })
        ));
    }
    broker.set_block_size(vdisk.id(), 512).await.unwrap();
    broker.set_block_size(vdisk.id(), 512).await.unwrap();
    assert!(matches!(
        broker.set_block_size(vdisk.id(), 1024).await,
        Err(BlockSizeError::Set { bytes: 512 })
    ));
    let again = start(&disk.crash(2));
    let vdisk = again.topic("v").unwrap();
    assert_eq!(vdisk.options().block_size, Some(512));
    assert_eq!(
        vdisk.partition(0).unwrap().runs(),
        [Run { first_offset: 1, first_sequence: crate::types::Sequence(1) }]
    );
    again.stop();
    broker.stop();
}

/// A topic with records below the checkpoint and records above it.
async fn two_lives(disk: &SimDisk) -> (Arc<Broker>, Arc<Topic>) {
    let broker = start(disk);
    let topic = broker.create_topic(plain("t", 1)).await.unwrap();
    append(topic.partition(0).unwrap(), batch(&["below".to_owned()])).await;
    broker.stop();
    let broker = start(disk);
    let topic = broker.topic("t").unwrap();
    for n in 0..5 {
        append(topic.partition(0).unwrap(), batch(&[format!("above {n}")])).await;
    }
    (broker, topic)
}

/// Where checkpoints cannot be written the commit log grows to its bound; what may cure that goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_batch_is_taken_where_more_than_the_bound_would_be_to_replay() {
    const BOUND: u64 = 300_000;
    let disk = SimDisk::new();
    let broker = try_start_as(&disk, |config| config.commit_log_bytes = BOUND).unwrap();
    let topic = broker.create_topic(plain("t", 1)).await.unwrap();
    let partition = topic.partition(0).unwrap();
    let value = batch(&["x".repeat(5_000)]);
    let mut failing = true;
    for _ in 0..2 {
        disk.fail_on(if failing { "meta/checkpoint.tmp" } else { "none" }, 5);
        let mut taken = 0;
        let refused = loop {
            match partition.append(value.clone(), Origin::Kafka) {
                Ok(done) => taken += done.await.map(|_| 1).unwrap(),
                Err(error) => break error,
            }
            if !failing && taken > 2 * BOUND / 5_000 {
                broker.stop();
                return;
            }
            assert!(!failing || taken < BOUND / 3_000, "{taken} were taken");
        };
        assert!(matches!(refused, AppendError::NoCheckpoint), "{refused}");
        assert!(taken > BOUND / 8_000, "{taken} were taken");
        // A deletion may be what makes room for a checkpoint.
        let other = broker.create_topic(plain("u", 1)).await.unwrap();
        broker.delete_topic(other.id()).await.unwrap();
        failing = false;
        disk.fail_on("none", 5);
        until_taken(partition, &value).await;
    }
}

async fn until_taken(partition: &Arc<Partition>, value: &Bytes) {
    for _ in 0..500 {
        if let Ok(done) = partition.append(value.clone(), Origin::Kafka) {
            done.await.unwrap();
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("nothing is taken although checkpoints can be written again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_failed_frees_nothing_of_the_commit_log() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let topic = broker.create_topic(plain("t", 1)).await.unwrap();
    let partition = topic.partition(0).unwrap();
    disk.fail_on("meta/checkpoint.tmp", 5);
    let failures = || {
        let operations = disk.operations();
        let tried = |it: &&Operation| matches!(it, Operation::Create(path) if path.ends_with("meta/checkpoint.tmp"));
        operations.iter().filter(tried).count()
    };
    // The first is that of the start.
    let (before, mut sent) = (failures(), Vec::new());
    while failures() < before + 3 {
        let value = format!("{} {}", sent.len(), "x".repeat(5_000));
        append(partition, batch(std::slice::from_ref(&value))).await;
        sent.push(value);
    }
    // Its end has been seen when one more is committed behind it.
    for _ in 0..20 {
        append(partition, batch(&["behind".to_owned()])).await;
        sent.push("behind".to_owned());
    }
    let image = disk.crash(rand_seed());
    broker.stop();
    let broker = start(&image);
    let topic = broker.topic("t").unwrap();
    let found = contents(topic.partition(0).unwrap()).await;
    assert!(found.into_iter().map(|(_, value)| value).eq(sent));
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_below_the_checkpoint_can_be_deleted_and_its_name_used_again_before_a_crash() {
    let disk = SimDisk::new();
    let (broker, old) = two_lives(&disk).await;
    broker.delete_topic(old.id()).await.unwrap();
    for seed in 0..10 {
        let again = start(&disk.crash(seed));
        assert!(again.topics().is_empty());
        again.stop();
    }
    let new = broker.create_topic(plain("t", 1)).await.unwrap();
    append(new.partition(0).unwrap(), batch(&["new".to_owned()])).await;
    for seed in 0..10 {
        let again = start(&disk.crash(seed));
        let topic = again.topic("t").unwrap();
        assert_eq!(contents(topic.partition(0).unwrap()).await, [(0, "new".to_owned())]);
        again.stop();
    }
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spare_commit_log_file_is_made_once_half_of_the_first_is_used_and_then_written() {
    let (disk, dir) = (SimDisk::new(), PathBuf::from("/data/commitlog"));
    let spares = || disk.list(&dir).unwrap().iter().filter(|n| n.starts_with("spare-")).count();
    let broker = start(&disk);
    let topic = broker.create_topic(plain("t", 1)).await.unwrap();
    append(topic.partition(0).unwrap(), batch(&["a".repeat(20 << 10)])).await;
    assert_eq!(spares(), 0);
    append(topic.partition(0).unwrap(), batch(&["b".repeat(20 << 10)])).await;
    // The stop waits for it.
    broker.stop();
    assert_eq!(spares(), 1);
    let broker = start(&disk.restart());
    let topic = broker.topic("t").unwrap();
    for _ in 0..2 {
        append(topic.partition(0).unwrap(), batch(&["c".repeat(20 << 10)])).await;
    }
    assert_eq!(contents(topic.partition(0).unwrap()).await.len(), 4);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_commit_log_refuses_the_start_and_takes_nothing_from_the_segments() {
    let disk = SimDisk::new();
    let (broker, _) = two_lives(&disk).await;
    let dead = disk.restart();
    broker.stop();
    let dir = PathBuf::from("/data/commitlog");
    let names = dead.list(&dir).unwrap();
    let newest = names.into_iter().rfind(|name| name.ends_with(".log")).unwrap();
    let file = dir.join(newest);
    let bytes = dead.read_all(&file, 1 << 20).unwrap();
    let at = bytes.windows(7).position(|text| text == b"above 1").unwrap();
    dead.flip(&file, at, 1);
    let segment = PathBuf::from("/data/t-0/00000000000000000000.log");
    let before = dead.read_all(&segment, 1 << 20).unwrap();
    assert!(matches!(try_start(&dead), Err(OpenError::Wal(crate::wal::Error::Corrupt { .. }))));
    assert_eq!(dead.read_all(&segment, 1 << 20).unwrap(), before);
    // Repaired, everything is there.
    dead.flip(&file, at, 1);
    let broker = start(&dead);
    let topic = broker.topic("t").unwrap();
    assert_eq!(contents(topic.partition(0).unwrap()).await.len(), 6);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_first_segment_is_said_and_the_rest_is_served() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let mut small = plain("t", 1);
    small.options = vec![("segment.bytes".to_owned(), Some((1 << 20).to_string()))];
    let topic = broker.create_topic(small).await.unwrap();
    for _ in 0..3 {
        append(topic.partition(0).unwrap(), batch(&["x".repeat(700_000)])).await;
    }
    broker.stop();
    disk.remove_file(&PathBuf::from("/data/t-0/00000000000000000000.log")).unwrap();
    let broker = try_start(&disk).unwrap();
    let topic = broker.topic("t").unwrap();
    let partition = topic.partition(0).unwrap();
    let lost = partition.read(0, 1).await.unwrap_err();
    assert!(matches!(lost, ReadError::Damaged { first: 0, last: 0, .. }), "{lost}");
    assert!(partition.read(1, 1).await.unwrap().len() > 700_000);
    append(partition, batch(&["y".to_owned()])).await;
    assert!(!partition.read(3, 1).await.unwrap().is_empty());
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_sent_again_is_answered_with_the_time_of_its_append() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let mut stamped = plain("t", 1);
    stamped.options = vec![("message.timestamp.type".to_owned(), Some("LogAppendTime".to_owned()))];
    let topic = broker.create_topic(stamped).await.unwrap();
    let partition = topic.partition(0).unwrap();
    let first = partition.append(sequenced("a", 7, 0), Origin::Kafka).unwrap().await.unwrap();
    std::thread::sleep(std::time::Duration::from_millis(3));
    let again = partition.append(sequenced("a", 7, 0), Origin::Kafka).unwrap().await.unwrap();
    assert!(first.log_append_time_ms > 1_000);
    assert_eq!(again, first);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_does_not_choose_whose_clock_a_topic_goes_by() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let topic = broker.create_topic(plain("t", 1)).await.unwrap();
    let mut bytes = batch(&["a".to_owned()]).to_vec();
    crate::record::set_log_append_time(&mut bytes, 77);
    append(topic.partition(0).unwrap(), bytes.into()).await;
    let stored = topic.partition(0).unwrap().read(0, 1000).await.unwrap();
    assert!(!crate::record::BatchHeader::parse(&stored).unwrap().is_log_append_time());
    broker.stop();
}

/// The catalogue of the newest checkpoint.
fn stored(disk: &SimDisk) -> Catalogue {
    let path = PathBuf::from("/data/meta/checkpoint");
    Checkpoint::read(disk, &path).unwrap().unwrap().catalogue
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_is_remembered_until_the_shard_servers_were_told() {
    for clean in [true, false] {
        let disk = SimDisk::new();
        let broker = start(&disk);
        let mut ships = plain("kept", 2);
        ships.options = vec![("remote.storage.enable".to_owned(), Some("true".to_owned()))];
        let kept = broker.create_topic(ships).await.unwrap();
        append(kept.partition(1).unwrap(), batch(&["a".to_owned()])).await;
        let local = broker.create_topic(plain("local", 1)).await.unwrap();
        broker.delete_topic(kept.id()).await.unwrap();
        broker.delete_topic(local.id()).await.unwrap();
        // Both names are free, and what comes next under them lives.
        broker.create_topic(plain("kept", 1)).await.unwrap();
        let disk = if clean {
            broker.stop();
            disk
        } else {
            disk.crash(rand_seed())
        };
        let again = start(&disk);
        let owed = stored(&disk).deleted;
        assert_eq!(owed.keys().collect::<Vec<_>>(), [&kept.id()], "clean: {clean}");
        let deleted = &owed[&kept.id()];
        assert_eq!((deleted.name.as_str(), deleted.partitions), ("kept", 2));
        assert_eq!(deleted.options["remote.storage.enable"], "true");
        assert!(again.topic("kept").is_some() && again.topic("local").is_none());
        again.stop();
    }
}

/// The producers that a topic's partitions know, as they run and as a checkpoint has them.
fn producers_of(topic: &Topic, stored: &Catalogue) -> [Vec<HashMap<i64, Offset>>; 2] {
    let live = topic.partitions().iter().map(|partition| partition.producers()).collect();
    let stored = &stored.topics[&topic.id()].partitions;
    [live, stored.iter().map(|partition| partition.producers.newest_batches()).collect()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bound_on_producers_holds_alike_before_and_after_a_restart() {
    for clean in [true, false] {
        let few = |config: &mut Config| config.producers = 8;
        let disk = SimDisk::new();
        let broker = try_start_as(&disk, few).unwrap();
        let topic = broker.create_topic(plain("t", 4)).await.unwrap();
        let other = broker.create_topic(plain("other", 2)).await.unwrap();
        // Some 100 kB: checkpoints are written on the way.
        for id in 0..200i64 {
            let partition = topic.partition((id * id % 7 % 4) as i32).unwrap();
            append(partition, sequenced(&"x".repeat(500), id, 0)).await;
            if id % 50 == 49 {
                append(other.partition(0).unwrap(), sequenced("y", id, 0)).await;
            }
        }
        let live = topic.partitions().iter().map(|it| it.producers()).collect::<Vec<_>>();
        assert_eq!(live.iter().map(HashMap::len).sum::<usize>(), 8 + 3, "{live:?}");
        assert_eq!(other.partition(0).unwrap().producers().len(), 1);
        assert_eq!(broker.producer_room.taken(), 8);
        let disk = if clean {
            broker.stop();
            disk
        } else {
            disk.crash(rand_seed())
        };
        let again = try_start_as(&disk, few).unwrap();
        let topic = again.topic("t").unwrap();
        assert_eq!(producers_of(&topic, &stored(&disk)), [live.clone(), live], "clean: {clean}");
        assert_eq!(again.producer_room.taken(), 8);
        // What a topic held is there for others once it is gone.
        again.delete_topic(topic.id()).await.unwrap();
        assert_eq!(again.producer_room.taken(), 0);
        let other = again.topic("other").unwrap();
        for id in 300..306 {
            append(other.partition(1).unwrap(), sequenced("z", id, 0)).await;
        }
        assert_eq!(again.producer_room.taken(), 5);
        again.enforce_retention(crate::clock::wall_ms() + 2 * PRODUCER_AGE_MS).await;
        assert_eq!(again.producer_room.taken(), 0);
        assert!(other.partition(1).unwrap().producers().is_empty());
        again.stop();
        let stored = stored(&disk);
        assert_eq!(stored.producer_room().taken(), 5);
    }
}

#[test]
fn a_told_deletion_is_forgotten() {
    let partition = PartitionState::empty(0, crate::types::LeaderEpoch(0), 0, true);
    let topic = TopicId([7; 16]);
    let mut catalogue = Catalogue::default();
    let created = TopicState {
        id: topic,
        name: crate::types::TopicName::new("t").unwrap(),
        revision: 3,
        options: Default::default(),
        sealed_secret: "00".to_owned(),
        partitions: vec![partition],
    };
    catalogue.apply(Event::TopicCreated(created)).unwrap();
    catalogue.apply(Event::TopicDeleted { topic }).unwrap();
    assert_eq!(catalogue.deleted[&topic].revision, 3);
    let text = serde_json::to_string(&catalogue).unwrap();
    assert_eq!(serde_json::from_str::<Catalogue>(&text).unwrap(), catalogue);
    catalogue.apply(Event::DeletionTold { topic }).unwrap();
    assert_eq!(catalogue, Catalogue::default());
    assert!(catalogue.apply(Event::DeletionTold { topic }).is_err());
}

pub(super) fn rand_seed() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

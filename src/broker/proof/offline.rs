//! A partition that cannot be opened: nothing of it is lost, and nothing else waits for it.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::super::*;
use super::flips::{read_all, sound};
use super::scenario::{DATA, Sent, open};
use super::{Context, count, seed};
use crate::disk::Disk;
use crate::disk::sim::{Random, SimDisk};
use crate::types::TopicPartition;

fn meta(name: &str) -> PathBuf {
    PathBuf::from(DATA).join(name).join("partition.meta")
}

fn more() -> Bytes {
    Sent { number: 0, values: vec!["more".to_owned()], producer: None }.batch()
}

/// Takes the `partition.meta` of `a-0` away, whose content is returned.
async fn broken() -> (SimDisk, Vec<u8>, Vec<u8>) {
    let (image, expected) = sound().await;
    let right = image.read_all(&meta("a-0"), 4096).unwrap();
    image.put(&meta("a-0"), &[0; 36]);
    (image, right, expected)
}

/// All that was acknowledged, read from `a-0`, and whatever came behind it.
async fn holds(disk: &SimDisk, expected: &[u8]) {
    let broker = open(disk).unwrap();
    assert!(broker.offline().is_empty());
    let topic = broker.topic("a").unwrap();
    let partition = topic.partition(0).unwrap();
    let end = partition.watermarks().high_watermark;
    let (bytes, lost) = read_all(partition, end).await;
    assert!(lost == 0 && bytes.starts_with(expected), "{} of {}", bytes.len(), expected.len());
    partition.append(more(), Origin::Kafka).unwrap().await.unwrap();
    broker.stop();
    let broker = open(&disk.crash(0)).unwrap();
    let topic = broker.topic("a").unwrap();
    let (again, lost) = read_all(topic.partition(0).unwrap(), end + 1).await;
    assert!(lost == 0 && again.starts_with(&bytes) && again.len() > bytes.len());
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offline_partition_says_so_and_the_others_are_served() {
    let (disk, right, expected) = broken().await;
    let broker = open(&disk).unwrap();
    let (a, b) = (broker.topic("a").unwrap(), broker.topic("b").unwrap());
    let partition = a.partition(0).unwrap();
    assert!(partition.offline().is_some_and(|why| why.contains("a-0/partition.meta")));
    assert_eq!(broker.offline().len(), 1);
    let refused = partition.append(more(), Origin::Kafka).err().unwrap();
    assert!(matches!(refused, AppendError::Offline { .. }), "{refused}");
    let refused = [
        partition.read(0, 1).await.err(),
        partition.read(8, 1).await.err(),
        partition.max_timestamp().await.err(),
        partition.offset_for_timestamp(0).await.err(),
    ];
    assert!(refused.iter().all(|error| matches!(error, Some(ReadError::Offline { .. }))));
    let refused = broker.delete_records(&a, partition, Some(1), std::time::Duration::ZERO).await;
    assert!(matches!(refused, Err(DeleteRecordsError::Offline { .. })));
    // Neither retention nor compaction finds anything to do there.
    broker.enforce_retention(i64::MAX).await;
    broker.compact(i64::MAX).await;
    let other = b.partition(0).unwrap();
    let at = other.append(more(), Origin::Kafka).unwrap().await.unwrap().base_offset;
    assert!(!other.read(at, 1).await.unwrap().is_empty());
    broker.stop();
    // Also not at the second start, whose commit log has nothing of it any more.
    let broker = open(&disk).unwrap();
    assert_eq!(broker.offline().len(), 1);
    broker.stop();
    disk.put(&meta("a-0"), &right);
    holds(&disk, &expected).await;
    assert_eq!(disk.list(&Path::new(DATA).join("aside")).unwrap_or_default(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offline_topic_can_be_deleted() {
    let (disk, ..) = broken().await;
    let broker = open(&disk).unwrap();
    let topic = broker.topic("a").unwrap();
    let id = TopicPartition { topic: topic.id(), partition: 0 };
    assert!(disk.exists(&super::super::aside::aside_dir(Path::new(DATA), id)).unwrap());
    broker.delete_topic(topic.id()).await.unwrap();
    assert!(broker.offline().is_empty());
    assert!(!disk.exists(&meta("a-0")).unwrap());
    assert!(!disk.exists(&super::super::aside::aside_dir(Path::new(DATA), id)).unwrap());
    let image = disk.crash(seed());
    broker.stop();
    let broker = open(&image).unwrap();
    assert!(broker.topic("a").is_none() && broker.offline().is_empty());
    assert_eq!(image.list(&Path::new(DATA).join("aside")).unwrap_or_default(), [""; 0]);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_on_the_way_out_or_back_loses_nothing() {
    let (disk, right, expected) = broken().await;
    let mut random = Random(seed());
    disk.take_pictures(|| 0);
    open(&disk).unwrap().stop();
    let out = disk.pictures();
    disk.put(&meta("a-0"), &right);
    disk.take_pictures(|| 0);
    open(&disk).unwrap().stop();
    let back = disk.pictures();
    let step = count(2, 1);
    for picture in out.iter().chain(&back).skip(random.below(step)).step_by(step) {
        let context = Context(format!("within call {}", picture.operation));
        let image = picture.disk.crash(random.bits());
        if random.coin() {
            // Once more.
            image.put(&meta("a-0"), &[0; 36]);
            let broker = open(&image).unwrap();
            assert_eq!(broker.offline().len(), 1);
            broker.stop();
        }
        let image = image.crash(random.bits());
        image.put(&meta("a-0"), &right);
        holds(&image, &expected).await;
        drop(context);
    }
    println!("{} and {} calls", out.len(), back.len());
    assert!(out.len() > 20 && back.len() > 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_the_wrong_place_outlives_the_topic_whose_place_it_has() {
    let (disk, _) = sound().await;
    let dir = |name: &str| Path::new(DATA).join(name);
    let broker = open(&disk).unwrap();
    let (a, b) = (broker.topic("a").unwrap().id(), broker.topic("b").unwrap());
    b.partition(0).unwrap().append(more(), Origin::Kafka).unwrap().await.unwrap();
    broker.stop();
    let disk = disk.restart();
    let of_b = disk.read_all(&meta("b-0"), 4096).unwrap();
    disk.rename(&dir("a-0"), &dir("moved")).unwrap();
    disk.rename(&dir("b-0"), &dir("a-0")).unwrap();
    let broker = open(&disk).unwrap();
    assert!(broker.topic("a").unwrap().partition(0).unwrap().offline().is_some());
    broker.delete_topic(a).await.unwrap();
    assert!(!disk.exists(&dir("a-0")).unwrap());
    let left = disk.list(&dir("left")).unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    let kept = dir("left").join(&left[0]).join("partition.meta");
    assert_eq!(disk.read_all(&kept, 4096).unwrap(), of_b);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_aside_waits_for_a_directory_that_is_away() {
    let (disk, right, expected) = broken().await;
    let dir = |name: &str| Path::new(DATA).join(name);
    open(&disk).unwrap().stop();
    // To be repaired; or it is not mounted.
    disk.rename(&dir("a-0"), &dir("away")).unwrap();
    let broker = open(&disk).unwrap();
    assert_eq!(broker.offline().len(), 1);
    broker.stop();
    let image = disk.restart();
    disk.rename(&dir("away"), &dir("a-0")).unwrap();
    disk.put(&meta("a-0"), &right);
    holds(&disk, &expected).await;
    // Somebody says that it does not come back.
    image.create_dir_all(&dir("a-0")).unwrap();
    let broker = open(&image).unwrap();
    assert!(broker.offline().is_empty());
    let topic = broker.topic("a").unwrap();
    let (bytes, lost) = read_all(topic.partition(0).unwrap(), 8).await;
    assert!(lost > 0 && expected.ends_with(&bytes) && !bytes.is_empty(), "{lost}");
    broker.stop();
}

//! Rot: a bit of any file of a data directory, or a sector, is not what it was.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::*;
use super::scenario::{DATA, Death, Journal, Sent, open, play};
use super::{Context, count, seed};
use crate::disk::Disk;
use crate::disk::sim::{Operation, Random, SimDisk};
use crate::record::Batches;

const SECTOR_BYTES: usize = 512;

/// A partition with batches below the checkpoint and above it, all acknowledged and each named by a later commit; and its
/// bytes as a reader sees them.
pub(super) async fn sound() -> (SimDisk, Vec<u8>) {
    let disk = SimDisk::new();
    // Of its topics the life itself is not wanted here.
    play(&disk, &Death::of(&disk), &Journal::default(), 1, 0).await.unwrap();
    Death::is_a_defect();
    for life in 0..2 {
        let broker = open(&disk).unwrap();
        let topic = broker.topic("a").unwrap();
        let partition = topic.partition(0).unwrap();
        for number in 0..4 {
            // So that `segment.ms` passes.
            tokio::time::sleep(Duration::from_millis(2)).await;
            let values = vec![format!("{life} {number} {}", "x".repeat(40 * number))];
            let batch = Sent { number, values, producer: None }.batch();
            partition.append(batch, Origin::Kafka).unwrap().await.unwrap();
        }
        if life == 0 {
            broker.stop();
            continue;
        }
        let commits = || {
            let operations = disk.operations();
            operations.iter().filter(|it| matches!(it, Operation::WriteSynced(..))).count()
        };
        let before = commits();
        while commits() == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (bytes, _) = read_all(partition, 8).await;
        let image = disk.crash(0);
        broker.stop();
        let again = image.crash(0);
        let broker = open(&again).unwrap();
        let topic = broker.topic("a").unwrap();
        assert!(read_all(topic.partition(0).unwrap(), 8).await == (bytes.clone(), 0));
        broker.stop();
        return (image, bytes);
    }
    unreachable!("the second life returns")
}

/// What can be read of `end` offsets, the damaged ones left out, and their number.
pub(super) async fn read_all(partition: &Partition, end: i64) -> (Vec<u8>, i64) {
    assert_eq!(partition.watermarks().high_watermark, end, "cut");
    let (mut all, mut lost, mut from) = (Vec::new(), 0, 0);
    while from < end {
        match partition.read(from, 1 << 20).await {
            Ok(bytes) => {
                from = Batches::new(&bytes).last().unwrap().unwrap().0.next_offset();
                all.extend_from_slice(&bytes);
            }
            Err(ReadError::Damaged { first, last, .. }) => {
                assert!(first <= from && from <= last && last < end);
                lost += last + 1 - from;
                from = last + 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    (all, lost)
}

fn files(disk: &SimDisk, dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in disk.list(dir).unwrap() {
        let path = dir.join(name);
        if disk.list(&path).is_ok() { found.extend(files(disk, &path)) } else { found.push(path) }
    }
    found
}

/// What came of a changed file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcomes {
    refused: usize,
    /// A partition alone.
    offline: usize,
    damaged: usize,
    harmless: usize,
}

impl Outcomes {
    /// Opens the image: refused, or right, or damaged, or one partition is offline; never wrong bytes, never a shorter log.
    async fn add(&mut self, image: &SimDisk, path: &Path, (whole, expected): (&SimDisk, &[u8])) {
        let changed = image.read_all(path, 1 << 20).unwrap();
        let size = changed.len();
        let broker = match open(image) {
            Ok(broker) => broker,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert_eq!(image.read_all(path, 1 << 20).unwrap().len(), size, "refused, and cut");
                self.refused += 1;
                return;
            }
        };
        let topic = broker.topic("a").unwrap();
        if !broker.offline().is_empty() {
            assert_eq!(image.read_all(path, 1 << 20).unwrap(), changed, "offline, and changed");
            broker.stop();
            comes_back(image, path, (whole, expected)).await;
            self.offline += 1;
            return;
        }
        let (bytes, lost) = read_all(topic.partition(0).unwrap(), 8).await;
        let mut left = Batches::new(expected).map(|item| item.unwrap().1);
        for item in Batches::new(&bytes) {
            let batch = item.unwrap().1;
            assert!(left.any(|it| it == batch), "a wrong byte was given out");
        }
        if lost > 0 {
            self.damaged += 1
        } else {
            self.harmless += 1
        }
        assert!(lost > 0 || bytes == expected);
        broker.stop();
    }
}

/// A partition that was offline once is whole when its file is put right, also after a power cut.
async fn comes_back(image: &SimDisk, path: &Path, (whole, expected): (&SimDisk, &[u8])) {
    let image = image.crash(0);
    image.put(path, &whole.read_all(path, 1 << 20).unwrap());
    for _ in 0..2 {
        let broker = open(&image).unwrap();
        assert!(broker.offline().is_empty());
        let topic = broker.topic("a").unwrap();
        assert!(read_all(topic.partition(0).unwrap(), 8).await == (expected.to_vec(), 0));
        broker.stop();
    }
}

fn is_of_a_partition(path: &Path) -> bool {
    let dir = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    dir.is_some_and(|name| ["a-0", "a-1", "b-0", "c-0", "c-1"].contains(&name))
}

/// Bytes up to the last that is not zero: behind it files are made ahead of their use.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flipped_bit_of_any_file_gives_a_wrong_byte_or_takes_a_right_one() {
    let (whole, expected) = sound().await;
    let mut random = Random(seed());
    for path in files(&whole, Path::new(DATA)) {
        let mut outcomes = Outcomes::default();
        let bytes = whole.read_all(&path, 1 << 20).unwrap();
        // In the short mode one bit of each byte or so; `wal` and `log` have all of theirs flipped.
        let step = count(bytes.len() / 300 + 8, 1);
        for bit in (random.below(step)..used(&bytes) * 8).step_by(step) {
            let image = whole.crash(0);
            image.flip(&path, bit / 8, 1 << (bit % 8));
            let context = Context(format!("bit {bit} of {}", path.display()));
            outcomes.add(&image, &path, (&whole, &expected)).await;
            drop(context);
        }
        println!("{}: {outcomes:?}", path.display());
        let name = path.to_string_lossy();
        let Outcomes { refused, offline, damaged, harmless: _ } = outcomes;
        if name.contains("meta/checkpoint") {
            // There is another.
            assert_eq!((refused, offline, damaged), (0, 0, 0), "{name}");
        }
        if ["index", ".check", "partition.meta"].iter().any(|end| name.ends_with(end)) {
            assert_eq!((refused, offline, damaged), (0, 0, 0), "{name}");
        }
        assert!(
            refused == 0 || !is_of_a_partition(&path),
            "{name}: one partition's rot keeps all from being served"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_zeroed_swapped_or_doubled_sector_gives_a_wrong_byte_or_takes_a_right_one() {
    let (whole, expected) = sound().await;
    for path in files(&whole, Path::new(DATA)) {
        let mut outcomes = Outcomes::default();
        let bytes = whole.read_all(&path, 1 << 20).unwrap();
        let sectors = used(&bytes).div_ceil(SECTOR_BYTES);
        let sector = |n: usize| n * SECTOR_BYTES..((n + 1) * SECTOR_BYTES).min(bytes.len());
        for (a, b) in (0..sectors).flat_map(|a| (0..sectors).map(move |b| (a, b))) {
            let mut changed = bytes.clone();
            // Zeroed, swapped, and one in the place of another.
            let shorter = sector(a).len().min(sector(b).len());
            let (from_a, from_b) = (
                sector(a).start..sector(a).start + shorter,
                sector(b).start..sector(b).start + shorter,
            );
            changed[from_a.clone()].copy_from_slice(&bytes[from_b.clone()]);
            match a.cmp(&b) {
                std::cmp::Ordering::Equal => changed[sector(a)].fill(0),
                std::cmp::Ordering::Less => changed[from_b].copy_from_slice(&bytes[from_a]),
                std::cmp::Ordering::Greater => {}
            }
            if changed == bytes {
                continue;
            }
            let image = whole.crash(0);
            image.put(&path, &changed);
            let context = Context(format!("sectors {a} and {b} of {}", path.display()));
            outcomes.add(&image, &path, (&whole, &expected)).await;
            drop(context);
        }
        println!("{}: {outcomes:?}", path.display());
        assert!(outcomes.refused == 0 || !is_of_a_partition(&path), "{}", path.display());
        if path.ends_with("a-0/partition.meta") {
            assert_eq!((outcomes.offline, outcomes.damaged), (1, 0));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scrubber_finds_what_became_wrong_after_it_was_read() {
    let (disk, expected) = sound().await;
    let broker = open(&disk).unwrap();
    let topic = broker.topic("a").unwrap();
    let partition = topic.partition(0).unwrap();
    let pass = async || {
        let (mut from, mut segments) = (0, 0);
        while let Some(end) = broker.scrub_segment(partition.id(), from, u64::MAX).await {
            (from, segments) = (end, segments + 1);
        }
        segments
    };
    assert!(pass().await > 2);
    let nothing = partition.reader().locate_range(0, 8, 1 << 20).unwrap();
    assert!(nothing.is_some());
    let path = PathBuf::from(DATA).join(format!("a-0/{:020}.log", 0));
    disk.flip(&path, 70, 1);
    // A reader whom nothing is copied for does not see it; the pass does, and it is told from then on.
    assert!(partition.reader().locate_range(0, 8, 1).is_ok());
    assert!(pass().await > 2);
    assert!(partition.reader().locate_range(0, 8, 1).is_err());
    let (bytes, lost) = read_all(partition, 8).await;
    assert!(lost > 0 && bytes.len() < expected.len());
    broker.stop();
}

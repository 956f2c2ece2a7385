//! A broker on a small disk that others fill and empty.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::disk::OpenMode;
use crate::disk::sim::Random;

const CAPACITY: u64 = 24 << 20;
const OTHERS: &str = "/others";

fn small() -> SimDisk {
    let disk = SimDisk::new();
    disk.set_capacity(CAPACITY, 2_000);
    empty(&disk);
    disk
}

fn free_bytes(disk: &SimDisk) -> u64 {
    disk.space(Path::new("/")).unwrap().free_bytes
}

/// Others take all but `left` bytes, and again what is released meanwhile.
fn fill(disk: &SimDisk, left: u64) {
    let mut quiet = 0;
    // A power cut may have taken it.
    disk.create_dir_all(Path::new(OTHERS)).ok();
    for number in 0..1000 {
        let free = free_bytes(disk).saturating_sub(left);
        quiet = if free == 0 { quiet + 1 } else { 0 };
        if quiet == 10 {
            return;
        }
        let path = PathBuf::from(format!("{OTHERS}/{}-{number}", disk.operations().len()));
        if free > 0
            && let Ok(file) = disk.open(&path, OpenMode::CreateNew)
        {
            // The broker may be faster.
            file.allocate(0, free).ok();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn empty(disk: &SimDisk) {
    disk.remove_dir_all(Path::new(OTHERS)).unwrap();
    disk.create_dir_all(Path::new(OTHERS)).unwrap();
}

async fn until(what: &str, mut claim: impl FnMut() -> bool) {
    for _ in 0..500 {
        if claim() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} within five seconds");
}

async fn whole_reserve(broker: &Arc<Broker>) {
    until("the reserve is made", || {
        let look = broker.disk_status().look.unwrap();
        look.missing_bytes == 0 && look.reserve_bytes > 0
    })
    .await;
}

fn value(kib: usize) -> String {
    "x".repeat(kib * 1024)
}

/// Whether the batch was taken; where it was, it is acknowledged.
async fn try_append(partition: &Arc<Partition>, batch: Bytes) -> Option<Offset> {
    match partition.append(batch, Origin::Kafka) {
        Ok(done) => Some(done.await.unwrap().base_offset),
        Err(AppendError::DiskFull) => None,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_grows_serves_the_rest_and_recovers_by_itself() {
    let disk = small();
    let broker = try_start_with(&disk, true).unwrap();
    whole_reserve(&broker).await;
    let topic = broker.create_topic(plain("t", 2)).await.unwrap();
    let partition = topic.partition(0).unwrap();
    append(partition, batch(&["before".to_owned()])).await;
    let gone = broker.create_topic(plain("gone", 1)).await.unwrap();
    append(gone.partition(0).unwrap(), batch(&[value(900)])).await;
    fill(&disk, 0);

    assert_eq!(try_append(partition, batch(&["refused".to_owned()])).await, None);
    let refused = broker.create_topic(plain("new", 1)).await.unwrap_err();
    assert!(matches!(refused, CreateTopicError::DiskFull), "{refused}");
    assert_eq!(contents(partition).await, [(0, "before".to_owned())]);
    // Full where the commit log had to grow meanwhile, for the one empty commit of an idle broker.
    assert_ne!(broker.disk_status().state, DiskState::Room);
    broker.delete_topic(gone.id()).await.unwrap();
    fill(&disk, 0);
    broker.stop();

    // The stop and the next start find their room in the reserve.
    let again = disk.restart();
    let broker = try_start_with(&again, true).unwrap();
    let topic = broker.topic("t").unwrap();
    let partition = topic.partition(0).unwrap();
    assert!(broker.topic("gone").is_none());
    assert_eq!(contents(partition).await, [(0, "before".to_owned())]);
    // What the start gave back others take.
    fill(&again, 0);
    assert_eq!(try_append(partition, batch(&["refused".to_owned()])).await, None);
    broker.stop();

    let disk = disk.restart();
    let broker = try_start_with(&disk, true).unwrap();
    let topic = broker.topic("t").unwrap();
    let partition = Arc::clone(topic.partition(0).unwrap());
    fill(&disk, 0);
    assert_eq!(try_append(&partition, batch(&["refused".to_owned()])).await, None);
    empty(&disk);
    whole_reserve(&broker).await;
    assert_eq!(append(&partition, batch(&["after".to_owned()])).await, 1);
    broker.stop();
}

/// The reserve is gone too: others took what was released of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_waits_for_room_and_reads_go_on() {
    for is_stopped in [false, true] {
        let disk = small();
        let broker = try_start_with(&disk, true).unwrap();
        whole_reserve(&broker).await;
        let topic = broker.create_topic(plain("t", 1)).await.unwrap();
        let partition = Arc::clone(topic.partition(0).unwrap());
        append(&partition, batch(&["before".to_owned()])).await;
        for number in 0..16 {
            disk.remove_file(Path::new(&format!("/data/reserve/{number:02}"))).unwrap();
        }
        // Taken by the last look, of which others then leave nothing.
        let waits = partition.append(batch(&[value(800)]), Origin::Kafka).unwrap();
        fill(&disk, 0);
        let waits = crate::task::spawn("append", waits);
        until("it waits", || broker.disk_status().waits || waits.is_finished()).await;
        if !waits.is_finished() {
            assert_eq!(broker.disk_status().state, DiskState::Full);
            assert_eq!(contents(&partition).await, [(0, "before".to_owned())]);
        }
        let was_waiting = !waits.is_finished();
        if is_stopped {
            tokio::task::spawn_blocking(move || broker.stop()).await.unwrap();
            assert_eq!(waits.await.unwrap().is_err(), was_waiting);
            empty(&disk);
            let again = try_start(&disk.restart()).unwrap();
            let found = contents(again.topic("t").unwrap().partition(0).unwrap()).await;
            // Whether it was committed or not, it was not answered.
            assert!((1..=2).contains(&found.len()));
        } else {
            empty(&disk);
            assert_eq!(waits.await.unwrap().unwrap().base_offset, 1);
            broker.stop();
        }
    }
}

/// Where others took the reserve as well, a start says so, and works when they give some back.
fn start_with_room(disk: &SimDisk) -> Arc<Broker> {
    try_start_with(disk, true).unwrap_or_else(|error| {
        let words = crate::types::in_words(&error);
        assert!(words.contains("No space left"), "{words}");
        empty(disk);
        try_start_with(disk, true).unwrap()
    })
}

/// Appends, deletions, stops, crashes, and others that come and go: nothing acknowledged is lost, nothing ends the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_however_the_disk_fills() {
    let first = rand_seed();
    for seed in first..first + 4 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut disk = small();
        let mut broker = try_start_with(&disk, true).unwrap();
        broker.create_topic(plain("t", 3)).await.unwrap();
        let mut acknowledged = vec![Vec::new(); 3];
        let (mut taken, mut refused, mut topics) = (0, 0, 0);
        for step in 0..120 {
            match random.below(16) {
                0 => fill(&disk, random.bits() % (3 << 20) * u64::from(random.coin())),
                1 | 2 => empty(&disk),
                3 => {
                    broker.stop();
                    disk = disk.restart();
                    broker = start_with_room(&disk);
                }
                4 => {
                    // The broker before it goes on with its own image.
                    let image = disk.crash(random.bits());
                    broker.stop();
                    disk = image;
                    broker = start_with_room(&disk);
                }
                5 => match broker.create_topic(plain(&format!("n{step}"), 1)).await {
                    Ok(topic) => {
                        let made =
                            try_append(topic.partition(0).unwrap(), batch(&[value(400)])).await;
                        topics += usize::from(made.is_some());
                    }
                    Err(CreateTopicError::DiskFull) => refused += 1,
                    Err(error) => panic!("{error}"),
                },
                6 | 7 => {
                    let other =
                        broker.topics().into_iter().find(|topic| topic.name().as_str() != "t");
                    if let Some(topic) = other {
                        broker.delete_topic(topic.id()).await.unwrap();
                    }
                }
                _ => {
                    let index = random.below(3);
                    let topic = broker.topic("t").unwrap();
                    let partition = topic.partition(index as i32).unwrap();
                    let text = format!("{step}/{}", "x".repeat(random.below(60_000)));
                    match try_append(partition, batch(std::slice::from_ref(&text))).await {
                        Some(offset) => {
                            acknowledged[index].push((offset, text));
                            taken += 1;
                        }
                        None => refused += 1,
                    }
                }
            }
        }
        for (index, expected) in (0..).zip(&acknowledged) {
            let found = contents(broker.topic("t").unwrap().partition(index).unwrap()).await;
            assert_eq!(found.len(), expected.len(), "{seed}");
            assert!(found == *expected, "{seed}");
        }
        assert!(taken > 5 && refused + topics > 0, "{seed}: {taken} {refused} {topics}");
        broker.stop();
    }
}

/// A segment is there twice until it is replaced, and the reserve is not for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_waits_for_room_beside_the_reserve() {
    let disk = small();
    let broker = try_start_with(&disk, true).unwrap();
    whole_reserve(&broker).await;
    let options = [("cleanup.policy", "compact"), ("segment.bytes", "1048576")];
    let options = options.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).to_vec();
    let new = NewTopic { name: "t".to_owned(), partitions: 1, options };
    let topic = broker.create_topic(new).await.unwrap();
    for _ in 0..70 {
        let mut builder = BatchBuilder::new(1);
        builder.push(1, Some(b"key"), Some(&[7; 50_000]), &[]);
        append(topic.partition(0).unwrap(), builder.build().into()).await;
    }
    broker.stop();
    let disk = disk.restart();
    let broker = try_start_with(&disk, true).unwrap();
    whole_reserve(&broker).await;
    // Enough for appends, and not for a segment.
    let floor = broker.disk_status().look.unwrap().floor_bytes;
    fill(&disk, 2 * floor.min(300_000));
    drop(broker.disk_status());
    let files = || {
        let names = disk.list(Path::new("/data/t-0")).unwrap();
        let files =
            names.iter().map(|name| disk.open(&Path::new("/data/t-0").join(name), OpenMode::Read));
        files.map(|file| file.unwrap().len().unwrap()).sum::<u64>()
    };
    let before = files();
    assert!(!broker.compact(2).await);
    assert_eq!(files(), before);
    let look = broker.disk_status().look.unwrap();
    assert_eq!(look.missing_bytes, 0, "the reserve is whole");
    empty(&disk);
    drop(broker.disk_status());
    assert!(broker.compact(2).await);
    assert!(files() < before / 4, "{} of {before}", files());
    broker.stop();
}

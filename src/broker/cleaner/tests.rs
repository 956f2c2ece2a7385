use std::collections::HashMap;
use std::path::PathBuf;

use bytes::Bytes;
use prometheus_client::registry::Registry;

use super::*;
use crate::broker::{Adopted, AppendError, Config, DataDir, Metrics, NewTopic, Origin, Topic};
use crate::disk::Disk;
use crate::disk::sim::{Random, SimDisk};
use crate::record::{BatchBuilder, Batches, Error, RecordFault, Records, plain_records};
use crate::types::ClusterId;

fn start(disk: &SimDisk) -> Arc<Broker> {
    let path = PathBuf::from("/data");
    let shared = Arc::new(disk.clone()) as Arc<dyn Disk>;
    let mut data_dir = DataDir::open(shared, &path, [5; 16]).unwrap();
    let cluster = ClusterId::from_random([1; 16]);
    data_dir.settle(cluster).unwrap();
    let metrics = Metrics::new(&mut Registry::default());
    Broker::open(Config::new(path), &data_dir, Adopted::default(), cluster, None, metrics).unwrap()
}

/// What a start finds is sealed, but for the last segment, and below a checkpoint.
fn restart(broker: &Broker, disk: &SimDisk) -> Arc<Broker> {
    broker.stop();
    start(&disk.restart())
}

async fn create(broker: &Arc<Broker>, options: &[(&str, &str)]) -> Arc<Topic> {
    let common = [("segment.bytes", "1048576"), ("delete.retention.ms", "1000")];
    let options = common.iter().chain(options);
    let options =
        options.map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned()))).collect();
    let topic = NewTopic { name: "t".to_owned(), partitions: 1, options };
    broker.create_topic(topic).await.unwrap()
}

/// Options, the time of the compaction, whether there is one.
type Case<'a> = (&'a [(&'a str, &'a str)], i64, bool);

type Table = HashMap<Vec<u8>, Vec<u8>>;

/// Appends records of random keys, stamped `at_ms`.
async fn fill(broker: &Arc<Broker>, table: &mut Table, random: &mut Random, at_ms: i64) {
    let topic = broker.topic("t").unwrap();
    let partition = topic.partition(0).unwrap();
    for round in 0..150 {
        let key = vec![b'k', random.below(12) as u8];
        let value = (round % 9 != 0).then(|| vec![random.bits() as u8; 20_000]);
        let mut builder = BatchBuilder::new(at_ms);
        builder.push(at_ms, Some(&key), value.as_deref(), &[]);
        partition.append(builder.build().into(), Origin::Kafka).unwrap().await.unwrap();
        match value {
            Some(value) => table.insert(key, value),
            None => table.remove(&key),
        };
    }
}

/// What the records say, and how many there are.
async fn read(broker: &Broker) -> (Table, usize) {
    let topic = broker.topic("t").unwrap();
    let partition = topic.partition(0).unwrap();
    let (mut table, mut count) = (Table::new(), 0);
    let mut from = partition.watermarks().log_start;
    loop {
        let bytes: Bytes = partition.read(from, 1 << 20).await.unwrap();
        if bytes.is_empty() {
            return (table, count);
        }
        for batch in Batches::new(&bytes) {
            let (header, batch) = batch.unwrap();
            assert_eq!(header.base_offset, from);
            from = header.next_offset();
            let plain = plain_records(batch, &header).unwrap();
            for record in Records::new(&plain, &header) {
                let record = record.unwrap();
                let key = record.key.unwrap().to_vec();
                count += 1;
                match record.value {
                    Some(value) => table.insert(key, value.to_vec()),
                    None => table.remove(&key),
                };
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compacted_topic_keeps_the_newest_of_each_key_over_restarts() {
    let mut disk = SimDisk::new();
    let mut broker = start(&disk);
    create(&broker, &[("cleanup.policy", "compact")]).await;
    let (mut table, mut random) = (Table::new(), Random(3));
    let mut now_ms = 1_000_000;
    for _ in 0..4 {
        fill(&broker, &mut table, &mut random, now_ms).await;
        broker.stop();
        disk = disk.restart();
        broker = start(&disk);
        let (_, before) = read(&broker).await;
        assert!(broker.compact(now_ms).await, "more than half is new");
        let (found, count) = read(&broker).await;
        assert!(found == table);
        assert!(count < before - 50, "{count} of {before}");
        assert!(!broker.compact(now_ms).await, "all is clean");
        now_ms += 2000;
    }
    // The last passes removed deletions of the first ones; how far they came is known after a start.
    broker = restart(&broker, &disk);
    assert!(!broker.compact(now_ms).await);
    assert!(read(&broker).await.0 == table);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_waits_for_its_options() {
    let dirty = |ratio| ("min.cleanable.dirty.ratio", ratio);
    let (young, old) = (("min.compaction.lag.ms", "5000"), ("max.compaction.lag.ms", "5000"));
    let now_ms = 1_000_000;
    let cases: [Case<'_>; 6] = [
        (&[("cleanup.policy", "delete")], now_ms, false),
        (&[("cleanup.policy", "compact"), young], now_ms + 4999, false),
        (&[("cleanup.policy", "compact"), young], now_ms + 5000, true),
        (&[("cleanup.policy", "compact,delete"), dirty("0.9")], now_ms, true),
        (&[("cleanup.policy", "compact"), dirty("1"), old], now_ms + 5001, true),
        (&[("cleanup.policy", "compact"), ("segment.bytes", "1073741824")], now_ms, false),
    ];
    for (options, at_ms, compacts) in cases {
        let disk = SimDisk::new();
        let broker = start(&disk);
        create(&broker, options).await;
        fill(&broker, &mut Table::new(), &mut Random(1), now_ms).await;
        // Nothing was checkpointed yet.
        assert!(!broker.compact(at_ms).await, "{options:?}");
        let broker = restart(&broker, &disk);
        assert_eq!(broker.compact(at_ms).await, compacts, "{options:?}");
        broker.stop();
        assert!(!broker.compact(at_ms).await, "it is stopping");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compacted_topic_refuses_records_without_a_key() {
    let broker = start(&SimDisk::new());
    let topic = create(&broker, &[("cleanup.policy", "compact")]).await;
    let mut builder = BatchBuilder::new(1);
    builder.push(1, Some(b"k"), Some(b"v"), &[]);
    builder.push(1, None, Some(b"v"), &[]);
    let partition = topic.partition(0).unwrap();
    let refused = partition.append(builder.build().into(), Origin::Kafka).err().unwrap();
    let AppendError::InvalidRecord(error) = refused else { panic!("{refused:?}") };
    assert_eq!(error, Error::Record { index: 1, fault: RecordFault::NoKey });
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_ends_compaction_and_nothing_else() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    create(&broker, &[("cleanup.policy", "compact")]).await;
    fill(&broker, &mut Table::new(), &mut Random(1), 1).await;
    broker.stop();
    let disk = disk.restart();
    disk.flip(&PathBuf::from("/data/t-0/00000000000000000000.log"), 5000, 1);
    let broker = start(&disk);
    assert!(broker.compact(1).await, "it was tried");
    assert!(!broker.compact(1).await, "it is given up");
    fill(&broker, &mut Table::new(), &mut Random(2), 1).await;
    broker.delete_topic(broker.topic("t").unwrap().id()).await.unwrap();
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_anew_during_a_pass_keeps_its_own() {
    let mut met = 0;
    for round in 0..4u64 {
        let mut random = Random(round);
        let disk = SimDisk::new();
        let broker = start(&disk);
        create(&broker, &[("cleanup.policy", "compact")]).await;
        fill(&broker, &mut Table::new(), &mut random, 1).await;
        broker.stop();
        let disk = disk.restart();
        let broker = start(&disk);
        let pass = {
            let broker = Arc::clone(&broker);
            // Once there is none, and all is still to be done.
            crate::task::spawn("pass", async move { round > 0 && broker.compact(1).await })
        };
        tokio::time::sleep(Duration::from_micros(500 * round)).await;
        met += usize::from(!pass.is_finished());
        let before = broker.topic("t").unwrap();
        broker.delete_topic(before.id()).await.unwrap();
        create(&broker, &[("cleanup.policy", "compact")]).await;
        let mut table = Table::new();
        fill(&broker, &mut table, &mut random, 2).await;
        pass.await.unwrap();
        // Who still has the old one does nothing to the files that have its names now.
        let stale = Arc::clone(before.partition(0).unwrap());
        let again = tokio::task::spawn_blocking(move || stale.compact(3, &AtomicBool::new(false)));
        assert!(!again.await.unwrap().unwrap());
        assert!(read(&broker).await.0 == table, "round {round}");
        let broker = restart(&broker, &disk);
        assert!(read(&broker).await.0 == table, "round {round}");
        assert!(broker.compact(2).await);
        assert!(read(&broker).await.0 == table, "round {round}");
        broker.stop();
    }
    assert!(met > 0, "no pass was met");
}

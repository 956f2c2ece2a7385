use std::path::PathBuf;

use bytes::Bytes;
use prometheus_client::registry::Registry;

use super::*;
use crate::broker::tests::{append, contents, plain};
use crate::broker::{Adopted, AppendError, Config, DataDir, Metrics, NewTopic, Origin, ReadError};
use crate::disk::sim::SimDisk;
use crate::disk::{Disk, Reserve};
use crate::record::BatchBuilder;
use crate::tier::store::ShardStore;
use crate::tier::{self, Identity, Storage, Tier};
use crate::types::ClusterId;

pub(in crate::broker) const PATIENCE: Duration = Duration::from_secs(20);
pub(in crate::broker) const LATER_MS: i64 = 11 * 60_000;

pub(in crate::broker) type Servers = Vec<Arc<dyn ShardStore>>;

pub(in crate::broker) fn servers() -> Servers {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let mut next = 0;
    let mut random = || {
        next += 1;
        [next; 16]
    };
    let reserve = Reserve::find(Arc::clone(&disk), PathBuf::from("/none/reserve"), 16).unwrap();
    Storage::Memory(6).stores(&disk, &Arc::new(reserve), &mut random).unwrap()
}

pub(in crate::broker) fn keys() -> tier::KeyRing {
    tier::read_key("abcdefghijklmnopqrstuvwxyz012345").unwrap()
}

/// A broker over a disk, empty or not, and servers that may hold something already.
pub(in crate::broker) async fn start(disk: &SimDisk, servers: &Servers, limit: u64) -> Arc<Broker> {
    let path = PathBuf::from("/data");
    let shared = Arc::new(disk.clone()) as Arc<dyn Disk>;
    let mut data_dir = DataDir::open(shared, &path, [5; 16]).unwrap();
    let identity = Identity {
        data_dir: data_dir.id,
        cluster: data_dir.cluster.filter(|_| data_dir.holds_state().unwrap()),
        fresh: ClusterId::from_random([1; 16]),
        address: String::new(),
    };
    let opened = Tier::open(
        tier::Config::new(Arc::new(keys())),
        servers.clone(),
        identity,
        tier::Metrics::unregistered(),
        &|_| (),
        CancellationToken::new(),
    );
    let opened = opened.await.unwrap();
    data_dir.settle(opened.cluster).unwrap();
    let mut config = Config::new(path);
    config.commit_log_file_bytes = 64 * 1024;
    config.checkpoint_bytes = 48 * 1024;
    config.local_log_limit_bytes = Some(limit);
    let metrics = Metrics::new(&mut Registry::default());
    let adopted = Adopted::from(opened.recovered);
    Broker::open(config, &data_dir, adopted, opened.cluster, Some(opened.tier), metrics).unwrap()
}

pub(in crate::broker) async fn stop(broker: &Arc<Broker>) {
    let tier = broker.tier.clone().unwrap();
    tier.stop(std::time::Instant::now() + PATIENCE).await;
    broker.stop();
}

fn topic(name: &str, options: &[(&str, &str)]) -> NewTopic {
    let all = [("segment.ms", "1"), ("remote.storage.enable", "true"), ("retention.ms", "-1")];
    let options = all.iter().chain(options);
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), Some((*value).to_owned()));
    NewTopic { options: options.map(own).collect(), ..plain(name, 1) }
}

fn record(bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(1000);
    builder.push(1000, None, Some("x".repeat(bytes).as_bytes()), &[]);
    builder.build().into()
}

/// Segments of one record, each in a fragment of its own.
async fn fill(partition: &Arc<Partition>, count: usize, bytes: usize) {
    for _ in 0..count {
        std::thread::sleep(Duration::from_millis(3));
        let offset = append(partition, record(bytes)).await;
        complete_upto(partition, offset + 1, PATIENCE).await.unwrap();
    }
}

fn starts(partition: &Partition) -> (Offset, Offset) {
    let marks = partition.watermarks();
    (marks.log_start, marks.local_start)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_segments_go_once_they_are_complete_for_a_while_and_stay_readable() {
    let (disk, servers) = (SimDisk::new(), servers());
    let broker = start(&disk, &servers, 1 << 40).await;
    let options = [("local.retention.bytes", "2500")];
    let kept = broker.create_topic(topic("t", &options)).await.unwrap();
    let partition = Arc::clone(kept.partition(0).unwrap());
    fill(&partition, 6, 900).await;
    let all = contents(&partition).await;
    let now_ms = clock::wall_ms();
    broker.enforce_retention(now_ms).await;
    assert_eq!(starts(&partition), (0, 0));
    broker.enforce_retention(now_ms + LATER_MS).await;
    assert_eq!(starts(&partition), (0, 3));
    assert_eq!(partition.segments().len(), 3);
    assert_eq!(contents(&partition).await, all);
    stop(&broker).await;
    let again = start(&disk.crash(1), &servers, 1 << 40).await;
    let partition = Arc::clone(again.topic("t").unwrap().partition(0).unwrap());
    assert_eq!((starts(&partition), partition.segments().len()), ((0, 3), 3));
    assert_eq!(contents(&partition).await, all);
    stop(&again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_retention_of_a_topic_that_ships_counts_its_fragments() {
    let (disk, servers) = (SimDisk::new(), servers());
    let broker = start(&disk, &servers, 1 << 40).await;
    let options = [("local.retention.bytes", "0"), ("retention.bytes", "2500")];
    let kept = broker.create_topic(topic("t", &options)).await.unwrap();
    let partition = Arc::clone(kept.partition(0).unwrap());
    fill(&partition, 6, 900).await;
    let all = contents(&partition).await;
    let now_ms = clock::wall_ms() + LATER_MS;
    broker.enforce_retention(now_ms - LATER_MS).await;
    assert_eq!(starts(&partition), (3, 3));
    broker.enforce_retention(now_ms).await;
    assert_eq!((starts(&partition), partition.segments().len()), ((3, 6), 0));
    assert_eq!(contents(&partition).await, all[3..]);
    let below = partition.read(2, 100).await.unwrap_err();
    assert!(matches!(below, ReadError::OutOfRange { start: 3, .. }), "{below}");
    assert_eq!(partition.offset_for_timestamp(0).await.unwrap().unwrap().offset, 3);
    // A request goes the same way.
    assert_eq!(broker.delete_records(&kept, &partition, Some(5), PATIENCE).await.unwrap(), 5);
    fill(&partition, 1, 900).await;
    assert_eq!(contents(&partition).await.len(), 2);
    stop(&broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_until_its_records_are_on_the_servers() {
    let (disk, servers) = (SimDisk::new(), servers());
    let broker = start(&disk, &servers, 1 << 40).await;
    let kept = broker.create_topic(topic("t", &[])).await.unwrap();
    let partition = Arc::clone(kept.partition(0).unwrap());
    for _ in 0..3 {
        append(&partition, record(50)).await;
    }
    assert!(partition.watermarks().complete < 3);
    assert_eq!(broker.delete_records(&kept, &partition, Some(2), PATIENCE).await.unwrap(), 2);
    let marks = partition.watermarks();
    assert!(marks.complete >= 2 && marks.log_start == 2, "{marks:?}");
    assert_eq!(contents(&partition).await.len(), 1);
    stop(&broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_the_limit_deletes_complete_segments_oldest_first_and_no_others() {
    let (disk, servers) = (SimDisk::new(), servers());
    let broker = start(&disk, &servers, 1 << 20).await;
    let mut local = topic("local", &[]);
    local.options.retain(|(key, _)| key != "remote.storage.enable");
    let local = broker.create_topic(local).await.unwrap();
    let local = Arc::clone(local.partition(0).unwrap());
    let mut parts = Vec::new();
    for name in ["old", "young"] {
        let topic = broker.create_topic(topic(name, &[])).await.unwrap();
        parts.push(Arc::clone(topic.partition(0).unwrap()));
    }
    append(&local, record(20_000)).await;
    fill(&parts[0], 20, 20_000).await;
    fill(&parts[1], 14, 20_000).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while broker.local_log().deletes_early() {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", broker.local_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (old, young) = (starts(&parts[0]), starts(&parts[1]));
    assert!(old.0 == 0 && old.1 > 0, "{old:?}");
    // The younger ones only when all sealed ones of the older are gone, and not more than needed.
    assert!(young.1 == 0 || (old.1 == 19 && young.1 < 12), "{old:?}, {young:?}");
    assert_eq!(contents(&parts[0]).await.len(), 20);
    assert_eq!(local.segments().len(), 1);
    stop(&broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_log_that_nobody_else_has_is_full_until_records_are_deleted() {
    let (disk, servers) = (SimDisk::new(), servers());
    let broker = start(&disk, &servers, 1 << 20).await;
    let mut local = topic("local", &[]);
    local.options.retain(|(key, _)| key != "remote.storage.enable");
    let topic = broker.create_topic(local).await.unwrap();
    let partition = Arc::clone(topic.partition(0).unwrap());
    let refused = loop {
        std::thread::sleep(Duration::from_millis(2));
        match partition.append(record(20_000), Origin::Kafka) {
            Ok(appended) => drop(appended.await.unwrap()),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::LocalLogFull { limit_bytes: 0x10_0000 }), "{refused}");
    let usage = broker.local_log();
    assert!(usage.is_full && usage.bytes < usage.limit_bytes, "{usage:?}");
    let segments =
        |partition: &Partition| partition.segments().iter().map(|it| it.bytes).sum::<u64>();
    let before = segments(&partition);
    // The rest is the commit log, as far as checkpoints are behind.
    assert!(before > 300_000, "{before}");
    // Others are refused, too, and reading goes on.
    assert!(!contents(&partition).await.is_empty());
    broker.delete_records(&topic, &partition, None, PATIENCE).await.unwrap();
    let freed = before - segments(&partition);
    // But for a file of the commit log that came or went meanwhile.
    let counted = usage.bytes - broker.local_log().bytes;
    assert!(counted.abs_diff(freed) <= 2 * 65_536, "{counted} of {freed}");
    append(&partition, record(20_000)).await;
    // What a deleted topic took is free again.
    let (bytes, took) = (broker.local_log().bytes, segments(&partition));
    broker.delete_topic(topic.id()).await.unwrap();
    let left = broker.local_log().bytes;
    assert!(left <= bytes - took + 2 * 65_536, "{left} of {bytes}, {took}");
    stop(&broker).await;
}

fn shard_bytes(servers: &Servers) -> u64 {
    servers.iter().map(used).sum()
}

fn used(server: &Arc<dyn ShardStore>) -> u64 {
    let report = futures_util::FutureExt::now_or_never(server.inspect()).unwrap().unwrap();
    report.used_bytes.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_records_leave_the_servers_and_a_rebuild_does_not_bring_them_back() {
    let (disk, servers) = (SimDisk::new(), servers());
    let broker = start(&disk, &servers, 1 << 40).await;
    let kept = broker.create_topic(topic("t", &[])).await.unwrap();
    let partition = Arc::clone(kept.partition(0).unwrap());
    fill(&partition, 6, 50_000).await;
    let all = contents(&partition).await;
    let before = shard_bytes(&servers);
    assert_eq!(broker.delete_records(&kept, &partition, Some(4), PATIENCE).await.unwrap(), 4);
    assert_eq!(shard_bytes(&servers), before);
    broker.enforce_retention(0).await;
    let after = shard_bytes(&servers);
    assert!(after < before / 2, "{after} of {before}");
    fill(&partition, 1, 50).await;
    assert_eq!(contents(&partition).await[..2], all[4..]);
    stop(&broker).await;
    // With the data directory, and without it.
    for (disk, rebuilt) in [(disk, false), (SimDisk::new(), true)] {
        let again = start(&disk, &servers, 1 << 40).await;
        let topic = again.topic("t").unwrap();
        let partition = Arc::clone(topic.partition(0).unwrap());
        let local = if rebuilt { 8 } else { 4 };
        assert_eq!(starts(&partition), (4, local));
        assert_eq!(contents(&partition).await[..2], all[4..]);
        let below = partition.read(3, 100).await.unwrap_err();
        assert!(matches!(below, ReadError::OutOfRange { start: 4, .. }), "{below}");
        fill(&partition, 1, 50).await;
        if rebuilt {
            // All of it.
            again.delete_records(&topic, &partition, None, PATIENCE).await.unwrap();
            again.enforce_retention(0).await;
        }
        stop(&again).await;
    }
    let last = start(&SimDisk::new(), &servers, 1 << 40).await;
    let partition = Arc::clone(last.topic("t").unwrap().partition(0).unwrap());
    assert_eq!(starts(&partition), (9, 9));
    fill(&partition, 1, 50).await;
    assert_eq!(contents(&partition).await.len(), 1);
    stop(&last).await;
}

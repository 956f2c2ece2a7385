//! Commits whose segments find no room.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::broker::catalogue::{PartitionState, TopicState};
use crate::broker::committer::{Committer, kind};
use crate::broker::local_log::LocalLog;
use crate::broker::partition::Parts;
use crate::broker::recovery::log_config;
use crate::broker::{Metrics, TopicOptions};
use crate::disk::sim::SimDisk;
use crate::disk::{Disk, OpenMode, Reserve};
use crate::log::Log;
use crate::record::{BatchBuilder, assign};
use crate::types::{LeaderEpoch, Offset, TopicId, TopicName};
use crate::wal::Entry;

const TOPIC: TopicId = TopicId([1; 16]);
const OTHERS: &str = "/others";

struct Rig {
    disk: SimDisk,
    room: Arc<DiskRoom>,
    partitions: Vec<Arc<Partition>>,
    applier: Applier,
}

fn rig() -> Rig {
    let disk = SimDisk::new();
    let shared = || Arc::new(disk.clone()) as Arc<dyn Disk>;
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.set_capacity(8 << 20, 1000);
    let metrics = Metrics::new(&mut Registry::default());
    let reserve = Reserve::find(shared(), PathBuf::from("/data/reserve"), 0).unwrap();
    let room = DiskRoom::new("/data".into(), Arc::new(reserve), false, metrics.clone());
    let committer = Committer::new(1 << 20, Arc::clone(&room));
    let local_log = Arc::new(LocalLog::new(1 << 40, 0, 0, metrics.clone()));
    let options = TopicOptions::from_checked(&BTreeMap::new());
    let state = || PartitionState::empty(0, LeaderEpoch(0), 1, false);
    let partition = |index: i32| {
        let id = TopicPartition { topic: TOPIC, partition: index };
        let dir = PathBuf::from(format!("/data/t-{index}"));
        let log = Log::open(shared(), dir, id, 0, 0, log_config(&options)).unwrap();
        let parts = Parts {
            topic: TopicName::new("t").unwrap(),
            options: Arc::new(RwLock::new(Arc::new(options.clone()))),
            committer: committer.clone(),
            producer_room: Arc::default(),
            local_log: Arc::clone(&local_log),
            metrics: metrics.clone(),
            offline: None,
        };
        Partition::new(id, &state(), 1, log, parts)
    };
    let partitions = vec![partition(0), partition(1)];
    let mut catalogue = Catalogue::default();
    let topic = TopicState {
        id: TOPIC,
        name: TopicName::new("t").unwrap(),
        revision: 0,
        options: BTreeMap::new(),
        sealed_secret: String::new(),
        partitions: vec![state(), state()],
    };
    catalogue.apply(Event::TopicCreated(topic)).unwrap();
    let applier = Applier::start(catalogue, Arc::clone(&room)).unwrap();
    Rig { disk, room, partitions, applier }
}

impl Rig {
    /// A commit of one batch of about so many bytes.
    fn apply(&self, number: CommitNumber, partition: usize, base: Offset, bytes: usize) -> Answer {
        let mut builder = BatchBuilder::new(1);
        builder.push(1, None, Some(&vec![7; bytes]), &[]);
        let mut batch = builder.build();
        assign(&mut batch, base, LeaderEpoch(0));
        let index = i32::try_from(partition).unwrap();
        let payload = Bytes::from(batch);
        let entry = Entry { kind: kind::BATCHES, topic: TOPIC, partition: index, payload };
        let (done, answer) = oneshot::channel();
        let partition = Arc::clone(&self.partitions[partition]);
        partition.move_watermarks(|marks| marks.log_end = base + 1);
        let then = Then::Write(partition);
        let work = vec![Work { entry, then, done }];
        self.room.commits(batch_bytes(&work));
        // As if another commit came behind each.
        self.applier.apply(Commit { number, now_ms: 1, work }, true, || ());
        answer
    }

    fn fill(&self) {
        self.disk.create_dir_all(Path::new(OTHERS)).unwrap();
        let file = self.disk.open(&Path::new(OTHERS).join("file"), OpenMode::CreateNew).unwrap();
        let free = self.disk.space(Path::new("/")).unwrap().free_bytes;
        file.allocate(0, free - 8192).unwrap();
    }

    fn empty(&self) {
        self.disk.remove_dir_all(Path::new(OTHERS)).unwrap();
    }

    fn until_it_waits(&self) {
        for _ in 0..500 {
            if self.room.status().waits {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nothing waits for room within five seconds");
    }

    fn ends(&self) -> [Offset; 2] {
        [0, 1].map(|index| self.partitions[index].watermarks().high_watermark)
    }
}

type Answer = oneshot::Receiver<()>;

/// Two that find room and have files, one that does not, and a small one behind it that would.
fn stuck(rig: &Rig) -> [Answer; 2] {
    for partition in 0..2 {
        rig.apply(1 + partition as u64, partition, 0, 10).blocking_recv().unwrap();
    }
    rig.fill();
    let big = rig.apply(3, 0, 1, 500_000);
    rig.until_it_waits();
    let small = rig.apply(4, 1, 1, 10);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(rig.ends(), [1, 1], "nothing is applied before what is in front of it");
    [big, small]
}

#[test]
fn what_waits_for_room_is_applied_in_order_when_there_is_some() {
    let rig = rig();
    let [big, small] = stuck(&rig);
    assert!(!rig.room.takes(0, 1), "nothing is taken meanwhile");
    rig.empty();
    big.blocking_recv().unwrap();
    small.blocking_recv().unwrap();
    assert_eq!(rig.ends(), [2, 2]);
    let left = rig.applier.stop().unwrap();
    assert_eq!(left.dirty.len(), 2);
}

#[test]
fn a_stop_applies_nothing_behind_what_found_no_room_and_makes_no_checkpoint() {
    let rig = rig();
    let [mut big, mut small] = stuck(&rig);
    // A checkpoint that is due then waits, and is told.
    std::thread::scope(|scope| {
        let due = scope.spawn(|| rig.applier.with_all(|| (), |state| state.catalogue.clone()));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!due.is_finished());
        rig.room.stop();
        assert_eq!(due.join().unwrap(), None);
    });
    assert!(rig.applier.is_stuck());
    assert_eq!(rig.ends(), [1, 1]);
    let behind = rig.apply(5, 1, 2, 10);
    assert!(rig.applier.stop().is_none());
    for answer in [&mut big, &mut small] {
        assert_eq!(answer.try_recv(), Err(TryRecvError::Closed));
    }
    assert!(behind.blocking_recv().is_err());
}

#[test]
fn what_is_committed_and_not_in_segments_counts_as_taken() {
    let rig = rig();
    let free = || rig.disk.space(Path::new("/")).unwrap().free_bytes;
    rig.room.look();
    assert!(rig.room.takes(usize::try_from(free() / 2 - 4096).unwrap(), 1));
    rig.room.commits(100_000);
    assert!(!rig.room.takes(usize::try_from(free() / 2 - 4096).unwrap(), 1));
    assert!(rig.room.takes(usize::try_from(free() / 2 - 60_000).unwrap(), 1));
    rig.room.applied(100_000);
    assert!(rig.room.takes(usize::try_from(free() / 2 - 4096).unwrap(), 1));
    // Committed batches are counted until they are applied.
    rig.apply(1, 0, 0, 200_000).blocking_recv().unwrap();
    rig.applier.with(|| (), |_| ());
    rig.room.look();
    assert!(rig.room.takes(usize::try_from(free() / 2 - 4096).unwrap(), 1));
    assert!(rig.applier.stop().is_some());
}

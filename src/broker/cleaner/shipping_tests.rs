//! Compaction of topics that ship: at any moment, and from the shard servers alone, the log says what was written.
//!
//! | a change that | is caught by |
//! |---|---|
//! | drops deletions while the fragments may hold what they delete | `a_deletion_goes_once_…` |
//! | drops, or keeps, the wrong ones of them | `log/compaction`: `what_is_kept_elsewhere_…` |
//! | lets local segments go that are not in step | `local_segments_go_by_size_…` |

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::broker::proof::{count, seed};
use crate::broker::retention::complete_upto;
use crate::broker::retention::shipping_tests::{
    LATER_MS, PATIENCE, Servers, keys, servers, start, stop,
};
use crate::broker::{NewTopic, Origin};
use crate::disk::sim::{Random, SimDisk};
use crate::record::vdisk::StoredBlock;
use crate::record::{BatchBuilder, Batches, Records, plain_records};
use crate::tier::{self, ManifestEntry, Tier};
use crate::types::Offset;

const DISK_BYTES: usize = 8 * 1024;

/// What was written, or what a log says: a table by key, or a disk as long as its log makes it.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    table: BTreeMap<Vec<u8>, Vec<u8>>,
    image: Vec<u8>,
    /// Keys of which there is any record.
    seen: BTreeSet<Vec<u8>>,
}

impl State {
    fn write(&mut self, is_vdisk: bool, key: &[u8], value: Option<&[u8]>, size: usize) {
        if is_vdisk {
            let start = usize::try_from(u64::from_be_bytes(key.try_into().unwrap())).unwrap();
            let end = start + value.map_or(size, <[u8]>::len);
            self.image.resize(self.image.len().max(end), 0);
            match value {
                Some(data) => self.image[start..end].copy_from_slice(data),
                None => self.image[start..end].fill(0),
            }
            return;
        }
        self.seen.insert(key.to_vec());
        match value {
            Some(value) => self.table.insert(key.to_vec(), value.to_vec()),
            None => self.table.remove(key),
        };
    }

    fn take(&mut self, is_vdisk: bool, batches: &[u8], next: &mut Offset) {
        for batch in Batches::new(batches) {
            let (header, batch) = batch.unwrap();
            assert!(header.base_offset <= *next && header.next_offset() > *next, "at {next}");
            let plain = plain_records(batch, &header).unwrap();
            for record in Records::new(&plain, &header) {
                let record = record.unwrap();
                let offset = header.base_offset + Offset::from(record.offset_delta);
                if offset >= *next {
                    let block = StoredBlock::parse(&record).ok().filter(|_| is_vdisk);
                    let size = block.map_or(0, |block| usize::try_from(block.size).unwrap());
                    self.write(is_vdisk, record.key.unwrap(), record.value, size);
                }
            }
            *next = header.next_offset();
        }
    }

    fn says_the_same(&self, other: &Self) -> bool {
        (&self.table, &self.image) == (&other.table, &other.image)
    }
}

struct World {
    random: Random,
    is_vdisk: bool,
    disk: SimDisk,
    servers: Servers,
    broker: Arc<Broker>,
    written: State,
    now_ms: i64,
    /// The local log reaches back to the start: deletions can go.
    keeps_local: bool,
}

impl World {
    async fn new(seed: u64, is_vdisk: bool, keeps_local: bool) -> Self {
        let mut random = Random(seed);
        let (disk, servers) = (SimDisk::new(), servers());
        let broker = start(&disk, &servers, 1 << 40).await;
        let retention = if random.coin() { "0" } else { "2000" };
        let options = [
            ("segment.ms", "1"),
            ("cleanup.policy", "compact"),
            ("min.cleanable.dirty.ratio", "0"),
            ("delete.retention.ms", retention),
            ("local.retention.bytes", "3000"),
            ("remote.storage.enable", "true"),
        ];
        let vdisk = is_vdisk.then_some(("tlog.vdisk", "true"));
        let options = options.into_iter().chain(vdisk);
        let options = options.map(|(key, value)| (key.to_owned(), Some(value.to_owned())));
        let topic = NewTopic { name: "t".to_owned(), partitions: 1, options: options.collect() };
        broker.create_topic(topic).await.unwrap();
        let (written, now_ms) = (State::default(), clock::wall_ms());
        Self { random, is_vdisk, disk, servers, broker, written, now_ms, keeps_local }
    }

    fn partition(&self) -> Arc<Partition> {
        Arc::clone(self.broker.topic("t").unwrap().partition(0).unwrap())
    }

    async fn append(&mut self) {
        let mut builder = BatchBuilder::new(self.now_ms);
        for _ in 0..=self.random.below(3) {
            let deletes = self.random.below(3) == 0;
            let byte = 1 + self.random.bits() as u8 % 255;
            let (key, size) = match self.is_vdisk {
                true => {
                    let unit = [1, 64, 512][self.random.below(3)];
                    let start = self.random.below(DISK_BYTES / unit) * unit;
                    let size = self.random.below((DISK_BYTES - start).min(6 * unit) + 1);
                    ((start as u64).to_be_bytes().to_vec(), size)
                }
                false => (vec![b'k', self.random.below(9) as u8], self.random.below(900)),
            };
            let value = (!deletes).then(|| vec![byte; size]);
            let length = (size as u64).to_be_bytes();
            let headers = [("size", &length[..])];
            let headers = if self.is_vdisk { &headers[..] } else { &[] };
            builder.push(self.now_ms, Some(&key), value.as_deref(), headers);
            self.written.write(self.is_vdisk, &key, value.as_deref(), size);
        }
        let origin = if self.is_vdisk { Origin::Vdisk } else { Origin::Kafka };
        let batch = Bytes::from(builder.build());
        self.partition().append(batch, origin).unwrap().await.unwrap();
    }

    async fn ship(&self) {
        let end = self.partition().watermarks().log_end;
        complete_upto(&self.partition(), end, PATIENCE).await.unwrap();
    }

    /// Waits for the fragments that can be sealed anew.
    async fn await_step(&self) {
        let partition = self.partition();
        for _ in 0..5000 {
            let is_compacted = *partition.compacted().borrow() > 0;
            if !is_compacted || partition.settled_by_compaction() > Offset::MIN {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A new broker over the same data directory, or over an empty one.
    async fn restart(&mut self, is_rebuilt: bool) {
        // The servers are told of a plain topic with its first fragment.
        let is_rebuilt = is_rebuilt && self.partition().watermarks().log_end > 1;
        if is_rebuilt {
            self.ship().await;
        }
        stop(&self.broker).await;
        self.disk = if is_rebuilt { SimDisk::new() } else { self.disk.restart() };
        self.broker = start(&self.disk, &self.servers, 1 << 40).await;
    }

    async fn check(&self, context: &str) -> State {
        let partition = self.partition();
        let marks = partition.watermarks();
        let (mut found, mut next) = (State::default(), marks.log_start);
        while next < marks.high_watermark {
            let bytes = partition.read(next, 3000).await.unwrap();
            found.take(self.is_vdisk, &bytes, &mut next);
        }
        assert!(found.says_the_same(&self.written), "{context}: {marks:?}");
        found
    }

    /// As whoever has nothing but the servers, while the broker is at work.
    async fn check_servers(&self, context: &str) {
        let keys = Arc::new(keys());
        let stop = CancellationToken::new();
        let config = tier::Config::new(keys);
        let opened = Tier::open_read_only(config, self.servers.clone(), &|_| (), stop.clone());
        let opened = opened.await.unwrap();
        let topic = self.broker.topic("t").unwrap();
        let found = opened.recovered.topics.first().and_then(|topic| topic.partitions.first());
        let Some(partition) = found else {
            assert_eq!(self.partition().watermarks().shipped, i64::from(self.is_vdisk));
            return;
        };
        assert_eq!(partition.lost, [], "{context}");
        let reader = opened.tier.reader(&topic.info(), self.partition().id());
        let (mut state, mut next) = (State::default(), partition.log_start);
        while next < partition.shipped {
            let bytes = reader.read(next, partition.shipped, 3000).await;
            state.take(self.is_vdisk, &bytes.unwrap(), &mut next);
        }
        if partition.shipped == self.partition().watermarks().log_end {
            assert!(state.says_the_same(&self.written), "{context}: on the servers");
        }
        stop.cancel();
    }

    async fn step(&mut self, context: &str) {
        match self.random.below(24) {
            0..=9 => self.append().await,
            10..=12 => self.ship().await,
            13..=15 => {
                self.broker.compact(self.now_ms).await;
            }
            16 | 17 => {
                self.ship().await;
                self.broker.compact(self.now_ms).await;
                self.await_step().await;
            }
            18 => self.now_ms += 5000,
            19..=22 if self.keeps_local => {
                self.restart(false).await;
                // As the first look of the cleaner has the fragments compared.
                self.partition().dirtiness(self.now_ms);
                self.await_step().await;
                self.broker.compact(self.now_ms).await;
                self.await_step().await;
            }
            19 => self.broker.enforce_retention(clock::wall_ms() + LATER_MS).await,
            20 => {
                let partition = self.partition();
                let local_start = partition.watermarks().complete;
                // As early deletion does, which looks at nothing else.
                if self.random.below(3) == 0 && partition.watermarks().local_start < local_start {
                    partition.roll_at(local_start).ok();
                    let mut ends = partition.segments().into_iter().map(|it| it.next_offset);
                    if let Some(end) = ends.find(|end| *end <= local_start) {
                        partition.move_local_start(end).await.ok();
                        partition.delete_local().unwrap();
                    }
                }
            }
            21 | 22 => {
                let is_rebuilt = self.random.below(5) == 0;
                self.restart(is_rebuilt).await;
            }
            _ => self.check_servers(context).await,
        }
    }

    /// How many fragments were sealed anew.
    async fn renewed(&self) -> usize {
        let (id, keys) = (self.partition().id(), keys());
        let entries = self.servers[0].entries(id).await.unwrap();
        let decode = |(number, bytes): (u64, Bytes)| {
            ManifestEntry::decode(&bytes, id, number, &keys).unwrap()
        };
        entries.into_iter().map(decode).filter(|entry| entry.generation > 0).count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shipped_and_compacted_replays_to_what_was_written() {
    let first = seed();
    let (mut renewed, mut gone) = (0, 0);
    for seed in (first..).take(count(2, 200)) {
        for is_vdisk in [false, true] {
            let mut world = World::new(seed, is_vdisk, (seed - first).is_multiple_of(2)).await;
            for step in 0..70 {
                let context = format!("seed {seed}, vdisk {is_vdisk}, step {step}");
                world.step(&context).await;
                let found = world.check(&context).await;
                gone += world.written.seen.difference(&found.seen).count();
            }
            world.ship().await;
            world.check_servers(&format!("seed {seed}")).await;
            renewed += world.renewed().await;
            stop(&world.broker).await;
        }
    }
    println!("{renewed} fragments were sealed anew, deletions were gone {gone} times");
    assert!(renewed > 0);
}

/// Whether the log has any record of the key.
async fn has(world: &World, key: &[u8]) -> bool {
    world.check("").await.seen.contains(key)
}

async fn put_and_ship(world: &mut World, key: &[u8], value: Option<&[u8]>) {
    tokio::time::sleep(Duration::from_millis(3)).await;
    let mut builder = BatchBuilder::new(world.now_ms);
    builder.push(world.now_ms, Some(key), value, &[]);
    world.written.write(false, key, value, 0);
    let batch = Bytes::from(builder.build());
    world.partition().append(batch, Origin::Kafka).unwrap().await.unwrap();
    world.ship().await;
}

/// A checkpoint lets everything sealed be compacted; before, the fragments are compared.
async fn compact_after_a_start(world: &mut World, is_first: bool) {
    world.restart(false).await;
    world.partition().dirtiness(world.now_ms);
    if !is_first {
        world.await_step().await;
    }
    assert!(world.broker.compact(world.now_ms).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_goes_once_no_fragment_has_what_it_deletes() {
    for is_early in [false, true] {
        let mut world = World::new(3, false, true).await;
        let key = b"k";
        put_and_ship(&mut world, key, Some(&[1; 900])).await;
        put_and_ship(&mut world, b"other", Some(&[2; 900])).await;
        put_and_ship(&mut world, key, None).await;
        put_and_ship(&mut world, b"other", Some(&[3; 10])).await;
        compact_after_a_start(&mut world, true).await;
        assert!(has(&world, key).await, "it is met for the first time");
        world.await_step().await;
        assert!(world.renewed().await > 0);
        world.check_servers("after the first pass").await;
        world.now_ms += 5000;
        put_and_ship(&mut world, b"second", Some(&[4; 10])).await;
        put_and_ship(&mut world, b"second", Some(&[5; 10])).await;
        world.restart(false).await;
        assert!(world.broker.compact(world.now_ms).await);
        assert!(has(&world, key).await, "the fragments were not compared since the start");
        world.await_step().await;
        put_and_ship(&mut world, b"third", Some(&[4; 10])).await;
        put_and_ship(&mut world, b"third", Some(&[5; 10])).await;
        if is_early {
            // Its data is in fragments only, which nobody compacts any more.
            let partition = world.partition();
            let first = partition.segments().first().unwrap().next_offset;
            partition.move_local_start(first).await.unwrap();
            partition.delete_local().unwrap();
        }
        compact_after_a_start(&mut world, false).await;
        assert_eq!(has(&world, key).await, is_early);
        world.await_step().await;
        world.check_servers("after the second pass").await;
        world.restart(true).await;
        assert_eq!(has(&world, key).await, is_early);
        stop(&world.broker).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_segments_go_by_size_when_their_fragments_are_in_step() {
    let mut world = World::new(3, false, false).await;
    for round in 0..8 {
        put_and_ship(&mut world, b"k", Some(&[round; 900])).await;
    }
    let later = clock::wall_ms() + LATER_MS;
    world.broker.enforce_retention(later - LATER_MS).await;
    world.broker.enforce_retention(later).await;
    assert_eq!(world.partition().watermarks().local_start, 0, "nothing is compacted");
    compact_after_a_start(&mut world, true).await;
    world.await_step().await;
    for round in 0..8 {
        put_and_ship(&mut world, b"k", Some(&[round; 900])).await;
    }
    world.broker.enforce_retention(later - LATER_MS).await;
    world.broker.enforce_retention(later).await;
    let local_start = world.partition().watermarks().local_start;
    assert!((1..=8).contains(&local_start), "{local_start}");
    world.check("").await;
    world.check_servers("").await;
    stop(&world.broker).await;
}

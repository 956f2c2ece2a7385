//! Logs that are compacted at random moments, against plain models of what they say.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::pass::Bounds;
use super::*;
use crate::disk::Disk as _;
use crate::disk::sim::{Operation, Random, SimDisk};
use crate::log::testing::{CONFIG, DiskLike, checkpoint, dir, id};
use crate::log::{Error, Log, Reader};
use crate::record::vdisk::StoredBlock;
use crate::record::{
    BatchBuilder, BatchHeader, Batches, Compression, Records, assign, crc_matches, plain_records,
};
use crate::types::{LeaderEpoch, Offset};

const CODECS: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];
const RETENTION_MS: i64 = 1000;
/// Of the disk that is written to.
const DISK_BYTES: usize = 96;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    size: u64,
    timestamp: i64,
    horizon_ms: Option<i64>,
}

/// Every record of a log by its offset. Each batch begins where the one before it ends, and is intact.
fn records(reader: &Reader) -> BTreeMap<Offset, Stored> {
    let mut records = BTreeMap::new();
    let mut next = reader.start_offset();
    while next < reader.end_offset() {
        let bytes = reader.read(next, reader.end_offset(), 5000).unwrap();
        for batch in Batches::new(&bytes) {
            let (header, batch) = batch.unwrap();
            assert!(crc_matches(batch));
            assert_eq!(header.base_offset, next, "a gap without a batch");
            next = header.next_offset();
            let plain = plain_records(batch, &header).unwrap();
            for record in Records::new(&plain, &header) {
                let record = record.unwrap();
                let offset = header.base_offset + Offset::from(record.offset_delta);
                assert!(offset < next);
                let block = StoredBlock::parse(&record).ok();
                let stored = Stored {
                    key: record.key.unwrap_or_default().to_vec(),
                    value: record.value.map(<[u8]>::to_vec),
                    size: block.map_or(0, |block| block.size),
                    timestamp: header.timestamp_of(record.timestamp_delta),
                    horizon_ms: header.delete_horizon_ms(),
                };
                assert!(records.insert(offset, stored).is_none());
            }
        }
    }
    records
}

/// What the keys say.
fn table<'a>(records: impl Iterator<Item = &'a Stored>) -> HashMap<Vec<u8>, Vec<u8>> {
    let mut table = HashMap::new();
    for record in records {
        match &record.value {
            Some(value) => table.insert(record.key.clone(), value.clone()),
            None => table.remove(&record.key),
        };
    }
    table
}

/// What the disk holds; as long as the log makes it.
fn image<'a>(records: impl Iterator<Item = &'a Stored>) -> Vec<u8> {
    let mut image = Vec::new();
    for record in records {
        let start = u64::from_be_bytes(record.key[..].try_into().unwrap()) as usize;
        let zeroes = vec![0; record.size as usize];
        let data = record.value.as_ref().unwrap_or(&zeroes);
        let end = start + data.len();
        if image.len() < end {
            image.resize(end, 0);
        }
        image[start..end].copy_from_slice(data);
    }
    image
}

struct Rig {
    disk: SimDisk,
    log: Log,
    random: Random,
    by: By,
    now_ms: i64,
    recovery_point: Offset,
    /// All that was appended.
    appended: BTreeMap<Offset, Stored>,
    sequences: [i32; 2],
    producers: HashMap<i64, Offset>,
    drops_deletions: bool,
    kept_elsewhere: Option<Offset>,
    /// A pass is broken off after so many segments.
    most_segments: usize,
}

fn data_disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk
}

fn open(disk: &SimDisk, end: Offset) -> Result<Log, Error> {
    Log::open(disk.shared(), dir(), id(), 0, end, CONFIG)
}

impl Rig {
    fn new(by: By, seed: u64) -> Self {
        Self::on(data_disk(), by, seed)
    }

    fn on(disk: SimDisk, by: By, seed: u64) -> Self {
        let log = open(&disk, 0).unwrap();
        Self {
            disk,
            log,
            random: Random(seed),
            by,
            now_ms: 10_000,
            recovery_point: 0,
            appended: BTreeMap::new(),
            sequences: [0; 2],
            producers: HashMap::new(),
            drops_deletions: true,
            kept_elsewhere: None,
            most_segments: usize::MAX,
        }
    }

    fn record(&mut self) -> Stored {
        let random = &mut self.random;
        let is_deletion = random.below(4) == 0;
        let (key, size) = match self.by {
            By::Key => (vec![b'k', random.below(12) as u8], 0),
            By::Extent => {
                let unit = [1, 4, 8][random.below(3)];
                let start = random.below(DISK_BYTES / unit) * unit;
                let most = (DISK_BYTES - start).min(4 * unit);
                ((start as u64).to_be_bytes().to_vec(), random.below(most + 1))
            }
        };
        let byte = random.bits() as u8;
        let length = if self.by == By::Extent { size } else { random.below(60) };
        Stored {
            key,
            value: (!is_deletion).then(|| vec![byte; length]),
            size: size as u64,
            timestamp: self.now_ms + random.below(50) as i64,
            horizon_ms: None,
        }
    }

    fn append(&mut self) -> Result<(), Error> {
        let base = self.log.end_offset();
        let codec = CODECS[self.random.below(CODECS.len())];
        let mut builder = BatchBuilder::new(self.now_ms).compression(codec);
        let count = 1 + self.random.below(4);
        let producer = self.random.below(4);
        if let Some(sequence) = self.sequences.get_mut(producer) {
            builder = builder.producer(producer as i64, 0, *sequence);
            *sequence += count as i32;
            self.producers.insert(producer as i64, base);
        }
        for offset in (base..).take(count) {
            let record = self.record();
            let size = record.size.to_be_bytes();
            let headers = [("size", &size[..])];
            let headers = if self.by == By::Extent { &headers[..] } else { &[] };
            builder.push(record.timestamp, Some(&record.key), record.value.as_deref(), headers);
            self.appended.insert(offset, record);
        }
        let mut batch = builder.build();
        assign(&mut batch, base, LeaderEpoch((base / 40) as i32));
        self.log.append(&batch, self.now_ms)
    }

    fn checkpoint(&mut self) -> Result<(), Error> {
        let end = self.log.end_offset();
        self.log.take_dirty().sync()?;
        self.recovery_point = end;
        Ok(())
    }

    /// A pass; how many segments it wrote.
    fn compact(&mut self, bounds: Bounds) -> Result<usize, Error> {
        let position = self.log.clean_position();
        let rules = Rules {
            by: self.by,
            now_ms: self.now_ms,
            delete_retention_ms: RETENTION_MS,
            drops_deletions: self.drops_deletions,
            kept_elsewhere: self.kept_elsewhere,
            producers: self.producers.clone(),
            config: CONFIG,
        };
        let clean = position.read()?;
        // Horizons pass in what is clean, too.
        let clean = if self.random.below(3) == 0 { 0 } else { clean };
        let reader = self.log.reader();
        let range = (clean, self.recovery_point);
        let Some(mut pass) = Pass::bounded(&reader, range, rules, bounds)? else {
            return Ok(0);
        };
        let mut written = 0;
        while let Some(replacement) = pass.step()? {
            if written == self.most_segments || !self.log.begin_replacement(&replacement) {
                // What a start changed waits for the next checkpoint.
                replacement.discard()?;
                return Ok(written);
            }
            let installed = replacement.install()?;
            self.log.end_replacement(installed);
            written += 1;
        }
        assert!(pass.clean_upto() > clean);
        position.write(pass.clean_upto())?;
        Ok(written)
    }

    fn bounds(&mut self) -> Bounds {
        let few = self.random.below(3) == 0;
        let most = if few { 1 + self.random.below(6) } else { 1000 };
        Bounds { keys: most, extents: most, records: if few { most } else { 1000 } }
    }

    /// What is left of the log says what all that was appended says.
    fn check(&self, log: &Log, context: &str) {
        let reader = log.reader();
        let left = records(&reader);
        let all = || self.appended.range(..log.end_offset()).map(|(_, record)| record);
        for (offset, record) in &left {
            let was = Stored { horizon_ms: record.horizon_ms, ..self.appended[offset].clone() };
            assert_eq!(*record, was, "{context}: offset {offset}");
        }
        match self.by {
            By::Key => assert_eq!(table(left.values()), table(all()), "{context}"),
            By::Extent => assert_eq!(image(left.values()), image(all()), "{context}"),
        }
    }
}

const AMPLE: Bounds = Bounds { keys: 1000, extents: 1000, records: 100_000 };

fn any_log_says_the_same_after_any_passes(by: By) {
    for seed in 0..150 {
        let mut rig = Rig::new(by, seed);
        for step in 0..40 {
            let context = format!("seed {seed}, step {step}");
            match rig.random.below(10) {
                0..5 => (0..rig.random.below(6)).for_each(|_| rig.append().unwrap()),
                5..7 => rig.checkpoint().unwrap(),
                7 => rig.now_ms += 400,
                8 => {
                    // A reader that is no further behind than the retention of deletions sees all of them.
                    let reader = rig.log.reader();
                    let seen = rig.random.below(reader.end_offset().max(1) as usize) as Offset;
                    let before = records(&reader);
                    let now_ms = rig.now_ms;
                    let bounds = rig.bounds();
                    rig.compact(bounds).unwrap();
                    let after = records(&rig.log.reader());
                    let fresh = after.values().all(|r| r.horizon_ms.is_none_or(|h| h > now_ms));
                    let passed = before.values().any(|r| r.horizon_ms.is_some_and(|h| h <= now_ms));
                    let upto = before.range(..seen).map(|(_, record)| record);
                    let replayed = upto.chain(after.range(seen..).map(|(_, record)| record));
                    if fresh && !passed && by == By::Key {
                        assert_eq!(table(replayed), table(before.values()), "{context}");
                    } else if fresh && !passed {
                        assert_eq!(image(replayed), image(before.values()), "{context}");
                    }
                    // The old reader still reads what it was taken for.
                    assert_eq!(records(&reader), before, "{context}");
                }
                _ => {
                    let (end, disk) = (rig.recovery_point, rig.disk.crash(seed));
                    rig.log = open(&disk, end).unwrap();
                    rig.disk = disk;
                    rig.appended.split_off(&end);
                    rig.producers.retain(|_, base| *base < end);
                }
            }
            rig.check(&rig.log, &context);
        }
    }
}

#[test]
fn the_newest_value_of_each_key_outlives_any_passes() {
    any_log_says_the_same_after_any_passes(By::Key);
}

#[test]
fn the_image_of_a_vdisk_outlives_any_passes() {
    any_log_says_the_same_after_any_passes(By::Extent);
}

/// A log of sealed segments only, and its end.
fn filled(by: By, seed: u64) -> Rig {
    let mut rig = Rig::new(by, seed);
    for _ in 0..60 {
        rig.append().unwrap();
    }
    rig.log.roll().unwrap();
    rig.checkpoint().unwrap();
    rig
}

#[test]
fn of_each_key_one_record_is_left_and_deletions_go_after_their_horizon() {
    let mut deletions = 0;
    for seed in 0..50 {
        let mut rig = filled(By::Key, seed);
        let bytes = rig.log.bytes();
        assert!(rig.compact(AMPLE).unwrap() > 0);
        let left = records(&rig.log.reader());
        let mut keys: Vec<_> = left.values().map(|record| &record.key).collect();
        keys.sort_unstable();
        assert!(keys.windows(2).all(|pair| pair[0] != pair[1]), "seed {seed}");
        deletions += left.values().filter(|record| record.value.is_none()).count();
        assert!(rig.log.bytes() < bytes / 2);
        rig.now_ms += RETENTION_MS - 1;
        rig.log.clean_position().write(0).unwrap();
        rig.compact(AMPLE).unwrap();
        assert_eq!(
            records(&rig.log.reader()).keys().collect::<Vec<_>>(),
            left.keys().collect::<Vec<_>>()
        );
        rig.now_ms += 1;
        rig.log.clean_position().write(0).unwrap();
        rig.compact(AMPLE).unwrap();
        let last = records(&rig.log.reader());
        assert_eq!(last.len(), table(rig.appended.values()).len(), "seed {seed}");
        rig.check(&rig.log, "at last");
        // The sequence of each producer is still in the log.
        let newest = headers(&rig.log.reader()).into_iter().filter(|h| h.producer_id >= 0);
        let newest: HashMap<i64, Offset> = newest.map(|h| (h.producer_id, h.base_offset)).collect();
        assert_eq!(newest, rig.producers, "seed {seed}");
    }
    assert!(deletions > 50);
}

#[test]
fn what_is_left_of_a_vdisk_is_its_content_alone() {
    for seed in 0..50 {
        let mut rig = filled(By::Extent, seed);
        // What makes a zeroing bare can be what the last pass removed.
        for _ in 0..3 {
            rig.log.clean_position().write(0).unwrap();
            rig.compact(AMPLE).unwrap();
            rig.now_ms += RETENTION_MS;
        }
        rig.log.clean_position().write(0).unwrap();
        rig.compact(AMPLE).unwrap();
        let left: Vec<_> = records(&rig.log.reader()).into_values().collect();
        let whole = image(left.iter());
        assert_eq!(whole, image(rig.appended.values()), "seed {seed}");
        let mut marks = vec![usize::MAX; whole.len()];
        let mut data = vec![false; whole.len()];
        for (number, record) in left.iter().enumerate() {
            let start = u64::from_be_bytes(record.key[..].try_into().unwrap()) as usize;
            let end = start + record.size as usize;
            let needed = end == whole.len() || data[start..end].contains(&true);
            assert!(record.value.is_some() || needed, "seed {seed}: a bare zeroing");
            data[start..end].iter_mut().for_each(|byte| *byte |= record.value.is_some());
            marks[start..end].fill(number);
        }
        for (number, record) in left.iter().enumerate() {
            let is_seen = marks.contains(&number);
            assert!(is_seen || record.size == 0, "seed {seed}: {record:?} is covered");
        }
        assert!(left.iter().filter(|record| record.size == 0).count() <= 1, "seed {seed}");
    }
}

fn headers(reader: &Reader) -> Vec<BatchHeader> {
    let mut headers: Vec<BatchHeader> = Vec::new();
    let mut next = reader.start_offset();
    while next < reader.end_offset() {
        let bytes = reader.read(next, reader.end_offset(), 5000).unwrap();
        headers.extend(Batches::new(&bytes).map(|batch| batch.unwrap().0));
        next = headers.last().unwrap().next_offset();
    }
    headers
}

/// The tier holds what the log held some time ago, each part of it since another time. Whoever reads the beginning there and
/// goes on here, from wherever, gets the content of the log; so does whoever reads all of it there.
#[test]
fn what_is_kept_elsewhere_and_what_is_left_here_say_the_same_together() {
    for by in [By::Key, By::Extent] {
        let mut gone = 0;
        let seeds = if std::env::var_os("TLOG_TEST_LONG").is_some() { 500 } else { 25 };
        for seed in 0..seeds {
            let mut rig = Rig::new(by, seed);
            let mut elsewhere: BTreeMap<Offset, Stored> = BTreeMap::new();
            let (mut in_step, mut shipped) = (true, 0);
            for step in 0..50 {
                let context = format!("{by:?}, seed {seed}, step {step}");
                match rig.random.below(8) {
                    0..=3 => rig.append().unwrap(),
                    4 => {
                        rig.log.roll().unwrap();
                        rig.checkpoint().unwrap();
                        let left = records(&rig.log.reader());
                        elsewhere.extend(left.range(shipped..).map(|(o, r)| (*o, r.clone())));
                        shipped = rig.log.end_offset();
                    }
                    5 => {
                        let clean = rig.log.clean_position().read().unwrap();
                        rig.kept_elsewhere = Some(if in_step { clean } else { Offset::MIN });
                        rig.most_segments = if rig.random.coin() { usize::MAX } else { 1 };
                        let bounds = rig.bounds();
                        let before = records(&rig.log.reader());
                        rig.compact(bounds).unwrap();
                        let left = records(&rig.log.reader());
                        let goes = |(offset, record): (&Offset, &Stored)| {
                            record.value.is_none() && !left.contains_key(offset)
                        };
                        gone += before.iter().filter(|record| goes(*record)).count();
                        in_step = false;
                        rig.now_ms += rig.random.below(3) as i64 * RETENTION_MS;
                    }
                    _ => {
                        // Some fragments are sealed anew, or all.
                        let all = rig.random.coin();
                        let from = rig.random.below(80) as Offset;
                        let range = if all { 0..shipped } else { from..(from + 20).min(shipped) };
                        let range = range.start.min(range.end)..range.end;
                        let left = records(&rig.log.reader());
                        elsewhere.retain(|offset, _| !range.contains(offset));
                        elsewhere.extend(left.range(range).map(|(o, r)| (*o, r.clone())));
                        in_step |= all;
                    }
                }
                let left = records(&rig.log.reader());
                let all = || rig.appended.values();
                let (whole_table, whole_image) = match by {
                    By::Key => (table(all()), Vec::new()),
                    By::Extent => (HashMap::new(), image(all())),
                };
                for from in (0..=shipped).rev().step_by(3) {
                    let below = elsewhere.range(..from).map(|(_, record)| record);
                    let mixed = below.chain(left.range(from..).map(|(_, record)| record));
                    match by {
                        By::Key => assert_eq!(table(mixed), whole_table, "{context}, from {from}"),
                        By::Extent => {
                            assert_eq!(image(mixed), whole_image, "{context}, from {from}");
                        }
                    }
                }
            }
        }
        assert!(gone > 5, "{by:?}: {gone} deletions went");
    }
}

#[test]
fn deletions_stay_where_older_records_are_kept_elsewhere() {
    for by in [By::Key, By::Extent] {
        let mut rig = filled(by, 5);
        rig.drops_deletions = false;
        for _ in 0..3 {
            rig.log.clean_position().write(0).unwrap();
            rig.compact(AMPLE).unwrap();
            rig.now_ms += 2 * RETENTION_MS;
        }
        let left = records(&rig.log.reader());
        // Any beginning of what was appended, then what is left: the tier below, the local log above.
        for from in 0..rig.log.end_offset() {
            let below = rig.appended.range(..from).map(|(_, record)| record);
            let mixed = below.chain(left.range(from..).map(|(_, record)| record));
            match by {
                By::Key => assert_eq!(table(mixed), table(rig.appended.values()), "from {from}"),
                By::Extent => assert_eq!(image(mixed), image(rig.appended.values()), "from {from}"),
            }
        }
    }
}

#[test]
fn batches_of_transactions_stay_and_keep_the_deletions_above_them() {
    let mut rig = Rig::new(By::Key, 1);
    let put = |log: &mut Log, value: Option<&[u8]>, attributes: u8| {
        let mut builder = BatchBuilder::new(1).producer(7, 0, 0);
        builder.push(1, Some(b"k"), value, &[]);
        let mut batch = builder.build();
        assign(&mut batch, log.end_offset(), LeaderEpoch(0));
        batch[22] |= attributes;
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        log.append(&batch, 0).unwrap();
    };
    put(&mut rig.log, Some(b"old"), 0);
    put(&mut rig.log, Some(b"in a transaction"), 1 << 4);
    put(&mut rig.log, Some(b"its marker"), 1 << 4 | 1 << 5);
    put(&mut rig.log, None, 0);
    rig.log.roll().unwrap();
    rig.checkpoint().unwrap();
    for _ in 0..3 {
        rig.log.clean_position().write(0).unwrap();
        rig.compact(AMPLE).unwrap();
        rig.now_ms += 2 * RETENTION_MS;
        assert_eq!(records(&rig.log.reader()).keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    }
}

#[test]
fn a_pass_over_damage_fails_and_changes_nothing() {
    for by in [By::Key, By::Extent] {
        let rig = filled(by, 3);
        let path = dir().join("00000000000000000000.log");
        rig.disk.flip(&path, 100, 1);
        let mut rig = Rig { log: open(&rig.disk, rig.recovery_point).unwrap(), ..rig };
        let before = rig.disk.list(&dir()).unwrap();
        assert!(matches!(rig.compact(AMPLE), Err(Error::Damaged { .. })));
        assert_eq!(rig.disk.list(&dir()).unwrap(), before);
    }
}

#[test]
fn small_neighbours_become_one_and_a_clean_segment_is_left_alone() {
    let mut rig = filled(By::Key, 2);
    let before = rig.log.segments().len();
    rig.compact(AMPLE).unwrap();
    rig.log.clean_position().write(0).unwrap();
    rig.compact(AMPLE).unwrap();
    assert!(before > 5 && rig.log.segments().len() <= 2, "{before}");
    let operations = rig.disk.operations().len();
    rig.log.clean_position().write(0).unwrap();
    assert!(rig.compact(AMPLE).unwrap() <= 1);
    rig.log.clean_position().write(0).unwrap();
    let between = rig.disk.operations().len();
    assert_eq!(rig.compact(AMPLE).unwrap(), 0);
    assert!(between > operations);
}

/// All that a pass by key may do.
fn by_key(rig: &Rig) -> Rules {
    Rules {
        by: By::Key,
        now_ms: rig.now_ms,
        delete_retention_ms: RETENTION_MS,
        drops_deletions: true,
        kept_elsewhere: None,
        producers: HashMap::new(),
        config: CONFIG,
    }
}

#[test]
fn nothing_is_replaced_that_was_deleted_meanwhile_and_nothing_deleted_that_is_being_replaced() {
    let mut rig = filled(By::Key, 4);
    let begin = |rig: &Rig| {
        let rules = by_key(rig);
        let reader = rig.log.reader();
        Pass::begin(&reader, 0, rig.recovery_point, rules)
            .unwrap()
            .unwrap()
            .step()
            .unwrap()
            .unwrap()
    };
    let replacement = begin(&rig);
    let (base, next) = replacement.range();
    assert!(rig.log.begin_replacement(&replacement));
    assert!(!rig.log.begin_replacement(&replacement), "it is claimed");
    assert!(rig.log.detach_below(next).unwrap().is_empty());
    assert_eq!(rig.log.start_offset(), base);
    let installed = replacement.install().unwrap();
    rig.log.end_replacement(installed);
    rig.check(&rig.log, "replaced");

    let replacement = begin(&rig);
    let (_, next) = replacement.range();
    rig.log.detach_below(next).unwrap().unlink().unwrap();
    assert!(!rig.log.begin_replacement(&replacement));
    replacement.discard().unwrap();
    assert!(rig.disk.list(&dir()).unwrap().iter().all(|name| !name.ends_with(".new")));
}

#[test]
fn a_replacement_that_found_no_room_half_way_is_completed_by_another_try() {
    const NO_ROOM: i32 = 28;
    let (mut failed, mut tried_again) = (0, 0);
    loop {
        let mut rig = filled(By::Key, 4);
        let reader = rig.log.reader();
        let rules = by_key(&rig);
        let mut pass = Pass::begin(&reader, 0, rig.recovery_point, rules).unwrap().unwrap();
        let replacement = pass.step().unwrap().unwrap();
        assert!(rig.log.begin_replacement(&replacement));
        rig.disk.fail_at(rig.disk.operations().len() + failed, NO_ROOM);
        let installed = match replacement.install() {
            // All operations failed once.
            Ok(_) => break,
            Err(error) => {
                rig.check(&rig.log, "served as it was");
                // A sync that failed is not believed when it is made again.
                error.is_no_room().then(|| {
                    tried_again += 1;
                    replacement.install().unwrap_or_else(|error| panic!("{failed}: {error:?}"))
                })
            }
        };
        if let Some(installed) = installed {
            rig.log.end_replacement(installed);
            rig.check(&rig.log, "replaced");
        }
        recovers(&rig, rig.disk.crash(failed as u64), &format!("failed {failed}"));
        failed += 1;
    }
    assert!(failed > 10 && tried_again > 8, "{failed}, {tried_again}");
}

/// What no image of a crash shows by chance: each directory sync stands where the drawing in the module's page has it.
#[test]
fn a_replacement_syncs_the_directory_behind_each_of_its_steps() {
    let mut rig = filled(By::Key, 4);
    let rules = by_key(&rig);
    let reader = rig.log.reader();
    let mut pass = Pass::begin(&reader, 0, rig.recovery_point, rules).unwrap().unwrap();
    let replacement = pass.step().unwrap().unwrap();
    assert!(rig.log.begin_replacement(&replacement));
    let before = rig.disk.operations().len();
    let installed = replacement.install().unwrap();
    rig.log.end_replacement(installed);
    let mut steps = Vec::new();
    for operation in rig.disk.operations().split_off(before) {
        let step = match operation {
            Operation::Rename(_, to) if to.extension().is_some_and(|end| end == "swap") => "swap",
            Operation::Rename(..) => "rename",
            Operation::Remove(_) => "unlink",
            Operation::SyncDir(path) if path == dir() => "sync",
            other => panic!("{other:?}"),
        };
        if steps.last() != Some(&step) {
            steps.push(step);
        }
    }
    assert_eq!(steps, ["swap", "sync", "unlink", "sync", "rename", "sync"]);
}

/// Appends, rolls, checkpoints and compacts until the end or the first failure.
fn scenario(rig: &mut Rig) -> Result<(), Error> {
    for round in 0..6 {
        for _ in 0..8 {
            rig.append()?;
        }
        if round % 3 == 1 {
            rig.log.roll()?;
        }
        rig.checkpoint()?;
        if round > 1 {
            rig.now_ms += RETENTION_MS;
            rig.compact(AMPLE)?;
        }
    }
    Ok(())
}

/// Opens a disk as a crash left it: it says what the log below the recovery point said, and can be compacted on.
fn recovers(rig: &Rig, disk: SimDisk, context: &str) {
    let end = rig.recovery_point;
    let log = open(&disk, end).unwrap_or_else(|error| panic!("{context}: {error:?}"));
    assert_eq!(
        (log.start_offset(), log.end_offset(), log.damage()),
        (0, end, &[][..]),
        "{context}"
    );
    rig.check(&log, context);
    let names = disk.list(&dir()).unwrap_or_default();
    let rest = names.iter().find(|name| name.ends_with(".new") || name.ends_with(".swap"));
    assert_eq!(rest, None, "{context}");
    let mut rig = Rig {
        log,
        disk,
        random: Random(1),
        appended: rig.appended.range(..end).map(|(o, r)| (*o, r.clone())).collect(),
        producers: HashMap::new(),
        ..*rig
    };
    rig.now_ms += RETENTION_MS;
    rig.compact(AMPLE).unwrap_or_else(|error| panic!("{context}: {error:?}"));
    checkpoint(&mut rig.log);
    rig.check(&rig.log, context);
}

#[test]
fn a_power_cut_at_any_operation_of_a_compaction_is_recovered_from() {
    for by in [By::Key, By::Extent] {
        let mut whole = Rig::new(by, 7);
        let before = whole.disk.operations().len();
        scenario(&mut whole).unwrap();
        let operations = whole.disk.operations()[before..].to_vec();
        let swaps = |operation: &&Operation| matches!(operation, Operation::Rename(_, to) if to.extension().is_some_and(|e| e == "swap"));
        assert!(operations.iter().filter(swaps).count() >= 4);
        let mut images = 0;
        for stop in 0..operations.len() {
            let disk = data_disk();
            disk.stop_at(disk.operations().len() + stop);
            let mut rig = Rig::on(disk, by, 7);
            assert!(scenario(&mut rig).is_err());
            for seed in 0..3 {
                recovers(&rig, rig.disk.crash(seed), &format!("{by:?}, stop {stop}, seed {seed}"));
            }
            recovers(&rig, rig.disk.restart(), &format!("{by:?}, stop {stop}, killed"));
            images += 4;
        }
        assert!(images > 500, "{images}");
    }
}

#[test]
fn a_failed_operation_of_a_compaction_loses_nothing() {
    for by in [By::Key, By::Extent] {
        let mut whole = Rig::new(by, 7);
        let before = whole.disk.operations().len();
        scenario(&mut whole).unwrap();
        for number in before..whole.disk.operations().len() {
            let disk = data_disk();
            disk.fail_at(number, 5);
            let mut rig = Rig::on(disk, by, 7);
            assert!(scenario(&mut rig).is_err());
            let context = format!("{by:?}, failed {number}");
            recovers(&rig, rig.disk.crash(1), &context);
            recovers(&rig, rig.disk.restart(), &context);
        }
    }
}

use std::path::PathBuf;

use super::*;
use crate::disk::sim::{Operation, SimDisk};
use crate::log::Log;
use crate::log::testing::{self, CONFIG, DiskLike, Model, ModelBatch, checkpoint, dir, id};
use crate::types::TopicId;

fn appended(log: &mut Log, model: &mut Model, count: usize) {
    for _ in 0..count {
        let end = model.end(0);
        let batch = ModelBatch::new(end, &[end * 13 % 500, end * 3], 40);
        log.append(&batch.bytes, 0).unwrap();
        model.0.push(batch);
    }
}

fn try_open(disk: &SimDisk, start: Offset, end: Offset) -> Result<Log, Error> {
    Log::open(disk.shared(), dir(), id(), start, end, CONFIG)
}

/// A disk with the data directory alone.
fn data_disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk
}

/// What the layer above keeps durably while the scenario runs.
#[derive(Debug, Clone, Default)]
struct Known {
    commit_log: Model,
    start: Offset,
    recovery_point: Offset,
}

/// Appends, checkpoints, rolls and deletes until the end or the first failure.
fn scenario(disk: &SimDisk, known: &mut Known) -> Result<(), Error> {
    let mut log = try_open(disk, 0, 0)?;
    for round in 0..6i64 {
        for i in 0..5 {
            let end = known.commit_log.end(0);
            let size = if i == 3 { 700 } else { 60 };
            let batch = ModelBatch::new(end, &[end * 13 % 500, end * 3], size);
            known.commit_log.0.push(batch.clone());
            log.append(&batch.bytes, 0)?;
        }
        if round % 3 != 2 {
            let end = log.end_offset();
            log.take_dirty().sync()?;
            known.recovery_point = end;
        }
        if round > 2 {
            known.start = known.start.max(known.recovery_point - 12);
            log.detach_below(known.start)?.unlink()?;
        }
    }
    Ok(())
}

/// Opens a crashed disk, replays, and compares; then the same again with what this start left behind.
fn recovers(disk: &SimDisk, known: &Known, context: &str) {
    let open = |disk: &SimDisk, end| {
        try_open(disk, known.start, end).unwrap_or_else(|error| {
            panic!("{context}: {error:?} of {known:?}", known = (known.start, known.recovery_point))
        })
    };
    let mut log = open(disk, known.recovery_point);
    assert_eq!(log.end_offset(), known.recovery_point, "{context}");
    assert!(log.start_offset() <= known.start, "{context}");
    known.commit_log.check_from(&log);
    for batch in known.commit_log.0.iter().filter(|batch| batch.base >= known.recovery_point) {
        log.append(&batch.bytes, 0).unwrap();
    }
    let end = checkpoint(&mut log);
    drop(log);
    let log = open(&disk.crash(1), end);
    assert_eq!(log.end_offset(), known.commit_log.end(0).max(known.start), "{context}");
    known.commit_log.check_from(&log);
}

impl Model {
    /// Everything in `log` is as in this model, which may reach further.
    fn check_from(&self, log: &Log) {
        let reader = log.reader();
        let (start, end) = (reader.start_offset(), reader.end_offset());
        assert_eq!(testing::read_all(&reader, start, end), self.bytes(start, end).0);
    }
}

#[test]
fn a_power_cut_at_any_operation_is_recovered_from() {
    let whole = data_disk();
    let before = whole.operations().len();
    scenario(&whole, &mut Known::default()).unwrap();
    let operations = whole.operations().len() - before;
    assert!(operations > 100);
    for stop in 0..operations {
        let disk = data_disk();
        let mut known = Known::default();
        disk.stop_at(disk.operations().len() + stop);
        assert!(scenario(&disk, &mut known).is_err());
        for seed in 0..3 {
            recovers(&disk.crash(seed), &known, &format!("stop {stop}, seed {seed}"));
        }
        recovers(&disk.restart(), &known, &format!("stop {stop}, killed"));
    }
}

#[test]
fn any_failed_operation_poisons_until_reopened() {
    let whole = data_disk();
    let before = whole.operations().len();
    scenario(&whole, &mut Known::default()).unwrap();
    for (number, operation) in whole.operations().iter().enumerate().skip(before) {
        let disk = data_disk();
        let mut known = Known::default();
        disk.fail_at(number, 5);
        let failed = scenario(&disk, &mut known);
        assert!(failed.is_err(), "{operation:?}");
        recovers(&disk, &known, &format!("failed {operation:?}"));
    }
}

#[test]
fn a_failed_write_is_not_followed_by_another() {
    let disk = SimDisk::new();
    let (mut log, mut model) = (testing::open(&disk, &dir(), 0, 0), Model::default());
    appended(&mut log, &mut model, 1);
    disk.fail_at(disk.operations().len(), 5);
    let batch = ModelBatch::new(2, &[1], 40).bytes;
    assert!(matches!(log.append(&batch, 0), Err(Error::Io { op: "write", .. })));
    assert!(matches!(log.append(&batch, 0), Err(Error::Poisoned { .. })));
    model.check(&log.reader());
}

/// Whatever finds no room, at whichever call: the same call again does it, and everything is there after a crash.
#[test]
fn a_log_that_found_no_room_goes_on_where_it_stood() {
    let (mut failed, mut at) = (0, data_disk().operations().len());
    loop {
        let disk = data_disk();
        let (mut log, mut model) = (testing::open(&disk, &dir(), 0, 0), Model::default());
        disk.fail_at(at, 28);
        for _ in 0..12 {
            let batch = ModelBatch::new(model.end(0), &[1, 1], 400);
            match log.append(&batch.bytes, 0) {
                Err(error) if error.is_no_room() => {
                    failed += 1;
                    model.check(&log.reader());
                    log.append(&batch.bytes, 0).unwrap();
                }
                done => done.unwrap(),
            }
            model.0.push(batch);
        }
        match log.take_dirty().sync() {
            Err(error) if error.is_no_room() => {
                failed += 1;
                checkpoint(&mut log);
            }
            // A sync that fails for want of room is a failed sync.
            Err(error) => assert!(error.to_string().contains("sync"), "{error}"),
            Ok(()) => {
                model.check(&log.reader());
                let image = disk.crash(at as u64);
                model.check(&testing::open(&image, &dir(), 0, model.end(0)).reader());
            }
        }
        if at >= disk.operations().len() {
            break;
        }
        at += 1;
    }
    assert!(failed > 20, "{failed}");
}

#[test]
fn files_are_synced_before_their_directory_and_that_before_its_parent() {
    let disk = SimDisk::new();
    let (mut log, mut model) = (testing::open(&disk, &dir(), 0, 0), Model::default());
    appended(&mut log, &mut model, 20);
    let before = disk.operations().len();
    checkpoint(&mut log);
    let operations = disk.operations().split_off(before);
    let dir_at = operations.iter().position(|op| *op == Operation::SyncDir(dir())).unwrap();
    let parent = Operation::SyncDir(PathBuf::from("/data"));
    assert_eq!(operations.iter().position(|op| *op == parent), Some(dir_at + 1));
    assert_eq!(operations.len(), dir_at + 2);
    let synced = |end: &str| {
        let is = |op: &&Operation| matches!(op, Operation::Sync(path) if path.to_string_lossy().ends_with(end));
        operations[..dir_at].iter().filter(is).count()
    };
    let segments = log.segments().len();
    assert!(segments > 1);
    assert_eq!((synced(".log"), synced("partition.meta")), (segments, 1));
    assert_eq!(synced(".index"), segments);
    assert_eq!(synced(".timeindex"), segments);
    assert_eq!(synced(".check"), segments - 1);
    assert!(log.take_dirty().is_empty());
}

#[test]
fn everything_above_the_recovery_point_is_cut() {
    let disk = SimDisk::new();
    let (mut log, mut model) = (testing::open(&disk, &dir(), 0, 0), Model::default());
    appended(&mut log, &mut model, 40);
    checkpoint(&mut log);
    drop(log);
    for kept in (0..=40).rev() {
        model.0.truncate(kept);
        let end = model.end(0);
        let log = testing::open(&disk, &dir(), 0, end);
        model.check(&log.reader());
        let files = disk.list(&dir()).unwrap_or_default();
        let logs = files.iter().filter(|name| name.ends_with(".log")).count();
        assert_eq!(logs, log.segments().len());
    }
}

/// Damage below the recovery point as a range of offsets, and that exactly the rest can be read.
fn serves_all_but(log: &Log, model: &Model, lost: std::ops::Range<Offset>) {
    let found: Vec<_> = log.damage().iter().map(|range| (range.from, range.to)).collect();
    assert_eq!(found, [(lost.start, lost.end)]);
    let reader = log.reader();
    assert_eq!(reader.end_offset(), model.end(0));
    for batch in &model.0 {
        match reader.read(batch.base, reader.end_offset(), 1) {
            Ok(bytes) => {
                assert!(!lost.contains(&batch.base), "{} of {lost:?}", batch.base);
                assert_eq!(bytes, batch.bytes);
            }
            Err(Error::Damaged { from, to, .. }) => {
                assert_eq!((from, to), (lost.start, lost.end));
                assert!(lost.contains(&batch.base));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Appends go on behind the damage, and a later start finds the same.
fn goes_on_behind(disk: &SimDisk, mut log: Log, model: &Model, lost: std::ops::Range<Offset>) {
    serves_all_but(&log, model, lost.clone());
    let mut model = model.clone();
    appended(&mut log, &mut model, 3);
    serves_all_but(&log, &model, lost.clone());
    let end = checkpoint(&mut log);
    drop(log);
    serves_all_but(&try_open(&disk.crash(3), 0, end).unwrap(), &model, lost);
}

#[test]
fn a_file_that_ends_too_early_is_named_and_the_rest_is_served() {
    let disk = SimDisk::new();
    let (mut log, mut model) = (testing::open(&disk, &dir(), 0, 0), Model::default());
    appended(&mut log, &mut model, 20);
    let end = checkpoint(&mut log);
    let last = log.segments().pop().unwrap();
    drop(log);
    let path = Paths::new(&dir(), last.base_offset).log;
    let lost = model.0.last().unwrap();
    for cut in [1, lost.bytes.len() as u64 - 1, lost.bytes.len() as u64] {
        let disk = disk.crash(2);
        let file = disk.open(&path, OpenMode::Write).unwrap();
        file.set_len(last.bytes - cut).unwrap();
        let log = try_open(&disk, 0, end).unwrap();
        assert_eq!(log.damage()[0].path, path);
        assert_eq!(file.len().unwrap(), last.bytes - cut);
        file.sync().unwrap();
        goes_on_behind(&disk, log, &model, lost.base..end);
    }
}

#[test]
fn a_file_that_is_gone_is_a_hole_in_what_is_served() {
    let disk = SimDisk::new();
    let (mut log, mut model) = (testing::open(&disk, &dir(), 0, 0), Model::default());
    appended(&mut log, &mut model, 40);
    let end = checkpoint(&mut log);
    let segments = log.segments();
    drop(log);
    for segment in &segments {
        let disk = disk.crash(2);
        Paths::new(&dir(), segment.base_offset).remove(&disk).unwrap();
        disk.sync_dir(&dir()).unwrap();
        let log = try_open(&disk, 0, end).unwrap();
        goes_on_behind(&disk, log, &model, segment.base_offset..segment.next_offset);
    }
    // All of them, with and without the directory.
    for with_dir in [true, false] {
        let disk = disk.crash(2);
        if with_dir {
            segments.iter().for_each(|s| Paths::new(&dir(), s.base_offset).remove(&disk).unwrap());
            disk.sync_dir(&dir()).unwrap();
        } else {
            disk.remove_dir_all(&dir()).unwrap();
            disk.sync_dir(&PathBuf::from("/data")).unwrap();
        }
        let log = try_open(&disk, 0, end).unwrap();
        assert_eq!((log.start_offset(), log.end_offset()), (0, end));
        goes_on_behind(&disk, log, &model, 0..end);
    }
}

#[test]
fn a_hole_at_the_front_goes_with_what_is_deleted() {
    let disk = SimDisk::new();
    let (mut log, mut model) = (testing::open(&disk, &dir(), 0, 0), Model::default());
    appended(&mut log, &mut model, 40);
    let end = checkpoint(&mut log);
    let segments = log.segments();
    drop(log);
    Paths::new(&dir(), 0).remove(&disk).unwrap();
    let mut log = try_open(&disk, 0, end).unwrap();
    let first = segments[0].next_offset;
    assert!(log.detach_below(first - 1).unwrap().is_empty());
    assert_eq!(log.start_offset(), 0);
    log.detach_below(first).unwrap().unlink().unwrap();
    assert_eq!(log.start_offset(), first);
    assert!(
        matches!(log.reader().read(0, end, 1), Err(Error::OutOfRange { start, .. }) if start == first)
    );
}

fn disk_bases(disk: &SimDisk) -> Vec<Offset> {
    disk.list(&dir()).unwrap().iter().filter_map(|name| base_offset_of(name)).collect()
}

#[test]
fn a_recovery_point_below_the_start_is_refused() {
    let disk = SimDisk::new();
    assert!(matches!(try_open(&disk, 9, 5), Err(Error::BadRange { .. })));
}

#[test]
fn a_damaged_batch_that_hides_the_cut_is_fenced_and_nothing_is_cut() {
    let disk = SimDisk::new();
    let (mut log, mut model) = (testing::open(&disk, &dir(), 0, 0), Model::default());
    appended(&mut log, &mut model, 3);
    let end = checkpoint(&mut log);
    drop(log);
    let path = Paths::new(&dir(), 0).log;
    let whole = disk.read_all(&path, 1 << 20).unwrap();
    // The length of the last batch: where it ends cannot be known.
    let position = model.0[..2].iter().map(|batch| batch.bytes.len()).sum::<usize>();
    for byte in 8..12 {
        for bit in 0..8 {
            let disk = disk.crash(0);
            disk.flip(&path, position + byte, 1 << bit);
            let log = try_open(&disk, 0, end).unwrap();
            assert_eq!(disk.read_all(&path, 1 << 20).unwrap().len(), whole.len());
            goes_on_behind(&disk, log, &model, 4..6);
        }
    }
    // A recovery point within a batch is no place to cut either, nor to append at.
    let mut log = try_open(&disk.crash(0), 0, 5).unwrap();
    let batch = ModelBatch::new(5, &[1], 40);
    log.append(&batch.bytes, 0).unwrap();
    assert_eq!(log.reader().read(5, 6, 1).unwrap(), batch.bytes);
    assert!(matches!(log.reader().read(4, 6, 1), Err(Error::Damaged { from: 4, to: 5, .. })));
    let log = try_open(&disk, 0, 5).unwrap();
    assert_eq!(log.damage().len(), 1);
    assert_eq!((log.damage()[0].from, log.damage()[0].to, log.end_offset()), (4, 5, 5));
    assert_eq!(disk.read_all(&path, 1 << 20).unwrap(), whole);
    model.check(&testing::open(&disk, &dir(), 0, 6).reader());
}

#[test]
fn a_directory_of_another_topic_is_removed() {
    let disk = SimDisk::new();
    let (mut log, mut model) = (testing::open(&disk, &dir(), 0, 0), Model::default());
    appended(&mut log, &mut model, 3);
    checkpoint(&mut log);
    drop(log);
    let other = TopicPartition { topic: TopicId([1; 16]), ..id() };
    let mut log = Log::open(disk.shared(), dir(), other, 0, 0, CONFIG).unwrap();
    assert!(!disk.exists(&dir()).unwrap());
    let batch = ModelBatch::new(0, &[1], 40);
    log.append(&batch.bytes, 0).unwrap();
    let end = checkpoint(&mut log);
    let log = Log::open(Arc::new(disk.crash(4)), dir(), other, 0, end, CONFIG).unwrap();
    assert_eq!(log.reader().read(0, 1, 1).unwrap(), batch.bytes);
}

#[test]
fn an_unreadable_meta_is_an_error_only_where_data_is_due() {
    let disk = SimDisk::new();
    let (mut log, mut model) = (testing::open(&disk, &dir(), 0, 0), Model::default());
    appended(&mut log, &mut model, 3);
    let end = checkpoint(&mut log);
    drop(log);
    let foreign = TopicPartition { topic: TopicId([1; 16]), ..id() };
    let refused = Log::open(disk.shared(), dir(), foreign, 0, end, CONFIG);
    assert!(matches!(refused, Err(Error::Foreign { found, .. }) if found == id()));
    disk.flip(&partition_meta::path(&dir()), 15, 1);
    // Said by all its other fields.
    assert_eq!(try_open(&disk, 0, end).unwrap().damage(), []);
    disk.flip(&partition_meta::path(&dir()), 15, 1);
    disk.flip(&partition_meta::path(&dir()), 35, 1);
    assert!(matches!(try_open(&disk, 0, end), Err(Error::Meta { fault: MetaFault::Damaged, .. })));
    assert!(disk.exists(&dir()).unwrap());
    let log = testing::open(&disk, &dir(), 0, 0);
    assert_eq!(log.end_offset(), 0);
    assert!(!disk.exists(&dir()).unwrap());
}

#[test]
fn a_file_ends_where_its_batches_do_after_a_cut() {
    let disk = SimDisk::new();
    let (mut log, mut model) = (testing::open(&disk, &dir(), 0, 0), Model::default());
    appended(&mut log, &mut model, 3);
    let end = checkpoint(&mut log);
    appended(&mut log, &mut model, 2);
    assert_eq!(log.segments().len(), 1);
    drop(log);
    let mut log = try_open(&disk, 0, end).unwrap();
    let length = || disk.read_all(&Paths::new(&dir(), 0).log, 1 << 20).unwrap().len() as u64;
    assert_eq!(length(), log.bytes());
    // Also on the disk: what a power cut leaves of it is no longer.
    checkpoint(&mut log);
    let image = disk.crash(1);
    let left = image.read_all(&Paths::new(&dir(), 0).log, 1 << 20).unwrap();
    assert_eq!(left.len() as u64, log.bytes());
}

#[test]
fn rests_of_deleted_segments_are_removed() {
    let disk = SimDisk::new();
    let (mut log, mut model) = (testing::open(&disk, &dir(), 0, 0), Model::default());
    appended(&mut log, &mut model, 40);
    let end = checkpoint(&mut log);
    let segments = log.segments();
    drop(log);
    // As if the unlink of the first had been lost, and that of the second had not.
    Paths::new(&dir(), segments[1].base_offset).remove(&disk).unwrap();
    let lost = segments[1].base_offset..segments[1].next_offset;
    serves_all_but(&try_open(&disk, 0, end).unwrap(), &model, lost);
    let log = try_open(&disk, segments[2].base_offset, end).unwrap();
    assert_eq!(log.start_offset(), segments[2].base_offset);
    assert_eq!(disk_bases(&disk)[0], segments[2].base_offset);
}

#[test]
fn the_rest_of_a_deleted_segment_may_be_nonsense() {
    let disk = SimDisk::new();
    let (mut log, mut model) = (testing::open(&disk, &dir(), 0, 0), Model::default());
    appended(&mut log, &mut model, 40);
    let end = checkpoint(&mut log);
    let segments = log.segments();
    drop(log);
    // As if its unlink had been lost, and its batches, which no sync waited for any more, as well.
    let paths = Paths::new(&dir(), segments[1].base_offset);
    disk.put(&paths.log, &[0; 700]);
    disk.remove_file(&paths.check).ok();
    assert!(!try_open(&disk, 0, end).unwrap().damage().is_empty());
    let log = try_open(&disk, segments[2].base_offset, end).unwrap();
    assert_eq!(log.damage(), []);
    assert_eq!(log.start_offset(), segments[2].base_offset);
    assert_eq!(disk_bases(&disk)[0], segments[2].base_offset);
}

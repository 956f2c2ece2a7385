use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::broker::{Catalogue, DeletionReason, EpochStart, PartitionState, TopicState};
use crate::disk::FileDisk;
use crate::log::{self, Log};
use crate::record::{BatchBuilder, assign};
use crate::types::{DataDirId, LeaderEpoch, TopicId, TopicName};
use crate::wal::{Config, Entry, Wal};

fn data_dir() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    std::fs::write(path.join("format.json"), b"{\"format\": 1}").unwrap();
    (dir, path)
}

fn check(path: &Path) -> Report {
    check_data_dir(&FileDisk, path, &mut |_| {}).unwrap()
}

fn commit_log(path: &Path, commits: usize) -> PathBuf {
    commit_log_of(path, commits, Config { file_bytes: 1 << 20, ..Config::default() });
    let first = std::fs::read_dir(path.join("commitlog")).unwrap().next().unwrap().unwrap();
    first.path()
}

fn commit_log_of(path: &Path, count: usize, config: Config) {
    let payload = Bytes::from_static(&[7; 1000]);
    let entry = Entry { kind: 1, topic: TopicId([2; 16]), partition: 0, payload };
    commits(path, &vec![vec![entry]; count], config);
}

fn commits(path: &Path, all: &[Vec<Entry>], config: Config) {
    let dir = path.join("commitlog");
    std::fs::create_dir_all(&dir).unwrap();
    let mut wal =
        Wal::open(Arc::new(FileDisk), &dir, DataDirId([1; 16]), 0, config, &mut |_, _| Ok(()))
            .unwrap();
    for entries in all {
        wal.commit(entries).unwrap();
    }
}

fn segment(path: &Path, batches: i64) -> PathBuf {
    let dir = path.join("disk-0");
    std::fs::create_dir_all(&dir).unwrap();
    let mut bytes = Vec::new();
    for offset in 0..batches {
        let mut builder = BatchBuilder::new(1);
        builder.push(1, None, Some(&[9; 100]), &[]);
        let mut batch = builder.build();
        assign(&mut batch, offset, LeaderEpoch(0));
        bytes.extend_from_slice(&batch);
    }
    let file = dir.join("00000000000000000000.log");
    std::fs::write(&file, bytes).unwrap();
    let mut meta = b"TLOGPART\0\0\0\x01".to_vec();
    meta.extend([2; 16]);
    meta.extend([0; 4]);
    meta.extend(crc32c::crc32c(&meta).to_be_bytes());
    std::fs::write(dir.join("partition.meta"), meta).unwrap();
    file
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn a_sound_directory_has_no_damage() {
    let (_dir, path) = data_dir();
    commit_log(&path, 5);
    segment(&path, 3);
    let report = check(&path);
    assert_eq!((report.commits, report.partitions, report.batches), (5, 1, 3));
    assert_eq!((report.damage, report.torn), (vec![], vec![]));
}

#[test]
fn the_rest_of_a_file_that_was_used_before_is_no_torn_end() {
    let (_dir, path) = data_dir();
    let file = commit_log(&path, 5);
    let mut bytes = std::fs::read(&file).unwrap();
    let (end, older) = (bytes.len(), bytes[512..2048].to_vec());
    for rest in
        [vec![0; 4096], [older.clone(), vec![9; 512]].concat(), [vec![9; 512], older].concat()]
    {
        bytes.truncate(end);
        bytes.extend(rest);
        std::fs::write(&file, &bytes).unwrap();
        let report = check(&path);
        assert_eq!((report.commits, report.damage, report.torn), (5, vec![], vec![]));
    }
}

#[test]
fn a_flipped_bit_in_an_acknowledged_commit_is_damage_and_in_the_last_a_torn_end() {
    let (_dir, path) = data_dir();
    let file = commit_log(&path, 3);
    let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
    flip(&file, 512 + 100);
    let report = check(&path);
    assert_eq!(report.damage.len(), 1, "{report:?}");
    flip(&file, 512 + 100);
    flip(&file, length - 1536 + 100);
    let report = check(&path);
    assert_eq!((report.commits, report.damage.len(), report.torn.len()), (2, 0, 1), "{report:?}");
}

#[test]
fn each_bad_range_of_a_segment_is_named() {
    let (_dir, path) = data_dir();
    let file = segment(&path, 4);
    let batch = std::fs::read(&file).unwrap().len() / 4;
    let mut report = Report::default();
    let walk = |report: &mut Report| {
        let dir = path.join("disk-0");
        let kept = Kept { synced: 4, ..Kept::default() };
        check_partition(&FileDisk, &dir, &kept, report, &mut |_| {}).unwrap();
    };
    flip(&file, batch + 80);
    walk(&mut report);
    assert_eq!((report.batches, report.damage.len()), (3, 1));
    assert!(report.damage[0].contains("offsets 1 to 1"), "{report:?}");
    // A header that is none: the rest cannot be walked.
    flip(&file, 2 * batch + 16);
    report = Report::default();
    walk(&mut report);
    assert!(report.damage.iter().any(|line| line.contains("offset 2 on")), "{report:?}");
    // Missing at the end.
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..batch]).unwrap();
    report = Report::default();
    walk(&mut report);
    assert!(report.damage[0].contains("offsets 1 to 3: missing"), "{report:?}");
}

/// A checkpoint of topic `disk`, with the id of [`segment`]'s, with one partition, synced from `start` to `end`, that covers `commit`.
fn checkpoint(path: &Path, commit: CommitNumber, (start, end): (Offset, Offset)) {
    let topic = TopicId([2; 16]);
    let mut catalogue = Catalogue::default();
    let partition = PartitionState {
        local_start: start,
        log_end: end,
        ..PartitionState::empty(0, LeaderEpoch(0), 1, false)
    };
    let state = TopicState {
        id: topic,
        name: TopicName::new("disk").unwrap(),
        revision: 0,
        options: BTreeMap::new(),
        sealed_secret: String::new(),
        partitions: vec![partition],
    };
    catalogue.topics.insert(topic, state);
    std::fs::create_dir_all(path.join("meta")).unwrap();
    let checkpoint = Checkpoint { commit, clean: true, catalogue };
    checkpoint.write(&FileDisk, &path.join("meta/checkpoint")).unwrap();
}

#[test]
fn a_partition_whose_directory_is_gone_is_damage() {
    let (_dir, path) = data_dir();
    commit_log(&path, 3);
    segment(&path, 3);
    checkpoint(&path, 3, (0, 3));
    assert_eq!(check(&path).damage, [""; 0]);
    std::fs::remove_dir_all(path.join("disk-0")).unwrap();
    let report = check(&path);
    assert_eq!(report.damage.len(), 1, "{report:?}");
    assert!(report.damage[0].contains("disk-0: offsets 0 to 2: missing"), "{report:?}");
    // Nothing of it needs to be local.
    checkpoint(&path, 3, (3, 3));
    assert_eq!(check(&path).damage, [""; 0]);
}

#[test]
fn each_file_of_a_checkpoint_is_looked_at_and_one_is_enough_to_look_at_the_rest() {
    for rotten in ["meta/checkpoint", "meta/checkpoint.copy"] {
        let (_dir, path) = data_dir();
        commit_log(&path, 3);
        checkpoint(&path, 3, (0, 3));
        flip(&path.join(rotten), 30);
        let report = check(&path);
        let named = format!("{rotten} is damaged: wrong checksum");
        assert!(report.damage.contains(&named), "{report:?}");
        let missing = report.damage.iter().any(|line| line.contains("offsets 0 to 2: missing"));
        assert!(missing && report.damage.len() == 2, "{report:?}");
    }
}

#[test]
fn a_topic_deleted_above_the_checkpoint_is_not_missed_and_what_was_left_to_shards_neither() {
    let (topic, partition) = (TopicId([2; 16]), 0);
    let reason = DeletionReason::Requested;
    for event in [
        Event::TopicDeleted { topic },
        Event::LocalStartMoved { topic, partition, local_start: 3 },
        Event::LogStartMoved { topic, partition, log_start: 3, reason },
    ] {
        let (_dir, path) = data_dir();
        checkpoint(&path, 0, (0, 3));
        let json = serde_json::to_vec(&event).unwrap();
        let other = Entry { kind: 1, topic, partition, payload: Bytes::from_static(b"{}") };
        let event = Entry { kind: EVENT, topic, partition, payload: json.into() };
        commits(
            &path,
            &[vec![], vec![other, event]],
            Config { file_bytes: 1 << 20, ..Config::default() },
        );
        assert_eq!(check(&path).damage, [""; 0]);
        // The same commit below the checkpoint says nothing about it.
        checkpoint(&path, 2, (0, 3));
        assert_eq!(check(&path).damage.len(), 1);
    }
}

#[test]
fn a_commit_log_that_is_gone_or_lacks_its_first_files_is_damage() {
    let (_dir, path) = data_dir();
    segment(&path, 3);
    let small = Config { file_bytes: 4096, ..Config::default() };
    commit_log_of(&path, 9, small);
    let mut files: Vec<_> = std::fs::read_dir(path.join("commitlog"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() > 2, "{files:?}");
    checkpoint(&path, 1, (0, 3));
    assert_eq!(check(&path).damage, [""; 0]);
    std::fs::remove_file(&files[0]).unwrap();
    let report = check(&path);
    assert_eq!(report.damage.len(), 1, "{report:?}");
    assert!(report.damage[0].contains("the commits from 2 on"), "{report:?}");
    // All of that file was needless.
    checkpoint(&path, 8, (0, 3));
    assert_eq!(check(&path).damage, [""; 0]);
    std::fs::remove_dir_all(path.join("commitlog")).unwrap();
    let report = check(&path);
    assert_eq!(report.damage.len(), 1, "{report:?}");
    assert!(report.damage[0].contains("commitlog: missing"), "{report:?}");
}

#[test]
fn other_directories_and_those_in_use_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = check_data_dir(&FileDisk, dir.path(), &mut |_| {});
    assert!(matches!(refused, Err(InspectError::NotADataDir { .. })));
    let (_dir, path) = data_dir();
    let _held = FileDisk.lock(&path.join("LOCK")).unwrap();
    let refused = check_data_dir(&FileDisk, &path, &mut |_| {});
    assert!(matches!(refused, Err(InspectError::Locked { .. })));
}

const LOG: log::Config =
    log::Config { segment_bytes: 1_500, index_interval_bytes: 300, segment_ms: i64::MAX };

/// A partition of several segments as a server leaves it, in two epochs, with what is due of it.
fn partition(dir: &Path) -> Kept {
    let id = TopicPartition { topic: TopicId([7; 16]), partition: 3 };
    let mut log = Log::open(Arc::new(FileDisk), dir.to_owned(), id, 0, 0, LOG).unwrap();
    let (count, turn) = (40, 25);
    for offset in 0..count {
        let mut builder = BatchBuilder::new(1_000 + offset * 7 % 100);
        builder.push(1_000 + offset * 7 % 100, None, Some(&[9; 60]), &[]);
        let mut batch = builder.build();
        assign(&mut batch, offset, LeaderEpoch(i32::from(offset >= turn)));
        log.append(&batch, 0).unwrap();
    }
    log.take_dirty().sync().unwrap();
    let epoch = |epoch, first_offset| EpochStart { epoch: LeaderEpoch(epoch), first_offset };
    Kept { id: Some(id), start: 0, synced: count, epochs: vec![epoch(0, 0), epoch(1, turn)] }
}

fn look(dir: &Path, kept: &Kept) -> Report {
    let mut report = Report::default();
    check_partition(&FileDisk, dir, kept, &mut report, &mut |_| {}).unwrap();
    report
}

#[test]
fn every_damaged_byte_of_a_partition_is_found_and_its_file_named() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t-3");
    let kept = partition(&dir);
    let sound = look(&dir, &kept);
    assert_eq!((sound.batches, sound.damage, sound.torn), (40, vec![], vec![]));
    let mut names = FileDisk.list(&dir).unwrap();
    // The indexes of the segment that grows are read by nobody before they are made anew.
    let last = names.iter().rfind(|name| name.ends_with(".log")).unwrap().replace(".log", "");
    names.retain(|name| name.ends_with(".log") || !name.starts_with(&last));
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        let path = dir.join(&name);
        for at in 0..std::fs::read(&path).unwrap().len() {
            flip(&path, at);
            let report = look(&dir, &kept);
            let named = report.damage.iter().any(|line| line.contains(&name));
            assert!(named, "byte {at} of {name}: {report:?}");
            flip(&path, at);
        }
    }
}

#[test]
fn missing_files_of_a_partition_are_damage_and_a_compaction_under_way_is_not() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t-3");
    let kept = partition(&dir);
    std::fs::remove_file(dir.join("partition.meta")).unwrap();
    assert!(look(&dir, &kept).damage[0].ends_with("partition.meta: missing"));
    std::fs::remove_file(dir.join("00000000000000000000.log")).unwrap();
    assert!(look(&dir, &kept).damage.iter().any(|line| line.contains("offsets 0 to ")));
    std::fs::write(dir.join("00000000000000000000-00000000000000000009.swap"), "").unwrap();
    let report = look(&dir, &kept);
    assert_eq!((report.damage.len(), report.torn.len()), (1, 1), "{report:?}");
}

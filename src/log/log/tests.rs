use proptest::prelude::*;

use super::*;
use crate::disk::FileDisk;
use crate::disk::sim::SimDisk;
use crate::log::testing::{self, CONFIG, Model, ModelBatch, checkpoint, id};
use crate::record::Compression;

#[derive(Debug, Clone)]
enum Step {
    Append { batches: Vec<(Vec<i64>, usize, bool)> },
    Roll,
    Reopen { cut: usize },
    DeleteBelow { part: i64 },
    Check,
}

fn step() -> impl Strategy<Value = Step> {
    let batch = (
        proptest::collection::vec(0i64..1200, 1..5),
        prop_oneof![9 => 0usize..120, 1 => 1500usize..1600],
        any::<bool>(),
    );
    prop_oneof![
        8 => proptest::collection::vec(batch, 1..6).prop_map(|batches| Step::Append { batches }),
        1 => Just(Step::Roll),
        2 => (0usize..4).prop_map(|cut| Step::Reopen { cut }),
        1 => (0i64..=10).prop_map(|part| Step::DeleteBelow { part }),
        2 => Just(Step::Check),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A log gives back what a vector of batches would.
    #[test]
    fn a_log_is_a_vector_of_batches(steps in proptest::collection::vec(step(), 1..40)) {
        let (disk, dir) = (SimDisk::new(), testing::dir());
        let (mut empty_at, mut now_ms) = (5, 0);
        let mut log = testing::open(&disk, &dir, 5, 5);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Append { batches } => {
                    let mut bytes = Vec::new();
                    for (timestamps, value_bytes, packed) in batches {
                        let codec = if packed { Compression::Lz4 } else { Compression::None };
                        let batch = ModelBatch::of(model.end(empty_at), &timestamps, value_bytes, codec);
                        bytes.extend_from_slice(&batch.bytes);
                        model.0.push(batch);
                    }
                    now_ms += 300;
                    log.append(&bytes, now_ms).unwrap();
                }
                Step::Roll => log.roll().unwrap(),
                Step::Reopen { cut } => {
                    checkpoint(&mut log);
                    let start = log.start_offset();
                    drop(log);
                    let kept = model.0.len().saturating_sub(cut);
                    model.0.truncate(kept);
                    let end = model.end(start).max(start);
                    log = testing::open(&disk, &dir, start, end);
                    prop_assert_eq!(log.end_offset(), end);
                    model.0.retain(|batch| batch.base >= start);
                    empty_at = end;
                }
                Step::DeleteBelow { part } => {
                    let before = log.reader();
                    let expected = model.clone();
                    let (start, end) = (log.start_offset(), log.end_offset());
                    let offset = start + (end - start) * part / 10;
                    let bytes = log.bytes();
                    let gone = log.detach_below(offset).unwrap();
                    prop_assert_eq!(bytes - gone.bytes(), log.bytes());
                    gone.unlink().unwrap();
                    prop_assert!(log.segments().iter().all(|s| !s.is_sealed || s.next_offset > offset));
                    // A reader taken before does not notice.
                    prop_assert_eq!(testing::read_all(&before, start, end), expected.bytes(start, end).0);
                    let start = log.start_offset();
                    empty_at = start;
                    model.0.retain(|batch| batch.base >= start);
                    model.check(&log.reader().starting_at(offset));
                }
                Step::Check => model.check(&log.reader()),
            }
            prop_assert_eq!(log.end_offset(), model.end(empty_at));
        }
        model.check(&log.reader());
        let lengths: usize = model.0.iter().map(|batch| batch.bytes.len()).sum();
        prop_assert_eq!(log.bytes(), lengths as u64);
        for segment in log.segments() {
            let batches = model.0.iter().filter(|b| (segment.base_offset..segment.next_offset).contains(&b.base));
            prop_assert!(segment.bytes <= CONFIG.segment_bytes || batches.count() == 1);
        }
    }
}

#[test]
fn nothing_is_created_before_the_first_append() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t-3");
    let mut log = testing::open(&FileDisk, &dir, 7, 7);
    assert_eq!((log.start_offset(), log.end_offset()), (7, 7));
    assert!(log.take_dirty().is_empty());
    assert!(!dir.exists());
    log.append(&ModelBatch::new(7, &[1], 10).bytes, 0).unwrap();
    let names = FileDisk.list(&dir).unwrap();
    assert_eq!(names, ["00000000000000000007.log", "partition.meta"]);
}

#[test]
fn batches_that_do_not_continue_the_log_are_refused_and_harm_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let mut log = testing::open(&FileDisk, &temp.path().join("t-3"), 0, 0);
    let first = ModelBatch::new(0, &[1, 2], 10).bytes;
    log.append(&first, 0).unwrap();
    for base in [0, 1, 3] {
        let refused = log.append(&ModelBatch::new(base, &[1], 10).bytes, 0);
        assert!(matches!(refused, Err(Error::NotContiguous { expected: 2, got }) if got == base));
    }
    // The second of two is wrong: the first is not appended either.
    let two = [ModelBatch::new(2, &[1], 10).bytes, ModelBatch::new(9, &[1], 10).bytes].concat();
    assert!(matches!(log.append(&two, 0), Err(Error::NotContiguous { expected: 3, got: 9 })));
    assert!(matches!(log.append(&first[..70], 0), Err(Error::Batch(_))));
    log.append(&ModelBatch::new(2, &[1], 10).bytes, 0).unwrap();
    assert_eq!(log.end_offset(), 3);
}

#[test]
fn a_reader_does_not_see_later_appends() {
    let temp = tempfile::tempdir().unwrap();
    let mut log = testing::open(&FileDisk, &temp.path().join("t-3"), 0, 0);
    let first = ModelBatch::new(0, &[1], 10).bytes;
    log.append(&first, 0).unwrap();
    let reader = log.reader();
    log.append(&ModelBatch::new(1, &[1], 10).bytes, 0).unwrap();
    log.roll().unwrap();
    assert_eq!(reader.read(0, 100, 1000).unwrap(), first);
    assert!(reader.read(1, 100, 1000).unwrap().is_empty());
    assert!(matches!(
        reader.read(2, 100, 1000),
        Err(Error::OutOfRange { requested: 2, start: 0, end: 1 })
    ));
}

#[test]
fn a_dropped_checkpoint_poisons_the_log() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t-3");
    let mut log = testing::open(&FileDisk, &dir, 0, 0);
    log.append(&ModelBatch::new(0, &[1], 10).bytes, 0).unwrap();
    drop(log.take_dirty());
    let refused = log.append(&ModelBatch::new(1, &[1], 10).bytes, 0);
    assert!(matches!(refused, Err(Error::Poisoned { .. })));
    assert!(matches!(log.take_dirty().sync(), Err(Error::Poisoned { .. })));
    assert_eq!(log.reader().read(0, 1, 1).unwrap().len(), ModelBatch::new(0, &[1], 10).bytes.len());
}

#[test]
fn removing_leaves_no_directory() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t-3");
    let mut log = testing::open(&FileDisk, &dir, 0, 0);
    log.append(&ModelBatch::new(0, &[1], 10).bytes, 0).unwrap();
    checkpoint(&mut log);
    log.remove().unwrap();
    assert!(!dir.exists());
}

#[test]
fn the_index_files_have_kafkas_entries() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t-3");
    let config = Config { segment_bytes: 1 << 20, index_interval_bytes: 100, ..Config::default() };
    let mut log = Log::open(Arc::new(FileDisk), dir.clone(), id(), 10, 10, config).unwrap();
    for (base, timestamps) in [(10, [50, 60]), (12, [40, 41]), (14, [70, 10])] {
        log.append(&ModelBatch::new(base, &timestamps, 30).bytes, 0).unwrap();
    }
    let length = u8::try_from(ModelBatch::new(10, &[50, 60], 30).bytes.len()).unwrap();
    log.roll().unwrap();
    let read = |name: &str| FileDisk.read_all(&dir.join(name), 1000).unwrap();
    let (second, third) = (length, 2 * u16::from(length));
    let mut expected = vec![0, 0, 0, 3, 0, 0, 0, second, 0, 0, 0, 5, 0, 0];
    expected.extend(third.to_be_bytes());
    assert_eq!(read("00000000000000000010.index"), expected);
    let entry = |timestamp, offset| [0, 0, 0, 0, 0, 0, 0, timestamp, 0, 0, 0, offset];
    assert_eq!(read("00000000000000000010.timeindex"), [entry(60, 1), entry(70, 5)].concat());
}

#[test]
fn a_segment_that_is_too_old_takes_no_further_batch() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t-3");
    let mut log = testing::open(&FileDisk, &dir, 0, 0);
    let append = |log: &mut Log, stamp: i64, now_ms: i64| {
        log.append(&ModelBatch::new(log.end_offset(), &[stamp], 10).bytes, now_ms).unwrap();
        log.segments().len()
    };
    // Stamps do not count while the log is open.
    assert_eq!(append(&mut log, 9_000_000, 5000), 1);
    assert_eq!(append(&mut log, 19_000_000, 6000), 1);
    assert_eq!(append(&mut log, 0, 6001), 2);
    // A clock that goes back makes nothing old.
    assert_eq!(append(&mut log, 0, 0), 2);
    assert_eq!(append(&mut log, 7_000, 7_001), 2);
    assert_eq!(append(&mut log, 7_000, 7_002), 3);
    // After a start they say how old the segment was, as far as that can be.
    let reopened = |log: &mut Log| {
        let end = checkpoint(log);
        testing::open(&FileDisk, &dir, 0, end)
    };
    let mut log = reopened(&mut log);
    assert_eq!(append(&mut log, 0, 7_900), 3);
    assert_eq!(append(&mut log, 0, 8_000), 3);
    assert_eq!(append(&mut log, 0, 8_001), 4);
    let mut log = reopened(&mut log);
    assert_eq!(append(&mut log, 0, 90_000), 4);
    assert_eq!(append(&mut log, 0, 90_001), 5);
}

#[test]
fn other_settings_hold_from_the_next_append_on() {
    let temp = tempfile::tempdir().unwrap();
    let mut log = testing::open(&FileDisk, &temp.path().join("t-3"), 0, 0);
    let append = |log: &mut Log, now_ms| {
        log.append(&ModelBatch::new(log.end_offset(), &[1], 10).bytes, now_ms).unwrap();
        log.segments().len()
    };
    assert_eq!(append(&mut log, 0), 1);
    assert_eq!(append(&mut log, 0), 1);
    log.set_config(Config { segment_bytes: 100, ..CONFIG });
    assert_eq!(append(&mut log, 0), 2);
    log.set_config(Config { segment_ms: 10, ..CONFIG });
    assert_eq!(append(&mut log, 10), 2);
    assert_eq!(append(&mut log, 11), 3);
}

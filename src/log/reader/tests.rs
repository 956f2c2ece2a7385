use std::path::{Path, PathBuf};

use super::*;
use crate::disk::{Disk, FileDisk, OpenMode};
use crate::log::Log;
use crate::log::testing::{self, CONFIG, Model, ModelBatch, checkpoint, content, id};
use crate::types::LeaderEpoch;

/// 60 batches of 3 records, offset 0 to 179, over several segments.
fn filled(dir: &Path) -> (Log, Model) {
    let mut log = testing::open(&FileDisk, dir, 0, 0);
    let mut model = Model::default();
    for i in 0..60 {
        let timestamps = [i * 7 % 300, i * 11 % 400, i * 5];
        let batch = ModelBatch::new(model.end(0), &timestamps, 20);
        log.append(&batch.bytes, 0).unwrap();
        model.0.push(batch);
    }
    checkpoint(&mut log);
    (log, model)
}

fn flip(path: &Path, position: u64, mask: u8) {
    let file = FileDisk.open(path, OpenMode::Write).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).unwrap();
    file.write_all_at(&[byte[0] ^ mask], position).unwrap();
}

fn log_files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let names = FileDisk.list(dir).unwrap();
    let found: Vec<_> =
        names.iter().filter(|name| name.ends_with(extension)).map(|name| dir.join(name)).collect();
    assert!(found.len() > 3);
    found
}

type Piece = (Offset, Vec<u8>);

/// Reads everything, stepping over damage; gives the bytes and the damaged ranges.
fn read_around(reader: &Reader) -> (Vec<Piece>, Vec<(Offset, Offset)>) {
    let (mut pieces, mut damaged) = (Vec::new(), Vec::new());
    let mut from = reader.start_offset();
    while from < reader.end_offset() {
        match reader.read(from, reader.end_offset(), 1) {
            Ok(bytes) => {
                let header = BatchHeader::parse(&bytes).unwrap();
                assert_eq!(header.base_offset, from);
                from = header.next_offset();
                pieces.push((header.base_offset, bytes.to_vec()));
            }
            Err(Error::Damaged { from: first, to, .. }) => {
                assert!(first <= from && from < to, "{first} <= {from} < {to}");
                damaged.push((first, to));
                from = to;
            }
            Err(error) => panic!("{error}"),
        }
    }
    (pieces, damaged)
}

#[test]
fn a_read_within_a_bound_gives_no_byte_more() {
    let temp = tempfile::tempdir().unwrap();
    let (log, model) = filled(&temp.path().join("t-3"));
    let (reader, end) = (log.reader(), log.reader().end_offset());
    let first = &model.0[0].bytes[..];
    for max_bytes in [0, 1, first.len() - 1] {
        let found = reader.read_within(1, end, max_bytes, 0).unwrap();
        assert!(matches!(found, Within::TooLong { batch_bytes } if batch_bytes == first.len()));
    }
    let two = [first, &model.0[1].bytes].concat();
    for (max_bytes, found) in [(first.len(), first), (two.len() - 1, first), (two.len(), &two)] {
        let copied = reader.read_within(1, end, max_bytes, found.len() + 1).unwrap();
        assert!(matches!(copied, Within::Batches(bytes) if bytes == found), "{max_bytes}");
        let located = reader.read_within(1, end, max_bytes, found.len()).unwrap();
        let Within::Located(range) = located else { panic!("not located: {max_bytes}") };
        let mut bytes = vec![0; range.bytes];
        range.file.read_exact_at(&mut bytes, range.position).unwrap();
        assert_eq!(bytes, found, "{max_bytes}");
    }
    for from in [1, end] {
        let nothing = reader.read_within(from, from, 0, 0).unwrap();
        assert!(matches!(nothing, Within::Batches(bytes) if bytes.is_empty()));
    }
}

#[test]
fn what_was_checked_behind_a_range_is_known() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("t-3");
    drop(filled(&path));
    let log = testing::open(&FileDisk, &path, 0, 180);
    let (reader, end) = (log.reader(), log.reader().end_offset());
    let first = reader.locate_range(1, end, 1).unwrap().unwrap();
    assert!(!reader.is_checked_behind(&first, 1 << 20), "nothing was read there since the open");
    let mut next = first.next_offset;
    let mut last = first.clone();
    while let Some(range) = reader.locate_range(next, end, 1 << 20).unwrap() {
        next = range.next_offset;
        last = range;
    }
    assert!(reader.is_checked_behind(&first, 1 << 20));
    assert!(reader.is_checked_behind(&last, 1 << 20), "there is nothing behind the last");
}

/// Each byte of a batch's header, and one of its body, damaged in the middle of a segment: never a wrong byte, the range is
/// named, and all other batches of the partition stay readable. For the leader epoch see the tests of `proof`.
#[test]
fn any_flipped_header_byte_costs_its_own_batch_only() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t-3");
    let (log, model) = filled(&dir);
    let segment = &log.segments()[1];
    let path = dir.join(format!("{:020}.log", segment.base_offset));
    let batches: Vec<_> = model
        .0
        .iter()
        .filter(|b| (segment.base_offset..segment.next_offset).contains(&b.base))
        .collect();
    let mut position = 0;
    for (place, batch) in batches.iter().enumerate() {
        // A third of them at each batch, another third at the next one.
        let mine = |byte: &u64| (*byte + place as u64).is_multiple_of(3);
        for byte in (0..12).chain(16..61).chain([70]).filter(mine) {
            for mask in [1 << (byte % 8)] {
                flip(&path, position + byte, mask);
                for reopened in [false, byte % 4 == 0] {
                    let reader = if reopened {
                        testing::open(&FileDisk, &dir, 0, model.end(0)).reader()
                    } else {
                        log.reader()
                    };
                    let (pieces, damaged) = read_around(&reader);
                    let lost: Vec<_> = damaged.iter().flat_map(|(from, to)| *from..*to).collect();
                    assert!(lost.contains(&batch.base), "batch {place}, byte {byte}: {damaged:?}");
                    for (base, bytes) in pieces {
                        let expected = model.0.iter().find(|b| b.base == base).unwrap();
                        assert_eq!(bytes, expected.bytes);
                    }
                    // A wrong length loses what is up to the next index entry; everything else loses one batch.
                    let most = if (8..12).contains(&byte) { 9 } else { 3 };
                    let beyond = segment.next_offset - batch.base;
                    assert!(
                        (lost.len() as i64) <= most.min(beyond),
                        "{place}, {byte}: {damaged:?}"
                    );
                }
                flip(&path, position + byte, mask);
            }
        }
        position += batch.bytes.len() as u64;
    }
    model.check(&log.reader());
}

#[test]
fn wrong_indexes_cost_time_and_nothing_else() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t-3");
    let (log, model) = filled(&dir);
    for extension in [".index", ".timeindex"] {
        for path in log_files(&dir, extension) {
            let length = FileDisk.open(&path, OpenMode::Read).unwrap().len().unwrap();
            for position in 0..length {
                flip(&path, position, 1);
                if extension == ".index" {
                    let (pieces, damaged) = read_around(&log.reader());
                    assert!(damaged.is_empty());
                    assert_eq!(pieces.len(), 60);
                    testing::open(&FileDisk, &dir, 0, model.end(0));
                }
            }
        }
    }
    // After all that, whatever stands in them now.
    drop(log);
    let log = testing::open(&FileDisk, &dir, 0, model.end(0));
    assert!(read_around(&log.reader()).1.is_empty());
}

#[test]
fn missing_indexes_are_made_anew() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t-3");
    let (log, model) = filled(&dir);
    drop(log);
    let before: Vec<_> = [".index", ".timeindex"].iter().flat_map(|e| log_files(&dir, e)).collect();
    let content = |path: &PathBuf| FileDisk.read_all(path, 1 << 20).unwrap();
    let kept: Vec<_> = before.iter().map(content).collect();
    before.iter().for_each(|path| FileDisk.remove_file(path).unwrap());
    let mut log = testing::open(&FileDisk, &dir, 0, model.end(0));
    model.check(&log.reader());
    log.roll().unwrap();
    checkpoint(&mut log);
    for (path, kept) in before.iter().zip(kept) {
        // The last segment is sealed now and so has an entry more.
        assert!(content(path).starts_with(&kept), "{}", path.display());
    }
}

#[test]
fn log_append_time_is_the_time_of_every_record() {
    let temp = tempfile::tempdir().unwrap();
    let mut log = testing::open(&FileDisk, &temp.path().join("t-3"), 0, 0);
    let model = Model(vec![
        ModelBatch::new(0, &[5, 6], 10).with_append_time(100),
        ModelBatch::new(2, &[900, 6], 10).with_append_time(120),
    ]);
    model.0.iter().for_each(|batch| log.append(&batch.bytes, 0).unwrap());
    let reader = log.reader();
    assert_eq!(reader.offset_for_timestamp(90, 4).unwrap(), Some((0, 100, 4)));
    assert_eq!(reader.offset_for_timestamp(101, 4).unwrap(), Some((2, 120, 4)));
    assert_eq!(reader.offset_for_timestamp(121, 4).unwrap(), None);
    assert_eq!(reader.max_timestamp(4).unwrap(), Some((2, 120, 4)));
    assert_eq!(reader.max_timestamp(2).unwrap(), Some((0, 100, 4)));
}

#[test]
fn without_timestamps_there_is_no_highest_one() {
    let temp = tempfile::tempdir().unwrap();
    let mut log = testing::open(&FileDisk, &temp.path().join("t-3"), 0, 0);
    assert_eq!(log.reader().max_timestamp(10).unwrap(), None);
    log.append(&ModelBatch::new(0, &[-1], 10).bytes, 0).unwrap();
    assert_eq!(log.reader().max_timestamp(10).unwrap(), None);
    assert_eq!(log.reader().offset_for_timestamp(0, 10).unwrap(), None);
}

#[test]
fn a_batch_larger_than_asked_for_is_read_whole() {
    let temp = tempfile::tempdir().unwrap();
    let mut log = testing::open(&FileDisk, &temp.path().join("t-3"), 0, 0);
    let large = ModelBatch::new(0, &[1], 3 * CONFIG.segment_bytes as usize);
    log.append(&large.bytes, 0).unwrap();
    log.append(&ModelBatch::new(1, &[1], 10).bytes, 0).unwrap();
    assert_eq!(log.reader().read(0, 2, 1).unwrap(), large.bytes);
    assert_eq!(log.segments().len(), 2);
    assert_eq!(id().partition, 3);
}

#[test]
fn a_range_is_checked_once_after_opening() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t-3");
    let (log, model) = filled(&dir);
    let end = model.end(0);
    let batch = &model.0[1];
    let (path, position) = (dir.join("00000000000000000000.log"), model.0[0].bytes.len() as u64);
    let locate = |log: &Log| log.reader().locate_range(batch.base, end, 1);
    flip(&path, position + 70, 1);
    // What this process wrote it does not look at again, but a copy is checked.
    assert!(locate(&log).is_ok());
    let damaged = |result| matches!(result, Err(Error::Damaged { from, to, .. }) if (from, to) == (batch.base, batch.next()));
    assert!(damaged(log.reader().read(batch.base, end, 1).map(|_| None)));
    drop(log);
    let log = testing::open(&FileDisk, &dir, 0, end);
    assert!(damaged(locate(&log)));
    flip(&path, position + 70, 1);
    assert_eq!(content(&locate(&log).unwrap().unwrap()), batch.bytes);
    flip(&path, position + 70, 1);
    assert!(locate(&log).is_ok());
    // Headers are looked at each time.
    flip(&path, position, 1);
    assert!(damaged(locate(&log)));
}

#[test]
fn a_range_ends_before_the_bound_and_before_damage() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t-3");
    let (log, model) = filled(&dir);
    let path = dir.join("00000000000000000000.log");
    let end = model.end(0);
    drop(log);
    let third: usize = model.0[..3].iter().map(|batch| batch.bytes.len()).sum();
    flip(&path, third as u64 + 65, 4);
    let reader = testing::open(&FileDisk, &dir, 0, end).reader();
    let whole = |count: usize| model.0[..count].iter().map(|b| b.bytes.len()).sum::<usize>();
    let bytes =
        |upto, max| reader.locate_range(0, upto, max).unwrap().map_or(0, |range| range.bytes);
    assert_eq!(bytes(end, 1 << 20), whole(3));
    assert_eq!(bytes(end, whole(2)), whole(2));
    assert_eq!(bytes(end, whole(2) - 1), whole(1));
    assert_eq!(bytes(model.0[2].base, 1 << 20), whole(2));
    assert_eq!(bytes(model.0[2].base - 1, 1 << 20), whole(1));
    assert_eq!(bytes(1, 1 << 20), 0);
    assert!(reader.locate_range(end, end + 9, 1).unwrap().is_none());
    assert!(matches!(reader.locate_range(end + 1, end + 9, 1), Err(Error::OutOfRange { .. })));
}

#[test]
fn a_range_outlives_its_segment() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t-3");
    let (mut log, model) = filled(&dir);
    let range = log.reader().locate_range(0, model.end(0), 1 << 20).unwrap().unwrap();
    log.detach_below(model.end(0)).unwrap().unlink().unwrap();
    assert!(model.bytes(0, range.next_offset).0 == content(&range));
}

#[test]
fn a_batch_of_another_epoch_than_its_offset_is_damaged() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("t-3");
    let (log, model) = filled(&dir);
    let end = model.end(0);
    drop(log);
    let second = model.0[1].base;
    for (epochs, lost) in [
        (vec![(LeaderEpoch(4), 0)], None),
        (vec![(LeaderEpoch(4), second + 1)], None),
        (vec![(LeaderEpoch(3), 0), (LeaderEpoch(4), second)], Some(0)),
        (vec![(LeaderEpoch(3), second), (LeaderEpoch(4), second + 3)], Some(second)),
    ] {
        let mut log = testing::open(&FileDisk, &dir, 0, end);
        log.set_epochs(epochs);
        let (pieces, damaged) = read_around(&log.reader());
        assert_eq!(pieces.len(), 60 - damaged.len());
        assert_eq!(damaged, lost.map(|from| (from, from + 3)).into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_reader_outlives_the_deletion_of_what_it_has_not_read_yet() {
    for reads_before in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("t-3");
        let (log, model) = filled(&dir);
        let end = model.end(0);
        drop(log);
        let mut log = testing::open(&FileDisk, &dir, 0, end);
        let reader = log.reader();
        if reads_before {
            assert!(!reader.read(0, end, 1).unwrap().is_empty());
        }
        log.detach_below(end).unwrap().unlink().unwrap();
        let left = FileDisk.list(&dir).unwrap();
        assert_eq!(testing::read_all(&reader, 0, end), model.bytes(0, end).0);
        assert_eq!(FileDisk.list(&dir).unwrap(), left);
        log.remove().unwrap();
        assert_eq!(testing::read_all(&reader, 0, end), model.bytes(0, end).0);
        assert!(!dir.exists());
    }
}

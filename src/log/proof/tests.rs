//! Each bit of a partition's files wrong in turn: right bytes or a named range, never anything else.
//!
//! What was taken out of the source to see that a test notices, and which do (the first, where several):
//!
//! | taken out | noticed by |
//! |---|---|
//! | CRC of a body, read piece by piece | `every_flipped_bit_of_a_sealed_segment_is_found` |
//! | CRC of a body within the window of a walk | `every_flipped_bit_of_a_sealed_segment_is_found` |
//! | CRC of a copy | `a_range_is_checked_once_after_opening` |
//! | base offset continues the batch before | `every_flipped_bit_of_the_growing_segment_is_found` |
//! | leader epoch is that of the offset | `a_batch_of_another_epoch_than_its_offset_is_damaged` |
//! | heads against the sidecar | `every_flipped_bit_of_a_sealed_segment_is_found` |
//! | CRC of the sidecar's header, of its entries | `a_sidecar_with_any_bit_flipped_or_missing_is_not_believed` |
//! | removal of an older sidecar at open | `an_older_sidecar_says_nothing_of_a_segment_that_was_written_again` |
//! | sync of the sidecar | `files_are_synced_before_their_directory_and_that_before_its_parent` |
//! | the bound `upto` | `a_range_ends_before_the_bound_and_before_damage` |
//! | sums of the index files | `no_flipped_bit_of_an_index_or_sidecar_does_harm_and_they_are_mended` |
//! | an index entry's offset against its batch | `every_flipped_bit_of_a_sealed_segment_is_found` |
//! | proof of what was not read yet | `a_range_is_checked_once_after_opening` |
//! | no cut behind a batch that is not intact | `a_damaged_batch_that_hides_the_cut_is_fenced_and_nothing_is_cut` |
//! | a segment's file is cut where its batches end | `a_file_ends_where_its_batches_do_after_a_cut` |
//! | sync behind the `.swap` of a compaction, and behind its unlinks | `a_power_cut_at_any_operation_of_a_compaction_is_…` |
//! | sync behind its last renames | `a_replacement_syncs_the_directory_behind_each_of_its_steps` alone: see below |
//! | an error of a read of a header | `a_read_that_fails_is_no_damage_and_nothing_is_cut` |
//! | what is deleted is not made anew | `a_reader_outlives_the_deletion_of_what_it_has_not_read_yet` |
//!
//! A power cut does not show the last one: as long as the last renames are not on disk, the `.swap` is, and the next start
//! completes it. Without it that would be so until some later sync of the directory.

use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::disk::sim::SimDisk;
use crate::disk::{Disk, OpenMode};
use crate::log::segment::Paths;
use crate::log::testing::{DiskLike, Model, ModelBatch, checkpoint, content, dir, id, plain};
use crate::log::{Config, Log, Reader};
use crate::types::LeaderEpoch;

proptest! {
    #[test]
    fn stretches_are_a_set_of_bytes(steps in proptest::collection::vec((0u64..200, 1u64..20), 1..60)) {
        let (mut stretches, mut model) = (Stretches::default(), [false; 240]);
        for (from, length) in steps {
            let range = from as usize..(from + length) as usize;
            prop_assert_eq!(stretches.cover(from, from + length), model[range.clone()].iter().all(|b| *b));
            stretches.add(from, from + length);
            model[range].fill(true);
            prop_assert!(stretches.0.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut stretches = Stretches::default();
    for i in 0..10_000 {
        stretches.add(3 * i, 3 * i + 1);
        assert!(stretches.0.len() <= STRETCHES);
        assert!(stretches.cover(3 * i, 3 * i + 1));
    }
}

/// Intervals of several batches, few enough bytes to flip each bit of them.
const SMALL: Config = Config { segment_bytes: 420, segment_ms: 1000, index_interval_bytes: 130 };

/// Three segments, of which the one in the middle, with the offsets that are given, is going to be damaged.
fn three_segments() -> (SimDisk, Model, Range<Offset>) {
    let disk = SimDisk::new();
    let mut log = Log::open(disk.shared(), dir(), id(), 0, 0, SMALL).unwrap();
    let mut model = Model::default();
    while log.segments().len() < 3 {
        let base = model.end(0);
        let batch = ModelBatch::new(base, &[base * 37 % 100, base * 11 % 70 + base], 12);
        log.append(&batch.bytes, 0).unwrap();
        model.0.push(batch);
    }
    checkpoint(&mut log);
    let middle = log.segments()[1];
    assert!(middle.bytes > 300);
    (disk.crash(0), model, middle.base_offset..middle.next_offset)
}

#[test]
fn a_read_that_fails_is_no_damage_and_nothing_is_cut() {
    let (whole, model, _) = three_segments();
    let end = model.end(0);
    let open = |disk: &SimDisk| Log::open(disk.shared(), dir(), id(), 0, end, SMALL);
    let starts = || model.0.iter().map(|batch| batch.base);
    for fail in 0.. {
        let disk = whole.crash(0);
        disk.fail_read_at(Some((fail, 5)));
        let looked = open(&disk).and_then(|log| {
            assert_eq!((log.damage(), log.end_offset()), (&[][..], end));
            let reader = log.reader();
            starts().map(|from| Ok((from, reader.read(from, end, 1)?))).collect()
        });
        let reached = disk.reads().len() > fail;
        let context = format!("read {fail}: {:?}", disk.reads().get(fail));
        disk.fail_read_at(None);
        let found: Vec<(Offset, bytes::Bytes)> = match looked {
            Ok(found) => found,
            Err(Error::Io { .. }) => {
                assert!(reached, "{context}");
                vec![]
            }
            Err(error) => panic!("{context}: {error}"),
        };
        assert!(found.iter().zip(&model.0).all(|((_, found), batch)| *found == batch.bytes));
        let log = open(&disk).unwrap();
        assert_eq!((log.damage(), log.end_offset()), (&[][..], end), "{context}");
        assert!(!is_right_or_damaged(&log.reader(), &model, &(0..0)), "{context}");
        if !reached {
            break;
        }
    }
}

/// Holds what a log says against what was written: right, or damaged within `hurt`. Gives whether anything is damaged.
fn is_right_or_damaged(reader: &Reader, model: &Model, hurt: &Range<Offset>) -> bool {
    let (mut damaged, end) = (false, model.end(0));
    let mut lost = |error| match error {
        Error::Damaged { from, to, .. } => {
            assert!(hurt.start <= from && from < to && to <= hurt.end, "{from}..{to}, {hurt:?}");
            damaged = true;
            from..to
        }
        error => panic!("{error}"),
    };
    for batch in &model.0 {
        match reader.locate_range(batch.base, end, 1) {
            Ok(range) => assert_eq!(content(&range.unwrap()), batch.bytes),
            Err(error) => assert!(lost(error).contains(&batch.base)),
        }
        match reader.read(batch.base, end, 1) {
            Ok(bytes) => assert_eq!(bytes, batch.bytes),
            Err(error) => assert!(lost(error).contains(&batch.base)),
        }
        match reader.locate_range(batch.base, end, 1 << 20) {
            Ok(range) => {
                let expected = model.bytes(batch.base, end).0;
                assert!(expected.starts_with(&content(&range.unwrap())));
            }
            Err(error) => assert!(lost(error).contains(&batch.base)),
        }
    }
    for timestamp in (0..100).step_by(9) {
        match reader.offset_for_timestamp(timestamp, end) {
            Ok(found) => {
                let expected = model.records(0, end).find(|(_, t)| *t >= timestamp);
                assert_eq!(found.map(plain), expected, "timestamp {timestamp}");
            }
            Err(error) => drop(lost(error)),
        }
    }
    damaged
}

fn opened(disk: &SimDisk, model: &Model) -> Log {
    let mut log = Log::open(disk.shared(), dir(), id(), 0, model.end(0), SMALL).unwrap();
    assert_eq!((log.start_offset(), log.end_offset()), (0, model.end(0)));
    log.set_epochs(Vec::new());
    log
}

fn all(disk: &SimDisk, path: &std::path::Path) -> Vec<u8> {
    disk.read_all(path, 1 << 20).unwrap()
}

#[test]
fn every_flipped_bit_of_a_sealed_segment_is_found() {
    let (whole, model, hurt) = three_segments();
    let path = Paths::new(&dir(), hurt.start).log;
    let bytes = all(&whole, &path);
    for bit in 0..bytes.len() * 8 {
        let disk = whole.crash(0);
        disk.flip(&path, bit / 8, 1 << (bit % 8));
        let log = opened(&disk, &model);
        assert!(is_right_or_damaged(&log.reader(), &model, &hurt), "bit {bit} is not noticed");
        assert_eq!(all(&disk, &path).len(), bytes.len());
    }
}

/// The last segment has no sidecar: the epoch table stands in for it.
#[test]
fn every_flipped_bit_of_the_growing_segment_is_found() {
    let (whole, model, middle) = three_segments();
    let hurt = middle.end..model.end(0);
    let path = Paths::new(&dir(), hurt.start).log;
    let bytes = all(&whole, &path);
    for bit in 0..bytes.len() * 8 {
        let disk = whole.crash(0);
        disk.flip(&path, bit / 8, 1 << (bit % 8));
        let mut log = opened(&disk, &model);
        log.set_epochs(vec![(LeaderEpoch(4), 0)]);
        assert!(is_right_or_damaged(&log.reader(), &model, &hurt), "bit {bit} is not noticed");
        assert_eq!(all(&disk, &path).len(), bytes.len());
    }
}

#[test]
fn no_flipped_bit_of_an_index_or_sidecar_does_harm_and_they_are_mended() {
    let (whole, model, middle) = three_segments();
    for base in [middle.start, middle.end] {
        let paths = Paths::new(&dir(), base);
        for path in [&paths.index, &paths.time_index, &paths.check] {
            if !whole.exists(path).unwrap() {
                assert_eq!(base, middle.end);
                continue;
            }
            let bytes = all(&whole, path);
            assert!(!bytes.is_empty());
            for bit in 0..bytes.len() * 8 {
                let disk = whole.crash(0);
                disk.flip(path, bit / 8, 1 << (bit % 8));
                let mut log = opened(&disk, &model);
                let damaged = is_right_or_damaged(&log.reader(), &model, &(0..0));
                assert!(!damaged && log.damage().is_empty(), "bit {bit} of {}", path.display());
                log.roll().unwrap();
                checkpoint(&mut log);
                assert!(all(&disk, path).starts_with(&bytes), "bit {bit} of {}", path.display());
            }
        }
    }
}

#[test]
fn zeroed_and_swapped_pieces_of_a_sealed_segment_are_found() {
    let (whole, model, hurt) = three_segments();
    let paths = Paths::new(&dir(), hurt.start);
    for path in [&paths.log, &paths.index, &paths.time_index, &paths.check] {
        let bytes = all(&whole, path);
        for piece in [8, 61, 64, 128, 256] {
            let count = bytes.len() / piece;
            for (first, second) in (0..count).flat_map(|a| (a..count).map(move |b| (a, b))) {
                let mut changed = bytes.clone();
                if first == second {
                    changed[first * piece..][..piece].fill(0);
                } else {
                    changed.copy_within(second * piece..(second + 1) * piece, first * piece);
                    changed[second * piece..][..piece]
                        .copy_from_slice(&bytes[first * piece..][..piece]);
                }
                if changed == bytes {
                    continue;
                }
                let disk = whole.crash(0);
                disk.open(path, OpenMode::Write).unwrap().write_all_at(&changed, 0).unwrap();
                let log = opened(&disk, &model);
                let is_data = path == &paths.log;
                let hurt = if is_data { hurt.clone() } else { 0..0 };
                let damaged = is_right_or_damaged(&log.reader(), &model, &hurt);
                assert_eq!(damaged, is_data, "{first} and {second} of {piece} bytes");
            }
        }
    }
}

#[test]
fn an_older_sidecar_says_nothing_of_a_segment_that_was_written_again() {
    let (whole, model, hurt) = three_segments();
    let paths = Paths::new(&dir(), hurt.start);
    // As if all from the second segment on had not been committed: other batches of the same lengths come.
    let mut log = Log::open(whole.shared(), dir(), id(), 0, hurt.start, SMALL).unwrap();
    let mut other = Model(model.0.iter().filter(|b| b.base < hurt.start).cloned().collect());
    for batch in model.0.iter().filter(|batch| batch.base >= hurt.start) {
        let batch = ModelBatch::new(batch.base, &[7, 8], 12);
        log.append(&batch.bytes, 0).unwrap();
        other.0.push(batch);
    }
    checkpoint(&mut log);
    drop(log);
    let log = opened(&whole, &other);
    assert_eq!(log.segments()[1].next_offset, hurt.end);
    assert!(!is_right_or_damaged(&log.reader(), &other, &(0..0)));
    // And where the growing segment was reopened in its middle, no sidecar is written that knows half of it.
    let cut = other.0.iter().find(|batch| batch.base > hurt.start + 3).unwrap().base;
    let mut log = Log::open(whole.shared(), dir(), id(), 0, cut, SMALL).unwrap();
    assert!(!whole.exists(&paths.check).unwrap());
    for batch in other.0.iter().filter(|batch| batch.base >= cut) {
        log.append(&batch.bytes, 0).unwrap();
    }
    checkpoint(&mut log);
    assert!(!whole.exists(&paths.check).unwrap());
    drop(log);
    let log = opened(&whole, &other);
    assert!(!is_right_or_damaged(&log.reader(), &other, &(0..0)));
    assert!(whole.exists(&paths.check).unwrap(), "made by the first read");
}

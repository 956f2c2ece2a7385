use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::record::vdisk::{Block, Place, push_block};
use crate::record::{BatchBuilder, Compression, assign};
use crate::types::LeaderEpoch;

const BLOCK: u64 = 16;
const DISK: usize = 20 * 16;

/// A disk as a vector, and its high end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Memory(Vec<u8>);

impl Memory {
    fn new() -> Self {
        Self(vec![0; DISK])
    }
}

impl BlockTarget for Memory {
    fn write_at(&mut self, start: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(start).unwrap();
        self.0[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn zero_at(&mut self, start: u64, bytes: u64) -> io::Result<()> {
        let start = usize::try_from(start).unwrap();
        self.0[start..start + usize::try_from(bytes).unwrap()].fill(0);
        Ok(())
    }
}

fn block(sequence: u64, index: i64, data: Option<u8>) -> Block {
    let data = data.map_or_else(Bytes::new, |byte| Bytes::from(vec![byte; BLOCK as usize]));
    Block {
        sequence,
        place: Place::Index(index),
        operation: if data.is_empty() { OPERATION_ZERO } else { OPERATION_WRITE },
        hash: blake2b(&data),
        timestamp: 0,
        data,
    }
}

/// A batch from `base`; each block with its time.
fn batch(base: Offset, blocks: &[(Block, i64)], compression: Compression) -> Vec<u8> {
    let mut builder = BatchBuilder::new(blocks[0].1).compression(compression);
    for (block, ms) in blocks {
        push_block(&mut builder, block, BLOCK, *ms).unwrap();
    }
    let mut batch = builder.build();
    assign(&mut batch, base, LeaderEpoch(1));
    batch
}

/// Sequences from `first`, all at block `index`, a byte and a millisecond each.
fn row(base: Offset, first: u64, count: u64) -> Vec<u8> {
    let blocks: Vec<_> = (first..first + count)
        .map(|sequence| {
            (block(sequence, 0, Some(sequence as u8)), base + (sequence - first) as i64)
        })
        .collect();
    batch(base, &blocks, Compression::None)
}

fn played(bytes: &[u8], limit: Limit) -> (Memory, Result<Played, PlayError>, Counts) {
    let (mut memory, mut player) = (Memory::new(), Player::new(1, limit));
    let result = player.play(bytes, &mut memory);
    (memory, result, player.counts())
}

proptest! {
    #[test]
    fn a_disk_comes_back_as_it_was_written(
        writes in prop::collection::vec((0..20_i64, prop::option::of(1..255_u8)), 1..80),
        cuts in prop::collection::vec(1..9_usize, 1..10),
        start in 1..40_i64,
        codec in prop_oneof![Just(Compression::None), Just(Compression::Lz4)],
    ) {
        let mut disk = Memory::new();
        let mut blocks = Vec::new();
        for (at, (index, data)) in writes.iter().enumerate() {
            let block = block(at as u64 + 1, *index, *data);
            if at as i64 + 1 >= start {
                let from = *index as u64 * BLOCK;
                disk.write_at(from, &[data.unwrap_or(0); BLOCK as usize]).unwrap();
            }
            blocks.push((block, at as i64));
        }
        // Cut into batches, and those into calls.
        let (mut base, mut rest, mut calls) = (1, &blocks[..], Vec::new());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            calls.push(batch(base, now, codec));
            base += now.len() as i64;
            rest = later;
        }
        let (mut memory, mut player) = (Memory::new(), Player::new(start, Limit::None));
        for call in calls.chunks(2) {
            player.play(&call.concat(), &mut memory).unwrap();
        }
        prop_assert_eq!(memory, disk);
        let count = (writes.len() as u64 + 1).saturating_sub(start as u64);
        prop_assert_eq!(player.counts().records, count);
        prop_assert!(player.counts().end <= DISK as u64);
    }
}

#[test]
fn counts_tell_writes_zeroes_and_the_end() {
    let blocks = [(block(1, 2, Some(7)), 5), (block(2, 9, None), 5), (block(3, 0, Some(7)), 5)];
    let (_, result, counts) = played(&batch(1, &blocks, Compression::None), Limit::None);
    assert_eq!(result.unwrap(), Played::Upto(4));
    assert_eq!((counts.records, counts.writes, counts.zeroes), (3, 2, 1));
    assert_eq!((counts.bytes, counts.end), (2 * BLOCK, 10 * BLOCK));
}

#[test]
fn limits_are_inclusive_and_say_where_they_stopped() {
    // Offsets 1 to 6: sequences 1 to 3, then a second run of 1 to 3.
    let log = [row(1, 1, 3), row(4, 1, 3)].concat();
    let ends = |limit| {
        let (memory, result, counts) = played(&log, limit);
        (counts.records, memory.0[0], result.unwrap())
    };
    let stopped = |offset| Played::Stopped { offset, timestamp_ms: offset };
    assert_eq!(ends(Limit::Offset(4)), (4, 1, stopped(5)));
    assert_eq!(ends(Limit::Offset(99)), (6, 3, Played::Upto(7)));
    assert_eq!(ends(Limit::Offset(0)), (0, 0, stopped(1)));
    assert_eq!(ends(Limit::Time(2)), (2, 2, stopped(3)));
    assert_eq!(ends(Limit::Sequence { run: 1, last: 2 }), (2, 2, stopped(3)));
    assert_eq!(ends(Limit::Sequence { run: 1, last: 9 }), (3, 3, stopped(4)));
    assert_eq!(ends(Limit::Sequence { run: 2, last: 1 }), (4, 1, stopped(5)));
}

#[test]
fn runs_are_derived_where_headers_are_absent() {
    let mut runs = RunTracker::default();
    assert_eq!(runs.follow(1, None), (1, 1));
    assert_eq!(runs.follow(2, Some(2)), (1, 2));
    assert_eq!(runs.follow(3, None), (1, 3));
    assert_eq!(runs.follow(4, Some(9)), (2, 9));
    assert_eq!(runs.follow(5, None), (2, 10));
    assert_eq!(runs.follow(6, Some(1)), (3, 1));
    assert_eq!(runs.current(), Some(RunStart { run: 3, offset: 6, sequence: 1 }));
}

/// Leaves records of a batch, as compaction does.
fn compacted(batch: &[u8], keep: &[i32]) -> Vec<u8> {
    let header = BatchHeader::parse(batch).unwrap();
    let plain = plain_records(batch, &header).unwrap();
    let keep = |record: &record::Record<'_>| keep.contains(&record.offset_delta);
    match record::retain(&header, &plain, None, keep).unwrap() {
        record::Remains::Batch(left) => left,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_compacted_log_is_played_and_what_is_gone_is_counted() {
    // Offsets 1 to 12, sequences likewise; then a run of its own.
    let log = [
        compacted(&row(1, 1, 4), &[2]),
        record::gap(5, 10, 1),
        row(10, 10, 3),
        record::gap(13, 16, 1),
        compacted(&row(16, 1, 3), &[0, 2]),
    ]
    .concat();
    let (memory, result, counts) = played(&log, Limit::None);
    assert_eq!(result.unwrap(), Played::Upto(19));
    assert_eq!((memory.0[0], counts.records, counts.compacted), (3, 6, 2 + 1 + 5 + 3 + 1));
    let mut player = Player::new(1, Limit::None);
    player.play(&log, &mut Memory::new()).unwrap();
    assert_eq!(player.runs().current(), Some(RunStart { run: 2, offset: 16, sequence: 1 }));
    // Above the bound nothing matters.
    let whole = [row(1, 1, 3), record::gap(4, 9, 1)].concat();
    assert_eq!(played(&whole, Limit::Offset(3)).2.compacted, 0);
    assert_eq!(played(&whole, Limit::Offset(5)).2.compacted, 2);
    // A batch that is missing is missing.
    let (_, result, _) = played(&[row(1, 1, 3), record::gap(5, 9, 1)].concat(), Limit::None);
    assert!(matches!(result, Err(PlayError::Gap { expected: 4, found: 5 })));
}

#[test]
fn damage_is_named_and_nothing_of_the_batch_is_applied() {
    let mut bad = row(4, 4, 2);
    let last = bad.len() - 1;
    bad[last] ^= 1;
    let (memory, result, counts) = played(&[row(1, 1, 3), bad].concat(), Limit::None);
    let error = result.unwrap_err();
    assert!(matches!(error, PlayError::Checksum { first: 4, last: 5 }), "{error}");
    assert!(error.is_damage());
    assert_eq!((memory.0[0], counts.records), (3, 3));

    let mut wrong = block(1, 0, Some(1));
    wrong.hash = [0; 32];
    let (_, result, _) = played(&batch(1, &[(wrong, 0)], Compression::None), Limit::None);
    assert!(matches!(result, Err(PlayError::Hash { offset: 1 })));

    let (_, result, _) = played(&[row(1, 1, 3), row(5, 4, 1)].concat(), Limit::None);
    assert!(matches!(result, Err(PlayError::Gap { expected: 4, found: 5 })));

    let (_, result, _) = played(&row(1, 1, 3)[..80], Limit::None);
    assert!(matches!(result, Err(PlayError::Batch { offset: 1, .. })));
}

#[test]
fn a_record_of_another_kind_is_named() {
    let mut builder = BatchBuilder::new(0);
    builder.push(0, Some(b"key"), Some(b"value"), &[]);
    let mut batch = builder.build();
    assign(&mut batch, 1, LeaderEpoch(0));
    let (_, result, _) = played(&batch, Limit::None);
    assert!(matches!(result, Err(PlayError::NotABlock { offset: 1, .. })));
}

//! Recovery of a partition's directory whose segment, indexes and sidecar are any bytes, and every read of what is opened.

use std::sync::{Arc, LazyLock};

use tlog::disk::FileDisk;
use tlog::log::{Config, Error, Log};
use tlog::record::{BatchBuilder, Batches, assign};
use tlog::types::{LeaderEpoch, TopicId, TopicPartition};

use super::sample::{self, Files};

const ID: TopicPartition = TopicPartition { topic: TopicId([3; 16]), partition: 0 };
const CONFIG: Config = Config { segment_bytes: 500, segment_ms: 1000, index_interval_bytes: 100 };
const END: i64 = 20;
/// Where a batch says its leader epoch, which no CRC of the active segment covers: the broker's own table does.
const EPOCH: std::ops::Range<usize> = 12..16;

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(sample::directory);

fn batch(offset: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(offset);
    builder.push(offset, None, Some(&[9; 10]), &[]);
    let mut batch = builder.build();
    assign(&mut batch, offset, LeaderEpoch(0));
    batch
}

static SAMPLE: LazyLock<Files> = LazyLock::new(|| {
    let dir = DIR.path().join("sample-0");
    let mut log = Log::open(Arc::new(FileDisk), dir.clone(), ID, 0, 0, CONFIG).unwrap();
    for offset in 0..END {
        log.append(&batch(offset), 0).unwrap();
    }
    log.take_dirty().sync().unwrap();
    sample::read(&dir)
});

/// Whether it is what was written.
fn is_right(found: &[u8], offset: i64) -> bool {
    let mut found = found.to_vec();
    let right = batch(offset);
    if let Some(epoch) = found.get_mut(EPOCH) {
        epoch.copy_from_slice(&right[EPOCH]);
    }
    found == right
}

/// One input, see [`sample::damage`]; its `how` is the recovery point. Gives how many batches were read, if it was opened.
pub fn run(input: &[u8]) -> Option<usize> {
    let damaged = sample::damage(&SAMPLE, input)?;
    let dir = sample::write(DIR.path(), &damaged.files);
    let point = i64::from(damaged.how & 0x1f);
    let mut log = Log::open(Arc::new(FileDisk), dir, ID, 0, point, CONFIG).ok()?;
    let (reader, end) = (log.reader(), log.end_offset());
    let (mut from, mut count) = (log.start_offset(), 0);
    while from < end {
        match reader.read(from, end, 200) {
            Ok(bytes) => {
                let before = from;
                for item in Batches::new(&bytes) {
                    let (header, batch) = item.unwrap();
                    // Four bytes of CRC, one of what it covers.
                    let is_wrong = !damaged.replaced
                        && damaged.edits <= 4
                        && !is_right(batch, header.base_offset);
                    assert!(!is_wrong, "a wrong byte of {}", header.base_offset);
                    from = header.next_offset();
                    count += 1;
                }
                assert!(from > before && from <= end);
            }
            Err(Error::Damaged { from: first, to, .. }) => {
                assert!(first <= from && to > from);
                from = to;
            }
            Err(_) => return Some(count),
        }
    }
    for timestamp in [0, 7, 30] {
        drop(reader.offset_for_timestamp(timestamp, end));
    }
    log.roll().ok();
    drop(log.take_dirty().sync());
    Some(count)
}

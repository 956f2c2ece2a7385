//! Recovery of a partition's directory whose segment, indexes and sidecar are any bytes, and every read of what is opened.
#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tlog::disk::FileDisk;
use tlog::log::{Config, Error, Log};
use tlog::record::{BatchBuilder, assign};
use tlog::types::{LeaderEpoch, TopicId, TopicPartition};

const ID: TopicPartition = TopicPartition { topic: TopicId([3; 16]), partition: 0 };
const CONFIG: Config = Config { segment_bytes: 500, segment_ms: 1000, index_interval_bytes: 100 };
const END: i64 = 20;

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

static SAMPLE: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let dir = DIR.path().join("sample-0");
    let mut log = Log::open(Arc::new(FileDisk), dir.clone(), ID, 0, 0, CONFIG).unwrap();
    for offset in 0..END {
        let mut builder = BatchBuilder::new(offset);
        builder.push(offset, None, Some(&[9; 10]), &[]);
        let mut batch = builder.build();
        assign(&mut batch, offset, LeaderEpoch(0));
        log.append(&batch, 0).unwrap();
    }
    log.take_dirty().sync().unwrap();
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap());
    let mut files: Vec<_> = files
        .map(|file| {
            let name = file.file_name().into_string().unwrap();
            (name, std::fs::read(file.path()).unwrap())
        })
        .collect();
    files.sort();
    files
});

// The input: the recovery point, then edits of the sample (three bytes for the place, one to be mixed in), or, from 0x80 on,
// which file is replaced and its bytes.
fuzz_target!(|input: &[u8]| {
    let Some((how, input)) = input.split_first() else { return };
    let mut files = SAMPLE.clone();
    let count = files.len();
    if how & 0x80 == 0 {
        for edit in input.chunks_exact(4) {
            let place = u32::from_be_bytes([0, edit[0], edit[1], edit[2]]) as usize;
            let (_, bytes) = &mut files[place % count];
            let at = place / count % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= edit[3];
            }
        }
    } else if let Some((file, input)) = input.split_first() {
        files[usize::from(*file) % count].1 = input.to_vec();
    }
    let dir: PathBuf = DIR.path().join("fuzzed-0");
    std::fs::remove_dir_all(&dir).ok();
    std::fs::create_dir(&dir).unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    let point = i64::from(how & 0x1f);
    let Ok(mut log) = Log::open(Arc::new(FileDisk), dir, ID, 0, point, CONFIG) else { return };
    let (reader, end) = (log.reader(), log.end_offset());
    let mut from = log.start_offset();
    while from < end {
        match reader.read(from, end, 200) {
            Ok(bytes) => {
                let last = tlog::record::Batches::new(&bytes).last().unwrap().unwrap().0;
                assert!(last.next_offset() > from && last.next_offset() <= end);
                from = last.next_offset();
            }
            Err(Error::Damaged { from: first, to, .. }) => {
                assert!(first <= from && to > from);
                from = to;
            }
            Err(_) => return,
        }
    }
    for timestamp in [0, 7, 30] {
        drop(reader.offset_for_timestamp(timestamp, end));
    }
    log.roll().ok();
    drop(log.take_dirty().sync());
});

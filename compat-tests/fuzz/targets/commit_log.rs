//! Recovery of the commit log from any bytes: it is read or refused, and never grows beyond what is there.
#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tlog::disk::FileDisk;
use tlog::types::{DataDirId, TopicId};
use tlog::wal::{Config, Entry, Wal};

const ID: DataDirId = DataDirId([7; 16]);
const CONFIG: Config = Config { file_bytes: 4096, spare_files: 1 };

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

/// Files of a log, some commits each, in order.
static SAMPLE: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let mut wal =
        Wal::open(Arc::new(FileDisk), dir.path(), ID, 0, CONFIG, &mut |_, _| Ok(())).unwrap();
    for byte in 0..8u8 {
        let payload = vec![byte; 300 * usize::from(byte)].into();
        let entry = Entry { kind: byte, topic: TopicId([byte; 16]), partition: 0, payload };
        wal.commit(&[entry]).unwrap();
    }
    let mut files: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|file| file.unwrap())
        .map(|file| {
            let name = file.file_name().into_string().unwrap();
            (name, std::fs::read(file.path()).unwrap())
        })
        .collect();
    files.sort();
    files
});

// The input: one byte for where to begin, then either raw bytes of the first file or edits of the sample, each of three
// bytes for the place and one to be mixed in.
fuzz_target!(|input: &[u8]| {
    let Some((how, input)) = input.split_first() else { return };
    let dir: PathBuf = DIR.path().join("log");
    std::fs::remove_dir_all(&dir).ok();
    std::fs::create_dir(&dir).unwrap();
    let mut files = SAMPLE.clone();
    if how & 0x80 == 0 {
        for edit in input.chunks_exact(4) {
            let place = u32::from_be_bytes([0, edit[0], edit[1], edit[2]]) as usize;
            let count = files.len();
            let (_, bytes) = &mut files[place % count];
            let at = place / count % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= edit[3];
            }
        }
    } else if let Some((_, first)) = files.first_mut() {
        *first = input.to_vec();
    }
    let total: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    let (after, mut read) = (u64::from(how & 0x0f), 0);
    let opened = Wal::open(Arc::new(FileDisk), &dir, ID, after, CONFIG, &mut |number, entries| {
        assert!(number > after);
        read += entries.iter().map(Entry::stored_bytes).sum::<usize>();
        Ok(())
    });
    assert!(read <= total);
    if let Ok(mut wal) = opened {
        let next = wal.last_commit() + 1;
        assert_eq!(wal.commit(&[]).unwrap(), next);
    }
});

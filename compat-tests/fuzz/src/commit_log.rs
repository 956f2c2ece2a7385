//! Recovery of the commit log from any bytes: it is read or refused, and what is read is what was written.

use std::sync::{Arc, LazyLock};

use tlog::disk::FileDisk;
use tlog::types::{DataDirId, TopicId};
use tlog::wal::{Config, Entry, Wal};

use super::sample::{self, Files};

const ID: DataDirId = DataDirId([7; 16]);
const CONFIG: Config = Config { file_bytes: 4096, spare_files: 1 };

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(sample::directory);

/// The entry of the commit behind `byte` others.
fn entry(byte: u8) -> Entry {
    let payload = vec![byte; 300 * usize::from(byte)].into();
    Entry { kind: byte, topic: TopicId([byte; 16]), partition: 0, payload }
}

/// Files of a log, some commits each.
static SAMPLE: LazyLock<Files> = LazyLock::new(|| {
    let dir = sample::directory();
    let mut wal =
        Wal::open(Arc::new(FileDisk), dir.path(), ID, 0, CONFIG, &mut |_, _| Ok(())).unwrap();
    for byte in 0..8 {
        wal.commit(&[entry(byte)]).unwrap();
    }
    sample::read(dir.path())
});

/// One input, see [`sample::damage`]; its `how` is the commit of the checkpoint. Gives how many commits were read, if it was
/// opened.
pub fn run(input: &[u8]) -> Option<usize> {
    let damaged = sample::damage(&SAMPLE, input)?;
    let dir = sample::write(DIR.path(), &damaged.files);
    let total: usize = damaged.files.iter().map(|(_, bytes)| bytes.len()).sum();
    let (after, mut read, mut commits) = (u64::from(damaged.how & 0x0f), 0, 0);
    let opened = Wal::open(Arc::new(FileDisk), &dir, ID, after, CONFIG, &mut |number, entries| {
        assert!(number > after);
        read += entries.iter().map(Entry::stored_bytes).sum::<usize>();
        commits += 1;
        if !damaged.replaced {
            // Four bytes of CRC, one of what it covers.
            assert!(damaged.edits > 4 || entries == [entry((number - 1) as u8)], "{number}");
        }
        Ok(())
    });
    assert!(read <= total);
    let mut wal = opened.ok()?;
    let next = wal.last_commit() + 1;
    assert_eq!(wal.commit(&[]).unwrap(), next);
    Some(commits)
}

//! Damage to files that had a former life: found or harmless.

use std::path::PathBuf;

use super::super::wal::tests::{
    Commits, all_paths, entry, file_name_of, open_with, overwrite, paths,
};
use super::*;
use crate::disk::sim::SimDisk;

const SECTOR: usize = ALIGN_BYTES;
/// A header and three sectors.
const TINY: Config = Config { file_bytes: 4 * SECTOR as u64, spare_files: 2 };
/// The checkpoint of [`recycled_log`].
const AFTER: CommitNumber = 9;

/// ```text
///   10.log, sealed   header 10 | commit 10 | commit 11 |  commit 3   } written before, as files 1 and 4
///   12.log, active   header 12 | commit 12 . . . . . . |  commit 6   }
///   spare            file 7 with commits 7 to 9
/// ```
/// and the same sectors as they were in the files' former life.
struct Recycled {
    disk: SimDisk,
    commits: Commits,
    former: Vec<Vec<u8>>,
}

fn recycled_log() -> Recycled {
    let disk = SimDisk::new();
    let (mut wal, _) = open_with(&disk, 0, TINY).unwrap();
    // One sector each.
    for byte in 1..=9 {
        wal.commit(&[entry(vec![byte; 60])]).unwrap();
    }
    assert_eq!(paths(&disk), [1, 4, 7].map(file_name_of));
    let mut former: Vec<_> = paths(&disk).iter().map(|path| content(&disk, path)).collect();
    former.truncate(2);
    wal.free_upto(6).unwrap();
    // The spare that was freed last is taken first.
    former.reverse();
    let mut commits = Commits::new();
    for length in [60, 60, 600] {
        let entries = vec![entry(vec![77; length])];
        commits.push((wal.commit(&entries).unwrap(), entries));
    }
    wal.free_upto(AFTER).unwrap();
    assert_eq!(paths(&disk), [10, 12].map(file_name_of));
    assert_eq!(all_paths(&disk).len(), 3);
    for (path, former) in paths(&disk).iter().zip(&former) {
        assert_eq!(content(&disk, path)[3 * SECTOR..], former[3 * SECTOR..]);
    }
    Recycled { disk, commits, former }
}

fn content(disk: &SimDisk, path: &Path) -> Vec<u8> {
    disk.read_all(path, 1 << 20).unwrap()
}

impl Recycled {
    /// Opens the log after one damage, and once more. `in_last`: it may concern the last commit, which can then be
    /// taken for torn. Tells whether the damage was found.
    fn open(&self, image: &SimDisk, in_last: bool, what: &dyn std::fmt::Debug) -> bool {
        let mut expected = self.commits.clone();
        match open_with(image, AFTER, TINY) {
            Ok((wal, read)) => {
                if in_last && read.len() < expected.len() {
                    expected.pop();
                }
                assert_eq!(read, expected, "{what:?}");
                assert_eq!(wal.last_commit(), AFTER + expected.len() as u64);
                false
            }
            Err(Error::Corrupt { .. }) => {
                assert!(paths(image) == paths(&self.disk), "{what:?}");
                true
            }
            Err(other) => panic!("{what:?}: {other}"),
        }
    }
}

fn is_in_last(path: &Path, sector: usize) -> bool {
    path == file_name_of(12) && (1..3).contains(&sector)
}

#[test]
fn every_flipped_bit_is_found_or_harmless() {
    let log = recycled_log();
    let mut found = 0;
    for path in all_paths(&log.disk) {
        let bytes = content(&log.disk, &path);
        let is_spare = !paths(&log.disk).contains(&path);
        for position in 0..bytes.len() {
            // Of what nothing reads, padding and the spare, one bit of each byte will do.
            let next_zeros = bytes[position..].iter().take(SECTOR).take_while(|byte| **byte == 0);
            let is_padding = next_zeros.count() >= (SECTOR - position % SECTOR).max(8);
            let bits = if is_spare || is_padding { position % 8..position % 8 + 1 } else { 0..8 };
            for bit in bits {
                let image = log.disk.restart();
                image.flip(&path, position, 1 << bit);
                let in_last = is_in_last(&path, position / SECTOR);
                found += usize::from(log.open(&image, in_last, &(&path, position, bit)));
            }
        }
    }
    // All bits of two headers with a commit behind them, and of two commits.
    assert_eq!(found, 8 * (2 * 52 + 2 * (52 + 25 + 60)));
}

#[test]
fn lost_swapped_doubled_and_stale_sectors_are_found_or_harmless() {
    let log = recycled_log();
    let places: Vec<(PathBuf, usize)> = all_paths(&log.disk)
        .into_iter()
        .flat_map(|path| (0..4).map(move |sector| (path.clone(), sector)))
        .collect();
    let sector_of = |(path, sector): &(PathBuf, usize)| {
        content(&log.disk, path)[sector * SECTOR..][..SECTOR].to_vec()
    };
    let put = |image: &SimDisk, (path, sector): &(PathBuf, usize), bytes: &[u8]| {
        overwrite(image, path, (sector * SECTOR) as u64, bytes);
    };
    let (mut found, mut tried) = (0, 0);
    let mut open = |image: &SimDisk, in_last, what: &dyn std::fmt::Debug| {
        tried += 1;
        found += usize::from(log.open(image, in_last, what));
    };
    for to in &places {
        let in_last = is_in_last(&to.0, to.1);
        let image = log.disk.restart();
        put(&image, to, &[0; SECTOR]);
        open(&image, in_last, &("lost", to));
        for from in &places {
            let image = log.disk.restart();
            put(&image, to, &sector_of(from));
            open(&image, in_last, &("doubled", from, to));
            let in_last = in_last || is_in_last(&from.0, from.1);
            let image = log.disk.restart();
            put(&image, to, &sector_of(from));
            put(&image, from, &sector_of(to));
            open(&image, in_last, &("swapped", from, to));
        }
    }
    for (path, former) in paths(&log.disk).into_iter().zip(&log.former) {
        for sector in 0..4 {
            let (image, place) = (log.disk.restart(), (path.clone(), sector));
            put(&image, &place, &former[sector * SECTOR..][..SECTOR]);
            open(&image, is_in_last(&place.0, sector), &("stale", place));
        }
    }
    assert!(found > 100 && tried > 300, "{found} of {tried}");
}

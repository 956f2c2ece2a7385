//! The commit log against a disk that crashes, fails and rots.
//!
//! What each safeguard is there for was seen by taking it out, one at a time; these tests fail then (among others):
//!
//! | taken out | fails |
//! |---|---|
//! | sync of a commit | `a_crash_at_any_operation_…`, `after_a_failed_call_…` |
//! | sync of a file's header before it gets its name | `a_crash_at_any_operation_…` |
//! | sync of the directory after that | `a_crash_at_any_operation_…` |
//! | sync of the directory after freeing | `freed_files_go_and_the_written_one_stays` |
//! | sync of the parent directory | `a_power_cut_after_a_kill_…` |
//! | recovery: sync of the file | `a_power_cut_after_a_kill_…`, `after_a_failed_call_…` |
//! | recovery: sync of the directory | `a_power_cut_after_a_kill_…` |
//! | recovery: the last commit is written again | `after_a_failed_call_…` |
//! | recovery: the header is written again | `a_header_whose_sync_failed_is_on_the_disk_…` (`spare`) |
//! | CRC of the next commit | `a_crash_at_any_operation_…`, `lost_swapped_doubled_and_stale_sectors_…` (`recovery`) |
//! | CRC of a successor | `every_flipped_bit_is_found_or_harmless` (`recovery`) |
//! | number of the next commit | `a_crash_at_any_operation_…`, `real_files_are_recycled` (`spare`) |
//! | number of a successor | `a_crash_at_any_operation_…`, `real_files_are_recycled` (`spare`) |
//! | link of a commit | `a_whole_frame_with_the_right_number_and_another_link_is_not_taken` |
//! | link of a file | `a_file_that_does_not_follow_the_one_before_is_not_taken` |
//! | data directory id, of the next commit or of a successor | `commits_of_another_data_directory_…` |
//! | a file's name and its header agree | `lost_swapped_doubled_and_stale_sectors_…` (`recovery`) |
//! | search for a successor | `corruption_is_named_by_file_position_and_commit` |
//! | a later file, the checkpoint as proof | `a_missing_file_in_the_middle_…`, `a_bad_commit_below_the_checkpoint_…` |
//! | a file is read no further than the next one begins | `a_roll_takes_a_spare_…` (`spare`) |
//! | a log that begins anew removes spares | `a_new_log_does_not_take_over_spares_…` (`spare`) |
//! | an error of a read of a frame, and of the search for a successor | `a_read_that_fails_is_no_torn_end_…` |
//! | standing still after an error | `after_a_failed_call_…` |
//!
//! The sync of a new spare's zeros is for speed: without it all tests pass, as they must.

use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::frame::{ALIGN_BYTES, FORMAT, Frame, HEAD_BYTES, Head, Kind};
use super::super::reader::FileReader;
use super::*;
use crate::disk::sim::{Operation, Random, SimDisk};
use crate::disk::{FileDisk, OpenMode};
use crate::types::TopicId;
use crate::types::limits::COMMIT_BYTES;

pub const DIR: &str = "/data/commitlog";
pub const ID: DataDirId = DataDirId([7; 16]);
pub const SMALL: Config = Config { file_bytes: 4 * 1024, spare_files: 2 };
pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;

/// More rounds in the long mode.
fn rounds(short: u64, long: u64) -> u64 {
    if std::env::var_os("TLOG_TEST_LONG").is_some() { long } else { short }
}

pub fn entry(payload: impl Into<Bytes>) -> Entry {
    Entry { kind: 1, topic: TopicId([9; 16]), partition: 3, payload: payload.into() }
}

fn random_entries(random: &mut Random) -> Vec<Entry> {
    (0..random.below(4))
        .map(|_| Entry {
            kind: random.bits() as u8,
            topic: TopicId([random.bits() as u8; 16]),
            partition: random.bits() as i32,
            payload: (0..random.below(1500)).map(|_| random.bits() as u8).collect(),
        })
        .collect()
}

pub type Commits = Vec<(CommitNumber, Vec<Entry>)>;

pub fn open_after(disk: &SimDisk, after: CommitNumber) -> Result<(Wal, Commits), Error> {
    open_with(disk, after, SMALL)
}

pub fn open_with(
    disk: &SimDisk,
    after: CommitNumber,
    config: Config,
) -> Result<(Wal, Commits), Error> {
    let mut commits = Vec::new();
    let mut replay = |number, entries| {
        commits.push((number, entries));
        Ok(())
    };
    let disk = Arc::new(disk.clone());
    let wal = Wal::open(disk, Path::new(DIR), ID, after, config, &mut replay)?;
    Ok((wal, commits))
}

pub fn open(disk: &SimDisk) -> Result<(Wal, Commits), Error> {
    open_after(disk, 0)
}

/// What the log must hold.
#[derive(Clone, Default)]
struct Model {
    /// Commit n at n - 1.
    acknowledged: Vec<Vec<Entry>>,
    /// Written and not answered: may be there whole, or not.
    in_flight: Option<Vec<Entry>>,
    checkpoint: CommitNumber,
}

impl Model {
    /// Opens the log and compares it with the model, which then takes over the commit in flight if it is there.
    fn open(&mut self, disk: &SimDisk) -> Result<Wal, Error> {
        let (wal, commits) = open_after(disk, self.checkpoint)?;
        if wal.last_commit() > self.acknowledged.len() as u64 {
            self.acknowledged.push(self.in_flight.take().expect("a commit that nobody made"));
        }
        assert_eq!(wal.last_commit(), self.acknowledged.len() as u64);
        let expected = (1..).zip(self.acknowledged.iter().cloned());
        let expected: Commits = expected.skip(self.checkpoint as usize).collect();
        assert_eq!(commits, expected);
        Ok(wal)
    }

    /// The life of a process up to its first error.
    fn live(&mut self, disk: &SimDisk, random: &mut Random, commits: usize) -> Result<(), Error> {
        let mut wal = self.open(disk)?;
        let mut job = None;
        for _ in 0..commits {
            // A spare is made while commits go on.
            if let Some(job) = job.take_if(|_| random.coin()) {
                let made: Result<Spare, _> = SpareJob::run(job);
                made.into_iter().for_each(|spare| wal.add_spare(spare));
            }
            job = job.or_else(|| wal.wanted_spare());
            let entries = random_entries(random);
            self.in_flight = Some(entries.clone());
            let number = wal.commit(&entries).inspect_err(|_| assert_stands_still(&mut wal))?;
            self.in_flight = None;
            self.acknowledged.push(entries);
            assert_eq!(number, self.acknowledged.len() as u64);
            if random.below(8) == 0 {
                let step = random.below((number - self.checkpoint) as usize + 1);
                self.checkpoint += step as u64;
                wal.free_upto(self.checkpoint).inspect_err(|_| assert_stands_still(&mut wal))?;
            }
        }
        // A spare whose removal failed stays, and is not counted.
        assert!(wal.bytes() <= wal.disk_bytes() && wal.disk_bytes() <= bytes_on(disk));
        Ok(())
    }
}

fn assert_stands_still(wal: &mut Wal) {
    assert!(matches!(wal.commit(&[]), Err(Error::Poisoned)));
    assert!(matches!(wal.free_upto(u64::MAX), Err(Error::Poisoned)));
}

/// Of the files that hold commits.
pub fn paths(disk: &SimDisk) -> Vec<PathBuf> {
    all_paths(disk).into_iter().filter(|path| path.extension().is_some()).collect()
}

pub fn all_paths(disk: &SimDisk) -> Vec<PathBuf> {
    disk.list(Path::new(DIR)).unwrap().iter().map(|name| Path::new(DIR).join(name)).collect()
}

pub fn length(disk: &SimDisk, path: &Path) -> u64 {
    disk.open(path, OpenMode::Read).unwrap().len().unwrap()
}

pub fn bytes_on(disk: &SimDisk) -> u64 {
    all_paths(disk).iter().map(|path| length(disk, path)).sum()
}

pub fn overwrite(disk: &SimDisk, path: &Path, position: u64, bytes: &[u8]) {
    let file = disk.open(path, OpenMode::Write).unwrap();
    file.write_all_at(bytes, position).unwrap();
    file.sync().unwrap();
}

/// A log of ten commits and a closing empty one, in some files of at most 4 KiB.
fn ten_commits() -> (SimDisk, Commits) {
    let (disk, mut random) = (SimDisk::new(), Random(11));
    let (mut wal, _) = open(&disk).unwrap();
    let mut commits = Commits::new();
    for number in 1..=10 {
        // 1 KiB with the heads, so that a file has three.
        let payload: Vec<u8> = (0..700 + random.below(200)).map(|_| random.bits() as u8).collect();
        let entries = vec![entry(payload), entry("end")];
        assert_eq!(wal.commit(&entries).unwrap(), number);
        commits.push((number, entries));
    }
    commits.push((wal.commit(&[]).unwrap(), vec![]));
    let paths = paths(&disk);
    assert!(paths.len() > 2 && paths[paths.len() - 1] < file_name_of(11));
    (disk, commits)
}

/// Whether a freed file came into use again.
fn recycles(disk: &SimDisk) -> bool {
    let renamed = |operation| match operation {
        Operation::Rename(from, to) => Some((from, to)),
        _ => None,
    };
    let renames: Vec<_> = disk.operations().into_iter().filter_map(renamed).collect();
    let freed = renames.iter().filter(|(from, _)| from.extension().is_some());
    freed.map(|(_, spare)| spare).any(|spare| renames.iter().any(|(from, _)| from == spare))
}

#[test]
fn a_crash_at_any_operation_loses_nothing_acknowledged() {
    let (mut images, mut recycled, seeds) = (0, 0, rounds(2, 60));
    for seed in 0..seeds {
        let disk = SimDisk::new();
        Model::default().live(&disk, &mut Random(seed), 40).unwrap();
        let operations = disk.operations().len();
        recycled += usize::from(recycles(&disk));
        images += operations;
        for stop in 0..operations {
            let disk = SimDisk::new();
            disk.stop_at(stop);
            let mut model = Model::default();
            let error = model.live(&disk, &mut Random(seed), 40).unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error}");
            for image_seed in 0..2 {
                let mut model = model.clone();
                let mut random = Random(image_seed * 1000 + stop as u64);
                // The second life ends early as well, maybe within its recovery.
                let image = disk.crash(random.bits());
                image.stop_at(random.below(12));
                let _ = model.live(&image, &mut random, 10);
                let image = if random.coin() { image.restart() } else { image };
                let image = image.crash(random.bits());
                model.live(&image, &mut random, 5).unwrap();
                model.open(&image.crash(random.bits())).unwrap();
            }
        }
    }
    // Two lives each, of three images.
    assert!(6 * images > 1000 && 2 * recycled as u64 > seeds, "{images} {recycled}");
}

#[test]
fn a_power_cut_after_a_kill_loses_nothing_acknowledged() {
    let data_dir = || {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/data")).unwrap();
        disk
    };
    let disk = data_dir();
    Model::default().live(&disk, &mut Random(1), 12).unwrap();
    for stop in data_dir().operations().len()..disk.operations().len() {
        let disk = data_dir();
        disk.stop_at(stop);
        let (mut model, mut random) = (Model::default(), Random(1));
        model.live(&disk, &mut random, 12).unwrap_err();
        // What the killed process left unsynced is still to be seen, be it only an entry of a directory.
        let restarted = disk.restart();
        model.live(&restarted, &mut random, 1).unwrap();
        for seed in 0..4 {
            model.clone().open(&restarted.crash(seed)).unwrap();
        }
    }
}

#[test]
fn after_a_failed_call_nothing_is_acknowledged_and_nothing_seen_is_lost() {
    let disk = SimDisk::new();
    Model::default().live(&disk, &mut Random(5), 40).unwrap();
    assert!(recycles(&disk));
    let mut went_on = 0;
    for fail in 0..disk.operations().len() {
        for errno in [EIO, ENOSPC] {
            let disk = SimDisk::new();
            disk.fail_at(fail, errno);
            let (mut model, mut random) = (Model::default(), Random(5));
            match model.live(&disk, &mut random, 40) {
                Err(error) => assert!(matches!(error, Error::Io { .. }), "{error}"),
                // Without a spare, or room for another file, the log goes on.
                Ok(()) => {
                    let failed = format!("{:?}", disk.operations()[fail]);
                    let no_room = errno == ENOSPC && failed.starts_with("Rename");
                    assert!(no_room || failed.contains("spare-"), "{failed}");
                    went_on += 1;
                }
            }
            // The page cache shows the commit whose sync failed. Once it was read it must be on the disk as well.
            let restarted = disk.restart();
            model.open(&restarted).unwrap();
            model.in_flight = None;
            let image = restarted.crash(random.bits());
            model.live(&image, &mut random, 5).unwrap();
        }
    }
    assert!(went_on > 0);
}

#[test]
fn a_recovery_that_fails_can_be_repeated() {
    let (disk, mut random, mut model) = (SimDisk::new(), Random(3), Model::default());
    disk.stop_at(60);
    model.live(&disk, &mut random, 100).unwrap_err();
    for fail in 0..8 {
        let (image, mut model) = (disk.crash(8), model.clone());
        image.fail_at(fail, EIO);
        let _ = model.open(&image);
        let image = image.restart();
        model.live(&image, &mut random, 5).unwrap();
        model.open(&image.crash(random.bits())).unwrap();
    }
}

#[test]
fn corruption_is_named_by_file_position_and_commit() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    for byte in 1..=3 {
        wal.commit(&[entry(vec![byte; 700])]).unwrap();
    }
    let path = Path::new(DIR).join("00000000000000000001.log");
    disk.flip(&path, 512 + 1024 + 60, 1);
    let error = open(&disk).unwrap_err();
    let Error::Corrupt { path: named, position, commit, .. } = &error else { panic!("{error}") };
    assert_eq!((named, *position, *commit), (&path, 1536, 2));
    assert!(error.to_string().contains("put a good copy of the file in its place"), "{error}");
    assert_eq!(length(&disk, &path), 512 + 3 * 1024);
}

#[test]
fn a_read_that_fails_is_no_torn_end_and_nothing_that_was_never_there() {
    for is_damaged in [false, true] {
        let (whole, commits) = ten_commits();
        if is_damaged {
            // The last but one: only the one behind it, in the same file, proves that it was there.
            whole.flip(paths(&whole).last().unwrap(), 512 + 60, 1);
        }
        for fail in 0.. {
            let disk = whole.restart();
            disk.fail_read_at(Some((fail, EIO)));
            let opened = open(&disk).map(|(_, found)| found);
            let reached = disk.reads().len() > fail;
            disk.fail_read_at(None);
            let context = format!("read {fail}: {:?}", disk.reads().get(fail));
            match opened {
                Ok(found) => assert!(!is_damaged && found == commits, "{context}"),
                Err(Error::Io { .. }) => assert!(reached, "{context}"),
                Err(error) => assert!(is_damaged, "{context}: {error}"),
            }
            match open(&disk) {
                Ok((_, found)) => assert!(!is_damaged && found == commits, "{context}, later"),
                Err(error) => assert!(is_damaged, "{context}, later: {error}"),
            }
            if !reached {
                break;
            }
        }
    }
}

#[test]
fn a_bad_commit_below_the_checkpoint_is_corruption_even_without_a_successor() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    wal.commit(&[entry("one")]).unwrap();
    disk.flip(&paths(&disk)[0], 520, 1);
    assert!(matches!(open_after(&disk, 1), Err(Error::Corrupt { commit: 1, .. })));
    assert!(open_after(&disk, 0).unwrap().1.is_empty());
}

#[test]
fn files_of_another_data_directory_are_refused() {
    let (disk, _) = ten_commits();
    let other = DataDirId([8; 16]);
    let disk = Arc::new(disk);
    let error = Wal::open(disk, Path::new(DIR), other, 0, SMALL, &mut |_, _| Ok(())).unwrap_err();
    assert!(matches!(error, Error::Foreign { found: ID, expected, .. } if expected == other));
    assert!(error.to_string().contains("move the file back"), "{error}");
}

/// Changes the format of the frame at `position` and makes its CRC right again.
fn raise_format(disk: &SimDisk, path: &Path, position: u64, kind: Kind) {
    let reader = FileReader::open(disk, path.to_owned()).unwrap();
    let frame = reader.frame(position, kind, ID).unwrap().unwrap();
    let mut bytes = frame.bytes.to_vec();
    bytes[8] = 2;
    let crc = crc32c::crc32c_append(Head::crc_of(&bytes), &bytes[HEAD_BYTES..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    overwrite(disk, path, position, &bytes);
}

#[test]
fn a_newer_format_is_refused_with_the_words_to_do() {
    let (disk, _) = ten_commits();
    let path = paths(&disk).remove(0);
    for (position, kind) in [(0, Kind::File), (512, Kind::Commit)] {
        let image = disk.restart();
        raise_format(&image, &path, position, kind);
        let error = open(&image).unwrap_err();
        assert!(matches!(error, Error::NewerFormat { format: 2, known: FORMAT, .. }), "{error}");
        assert!(error.to_string().contains("start the release that wrote it"), "{error}");
    }
}

#[test]
fn a_log_that_begins_or_ends_before_the_checkpoint_is_refused() {
    let disk = SimDisk::new();
    assert!(matches!(open_after(&disk, 4), Err(Error::Missing { commit: 5, .. })));
    let (disk, _) = ten_commits();
    disk.remove_file(&paths(&disk)[0]).unwrap();
    assert!(matches!(open_after(&disk, 0), Err(Error::Missing { commit: 1, .. })));
    assert!(matches!(open_after(&disk, 20), Err(Error::Corrupt { commit: 12, .. })));
}

#[test]
fn a_missing_file_in_the_middle_is_corruption() {
    let (disk, _) = ten_commits();
    let paths = paths(&disk);
    assert!(paths.len() > 2);
    disk.remove_file(&paths[1]).unwrap();
    assert!(matches!(open(&disk), Err(Error::Corrupt { path, .. }) if path == paths[0]));
}

#[test]
fn freed_files_go_and_the_written_one_stays() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    for _ in 0..10 {
        wal.commit(&[entry(vec![1; 900])]).unwrap();
    }
    // A commit takes 1 KiB, so 4 KiB hold 3 of them behind the header.
    let firsts = [1, 4, 7, 10].map(file_name_of);
    assert_eq!(paths(&disk), firsts);
    assert_eq!(wal.free_upto(2).unwrap(), 0);
    assert_eq!(wal.free_upto(6).unwrap(), 2 * (512 + 3 * 1024));
    assert_eq!(paths(&disk), firsts[2..]);
    assert!((0..20).all(|seed| paths(&disk.crash(seed)) == firsts[2..]));
    // There are two spares now, which is enough.
    let spares = ["spare-5", "spare-6"].map(|name| Path::new(DIR).join(name));
    wal.free_upto(10).unwrap();
    assert_eq!(all_paths(&disk), [&firsts[3..], &spares].concat());
    assert_eq!((wal.bytes(), wal.disk_bytes()), (512 + 1024, bytes_on(&disk)));
    assert_eq!(bytes_on(&disk), 3 * 512 + (1 + 3 + 3) * 1024);
    let (mut wal, commits) = open_after(&disk, 10).unwrap();
    assert!(commits.is_empty());
    assert_eq!(wal.commit(&[]).unwrap(), 11);
}

pub fn file_name_of(first: CommitNumber) -> PathBuf {
    Path::new(DIR).join(file_name(first))
}

#[test]
fn files_left_by_an_interrupted_freeing_do_no_harm() {
    let (disk, commits) = ten_commits();
    let paths = paths(&disk);
    assert_eq!(paths, [1, 4, 7, 10].map(file_name_of));
    let after = 9;
    disk.remove_file(&paths[1]).unwrap();
    disk.flip(&paths[0], 600, 1);
    let (mut wal, read) = open_after(&disk, after).unwrap();
    assert_eq!(read, commits[after as usize..]);
    wal.free_upto(after).unwrap();
    assert_eq!(super::tests::paths(&disk), paths[paths.len() - 1..]);
}

/// The bytes of format 1, for ever: a log written by any release with this format must open.
#[test]
fn the_bytes_of_format_1_are_these() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    wal.commit(&[entry("block")]).unwrap();
    let bytes = disk.read_all(&file_name_of(1), 1024).unwrap();
    let hex = |range: std::ops::Range<usize>| -> String {
        bytes[range].iter().map(|byte| format!("{byte:02x}")).collect()
    };
    assert_eq!(
        hex(0..52),
        concat!(
            "544c434673c74a6c010000003400000001000000000000000000000000000000",
            "0000000007070707070707070707070707070707",
        )
    );
    assert_eq!(
        hex(512..594),
        concat!(
            "544c4343a3327bc4010000005200000001000000000000000000000000000000",
            "0000000007070707070707070707070707070707010909090909090909090909",
            "09090909090300000005000000626c6f636b",
        )
    );
    assert!(bytes[52..512].iter().chain(&bytes[594..]).all(|byte| *byte == 0));
    assert_eq!(bytes.len(), 1024);
}

#[test]
fn a_commit_is_one_synced_write() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let before = disk.operations().len();
    wal.commit(&[entry("a"), entry("b"), entry(vec![0; 1000])]).unwrap();
    // By the name that the file had when it was made.
    let path = Path::new(DIR).join("spare-1");
    let (room, write) = (
        Operation::Allocate(path.clone(), 512, 1536 + (1 << 20)),
        Operation::WriteSynced(path.clone(), 512, 1536),
    );
    // The file grows: room for some more is taken once.
    assert_eq!(disk.operations()[before..], [room, write]);
    wal.commit(&[entry("c")]).unwrap();
    assert_eq!(disk.operations()[before + 2..], [Operation::WriteSynced(path, 2048, 512)]);
}

#[test]
fn a_commit_longer_than_a_file_gets_its_own() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let long = vec![entry(vec![1; 20_000])];
    wal.commit(&long).unwrap();
    wal.commit(&[]).unwrap();
    wal.commit(&long).unwrap();
    assert_eq!(paths(&disk), [1, 2, 3].map(file_name_of));
    let expected = vec![(1, long.clone()), (2, vec![]), (3, long)];
    assert_eq!(open(&disk).unwrap().1, expected);
}

#[test]
fn a_commit_above_the_limit_is_refused_and_the_log_goes_on() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let half = Bytes::from(vec![0; COMMIT_BYTES / 2]);
    let fits = entry(half.slice(25..));
    assert_eq!(fits.stored_bytes(), COMMIT_BYTES / 2);
    assert!(Encoded::commit(Link::NONE, ID, &[fits.clone(), fits.clone()]).is_ok());
    let error = wal.commit(&[fits, entry(half.slice(24..))]).unwrap_err();
    assert!(matches!(error, Error::TooLarge { bytes, .. } if bytes == COMMIT_BYTES as u64 + 1));
    assert_eq!(wal.commit(&[]).unwrap(), 1);
}

#[test]
fn a_torn_commit_that_carries_a_copy_of_the_log_is_still_torn() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    for _ in 0..2 {
        wal.commit(&[entry(vec![1; 100])]).unwrap();
    }
    let copy = disk.read_all(&file_name_of(1), 1 << 20).unwrap();
    // The copied frames must come to stand at multiples of 512.
    let payload = [vec![0; ALIGN_BYTES - HEAD_BYTES - 25], copy].concat();
    wal.commit(&[entry(payload)]).unwrap();
    disk.flip(&file_name_of(1), 512 + 2 * 512 + 100, 1);
    let (wal, commits) = open(&disk).unwrap();
    assert_eq!((wal.last_commit(), commits.len()), (2, 2));
}

#[test]
fn frames_of_a_former_life_behind_the_end_are_not_read() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    for byte in 1..=3 {
        wal.commit(&[entry(vec![byte; 100])]).unwrap();
    }
    let path = file_name_of(1);
    let old = disk.read_all(&path, 1 << 20).unwrap();
    overwrite(&disk, &path, old.len() as u64, &old[512..1536]);
    let (mut wal, commits) = open(&disk).unwrap();
    assert_eq!((wal.last_commit(), commits.len()), (3, 3));
    assert_eq!(wal.commit(&[]).unwrap(), 4);
    assert_eq!(open(&disk).unwrap().1.len(), 4);
}

fn frame_bytes(frame: &Encoded) -> Vec<u8> {
    frame.parts(&[]).iter().flat_map(|part| part.to_vec()).collect()
}

#[test]
fn a_whole_frame_with_the_right_number_and_another_link_is_not_taken() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    wal.commit(&[entry("one")]).unwrap();
    wal.commit(&[entry("two")]).unwrap();
    let other = Encoded::commit(Link { number: 1, crc: 99 }, ID, &[]).unwrap();
    overwrite(&disk, &file_name_of(1), 1024, &frame_bytes(&other));
    assert!(matches!(open(&disk), Err(Error::Corrupt { commit: 2, position: 1024, .. })));
}

#[test]
fn a_file_that_does_not_follow_the_one_before_is_not_taken() {
    let (disk, _) = ten_commits();
    let other = Encoded::file(Link { number: 3, crc: 99 }, ID);
    overwrite(&disk, &file_name_of(4), 0, &frame_bytes(&other));
    let Err(Error::Corrupt { path, position: 0, .. }) = open(&disk) else { panic!("taken") };
    assert_eq!(path, file_name_of(4));
}

#[test]
fn commits_of_another_data_directory_are_neither_the_next_nor_a_successor() {
    let (disk, commits) = ten_commits();
    let (path, other) = (paths(&disk).pop().unwrap(), DataDirId([8; 16]));
    let end = length(&disk, &path);
    for (at, number) in [(end, 11), (end + 512, 17)] {
        let frame = Encoded::commit(Link { number, crc: 1 }, other, &[]).unwrap();
        overwrite(&disk, &path, at, &frame_bytes(&frame));
    }
    assert_eq!(open(&disk).unwrap().1, commits);
}

#[test]
fn a_refusal_of_the_caller_ends_the_opening() {
    let (disk, _) = ten_commits();
    let disk = Arc::new(disk);
    let mut replay = |number, _| if number == 4 { Err("no".into()) } else { Ok(()) };
    let error = Wal::open(disk, Path::new(DIR), ID, 0, SMALL, &mut replay).unwrap_err();
    assert!(matches!(error, Error::Replay { commit: 4, .. }));
}

#[test]
fn files_that_are_none_of_ours_are_left_alone() {
    let (disk, commits) = ten_commits();
    for name in ["notes.txt", "1.log", "00000000000000000000.log", "99999999999999999999.log"] {
        disk.open(&Path::new(DIR).join(name), OpenMode::CreateNew).unwrap();
    }
    let before = paths(&disk);
    assert_eq!(open(&disk).unwrap().1, commits);
    assert_eq!(paths(&disk), before);
}

#[test]
fn the_same_holds_on_real_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("commitlog");
    let disk: Arc<dyn Disk> = Arc::new(FileDisk);
    let reopen = || {
        let mut commits = Commits::new();
        let wal = Wal::open(Arc::clone(&disk), &dir, ID, 0, SMALL, &mut |number, entries| {
            commits.push((number, entries));
            Ok(())
        });
        (wal.unwrap(), commits)
    };
    let (mut wal, _) = reopen();
    let mut expected = Commits::new();
    for size in [0, 10, 3000, 9000, 100] {
        let entries = vec![entry(vec![5; size]), entry("x")];
        expected.push((wal.commit(&entries).unwrap(), entries));
    }
    drop(wal);
    let names = disk.list(&dir).unwrap();
    let last = disk.open(&dir.join(names.last().unwrap()), OpenMode::Write).unwrap();
    // The last commit has 203 bytes, the rest of its sector is padding.
    let cut = last.len().unwrap() - 300;
    last.set_len(cut).unwrap();
    assert!(reopen().1 == expected);
    last.set_len(cut - 310).unwrap();
    let (mut wal, commits) = reopen();
    expected.truncate(4);
    assert!(commits == expected);
    expected.push((wal.commit(&[]).unwrap(), vec![]));
    assert!(reopen().1 == expected);
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), magic: bool) {
        if magic {
            for (place, byte) in bytes.iter_mut().zip(*b"TLCC") {
                *place = byte;
            }
        }
        let head = Head::parse(&bytes);
        if let Some(head) = head {
            let _ = Frame { head, bytes: Bytes::from(bytes.clone()) }.entries();
        }
        let head = Encoded::commit(Link::NONE, ID, &[]).unwrap().head;
        let _ = Frame { head, bytes: Bytes::from(bytes) }.entries();
    }
}

#[test]
fn a_new_log_begins_above_the_number_given_and_never_where_there_is_one() {
    let disk = SimDisk::new();
    let create = |after| Wal::create(Arc::new(disk.clone()), Path::new(DIR), ID, after, SMALL);
    create(41).unwrap();
    // Nothing was committed, so another attempt may begin elsewhere.
    let mut wal = create(99).unwrap();
    assert_eq!(wal.commit(&[entry("first")]).unwrap(), 100);
    drop(wal);
    assert!(matches!(create(0), Err(Error::InUse { commit: 100, .. })));
    let (wal, commits) = open_after(&disk.crash(1), 99).unwrap();
    assert_eq!(wal.last_commit(), 100);
    assert_eq!(commits, [(100, vec![entry("first")])]);
}

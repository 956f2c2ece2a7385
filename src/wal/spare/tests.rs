use bytes::Bytes;

use super::super::wal::tests::{
    DIR, EIO, ENOSPC, ID, SMALL, all_paths, bytes_on, entry, file_name_of, length, open,
    open_after, overwrite, paths,
};
use super::super::{Entry, Wal};
use super::*;
use crate::disk::FileDisk;
use crate::disk::sim::{Operation, SimDisk};

fn spare_path(number: u64) -> PathBuf {
    Path::new(DIR).join(format!("spare-{number}"))
}

/// Of 1 KiB with the heads, so that a file of `SMALL` takes three.
fn kib(byte: u8) -> Vec<Entry> {
    vec![entry(vec![byte; 900])]
}

fn commit_kibs(wal: &mut Wal, count: u8) {
    for byte in 0..count {
        wal.commit(&kib(byte)).unwrap();
    }
}

#[test]
fn a_roll_takes_a_spare_and_names_it_before_the_first_commit() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    commit_kibs(&mut wal, 6);
    wal.free_upto(3).unwrap();
    let before = disk.operations().len();
    wal.commit(&kib(7)).unwrap();
    let spare = spare_path(3);
    let expected = [
        Operation::WriteSynced(spare.clone(), 0, 512),
        Operation::Rename(spare.clone(), file_name_of(7)),
        Operation::SyncDir(DIR.into()),
        Operation::WriteSynced(spare, 512, 1024),
    ];
    assert_eq!(disk.operations()[before..], expected);
    // The first commit stands before two of the file's former life.
    assert_eq!(length(&disk, &file_name_of(7)), 512 + 3 * 1024);
    assert_eq!((wal.bytes(), wal.disk_bytes()), (512 + 3072 + 512 + 1024, bytes_on(&disk)));
    let (wal, commits) = open_after(&disk, 3).unwrap();
    assert_eq!(commits.len(), 4);
    assert_eq!((wal.bytes(), wal.disk_bytes()), (512 + 3072 + 512 + 1024, bytes_on(&disk)));
}

#[test]
fn a_spare_is_asked_for_once_per_file_and_not_before_half_of_the_first() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    wal.commit(&kib(0)).unwrap();
    assert!(wal.wanted_spare().is_none());
    wal.commit(&kib(1)).unwrap();
    let job = wal.wanted_spare().unwrap();
    assert_eq!(job.bytes(), SMALL.file_bytes);
    assert!(wal.wanted_spare().is_none());
    wal.add_spare(job.run().unwrap());
    assert_eq!(wal.disk_bytes(), bytes_on(&disk));
    commit_kibs(&mut wal, 2);
    assert_eq!(paths(&disk), [1, 4].map(file_name_of));
    // The second file was the spare, all of it there from the start.
    assert_eq!(length(&disk, &file_name_of(4)), SMALL.file_bytes);
    assert!(wal.wanted_spare().is_some());
    wal.commit(&kib(2)).unwrap();
    assert!(wal.wanted_spare().is_none());
    let none = Config { spare_files: 0, ..SMALL };
    let disk = Arc::new(SimDisk::new());
    let mut wal = Wal::open(disk, Path::new(DIR), ID, 0, none, &mut |_, _| Ok(())).unwrap();
    commit_kibs(&mut wal, 5);
    assert!(wal.wanted_spare().is_none());
}

#[test]
fn a_spare_that_fails_leaves_nothing_and_is_not_asked_for_again_at_once() {
    for errno in [EIO, ENOSPC] {
        for call in 0..2 {
            let disk = SimDisk::new();
            let (mut wal, _) = open(&disk).unwrap();
            commit_kibs(&mut wal, 2);
            let before = all_paths(&disk);
            disk.fail_at(disk.operations().len() + call, errno);
            let error = wal.wanted_spare().unwrap().run().unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error}");
            assert_eq!(all_paths(&disk), before);
            assert!(wal.wanted_spare().is_none());
            commit_kibs(&mut wal, 2);
            assert!(wal.wanted_spare().is_some());
        }
    }
}

#[test]
fn a_spare_that_comes_too_late_goes() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    commit_kibs(&mut wal, 2);
    let job = wal.wanted_spare().unwrap();
    commit_kibs(&mut wal, 8);
    wal.free_upto(9).unwrap();
    let before = all_paths(&disk);
    assert_eq!(before.len(), 1 + SMALL.spare_files);
    wal.add_spare(job.run().unwrap());
    assert_eq!(all_paths(&disk), before);
    wal.drop_spares();
    assert_eq!(all_paths(&disk), paths(&disk));
    assert_eq!(wal.disk_bytes(), bytes_on(&disk));
}

#[test]
fn without_room_for_another_file_the_written_one_grows() {
    for with_spare in [false, true] {
        // The calls of a roll up to the renaming.
        for call in 0..if with_spare { 1 } else { 2 } {
            let disk = SimDisk::new();
            let (mut wal, _) = open(&disk).unwrap();
            commit_kibs(&mut wal, 3);
            let spare = with_spare.then(|| wal.wanted_spare().unwrap().run().unwrap());
            spare.into_iter().for_each(|spare| wal.add_spare(spare));
            disk.fail_at(disk.operations().len() + call, ENOSPC);
            commit_kibs(&mut wal, 1);
            assert_eq!(all_paths(&disk), [file_name_of(1)], "{with_spare} {call}");
            for seed in 0..10 {
                assert_eq!(open(&disk.crash(seed)).unwrap().1.len(), 4);
            }
            commit_kibs(&mut wal, 1);
            assert_eq!(paths(&disk), [1, 5].map(file_name_of));
            assert_eq!(open(&disk).unwrap().1.len(), 5);
        }
    }
}

#[test]
fn spares_of_an_earlier_process_are_used_and_useless_ones_removed() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    commit_kibs(&mut wal, 1);
    let file_bytes = SMALL.file_bytes as usize;
    let lengths = [0, file_bytes / 2 - 1, file_bytes / 2, file_bytes + 1, file_bytes, file_bytes];
    for (number, length) in (4..).zip(lengths) {
        disk.open(&spare_path(number), OpenMode::CreateNew).unwrap();
        overwrite(&disk, &spare_path(number), 0, &vec![0; length]);
    }
    let (mut wal, _) = open(&disk).unwrap();
    let kept = [spare_path(6), spare_path(8)];
    assert_eq!(all_paths(&disk), [&[file_name_of(1)], &kept[..]].concat());
    assert_eq!(wal.disk_bytes(), bytes_on(&disk));
    commit_kibs(&mut wal, 3);
    assert_eq!(all_paths(&disk), [file_name_of(1), file_name_of(4), spare_path(6)]);
    // A new name is none that was seen, for its removal may come undone.
    wal.free_upto(3).unwrap();
    assert_eq!(all_paths(&disk), [file_name_of(4), spare_path(10), spare_path(6)]);
}

#[test]
fn a_new_log_does_not_take_over_spares_whose_commits_have_higher_numbers() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    commit_kibs(&mut wal, 7);
    wal.free_upto(6).unwrap();
    assert_eq!(all_paths(&disk).len(), 3);
    drop(wal);
    disk.remove_file(&file_name_of(7)).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    for create in [false, true] {
        let disk = disk.restart();
        let mut wal = if create {
            Wal::create(Arc::new(disk.clone()), Path::new(DIR), ID, 0, SMALL).unwrap()
        } else {
            open(&disk).unwrap().0
        };
        assert_eq!(all_paths(&disk), [file_name_of(1)]);
        assert!((0..20).all(|seed| all_paths(&disk.crash(seed)) == [file_name_of(1)]));
        commit_kibs(&mut wal, 4);
        assert_eq!(open(&disk).unwrap().1.len(), 4);
    }
}

#[test]
fn what_a_torn_commit_leaves_behind_a_shorter_one_is_never_taken() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    wal.commit(&kib(1)).unwrap();
    wal.commit(&kib(2)).unwrap();
    // The torn commit holds a copy of the log where frames may stand, as a disk with this log on it would.
    let copy = disk.read_all(&file_name_of(1), 1 << 20).unwrap();
    let payload = Bytes::from([vec![0; 512 - 52 - 25], copy[512..].to_vec()].concat());
    for stop in [0, 1] {
        let disk = disk.restart();
        let (mut wal, _) = open(&disk).unwrap();
        disk.stop_at(disk.operations().len());
        wal.commit(&[entry(payload.clone())]).unwrap_err();
        let disk = if stop == 0 { disk.restart() } else { disk.crash(5) };
        // Its head is lost, or a byte of its body: torn in both cases.
        if disk.read_all(&file_name_of(1), 1 << 20).unwrap().len() > 512 + 2048 {
            disk.flip(&file_name_of(1), 512 + 2048 + 100, 1);
        }
        let (mut wal, commits) = open(&disk).unwrap();
        assert_eq!(commits.len(), 2);
        for number in 3..=4 {
            assert_eq!(wal.commit(&[entry("short")]).unwrap(), number);
            let (_, commits) = open(&disk.restart()).unwrap();
            assert_eq!(commits.len() as u64, number);
            assert_eq!(commits[2], (3, vec![entry("short")]));
        }
    }
}

/// Byte for byte what a release wrote that had growing files only: the header of file 1, and commit 1.
const HEADER: &str = concat!(
    "544c434673c74a6c010000003400000001000000000000000000000000000000",
    "0000000007070707070707070707070707070707",
);
const COMMIT: &str = concat!(
    "544c4343a3327bc4010000005200000001000000000000000000000000000000",
    "0000000007070707070707070707070707070707010909090909090909090909",
    "09090909090300000005000000626c6f636b",
);

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

#[test]
fn a_log_of_growing_files_still_opens_and_goes_on() {
    for torn in [&b""[..], b"TLCC torn"] {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new(DIR)).unwrap();
        disk.open(&file_name_of(1), OpenMode::CreateNew).unwrap();
        overwrite(&disk, &file_name_of(1), 0, &bytes(HEADER));
        overwrite(&disk, &file_name_of(1), 512, &[&bytes(COMMIT), &[0; 430][..], torn].concat());
        let (mut wal, commits) = open(&disk).unwrap();
        assert_eq!(commits, [(1, vec![entry("block")])]);
        commit_kibs(&mut wal, 5);
        assert_eq!(paths(&disk), [1, 5].map(file_name_of));
        assert_eq!(open(&disk.crash(3)).unwrap().1.len(), 6);
    }
}

/// That release named a file before it wrote its header.
#[test]
fn a_header_whose_sync_failed_is_on_the_disk_before_a_commit_relies_on_it() {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let file = disk.open(&file_name_of(1), OpenMode::CreateNew).unwrap();
    file.write_all_at(&[bytes(HEADER), vec![0; 460]].concat(), 0).unwrap();
    disk.fail_at(disk.operations().len(), EIO);
    file.sync().unwrap_err();
    let disk = disk.restart();
    let (mut wal, _) = open(&disk).unwrap();
    commit_kibs(&mut wal, 1);
    for seed in 0..10 {
        assert_eq!(open(&disk.crash(seed)).unwrap().1.len(), 1);
    }
}

#[test]
fn real_files_are_recycled() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("commitlog");
    let disk: Arc<dyn Disk> = Arc::new(FileDisk);
    let reopen = |after| {
        let mut count = 0;
        let wal = Wal::open(Arc::clone(&disk), &dir, ID, after, SMALL, &mut |_, entries| {
            assert_eq!(entries[0].payload.len(), 900);
            count += 1;
            Ok(())
        });
        (wal.unwrap(), count)
    };
    let (mut wal, _) = reopen(0);
    commit_kibs(&mut wal, 2);
    let spare = wal.wanted_spare().unwrap().run().unwrap();
    wal.add_spare(spare);
    commit_kibs(&mut wal, 5);
    wal.free_upto(6).unwrap();
    commit_kibs(&mut wal, 3);
    assert_eq!(disk.list(&dir).unwrap().len(), 3);
    drop(wal);
    let (mut wal, count) = reopen(6);
    assert_eq!((wal.last_commit(), count), (10, 4));
    commit_kibs(&mut wal, 7);
    drop(wal);
    assert_eq!(reopen(6).1, 11);
}

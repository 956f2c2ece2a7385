use super::*;

const EIO: i32 = 5;

fn file(disk: &SimDisk) -> Arc<dyn DiskFile> {
    disk.open(Path::new("/f"), OpenMode::CreateNew).unwrap()
}

#[test]
fn what_is_synced_survives_every_crash() {
    let disk = SimDisk::new();
    let written = file(&disk);
    written.write_all_at(&[7; 2000], 0).unwrap();
    written.sync().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    for seed in 0..20 {
        let image = disk.crash(seed);
        assert_eq!(image.read_all(Path::new("/f"), 2000).unwrap(), [7; 2000]);
    }
}

#[test]
fn unsynced_writes_arrive_whole_torn_at_sectors_or_not_at_all() {
    let disk = SimDisk::new();
    let written = file(&disk);
    disk.sync_dir(Path::new("/")).unwrap();
    written.write_all_at(&[1; 2048], 0).unwrap();
    written.sync().unwrap();
    written.write_all_at(&[2; 2048], 0).unwrap();
    let (mut old, mut torn, mut new) = (0, 0, 0);
    for seed in 0..200 {
        let bytes = disk.crash(seed).read_all(Path::new("/f"), 4096).unwrap();
        assert!(bytes.chunks(512).all(|s| s == [1; 512] || s == [2; 512]));
        match bytes.iter().map(|b| usize::from(*b)).sum() {
            2048 => old += 1,
            4096 => new += 1,
            _ => torn += 1,
        }
    }
    assert!(old > 10 && torn > 10 && new > 10, "{old} {torn} {new}");
}

#[test]
fn an_entry_needs_the_sync_of_its_directory() {
    let disk = SimDisk::new();
    file(&disk).sync().unwrap();
    let kept = (0..40).filter(|s| disk.crash(*s).exists(Path::new("/f")).unwrap()).count();
    assert!(kept > 5 && kept < 35, "{kept}");
    disk.sync_dir(Path::new("/")).unwrap();
    disk.rename(Path::new("/f"), Path::new("/g")).unwrap();
    for seed in 0..40 {
        let image = disk.crash(seed);
        assert!(image.exists(Path::new("/f")).unwrap() != image.exists(Path::new("/g")).unwrap());
    }
    disk.remove_file(Path::new("/g")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    assert!((0..40).all(|s| disk.crash(s).list(Path::new("/")).unwrap().is_empty()));
}

#[test]
fn replace_leaves_old_or_new_content_wherever_it_stops() {
    let path = Path::new("/d/state");
    for stop in 0..6 {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/d")).unwrap();
        disk.replace(path, &[1; 1000]).unwrap();
        disk.stop_at(disk.operations().len() + stop);
        let done = disk.replace(path, &[2; 1000]).is_ok();
        assert_eq!(done, stop == 5);
        for seed in 0..20 {
            let bytes = disk.crash(seed).read_all(path, 1000).unwrap();
            assert!(bytes == [2; 1000] || (!done && bytes == [1; 1000]), "{stop} {seed}");
        }
    }
}

#[test]
fn a_failed_sync_shows_what_the_disk_does_not_have() {
    let disk = SimDisk::new();
    let written = file(&disk);
    disk.sync_dir(Path::new("/")).unwrap();
    written.write_all_at(b"gone", 0).unwrap();
    disk.fail_at(disk.operations().len(), EIO);
    assert_eq!(written.sync().unwrap_err().raw_os_error(), Some(EIO));
    written.sync().unwrap();
    assert_eq!(disk.restart().read_all(Path::new("/f"), 10).unwrap(), b"gone");
    assert_eq!(disk.crash(1).read_all(Path::new("/f"), 10).unwrap(), b"");
}

#[test]
fn a_synced_write_makes_its_own_bytes_durable_and_nothing_else() {
    let disk = SimDisk::new();
    let written = file(&disk);
    disk.sync_dir(Path::new("/")).unwrap();
    let write =
        |byte, position| written.write_all_synced(&[io::IoSlice::new(&[byte; 512])], position);
    written.write_all_at(&[1; 1024], 0).unwrap();
    write(2, 1024).unwrap();
    let mut first = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let bytes = disk.crash(seed).read_all(Path::new("/f"), 4096).unwrap();
        assert_eq!(bytes[1024..], [2; 512]);
        first.insert(bytes[0]);
    }
    assert_eq!(first, [0, 1].into());
    // What waited for the same place goes ahead of it.
    written.write_all_at(&[3; 512], 1024).unwrap();
    write(4, 1024).unwrap();
    disk.fail_at(disk.operations().len(), EIO);
    write(5, 1024).unwrap_err();
    assert_eq!(disk.restart().read_all(Path::new("/f"), 4096).unwrap()[1024..], [5; 512]);
    for seed in 0..40 {
        let bytes = disk.crash(seed).read_all(Path::new("/f"), 4096).unwrap();
        assert_eq!(bytes[1024..], [4; 512]);
    }
}

#[test]
fn after_the_stop_every_call_fails() {
    let disk = SimDisk::new();
    disk.stop_at(1);
    let written = file(&disk);
    assert!(written.write_all_at(b"x", 0).is_err());
    assert!(written.sync().is_err() && written.len().is_err());
    assert!(disk.open(Path::new("/f"), OpenMode::Read).is_err());
    assert_eq!(disk.operations().len(), 2);
}

#[test]
fn a_picture_is_the_disk_within_a_call_and_nothing_of_later_ones() {
    let (disk, hour) = (SimDisk::new(), Arc::new(Mutex::new(0)));
    let clock = Arc::clone(&hour);
    disk.take_pictures(move || *clock.lock().unwrap());
    let written = file(&disk);
    disk.sync_dir(Path::new("/")).unwrap();
    written.write_all_at(&[1; 512], 0).unwrap();
    *hour.lock().unwrap() = 7;
    written.sync().unwrap();
    written.write_all_synced(&[io::IoSlice::new(&[2; 512])], 512).unwrap();
    let pictures = disk.pictures();
    assert!(pictures.iter().map(|picture| picture.operation).eq(0..5));
    assert_eq!((pictures[2].most, pictures[3].least, pictures[4].most), (0, 7, 7));
    let images = |operation: usize| -> std::collections::BTreeSet<Vec<u8>> {
        let image = |seed| pictures[operation].disk.crash(seed);
        (0..60).map(|seed| image(seed).read_all(Path::new("/f"), 4096).unwrap()).collect()
    };
    // The write is under way within the call that syncs it, and done behind it.
    assert!(images(3).contains(&vec![]) && images(3).contains(&vec![1; 512]));
    assert!(images(4).iter().all(|image| image[..512] == [1; 512]));
    assert!(
        images(4).contains(&vec![1; 512]) && images(4).contains(&[[1; 512], [2; 512]].concat())
    );
    // The disk went on meanwhile.
    assert_eq!(disk.crash(0).read_all(Path::new("/f"), 4096).unwrap()[512..], [2; 512]);
}

#[test]
fn an_ended_disk_leaves_what_a_restart_finds() {
    let disk = SimDisk::new();
    let written = file(&disk);
    written.write_all_at(b"seen", 0).unwrap();
    let left = disk.end();
    written.write_all_at(b"late", 0).unwrap_err();
    assert_eq!(left.read_all(Path::new("/f"), 10).unwrap(), b"seen");
    assert!((0..20).any(|seed| !left.crash(seed).exists(Path::new("/f")).unwrap()));
}

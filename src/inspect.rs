//! Offline checks of a data directory: everything is read, nothing is written, every damaged place is named.
//!
//! The readers here are not those of the server: they go by the drawings of the formats (`wal/mod.rs`, `log/mod.rs`,
//! `record/mod.rs`), so that a fault in the server's own readers does not hide what it made.
//!
//! What counts as damage, and what does not: segments below the checkpoint's ends and every commit with a valid one
//! behind it were acknowledged, and must be there. What follows may be cut off in the middle by a crash; the next start
//! cuts it away or writes it again, so it is told apart as a *torn end*.

use std::io;
use std::path::Path;

use crate::broker::{Checkpoint, CheckpointError, TopicState};
use crate::disk::{Disk, DiskFile, Lock, OpenMode};
use crate::record::{BatchHeader, HEADER_BYTES, check_records, crc_matches};
use crate::types::limits::COMMIT_BYTES;
use crate::types::{CommitNumber, Offset};

/// Where frames of the commit log may begin.
const ALIGN_BYTES: usize = 512;
/// Fixed part of a frame of the commit log.
const FRAME_HEAD_BYTES: usize = 52;
const LARGEST_FRAME_BYTES: usize = FRAME_HEAD_BYTES + COMMIT_BYTES;
const FORMAT_FILE_BYTES: u64 = 64 * 1024;

/// Why a directory cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It is none of ours.
    #[error("{path} is no data directory: it has no format.json")]
    NotADataDir {
        /// As given.
        path: String,
    },
    /// A server runs on it.
    #[error("{path} is in use by a running server; stop it first")]
    Locked {
        /// As given.
        path: String,
    },
    /// The file system failed.
    #[error("cannot read {path}")]
    Io {
        /// Which file or directory.
        path: String,
        /// As the system gives it.
        source: io::Error,
    },
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Commits in the commit log.
    pub commits: u64,
    /// Partition directories.
    pub partitions: u64,
    /// Sound batches in segments.
    pub batches: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Each damaged range or file, in words.
    pub damage: Vec<String>,
    /// Ends that a crash tore, which the next start mends.
    pub torn: Vec<String>,
}

/// Checks the data directory `dir`. `progress` is told the bytes of each file read.
///
/// # Errors
/// [`InspectError`]; damage is no error but in the report.
pub fn check_data_dir(
    disk: &dyn Disk,
    dir: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, InspectError> {
    let path = || dir.display().to_string();
    let format = dir.join("format.json");
    if !disk.exists(&format) {
        return Err(InspectError::NotADataDir { path: path() });
    }
    let _lock = lock(disk, dir)?;
    let mut report = Report::default();
    check_format(disk, &format, &mut report)?;
    let checkpoint = check_checkpoint(disk, dir, &mut report)?;
    let covered = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.commit);
    check_commit_log(disk, &dir.join("commitlog"), covered, &mut report, progress)?;
    let names = disk.list(dir).map_err(|source| InspectError::Io { path: path(), source })?;
    for name in names {
        let Some((topic, partition)) = name.rsplit_once('-') else { continue };
        let Ok(partition) = partition.parse::<usize>() else { continue };
        let state = checkpoint.as_ref().and_then(|checkpoint| {
            let mut topics = checkpoint.catalogue.topics.values();
            topics.find(|state: &&TopicState| state.name.as_str() == topic)
        });
        let kept = state.and_then(|state| state.partitions.get(partition));
        // Without one, all of it is in the commit log still.
        let bounds = kept.map_or((0, 0), |kept| (kept.local_start, kept.log_end));
        check_partition(disk, &dir.join(&name), bounds, &mut report, progress)?;
    }
    Ok(report)
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<Option<Lock>, InspectError> {
    let file = dir.join("LOCK");
    // Not made where there is none.
    if !disk.exists(&file) {
        return Ok(None);
    }
    match disk.lock(&file) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(InspectError::Locked { path: dir.display().to_string() })
        }
        Err(source) => Err(InspectError::Io { path: file.display().to_string(), source }),
    }
}

fn check_format(disk: &dyn Disk, path: &Path, report: &mut Report) -> Result<(), InspectError> {
    let bytes = disk.read_all(path, FORMAT_FILE_BYTES).map_err(io_error(path))?;
    let format = serde_json::from_slice::<serde_json::Value>(&bytes)
        .ok()
        .and_then(|value| value.get("format").and_then(serde_json::Value::as_u64));
    match format {
        Some(1) => {}
        Some(newer) => report.damage.push(format!("format.json: format {newer} is not known here")),
        None => report.damage.push("format.json cannot be read".to_owned()),
    }
    Ok(())
}

fn check_checkpoint(
    disk: &dyn Disk,
    dir: &Path,
    report: &mut Report,
) -> Result<Option<Checkpoint>, InspectError> {
    let path = dir.join("meta").join("checkpoint");
    match Checkpoint::read(disk, &path) {
        Ok(checkpoint) => Ok(checkpoint),
        Err(CheckpointError::Io { source, .. }) => {
            Err(InspectError::Io { path: path.display().to_string(), source })
        }
        Err(error) => {
            report.damage.push(error.to_string());
            Ok(None)
        }
    }
}

/// Where the reading of the commit log stands.
#[derive(Debug, Default)]
struct Chain {
    /// Number and CRC of the last sound commit.
    last: Option<(CommitNumber, u32)>,
    /// The first place without the next commit: damage, as soon as a later commit is found.
    broken: Option<String>,
}

fn check_commit_log(
    disk: &dyn Disk,
    dir: &Path,
    covered: CommitNumber,
    report: &mut Report,
    progress: &mut dyn FnMut(u64),
) -> Result<(), InspectError> {
    if !disk.exists(dir) {
        return Ok(());
    }
    let mut chain = Chain::default();
    for name in disk.list(dir).map_err(io_error(dir))? {
        if !name.ends_with(".log") {
            continue;
        }
        let path = dir.join(&name);
        let file = disk.open(&path, OpenMode::Read).map_err(io_error(&path))?;
        check_commit_file(&*file, &path, &mut chain, report).map_err(io_error(&path))?;
        progress(file.len().map_err(io_error(&path))?);
    }
    if let Some(torn) = chain.broken {
        report.torn.push(torn);
    }
    let last = chain.last.map_or(0, |(number, _)| number);
    if last < covered {
        report.damage.push(format!(
            "the commit log ends at commit {last}, but the checkpoint covers commit {covered}"
        ));
    }
    Ok(())
}

fn check_commit_file(
    file: &dyn DiskFile,
    path: &Path,
    chain: &mut Chain,
    report: &mut Report,
) -> io::Result<()> {
    let length = file.len()?;
    let mut at = 0;
    while at + FRAME_HEAD_BYTES as u64 <= length {
        let Some(frame) = read_frame(file, at, length)? else {
            if chain.broken.is_none() {
                chain.broken = Some(format!("{}: no commit at byte {at}", path.display()));
            }
            at += ALIGN_BYTES as u64;
            continue;
        };
        if frame.is_header {
            // The header of a file names the commit before its first one.
            if chain.last.is_some_and(|last| last != frame.previous) {
                let last = chain.last.map_or(0, |(number, _)| number);
                report.damage.push(format!(
                    "{}: begins with commit {}, but the file before it ends with commit {last}",
                    path.display(),
                    frame.number
                ));
            }
            chain.broken = None;
            chain.last = Some(frame.previous);
        } else {
            let follows = chain.last.is_none_or(|(number, crc)| {
                frame.number == number + 1 && frame.previous == (number, crc)
            });
            let older = chain.last.is_some_and(|(number, _)| frame.number <= number);
            // Frames of a file's former life have lower numbers and are no part of the log.
            if !older {
                match chain.broken.take() {
                    Some(broken) if !follows => report
                        .damage
                        .push(format!("{broken}, but commit {} stands behind it", frame.number)),
                    Some(_) | None if !follows => report.damage.push(format!(
                        "{}: commit {} at byte {at} does not follow the one before it",
                        path.display(),
                        frame.number
                    )),
                    _ => {}
                }
                chain.last = Some((frame.number, frame.crc));
                report.commits += 1;
            }
        }
        at += frame.length.next_multiple_of(ALIGN_BYTES) as u64;
    }
    Ok(())
}

struct Frame {
    is_header: bool,
    crc: u32,
    length: usize,
    number: CommitNumber,
    previous: (CommitNumber, u32),
}

/// The frame at this place, if it is one and its checksum is right.
fn read_frame(file: &dyn DiskFile, at: u64, file_length: u64) -> io::Result<Option<Frame>> {
    let mut head = [0; FRAME_HEAD_BYTES];
    file.read_exact_at(&mut head, at)?;
    let rest = &mut &head[..];
    let magic: [u8; 4] = take(rest);
    let crc = u32::from_le_bytes(take(rest));
    let _format: [u8; 4] = take(rest);
    let length = u32::from_le_bytes(take(rest)) as usize;
    let number = u64::from_le_bytes(take(rest));
    let previous = (u64::from_le_bytes(take(rest)), u32::from_le_bytes(take(rest)));
    let fits = (FRAME_HEAD_BYTES..=LARGEST_FRAME_BYTES).contains(&length)
        && length as u64 <= file_length - at;
    if !matches!(&magic, b"TLCF" | b"TLCC") || !fits {
        return Ok(None);
    }
    let mut frame = vec![0; length];
    file.read_exact_at(&mut frame, at)?;
    let found = crc32c::crc32c_append(crc32c::crc32c(&magic), frame.get(8..).unwrap_or_default());
    let is_header = &magic == b"TLCF";
    Ok((found == crc).then_some(Frame { is_header, crc, length, number, previous }))
}

/// The next `N` bytes of a head, zeros where it ends.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let Some((first, rest)) = bytes.split_first_chunk::<N>() else { return [0; N] };
    *bytes = rest;
    *first
}

/// `kept`: first offset that must be there, and the end of what was synced.
fn check_partition(
    disk: &dyn Disk,
    dir: &Path,
    kept: (Offset, Offset),
    report: &mut Report,
    progress: &mut dyn FnMut(u64),
) -> Result<(), InspectError> {
    let mut segments: Vec<(Offset, String)> = disk
        .list(dir)
        .map_err(io_error(dir))?
        .into_iter()
        .filter_map(|name| Some((name.strip_suffix(".log")?.parse().ok()?, name)))
        .collect();
    segments.sort();
    report.partitions += 1;
    let (mut next, synced) = kept;
    let mut first = true;
    for (base, name) in segments {
        let path = dir.join(name);
        // Segments below the local start wait for their removal.
        let gap = if first { base > next && next < synced } else { base != next };
        if gap {
            note(report, synced, dir, next, base - 1, "missing");
        }
        first = false;
        next = base;
        let file = disk.open(&path, OpenMode::Read).map_err(io_error(&path))?;
        next = check_segment(&*file, dir, next, synced, report).map_err(io_error(&path))?;
        progress(file.len().map_err(io_error(&path))?);
    }
    if next < synced {
        note(report, synced, dir, next, synced - 1, "missing");
    }
    Ok(())
}

/// Walks a segment from its first offset; gives the offset after its last sound batch.
fn check_segment(
    file: &dyn DiskFile,
    dir: &Path,
    mut next: Offset,
    synced: Offset,
    report: &mut Report,
) -> io::Result<Offset> {
    let (mut at, length) = (0, file.len()?);
    while at < length {
        let mut head = [0; HEADER_BYTES];
        let whole = length - at >= HEADER_BYTES as u64;
        if whole {
            file.read_exact_at(&mut head, at)?;
        }
        let header = whole.then(|| BatchHeader::parse(&head).ok()).flatten();
        let header = header.filter(|h| {
            h.base_offset == next
                && h.last_offset() >= next
                && h.total_bytes() as u64 <= length - at
        });
        let Some(header) = header else {
            // Where the next batch begins is not known.
            let what = format!("no batch at byte {at}, and {} bytes behind it", length - at);
            note(report, synced, dir, next, Offset::MAX, &what);
            return Ok(next);
        };
        let mut batch = vec![0; header.total_bytes()];
        file.read_exact_at(&mut batch, at)?;
        if crc_matches(&batch) && check_records(&batch, &header).is_ok() {
            report.batches += 1;
            report.bytes += batch.len() as u64;
        } else {
            note(
                report,
                synced,
                dir,
                next,
                header.last_offset(),
                "the batch does not pass its checks",
            );
        }
        next = header.next_offset();
        at += batch.len() as u64;
    }
    Ok(next)
}

/// A bad range; one that begins at or above what was synced is a torn end.
fn note(report: &mut Report, synced: Offset, dir: &Path, first: Offset, last: Offset, what: &str) {
    let range = match last {
        Offset::MAX => format!("offset {first} on"),
        last => format!("offsets {first} to {last}"),
    };
    let line = format!("{}: {range}: {what}", dir.display());
    if first < synced { report.damage.push(line) } else { report.torn.push(line) }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> InspectError {
    let path = path.display().to_string();
    move |source| InspectError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::disk::FileDisk;
    use crate::record::{BatchBuilder, assign};
    use crate::types::{DataDirId, LeaderEpoch, TopicId};
    use crate::wal::{Config, Entry, Wal};

    fn data_dir() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        std::fs::write(path.join("format.json"), b"{\"format\": 1}").unwrap();
        (dir, path)
    }

    fn check(path: &Path) -> Report {
        check_data_dir(&FileDisk, path, &mut |_| {}).unwrap()
    }

    fn commit_log(path: &Path, commits: u64) -> PathBuf {
        let dir = path.join("commitlog");
        std::fs::create_dir_all(&dir).unwrap();
        let config = Config { file_bytes: 1 << 20 };
        let mut wal =
            Wal::open(Arc::new(FileDisk), &dir, DataDirId([1; 16]), 0, config, &mut |_, _| Ok(()))
                .unwrap();
        for _ in 0..commits {
            let payload = Bytes::from_static(&[7; 1000]);
            wal.commit(&[Entry { kind: 1, topic: TopicId([2; 16]), partition: 0, payload }])
                .unwrap();
        }
        let first = std::fs::read_dir(&dir).unwrap().next().unwrap().unwrap();
        first.path()
    }

    fn segment(path: &Path, batches: i64) -> PathBuf {
        let dir = path.join("disk-0");
        std::fs::create_dir_all(&dir).unwrap();
        let mut bytes = Vec::new();
        for offset in 0..batches {
            let mut builder = BatchBuilder::new(1);
            builder.push(1, None, Some(&[9; 100]), &[]);
            let mut batch = builder.build();
            assign(&mut batch, offset, LeaderEpoch(0));
            bytes.extend_from_slice(&batch);
        }
        let file = dir.join("00000000000000000000.log");
        std::fs::write(&file, bytes).unwrap();
        file
    }

    fn flip(file: &Path, at: usize) {
        let mut bytes = std::fs::read(file).unwrap();
        bytes[at] ^= 1;
        std::fs::write(file, bytes).unwrap();
    }

    #[test]
    fn a_sound_directory_has_no_damage() {
        let (_dir, path) = data_dir();
        commit_log(&path, 5);
        segment(&path, 3);
        let report = check(&path);
        assert_eq!((report.commits, report.partitions, report.batches), (5, 1, 3));
        assert_eq!((report.damage, report.torn), (vec![], vec![]));
    }

    #[test]
    fn a_flipped_bit_in_an_acknowledged_commit_is_damage_and_in_the_last_a_torn_end() {
        let (_dir, path) = data_dir();
        let file = commit_log(&path, 3);
        let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
        flip(&file, 512 + 100);
        let report = check(&path);
        assert_eq!(report.damage.len(), 1, "{report:?}");
        flip(&file, 512 + 100);
        flip(&file, length - 1536 + 100);
        let report = check(&path);
        assert_eq!(
            (report.commits, report.damage.len(), report.torn.len()),
            (2, 0, 1),
            "{report:?}"
        );
    }

    #[test]
    fn each_bad_range_of_a_segment_is_named() {
        let (_dir, path) = data_dir();
        let file = segment(&path, 4);
        let batch = std::fs::read(&file).unwrap().len() / 4;
        let mut report = Report::default();
        let walk = |report: &mut Report| {
            let dir = path.join("disk-0");
            check_partition(&FileDisk, &dir, (0, 4), report, &mut |_| {}).unwrap();
        };
        flip(&file, batch + 80);
        walk(&mut report);
        assert_eq!((report.batches, report.damage.len()), (3, 1));
        assert!(report.damage[0].contains("offsets 1 to 1"), "{report:?}");
        // A header that is none: the rest cannot be walked.
        flip(&file, 2 * batch + 16);
        report = Report::default();
        walk(&mut report);
        assert!(report.damage.iter().any(|line| line.contains("offset 2 on")), "{report:?}");
        // Missing at the end.
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..batch]).unwrap();
        report = Report::default();
        walk(&mut report);
        assert!(report.damage[0].contains("offsets 1 to 3: missing"), "{report:?}");
    }

    #[test]
    fn other_directories_and_those_in_use_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = check_data_dir(&FileDisk, dir.path(), &mut |_| {});
        assert!(matches!(refused, Err(InspectError::NotADataDir { .. })));
        let (_dir, path) = data_dir();
        let _held = FileDisk.lock(&path.join("LOCK")).unwrap();
        let refused = check_data_dir(&FileDisk, &path, &mut |_| {});
        assert!(matches!(refused, Err(InspectError::Locked { .. })));
    }
}

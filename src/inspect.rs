//! Offline checks of a data directory: everything is read, nothing is written, every damaged place is named.
//!
//! The readers here are not those of the server: they go by the drawings of the formats (`wal/mod.rs`, `log/mod.rs`,
//! `record/mod.rs`), so that a fault in the server's own readers does not hide what it made.
//!
//! What counts as damage, and what does not: segments below the checkpoint's ends, every commit with a valid one behind
//! it, and every commit from the checkpoint's on were acknowledged, and must be there; so must the directories of the
//! checkpoint's partitions, unless a commit above it says that a topic was deleted, or that more of a partition was
//! left to the shard servers. What follows may be cut off in the middle by a crash; the next start cuts it away or
//! writes it again, so it is told apart as a *torn end*.

mod partition;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::Path;

use partition::{Kept, check_partition, note};

use crate::broker::{Checkpoint, CheckpointError, Event, checkpoint_copy};
use crate::disk::{Disk, DiskFile, Lock, OpenMode};
use crate::log::first_offset_in;
use crate::types::limits::COMMIT_BYTES;
use crate::types::{CommitNumber, Offset, TopicId, TopicPartition};

/// Where frames of the commit log may begin.
const ALIGN_BYTES: usize = 512;
/// Fixed part of a frame of the commit log.
const FRAME_HEAD_BYTES: usize = 52;
const LARGEST_FRAME_BYTES: usize = FRAME_HEAD_BYTES + COMMIT_BYTES;
/// Kind of a commit's entry that is a catalogue event as JSON.
const EVENT: u8 = 2;
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
    if !disk.exists(&format).map_err(io_error(&format))? {
        return Err(InspectError::NotADataDir { path: path() });
    }
    let _lock = lock(disk, dir)?;
    let mut report = Report::default();
    check_format(disk, &format, &mut report)?;
    let checkpoint = check_checkpoint(disk, dir, &mut report)?;
    let later = check_commit_log(disk, dir, checkpoint.as_ref(), &mut report, progress)?;
    let mut expected = checkpoint.map(|checkpoint| bounds(&checkpoint, &later)).unwrap_or_default();
    check_aside(disk, dir, &mut expected, &mut report, progress)?;
    let names = disk.list(dir).map_err(|source| InspectError::Io { path: path(), source })?;
    let is_partition = |name: &String| {
        name.rsplit_once('-').is_some_and(|(_, partition)| partition.parse::<u32>().is_ok())
    };
    let found: BTreeSet<String> = names.into_iter().filter(is_partition).collect();
    for name in &found {
        // Without bounds, all of it is in the commit log still.
        let kept = expected.get(name).cloned().unwrap_or_default();
        check_partition(disk, &dir.join(name), &kept, &mut report, progress)?;
    }
    for (name, Kept { start, synced, .. }) in expected {
        if start < synced && !found.contains(&name) {
            let range = (start, synced - 1);
            note(&mut report, synced, &dir.join(name), range, "missing, with the directory");
        }
    }
    Ok(report)
}

/// Checks what recovery kept aside of partitions that it could not open. Their directories hold what lies below.
fn check_aside(
    disk: &dyn Disk,
    dir: &Path,
    expected: &mut BTreeMap<String, Kept>,
    report: &mut Report,
    progress: &mut dyn FnMut(u64),
) -> Result<(), InspectError> {
    let root = dir.join("aside");
    if !disk.exists(&root).map_err(io_error(&root))? {
        return Ok(());
    }
    for kept in expected.values_mut() {
        let Some(id) = kept.id else { continue };
        let path = root.join(format!("{}-{}", id.topic, id.partition));
        let first = first_offset_in(disk, &path).map_err(io_error(&path))?;
        if let Some(first) = first.filter(|first| *first < kept.synced) {
            let aside = Kept { start: first, ..kept.clone() };
            check_partition(disk, &path, &aside, report, progress)?;
            kept.synced = first.max(kept.start);
        }
    }
    Ok(())
}

/// What commits above the checkpoint say of what it names: looked for is what is to be there now.
#[derive(Debug, Default)]
struct Later {
    deleted: HashSet<TopicId>,
    local_starts: HashMap<TopicPartition, Offset>,
}

impl Later {
    /// Takes note of the events of a commit; what is none is left to the server.
    fn commit(&mut self, mut entries: &[u8]) {
        while let Some((kind, rest)) = entries.split_first() {
            let rest = &mut &*rest;
            let _topic: [u8; 16] = take(rest);
            let _partition: [u8; 4] = take(rest);
            let length = u32::from_le_bytes(take(rest)) as usize;
            let Some((payload, next)) = rest.split_at_checked(length) else { return };
            entries = next;
            if *kind != EVENT {
                continue;
            }
            match serde_json::from_slice(payload) {
                Ok(Event::TopicDeleted { topic }) => {
                    self.deleted.insert(topic);
                }
                Ok(
                    Event::LocalStartMoved { topic, partition, local_start: start }
                    | Event::LogStartMoved { topic, partition, log_start: start, .. },
                ) => {
                    let known = self.local_starts.entry(TopicPartition { topic, partition });
                    known.and_modify(|known| *known = start.max(*known)).or_insert(start);
                }
                _ => {}
            }
        }
    }
}

/// Of each directory that the checkpoint knows, what must be there.
fn bounds(checkpoint: &Checkpoint, later: &Later) -> BTreeMap<String, Kept> {
    let topics = checkpoint.catalogue.topics.values();
    let kept = topics.filter(|topic| !later.deleted.contains(&topic.id));
    let of_topic = |topic: &crate::broker::TopicState| {
        let (id, name) = (topic.id, topic.name.clone());
        let of_partition = (0..).zip(topic.partitions.clone()).map(move |(partition, state)| {
            let id = TopicPartition { topic: id, partition };
            let moved = later.local_starts.get(&id);
            let start = state.local_start.max(moved.copied().unwrap_or(state.local_start));
            let (synced, epochs) = (state.log_end, state.epochs);
            (format!("{name}-{partition}"), Kept { id: Some(id), start, synced, epochs })
        });
        of_partition.collect::<Vec<_>>()
    };
    kept.flat_map(of_topic).collect()
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<Option<Lock>, InspectError> {
    let file = dir.join("LOCK");
    // Not made where there is none.
    if !disk.exists(&file).map_err(io_error(&file))? {
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
    let mut found = Vec::new();
    for path in [&path, &checkpoint_copy(&path)] {
        match Checkpoint::read_file(disk, path) {
            Ok(checkpoint) => found.extend(checkpoint),
            Err(CheckpointError::Io { source, .. }) => {
                return Err(InspectError::Io { path: path.display().to_string(), source });
            }
            Err(CheckpointError::Damaged { what }) => {
                let name = path.strip_prefix(dir).unwrap_or(path).display();
                report.damage.push(format!("{name} is damaged: {what}"));
            }
            Err(error) => report.damage.push(error.to_string()),
        }
    }
    // The one that a start takes first.
    Ok(found.into_iter().next())
}

/// Where the reading of the commit log stands.
#[derive(Debug, Default)]
struct Chain {
    /// Number and CRC of the last sound commit.
    last: Option<(CommitNumber, u32)>,
    /// The first place without the next commit: damage, as soon as a later commit is found.
    broken: Option<String>,
    /// The checkpoint's commit: what is below was freed, or may have been.
    covered: CommitNumber,
    later: Later,
    /// The start of a commit stands there. Else it is the end: zeros, or what was in a file before it was used again.
    torn: bool,
}

fn check_commit_log(
    disk: &dyn Disk,
    dir: &Path,
    checkpoint: Option<&Checkpoint>,
    report: &mut Report,
    progress: &mut dyn FnMut(u64),
) -> Result<Later, InspectError> {
    let dir = &dir.join("commitlog");
    let covered = checkpoint.map_or(0, |checkpoint| checkpoint.commit);
    if !disk.exists(dir).map_err(io_error(dir))? {
        if checkpoint.is_some() {
            report.damage.push(format!(
                "{}: missing, and with it every commit above the checkpoint's, {covered}",
                dir.display()
            ));
        }
        return Ok(Later::default());
    }
    let mut chain = Chain { covered, ..Chain::default() };
    for name in disk.list(dir).map_err(io_error(dir))? {
        if !name.ends_with(".log") {
            continue;
        }
        let path = dir.join(&name);
        let file = disk.open(&path, OpenMode::Read).map_err(io_error(&path))?;
        check_commit_file(&*file, &path, &mut chain, report).map_err(io_error(&path))?;
        progress(file.len().map_err(io_error(&path))?);
    }
    if let Some(torn) = chain.broken.filter(|_| chain.torn) {
        report.torn.push(torn);
    }
    let last = chain.last.map_or(0, |(number, _)| number);
    if last < covered {
        report.damage.push(format!(
            "the commit log ends at commit {last}, but the checkpoint covers commit {covered}"
        ));
    }
    Ok(chain.later)
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
                chain.torn = starts_commit(file, at, chain.last)?;
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
            if chain.last.is_none() && frame.previous.0 > chain.covered {
                report.damage.push(format!(
                    "{}: begins with commit {}, but the commits from {} on must be there",
                    path.display(),
                    frame.number,
                    chain.covered + 1
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
                if frame.number > chain.covered {
                    chain.later.commit(&frame.entries);
                }
            }
        }
        at += frame.length.next_multiple_of(ALIGN_BYTES) as u64;
    }
    Ok(())
}

/// Whether the bytes at this place begin as the commit after `last` does.
fn starts_commit(
    file: &dyn DiskFile,
    at: u64,
    last: Option<(CommitNumber, u32)>,
) -> io::Result<bool> {
    let mut head = [0; FRAME_HEAD_BYTES];
    file.read_exact_at(&mut head, at)?;
    let rest = &mut &head[..];
    let magic: [u8; 4] = take(rest);
    let _crc_format_and_length: [u8; 12] = take(rest);
    let number = u64::from_le_bytes(take(rest));
    Ok(&magic == b"TLCC" && last.is_none_or(|(last, _)| number > last))
}

struct Frame {
    is_header: bool,
    crc: u32,
    length: usize,
    number: CommitNumber,
    previous: (CommitNumber, u32),
    entries: Vec<u8>,
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
    let entries = frame.split_off(FRAME_HEAD_BYTES);
    Ok((found == crc).then_some(Frame { is_header, crc, length, number, previous, entries }))
}

/// The next `N` bytes of a head, zeros where it ends.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let Some((first, rest)) = bytes.split_first_chunk::<N>() else { return [0; N] };
    *bytes = rest;
    *first
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> InspectError {
    let path = path.display().to_string();
    move |source| InspectError::Io { path, source }
}

#[cfg(test)]
mod tests;

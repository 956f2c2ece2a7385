//! The files of one partition: batches, what no checksum of Kafka's covers, indexes, sidecars, `partition.meta`.
//!
//! Damage of an index, a sidecar or `compaction.meta` costs nothing: the server makes them anew. It is named all the same,
//! for it says something of the disk.

use std::io;
use std::path::Path;

use super::{InspectError, Report, io_error};
use crate::broker::EpochStart;
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::record::{BatchHeader, HEADER_BYTES, check_records, crc_matches};
use crate::types::{Offset, TopicPartition};

/// Entries of `.index`: offset less that of the segment, position.
const INDEX_ENTRY_BYTES: usize = 8;
/// Entries of `.timeindex`: timestamp, offset less that of the segment.
const TIME_ENTRY_BYTES: usize = 12;
const CHECK_HEAD_BYTES: usize = 88;
const CHECK_ENTRY_BYTES: usize = 16;
/// A segment is below 2 GiB, and an index entry stands for a batch of 61 bytes at least.
const LARGEST_INDEX_BYTES: u64 = (1 << 31) / 61 * TIME_ENTRY_BYTES as u64;
const META_BYTES: u64 = 4096;

/// What the checkpoint and the commits behind it say of a partition.
#[derive(Debug, Default, Clone)]
pub(super) struct Kept {
    /// Whose directory it is.
    pub id: Option<TopicPartition>,
    /// First offset that must be there.
    pub start: Offset,
    /// End of what was synced.
    pub synced: Offset,
    /// Where each leader epoch began.
    pub epochs: Vec<EpochStart>,
}

impl Kept {
    /// The epoch in which a batch with this base offset was written, where that is known.
    fn epoch_at(&self, base: Offset) -> Option<i32> {
        let known = self.epochs.iter().rfind(|start| start.first_offset <= base);
        known.filter(|_| base < self.synced).map(|start| start.epoch.0)
    }
}

/// What a segment's batches say, for the files beside it.
#[derive(Debug, Default)]
struct Contents {
    /// Base and last offset, less those of the segment, position, and the CRC's share of each sound batch.
    batches: Vec<(u32, u32, u32, [u8; 21])>,
    /// Each new highest timestamp with the last offset of its batch.
    highest: Vec<(i64, u32)>,
    /// All of the segment was sound.
    whole: bool,
}

/// Checks all files of a partition's directory.
pub(super) fn check_partition(
    disk: &dyn Disk,
    dir: &Path,
    kept: &Kept,
    report: &mut Report,
    progress: &mut dyn FnMut(u64),
) -> Result<(), InspectError> {
    let names = disk.list(dir).map_err(io_error(dir))?;
    let mut segments: Vec<(Offset, &String)> = names
        .iter()
        .filter_map(|name| Some((name.strip_suffix(".log")?.parse().ok()?, name)))
        .collect();
    segments.sort();
    report.partitions += 1;
    check_meta(disk, dir, kept, report)?;
    check_compaction(disk, dir, &names, report)?;
    // A compaction that stopped while files changed their places: the next start ends it.
    let swapping = names.iter().any(|name| name.ends_with(".swap"));
    if swapping {
        report.torn.push(format!("{}: a compaction was putting segments in place", dir.display()));
    }
    let mut next = kept.start;
    let mut first = true;
    for (at, &(base, name)) in segments.iter().enumerate() {
        let path = dir.join(name);
        // Segments below the local start wait for their removal.
        let gap = if first { base > next && next < kept.synced } else { base > next };
        if gap && !swapping {
            note(report, kept.synced, dir, (next, base - 1), "missing");
        }
        first = false;
        let file = disk.open(&path, OpenMode::Read).map_err(io_error(&path))?;
        let mut contents = Contents::default();
        let walked = walk(&*file, &path, base, kept, (report, &mut contents));
        next = walked.map_err(io_error(&path))?;
        progress(file.len().map_err(io_error(&path))?);
        let is_last = at + 1 == segments.len();
        // What was sealed since the checkpoint is written again by the next start, and so is what lies beside it.
        if next <= kept.synced {
            check_beside(disk, &path, (base, is_last), &contents, report)?;
        }
    }
    if next < kept.synced && !swapping {
        note(report, kept.synced, dir, (next, kept.synced - 1), "missing");
    }
    Ok(())
}

/// Walks a segment from its first offset; gives the offset after its last sound batch.
fn walk(
    file: &dyn DiskFile,
    path: &Path,
    base: Offset,
    kept: &Kept,
    (report, contents): (&mut Report, &mut Contents),
) -> io::Result<Offset> {
    let (mut next, mut at, length) = (base, 0, file.len()?);
    contents.whole = true;
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
            contents.whole = false;
            // Where the next batch begins is not known.
            let what = format!("no batch at byte {at}, and {} bytes behind it", length - at);
            note(report, kept.synced, path, (next, Offset::MAX), &what);
            return Ok(next);
        };
        let mut batch = vec![0; header.total_bytes()];
        file.read_exact_at(&mut batch, at)?;
        let range = (next, header.last_offset());
        if !crc_matches(&batch) || check_records(&batch, &header).is_err() {
            contents.whole = false;
            let what = format!("the batch at byte {at} does not pass its checks");
            note(report, kept.synced, path, range, &what);
        } else if let Some(epoch) =
            kept.epoch_at(next).filter(|epoch| *epoch != header.leader_epoch)
        {
            contents.whole = false;
            let what = format!(
                "the batch at byte {at} says leader epoch {}, and was written in {epoch}",
                header.leader_epoch
            );
            note(report, kept.synced, path, range, &what);
        } else {
            report.batches += 1;
            report.bytes += batch.len() as u64;
        }
        contents.note(base, at, &header, &head);
        next = header.next_offset();
        at += batch.len() as u64;
    }
    Ok(next)
}

impl Contents {
    fn note(&mut self, base: Offset, at: u64, header: &BatchHeader, head: &[u8; HEADER_BYTES]) {
        let relative = |offset: Offset| u32::try_from(offset - base).unwrap_or(u32::MAX);
        let position = u32::try_from(at).unwrap_or(u32::MAX);
        let mut covered = [0; 21];
        covered.copy_from_slice(&head[..21]);
        let (first, last) = (relative(header.base_offset), relative(header.last_offset()));
        self.batches.push((first, last, position, covered));
        if self.highest.last().is_none_or(|(highest, _)| header.max_timestamp > *highest) {
            self.highest.push((header.max_timestamp, last));
        }
    }

    fn begins_at(&self, position: u32) -> Option<usize> {
        self.batches.binary_search_by_key(&position, |(_, _, position, _)| *position).ok()
    }
}

/// The indexes and the sidecar of a segment. Where the segment itself is damaged they cannot be judged.
fn check_beside(
    disk: &dyn Disk,
    path: &Path,
    (base, is_last): (Offset, bool),
    contents: &Contents,
    report: &mut Report,
) -> Result<(), InspectError> {
    if !contents.whole {
        return Ok(());
    }
    let index = read(disk, &path.with_extension("index"))?;
    let times = read(disk, &path.with_extension("timeindex"))?;
    let check = read(disk, &path.with_extension("check"))?;
    // Of the segment that grows, the last of an index may be cut off with what it points at.
    let sound = |bytes: &[u8]| {
        let entries = bytes.chunks_exact(INDEX_ENTRY_BYTES).map(|entry| {
            let (relative, position) = (u32_at(entry, 0), u32_at(entry, 4));
            let batch = contents.begins_at(position).and_then(|at| contents.batches.get(at));
            batch.is_some_and(|(_, last, ..)| *last == relative)
        });
        first_wrong(entries)
    };
    if let Some(bytes) = &index
        && let Some(entry) = sound(bytes)
        && !is_last
    {
        renewable(report, &path.with_extension("index"), entry * INDEX_ENTRY_BYTES);
    }
    let sound = |bytes: &[u8]| {
        let entries = bytes.chunks_exact(TIME_ENTRY_BYTES).map(|entry| {
            let (high, low) = (u32_at(entry, 0), u32_at(entry, 4));
            let timestamp = (i64::from(high.cast_signed()) << 32) | i64::from(low);
            contents.highest.contains(&(timestamp, u32_at(entry, 8)))
        });
        first_wrong(entries)
    };
    if let Some(bytes) = &times
        && let Some(entry) = sound(bytes)
        && !is_last
    {
        renewable(report, &path.with_extension("timeindex"), entry * TIME_ENTRY_BYTES);
    }
    if let Some(check) = check.filter(|_| !is_last) {
        let indexes = [index.unwrap_or_default(), times.unwrap_or_default()];
        if let Some(at) = wrong_in_check(&check, base, contents, &indexes) {
            renewable(report, &path.with_extension("check"), at);
        }
    }
    Ok(())
}

/// The place of the first thing in a sidecar that does not hold. Its format is drawn in `log/mod.rs`.
fn wrong_in_check(
    check: &[u8],
    base: Offset,
    contents: &Contents,
    indexes: &[Vec<u8>; 2],
) -> Option<usize> {
    let (head, entries) = check.split_at_checked(CHECK_HEAD_BYTES).unwrap_or((&[], &[]));
    let salt = u32_at(head, CHECK_HEAD_BYTES - 4);
    let is_head = head.starts_with(b"TLOGSEGC\0\0\0\x01")
        && crc32c::crc32c(head.get(..CHECK_HEAD_BYTES - 4).unwrap_or_default()) == salt
        && head.get(12..20) == Some(&base.to_be_bytes())
        && entries.len() == u32_at(head, 80) as usize * CHECK_ENTRY_BYTES;
    if !is_head {
        return Some(0);
    }
    for (index, place) in indexes.iter().zip([60, 68]) {
        let sum = (u32::try_from(index.len()).unwrap_or(u32::MAX), crc32c::crc32c(index));
        if sum != (u32_at(head, place), u32_at(head, place + 4)) {
            return Some(place);
        }
    }
    let mut batches = contents.batches.iter().peekable();
    let entries: Vec<&[u8]> = entries.chunks_exact(CHECK_ENTRY_BYTES).collect();
    for (number, entry) in (0_u32..).zip(&entries) {
        let crc = crc32c::crc32c(entry.get(..12).unwrap_or_default());
        let crc = crc32c::crc32c_append(crc, &salt.to_be_bytes());
        let crc = crc32c::crc32c_append(crc, &number.to_be_bytes());
        let (first, position) = (u32_at(entry, 0), u32_at(entry, 4));
        let end = entries.get(number as usize + 1).map_or(u32::MAX, |next| u32_at(next, 4));
        let begins = batches.peek().is_some_and(|batch| (batch.0, batch.2) == (first, position));
        let mut heads = 0;
        while let Some((_, _, _, covered)) = batches.next_if(|batch| batch.2 < end) {
            // These are the bytes that the batch's own CRC leaves out, and that CRC.
            heads = crc32c::crc32c_append(heads, covered);
        }
        if crc != u32_at(entry, 12) || !begins || heads != u32_at(entry, 8) {
            return Some(CHECK_HEAD_BYTES + number as usize * CHECK_ENTRY_BYTES);
        }
    }
    batches.next().map(|_| CHECK_HEAD_BYTES)
}

fn check_meta(
    disk: &dyn Disk,
    dir: &Path,
    kept: &Kept,
    report: &mut Report,
) -> Result<(), InspectError> {
    let path = dir.join("partition.meta");
    let found = read(disk, &path)?;
    let Some(id) = kept.id.filter(|_| kept.start < kept.synced) else { return Ok(()) };
    let Some(bytes) = found else {
        report.damage.push(format!("{}: missing", path.display()));
        return Ok(());
    };
    let mut body = b"TLOGPART\0\0\0\x01".to_vec();
    body.extend(id.topic.as_bytes());
    body.extend(id.partition.to_be_bytes());
    body.extend(crc32c::crc32c(&body).to_be_bytes());
    if bytes != body {
        let at = bytes.iter().zip(&body).take_while(|(found, due)| found == due).count();
        report.damage.push(format!("{}: not that of {id}, from byte {at} on", path.display()));
    }
    Ok(())
}

/// `compaction.meta` ends with a CRC-32C over what stands before.
fn check_compaction(
    disk: &dyn Disk,
    dir: &Path,
    names: &[String],
    report: &mut Report,
) -> Result<(), InspectError> {
    let path = dir.join("compaction.meta");
    if !names.iter().any(|name| name == "compaction.meta") {
        return Ok(());
    }
    let bytes = read(disk, &path)?.unwrap_or_default();
    let sound = bytes
        .split_last_chunk::<4>()
        .is_some_and(|(body, crc)| crc32c::crc32c(body) == u32::from_be_bytes(*crc));
    if !sound {
        renewable(report, &path, 0);
    }
    Ok(())
}

/// A small file, none where it is missing; one that is too long is as good as empty.
fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, InspectError> {
    let limit = if path.extension().is_some_and(|it| it == "meta") {
        META_BYTES
    } else {
        LARGEST_INDEX_BYTES
    };
    match disk.read_all(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(Vec::new())),
        Err(error) => Err(io_error(path)(error)),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u32::from_be_bytes(*field))
}

fn first_wrong(entries: impl Iterator<Item = bool>) -> Option<usize> {
    entries.enumerate().find_map(|(at, sound)| (!sound).then_some(at))
}

fn renewable(report: &mut Report, path: &Path, at: usize) {
    let path = path.display();
    report.damage.push(format!("{path}: wrong from byte {at} on; the server makes it anew"));
}

/// A bad range; one that begins at or above what was synced is a torn end.
pub(super) fn note(
    report: &mut Report,
    synced: Offset,
    path: &Path,
    (first, last): (Offset, Offset),
    what: &str,
) {
    let range = match last {
        Offset::MAX => format!("offset {first} on"),
        last => format!("offsets {first} to {last}"),
    };
    let line = format!("{}: {range}: {what}", path.display());
    if first < synced { report.damage.push(line) } else { report.torn.push(line) }
}

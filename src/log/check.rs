//! The sidecar of a sealed segment, `<base>.check`: what Kafka's own files do not guard. Drawn in [`crate::log`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::segment::Highest;
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::record::BatchHeader;
use crate::types::Offset;

const MAGIC: [u8; 8] = *b"TLOGSEGC";
/// Another format is as good as no file: it is made anew from the segment.
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 88;
const ENTRY_BYTES: usize = 16;
/// Entries read at once.
const WINDOW_ENTRIES: usize = 256;

/// CRC-32C and length of an index file as it was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct FileSum {
    pub(super) bytes: u32,
    pub(super) crc: u32,
}

impl FileSum {
    /// Counts in what follows.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        // An index is shorter than its segment.
        self.bytes = self.bytes.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    }
}

/// The fixed part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) base: Offset,
    pub(super) next_offset: Offset,
    /// Length of the segment.
    pub(super) bytes: u64,
    pub(super) batch_count: u64,
    pub(super) highest: Option<Highest>,
    /// Of the offset index and the time index.
    pub(super) indexes: (FileSum, FileSum),
    pub(super) interval_count: u32,
}

/// The stretch of a segment between two index entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interval {
    /// First offset, less that of the segment.
    pub(super) first: u32,
    /// Where it begins.
    pub(super) position: u32,
    /// CRC-32C over the first 21 bytes of each of its batches.
    pub(super) crc: u32,
}

/// Gathers the intervals of a segment, batch by batch.
#[derive(Debug, Default)]
pub(super) struct Heads {
    intervals: Vec<Interval>,
    batch_count: u64,
}

impl Heads {
    /// Counts in the batch at `position`, with which a new interval may begin. `first` is its base offset less that of
    /// the segment.
    pub(super) fn note(&mut self, header: &BatchHeader, first: u32, position: u32, begins: bool) {
        self.batch_count += 1;
        match self.intervals.last_mut().filter(|_| !begins) {
            Some(interval) => interval.crc = add_head(interval.crc, header),
            None => {
                let crc = add_head(0, header);
                self.intervals.push(Interval { first, position, crc });
            }
        }
    }

    pub(super) fn batch_count(&self) -> u64 {
        self.batch_count
    }

    pub(super) fn interval_count(&self) -> u32 {
        // Each has 61 bytes at least, and a segment less than 2^31.
        u32::try_from(self.intervals.len()).unwrap_or(u32::MAX)
    }
}

/// The CRC over heads, taken further by one. These are the bytes that the batch's own CRC leaves out, and that CRC.
pub(super) fn add_head(crc: u32, header: &BatchHeader) -> u32 {
    let crc = crc32c::crc32c_append(crc, &header.base_offset.to_be_bytes());
    let crc = crc32c::crc32c_append(crc, &header.batch_length.to_be_bytes());
    let crc = crc32c::crc32c_append(crc, &header.leader_epoch.to_be_bytes());
    let crc = crc32c::crc32c_append(crc, &header.magic.to_be_bytes());
    crc32c::crc32c_append(crc, &header.crc.to_be_bytes())
}

/// Takes big-endian fields off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
}

impl Summary {
    /// Whether it can be that of the segment with this base offset and length, which has no offset from `next` on.
    pub(super) fn is_of(&self, base: Offset, bytes: u64, next: Offset) -> bool {
        (self.base, self.bytes) == (base, bytes) && self.next_offset <= next
    }

    fn encode(&self) -> Vec<u8> {
        let (timestamp, last_offset) =
            self.highest.map_or((i64::MIN, -1), |highest| (highest.timestamp, highest.last_offset));
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend(MAGIC);
        out.extend(FORMAT.to_be_bytes());
        out.extend(self.base.to_be_bytes());
        out.extend(self.next_offset.to_be_bytes());
        out.extend(self.bytes.to_be_bytes());
        out.extend(self.batch_count.to_be_bytes());
        out.extend(timestamp.to_be_bytes());
        out.extend(last_offset.to_be_bytes());
        for sum in [self.indexes.0, self.indexes.1] {
            out.extend(sum.bytes.to_be_bytes());
            out.extend(sum.crc.to_be_bytes());
        }
        out.extend([0; 4]);
        out.extend(self.interval_count.to_be_bytes());
        out.extend(crc32c::crc32c(&out).to_be_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
            return None;
        }
        let mut fields = Fields(body);
        if fields.take()? != MAGIC || u32::from_be_bytes(fields.take()?) != FORMAT {
            return None;
        }
        let base = i64::from_be_bytes(fields.take()?);
        let next_offset = i64::from_be_bytes(fields.take()?);
        let bytes = u64::from_be_bytes(fields.take()?);
        let batch_count = u64::from_be_bytes(fields.take()?);
        let timestamp = i64::from_be_bytes(fields.take()?);
        let last_offset = i64::from_be_bytes(fields.take()?);
        let mut sum = || {
            let bytes = u32::from_be_bytes(fields.take()?);
            Some(FileSum { bytes, crc: u32::from_be_bytes(fields.take()?) })
        };
        let indexes = (sum()?, sum()?);
        fields.take::<4>()?;
        let interval_count = u32::from_be_bytes(fields.take()?);
        let highest = (last_offset >= 0).then_some(Highest { timestamp, last_offset });
        Some(Self { base, next_offset, bytes, batch_count, highest, indexes, interval_count })
    }
}

impl Interval {
    /// `salt` is the CRC of the file's header: no entry of another file passes here.
    fn encode(&self, salt: u32, number: u32, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend(self.first.to_be_bytes());
        out.extend(self.position.to_be_bytes());
        out.extend(self.crc.to_be_bytes());
        let crc = entry_crc(out.get(begin..).unwrap_or_default(), salt, number);
        out.extend(crc.to_be_bytes());
    }

    fn decode(bytes: &[u8], salt: u32, number: u32) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if u32::from_be_bytes(*crc) != entry_crc(body, salt, number) {
            return None;
        }
        let mut fields = Fields(body);
        Some(Self {
            first: u32::from_be_bytes(fields.take()?),
            position: u32::from_be_bytes(fields.take()?),
            crc: u32::from_be_bytes(fields.take()?),
        })
    }
}

fn entry_crc(body: &[u8], salt: u32, number: u32) -> u32 {
    let crc = crc32c::crc32c(body);
    let crc = crc32c::crc32c_append(crc, &salt.to_be_bytes());
    crc32c::crc32c_append(crc, &number.to_be_bytes())
}

/// Writes the file, unsynced.
pub(super) fn write(
    disk: &dyn Disk,
    path: &Path,
    summary: &Summary,
    heads: &Heads,
) -> io::Result<Arc<dyn DiskFile>> {
    let mut bytes = summary.encode();
    let salt = crc_of_header(&bytes);
    for (number, interval) in (0..).zip(&heads.intervals) {
        interval.encode(salt, number, &mut bytes);
    }
    let file = match disk.open(path, OpenMode::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            disk.open(path, OpenMode::CreateNew)?
        }
        other => other?,
    };
    file.write_all_at(&bytes, 0)?;
    if file.len()? > bytes.len() as u64 {
        file.set_len(bytes.len() as u64)?;
    }
    Ok(file)
}

fn crc_of_header(header: &[u8]) -> u32 {
    header.last_chunk().map_or(0, |crc| u32::from_be_bytes(*crc))
}

/// A sidecar that was checked wholly when it was opened. The file itself is not kept open.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) summary: Summary,
    salt: u32,
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

/// An interval with where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    /// First offset, less that of the segment.
    pub(super) first: u32,
    /// Offset behind its last, likewise.
    pub(super) next: u32,
    pub(super) position: u64,
    pub(super) end: u64,
    /// CRC-32C over the first 21 bytes of each of its batches.
    pub(super) crc: u32,
}

impl Check {
    /// None where there is no file, or none that can be believed.
    pub(super) fn open(disk: &Arc<dyn Disk>, path: &Path) -> io::Result<Option<Self>> {
        let Some(opened) = open(disk.as_ref(), path)? else { return Ok(None) };
        let Opened { file, summary, salt } = opened;
        let check = Self { summary, salt, disk: Arc::clone(disk), path: path.to_owned() };
        let mut number = 0;
        while number < summary.interval_count {
            let entries = check.entries(file.as_ref(), number)?;
            if entries.is_empty() {
                return Ok(None);
            }
            number += entries.len() as u32;
        }
        Ok(Some(check))
    }

    /// The header alone, for an open that is to be quick.
    pub(super) fn summary(disk: &Arc<dyn Disk>, path: &Path) -> io::Result<Option<Summary>> {
        Ok(open(disk.as_ref(), path)?.map(|opened| opened.summary))
    }

    /// Up to [`WINDOW_ENTRIES`] entries from number `from` on, fewer if one is wrong.
    fn entries(&self, file: &dyn DiskFile, from: u32) -> io::Result<Vec<Interval>> {
        let left = self.summary.interval_count.saturating_sub(from) as usize;
        let mut bytes = vec![0; left.min(WINDOW_ENTRIES) * ENTRY_BYTES];
        file.read_exact_at(&mut bytes, position_of(from))?;
        let entries = (from..).zip(bytes.chunks_exact(ENTRY_BYTES));
        Ok(entries.map_while(|(n, entry)| Interval::decode(entry, self.salt, n)).collect())
    }

    /// The intervals from the one that has the byte at `position`, up to the one that has that before `to`; some of them
    /// where they are many, none where the file is gone.
    pub(super) fn stretches(&self, position: u64, to: u64) -> io::Result<Vec<Stretch>> {
        let file = match self.disk.open(&self.path, OpenMode::Read) {
            // Deleted with its segment, which a reader still has.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let found = self.interval_at(file.as_ref(), position).and_then(|from| {
            let entries = self.entries(file.as_ref(), from)?;
            Ok((from, entries))
        });
        let (from, entries) = match found {
            // Another's by now, whose segment was compacted.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Vec::new()),
            other => other?,
        };
        let last = from + entries.len() as u32 == self.summary.interval_count;
        let next = (self.summary.next_offset - self.summary.base, self.summary.bytes);
        let end = Interval {
            first: u32::try_from(next.0).unwrap_or(u32::MAX),
            position: u32::try_from(next.1).unwrap_or(u32::MAX),
            crc: 0,
        };
        let behind = entries.iter().skip(1).chain(last.then_some(&end));
        let stretches = entries.iter().zip(behind).map(|(interval, next)| Stretch {
            first: interval.first,
            next: next.first,
            position: u64::from(interval.position),
            end: u64::from(next.position),
            crc: interval.crc,
        });
        Ok(stretches.take_while(|stretch| stretch.position < to).collect())
    }

    /// Number of the interval that has the byte at `position`.
    fn interval_at(&self, file: &dyn DiskFile, position: u64) -> io::Result<u32> {
        let (mut low, mut high) = (0, self.summary.interval_count);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let mut entry = [0; ENTRY_BYTES];
            file.read_exact_at(&mut entry, position_of(middle))?;
            let interval = Interval::decode(&entry, self.salt, middle);
            if interval.is_some_and(|interval| u64::from(interval.position) <= position) {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

fn position_of(number: u32) -> u64 {
    (HEADER_BYTES + number as usize * ENTRY_BYTES) as u64
}

/// A file whose header can be believed.
struct Opened {
    file: Arc<dyn DiskFile>,
    summary: Summary,
    /// Of its entries.
    salt: u32,
}

fn open(disk: &dyn Disk, path: &Path) -> io::Result<Option<Opened>> {
    let file = match disk.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut header = [0; HEADER_BYTES];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let Some(summary) = Summary::decode(&header) else { return Ok(None) };
    if file.len()? != position_of(summary.interval_count) {
        return Ok(None);
    }
    Ok(Some(Opened { file, summary, salt: crc_of_header(&header) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FileDisk;

    fn summary() -> Summary {
        Summary {
            base: 0x10,
            next_offset: 0x30,
            bytes: 0x400,
            batch_count: 5,
            highest: Some(Highest { timestamp: 0x77, last_offset: 0x22 }),
            indexes: (FileSum { bytes: 8, crc: 0x0102_0304 }, FileSum { bytes: 12, crc: 5 }),
            interval_count: 1,
        }
    }

    #[test]
    fn the_bytes_of_format_1_stay_readable() {
        let mut kept = b"TLOGSEGC\0\0\0\x01".to_vec();
        for number in [0x10_i64, 0x30, 0x400, 5, 0x77, 0x22] {
            kept.extend(number.to_be_bytes());
        }
        kept.extend([0, 0, 0, 8, 1, 2, 3, 4, 0, 0, 0, 12, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1]);
        let salt = crc32c::crc32c(&kept);
        kept.extend(salt.to_be_bytes());
        let entry = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        let mut covered = entry.to_vec();
        covered.extend(salt.to_be_bytes());
        covered.extend([0; 4]);
        kept.extend(entry);
        kept.extend(crc32c::crc32c(&covered).to_be_bytes());

        let temp = tempfile::tempdir().unwrap();
        let (path, disk) = (temp.path().join("x.check"), Arc::new(FileDisk) as Arc<dyn Disk>);
        let interval = Interval { first: 0, position: 0, crc: 9 };
        let heads = Heads { intervals: vec![interval], batch_count: 5 };
        write(disk.as_ref(), &path, &summary(), &heads).unwrap();
        assert_eq!(disk.read_all(&path, 1000).unwrap(), kept);
        let check = Check::open(&disk, &path).unwrap().unwrap();
        assert_eq!(check.summary, summary());
        let stretch = Stretch { first: 0, next: 0x20, position: 0, end: 0x400, crc: 9 };
        assert_eq!(check.stretches(0x3ff, 0x400).unwrap(), [stretch]);
        disk.remove_file(&path).unwrap();
        assert!(check.stretches(0x3ff, 0x400).unwrap().is_empty());
    }

    #[test]
    fn a_sidecar_with_any_bit_flipped_or_missing_is_not_believed() {
        let temp = tempfile::tempdir().unwrap();
        let (path, disk) = (temp.path().join("x.check"), Arc::new(FileDisk) as Arc<dyn Disk>);
        assert!(Check::open(&disk, &path).unwrap().is_none());
        let interval = Interval { first: 0, position: 0, crc: 9 };
        let heads = Heads { intervals: vec![interval], batch_count: 5 };
        let file = write(disk.as_ref(), &path, &summary(), &heads).unwrap();
        let bytes = disk.read_all(&path, 1000).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            file.write_all_at(&flipped, 0).unwrap();
            assert!(Check::open(&disk, &path).unwrap().is_none(), "bit {bit}");
        }
        file.write_all_at(&bytes, 0).unwrap();
        for length in (0..bytes.len() as u64).rev() {
            file.set_len(length).unwrap();
            assert!(Check::open(&disk, &path).unwrap().is_none(), "length {length}");
        }
    }
}

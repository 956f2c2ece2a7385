//! Manifest entries and heads of one partition in one append-only file. The format is on the module page.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::framed::{Damage, FORMAT, check_format};
use super::shard_store::take_head;
use super::{Head, Numbered};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::types::limits::TIER_RECORD_BYTES;

const FILE_MAGIC: [u8; 4] = *b"TLSM";
const FILE_HEADER: u64 = 16;
const RECORD_MAGIC: [u8; 4] = *b"TLSR";
const RECORD_HEADER: usize = 36;
/// What is read at a time.
const WINDOW_BYTES: u64 = 1024 * 1024;

/// An open manifest. Keeps no descriptor: a server has thousands of partitions.
#[derive(Debug)]
pub(super) struct ManifestFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Behind the last sound record; 0 while there is no file.
    end: u64,
    heads: Vec<Head>,
}

/// Why an append failed.
#[derive(Debug)]
pub(super) enum AppendError {
    /// The file holds what it held before.
    Write(io::Error),
    /// Nobody knows what the file holds.
    Sync(io::Error),
}

impl ManifestFile {
    /// Reads the file at `path` if there is one, cuts a torn end and syncs: what a former process wrote and did not
    /// sync is shown by the page cache, too.
    pub fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self, Damage> {
        let mut manifest = Self { disk, path, end: 0, heads: Vec::new() };
        let file = match manifest.disk.open(&manifest.path, OpenMode::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(manifest),
            other => other.map_err(Damage::Io)?,
        };
        let mut window = Window::new(&*file).map_err(Damage::Io)?;
        let heads = &mut manifest.heads;
        manifest.end = scan(&mut window, |record| {
            if let Some(head) = record.head {
                take_head(heads, head);
            }
        })?;
        if manifest.end < window.length {
            manifest.refuse_damage(&mut window)?;
            file.set_len(manifest.end).map_err(Damage::Io)?;
        }
        file.sync().map_err(Damage::Sync)?;
        Ok(manifest)
    }

    /// A sound record behind a bad one means that the bad one was sound once.
    fn refuse_damage(&self, window: &mut Window<'_>) -> Result<(), Damage> {
        for at in self.end + 1..window.length {
            if Record::read(window, at).map_err(Damage::Io)?.is_some() {
                let path = self.path.display();
                return Err(Damage::Corrupt(format!(
                    "{path}: the record at byte {} is damaged, a sound one follows at {at}",
                    self.end
                )));
            }
        }
        Ok(())
    }

    /// The newest heads, newest first.
    pub fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// Adds an entry and perhaps a head, durably. The directory must be durable; a new file's entry in it is.
    pub fn append(&mut self, entry: Numbered, head: Option<Head>) -> Result<(), AppendError> {
        if self.end == 0 {
            let mut header = [0; FILE_HEADER as usize];
            header[..4].copy_from_slice(&FILE_MAGIC);
            header[4..6].copy_from_slice(&FORMAT.to_le_bytes());
            self.disk.replace(&self.path, &header).map_err(AppendError::Write)?;
            self.end = FILE_HEADER;
        }
        let file = self.disk.open(&self.path, OpenMode::Write).map_err(AppendError::Write)?;
        let bytes = encode(&entry, head.as_ref());
        if let Err(error) = file.write_all_at(&bytes, self.end) {
            // A part may stand there; the next append must not leave it behind a shorter record.
            file.set_len(self.end).map_err(AppendError::Sync)?;
            return Err(AppendError::Write(error));
        }
        file.sync().map_err(AppendError::Sync)?;
        self.end += bytes.len() as u64;
        if let Some(head) = head {
            take_head(&mut self.heads, head);
        }
        Ok(())
    }

    /// All entries by number. `Err` names damage since the file was opened.
    pub fn entries(&self) -> Result<Vec<Numbered>, Damage> {
        if self.end == 0 {
            return Ok(Vec::new());
        }
        let file = self.disk.open(&self.path, OpenMode::Read).map_err(Damage::Io)?;
        let mut window = Window::new(&*file).map_err(Damage::Io)?;
        let mut entries = BTreeMap::new();
        let end = scan(&mut window, |record| {
            let (number, entry) = record.entry;
            entries.insert(number, entry);
        })?;
        if end != self.end {
            let path = self.path.display();
            return Err(Damage::Corrupt(format!(
                "{path}: the record at byte {end} is damaged, {} bytes were sound before",
                self.end
            )));
        }
        Ok(entries.into_iter().collect())
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.end
    }
}

/// Hands every record to `take` up to the first bad one, and returns where that begins.
fn scan(window: &mut Window<'_>, mut take: impl FnMut(Record)) -> Result<u64, Damage> {
    let header = window.get(0, FILE_HEADER as usize).map_err(Damage::Io)?.unwrap_or_default();
    let Some([m0, m1, m2, m3, f0, f1]) = header.first_chunk().copied() else {
        return Err(Damage::Corrupt("a manifest is shorter than its header".to_owned()));
    };
    if [m0, m1, m2, m3] != FILE_MAGIC || header.iter().skip(6).any(|byte| *byte != 0) {
        return Err(Damage::Corrupt("a manifest does not begin as one".to_owned()));
    }
    check_format(u16::from_le_bytes([f0, f1])).map_err(Damage::Corrupt)?;
    let mut at = FILE_HEADER;
    while let Some((record, next)) = Record::read(window, at).map_err(Damage::Io)? {
        take(record);
        at = next;
    }
    Ok(at)
}

struct Record {
    entry: Numbered,
    head: Option<Head>,
}

fn encode((number, entry): &Numbered, head: Option<&Head>) -> Vec<u8> {
    let (head_number, head_bytes) =
        head.map_or((0, &[][..]), |(number, bytes)| (*number, &bytes[..]));
    let mut bytes = Vec::with_capacity(RECORD_HEADER + entry.len() + head_bytes.len());
    bytes.extend_from_slice(&RECORD_MAGIC);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&u32::from(head.is_some()).to_le_bytes());
    // The caller has checked both against TIER_RECORD_BYTES.
    bytes.extend_from_slice(&(entry.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(head_bytes.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&head_number.to_le_bytes());
    bytes.extend_from_slice(entry);
    bytes.extend_from_slice(head_bytes);
    let crc = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

impl Record {
    /// The record at `at` and where the next one begins; `None` when there is no sound one.
    fn read(window: &mut Window<'_>, at: u64) -> io::Result<Option<(Self, u64)>> {
        let Some(header) = window.get(at, RECORD_HEADER)? else { return Ok(None) };
        if !header.starts_with(&RECORD_MAGIC) {
            return Ok(None);
        }
        let (Some(has_head), Some(entry_bytes), Some(head_bytes)) =
            (u32_at(header, 8), u32_at(header, 12), u32_at(header, 16))
        else {
            return Ok(None);
        };
        let (entry_bytes, head_bytes) = (entry_bytes as usize, head_bytes as usize);
        if entry_bytes > TIER_RECORD_BYTES || head_bytes > TIER_RECORD_BYTES || has_head > 1 {
            return Ok(None);
        }
        let total = RECORD_HEADER + entry_bytes + head_bytes;
        let Some(bytes) = window.get(at, total)? else { return Ok(None) };
        if u32_at(bytes, 4) != bytes.get(8..).map(crc32c::crc32c) {
            return Ok(None);
        }
        let (Some(number), Some(head_number)) = (u64_at(bytes, 20), u64_at(bytes, 28)) else {
            return Ok(None);
        };
        let body = bytes.get(RECORD_HEADER..).unwrap_or_default();
        let (entry, head) = body.split_at(entry_bytes.min(body.len()));
        let entry = (number, Bytes::copy_from_slice(entry));
        let head = (has_head == 1).then(|| (head_number, Bytes::copy_from_slice(head)));
        Ok(Some((Self { entry, head }, at + total as u64)))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Reads a file from front to back in large pieces.
struct Window<'f> {
    file: &'f dyn DiskFile,
    length: u64,
    start: u64,
    buffer: Vec<u8>,
}

impl<'f> Window<'f> {
    fn new(file: &'f dyn DiskFile) -> io::Result<Self> {
        Ok(Self { file, length: file.len()?, start: 0, buffer: Vec::new() })
    }

    /// `None` where the file ends before. `bytes` is bounded by the caller.
    fn get(&mut self, at: u64, bytes: usize) -> io::Result<Option<&[u8]>> {
        let Some(left) = self.length.checked_sub(at).filter(|left| *left >= bytes as u64) else {
            return Ok(None);
        };
        let offset = at.checked_sub(self.start).and_then(|offset| usize::try_from(offset).ok());
        let held = offset.filter(|offset| offset.saturating_add(bytes) <= self.buffer.len());
        let offset = match held {
            Some(offset) => offset,
            None => {
                let piece = left.min(WINDOW_BYTES.max(bytes as u64));
                self.buffer.resize(usize::try_from(piece).map_err(io::Error::other)?, 0);
                self.file.read_exact_at(&mut self.buffer, at)?;
                self.start = at;
                0
            }
        };
        Ok(self.buffer.get(offset..offset + bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FileDisk;

    fn open(path: &std::path::Path) -> Result<ManifestFile, Damage> {
        ManifestFile::open(Arc::new(FileDisk), path.to_owned())
    }

    fn numbered(number: u64, bytes: &str) -> Numbered {
        (number, Bytes::copy_from_slice(bytes.as_bytes()))
    }

    fn filled(path: &std::path::Path) -> ManifestFile {
        let mut manifest = open(path).unwrap();
        manifest.append(numbered(1, "one"), Some(numbered(1, "head one"))).unwrap();
        manifest.append(numbered(2, ""), Some(numbered(2, ""))).unwrap();
        manifest.append(numbered(1, "one again"), None).unwrap();
        manifest
    }

    #[test]
    fn everything_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest");
        let entries = vec![numbered(1, "one again"), numbered(2, "")];
        let heads = [numbered(2, ""), numbered(1, "head one")];
        let written = filled(&path);
        let read = open(&path).unwrap();
        for manifest in [written, read] {
            assert_eq!(manifest.entries().unwrap(), entries);
            assert_eq!(manifest.heads(), heads);
        }
    }

    #[test]
    fn a_file_cut_anywhere_opens_with_the_whole_records_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest");
        let length = filled(&path).bytes();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole.len() as u64, length);
        for cut in FILE_HEADER as usize..whole.len() {
            // Cut short, and cut with zeros in place of what did not reach the disk.
            for zeros in [false, true] {
                let mut torn = whole[..cut].to_vec();
                if zeros {
                    torn.resize(whole.len(), 0);
                }
                std::fs::write(&path, &torn).unwrap();
                let mut manifest = open(&path).unwrap();
                assert!(manifest.entries().unwrap().len() <= 2);
                manifest.append(numbered(9, "after"), None).unwrap();
                let entries = open(&path).unwrap().entries().unwrap();
                assert_eq!(entries.last(), Some(&numbered(9, "after")), "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_with_a_sound_record_behind_it_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest");
        let manifest = filled(&path);
        let whole = std::fs::read(&path).unwrap();
        let last = whole.windows(4).rposition(|bytes| bytes == RECORD_MAGIC).unwrap();
        for bit in 0..last * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &flipped).unwrap();
            assert!(matches!(open(&path), Err(Damage::Corrupt(_))), "bit {bit}");
            assert!(matches!(manifest.entries(), Err(Damage::Corrupt(_))), "bit {bit}");
        }
    }

    #[test]
    fn records_larger_than_the_window_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest");
        let large = Bytes::from(vec![7; TIER_RECORD_BYTES]);
        let mut manifest = open(&path).unwrap();
        for number in 0..3 {
            manifest.append((number, large.clone()), Some((number, large.clone()))).unwrap();
        }
        let manifest = open(&path).unwrap();
        assert_eq!(manifest.entries().unwrap().len(), 3);
        assert_eq!(manifest.heads().len(), 3);
    }
}

//! The bytes of frames: see the drawing on the module page.

use std::fmt;
use std::io::IoSlice;

use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};

use super::Error;
use crate::types::limits::COMMIT_BYTES;
use crate::types::{CommitNumber, DataDirId, TopicId};

/// Frames start at multiples of this: a disk leaves a sector of this size old or new.
pub(super) const ALIGN_BYTES: usize = 512;
/// Everything before the entries.
pub(super) const HEAD_BYTES: usize = 52;
/// Longest frame; a claim above it is no frame, and no memory is taken for it.
pub(super) const FRAME_BYTES: usize = HEAD_BYTES + COMMIT_BYTES;
/// The one format so far.
pub(super) const FORMAT: u32 = 1;

const ENTRY_HEAD_BYTES: usize = 25;
/// Shorter payloads are copied behind each other. The system takes 1024 parts in one call: so every commit of up to
/// 8 MiB is one call, and copying 16 KiB costs less than the two parts would.
const OWN_PART_BYTES: usize = 16 * 1024;
const ZEROS: [u8; ALIGN_BYTES] = [0; ALIGN_BYTES];

const _: () = assert!(FRAME_BYTES <= u32::MAX as usize, "the length is a u32");
const _: () = assert!(HEAD_BYTES <= ALIGN_BYTES, "a head is in one sector");

/// Bytes for one partition within a commit.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the payload is; the meaning is the caller's.
    pub kind: u8,
    /// The topic, by its id: a name may be given to another topic later.
    pub topic: TopicId,
    /// Index of the partition.
    pub partition: i32,
    /// The bytes. An entry that was read back shares the memory of its whole commit.
    pub payload: Bytes,
}

impl Entry {
    /// What the entry takes of a commit's limit, [`COMMIT_BYTES`]; bytes.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        ENTRY_HEAD_BYTES + self.payload.len()
    }
}

/// Without the payload, which is nobody's business in a log line.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("kind", &self.kind)
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}

/// What a frame stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Commit,
}

impl Kind {
    const fn magic(self) -> [u8; 4] {
        match self {
            Self::File => *b"TLCF",
            Self::Commit => *b"TLCC",
        }
    }
}

/// A commit, as the next one names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) number: CommitNumber,
    pub(super) crc: u32,
}

impl Link {
    /// What the first commit of all names.
    pub(super) const NONE: Self = Self { number: 0, crc: 0 };

    pub(super) fn next_number(self) -> CommitNumber {
        self.number.saturating_add(1)
    }
}

/// The fixed part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) crc: u32,
    pub(super) format: u32,
    /// Whole frame without padding; from [`HEAD_BYTES`] to [`FRAME_BYTES`].
    pub(super) length: usize,
    pub(super) number: CommitNumber,
    pub(super) previous: Link,
    pub(super) id: DataDirId,
}

impl Head {
    /// Reads the head at the start of `bytes`, if it is one by its looks. Its CRC is not checked here.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = &mut &*bytes;
        let magic = take(rest)?;
        let kind = [Kind::File, Kind::Commit].into_iter().find(|kind| kind.magic() == magic)?;
        let crc = u32::from_le_bytes(take(rest)?);
        let format = u32::from_le_bytes(take(rest)?);
        let length = usize::try_from(u32::from_le_bytes(take(rest)?)).ok()?;
        let number = u64::from_le_bytes(take(rest)?);
        let previous =
            Link { number: u64::from_le_bytes(take(rest)?), crc: u32::from_le_bytes(take(rest)?) };
        let id = DataDirId(take(rest)?);
        let plausible = (HEAD_BYTES..=FRAME_BYTES).contains(&length);
        plausible.then_some(Self { kind, crc, format, length, number, previous, id })
    }

    /// The head's bytes with `crc` as it stands.
    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        let length = u32::try_from(self.length).expect("limited by FRAME_BYTES");
        let parts: [&[u8]; 8] = [
            &self.kind.magic(),
            &self.crc.to_le_bytes(),
            &self.format.to_le_bytes(),
            &length.to_le_bytes(),
            &self.number.to_le_bytes(),
            &self.previous.number.to_le_bytes(),
            &self.previous.crc.to_le_bytes(),
            self.id.as_bytes(),
        ];
        let mut at = 0;
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        bytes
    }

    /// The CRC of the head alone, to be continued over what follows it. `bytes` starts with a head.
    pub(super) fn crc_of(bytes: &[u8]) -> u32 {
        let magic = bytes.get(..4).unwrap_or_default();
        let rest = bytes.get(8..HEAD_BYTES).unwrap_or_default();
        crc32c_append(crc32c(magic), rest)
    }

    /// Where the next frame starts if this one starts at `position`.
    pub(super) fn end(&self, position: u64) -> u64 {
        position + self.length.next_multiple_of(ALIGN_BYTES) as u64
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

/// A frame ready to be written, but for its long payloads, which stay where they are.
pub(super) struct Encoded {
    pub(super) head: Head,
    /// Everything else: heads, short payloads and the padding.
    bytes: Vec<u8>,
    /// Where long payloads come in between: up to where in `bytes` what precedes one goes, and the index of its entry.
    cuts: Vec<(usize, usize)>,
}

impl Encoded {
    /// The header of the file whose first commit follows `previous`.
    pub(super) fn file(previous: Link, id: DataDirId) -> Self {
        Self::new(Kind::File, previous, id, &[], HEAD_BYTES)
    }

    /// The commit that follows `previous`.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub(super) fn commit(previous: Link, id: DataDirId, entries: &[Entry]) -> Result<Self, Error> {
        let bytes = entries.iter().map(|entry| entry.stored_bytes() as u64).sum();
        match usize::try_from(bytes) {
            Ok(length) if length <= COMMIT_BYTES => {
                Ok(Self::new(Kind::Commit, previous, id, entries, HEAD_BYTES + length))
            }
            _ => Err(Error::TooLarge { bytes, limit: COMMIT_BYTES as u64 }),
        }
    }

    fn new(kind: Kind, previous: Link, id: DataDirId, entries: &[Entry], length: usize) -> Self {
        let number = previous.next_number();
        let mut head = Head { kind, crc: 0, format: FORMAT, length, number, previous, id };
        let is_short = |entry: &Entry| entry.payload.len() < OWN_PART_BYTES;
        let long_bytes = entries.iter().filter(|entry| !is_short(entry));
        let long_bytes: usize = long_bytes.map(|entry| entry.payload.len()).sum();
        let padded = length.next_multiple_of(ALIGN_BYTES) - long_bytes;
        let mut bytes = Vec::with_capacity(padded);
        let mut cuts = Vec::new();
        bytes.extend_from_slice(&head.encode());
        let mut crc = Head::crc_of(&bytes);
        let mut summed = HEAD_BYTES;
        for (index, entry) in entries.iter().enumerate() {
            bytes.extend_from_slice(&entry_head(entry));
            if is_short(entry) {
                bytes.extend_from_slice(&entry.payload);
            } else {
                crc = crc32c_append(crc32c_append(crc, &bytes[summed..]), &entry.payload);
                summed = bytes.len();
                cuts.push((summed, index));
            }
        }
        head.crc = crc32c_append(crc, &bytes[summed..]);
        bytes[..HEAD_BYTES].copy_from_slice(&head.encode());
        bytes.resize(padded, 0);
        Self { head, bytes, cuts }
    }

    /// What the next commit names.
    pub(super) fn link(&self) -> Link {
        Link { number: self.head.number, crc: self.head.crc }
    }

    /// The frame and its padding; `entries` are those it was made of.
    pub(super) fn parts<'a>(&'a self, entries: &'a [Entry]) -> Vec<IoSlice<'a>> {
        let mut parts = Vec::with_capacity(1 + 2 * self.cuts.len());
        let mut from = 0;
        for (upto, entry) in &self.cuts {
            parts.push(IoSlice::new(&self.bytes[from..*upto]));
            parts.push(IoSlice::new(&entries[*entry].payload));
            from = *upto;
        }
        parts.push(IoSlice::new(&self.bytes[from..]));
        parts
    }
}

/// Zeros from the end of a frame of `length` bytes to the start of the next.
pub(super) fn padding(length: usize) -> IoSlice<'static> {
    IoSlice::new(&ZEROS[..length.next_multiple_of(ALIGN_BYTES) - length])
}

fn entry_head(entry: &Entry) -> [u8; ENTRY_HEAD_BYTES] {
    let mut bytes = [0; ENTRY_HEAD_BYTES];
    let length = u32::try_from(entry.payload.len()).expect("limited by COMMIT_BYTES");
    bytes[0] = entry.kind;
    bytes[1..17].copy_from_slice(entry.topic.as_bytes());
    bytes[17..21].copy_from_slice(&entry.partition.to_le_bytes());
    bytes[21..].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// A whole frame that was read back, its CRC right.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) head: Head,
    /// Without padding.
    pub(super) bytes: Bytes,
}

impl Frame {
    pub(super) fn link(&self) -> Link {
        Link { number: self.head.number, crc: self.head.crc }
    }

    /// The entries, sharing the frame's memory; `None` where they do not fill it exactly.
    pub(super) fn entries(&self) -> Option<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut rest = self.bytes.slice_ref(self.bytes.get(HEAD_BYTES..)?);
        while !rest.is_empty() {
            let head = &mut &*rest.split_to_checked(ENTRY_HEAD_BYTES)?;
            let [kind] = take(head)?;
            let topic = TopicId(take(head)?);
            let partition = i32::from_le_bytes(take(head)?);
            let length = usize::try_from(u32::from_le_bytes(take(head)?)).ok()?;
            let payload = rest.split_to_checked(length)?;
            entries.push(Entry { kind, topic, partition, payload });
        }
        Some(entries)
    }
}

trait SplitToChecked: Sized {
    fn split_to_checked(&mut self, length: usize) -> Option<Self>;
}

impl SplitToChecked for Bytes {
    fn split_to_checked(&mut self, length: usize) -> Option<Self> {
        (length <= self.len()).then(|| self.split_to(length))
    }
}

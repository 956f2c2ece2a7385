//! One file of the commit log, read.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use crc32c::crc32c_append;

use super::Error;
use super::frame::{ALIGN_BYTES, FORMAT, Frame, HEAD_BYTES, Head, Kind};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::types::{CommitNumber, DataDirId};

/// How much the search holds in memory at a time.
const CHUNK_BYTES: usize = 128 * ALIGN_BYTES;

/// A file and its length at the time of opening.
#[derive(Debug)]
pub(super) struct FileReader {
    file: Arc<dyn DiskFile>,
    pub(super) path: PathBuf,
    pub(super) length: u64,
}

impl FileReader {
    pub(super) fn open(disk: &dyn Disk, path: PathBuf) -> Result<Self, Error> {
        let file = disk.open(&path, OpenMode::Read).map_err(Error::io("open", &path))?;
        let length = file.len().map_err(Error::io("measure", &path))?;
        Ok(Self { file, path, length })
    }

    /// The frame that starts at `position`, if there is a whole one of this kind and data directory with the right
    /// CRC.
    ///
    /// # Errors
    /// [`Error::Io`]; where the CRC is right also [`Error::NewerFormat`] and, for a file header, [`Error::Foreign`].
    pub(super) fn frame(
        &self,
        position: u64,
        kind: Kind,
        id: DataDirId,
    ) -> Result<Option<Frame>, Error> {
        let mut head = [0; HEAD_BYTES];
        if !self.holds(position, HEAD_BYTES) {
            return Ok(None);
        }
        self.read(&mut head, position)?;
        let Some(head) = Head::parse(&head).filter(|head| head.kind == kind) else {
            return Ok(None);
        };
        if !self.holds(position, head.length) || (kind == Kind::Commit && head.id != id) {
            return Ok(None);
        }
        let mut bytes = vec![0; head.length];
        self.read(&mut bytes, position)?;
        let body = bytes.get(HEAD_BYTES..).unwrap_or_default();
        if crc32c_append(Head::crc_of(&bytes), body) != head.crc {
            return Ok(None);
        }
        if head.format != FORMAT {
            let (path, format) = (self.path.clone(), head.format);
            return Err(Error::NewerFormat { path, format, known: FORMAT });
        }
        if head.id != id {
            let (path, found) = (self.path.clone(), head.id);
            return Err(Error::Foreign { path, found, expected: id });
        }
        Ok(Some(Frame { head, bytes: Bytes::from(bytes) }))
    }

    /// Whether the bytes at `position` look like the start of this commit, be the rest as it may.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn claims(
        &self,
        position: u64,
        number: CommitNumber,
        id: DataDirId,
    ) -> Result<bool, Error> {
        let mut head = [0; HEAD_BYTES];
        if !self.holds(position, HEAD_BYTES) {
            return Ok(false);
        }
        self.read(&mut head, position)?;
        let head = Head::parse(&head);
        Ok(head.is_some_and(|head| {
            head.kind == Kind::Commit && head.id == id && head.number == number
        }))
    }

    /// Searches every 512 bytes from `from` on for a commit of this data directory with a number of at least
    /// `number` and the right CRC.
    ///
    /// A payload may hold bytes that look like a commit, say where a disk in this log holds a copy of the log. They
    /// do no harm: a copy of a commit is older than the commit that carries it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn find_commit(
        &self,
        from: u64,
        number: CommitNumber,
        id: DataDirId,
    ) -> Result<Option<(u64, CommitNumber)>, Error> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut position = from;
        while position < self.length {
            let left = usize::try_from(self.length - position).unwrap_or(CHUNK_BYTES);
            let chunk = &mut chunk[..left.min(CHUNK_BYTES)];
            self.read(chunk, position)?;
            for sector in chunk.chunks(ALIGN_BYTES) {
                let head = Head::parse(sector).filter(|head| {
                    head.kind == Kind::Commit
                        && head.id == id
                        && head.number >= number
                        && self.holds(position, head.length)
                });
                if let Some(head) = head
                    && self.crc_is_right(position, &head)?
                {
                    return Ok(Some((position, head.number)));
                }
                position += sector.len() as u64;
            }
        }
        Ok(None)
    }

    /// As the check in [`FileReader::frame`], without holding the frame in memory.
    fn crc_is_right(&self, position: u64, head: &Head) -> Result<bool, Error> {
        let mut chunk = vec![0; CHUNK_BYTES.min(head.length)];
        self.read(&mut chunk[..HEAD_BYTES], position)?;
        let mut crc = Head::crc_of(&chunk);
        let mut done = HEAD_BYTES;
        while done < head.length {
            let part = (head.length - done).min(CHUNK_BYTES);
            let part = &mut chunk[..part];
            self.read(part, position + done as u64)?;
            crc = crc32c_append(crc, part);
            done += part.len();
        }
        Ok(crc == head.crc)
    }

    fn holds(&self, position: u64, length: usize) -> bool {
        position.checked_add(length as u64).is_some_and(|end| end <= self.length)
    }

    fn read(&self, buffer: &mut [u8], position: u64) -> Result<(), Error> {
        self.file.read_exact_at(buffer, position).map_err(Error::io("read", &self.path))
    }
}

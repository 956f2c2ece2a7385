//! The file that takes the place of some segments.

use std::io;
use std::sync::Arc;

use super::replacement::Replacement;
use crate::disk::Disk;
use crate::log::config::Config;
use crate::log::epochs::Epochs;
use crate::log::error::Error;
use crate::log::segment::{Paths, View};
use crate::record::{self, BatchHeader};
use crate::types::Offset;

/// Bytes written at once.
const WRITE_BYTES: usize = 1024 * 1024;

/// Longest distance of offsets in one batch, exclusive: its last offset delta is an i32.
const GAP_OFFSETS: Offset = 1 << 31;

/// Offsets that are gone.
#[derive(Debug, Clone, Copy)]
struct Gap {
    first: Offset,
    next: Offset,
    leader_epoch: i32,
}

/// Takes what is left, batch by batch, in order and without leaving out an offset.
#[derive(Debug)]
pub(super) struct Output {
    view: View,
    bytes: Vec<u8>,
    headers: Vec<BatchHeader>,
    /// Behind `bytes`, and not yet in it: it may grow.
    gap: Option<Gap>,
}

impl Output {
    /// In place of `old`, one at least.
    pub(super) fn create(old: &[View], config: &Config) -> Result<Self, Error> {
        let first = &old.first().expect("a group has a segment").segment;
        let dir = first.paths.log.parent().expect("a segment lies in a directory");
        let paths = Paths::beside(dir, first.base);
        // Of an attempt that failed.
        paths.remove(first.disk.as_ref())?;
        // Of what is written here nothing is new.
        let epochs = Arc::<Epochs>::default();
        let interval = config.index_interval_bytes;
        let view = View::create_at(&first.disk, paths, first.base, interval, &epochs)?;
        Ok(Self { view, bytes: Vec::new(), headers: Vec::new(), gap: None })
    }

    /// The batch of `header`, or what is left of it.
    pub(super) fn batch(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<(), Error> {
        if header.is_gap() {
            return self.gap(header);
        }
        self.close_gap()?;
        self.push(batch)
    }

    /// Nothing of the batch of `header`.
    pub(super) fn gap(&mut self, header: &BatchHeader) -> Result<(), Error> {
        let (first, next) = (header.base_offset, header.next_offset());
        let leader_epoch = header.leader_epoch;
        match &mut self.gap {
            Some(gap) if gap.leader_epoch == leader_epoch && next - gap.first <= GAP_OFFSETS => {
                gap.next = next;
            }
            _ => {
                self.close_gap()?;
                self.gap = Some(Gap { first, next, leader_epoch });
            }
        }
        Ok(())
    }

    fn close_gap(&mut self) -> Result<(), Error> {
        match self.gap.take() {
            Some(Gap { first, next, leader_epoch }) => {
                self.push(&record::gap(first, next, leader_epoch))
            }
            None => Ok(()),
        }
    }

    fn push(&mut self, batch: &[u8]) -> Result<(), Error> {
        self.headers.push(BatchHeader::parse(batch).map_err(Error::Batch)?);
        self.bytes.extend_from_slice(batch);
        if self.bytes.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let end = self.view.bytes + self.bytes.len() as u64;
        if i32::try_from(end).is_err() {
            // Rewritten batches can be longer by some bytes, and this one was as long as a segment can be.
            let error = io::Error::from(io::ErrorKind::FileTooLarge);
            return Err(Error::io("write", &self.view.segment.paths.log)(error));
        }
        self.view.write(&self.bytes, &self.headers)?;
        self.bytes.clear();
        self.headers.clear();
        Ok(())
    }

    /// Durable on return, under names that count for nothing.
    pub(super) fn finish(mut self, old: Vec<View>) -> Result<Replacement, Error> {
        self.close_gap()?;
        self.flush()?;
        let last = old.last().map(|view| view.next_offset);
        assert_eq!(last, Some(self.view.next_offset), "compaction leaves out no offset");
        let segment = Arc::clone(&self.view.segment);
        self.view.seal()?;
        segment.flush_indexes()?;
        for (path, file) in segment.take_unsynced() {
            file.sync().map_err(Error::io("sync", &path))?;
        }
        let dir = segment.paths.log.parent().expect("a segment lies in a directory");
        let disk: &dyn Disk = segment.disk.as_ref();
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        Ok(Replacement::new(old, self.view))
    }
}

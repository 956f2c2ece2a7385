//! A vdisk's log played back: record batches in, writes out. No IO but the target's.

use std::io;

use crate::record::vdisk::{NotABlock, OPERATION_WRITE, OPERATION_ZERO, StoredBlock};
use crate::record::{self, BatchHeader, Batches, Records, crc_matches, plain_records};
use crate::types::Offset;

/// What a disk is rebuilt in.
pub trait BlockTarget {
    /// Puts `data` at byte `start`.
    ///
    /// # Errors
    /// As the system gives them.
    fn write_at(&mut self, start: u64, data: &[u8]) -> io::Result<()>;

    /// Makes `bytes` bytes from `start` on read as zeroes. May be far beyond all that was written.
    ///
    /// # Errors
    /// As the system gives them.
    fn zero_at(&mut self, start: u64, bytes: u64) -> io::Result<()>;
}

/// How far to play. All bounds are inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Everything.
    None,
    /// Up to the record of this offset.
    Offset(Offset),
    /// Up to this sequence of a run, counted from 1. See [`RunTracker`] for the last one.
    Sequence {
        /// The run.
        run: u64,
        /// The sequence.
        last: u64,
    },
    /// Stops at the first record later than this, in ms since 1970.
    Time(i64),
}

/// Where a run of rising sequences begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunStart {
    /// Number of the run, from 1.
    pub run: u64,
    /// Its first offset.
    pub offset: Offset,
    /// Its first sequence.
    pub sequence: u64,
}

/// Follows sequences over a log: a record's own, or one above the one before it where it has none. A sequence that does not
/// follow the one before it begins a run. Of records that compaction took away nothing is known but that there were as
/// many as there are offsets: what may have followed them does.
#[derive(Debug, Clone, Default)]
pub struct RunTracker {
    current: Option<RunStart>,
    last_sequence: u64,
    /// Records that are gone since.
    gone: u64,
}

impl RunTracker {
    /// The next record; returns its run and its sequence. `sequence` as its header says, if it has one.
    pub fn follow(&mut self, offset: Offset, sequence: Option<u64>) -> (u64, u64) {
        let gone = std::mem::take(&mut self.gone);
        let highest = self.last_sequence.wrapping_add(1).wrapping_add(gone);
        let follows = self.current.is_some().then_some(highest);
        // In a log without any, sequences equal offsets.
        let sequence = sequence.or(follows).unwrap_or(offset.cast_unsigned());
        if follows.is_none_or(|highest| highest.wrapping_sub(sequence) > gone) {
            let run = self.current.map_or(0, |current| current.run) + 1;
            self.current = Some(RunStart { run, offset, sequence });
        }
        self.last_sequence = sequence;
        (self.current.map_or(1, |current| current.run), sequence)
    }

    /// So many records are not there any more.
    fn skip(&mut self, count: u64) {
        self.gone = self.gone.saturating_add(count);
    }

    /// The run of the last record.
    #[must_use]
    pub fn current(&self) -> Option<RunStart> {
        self.current
    }
}

/// What was played.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records applied.
    pub records: u64,
    /// Of them, writes.
    pub writes: u64,
    /// Of them, zeroings.
    pub zeroes: u64,
    /// Of the writes, those with an operation number of neither kind.
    pub unknown_operations: u64,
    /// Bytes of the writes.
    pub bytes: u64,
    /// End of the highest block, in bytes: the least size of the disk.
    pub end: u64,
    /// Records that compaction took away, up to the limit where that is an offset, else up to the last record looked at.
    pub compacted: u64,
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Played {
    /// More may follow, from this offset on.
    Upto(Offset),
    /// The limit is reached: the record of this offset and timestamp was not played, nor is any after it.
    Stopped {
        /// Of the first record beyond the limit.
        offset: Offset,
        /// Its time, in ms since 1970.
        timestamp_ms: i64,
    },
}

/// Why the log cannot be played on. What came before was applied.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// The bytes of a batch are wrong.
    #[error("damaged batch at offset {offset}")]
    Batch {
        /// Where it should begin.
        offset: Offset,
        /// What is wrong.
        source: record::Error,
    },
    /// The checksum of a batch is wrong.
    #[error("the checksum of the batch of offsets {first} to {last} is wrong")]
    Checksum {
        /// First offset of the batch.
        first: Offset,
        /// Last offset of the batch.
        last: Offset,
    },
    /// The data is not what its client sent.
    #[error("the hash of the block at offset {offset} is wrong: its data is not what was sent")]
    Hash {
        /// Of the record.
        offset: Offset,
    },
    /// Records are missing.
    #[error("offsets {expected} to {} are missing", found - 1)]
    Gap {
        /// The next one wanted.
        expected: Offset,
        /// The next one there.
        found: Offset,
    },
    /// Offsets come twice.
    #[error("offset {found} comes after offset {}", expected - 1)]
    Backwards {
        /// The next one wanted.
        expected: Offset,
        /// The one there.
        found: Offset,
    },
    /// A record of another kind.
    #[error("the record at offset {offset} is no block of a vdisk")]
    NotABlock {
        /// Of the record.
        offset: Offset,
        /// What is wrong.
        source: NotABlock,
    },
    /// The target failed.
    #[error("the record at offset {offset} cannot be written to the image")]
    Target {
        /// Of the record.
        offset: Offset,
        /// As the system gives it.
        source: io::Error,
    },
}

impl PlayError {
    /// Whether the log is at fault, and not the target.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Target { .. })
    }
}

/// Plays a log from one offset on.
#[derive(Debug, Clone)]
pub struct Player {
    limit: Limit,
    next: Offset,
    runs: RunTracker,
    counts: Counts,
    stopped: Option<Played>,
}

impl Player {
    /// From offset `start`, the log start offset for a whole disk, up to `limit`.
    #[must_use]
    pub fn new(start: Offset, limit: Limit) -> Self {
        Self {
            limit,
            next: start,
            runs: RunTracker::default(),
            counts: Counts::default(),
            stopped: None,
        }
    }

    /// Applies whole batches, which go on where the last ones ended. The first may begin below: its records below are left
    /// out.
    ///
    /// # Errors
    /// [`PlayError`]; the player must not be used any more.
    pub fn play(
        &mut self,
        batches: &[u8],
        target: &mut dyn BlockTarget,
    ) -> Result<Played, PlayError> {
        for batch in Batches::new(batches) {
            if let Some(stopped) = self.stopped {
                return Ok(stopped);
            }
            let (header, batch) =
                batch.map_err(|source| PlayError::Batch { offset: self.next, source })?;
            if header.last_offset() < self.next {
                continue;
            }
            if !crc_matches(batch) {
                let (first, last) = (header.base_offset, header.last_offset());
                return Err(PlayError::Checksum { first, last });
            }
            self.batch(&header, batch, target)?;
        }
        Ok(self.stopped.unwrap_or(Played::Upto(self.next)))
    }

    fn batch(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        target: &mut dyn BlockTarget,
    ) -> Result<(), PlayError> {
        let damaged = |source| PlayError::Batch { offset: header.base_offset, source };
        if header.is_control() {
            self.expect(self.next.max(header.base_offset))?;
            self.next = header.next_offset();
            return Ok(());
        }
        let begins_below = header.base_offset < self.next;
        if !begins_below {
            self.expect(header.base_offset)?;
        }
        // A batch that has lost records has still its offsets: none is missing that was not meant to be.
        let is_whole = header.record_count.checked_sub(1) == Some(header.last_offset_delta);
        let plain = plain_records(batch, header).map_err(damaged)?;
        for record in Records::new(&plain, header) {
            let record = record.map_err(damaged)?;
            let offset = header.base_offset.saturating_add(i64::from(record.offset_delta));
            if begins_below && offset < self.next {
                continue;
            }
            if is_whole || offset < self.next || offset > header.last_offset() {
                self.expect(offset)?;
            }
            self.pass_over(offset);
            let block = StoredBlock::parse(&record)
                .map_err(|source| PlayError::NotABlock { offset, source })?;
            let timestamp_ms = header.timestamp_of(record.timestamp_delta);
            let (run, sequence) = self.runs.follow(offset, block.sequence);
            if self.is_beyond(offset, run, sequence, timestamp_ms) {
                self.stopped = Some(Played::Stopped { offset, timestamp_ms });
                return Ok(());
            }
            self.apply(offset, &block, target)?;
            self.next = offset.saturating_add(1);
        }
        if is_whole {
            return self.expect(header.next_offset());
        }
        self.pass_over(header.next_offset());
        Ok(())
    }

    /// Compaction took away what lies between.
    fn pass_over(&mut self, offset: Offset) {
        let count = |to: Offset| u64::try_from(to - self.next).unwrap_or(0);
        let bound = match self.limit {
            Limit::Offset(last) => offset.min(last.saturating_add(1)),
            Limit::None | Limit::Sequence { .. } | Limit::Time(_) => offset,
        };
        self.counts.compacted += count(bound);
        self.runs.skip(count(offset));
        self.next = offset;
    }

    fn expect(&self, found: Offset) -> Result<(), PlayError> {
        let expected = self.next;
        match found.cmp(&expected) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(PlayError::Gap { expected, found }),
            std::cmp::Ordering::Less => Err(PlayError::Backwards { expected, found }),
        }
    }

    fn is_beyond(&self, offset: Offset, run: u64, sequence: u64, timestamp_ms: i64) -> bool {
        match self.limit {
            Limit::None => false,
            Limit::Offset(last) => offset > last,
            Limit::Sequence { run: wanted, last } => {
                run > wanted || run == wanted && sequence > last
            }
            Limit::Time(last) => timestamp_ms > last,
        }
    }

    fn apply(
        &mut self,
        offset: Offset,
        block: &StoredBlock<'_>,
        target: &mut dyn BlockTarget,
    ) -> Result<(), PlayError> {
        let failed = |source| PlayError::Target { offset, source };
        self.counts.records += 1;
        let covered = match block.data {
            Some(data) => {
                if block.hash.is_some_and(|hash| hash != blake2b(data)) {
                    return Err(PlayError::Hash { offset });
                }
                target.write_at(block.start, data).map_err(failed)?;
                let known = matches!(block.operation, OPERATION_WRITE | OPERATION_ZERO);
                self.counts.unknown_operations += u64::from(!known);
                self.counts.writes += 1;
                self.counts.bytes += data.len() as u64;
                data.len() as u64
            }
            None => {
                target.zero_at(block.start, block.size).map_err(failed)?;
                self.counts.zeroes += 1;
                block.size
            }
        };
        self.counts.end = self.counts.end.max(block.start.saturating_add(covered));
        Ok(())
    }

    /// The next offset to play.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next
    }

    /// What was played so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The runs met so far.
    #[must_use]
    pub fn runs(&self) -> &RunTracker {
        &self.runs
    }
}

fn blake2b(data: &[u8]) -> [u8; 32] {
    let hash = blake2b_simd::Params::new().hash_length(32).hash(data);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.as_bytes());
    bytes
}

#[cfg(test)]
mod tests;

//! From header to header through a segment, and around what is damaged in it.

use std::sync::{Mutex, PoisonError};

use super::error::{DamagedRange, Error, Fault};
use super::offset_index::OffsetEntry;
use super::segment::View;
use crate::record::{BatchHeader, HEADER_BYTES, crc_matches};
use crate::types::{LeaderEpoch, Offset};

/// Bytes read at once: many headers of small batches, little waste before a large one.
const WINDOW_BYTES: u64 = 4096;

const MAGIC_AT: usize = 16;

/// Where the part of a batch begins that its CRC covers.
const COVERED_AT: u64 = 21;

/// Bytes of a batch read at once for its CRC: a batch may have 64 MiB, and its reader no budget for them.
const PIECE_BYTES: u64 = 256 * 1024;

/// Buffers that are kept: as many as there are likely to be threads that check.
const BUFFERS: usize = 4;

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// At least as many bytes as asked for. Those of whole pieces are kept for the next one: they are in the cache then, and
/// need no zeroing, which together is a fifth of the time of a check.
struct Buffer(Vec<u8>);

impl Buffer {
    fn take(bytes: usize) -> Self {
        let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let large = bytes > PIECE_BYTES as usize / 4;
        let kept = if large { kept() } else { None };
        Self(kept.unwrap_or_else(|| vec![0; if large { PIECE_BYTES as usize } else { bytes }]))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.len() == PIECE_BYTES as usize {
            let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < BUFFERS {
                kept.push(std::mem::take(&mut self.0));
            }
        }
    }
}

/// A batch whose header passed the checks; its body is unread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) position: u64,
    pub(super) header: BatchHeader,
}

impl Found {
    /// Position behind it.
    pub(super) fn end(&self) -> u64 {
        self.position + self.header.total_bytes() as u64
    }
}

/// What a walk comes to.
#[derive(Debug)]
pub(super) enum Step {
    Batch(Found),
    /// The next step goes on behind it.
    Damaged(DamagedRange),
    /// The end of the view.
    End,
}

/// Headers in order, each checked: magic and length, base offset continuous with the batch before, whole within the
/// view.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    view: &'a View,
    position: u64,
    expected: Offset,
    previous: Option<Found>,
    window: Vec<u8>,
    window_at: u64,
    window_bytes: u64,
    lost: bool,
}

impl<'a> Walk<'a> {
    /// From the first batch of the segment.
    pub(super) fn begin(view: &'a View) -> Self {
        Self::from(view, 0, view.segment.base)
    }

    /// From the batch at `position`, which is to have the base offset `expected`.
    pub(super) fn from(view: &'a View, position: u64, expected: Offset) -> Self {
        let (window, window_at) = (Vec::new(), position);
        let window_bytes = WINDOW_BYTES;
        Self {
            view,
            position,
            expected,
            previous: None,
            window,
            window_at,
            window_bytes,
            lost: false,
        }
    }

    /// Reads `bytes` at once, for a walk that looks at the bodies too.
    pub(super) fn with_window(self, window_bytes: u64) -> Self {
        Self { window_bytes, ..self }
    }

    /// As [`View::is_intact`], of the batch given last.
    pub(super) fn is_intact(&self, found: &Found) -> Result<bool, Error> {
        let at = found.position.checked_sub(self.window_at).and_then(|at| usize::try_from(at).ok());
        let window = at.and_then(|at| self.window.get(at..at + found.header.total_bytes()));
        window.map_or_else(|| self.view.is_intact(found), |batch| Ok(crc_matches(batch)))
    }

    /// One step on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn next(&mut self) -> Result<Step, Error> {
        if self.expected >= self.view.next_offset {
            return Ok(Step::End);
        }
        Ok(match self.check()? {
            Ok(header) => {
                let found = Found { position: self.position, header };
                self.position = found.end();
                self.expected = header.next_offset();
                self.previous = Some(found);
                Step::Batch(found)
            }
            Err(fault) => Step::Damaged(self.step_over(fault)?),
        })
    }

    /// The next batch; none where the view ends.
    ///
    /// # Errors
    /// [`Error::Damaged`]: the next call goes on behind the damage. [`Error::Io`].
    pub(super) fn next_batch(&mut self) -> Result<Option<Found>, Error> {
        match self.next()? {
            Step::Batch(found) => Ok(Some(found)),
            Step::End => Ok(None),
            Step::Damaged(range) => Err(range.into()),
        }
    }

    /// Where the next batch begins.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Whether damage was met behind which no batch of the view could be found again.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// The batch given last has a body that its header does not match: goes on behind it.
    fn reject(&mut self, found: &Found) -> Result<DamagedRange, Error> {
        (self.position, self.expected) = (found.position, found.header.base_offset);
        self.previous = None;
        self.step_over(Fault::Checksum)
    }

    fn check(&mut self) -> Result<Result<BatchHeader, Fault>, Error> {
        let left = self.view.bytes.saturating_sub(self.position);
        if left < HEADER_BYTES as u64 {
            return Ok(Err(Fault::Truncated));
        }
        let (view, position, expected) = (self.view, self.position, self.expected);
        Ok(view.check_header(self.head()?, position, expected))
    }

    /// The bytes at the position, at least a header.
    fn head(&mut self) -> Result<&[u8], Error> {
        let have = self.window_at + self.window.len() as u64;
        if self.position < self.window_at || self.position + HEADER_BYTES as u64 > have {
            // Behind a large batch there is likely another: then a window would hold one header as well.
            let large = |found: &Found| found.header.total_bytes() as u64 > self.window_bytes;
            let wanted = match &self.previous {
                Some(previous) if large(previous) => HEADER_BYTES as u64,
                _ => self.window_bytes,
            };
            let length = wanted.min(self.view.bytes - self.position);
            self.window.resize(length as usize, 0);
            self.window_at = self.position;
            self.view.read_exact(&mut self.window, self.position)?;
        }
        let at = (self.position - self.window_at) as usize;
        Ok(self.window.get(at..).unwrap_or_default())
    }

    /// Describes the damage at the position and moves behind it.
    fn step_over(&mut self, fault: Fault) -> Result<DamagedRange, Error> {
        let (mut position, mut from, mut fault) = (self.position, self.expected, fault);
        // A batch with a wrong length or last offset shows in its successor only.
        if let Some(previous) = self.previous.take()
            && !self.view.is_intact(&previous)?
        {
            (position, from) = (previous.position, previous.header.base_offset);
            fault = Fault::Checksum;
        }
        let resumed = self.view.resume(position, from)?;
        self.lost = resumed.is_none();
        (self.position, self.expected) =
            resumed.unwrap_or((self.view.bytes, self.view.next_offset));
        let path = self.view.segment.paths.log.clone();
        Ok(DamagedRange { path, position, from, to: self.expected, fault })
    }
}

impl View {
    /// The header that `bytes` begin with, which stand at `position`, if a batch of this view that has the base offset
    /// `expected` can have it.
    pub(super) fn check_header(
        &self,
        bytes: &[u8],
        position: u64,
        expected: Offset,
    ) -> Result<BatchHeader, Fault> {
        let header = BatchHeader::parse(bytes).map_err(|_| Fault::Header)?;
        if header.base_offset != expected {
            Err(Fault::Discontinuous)
        } else if header.last_offset_delta < 0 {
            Err(Fault::Header)
        } else if header.next_offset() > self.next_offset {
            Err(Fault::Overlong)
        } else if header.total_bytes() as u64 > self.bytes.saturating_sub(position) {
            Err(Fault::Truncated)
        } else if !self.segment.epochs.allow(LeaderEpoch(header.leader_epoch), expected) {
            Err(Fault::Epoch)
        } else {
            Ok(header)
        }
    }

    /// The batch that has `target`, an offset of this view. Its body is unread.
    ///
    /// # Errors
    /// [`Error::Damaged`] with a range around `target`. [`Error::Io`].
    pub(super) fn locate(&self, target: Offset) -> Result<Found, Error> {
        self.search(target, false)
    }

    /// As [`View::locate`]; but a batch that only claims to reach up to `target`, because its header is damaged, is not
    /// taken for the one that has it.
    pub(super) fn locate_surely(&self, target: Offset) -> Result<Found, Error> {
        self.search(target, true)
    }

    fn search(&self, target: Offset, surely: bool) -> Result<Found, Error> {
        if let Some(position) = self.known_position(target)
            && let Step::Batch(found) = Walk::from(self, position, target).next()?
        {
            return Ok(found);
        }
        let (mut walk, mut index_doubted) = self.walk_towards(target)?;
        loop {
            let damage = match walk.next()? {
                Step::Batch(found) if found.header.next_offset() <= target => continue,
                Step::Batch(found) => {
                    let claims = surely && found.header.base_offset != target;
                    if claims && !self.is_intact(&found)? {
                        walk.reject(&found)?
                    } else {
                        if index_doubted && let Err(error) = self.renew_indexes() {
                            // The batch was found without them.
                            tracing::warn!(%error, "could not rebuild the indexes of a segment");
                        }
                        return Ok(found);
                    }
                }
                Step::End => {
                    let (start, end) = (self.segment.base, self.next_offset);
                    return Err(Error::OutOfRange { requested: target, start, end });
                }
                Step::Damaged(range) => range,
            };
            if damage.to > target {
                return Err(damage.into());
            }
            // What the index pointed at may be this very batch: then it is right.
            index_doubted = false;
        }
    }

    /// A walk that begins at or before the batch of `target`, and whether an index entry was found to be wrong.
    pub(super) fn walk_towards(&self, target: Offset) -> Result<(Walk<'_>, bool), Error> {
        let mut bound = self.segment.relative(target);
        // Two wrong entries in a row: no help is to be expected from this index.
        for attempt in 0..2 {
            let entry = {
                let indexes = self.segment.indexes();
                let claim = |entry: &OffsetEntry| entry.relative_offset <= bound;
                indexes
                    .offsets
                    .last_where(claim)
                    .map_err(Error::io("read", &self.segment.paths.index))?
            };
            let Some(entry) = entry else {
                return Ok((Walk::begin(self), attempt > 0));
            };
            let position = u64::from(entry.position);
            let last_offset = self.segment.base + Offset::from(entry.relative_offset);
            if let Some(header) = self.header_at(position)?
                && header.last_offset() == last_offset
                && (self.segment.base..=last_offset).contains(&header.base_offset)
            {
                return Ok((Walk::from(self, position, header.base_offset), attempt > 0));
            }
            match entry.relative_offset.checked_sub(1) {
                Some(lower) => bound = lower,
                None => break,
            }
        }
        Ok((Walk::begin(self), true))
    }

    /// The bytes of a found batch.
    pub(super) fn batch(&self, found: &Found) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; found.header.total_bytes()];
        self.read_exact(&mut bytes, found.position)?;
        Ok(bytes)
    }

    /// Whether the body of a found batch matches its CRC.
    pub(super) fn is_intact(&self, found: &Found) -> Result<bool, Error> {
        let (mut at, end) = (found.position + COVERED_AT, found.end());
        let mut buffer = Buffer::take((end - at).min(PIECE_BYTES) as usize);
        let mut crc = 0;
        while at < end {
            let piece = (end - at).min(PIECE_BYTES) as usize;
            let piece = buffer.0.get_mut(..piece).unwrap_or_default();
            self.read_exact(piece, at)?;
            crc = crc32c::crc32c_append(crc, piece);
            at += piece.len() as u64;
        }
        Ok(crc == found.header.crc)
    }

    /// The damage that begins with the batch at `position`, which should have the base offset `from`.
    pub(super) fn damage(
        &self,
        position: u64,
        from: Offset,
        fault: Fault,
    ) -> Result<DamagedRange, Error> {
        let to = self.resume(position, from)?.map_or(self.next_offset, |(_, offset)| offset);
        Ok(DamagedRange { path: self.segment.paths.log.clone(), position, from, to, fault })
    }

    /// Position and base offset of the first batch behind the damaged one at `position` that can be trusted: the one
    /// behind it by its length, else the next one that the index knows.
    fn resume(&self, position: u64, from: Offset) -> Result<Option<(u64, Offset)>, Error> {
        if let Some(length) = self.length_at(position)? {
            let behind = position + length;
            if behind == self.bytes {
                return Ok(Some((behind, self.next_offset)));
            }
            if let Some(header) = self.trusted(behind, from)? {
                return Ok(Some((behind, header.base_offset)));
            }
        }
        let index_failed = || Error::io("read", &self.segment.paths.index);
        let mut at = {
            let indexes = self.segment.indexes();
            let claim = |entry: &OffsetEntry| u64::from(entry.position) <= position;
            indexes.offsets.count_where(claim).map_err(index_failed())?
        };
        loop {
            let entry = self.segment.indexes().offsets.get(at).map_err(index_failed())?;
            let Some(entry) = entry else { return Ok(None) };
            let last_offset = self.segment.base + Offset::from(entry.relative_offset);
            if let Some(header) = self.trusted(u64::from(entry.position), from)?
                && header.last_offset() == last_offset
            {
                return Ok(Some((u64::from(entry.position), header.base_offset)));
            }
            at += 1;
        }
    }

    /// The length of the batch at `position`, whatever else its header says.
    fn length_at(&self, position: u64) -> Result<Option<u64>, Error> {
        if position.checked_add(HEADER_BYTES as u64).is_none_or(|end| end > self.bytes) {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_BYTES];
        self.read_exact(&mut bytes, position)?;
        bytes[MAGIC_AT] = 2;
        Ok(BatchHeader::parse(&bytes).ok().map(|header| header.total_bytes() as u64))
    }

    /// The header of the batch at `position` if it is whole, intact and has offsets above `from`.
    pub(super) fn trusted(
        &self,
        position: u64,
        from: Offset,
    ) -> Result<Option<BatchHeader>, Error> {
        let Some(header) = self.header_at(position)? else { return Ok(None) };
        let plausible = header.base_offset > from
            && header.base_offset <= self.next_offset
            && header.last_offset_delta >= 0
            // The first batch beyond the view is a good place to stop.
            && (header.base_offset == self.next_offset || header.next_offset() <= self.next_offset)
            && header.total_bytes() as u64 <= self.bytes - position;
        if plausible && self.is_intact(&Found { position, header })? {
            return Ok(Some(header));
        }
        Ok(None)
    }
}

//! Reading a partition's segments without the log's lock.

use std::sync::Arc;

use bytes::Bytes;

use super::error::{DamagedRange, Error, Fault};
use super::segment::View;
use super::walk::{Found, Step, Walk};
use crate::disk::DiskFile;
use crate::record::{BatchHeader, HEADER_BYTES, crc_matches, visit_places};
use crate::types::Offset;
use crate::types::limits::RECORD_BATCH_BYTES;

/// A record found by its timestamp: offset, timestamp in milliseconds, leader epoch of its batch.
pub type Timestamped = (Offset, i64, i32);

/// What [`Reader::read_within`] found.
#[derive(Debug, Clone)]
pub enum Within {
    /// Whole batches in order; none where the log has none.
    Batches(Bytes),
    /// The same, where they lie.
    Located(Range),
    /// The first batch alone is longer. Nothing was read.
    TooLong {
        /// Its length.
        batch_bytes: usize,
    },
}

/// Whole batches in a file, all of which were checked, see [`Reader::locate_range`].
#[derive(Debug, Clone)]
pub struct Range {
    /// The segment. It stays readable as long as this is held, also when the segment is deleted meanwhile.
    pub file: Arc<dyn DiskFile>,
    /// Where the first batch begins.
    pub position: u64,
    /// Length of all batches together, one at least.
    pub bytes: usize,
    /// Offset behind the last batch.
    pub next_offset: Offset,
}

/// A log as it was when the reader was taken: what was appended later is not seen, what was deleted later is.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(super) sealed: Arc<Vec<View>>,
    pub(super) active: Option<View>,
    pub(super) front: Option<Arc<DamagedRange>>,
    pub(super) start: Offset,
    pub(super) end: Offset,
}

impl Reader {
    /// First offset that can be read.
    #[must_use]
    pub fn start_offset(&self) -> Offset {
        self.start
    }

    /// End of what can be read, exclusive.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.end
    }

    /// The same without the records below `offset`, which are deleted: their bytes may still be there.
    #[must_use]
    pub fn starting_at(mut self, offset: Offset) -> Self {
        self.start = self.start.max(offset).min(self.end);
        self
    }

    /// Whole batches in order, beginning with the one that has `from`, none with an offset at or above `upto`: as many
    /// as `max_bytes` hold, at least one, at most those of one segment. Empty if `from` is at or above `upto`. The
    /// header and the CRC of every batch were checked, in the bytes that are given.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless `start_offset() <= from <= end_offset()`. [`Error::Damaged`] if the batch with
    /// `from` is damaged; reading on from its `to` works. [`Error::Io`].
    pub fn read(&self, from: Offset, upto: Offset, max_bytes: usize) -> Result<Bytes, Error> {
        let Some((view, first)) = self.first(from, upto)? else { return Ok(Bytes::new()) };
        let max_bytes = max_bytes.min(RECORD_BATCH_BYTES);
        match view.locate_run(&first, upto, max_bytes)? {
            Some(range) => view.copy_run(&first, &range),
            None => Ok(Bytes::new()),
        }
    }

    /// As [`Reader::read`], but never more than `max_bytes`; and what has `located_bytes` at least is not copied, only
    /// found as by [`Reader::locate_range`].
    ///
    /// # Errors
    /// As of [`Reader::read`].
    pub fn read_within(
        &self,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
        located_bytes: usize,
    ) -> Result<Within, Error> {
        let nothing = Within::Batches(Bytes::new());
        let Some((view, first)) = self.first(from, upto)? else { return Ok(nothing) };
        let batch_bytes = first.header.total_bytes();
        if batch_bytes > max_bytes {
            return Ok(Within::TooLong { batch_bytes });
        }
        match view.locate_run(&first, upto, max_bytes)? {
            Some(range) if range.bytes >= located_bytes => Ok(Within::Located(range)),
            Some(range) => view.copy_run(&first, &range).map(Within::Batches),
            None => Ok(nothing),
        }
    }

    /// As [`Reader::locate_range`], but only where `least` bytes at least can be given at once: what is asked for begins where
    /// a read ended, was checked before, and the headers are in memory. None in all other cases.
    #[must_use]
    pub fn range_at_hand(
        &self,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
        least: usize,
    ) -> Option<Range> {
        let damaged = self.front.as_deref().is_some_and(|front| from < front.to);
        if damaged || from < self.start || from >= upto.min(self.end) {
            return None;
        }
        self.view_of(from)?.run_at_hand(from, upto, max_bytes, least)
    }

    /// Where the batches lie that [`Reader::read`] would give, for a copy from file to socket that this process does not
    /// see. None if `from` is at or above `upto`. Headers are checked each time; bodies the first time after the segment
    /// was opened, and not where this process wrote them: what the disk does to them later is for the reader's own
    /// check of the CRC.
    ///
    /// # Errors
    /// As of [`Reader::read`].
    pub fn locate_range(
        &self,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
    ) -> Result<Option<Range>, Error> {
        match self.first(from, upto)? {
            Some((view, first)) => view.locate_run(&first, upto, max_bytes),
            None => Ok(None),
        }
    }

    /// Whether all of the next `bytes` behind `range` were checked before.
    #[must_use]
    pub fn is_checked_behind(&self, range: &Range, bytes: usize) -> bool {
        let (mut next, mut left) = (range.next_offset, bytes as u64);
        let mut begin = range.position + range.bytes as u64;
        while next < self.end && left > 0 {
            let Some(view) = self.view_of(next) else { break };
            if next == view.segment.base {
                begin = 0;
            }
            let end = view.bytes.min(begin + left);
            if !view.segment.proved.covers(begin, end) {
                return false;
            }
            left -= end.saturating_sub(begin).min(left);
            next = view.next_offset;
        }
        true
    }

    /// Checks the next `bytes` behind `range`, whole batches, as a read of them would. Ends at the first that is damaged or
    /// cannot be read: who reads it is told.
    pub fn check_behind(&self, range: &Range, upto: Offset, bytes: usize) {
        let (mut next, mut left) = (range.next_offset, bytes);
        while left > 0 {
            let Ok(Some((view, first))) = self.first(next, upto) else { return };
            let Ok(Some(last)) = view.last_of_run(&first, upto, left) else { return };
            left = left.saturating_sub((last.end() - first.position) as usize);
            next = last.header.next_offset();
            if next < view.next_offset {
                return;
            }
        }
    }

    /// The batch that has `from`, if all of it lies below `upto`.
    fn first(&self, from: Offset, upto: Offset) -> Result<Option<(&View, Found)>, Error> {
        let (start, end) = (self.start, self.end);
        if from < start || from > end {
            return Err(Error::OutOfRange { requested: from, start, end });
        }
        if from >= upto.min(end) {
            return Ok(None);
        }
        if let Some(front) = self.front.as_deref().filter(|front| from < front.to) {
            return Err(front.clone().into());
        }
        let Some(view) = self.view_of(from) else {
            return Err(Error::OutOfRange { requested: from, start, end });
        };
        let first = view.locate_surely(from)?;
        Ok((first.header.next_offset() <= upto).then_some((view, first)))
    }

    /// The first record below `upto` whose timestamp is `timestamp_ms` or later. Timestamps need not be in order.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a batch that may have the record is damaged, [`Error::Undecodable`] if its records are
    /// nonsense. [`Error::Io`].
    pub fn offset_for_timestamp(
        &self,
        timestamp_ms: i64,
        upto: Offset,
    ) -> Result<Option<Timestamped>, Error> {
        for view in self.views_below(upto) {
            if view.highest.is_none_or(|highest| highest.timestamp < timestamp_ms) {
                continue;
            }
            let (mut walk, _) = view.walk_towards(view.time_floor(timestamp_ms)?)?;
            while let Some(found) = walk.next_batch()? {
                if found.header.next_offset() > upto {
                    return Ok(None);
                }
                if let Some(damage) = view.prove(&found)? {
                    return Err(damage.into());
                }
                if found.header.max_timestamp < timestamp_ms {
                    continue;
                }
                let mut first = None;
                visit_timestamps(view, &found, |offset, timestamp| {
                    if first.is_none() && offset >= self.start && timestamp >= timestamp_ms {
                        first = Some((offset, timestamp));
                    }
                })?;
                if let Some((offset, timestamp)) = first {
                    return Ok(Some((offset, timestamp, found.header.leader_epoch)));
                }
            }
        }
        Ok(None)
    }

    /// The first record below `upto` with the highest timestamp there; none if no record has a timestamp.
    ///
    /// # Errors
    /// As of [`Reader::offset_for_timestamp`].
    pub fn max_timestamp(&self, upto: Offset) -> Result<Option<Timestamped>, Error> {
        let mut best: Option<(&View, Found, i64)> = None;
        for view in self.views_below(upto) {
            let beaten = |timestamp: i64| best.is_some_and(|(_, _, best)| best >= timestamp);
            let Some(highest) = view.highest else { continue };
            if beaten(highest.timestamp) {
                continue;
            }
            if highest.last_offset < upto && highest.last_offset >= self.start {
                let found = view.locate(highest.last_offset)?;
                if found.header.base_offset >= self.start {
                    best = Some((view, found, found.header.max_timestamp));
                    continue;
                }
            }
            // The highest of this segment may lie beyond the bounds: the part between has to be looked through.
            let (mut walk, _) = view.walk_towards(view.segment.base.max(self.start))?;
            while let Some(found) = walk.next_batch()? {
                if found.header.next_offset() > upto {
                    break;
                }
                if found.header.next_offset() <= self.start {
                    continue;
                }
                if let Some(damage) = view.prove(&found)? {
                    return Err(damage.into());
                }
                let timestamp = self.highest_of(view, &found)?;
                if best.is_none_or(|(_, _, best)| best < timestamp) {
                    best = Some((view, found, timestamp));
                }
            }
        }
        let Some((view, found, _)) = best.filter(|(_, _, timestamp)| *timestamp >= 0) else {
            return Ok(None);
        };
        let mut highest = None;
        visit_timestamps(view, &found, |offset, timestamp| {
            if offset >= self.start && highest.is_none_or(|(_, best)| best < timestamp) {
                highest = Some((offset, timestamp));
            }
        })?;
        Ok(highest.map(|(offset, timestamp)| (offset, timestamp, found.header.leader_epoch)))
    }

    /// The highest timestamp of what can be read of a batch.
    fn highest_of(&self, view: &View, found: &Found) -> Result<i64, Error> {
        if found.header.base_offset >= self.start {
            return Ok(found.header.max_timestamp);
        }
        let mut highest = -1;
        visit_timestamps(view, found, |offset, timestamp| {
            if offset >= self.start {
                highest = highest.max(timestamp);
            }
        })?;
        Ok(highest)
    }

    /// Those that hold anything to be read below `upto`.
    fn views_below(&self, upto: Offset) -> impl Iterator<Item = &View> {
        let from = self.start;
        self.views().filter(move |view| view.next_offset > from && view.segment.base < upto)
    }

    /// The log's directory is about to be removed by somebody else, and perhaps to be another log's. Waits for readers who
    /// mend something or make a sidecar there; none does afterwards.
    pub fn leave(&self) {
        self.views().for_each(|view| view.segment.leave());
    }

    fn views(&self) -> impl Iterator<Item = &View> {
        self.sealed.iter().chain(&self.active)
    }

    pub(super) fn view_of(&self, offset: Offset) -> Option<&View> {
        let sealed = self.sealed.partition_point(|view| view.next_offset <= offset);
        self.sealed.get(sealed).or(self.active.as_ref())
    }
}

impl View {
    /// See [`Reader::locate_range`].
    fn locate_run(
        &self,
        first: &Found,
        upto: Offset,
        max_bytes: usize,
    ) -> Result<Option<Range>, Error> {
        let Some(last) = self.last_of_run(first, upto, max_bytes)? else { return Ok(None) };
        let file = &self.segment.file;
        let pinned = file.pinned().map_err(Error::io("open", &self.segment.paths.log))?;
        self.segment.ends.add(last.header.next_offset(), last.end());
        Ok(Some(Range {
            file: pinned.unwrap_or_else(|| Arc::clone(file)),
            position: first.position,
            bytes: (last.end() - first.position) as usize,
            next_offset: last.header.next_offset(),
        }))
    }

    /// The bytes of a run, checked as they are now.
    fn copy_run(&self, first: &Found, range: &Range) -> Result<Bytes, Error> {
        let mut bytes = vec![0; range.bytes];
        self.read_exact(&mut bytes, range.position)?;
        let good = good_prefix(&bytes, first.header.base_offset, range.next_offset);
        if good == 0 {
            let Found { position, header } = first;
            return Err(self.damage(*position, header.base_offset, Fault::Checksum)?.into());
        }
        bytes.truncate(good);
        Ok(bytes.into())
    }

    /// The last of the batches from `first` on that are below `upto`, intact, and together no longer than `max_bytes`,
    /// where the first may be. None if not even that is below `upto`.
    fn last_of_run(
        &self,
        first: &Found,
        upto: Offset,
        max_bytes: usize,
    ) -> Result<Option<Found>, Error> {
        let wanted = first.end().max(first.position.saturating_add(max_bytes as u64));
        self.prove_range(first.position, wanted.min(self.bytes))?;
        let mut walk = Walk::from(self, first.position, first.header.base_offset);
        let mut last: Option<Found> = None;
        loop {
            let damage = match walk.next()? {
                Step::Batch(found) => {
                    let fits = found.end() - first.position <= max_bytes as u64;
                    if found.header.next_offset() > upto || !(fits || last.is_none()) {
                        return Ok(last);
                    }
                    let Some(damage) = self.prove(&found)? else {
                        last = Some(found);
                        continue;
                    };
                    damage
                }
                Step::Damaged(damage) => damage,
                Step::End => return Ok(last),
            };
            return if last.is_some() { Ok(last) } else { Err(damage.into()) };
        }
    }

    /// An offset before which every batch of this segment is older than `timestamp_ms`.
    fn time_floor(&self, timestamp_ms: i64) -> Result<Offset, Error> {
        let entry = {
            let indexes = self.segment.indexes();
            let found = indexes.times.last_where(|entry| entry.timestamp <= timestamp_ms);
            found.map_err(Error::io("read", &self.segment.paths.time_index))?
        };
        let base = self.segment.base;
        let Some(entry) = entry else { return Ok(base) };
        let offset = base + Offset::from(entry.relative_offset);
        if offset >= self.next_offset {
            return Ok(base);
        }
        // A damaged batch or a wrong entry: the long way finds out.
        match self.locate(offset) {
            Ok(found) if found.header.max_timestamp == entry.timestamp => {
                Ok(found.header.base_offset)
            }
            Ok(_) | Err(Error::Damaged { .. }) => Ok(base),
            Err(error) => Err(error),
        }
    }
}

/// Length of the batches at the front of `bytes` that are whole, continuous from `expected`, below `upto`, and intact.
pub(super) fn good_prefix(bytes: &[u8], mut expected: Offset, upto: Offset) -> usize {
    let mut good = 0;
    while let Some(rest) = bytes.get(good..).filter(|rest| rest.len() >= HEADER_BYTES) {
        let Ok(header) = BatchHeader::parse(rest) else { break };
        let Some(batch) = rest.get(..header.total_bytes()) else { break };
        if header.base_offset != expected
            || header.last_offset_delta < 0
            || header.next_offset() > upto
            || !crc_matches(batch)
        {
            break;
        }
        good += batch.len();
        expected = header.next_offset();
    }
    good
}

/// Tells `visit` offset and timestamp of each record of a batch, in order.
fn visit_timestamps(
    view: &View,
    found: &Found,
    mut visit: impl FnMut(Offset, i64),
) -> Result<(), Error> {
    let header = &found.header;
    let batch = view.batch(found)?;
    if !crc_matches(&batch) {
        return Err(view.damage(found.position, header.base_offset, Fault::Checksum)?.into());
    }
    visit_places(&batch, header, |_, place| {
        let offset = header.base_offset + Offset::from(place.offset_delta);
        visit(offset, header.timestamp_of(place.timestamp_delta));
        Ok(())
    })
    .map_err(|source| Error::Undecodable {
        path: view.segment.paths.log.clone(),
        base_offset: header.base_offset,
        source,
    })
}

#[cfg(test)]
mod tests;

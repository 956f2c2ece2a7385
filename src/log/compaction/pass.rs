//! One pass over a log: what goes, segment by segment. Drawn in [`crate::log::compaction`].

use std::collections::HashMap;
use std::sync::Arc;

use super::extents::Extents;
use super::keys::NewestOffsets;
use super::output::Output;
use super::replacement::Replacement;
use crate::log::config::Config;
use crate::log::error::{Error, Fault};
use crate::log::reader::Reader;
use crate::log::segment::{Paths, View};
use crate::log::walk::{Found, Walk};
use crate::record::vdisk::StoredBlock;
use crate::record::{
    BatchHeader, Record, Records, Remains, crc_matches, emptied, plain_records, retain,
};
use crate::types::Offset;
use crate::types::limits::{COMPACTION_EXTENTS, COMPACTION_KEYS, COMPACTION_RECORDS};

/// Bytes read at once on the way from batch to batch.
const WINDOW_BYTES: u64 = 64 * 1024;

/// Batches of more records stay as they are: a small one may expand to millions, each of which takes some hundred bytes
/// while it is judged.
const BATCH_RECORDS: i32 = 256 * 1024;

/// What makes a record needless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A newer record of the same key.
    Key,
    /// Newer records over all of its bytes: for the topic of a vdisk.
    Extent,
}

/// By what a pass goes.
#[derive(Debug, Clone)]
pub struct Rules {
    /// What makes a record needless.
    pub by: By,
    /// The time, in milliseconds since 1970.
    pub now_ms: i64,
    /// How long a deletion stays after it was first met. Kafka: `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// Whether deletions ever go. Not where older records are elsewhere only, as in the tier: they would come back.
    pub drops_deletions: bool,
    /// Where records are kept elsewhere too, as in the tier: below this offset those are just what this log has. What a
    /// deletion deletes must be gone there before it goes here.
    pub kept_elsewhere: Option<Offset>,
    /// Base offset of the newest batch of each idempotent producer.
    pub producers: HashMap<i64, Offset>,
    /// Of the segments that are written: neighbours that are small together become one.
    pub config: Config,
}

/// What a pass may hold in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) keys: usize,
    pub(super) extents: usize,
    pub(super) records: usize,
}

const BOUNDS: Bounds =
    Bounds { keys: COMPACTION_KEYS, extents: COMPACTION_EXTENTS, records: COMPACTION_RECORDS };

/// A pass under way. Reads, and writes files under names that nobody looks at; what it gives is put in place by
/// [`Log::begin_replacement`](crate::log::Log::begin_replacement) and what follows there.
#[derive(Debug)]
pub struct Pass {
    rules: Rules,
    /// What is still to be compacted, oldest first. What is done is let go of, and with it the room of what was replaced.
    views: Vec<View>,
    clean_upto: Offset,
    fates: Fates,
    /// A batch was met that cannot be judged: no deletion above it goes.
    unjudged: bool,
}

/// What was found out about records before anything is written.
#[derive(Debug)]
enum Fates {
    ByKey(NewestOffsets),
    /// Of each view.
    ByExtent(Vec<Doomed>),
}

/// Offsets of records of one segment less its base, rising.
#[derive(Debug, Default)]
struct Doomed {
    /// They go.
    now: Vec<u32>,
    /// Zeroings that go once their horizon has passed.
    later: Vec<u32>,
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    /// It is a deletion that goes when the horizon has passed.
    Ages,
    Goes,
}

impl Pass {
    /// Looks through the sealed segments of `reader` that end at or below `upto`, of which everything below `clean_upto`
    /// was compacted before. None if there is nothing that was not.
    ///
    /// # Errors
    /// [`Error::Damaged`]: nothing may go while it is not known what stands there. [`Error::Io`].
    pub fn begin(
        reader: &Reader,
        clean_upto: Offset,
        upto: Offset,
        rules: Rules,
    ) -> Result<Option<Self>, Error> {
        Self::bounded(reader, (clean_upto, upto), rules, BOUNDS)
    }

    pub(super) fn bounded(
        reader: &Reader,
        (clean_upto, upto): (Offset, Offset),
        rules: Rules,
        bounds: Bounds,
    ) -> Result<Option<Self>, Error> {
        if let Some(front) = reader.front.as_deref() {
            return Err(front.clone().into());
        }
        let count = reader.sealed.partition_point(|view| view.next_offset <= upto);
        let views = reader.sealed.get(..count).unwrap_or_default().to_vec();
        let Some(end) = views.last().map(|view| view.next_offset).filter(|end| *end > clean_upto)
        else {
            return Ok(None);
        };
        let (fates, clean_upto) = match rules.by {
            By::Key => {
                let (newest, upto) = newest_offsets(&views, clean_upto, end, bounds.keys)?;
                (Fates::ByKey(newest), upto)
            }
            By::Extent => (Fates::ByExtent(Cover::new(&views, &rules, bounds).judge()?), end),
        };
        Ok(Some(Self { rules, views, clean_upto, fates, unjudged: false }))
    }

    /// Everything below is clean once the last replacement is in place.
    #[must_use]
    pub fn clean_upto(&self) -> Offset {
        self.clean_upto
    }

    /// Goes on up to the next segments that change, and writes what is left of them. None at the end.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`]. The pass is to be given up then: what it gave so far is right by itself.
    pub fn step(&mut self) -> Result<Option<Replacement>, Error> {
        while !self.views.is_empty() {
            let count = self.group();
            let is_merged = count > 1;
            let replacement =
                if is_merged || self.changes(0)? { Some(self.write(count)?) } else { None };
            self.views.drain(..count);
            if let Fates::ByExtent(doomed) = &mut self.fates {
                doomed.drain(..count);
            }
            if replacement.is_some() {
                return Ok(replacement);
            }
        }
        Ok(None)
    }

    /// How many of the segments that come next fit one.
    fn group(&self) -> usize {
        let rest = &self.views;
        let Some(first) = rest.first() else { return 0 };
        let mut bytes = 0;
        let fits = |view: &&View| {
            bytes += view.bytes;
            self.rules.config.fits(bytes, 0) && first.reaches(view.next_offset)
        };
        rest.iter().take_while(fits).count().max(1)
    }

    /// Whether anything of a segment goes or gets a horizon.
    fn changes(&mut self, at: usize) -> Result<bool, Error> {
        let Some(view) = self.views.get(at).cloned() else { return Ok(false) };
        let mut walk = Walk::begin(&view).with_window(WINDOW_BYTES);
        while let Some(found) = walk.next_batch()? {
            let batch = proved(&view, &found)?;
            if self.left(at, &found.header, &batch)? != Remains::Unchanged {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is left of the first `count` segments, in one file. Where that fails nothing of it is left.
    fn write(&mut self, count: usize) -> Result<Replacement, Error> {
        let old = self.views.get(..count).unwrap_or_default().to_vec();
        let place = old.first().map(|view| Arc::clone(&view.segment));
        let written = self.write_out(old);
        if let (Err(_), Some(segment)) = (&written, place)
            && let Some(dir) = segment.paths.log.parent()
        {
            // What cannot be removed goes when the partition is opened again.
            Paths::beside(dir, segment.base).remove(segment.disk.as_ref()).ok();
        }
        written
    }

    fn write_out(&mut self, old: Vec<View>) -> Result<Replacement, Error> {
        let mut output = Output::create(&old, &self.rules.config)?;
        for (at, view) in old.iter().enumerate() {
            let mut walk = Walk::begin(view).with_window(WINDOW_BYTES);
            while let Some(found) = walk.next_batch()? {
                let batch = proved(view, &found)?;
                let header = &found.header;
                match self.left(at, header, &batch)? {
                    Remains::Unchanged => output.batch(header, &batch)?,
                    Remains::Batch(left) => output.batch(header, &left)?,
                    Remains::Nothing if self.is_newest_of_producer(header) => {
                        output.batch(header, &emptied(header))?;
                    }
                    Remains::Nothing => output.gap(header)?,
                }
            }
        }
        output.finish(old)
    }

    fn is_newest_of_producer(&self, header: &BatchHeader) -> bool {
        let newest = self.rules.producers.get(&header.producer_id);
        newest.is_some_and(|newest| *newest <= header.base_offset)
    }

    /// What stays of a batch of the segment `at`. An empty batch that nobody needs is nothing, and changes once; a gap is
    /// unchanged.
    fn left(&mut self, at: usize, header: &BatchHeader, batch: &[u8]) -> Result<Remains, Error> {
        if header.is_control() || header.is_transactional() {
            self.unjudged = true;
            return Ok(Remains::Unchanged);
        }
        if header.record_count == 0 {
            let stays = header.is_gap() || self.is_newest_of_producer(header);
            return Ok(if stays { Remains::Unchanged } else { Remains::Nothing });
        }
        if header.record_count > BATCH_RECORDS {
            return Ok(self.cannot_judge());
        }
        let mut ages = false;
        let base = header.base_offset;
        let Ok(plain) = plain_records(batch, header) else { return Ok(self.cannot_judge()) };
        let mut goes = Vec::new();
        for record in Records::new(&plain, header) {
            let Ok(record) = record else { return Ok(self.cannot_judge()) };
            let offset = base + Offset::from(record.offset_delta);
            match self.fate(at, header, offset, &record) {
                Fate::Stays => {}
                Fate::Ages => ages = true,
                Fate::Goes => goes.push(record.offset_delta),
            }
        }
        let horizon_ms = self.rules.now_ms.saturating_add(self.rules.delete_retention_ms);
        let keep = |record: &Record<'_>| goes.binary_search(&record.offset_delta).is_err();
        Ok(retain(header, &plain, ages.then_some(horizon_ms), keep)
            .unwrap_or_else(|_| self.cannot_judge()))
    }

    fn cannot_judge(&mut self) -> Remains {
        self.unjudged = true;
        Remains::Unchanged
    }

    fn fate(&self, at: usize, header: &BatchHeader, offset: Offset, record: &Record<'_>) -> Fate {
        match &self.fates {
            Fates::ByExtent(doomed) => {
                let Some((view, doomed)) = self.views.get(at).zip(doomed.get(at)) else {
                    return Fate::Stays;
                };
                let relative = view.segment.relative(offset);
                if doomed.now.binary_search(&relative).is_ok() {
                    Fate::Goes
                } else if doomed.later.binary_search(&relative).is_ok() {
                    Fate::Ages
                } else {
                    Fate::Stays
                }
            }
            Fates::ByKey(newest) => match record.key {
                None => Fate::Stays,
                Some(key) if newest.is_superseded(key, offset) => Fate::Goes,
                // What lies above was not looked at: it may be deleted there what this pass leaves below.
                Some(_) if record.value.is_some() || offset >= self.clean_upto => Fate::Stays,
                Some(_) => self.rules.fate_of_deletion(header, offset, self.unjudged),
            },
        }
    }
}

impl Rules {
    /// What becomes of a deletion under which nothing is left.
    fn fate_of_deletion(&self, header: &BatchHeader, offset: Offset, unjudged: bool) -> Fate {
        match header.delete_horizon_ms() {
            _ if !self.drops_deletions || unjudged => Fate::Stays,
            Some(horizon_ms) if self.is_over(offset, horizon_ms) => Fate::Goes,
            Some(_) | None => Fate::Ages,
        }
    }

    /// Whether a deletion under which nothing is left has been there for long enough.
    fn is_over(&self, offset: Offset, horizon_ms: i64) -> bool {
        horizon_ms <= self.now_ms && self.kept_elsewhere.is_none_or(|same| offset < same)
    }
}

/// The bytes of a batch whose header was checked.
fn proved(view: &View, found: &Found) -> Result<Vec<u8>, Error> {
    if let Some(damage) = view.prove(found)? {
        return Err(damage.into());
    }
    // As it is now: what was proved is what was written, and a new checksum will stand over what is read here.
    let batch = view.batch(found)?;
    if !crc_matches(&batch) {
        let base = found.header.base_offset;
        return Err(view.damage(found.position, base, Fault::Checksum)?.into());
    }
    Ok(batch)
}

/// The newest offset of each key from `from` up to `end`, or up to where no further key had room.
fn newest_offsets(
    views: &[View],
    from: Offset,
    end: Offset,
    most: usize,
) -> Result<(NewestOffsets, Offset), Error> {
    let mut newest = NewestOffsets::new(most);
    for view in views.iter().filter(|view| view.next_offset > from) {
        let (mut walk, _) = view.walk_towards(from.max(view.segment.base))?;
        while let Some(found) = walk.next_batch()? {
            let header = &found.header;
            if header.next_offset() <= from || header.is_control() || header.is_transactional() {
                continue;
            }
            let batch = proved(view, &found)?;
            let Ok(plain) = plain_records(&batch, header) else { continue };
            // Twice over, for all of them at once may take much memory.
            if !Records::new(&plain, header).all(|record| record.is_ok()) {
                continue;
            }
            for record in Records::new(&plain, header).filter_map(Result::ok) {
                let offset = header.base_offset + Offset::from(record.offset_delta);
                if offset >= from
                    && let Some(key) = record.key
                    && !newest.note(key, offset)
                {
                    return Ok((newest, offset));
                }
            }
        }
    }
    Ok((newest, end))
}

/// A record of a vdisk, for the look at what covers what.
#[derive(Debug, Clone, Copy)]
struct Write {
    relative: u32,
    start: u64,
    end: u64,
    is_zeroing: bool,
    /// Of its batch.
    horizon_ms: Option<i64>,
}

/// Which records of a vdisk go.
struct Cover<'a> {
    views: &'a [View],
    rules: &'a Rules,
    bounds: Bounds,
    /// So many more may be named.
    room: usize,
    /// Of each view.
    doomed: Vec<Doomed>,
    /// Bytes that records above have.
    covered: Extents,
    /// Length of the disk, and the newest record that reaches so far.
    reach: Option<(u64, Offset)>,
    unjudged: bool,
}

impl<'a> Cover<'a> {
    fn new(views: &'a [View], rules: &'a Rules, bounds: Bounds) -> Self {
        let doomed = views.iter().map(|_| Doomed::default()).collect();
        let (room, covered) = (bounds.records, Extents::new(bounds.extents));
        let (reach, unjudged) = (None, false);
        Self { views, rules, bounds, room, doomed, covered, reach, unjudged }
    }

    fn judge(mut self) -> Result<Vec<Doomed>, Error> {
        for at in (0..self.views.len()).rev() {
            self.backwards(at)?;
        }
        if self.rules.drops_deletions && !self.unjudged {
            self.bare_zeroings()?;
        }
        Ok(self.doomed)
    }

    /// From the newest record of a segment to the oldest: which are covered.
    fn backwards(&mut self, at: usize) -> Result<(), Error> {
        let Some(view) = self.views.get(at) else { return Ok(()) };
        let mut positions = Vec::new();
        let mut walk = Walk::begin(view).with_window(WINDOW_BYTES);
        while let Some(found) = walk.next_batch()? {
            // Positions of a segment are below 2^31, as its index has them.
            positions.extend(u32::try_from(found.position).ok());
        }
        let mut now = Vec::new();
        for position in positions.into_iter().rev().map(u64::from) {
            let Some(header) = view.header_at(position)? else { continue };
            let (writes, judged) = writes_of(view, &Found { position, header })?;
            self.unjudged |= !judged;
            for write in writes.iter().rev() {
                if self.is_covered(write) && self.room > 0 {
                    self.room -= 1;
                    now.push(write.relative);
                } else {
                    // Without room less is known to be covered, and more stays.
                    self.covered.add(write.start, write.end);
                    if self.reach.is_none_or(|(reach, _)| write.end > reach) {
                        let offset = view.segment.base + Offset::from(write.relative);
                        self.reach = Some((write.end, offset));
                    }
                }
            }
        }
        now.reverse();
        if let Some(doomed) = self.doomed.get_mut(at) {
            doomed.now = now;
        }
        Ok(())
    }

    fn is_covered(&self, write: &Write) -> bool {
        // One without any bytes can still be what makes the disk as long as it is.
        let reached = self.reach.is_some_and(|(reach, _)| write.end <= reach);
        reached && self.covered.cover(write.start, write.end)
    }

    /// From the oldest record to the newest: which zeroings have no data below them.
    fn bare_zeroings(&mut self) -> Result<(), Error> {
        let mut data = Extents::new(self.bounds.extents);
        let longest = self.reach.map(|(_, offset)| offset);
        for (view, doomed) in self.views.iter().zip(&mut self.doomed) {
            let mut bare = Vec::new();
            let mut walk = Walk::begin(view).with_window(WINDOW_BYTES);
            while let Some(found) = walk.next_batch()? {
                for write in writes_of(view, &found)?.0 {
                    let Write { relative, start, end, is_zeroing, horizon_ms } = write;
                    // What goes with this pass stays elsewhere until after it.
                    let goes = doomed.now.binary_search(&relative).is_ok();
                    if goes && (is_zeroing || self.rules.kept_elsewhere.is_none()) {
                        continue;
                    }
                    if !is_zeroing && !data.add(start, end) {
                        // From here on nobody knows what is bare.
                        doomed.take_in(bare);
                        return Ok(());
                    }
                    let offset = view.segment.base + Offset::from(relative);
                    let stays = longest == Some(offset) || data.touch(start, end);
                    if !is_zeroing || stays || self.room == 0 {
                        continue;
                    }
                    self.room -= 1;
                    if horizon_ms.is_some_and(|horizon| self.rules.is_over(offset, horizon)) {
                        bare.push(relative);
                    } else {
                        doomed.later.push(relative);
                    }
                }
            }
            doomed.take_in(bare);
        }
        Ok(())
    }
}

impl Doomed {
    fn take_in(&mut self, more: Vec<u32>) {
        self.now.extend(more);
        self.now.sort_unstable();
    }
}

/// The records of a batch as what they write, and whether each of them is known for that.
fn writes_of(view: &View, found: &Found) -> Result<(Vec<Write>, bool), Error> {
    let header = &found.header;
    if header.is_control() || header.is_transactional() {
        return Ok((Vec::new(), false));
    }
    if header.record_count == 0 {
        return Ok((Vec::new(), true));
    }
    let batch = proved(view, found)?;
    let Ok(plain) = plain_records(&batch, header) else { return Ok((Vec::new(), false)) };
    let mut writes = Vec::new();
    let mut judged = true;
    for record in Records::new(&plain, header) {
        let Ok(record) = record else { return Ok((Vec::new(), false)) };
        let Ok(block) = StoredBlock::parse(&record) else {
            judged = false;
            continue;
        };
        let offset = header.base_offset + Offset::from(record.offset_delta);
        // A record's data may be shorter than the size that its client gave: only the data is written.
        let covered = block.data.map_or(block.size, |data| data.len() as u64);
        writes.push(Write {
            relative: view.segment.relative(offset),
            start: block.start,
            end: block.start.saturating_add(covered),
            is_zeroing: block.data.is_none(),
            horizon_ms: header.delete_horizon_ms(),
        });
    }
    Ok((writes, judged))
}

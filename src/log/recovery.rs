//! Opening a directory: what is above the recovery point is cut, what is missing below it is named, indexes that do
//! not match are made anew.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::config::Config;
use super::error::{Error, Fault, MetaFault};
use super::index::Index;
use super::offset_index::OffsetEntry;
use super::partition_meta::{self, Meta};
use super::segment::{Highest, Indexes, Paths, Segment, View, base_offset_of};
use super::time_index::TimeEntry;
use super::walk::Walk;
use crate::disk::{Disk, OpenMode};
use crate::types::{Offset, TopicPartition};

/// What was found, and what has to be synced because of what was done.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) sealed: Vec<View>,
    pub(super) active: Option<View>,
    /// Whether the partition's directory exists.
    pub(super) dir_exists: bool,
    /// Segments that were changed.
    pub(super) dirty: Vec<Arc<Segment>>,
    /// Entries of the directory were changed.
    pub(super) dir_changed: bool,
    /// The directory itself was removed.
    pub(super) parent_changed: bool,
}

/// Opens the directory of `id`, see [`Log::open`](super::Log::open).
pub(super) fn recover(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    id: TopicPartition,
    (start, end): (Offset, Offset),
    config: &Config,
) -> Result<Recovered, Error> {
    if end < start {
        return Err(Error::BadRange { id, start, end });
    }
    let mut recovered = Recovered::default();
    let missing = |from| Error::Missing { path: dir.to_owned(), from, to: end };
    let names = match disk.list(dir) {
        Ok(names) => Some(names),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Error::io("list", dir)(error)),
    };
    let Some(names) = names else {
        return if start == end { Ok(recovered) } else { Err(missing(start)) };
    };
    let ours = match partition_meta::read(disk.as_ref(), dir)? {
        Meta::Of(found) => found == id,
        // Created after the last checkpoint, and not wholly: nothing in it counts.
        Meta::Unknown(MetaFault::Absent | MetaFault::Damaged) if start == end => false,
        Meta::Unknown(fault) => {
            return Err(Error::Meta { path: partition_meta::path(dir), fault });
        }
    };
    if !ours {
        // Where data of ours should be, somebody else's is left for a person to look at.
        if start < end {
            return Err(missing(start));
        }
        disk.remove_dir_all(dir).map_err(Error::io("remove", dir))?;
        recovered.parent_changed = true;
        return Ok(recovered);
    }
    recovered.dir_exists = true;
    let mut bases: Vec<Offset> = names.iter().filter_map(|name| base_offset_of(name)).collect();
    bases.sort_unstable();
    for name in names.iter().filter(|name| is_orphan(name, &bases)) {
        let path = dir.join(name);
        disk.remove_file(&path).map_err(Error::io("remove", &path))?;
        recovered.dir_changed = true;
    }
    let kept = bases.partition_point(|base| *base < end);
    for base in bases.split_off(kept) {
        Paths::new(dir, base).remove(disk.as_ref())?;
        recovered.dir_changed = true;
    }
    let opening = Opening { disk, dir, config, start };
    opening.segments(&bases, end, &mut recovered)?;
    if recovered.active.is_some() {
        return Ok(recovered);
    }
    if start < end {
        return Err(missing(start));
    }
    // The sync of a new directory may have failed, and then what the page cache shows of it is not believed.
    disk.remove_dir_all(dir).map_err(Error::io("remove", dir))?;
    Ok(Recovered { parent_changed: true, ..Recovered::default() })
}

/// Whether this is an index without its segment: an unlink was lost in a crash.
fn is_orphan(name: &str, bases: &[Offset]) -> bool {
    let stem = name.strip_suffix(".index").or_else(|| name.strip_suffix(".timeindex"));
    let base = stem.and_then(|stem| base_offset_of(&format!("{stem}.log")));
    base.is_some_and(|base| bases.binary_search(&base).is_err())
}

struct Opening<'a> {
    disk: &'a Arc<dyn Disk>,
    dir: &'a Path,
    config: &'a Config,
    start: Offset,
}

impl Opening<'_> {
    /// Opens the segments at `bases`, which together should reach up to `end`.
    fn segments(
        &self,
        bases: &[Offset],
        end: Offset,
        recovered: &mut Recovered,
    ) -> Result<(), Error> {
        let mut views = Vec::with_capacity(bases.len());
        for (i, &base) in bases.iter().enumerate() {
            let next_base = bases.get(i + 1).copied();
            let limit = next_base.unwrap_or(end);
            match self.segment(base, limit, next_base.is_none(), recovered)? {
                Opened::Whole(view) => views.push(view),
                // Deleted before, and some unlinks were lost in a crash.
                Opened::Short { .. } if limit <= self.start => {
                    for base in views.drain(..).map(|view: View| view.segment.base).chain([base]) {
                        Paths::new(self.dir, base).remove(self.disk.as_ref())?;
                    }
                    recovered.dirty.retain(|segment| segment.base > base);
                    recovered.dir_changed = true;
                }
                Opened::Short { ends } => {
                    let path = Paths::new(self.dir, base).log;
                    return Err(Error::Missing { path, from: ends, to: limit });
                }
            }
        }
        // The last one goes on growing.
        recovered.active = match bases.last() {
            Some(last) if views.last().is_some_and(|view| view.segment.base == *last) => {
                views.pop()
            }
            _ => None,
        };
        recovered.sealed = views;
        Ok(())
    }

    /// Opens one segment that should reach from `base` up to `limit`. The `last` one is cut there and made ready to
    /// grow.
    fn segment(
        &self,
        base: Offset,
        limit: Offset,
        last: bool,
        recovered: &mut Recovered,
    ) -> Result<Opened, Error> {
        let paths = Paths::new(self.dir, base);
        let mode = if last { OpenMode::Write } else { OpenMode::Read };
        let file = self.disk.open(&paths.log, mode).map_err(Error::io("open", &paths.log))?;
        let length = file.len().map_err(Error::io("read the length of", &paths.log))?;
        let loaded =
            if last { self.load(&paths, base, limit, length)? } else { self.sealed(&paths)? };
        let rebuild = loaded.is_none();
        let indexes = loaded.unwrap_or_else(|| Indexes::growing(self.disk, &paths));
        let interval_bytes = self.config.index_interval_bytes;
        let segment = Segment::new(base, paths.clone(), file, interval_bytes, indexes);
        let mut view = View { segment, bytes: length, next_offset: limit, highest: None };
        let from = if rebuild { None } else { last_entry(&view)? };
        let begin = from.map_or((0, base), |(position, base_offset, highest)| {
            view.highest = Some(highest);
            (position, base_offset)
        });
        if from.is_none() {
            *view.segment.indexes_mut() = Indexes::growing(self.disk, &paths);
        }
        if let Some(short) = scan(&mut view, begin, last)? {
            return Ok(short);
        }
        if last && length > view.bytes {
            view.segment.file.set_len(view.bytes).map_err(Error::io("cut", &paths.log))?;
            recovered.dirty.push(Arc::clone(&view.segment));
        } else if !last && from.is_none() {
            self.seal_again(&view, recovered)?;
        }
        Ok(Opened::Whole(view))
    }

    /// The indexes of a segment that goes on growing, without what points at or above `limit`.
    fn load(
        &self,
        paths: &Paths,
        base: Offset,
        limit: Offset,
        length: u64,
    ) -> Result<Option<Indexes>, Error> {
        let below = |relative: u32| base + Offset::from(relative) < limit;
        // A batch has 61 bytes at least, and so no index has more entries than this.
        let most = (length / 61 + 1) * 12;
        let (index, time_index) = (paths.index.clone(), paths.time_index.clone());
        let offsets = Index::load(Arc::clone(self.disk), index, most, |entry: &OffsetEntry| {
            below(entry.relative_offset) && u64::from(entry.position) < length
        })
        .map_err(Error::io("read", &paths.index))?;
        let times = Index::load(Arc::clone(self.disk), time_index, most, |entry: &TimeEntry| {
            below(entry.relative_offset)
        })
        .map_err(Error::io("read", &paths.time_index))?;
        Ok(Some(Indexes { offsets, times, bytes_since_entry: 0 }))
    }

    fn sealed(&self, paths: &Paths) -> Result<Option<Indexes>, Error> {
        let offsets = Index::sealed(Arc::clone(self.disk), paths.index.clone())
            .map_err(Error::io("read", &paths.index))?;
        let times = Index::sealed(Arc::clone(self.disk), paths.time_index.clone())
            .map_err(Error::io("read", &paths.time_index))?;
        Ok(offsets.zip(times).map(|(offsets, times)| Indexes {
            offsets,
            times,
            bytes_since_entry: 0,
        }))
    }

    /// Writes the indexes of a sealed segment that were made anew, unless the files have just that.
    fn seal_again(&self, view: &View, recovered: &mut Recovered) -> Result<(), Error> {
        let short = view.segment.indexes().offsets.len() == 0;
        if short && let Some(stored) = self.sealed(&view.segment.paths)? {
            let last =
                stored.times.last().map_err(Error::io("read", &view.segment.paths.time_index))?;
            let highest = last.map(|entry| Highest {
                timestamp: entry.timestamp,
                last_offset: view.segment.base + Offset::from(entry.relative_offset),
            });
            if stored.offsets.len() == 0 && stored.times.len() <= 1 && highest == view.highest {
                *view.segment.indexes_mut() = stored;
                return Ok(());
            }
        }
        view.seal()?;
        recovered.dirty.push(Arc::clone(&view.segment));
        recovered.dir_changed = true;
        Ok(())
    }
}

enum Opened {
    Whole(View),
    /// The segment's file ends at offset `ends`, below where it should.
    Short {
        ends: Offset,
    },
}

/// Position and base offset of the batch of the last index entry, and the highest timestamp up to it. None unless the
/// last entries of both indexes match their batches.
fn last_entry(view: &View) -> Result<Option<(u64, Offset, Highest)>, Error> {
    let segment = &view.segment;
    let (entry, time) = {
        let indexes = segment.indexes();
        let entry = indexes.offsets.last().map_err(Error::io("read", &segment.paths.index))?;
        let time = indexes.times.last().map_err(Error::io("read", &segment.paths.time_index))?;
        (entry, time)
    };
    let Some((entry, time)) = entry.zip(time) else { return Ok(None) };
    let position = u64::from(entry.position);
    let last_offset = segment.base + Offset::from(entry.relative_offset);
    let Some(header) = view.header_at(position)? else { return Ok(None) };
    if header.last_offset() != last_offset || header.base_offset < segment.base {
        return Ok(None);
    }
    let (timestamp, last_offset) =
        (time.timestamp, segment.base + Offset::from(time.relative_offset));
    if last_offset >= view.next_offset {
        return Ok(None);
    }
    match view.locate(last_offset) {
        Ok(found) if found.header.max_timestamp == timestamp => {
            Ok(Some((position, header.base_offset, Highest { timestamp, last_offset })))
        }
        Ok(_) | Err(Error::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Walks a segment from a batch on to the end of what it should hold, which becomes the end of the view.
fn scan(
    view: &mut View,
    (position, base_offset): (u64, Offset),
    last: bool,
) -> Result<Option<Opened>, Error> {
    let whole = view.clone();
    let segment = Arc::clone(&whole.segment);
    let mut walk = Walk::from(&whole, position, base_offset);
    let mut newest = None;
    loop {
        match walk.next() {
            Ok(Some(found)) => {
                view.note(&mut segment.indexes_mut(), found.position, &found.header);
                newest = Some(found);
            }
            Ok(None) => break,
            // No batch ends at the recovery point.
            Err(error @ Error::Damaged { to, fault: Fault::Overlong, .. })
                if last && to == whole.next_offset =>
            {
                return Err(error);
            }
            // Readers name it when they come there.
            Err(Error::Damaged { .. }) if !walk.is_lost() => {}
            Err(Error::Damaged { position, from, fault: Fault::Truncated, .. })
                if last || position == whole.bytes =>
            {
                return Ok(Some(Opened::Short { ends: from }));
            }
            Err(Error::Damaged { .. }) if !last => break,
            // Where the batches end that are to stay is not known.
            Err(error) => return Err(error),
        }
    }
    view.bytes = walk.position();
    if let Some(newest) = newest
        && last
        && view.bytes < whole.bytes
        && !whole.is_intact(&newest)?
        && whole.trusted(view.bytes, newest.header.base_offset)?.is_none()
    {
        // Perhaps its length is wrong: a cut there would take bytes of it.
        let base_offset = newest.header.base_offset;
        return Err(whole.damage(newest.position, base_offset, Fault::Checksum)?);
    }
    Ok(None)
}

#[cfg(test)]
mod tests;

//! Opening a directory: what is above the recovery point is cut, what is missing or damaged below it is named and
//! fenced, indexes that do not match are made anew.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::check::{Check, Summary};
use super::compaction::complete_replacements;
use super::config::Config;
use super::epochs::Epochs;
use super::error::{DamagedRange, Error, Fault, MetaFault};
use super::index::Index;
use super::offset_index::OffsetEntry;
use super::partition_meta::{self, Meta};
use super::segment::{Highest, Indexes, Paths, Segment, View, base_offset_of};
use super::time_index::TimeEntry;
use super::walk::{Step, Walk};
use crate::disk::{Disk, OpenMode};
use crate::types::{Offset, TopicPartition};

/// What was found, and what has to be synced because of what was done.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) sealed: Vec<View>,
    pub(super) active: Option<View>,
    /// Offsets below the recovery point that no segment has, and those that were found damaged; in order.
    pub(super) damage: Vec<DamagedRange>,
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
    epochs: &Arc<Epochs>,
) -> Result<Recovered, Error> {
    if end < start {
        return Err(Error::BadRange { id, start, end });
    }
    let mut recovered = Recovered::default();
    let names = match disk.list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            recovered.note_missing(dir, start, end);
            return Ok(recovered);
        }
        Err(error) => return Err(Error::io("list", dir)(error)),
    };
    let ours = match partition_meta::read(disk.as_ref(), dir)? {
        Meta::Of(found) if found == id => true,
        // Where data of ours should be, somebody else's is left for a person to look at.
        Meta::Of(found) if start < end => {
            return Err(Error::Foreign { path: dir.to_owned(), id, found, from: start, to: end });
        }
        Meta::Of(_) => false,
        // Created after the last checkpoint, and not wholly: nothing in it counts.
        Meta::Unknown(MetaFault::Absent | MetaFault::Damaged) if start == end => false,
        // All of it is gone but for the directory's name: there is nothing that could be somebody else's.
        Meta::Unknown(MetaFault::Absent)
            if names.iter().all(|name| base_offset_of(name).is_none()) =>
        {
            recovered.note_missing(dir, start, end);
            false
        }
        Meta::Unknown(_) if partition_meta::restore(disk.as_ref(), dir, id)? => true,
        Meta::Unknown(fault) => {
            return Err(Error::Meta { path: partition_meta::path(dir), fault });
        }
    };
    if !ours {
        disk.remove_dir_all(dir).map_err(Error::io("remove", dir))?;
        recovered.parent_changed = true;
        return Ok(recovered);
    }
    recovered.dir_exists = true;
    let names = if complete_replacements(disk.as_ref(), dir, &names)? {
        recovered.dir_changed = true;
        disk.list(dir).map_err(Error::io("list", dir))?
    } else {
        names
    };
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
    let opening = Opening { disk, dir, config, start, epochs };
    opening.segments(&bases, end, &mut recovered)?;
    let first =
        recovered.sealed.first().or(recovered.active.as_ref()).map(|view| view.segment.base);
    recovered.note_missing(dir, start, first.unwrap_or(end));
    if first.is_some() || start < end {
        return Ok(recovered);
    }
    // The sync of a new directory may have failed, and then what the page cache shows of it is not believed.
    disk.remove_dir_all(dir).map_err(Error::io("remove", dir))?;
    Ok(Recovered { parent_changed: true, ..Recovered::default() })
}

impl Recovered {
    /// The first offsets of the partition are in no file.
    fn note_missing(&mut self, dir: &Path, from: Offset, to: Offset) {
        if from < to {
            let (path, fault) = (dir.to_owned(), Fault::Missing);
            self.damage.insert(0, DamagedRange { path, position: 0, from, to, fault });
        }
    }
}

/// Whether this is an index or a sidecar without its segment: an unlink was lost in a crash.
fn is_orphan(name: &str, bases: &[Offset]) -> bool {
    let stem = [".index", ".timeindex", ".check"].iter().find_map(|end| name.strip_suffix(end));
    let base = stem.and_then(|stem| base_offset_of(&format!("{stem}.log")));
    base.is_some_and(|base| bases.binary_search(&base).is_err())
}

/// Whether there was such a file.
fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<bool, Error> {
    match disk.remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|()| true).map_err(Error::io("remove", path)),
    }
}

struct Opening<'a> {
    disk: &'a Arc<dyn Disk>,
    dir: &'a Path,
    config: &'a Config,
    start: Offset,
    epochs: &'a Arc<Epochs>,
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
        let mut grows = false;
        for (i, &base) in bases.iter().enumerate() {
            let next_base = bases.get(i + 1).copied();
            let (limit, last) = (next_base.unwrap_or(end), next_base.is_none());
            let Opened { view, ending } = self.segment(base, limit, last, recovered)?;
            let damaged = recovered.damage.last().is_some_and(|range| range.from >= base);
            if (ending != Ending::Whole || damaged) && limit <= self.start {
                // Deleted before, and some unlinks were lost in a crash, or also what it held, which no sync waited for.
                for base in views.drain(..).map(|view: View| view.segment.base).chain([base]) {
                    Paths::new(self.dir, base).remove(self.disk.as_ref())?;
                }
                recovered.dirty.retain(|segment| segment.base > base);
                recovered.damage.retain(|range| range.from >= limit);
                recovered.dir_changed = true;
                continue;
            }
            grows = last && ending == Ending::Whole;
            if last && !grows {
                // Where the next batch would have to stand is not known: it gets a segment of its own.
                view.seal()?;
                recovered.dirty.push(Arc::clone(&view.segment));
                recovered.dir_changed = true;
            }
            views.push(view);
        }
        recovered.active = if grows { views.pop() } else { None };
        recovered.sealed = views;
        Ok(())
    }

    /// Opens one segment that should reach from `base` up to `limit`. The `last` one is cut there and made ready to
    /// grow, unless damage hides the place.
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
        let place = (self.disk, base, paths.clone());
        let segment = Segment::new(place, file, interval_bytes, indexes, self.epochs);
        let mut view =
            View { segment, bytes: length, next_offset: limit, highest: None, appended_ms: None };
        if last {
            // It is to grow, and then the sidecar of an earlier life speaks of other batches.
            recovered.dir_changed |= remove_if_there(self.disk.as_ref(), &paths.check)?;
        } else if let Some(summary) = self.summary(&paths)?
            && summary.is_of(base, length, limit)
            && summary.next_offset == limit
            && !rebuild
        {
            view.highest = summary.highest;
            return Ok(Opened { view, ending: Ending::Whole });
        }
        let from = if rebuild { None } else { last_entry(&view)? };
        let begin = from.map_or((0, base), |(position, base_offset, highest)| {
            view.highest = Some(highest);
            (position, base_offset)
        });
        // The old ones stay until the walk is done: where they are right, they show the way around damage.
        let mut fresh = from.is_none().then(|| Indexes::growing(self.disk, &paths));
        let ending = scan(&mut view, begin, last, &mut fresh, &mut recovered.damage)?;
        let rebuilt = fresh.is_some();
        if let Some(fresh) = fresh {
            *view.segment.indexes_mut() = fresh;
        }
        if last && length > view.bytes {
            view.segment.file.set_len(view.bytes).map_err(Error::io("cut", &paths.log))?;
            recovered.dirty.push(Arc::clone(&view.segment));
        } else if !last && rebuilt {
            self.seal_again(&view, recovered)?;
        }
        Ok(Opened { view, ending })
    }

    fn summary(&self, paths: &Paths) -> Result<Option<Summary>, Error> {
        Check::summary(self.disk, &paths.check).map_err(Error::io("read", &paths.check))
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
        Ok(Some(Indexes { offsets, times, bytes_since_entry: 0, heads: None }))
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
            heads: None,
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

/// How the batches of a file end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Where they should.
    Whole,
    /// Behind a whole batch, below where they should.
    Short,
    /// Damage hides it.
    Lost,
}

struct Opened {
    view: View,
    ending: Ending,
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

/// Walks a segment from a batch on to the end of what it should hold, which becomes the end of the view unless damage
/// hides it. Fills `fresh` indexes, or those of the segment where there are none, and names the damage.
fn scan(
    view: &mut View,
    (position, base_offset): (u64, Offset),
    last: bool,
    fresh: &mut Option<Indexes>,
    damage: &mut Vec<DamagedRange>,
) -> Result<Ending, Error> {
    let whole = view.clone();
    let segment = Arc::clone(&whole.segment);
    let mut walk = Walk::from(&whole, position, base_offset);
    let mut newest = None;
    loop {
        let range = match walk.next()? {
            Step::Batch(found) => {
                match fresh {
                    Some(fresh) => view.note(fresh, found.position, &found.header),
                    None => view.note(&mut segment.indexes_mut(), found.position, &found.header),
                }
                newest = Some(found);
                continue;
            }
            Step::End => break,
            Step::Damaged(range) => range,
        };
        let (ends_here, fault) = (range.position == whole.bytes, range.fault);
        // No batch ends at the recovery point.
        let across = last && fault == Fault::Overlong && range.to == whole.next_offset;
        damage.push(range);
        if walk.is_lost() && ends_here && fault == Fault::Truncated {
            return Ok(Ending::Short);
        }
        if walk.is_lost() || across {
            return Ok(Ending::Lost);
        }
    }
    if let Some(newest) = newest
        && walk.position() < whole.bytes
        && !whole.is_intact(&newest)?
        && whole.trusted(walk.position(), newest.header.base_offset)?.is_none()
    {
        // Perhaps its length is wrong: a cut there would take bytes of it.
        damage.push(whole.damage(newest.position, newest.header.base_offset, Fault::Checksum)?);
        return Ok(Ending::Lost);
    }
    view.bytes = walk.position();
    Ok(Ending::Whole)
}

#[cfg(test)]
mod tests;

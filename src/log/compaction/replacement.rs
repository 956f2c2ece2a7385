//! Putting a compacted segment in the place of those it was made of. Drawn in [`crate::log::compaction`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, OpenMode};
use crate::log::error::Error;
use crate::log::index::Index;
use crate::log::segment::{Indexes, NEW, Paths, Segment, View, base_offset_of};
use crate::types::Offset;

/// A segment that is to take the place of one or several neighbours. Durable, under names that count for nothing.
#[derive(Debug)]
pub struct Replacement {
    old: Vec<View>,
    new: View,
}

/// A [`Replacement`] that is in place on disk.
#[derive(Debug)]
pub struct Installed(pub(in crate::log) Replacement);

impl Replacement {
    pub(super) fn new(old: Vec<View>, new: View) -> Self {
        // Its records were not appended by being written again.
        let appended_ms = old.iter().filter_map(|view| view.appended_ms).max();
        Self { old, new: View { appended_ms, ..new } }
    }

    pub(in crate::log) fn old(&self) -> &[View] {
        &self.old
    }

    pub(in crate::log) fn into_view(self) -> View {
        self.new
    }

    /// First offset, and the one behind the last.
    #[must_use]
    pub fn range(&self) -> (Offset, Offset) {
        (self.new.segment.base, self.new.next_offset)
    }

    /// Bytes of batches before and after.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.old.iter().map(|view| view.bytes).sum(), self.new.bytes)
    }

    /// Removes what was written.
    ///
    /// # Errors
    /// [`Error::Io`]; what is left is removed with the next attempt or the next start.
    pub fn discard(self) -> Result<(), Error> {
        self.new.segment.paths.remove(self.new.segment.disk.as_ref())
    }

    /// Changes the files, durably. To be called without any lock, after
    /// [`Log::begin_replacement`](crate::log::Log::begin_replacement) allowed it.
    ///
    /// # Errors
    /// [`Error::Io`]: either state is on disk then. Another call, where room was wanting, or the next start completes what
    /// was begun; until then the old segments are served.
    pub fn install(&self) -> Result<Installed, Error> {
        let written = &self.new.segment;
        let disk = &written.disk;
        let (base, next) = self.range();
        let dir = written.paths.log.parent().expect("a segment lies in a directory");
        self.old.iter().for_each(View::retire);
        let swap = dir.join(swap_name(base, next));
        let exists = |path: &Path| disk.exists(path).map_err(Error::io("look for", path));
        if exists(&written.paths.log)? {
            rename(disk.as_ref(), &written.paths.log, &swap)?;
            sync_dir(disk.as_ref(), dir)?;
        }
        if exists(&swap)? {
            let bases = self.old.iter().map(|view| view.segment.base);
            complete(disk.as_ref(), dir, &swap, base, bases)?;
        } else {
            // An earlier call came so far that what lies at the segments' names is the new one.
            sync_dir(disk.as_ref(), dir)?;
        }

        let old = &self.old.first().expect("it replaces something").segment;
        let paths = Paths::new(dir, base);
        let indexes = sealed_indexes(disk, &paths)?;
        let interval = u32::try_from(written.interval_bytes()).unwrap_or(u32::MAX);
        // By its name, so that it shares the descriptors of all segments.
        let file = disk.open(&paths.log, OpenMode::Read);
        let file = file.unwrap_or_else(|_| Arc::clone(&written.file));
        let place = (disk, base, paths);
        let segment = Segment::new(place, file, interval, indexes, &old.epochs);
        // Written by this process.
        segment.proved.add(0, self.new.bytes);
        let new = View { segment, ..self.new.clone() };
        Ok(Installed(Self { old: self.old.clone(), new }))
    }
}

fn sealed_indexes(disk: &Arc<dyn Disk>, paths: &Paths) -> Result<Indexes, Error> {
    let offsets = Index::sealed(Arc::clone(disk), paths.index.clone())
        .map_err(Error::io("read", &paths.index))?;
    let times = Index::sealed(Arc::clone(disk), paths.time_index.clone())
        .map_err(Error::io("read", &paths.time_index))?;
    let (Some(offsets), Some(times)) = (offsets, times) else {
        // Of another length than was written: an index without entries is one, and is made anew when it is needed.
        return Ok(Indexes::growing(disk, paths));
    };
    Ok(Indexes { offsets, times, bytes_since_entry: 0, heads: None })
}

/// What stands in the way goes, and the new files get their names.
fn complete(
    disk: &dyn Disk,
    dir: &Path,
    swap: &Path,
    base: Offset,
    old: impl Iterator<Item = Offset>,
) -> Result<(), Error> {
    for base in old.chain([base]) {
        Paths::new(dir, base).remove(disk)?;
    }
    sync_dir(disk, dir)?;
    let (from, to) = (Paths::beside(dir, base), Paths::new(dir, base));
    for (from, to) in
        [(&from.index, &to.index), (&from.time_index, &to.time_index), (&from.check, &to.check)]
    {
        match disk.rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(Error::io("rename", from))?,
        }
    }
    rename(disk, swap, &to.log)?;
    sync_dir(disk, dir)
}

/// Ends what a crash left half-way in a directory with these names: a replacement that counts is completed, one that does
/// not is dropped. Whether there was any.
pub(in crate::log) fn complete_replacements(
    disk: &dyn Disk,
    dir: &Path,
    names: &[String],
) -> Result<bool, Error> {
    let mut found = false;
    for (base, next) in names.iter().filter_map(|name| swapped_range(name)) {
        found = true;
        let bases = names.iter().filter_map(|name| base_offset_of(name));
        let old = bases.filter(|old| (base..next).contains(old));
        complete(disk, dir, &dir.join(swap_name(base, next)), base, old)?;
    }
    for name in names.iter().filter(|name| is_unfinished(name)) {
        let path: PathBuf = dir.join(name);
        match disk.remove_file(&path) {
            // It got its name just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => {
                other.map_err(Error::io("remove", &path))?;
                found = true;
            }
        }
    }
    Ok(found)
}

fn swap_name(base: Offset, next: Offset) -> String {
    format!("{base:020}-{next:020}.swap")
}

/// The offsets in a name that [`swap_name`] made.
fn swapped_range(name: &str) -> Option<(Offset, Offset)> {
    let (base, next) = name.strip_suffix(".swap")?.split_once('-')?;
    let offset = |digits: &str| base_offset_of(&format!("{digits}.log"));
    Some((offset(base)?, offset(next)?))
}

/// Whether this is a file of a segment that was not finished.
fn is_unfinished(name: &str) -> bool {
    let stem = name.strip_suffix(NEW).and_then(|name| name.split_once('.'));
    stem.is_some_and(|(digits, _)| base_offset_of(&format!("{digits}.log")).is_some())
}

fn rename(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), Error> {
    disk.rename(from, to).map_err(Error::io("rename", from))
}

fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    disk.sync_dir(dir).map_err(Error::io("sync", dir))
}

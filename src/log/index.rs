//! A sparse index of a segment: in memory while the segment grows, read from its file where it is sealed. What an
//! index says is a hint, checked against the batches by whoever uses it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::check::FileSum;
use crate::disk::{Disk, DiskFile, OpenMode};

/// Bytes of an index file read at once for its checksum.
const SUM_WINDOW_BYTES: usize = 64 * 1024;

/// What an index file is made of.
pub(super) trait Entry: Copy {
    /// Length of an entry in the file.
    const BYTES: usize;
    fn encode(&self, out: &mut Vec<u8>);
    /// None unless `bytes` is exactly one entry long.
    fn decode(bytes: &[u8]) -> Option<Self>;
    /// Whether `next` may stand behind this one.
    fn precedes(&self, next: &Self) -> bool;
}

#[derive(Debug)]
enum State<E> {
    /// Entries in memory, of which the first `written` are in the file.
    Growing { entries: Vec<E>, written: usize },
    /// All entries are in the file.
    Sealed { count: usize },
}

/// One index of one segment.
#[derive(Debug)]
pub(super) struct Index<E> {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: State<E>,
    /// Written to and not yet synced: the descriptor must stay open until it is.
    unsynced: Option<Arc<dyn DiskFile>>,
}

impl<E: Entry> Index<E> {
    /// An empty one for a segment that grows. A file that stands there is overwritten with the first flush.
    pub(super) fn growing(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        Self {
            disk,
            path,
            state: State::Growing { entries: Vec::new(), written: 0 },
            unsynced: None,
        }
    }

    /// One whose entries are all in the file; an absent file counts as empty. None if the file cannot be an index.
    pub(super) fn sealed(disk: Arc<dyn Disk>, path: PathBuf) -> io::Result<Option<Self>> {
        let length = match disk.open(&path, OpenMode::Read) {
            Ok(file) => file.len()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        if !length.is_multiple_of(E::BYTES as u64) {
            return Ok(None);
        }
        let count = usize::try_from(length / E::BYTES as u64).map_err(io::Error::other)?;
        Ok(Some(Self { disk, path, state: State::Sealed { count }, unsynced: None }))
    }

    /// One for a segment that goes on growing, with the entries of its file as far as they are in order and `keep`
    /// holds. The rest of the file is cut with the first flush.
    pub(super) fn load(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        limit_bytes: u64,
        keep: impl Fn(&E) -> bool,
    ) -> io::Result<Self> {
        let bytes = match disk.read_all(&path, limit_bytes) {
            Ok(bytes) => bytes,
            // Absent, or longer than any index of this segment can be.
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::InvalidData => Vec::new(),
                _ => return Err(error),
            },
        };
        let mut entries: Vec<E> = Vec::new();
        for entry in bytes.chunks_exact(E::BYTES).map_while(E::decode) {
            if entries.last().is_some_and(|last| !last.precedes(&entry)) || !keep(&entry) {
                break;
            }
            entries.push(entry);
        }
        let written = entries.len();
        Ok(Self { disk, path, state: State::Growing { entries, written }, unsynced: None })
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        match &self.state {
            State::Growing { entries, .. } => entries.len(),
            State::Sealed { count } => *count,
        }
    }

    /// Adds an entry if it may stand behind the last one.
    pub(super) fn push(&mut self, entry: E) {
        if let State::Growing { entries, .. } = &mut self.state
            && entries.last().is_none_or(|last| last.precedes(&entry))
        {
            entries.push(entry);
        }
    }

    /// The last entry.
    pub(super) fn last(&self) -> io::Result<Option<E>> {
        self.last_where(|_| true)
    }

    /// The last entry for which `claim` holds, where it holds for every entry before one for which it holds. A sealed
    /// index without its file has no entries.
    pub(super) fn last_where(&self, claim: impl Fn(&E) -> bool) -> io::Result<Option<E>> {
        match self.count_where(claim)?.checked_sub(1) {
            Some(last) => self.get(last),
            None => Ok(None),
        }
    }

    /// The number of entries for which `claim` holds, see [`Index::last_where`].
    pub(super) fn count_where(&self, claim: impl Fn(&E) -> bool) -> io::Result<usize> {
        match &self.state {
            State::Growing { entries, .. } => Ok(entries.partition_point(claim)),
            State::Sealed { count } => match self.open_sealed()? {
                Some(file) => search(file.as_ref(), *count, claim),
                None => Ok(0),
            },
        }
    }

    /// The entry at place `at`, counted from 0.
    pub(super) fn get(&self, at: usize) -> io::Result<Option<E>> {
        match &self.state {
            State::Growing { entries, .. } => Ok(entries.get(at).copied()),
            State::Sealed { count } if at >= *count => Ok(None),
            State::Sealed { .. } => match self.open_sealed()? {
                Some(file) => read_entry(file.as_ref(), at),
                None => Ok(None),
            },
        }
    }

    fn open_sealed(&self) -> io::Result<Option<Arc<dyn DiskFile>>> {
        match self.disk.open(&self.path, OpenMode::Read) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes what the file lacks and cuts what it has too much, unsynced.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let State::Growing { entries, written } = &mut self.state else { return Ok(()) };
        let opened = match &self.unsynced {
            // A descriptor with unsynced writes stays open, so its errors reach the sync.
            Some(file) => Ok(Arc::clone(file)),
            None => self.disk.open(&self.path, OpenMode::Write),
        };
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                *written = 0;
                if entries.is_empty() {
                    return Ok(());
                }
                self.disk.open(&self.path, OpenMode::CreateNew)?
            }
            Err(error) => return Err(error),
        };
        let length = file.len()?;
        if length < (*written * E::BYTES) as u64 {
            // Somebody cut it: all of it is written again.
            *written = 0;
        }
        let kept = (*written * E::BYTES) as u64;
        if length > kept {
            file.set_len(kept)?;
        }
        let mut bytes = Vec::with_capacity((entries.len() - *written) * E::BYTES);
        entries.iter().skip(*written).for_each(|entry| entry.encode(&mut bytes));
        file.write_all_at(&bytes, kept)?;
        *written = entries.len();
        if length != kept || !bytes.is_empty() {
            self.unsynced = Some(file);
        }
        Ok(())
    }

    /// Writes the rest; from now on entries are read from the file.
    pub(super) fn seal(&mut self) -> io::Result<()> {
        self.flush()?;
        self.state = State::Sealed { count: self.len() };
        Ok(())
    }

    /// Whether entries are read from the file.
    pub(super) fn is_sealed(&self) -> bool {
        matches!(self.state, State::Sealed { .. })
    }

    /// A growing index without entries for the same file.
    pub(super) fn emptied(&self) -> Self {
        Self::growing(Arc::clone(&self.disk), self.path.clone())
    }

    /// Takes over the entries of a growing `old` index of the same file for which `newer` holds, and its unsynced file.
    pub(super) fn adopt(&mut self, old: &mut Self, newer: impl Fn(&E) -> bool) {
        self.unsynced = old.unsynced.take();
        if let State::Growing { entries, .. } = &old.state {
            entries.iter().copied().filter(newer).for_each(|entry| self.push(entry));
        }
    }

    /// Length and CRC-32C of the file as it is where sealed, or would be.
    pub(super) fn sum(&self) -> io::Result<FileSum> {
        let mut sum = FileSum::default();
        match &self.state {
            State::Growing { entries, .. } => {
                let mut bytes = Vec::new();
                for entry in entries {
                    bytes.clear();
                    entry.encode(&mut bytes);
                    sum.add(&bytes);
                }
            }
            State::Sealed { .. } => {
                let Some(file) = self.open_sealed()? else { return Ok(sum) };
                let (mut position, mut buffer) = (0, vec![0; SUM_WINDOW_BYTES]);
                loop {
                    let count = file.read_at(&mut buffer, position)?;
                    if count == 0 {
                        break;
                    }
                    sum.add(buffer.get(..count).unwrap_or_default());
                    position += count as u64;
                }
            }
        }
        Ok(sum)
    }

    /// The file, if something in it is to be synced.
    pub(super) fn take_unsynced(&mut self) -> Option<Arc<dyn DiskFile>> {
        self.unsynced.take()
    }
}

/// Binary search in a file of `count` entries, see [`Index::count_where`].
fn search<E: Entry>(
    file: &dyn DiskFile,
    count: usize,
    claim: impl Fn(&E) -> bool,
) -> io::Result<usize> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        match read_entry(file, middle)? {
            Some(entry) if claim(&entry) => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The entry at place `at`; none where the file is shorter than it was: what is gone is no hint.
fn read_entry<E: Entry>(file: &dyn DiskFile, at: usize) -> io::Result<Option<E>> {
    let mut bytes = vec![0; E::BYTES];
    match file.read_exact_at(&mut bytes, (at * E::BYTES) as u64) {
        Ok(()) => Ok(E::decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::disk::FileDisk;
    use crate::log::offset_index::OffsetEntry;
    use crate::log::time_index::TimeEntry;

    #[test]
    fn entries_have_kafkas_bytes() {
        let mut bytes = Vec::new();
        OffsetEntry { relative_offset: 0x0102_0304, position: 5 }.encode(&mut bytes);
        TimeEntry { timestamp: 258, relative_offset: 7 }.encode(&mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 7]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// An index in memory, sealed in its file, and loaded from it answer as a sorted map does.
        #[test]
        fn an_index_answers_as_a_sorted_map(
            steps in proptest::collection::vec((1u32..50, 1u32..5000), 0..60),
            probes in proptest::collection::vec(0u32..3000, 20),
            flush_at in 0usize..60,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x.index");
            let disk: Arc<dyn Disk> = Arc::new(FileDisk);
            let mut index = Index::growing(disk.clone(), path.clone());
            let mut model = BTreeMap::new();
            let (mut offset, mut position) = (0, 0);
            for (i, (offsets, bytes)) in steps.iter().enumerate() {
                offset += offsets;
                position += bytes;
                index.push(OffsetEntry { relative_offset: offset, position });
                model.insert(offset, position);
                if i == flush_at {
                    index.flush().unwrap();
                }
            }
            let check = |index: &Index<OffsetEntry>| {
                for probe in &probes {
                    let found = index.last_where(|entry| entry.relative_offset <= *probe).unwrap();
                    let expected = model.range(..=probe).next_back();
                    assert_eq!(found.map(|e| (e.relative_offset, e.position)), expected.map(|(o, p)| (*o, *p)));
                }
                assert_eq!(index.len(), model.len());
            };
            check(&index);
            index.seal().unwrap();
            check(&index);
            check(&Index::sealed(disk.clone(), path.clone()).unwrap().unwrap());
            check(&Index::load(disk.clone(), path.clone(), 1 << 20, |_| true).unwrap());
            // Loaded with a bound, it has what is below, and flushes to just that.
            let bound = offset / 2;
            let mut cut = Index::load(disk.clone(), path.clone(), 1 << 20, |e: &OffsetEntry| e.relative_offset < bound).unwrap();
            prop_assert_eq!(cut.len(), model.range(..bound).count());
            cut.flush().unwrap();
            prop_assert_eq!(Index::<OffsetEntry>::sealed(disk, path).unwrap().unwrap().len(), cut.len());
        }
    }
}

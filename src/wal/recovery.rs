//! From a directory of files to a log that can be written: see "Recovery" on the module page.

use std::collections::VecDeque;
use std::path::Path;

use super::frame::{ALIGN_BYTES, Frame, Kind, Link};
use super::reader::FileReader;
use super::spare::Spares;
use super::wal::Sealed;
use super::writer::{FileWriter, first_commit};
use super::{Config, Entry, Error, ReplayError};
use crate::disk::{Disk, OpenMode};
use crate::types::{CommitNumber, DataDirId};

type Replay<'a> = &'a mut dyn FnMut(CommitNumber, Vec<Entry>) -> Result<(), ReplayError>;

/// What [`Wal`](super::Wal) goes on with.
pub(super) struct Recovered {
    pub(super) sealed: VecDeque<Sealed>,
    pub(super) active_first: CommitNumber,
    pub(super) active: FileWriter,
    pub(super) last: Link,
    pub(super) spares: Spares,
}

/// A file as found.
struct Found {
    first: CommitNumber,
    reader: FileReader,
    /// `None` where it is damaged, or was never wholly written.
    header: Option<Frame>,
}

/// Where reading has got to.
struct Chain {
    last: Link,
    /// Place and content of the last commit of the file being read.
    last_frame: Option<(u64, Frame)>,
    /// End of that commit.
    position: u64,
}

/// Reads the log in `dir`, repairs its tail, and makes the whole durable.
pub(super) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    id: DataDirId,
    after: CommitNumber,
    config: &Config,
    replay: Replay<'_>,
) -> Result<Recovered, Error> {
    create_dir(disk, dir)?;
    let mut files = find_files(disk, dir, id)?;
    remove_interrupted_creation(disk, id, after, &mut files)?;
    if files.is_empty() && after == 0 {
        return create_first(disk, dir, Link::NONE, id);
    }
    let wanted = after.saturating_add(1);
    // Files before that one were about to be freed, and may have gaps among them.
    let start = files.iter().rposition(|file| file.first <= wanted);
    let Some(start) = start else {
        return Err(Error::Missing { dir: dir.to_owned(), commit: wanted });
    };
    let mut chain = None;
    let mut sealed = VecDeque::with_capacity(files.len());
    for (index, file) in files.iter().enumerate() {
        let Found { first, reader: FileReader { length, .. }, .. } = *file;
        // Where the commits of a file end is not known before it is read: at its own end at most.
        let mut bytes = length;
        if index >= start {
            let last = chain.map(|chain: Chain| chain.last);
            let read = read_file(&files, index, last, id, after, replay)?;
            bytes = read.position;
            chain = Some(read);
        }
        sealed.push_back(Sealed { first, bytes, length });
    }
    sealed.pop_back();
    let chain = chain.expect("start is the index of a file");
    let active = files.pop().expect("start is the index of a file");
    let header = active.header.expect("read_file refuses a file without");
    let last_frame = chain.last_frame.as_ref().map(|(at, frame)| (*at, frame));
    let path = &active.reader.path;
    let writer = FileWriter::reopen(disk, dir, path, &header, last_frame, chain.position)?;
    let spares = Spares::find(disk, dir, config)?;
    let (active_first, last) = (active.first, chain.last);
    Ok(Recovered { sealed, active_first, active: writer, last, spares })
}

/// An empty log above `after`.
pub(super) fn begin(
    disk: &dyn Disk,
    dir: &Path,
    id: DataDirId,
    after: CommitNumber,
) -> Result<Recovered, Error> {
    create_dir(disk, dir)?;
    for file in find_files(disk, dir, id)? {
        if let Some((_, commit)) = file.reader.find_commit(0, 0, id)? {
            return Err(Error::InUse { path: file.reader.path, commit });
        }
        disk.remove_file(&file.reader.path).map_err(Error::io("remove", &file.reader.path))?;
    }
    create_first(disk, dir, Link { number: after, ..Link::NONE }, id)
}

/// The first file of all. Spares go: their commits may have higher numbers than this log will have for long.
fn create_first(
    disk: &dyn Disk,
    dir: &Path,
    last: Link,
    id: DataDirId,
) -> Result<Recovered, Error> {
    let mut spares = Spares::find(disk, dir, &Config { file_bytes: 0, spare_files: 0 })?;
    let path = spares.new_path(dir);
    let mut active = FileWriter::prepare(disk, path, OpenMode::CreateNew, last, id)?;
    let active_first = last.next_number();
    active.activate(disk, dir, active_first)?;
    Ok(Recovered { sealed: VecDeque::new(), active_first, active, last, spares })
}

/// Durable on return also where a process that was killed had made the directory, but not synced its parent.
fn create_dir(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    disk.create_dir_all(dir).map_err(Error::io("create", dir))?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    disk.sync_dir(parent).map_err(Error::io("sync", parent))
}

/// The log's files in order, their headers checked for whose they are. Names that are none of ours are left alone.
fn find_files(disk: &dyn Disk, dir: &Path, id: DataDirId) -> Result<Vec<Found>, Error> {
    let mut files = Vec::new();
    for name in disk.list(dir).map_err(Error::io("list", dir))? {
        let Some(first) = first_commit(&name) else { continue };
        let reader = FileReader::open(disk, dir.join(&name))?;
        let header = reader.frame(0, Kind::File, id)?;
        let header = header
            .filter(|frame| frame.head.number == first && frame.head.previous.number == first - 1);
        files.push(Found { first, reader, header });
    }
    files.sort_unstable_by_key(|file| file.first);
    Ok(files)
}

/// Removes the last file if it never got its header: nothing was written to it then. Durable with the sync of the
/// directory before a commit may be written.
fn remove_interrupted_creation(
    disk: &dyn Disk,
    id: DataDirId,
    after: CommitNumber,
    files: &mut Vec<Found>,
) -> Result<(), Error> {
    while let Some(file) = files.pop_if(|file| file.header.is_none()) {
        let proof = match file.reader.find_commit(0, file.first, id)? {
            Some((at, number)) => Some(format!("commit {number} at byte {at}")),
            None => (after >= file.first).then(|| format!("the checkpoint of commit {after}")),
        };
        if let Some(proof) = proof {
            let why = format!("the file's header is bad, but there is {proof}");
            return Err(corrupt(&file, 0, file.first, why));
        }
        let path = &file.reader.path;
        tracing::warn!(path = %path.display(), "removing a commit log file without a commit");
        disk.remove_file(path).map_err(Error::io("remove", path))?;
    }
    Ok(())
}

/// Reads the commits of one file. `last` is the one before, where a file before this one was read.
fn read_file(
    files: &[Found],
    index: usize,
    last: Option<Link>,
    id: DataDirId,
    after: CommitNumber,
    replay: Replay<'_>,
) -> Result<Chain, Error> {
    let file = &files[index];
    let next_file = files.get(index + 1);
    let header = file.header.as_ref().map(|header| header.head);
    let Some(header) = header.filter(|header| last.is_none_or(|last| last == header.previous))
    else {
        let why = "the file's header is bad or does not follow the file before, which would have \
                   been removed had it been unused";
        return Err(corrupt(file, 0, file.first, why.to_owned()));
    };
    let position = ALIGN_BYTES as u64;
    let mut chain = Chain { last: header.previous, last_frame: None, position };
    // The next file was made after the sync of all before it, and nothing was added here since.
    while next_file.is_none_or(|next| next.first != chain.last.next_number()) {
        let wanted = chain.last.next_number();
        let frame = file.reader.frame(chain.position, Kind::Commit, id)?;
        let Some(frame) = frame.filter(|frame| frame.head.number == wanted) else {
            check_torn(files, index, &chain, id, after)?;
            break;
        };
        if frame.head.previous != chain.last {
            let why = "it is whole but does not follow the commit before".to_owned();
            return Err(corrupt(file, chain.position, wanted, why));
        }
        if wanted > after {
            let entries = frame.entries().ok_or_else(|| {
                let why = "it is whole but its entries are not".to_owned();
                corrupt(file, chain.position, wanted, why)
            })?;
            replay(wanted, entries).map_err(|source| Error::Replay { commit: wanted, source })?;
        }
        let end = frame.head.end(chain.position);
        chain.last = frame.link();
        chain.last_frame = Some((chain.position, frame));
        chain.position = end;
    }
    Ok(chain)
}

/// The commit behind `chain` is not there. Fine if nothing proves that it once was.
fn check_torn(
    files: &[Found],
    index: usize,
    chain: &Chain,
    id: DataDirId,
    after: CommitNumber,
) -> Result<(), Error> {
    let file = &files[index];
    let wanted = chain.last.next_number();
    let above = wanted.saturating_add(1);
    let mut proof = file
        .reader
        .find_commit(chain.position, above, id)?
        .map(|(at, number)| format!("commit {number} follows at byte {at}"));
    if proof.is_none()
        && let Some(next) = files.get(index + 1)
    {
        proof = Some(format!("a file for commit {} follows", next.first));
    }
    if proof.is_none() && wanted <= after {
        proof = Some(format!("there is a checkpoint of commit {after}"));
    }
    if let Some(proof) = proof {
        return Err(corrupt(file, chain.position, wanted, proof));
    }
    if file.reader.claims(chain.position, wanted, id)? {
        let (path, position) = (file.reader.path.display(), chain.position);
        tracing::warn!(%path, position, commit = wanted, "passing over a commit that was not finished");
    }
    Ok(())
}

fn corrupt(file: &Found, position: u64, commit: CommitNumber, why: String) -> Error {
    Error::Corrupt { path: file.reader.path.clone(), position, commit, why }
}

#[cfg(test)]
mod tests;

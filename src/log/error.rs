//! What can go wrong in one partition's files.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::is_no_room;
use crate::record;
use crate::types::{Offset, TopicPartition};

/// Why stored bytes are not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The fixed head of a batch makes no sense (magic, length).
    #[error("no batch header stands there")]
    Header,
    /// The batch does not begin where the one before it ended.
    #[error("the batch begins at another offset than the one before it ended at")]
    Discontinuous,
    /// The segment ends before the batch does.
    #[error("the file ends before the batch does")]
    Truncated,
    /// The batch claims offsets beyond those of its segment, or beyond the recovery point, where one must end.
    #[error("the batch claims offsets beyond its segment or the recovery point")]
    Overlong,
    /// The checksum over the body does not match.
    #[error("the checksum of the batch does not match")]
    Checksum,
    /// The batch names another leader epoch than the one that wrote its offset.
    #[error("the batch names another leader epoch than the one that wrote its offset")]
    Epoch,
    /// The heads of these batches are not those that the segment was sealed with.
    #[error("the heads of these batches are not those that the segment was sealed with")]
    Altered,
    /// No segment file has them.
    #[error("their segment file is missing")]
    Missing,
}

/// Offsets below the recovery point that cannot be read, see [`Log::damage`](super::Log::damage).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: offsets {from} up to {to} are damaged at byte {position}: {fault}", path.display())]
pub struct DamagedRange {
    /// The segment file, or the directory where the file is missing.
    pub path: PathBuf,
    /// Where in it the damage was seen.
    pub position: u64,
    /// First offset that cannot be read.
    pub from: Offset,
    /// First offset that can be read again.
    pub to: Offset,
    /// What does not hold.
    pub fault: Fault,
}

/// Failure of an operation on a [`Log`](super::Log) or [`Reader`](super::Reader).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused a file operation.
    #[error("could not {op} {}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A read outside of what is there.
    #[error("offset {requested} is outside of {start} to {end}")]
    OutOfRange {
        /// The offset asked for.
        requested: Offset,
        /// First local offset.
        start: Offset,
        /// The end, exclusive (reading at it gives nothing, and is no error).
        end: Offset,
    },
    /// Stored bytes are not what was written. Everything outside of `from..to` stays readable.
    #[error("{}: offsets {from} up to {to} are damaged at byte {position}: {fault}", path.display())]
    Damaged {
        /// The segment file, or the directory where the file is missing.
        path: PathBuf,
        /// Where the damage was seen.
        position: u64,
        /// First offset that cannot be read.
        from: Offset,
        /// First offset that can be read again.
        to: Offset,
        /// What does not hold.
        fault: Fault,
    },
    /// The directory holds another partition where data of this one is due.
    #[error(
        "{} belongs to partition {found}, and offsets {from} up to {to} of {id} should be there: move the directory away, or put the right one back", path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The partition that was opened.
        id: TopicPartition,
        /// Whose directory it is.
        found: TopicPartition,
        /// First offset that is due.
        from: Offset,
        /// The recovery point.
        to: Offset,
    },
    /// `partition.meta` is unreadable although the directory should hold data.
    #[error("{}: {fault}", path.display())]
    Meta {
        /// The file.
        path: PathBuf,
        /// What does not hold.
        fault: MetaFault,
    },
    /// Bytes given to append that are no whole batches.
    #[error("the bytes given are no whole batches")]
    Batch(#[source] record::Error),
    /// A batch given to append that does not begin at the log's end.
    #[error("a batch begins at offset {got}, the log ends at {expected}")]
    NotContiguous {
        /// The log's end offset.
        expected: Offset,
        /// The batch's base offset.
        got: Offset,
    },
    /// A stored batch is intact but its records cannot be decoded.
    #[error("{}: the records of the batch at offset {base_offset} cannot be decoded", path.display())]
    Undecodable {
        /// The segment file.
        path: PathBuf,
        /// Base offset of the batch.
        base_offset: Offset,
        /// Why not.
        #[source]
        source: record::Error,
    },
    /// A recovery point below the local start.
    #[error("recovery point {end} of {id} is below its local start {start}")]
    BadRange {
        /// The partition.
        id: TopicPartition,
        /// Local start offset as given.
        start: Offset,
        /// Recovery point as given.
        end: Offset,
    },
    /// An earlier write or sync failed; the log has to be opened again.
    #[error("an earlier write to {} failed: the log must be opened again", dir.display())]
    Poisoned {
        /// The partition's directory.
        dir: PathBuf,
    },
}

/// Why a `partition.meta` is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetaFault {
    /// There is none.
    #[error("the file is missing")]
    Absent,
    /// Wrong length, magic or checksum.
    #[error("the file is damaged")]
    Damaged,
    /// A format of a later version.
    #[error("format {0} is newer than this version reads")]
    Newer(u32),
}

impl From<DamagedRange> for Error {
    fn from(range: DamagedRange) -> Self {
        let DamagedRange { path, position, from, to, fault } = range;
        Self::Damaged { path, position, from, to, fault }
    }
}

impl Error {
    /// Whether the disk is full, and nothing else is wrong: the same call may be made again.
    #[must_use]
    pub fn is_no_room(&self) -> bool {
        matches!(self, Self::Io { op, source, .. } if *op != "sync" && is_no_room(source))
    }

    /// For `map_err` on an operation of the disk.
    pub(super) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { op, path: path.to_owned(), source }
    }
}

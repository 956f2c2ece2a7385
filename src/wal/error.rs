//! What can go wrong with the commit log.

use std::io;
use std::path::{Path, PathBuf};

use crate::types::{CommitNumber, DataDirId};

/// Why the caller could not take a commit that was read back.
pub type ReplayError = Box<dyn std::error::Error + Send + Sync>;

/// A failure of the commit log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was tried, a verb.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The disk is full. Nothing was written: the same commit may be tried again.
    #[error("no room for a commit in {}", path.display())]
    NoRoom {
        /// The file that it was for.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// An acknowledged commit cannot be read. Nothing was cut.
    #[error(
        "commit {commit} in {} at byte {position} is damaged ({why}) although it was acknowledged; put a good copy of \
         the file in its place, or move the data directory away to have it rebuilt from the shard servers, which \
         loses what was not shipped",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it the commit should start.
        position: u64,
        /// The commit.
        commit: CommitNumber,
        /// What was seen, and what proves that the commit was there.
        why: String,
    },
    /// Acknowledged commits are in no file.
    #[error(
        "{} lacks commit {commit}, which comes behind the last checkpoint; put back the files that were removed, or \
         move the whole data directory away to have it rebuilt from the shard servers, which loses what was not \
         shipped",
        dir.display()
    )]
    Missing {
        /// The directory of the commit log.
        dir: PathBuf,
        /// The first commit that is needed and not there.
        commit: CommitNumber,
    },
    /// A file was written for another data directory.
    #[error(
        "{} belongs to the data directory {found}, this one is {expected}; move the file back to where it came from",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The id in it.
        found: DataDirId,
        /// The id of this data directory.
        expected: DataDirId,
    },
    /// A file was written by a later release.
    #[error(
        "{} has format {format}, this release knows formats up to {known}; start the release that wrote it",
        path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The format in it.
        format: u32,
        /// The last format known here.
        known: u32,
    },
    /// A new log was to begin where there is one.
    #[error(
        "{} holds commit {commit}, but the checkpoint `meta/checkpoint` is missing: put it back from a copy, or give \
         an empty data directory",
        path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// A commit in it.
        commit: CommitNumber,
    },
    /// The caller wants more in one commit than a commit may have.
    #[error("a commit of {bytes} bytes is above the limit of {limit}; split it")]
    TooLarge {
        /// The entries with their heads.
        bytes: u64,
        /// [`COMMIT_BYTES`](crate::types::limits::COMMIT_BYTES).
        limit: u64,
    },
    /// An earlier call failed, so that what is on disk is unknown.
    #[error("the commit log stands still after an earlier error; restart the process")]
    Poisoned,
    /// The caller refused a commit that was read back.
    #[error("cannot replay commit {commit}")]
    Replay {
        /// The commit.
        commit: CommitNumber,
        /// The caller's reason.
        source: ReplayError,
    },
}

impl Error {
    /// For `map_err`.
    pub(super) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { op, path: path.to_owned(), source }
    }
}

//! The commit log: one log for all partitions of a data directory, so that one sync makes the writes of all durable.
//!
//! It knows bytes and their order, nothing of partitions: an [`Entry`] names a topic id, a partition and a kind whose
//! meaning is the caller's. Synchronous; one owner ([`Wal`] takes `&mut self`), which is the committer.
//!
//! # Files
//!
//! `<20 digits: number of the first commit>.log`. A file is a run of frames, each starting at a multiple of 512 bytes
//! and padded with zeros up to the next:
//!
//! ```text
//!   0          512               1536                     2048
//!   +----------+-----------------+------------------------+---- - -
//!   | TLCF     | TLCC  commit 7  | TLCC  commit 8 (empty) | (end, or anything that is no frame of commit 9)
//!   +----------+-----------------+------------------------+---- - -
//!
//!   frame, little-endian               file header: TLCF          commit: TLCC
//!    0   4  magic
//!    4   4  CRC-32C                    of the magic and of everything from byte 8 up to `length`
//!    8   4  format                     1                          1
//!   12   4  length, without padding    52                         52 + entries
//!   16   8  commit number              of the file's first        its own, from 1
//!   24   8  previous commit's number   } the link: 0 and 0 before the first commit of all
//!   32   4  previous commit's CRC      }
//!   36  16  data directory id
//!   52   -  entries                    none                       any number, none included
//!
//!   entry: kind u8 | topic id 16 | partition i32 | payload length u32 | payload
//! ```
//!
//! A later format keeps the first 52 bytes of a file header, and the reach of its CRC, so that this release can say
//! that the file is too new instead of calling it damaged.
//!
//! # Invariants
//!
//! * Numbers rise by one; a commit is written only after the sync of the one before. So whatever follows a commit, be
//!   it a commit or the header of the next file, proves that the commit was acknowledged.
//! * A new file is synced, then the directory, before its first commit is written. Its first commit has the number in
//!   its name; the file before it is not read beyond the commit before that.
//! * A commit is one vectored write and one sync. After any error nothing more is written
//!   ([`Error::Poisoned`]): the page cache may show what the disk does not have.
//! * Number and link decide whether a frame is the next commit, never its CRC alone. Files are not reused yet; when
//!   they are, frames of a file's former life are told by their lower numbers, and the format stays.
//! * Files grow by their commits. Setting the length ahead would spare a commit the new length but not the new
//!   blocks, and those are the metadata that make its sync slow; reused files will spare both.
//!
//! # Recovery ([`Wal::open`])
//!
//! Commits are read in order from the newest file that starts at or below the first one wanted. Where the next commit
//! should stand and does not, everything behind that place is searched for a successor, at every 512 bytes: a commit
//! of this data directory with a higher number and the right CRC, or a later file's header.
//!
//! ```text
//!   | 7 | 8 | bad | 10 |     a successor: the bad one was acknowledged. Error::Corrupt, nothing is cut
//!   | 7 | 8 | bad |          none: torn, nobody was answered. Cut at the end of 8, synced; 9 is written anew
//!   | TL?? (last file)       nothing valid in it: its creation was interrupted. Removed, directory synced
//! ```
//!
//! So damage to the very last commit looks like a torn tail. The caller narrows that by an empty commit when it is
//! idle, and by `after`, its checkpoint: a log that ends below it is [`Error::Corrupt`] or [`Error::Missing`].
//!
//! The last commit may be one whose sync failed: the page cache shows it, the disk does not have it, and a plain sync
//! would not write it. So it is written again, and synced, before [`Wal::open`] returns, and with it the header of
//! its file and the entry of the directory.
//!
//! Memory: one frame at a time (at most [`COMMIT_BYTES`](crate::types::limits::COMMIT_BYTES) and its head), which its
//! entries share; the last one is kept for the rewriting.
//!
//! # Where to look
//!
//! `frame.rs` bytes; `reader.rs` one file, and the search; `recovery.rs` the whole directory; `writer.rs` the file
//! that is written; `wal.rs` numbers, rolling, freeing, poison.

mod config;
mod error;
mod frame;
mod reader;
mod recovery;
mod wal;
mod writer;

pub use config::Config;
pub use error::{Error, ReplayError};
pub use frame::Entry;
pub use wal::Wal;

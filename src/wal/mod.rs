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
//!   | TLCF     | TLCC  commit 7  | TLCC  commit 8 (empty) | (end, or anything that is not commit 9)
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
//! # The life of a file
//!
//! ```text
//!            no spare: an empty one          a roll: header (first number, link) written and synced,
//!                   |                        renamed, directory synced; then the first commit
//!                   v                                          |
//!   zeros ----> spare-<n> ------------------------------------>+---> <20 digits>.log, active
//!   (SpareJob,      ^                                                      |  next roll
//!    a thread)      |  freed: renamed, directory synced                    v
//!                   +------------------------------------------ <20 digits>.log, sealed
//!                   |
//!                   +--> removed: enough spares, longer than a file, or shorter than half of one
//! ```
//!
//! A commit into blocks that are there already changes no metadata, which is what makes the sync of a growing file
//! slow; setting the length ahead spares the new length, but not the new blocks. So freed files are written again, and
//! where none is left one new file is filled with zeros beside the commits ([`Wal::wanted_spare`]): never at start,
//! never before half of the first file is used, one per file that is written. No commit waits for a spare: without
//! one the next file is empty and grows. Commits beyond the end of a spare that is shorter than a file grow it.
//!
//! On disk there are the commits since the checkpoint, the file that is written and at most
//! [`Config::spare_files`] spares, one more while it is being made. [`Wal::bytes`] tells the commits,
//! [`Wal::disk_bytes`] the files.
//!
//! # Invariants
//!
//! * Numbers rise by one; a commit is written only after the sync of the one before. So whatever follows a commit, be
//!   it a commit or the header of the next file, proves that the commit was acknowledged.
//! * A file gets its name after its header is durable, and its first commit after its name is. Its first commit has the
//!   number in its name; the file before it is not read beyond the commit before that.
//! * A commit is one call that writes and syncs it (`RWF_DSYNC`; where the file system has no such call, or the commit
//!   more parts than a call takes, a write and an fdatasync). After any error nothing more is written
//!   ([`Error::Poisoned`]): the page cache may show what the disk does not have.
//! * Want of room is such an error when it meets the write of a commit. So a file that grows takes the room for a commit
//!   before it writes it (`fallocate`, a MiB ahead, where the file system knows that); a commit for which there is none was
//!   not begun and may be tried again ([`Error::NoRoom`]). Nor is it one where a file is not in the log yet: a spare is
//!   then done without, and a log that finds no room for its next file goes on in the one it has.
//! * Number and link decide whether a frame is the next commit, never its CRC alone: see the next section.
//!
//! # What stands behind the last commit
//!
//! Zeros, or whatever was in the file before: nothing is cut. None of it can be taken for the next commit (number
//! *n*), nor for a successor that would prove a bad commit *n* acknowledged (a number above *n*):
//!
//! * Frames of a file's former life. The file was freed at a checkpoint, so their numbers are below those of all
//!   commits to come. Where numbers begin anew ([`Wal::create`]) spares are removed first.
//! * What is left of commit *n* itself, torn or not answered by a process that has died. Nothing above *n* was written
//!   then. The new commit *n* goes to the same place, so that it overwrites the old one's head; if it is shorter, old
//!   sectors stand behind it that were within a frame. They may look like a frame only if an entry carried a copy of
//!   one: and a copy is of a commit before the one that carries it. Or the new commit *n* does not fit any more and
//!   goes to the next file: then this one is read up to *n* - 1.
//! * A mixture of both, or of an old and a new commit *n*: its CRC is wrong.
//!
//! All of that is about one history. A data directory is put back from a copy whole, or not at all: files of two
//! moments side by side are refused ([`Error::Corrupt`]) where they are seen to contradict each other.
//!
//! # Recovery ([`Wal::open`])
//!
//! Commits are read in order from the newest file that starts at or below the first one wanted. Where the next commit
//! should stand and does not, everything behind that place is searched for a successor, at every 512 bytes: a commit
//! of this data directory with a higher number and the right CRC, or a later file's header.
//!
//! ```text
//!   | 7 | 8 | bad | 10 |     a successor: the bad one was acknowledged. Error::Corrupt, nothing is changed
//!   | 7 | 8 | bad |  3 |     none (3 is of a former life): torn, nobody was answered. 9 is written anew over it
//!   | TL?? (last file)       nothing valid in it: its creation was interrupted. Removed
//! ```
//!
//! The last case is left by releases that named a file before they wrote its header.
//!
//! So damage to the very last commit looks like a torn tail. The caller narrows that by an empty commit when it is
//! idle, and by `after`, its checkpoint: a log that ends below it is [`Error::Corrupt`] or [`Error::Missing`].
//!
//! The last commit may be one whose sync failed: the page cache shows it, the disk does not have it, and a plain sync
//! would not write it. So it is written again, and synced, before [`Wal::open`] returns, and with it the header of
//! its file and the entry of the directory.
//!
//! Spares of the process before are taken over, as many as are wanted; a half-filled one is removed.
//!
//! Memory: one frame at a time (at most [`COMMIT_BYTES`](crate::types::limits::COMMIT_BYTES) and its head), which its
//! entries share; the last one is kept for the rewriting. A commit that is written has its short payloads copied.
//!
//! # Where to look
//!
//! `frame.rs` bytes; `reader.rs` one file, and the search; `recovery.rs` the whole directory; `writer.rs` the file
//! that is written; `spare.rs` files that wait; `wal.rs` numbers, rolling, freeing, poison.

mod config;
mod error;
mod frame;
mod reader;
mod recovery;
mod spare;
mod wal;
mod writer;

pub use config::Config;
pub use error::{Error, ReplayError};
pub use frame::Entry;
pub use spare::{Spare, SpareJob};
pub use wal::Wal;

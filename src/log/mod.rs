//! One partition's batches on local disk, in Kafka's own files. Synchronous, and deterministic given a disk; knows no
//! protocol, no task and no clock.
//!
//! ```text
//!   <topic>-<partition>/
//!     00000000000000000000.log         sealed: batches byte for byte as served, offsets 0 to 719
//!     00000000000000000000.index
//!     00000000000000000000.timeindex
//!     00000000000000000720.log         active: the one that is appended to
//!     00000000000000000720.index       lags behind its .log up to the next checkpoint
//!     00000000000000000720.timeindex
//!     partition.meta                   whose directory this is
//!
//!   .index entry      | last offset of a batch - base offset, u32 | byte position of that batch, u32 |
//!   .timeindex entry  | timestamp, i64 | last offset of the first batch to have it - base offset, u32 |
//!   partition.meta    | "TLOGPART" | format, u32 | topic id, 16 bytes | partition, i32 | CRC-32C of all before, u32 |
//! ```
//!
//! All numbers are big-endian. An index gets an entry for the first batch after each
//! [`Config::index_interval_bytes`], the time index at the same moment if a timestamp above all before has come up (it
//! goes by the running maximum, for timestamps need not be in order) and once more when the segment is sealed.
//!
//! The way of the bytes:
//!
//! ```text
//!   Log::append ---> page cache of the active .log ---> Dirty::sync (checkpoint) ---> disk
//!        |                      ^
//!   Log::reader ---> Reader ----+   no lock of the log's: a reader has its segments and how far each may be read
//!                     | read           a copy, of which every batch is checked by its CRC
//!                     | locate_range   file, position, length: for `sendfile`, which shows this process no bytes
//! ```
//!
//! # What a read checks
//! The head of every batch each time: magic and length, base offset where the batch before it ended, the leader epoch
//! of that offset ([`Log::set_epochs`]). The body, by its CRC, on every copy, and the first time after the segment was
//! opened: the stretches of a file that were found right are remembered, and so are those that this process wrote.
//!
//! # Invariants
//! * `segment.base <= offset < segment.next_offset`; each segment begins where the one before it ends; inside, each
//!   batch does. So the base offset of a batch, which no CRC covers, is proved by its neighbours.
//! * `reader.start <= from <= reader.end`; nothing at or above the caller's `upto` is ever given out.
//! * Of a segment's file only the first `bytes` bytes of a view count; the active one may be longer by a write that
//!   failed.
//! * The indexes are **hints**. The batch at an entry's position must have that entry's last offset; where it has not, the
//!   way is walked from header to header, and the indexes are made anew. Time index entries are held against the
//!   timestamp of their batch.
//! * After a failed write or sync the log is poisoned: it only reads, until it is opened again.
//!
//! # Recovery
//! The commit log is the truth above the **recovery point** that [`Log::open`] is given, and the disk below it.
//! * At or above it everything is cut, equal or not, and appended again by the caller: after a failed sync the page cache
//!   shows what the disk does not have. Index entries go with it.
//! * Below it nothing is ever cut, and nothing that is wrong there keeps the rest from being served. A damaged batch
//!   fails the reads of its offsets with [`Error::Damaged`], which says where reading can go on: behind the batch by its
//!   length if an intact one begins there, else at the next batch that the index knows. Offsets of a file that is cut
//!   short or gone are damaged up to the next file's, or up to the recovery point. What the open meets of this is in
//!   [`Log::damage`]; an error is only a directory that cannot be read or may be another partition's.
//! * Where damage hides the place at which the last segment is to be cut, it is left as it is, and the next append
//!   begins a segment at the recovery point:
//!
//! ```text
//!   disk    [ 0 ... 719 ][ 720 ... 801 | ??? ]              recovery point 810, the batches behind 801 unreadable
//!   served  [ 0 ... 719 ][ 720 ... 801 ] damaged 802..810 [ 810 ... ]       the next append is in 810.log
//! ```
//!
//! * Of sealed segments only the last index entries and what follows them are looked at (some kilobytes each).
//! * A file deleted before the crash may be back. If it leaves a gap below the known local start, it is removed again.
//!
//! Where to look next: `log` (append, roll, delete), `reader` (reads and timestamps), `walk` (header checks, damage),
//! `proof` (what needs no second look), `epochs`, `recovery` (open), `segment`, `index` with `offset_index` and `time_index`, `producer_state` (idempotent producers).

mod config;
mod epochs;
mod error;
mod index;
mod log;
mod offset_index;
mod partition_meta;
mod producer_state;
mod proof;
mod reader;
mod recovery;
mod segment;
#[cfg(test)]
mod testing;
mod time_index;
mod walk;

pub use config::Config;
pub use error::{DamagedRange, Error, Fault, MetaFault};
pub use log::{Dirty, Log, SegmentInfo};
pub use producer_state::{ProducerError, ProducerSnapshot, ProducerStates, Verdict};
pub use reader::{Range, Reader, Timestamped, Within};

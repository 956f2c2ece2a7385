//! One partition's batches on local disk, in Kafka's own files. Synchronous, and deterministic given a disk; knows no
//! protocol, no task and no clock.
//!
//! ```text
//!   <topic>-<partition>/
//!     00000000000000000000.log         sealed: batches byte for byte as served, offsets 0 to 719
//!     00000000000000000000.index
//!     00000000000000000000.timeindex
//!     00000000000000000000.check       ours: checksums of what Kafka's files leave uncovered; sealed segments only
//!     00000000000000000720.log         active: the one that is appended to
//!     00000000000000000720.index       lags behind its .log up to the next checkpoint
//!     00000000000000000720.timeindex
//!     partition.meta                   whose directory this is
//!     compaction.meta                  how far the log was compacted; only where it was
//!     00000000000000000000.log.new     a compacted segment being written; see `compaction` for this and the next
//!     00000000000000000000-00000000000000000720.swap    one that takes the place of the segments with these offsets
//!
//!   .index entry      | last offset of a batch - base offset, u32 | byte position of that batch, u32 |
//!   .timeindex entry  | timestamp, i64 | last offset of the first batch to have it - base offset, u32 |
//!   partition.meta    | "TLOGPART" | format, u32 | topic id, 16 bytes | partition, i32 | CRC-32C of all before, u32 |
//!
//!   compaction.meta   | "TLOGCMPT" | format, u32 | offset below which all is clean, i64 | CRC-32C of all before, u32 |
//!
//!   .check            | "TLOGSEGC" | format, u32 | base offset, i64 | next offset, i64 | bytes of the .log, u64
//!                     | batches, u64 | highest timestamp, i64 | last offset of the first batch to have it, i64, or -1
//!                     | .index: length, u32, CRC-32C, u32 | .timeindex: the same | 0, u32 | number of entries, u32
//!                     | CRC-32C of all before, u32 |
//!     its entries     | first offset - base offset, u32 | byte position, u32 | CRC-32C of the heads, u32
//!                     | CRC-32C of this entry, the header's CRC and the entry's number, u32 |
//! ```
//!
//! An entry of the sidecar stands for an interval: the batches from one index entry up to the next, from the first batch
//! up to the first index entry, and from the last one to the end. The heads are the first 21 bytes of its batches, which
//! hold what the CRC of a batch leaves out (base offset, length, leader epoch, magic) and that CRC.
//!
//! A segment is sealed when the next batch would make it longer than [`Config::segment_bytes`], or comes later than
//! [`Config::segment_ms`] after its first.
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
//! Who reads on where a read ended, or at the begin of a segment, needs no search; of what was proved then only the headers
//! are looked at, and where the system has these in memory nothing has to wait ([`Reader::range_at_hand`]).
//! Of a sealed segment the first read takes whole intervals and holds their heads against the sidecar. An interval in
//! which some batch fails by itself gives the others; one in which none does, and the heads are still not those that were
//! sealed, is damaged as a whole. The sidecar is written when a segment is sealed and synced with it. One that is missing,
//! wrong or of another format is made anew by the first read, which then walks the whole segment, unless that is
//! damaged: without a sidecar each batch proves itself, and by its place. It comes with the sums of the index files,
//! which are made anew where they do not match. A segment that was open across a restart has none before its first read.
//!
//! # Invariants
//! * `segment.base <= offset < segment.next_offset`; each segment begins where the one before it ends; inside, each
//!   batch does, for compaction leaves a batch in place of the offsets that it empties. So the base offset of a batch,
//!   which no CRC covers, is proved by its neighbours.
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
//! * A `partition.meta` that is wrong in one field is made anew from what the caller knows; the others and the checksum prove
//!   that the directory is the partition's.
//! * Of a sealed segment only the head of its sidecar is looked at and the length of its file; where these do not match,
//!   its last index entries and what follows them. A sidecar beside the last segment goes: it speaks of an earlier end.
//! * A compacted segment that had begun to take its place takes it; one that had not is dropped.
//! * A file deleted before the crash may be back. If it leaves a gap below the known local start, it is removed again.
//!
//! Damage may be put right while the log is served, by [`Reader::mend`], from bytes that somebody else kept; the layer
//! above has them from the tier.
//!
//! Where to look next: `log` (append, roll, delete), `retention` (what may go from the front), `compaction` (what goes
//! although it is not old), `reader` (reads and timestamps), `walk` (header checks, damage), `proof` (what needs no second
//! look), `check` (the sidecar), `at_hand` (reads that need not wait), `scrub` (a second look all the same), `files` (how
//! many are open), `mend`, `epochs`, `recovery` (open), `segment`, `index` with `offset_index` and `time_index`,
//! `producer_state` (idempotent producers).

mod at_hand;
mod check;
pub mod compaction;
mod config;
mod epochs;
mod error;
mod files;
mod index;
mod log;
mod mend;
mod offset_index;
mod partition_meta;
mod producer_state;
mod proof;
mod reader;
mod recovery;
pub mod retention;
mod scrub;
mod segment;
#[cfg(test)]
mod testing;
mod time_index;
mod walk;

pub use config::Config;
pub use error::{DamagedRange, Error, Fault, MetaFault};
pub use files::Files;
pub use log::{Detached, Dirty, Log, SegmentInfo};
pub use partition_meta::{Owner, owner_of, remove_dir};
pub use producer_state::{ProducerError, ProducerRoom, ProducerSnapshot, ProducerStates, Verdict};
pub use reader::{Range, Reader, Timestamped, Within};
pub use scrub::{Scrub, Scrubbed};
pub use segment::first_offset_in;

//! Record batches of Kafka's format v2, as bytes: no IO, no clock, no protocol.
//!
//! A batch is stored and served byte for byte as its producer sent it. Only two places are written by the broker, and
//! both lie before the bytes that the CRC covers, so that assigning offsets costs no pass over the data:
//!
//! ```text
//!      0        8       12       16 17     21         23             27
//!      | base   | batch | leader |m | crc  | attri-   | last offset  | base
//!      | offset | length| epoch  |a | u32  | butes    | delta        | timestamp
//!      | i64    | i32   | i32    |g | C    | i16      | i32          | i64
//!      ^^^^^^^^         ^^^^^^^^           |<------- covered by the CRC-32C ------ ...
//!      set by `assign`  set by `assign`
//!
//!     27         35        43         51       53         57       61
//!      | base     | max     | producer | pro-   | base     | record | records, compressed
//!      | timestamp| time-   | id       | ducer  | sequence | count  | as one piece when a
//!      | i64      | stamp   | i64      | epoch  | i32      | i32    | codec is named
//!
//! attributes: bits 0-2 codec (0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd), 3 log append time, 4 transactional,
//!             5 control, 6 delete horizon
//!
//! record:     varint length | i8 attributes | varlong timestamp delta | varint offset delta
//!             | varint key length or -1 | key | varint value length or -1 | value
//!             | varint header count | { varint key length | key | varint value length or -1 | value }
//! ```
//!
//! All fixed fields are big-endian; varints are zigzag in groups of 7 bits, lowest first. `batch length` counts from
//! byte 12, so a batch takes `12 + batch length` bytes.
//!
//! Two grades of trust:
//! * What a **client** sent passes [`check_batch`] (header and CRC) and [`check_records`] (framing of every record,
//!   read through bounded decompressors). After both, no reader can be hurt by a count or length inside the batch.
//! * What was **stored** is read with [`BatchHeader::parse`], [`crc_matches`], [`Batches`] and [`Records`], which
//!   also take what the broker itself makes: gaps left by compaction, empty batches, control batches.
//!
//! Invariants, after `check_batch` and `check_records`:
//! * `record_count == last_offset_delta + 1 >= 1`, and record `i` has offset delta `i`.
//! * The plain records take at most [`crate::types::limits::DECOMPRESSED_BATCH_BYTES`] bytes and end exactly there.
//! * `base_timestamp + timestamp_delta` of every record is an `i64`.
//!
//! No function here allocates by an announced number: memory grows with bytes that are really there.
//!
//! Compaction makes batches of what it leaves. Their offsets stay, so a batch still ends where the next one begins:
//!
//! ```text
//!   as appended        [ 0 a | 1 b ][ 2 a ][ 3 c ][ 4 b | 5 a ]
//!   compacted          [ (0 to 3), no records    ][ 4 b | 5 a ]      a gap: 61 bytes, no producer
//!                                          ^ and 3 c, had it been kept, would still say 3 in a batch of its own
//! ```
//!
//! * a batch that loses records keeps base offset, last offset delta, producer, leader epoch and codec; its record count,
//!   length and CRC are new, and its max timestamp is that of the records left, unless it is the time of the append;
//! * a batch that has deletions gets the delete horizon when it is first compacted: bit 6, and the time from which they
//!   may go as base timestamp, from which the deltas of its records then count;
//! * one that has no records left stays as an empty batch where its producer is to be remembered by it; else its offsets
//!   go into a gap.
//!
//! Where to look next: `batch` (header, CRC, patches), `record` (the walk), `rewrite` (what compaction leaves), `expanded`
//! (the walk while a batch expands), `compression` (codecs with an output limit), `snappy` (the raw format piece by piece),
//! `builder` (making batches), `varint`.

mod batch;
mod builder;
mod compression;
mod error;
mod expanded;
mod record;
mod rewrite;
mod snappy;
pub mod varint;
pub mod vdisk;

pub use batch::{
    BatchHeader, Batches, HEADER_BYTES, assign, check_batch, clear_log_append_time, crc_matches,
    set_log_append_time,
};
pub use builder::BatchBuilder;
pub use compression::Compression;
pub use error::{Error, RecordFault};
pub use expanded::Place;
pub use record::{
    Headers, Record, Records, check_keys, check_records, plain_records, visit_places,
};
pub use rewrite::{Remains, emptied, gap, retain};

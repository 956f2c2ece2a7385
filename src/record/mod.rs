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
//! Where to look next: `batch` (header, CRC, patches), `record` (the walk), `expanded` (the walk while a batch
//! expands), `compression` (codecs with an output limit), `snappy` (the raw format piece by piece), `builder` (making
//! batches), `varint`.

mod batch;
mod builder;
mod compression;
mod error;
mod expanded;
mod record;
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
pub use record::{Headers, Record, Records, check_records, plain_records};

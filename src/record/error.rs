//! What can be wrong with a batch.

use super::Compression;
use crate::types::limits::RECORD_BATCH_BYTES;

/// Why bytes are not a batch that may be stored, or not one that can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Fewer bytes than the header, or than the batch announces.
    #[error("a record batch of {needed} bytes is cut off after {found}; send whole batches")]
    Truncated {
        /// Bytes that the batch (or its header) takes.
        needed: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// The length field is impossible.
    #[error("batch length {batch_length} is not within 49 and {}; split the batch", RECORD_BATCH_BYTES - 12)]
    Length {
        /// The field as found.
        batch_length: i32,
    },
    /// The bytes are not those that were sent.
    #[error(
        "the CRC of the record batch is {computed:#010x} and not {stored:#010x}; send it again"
    )]
    Crc {
        /// The field as found.
        stored: u32,
        /// CRC-32C of the bytes from 21 on.
        computed: u32,
    },
    /// Another format than v2.
    #[error("record batch has magic {magic}; send magic 2 (clients since Kafka 0.11 do)")]
    Magic {
        /// The field as found.
        magic: i8,
    },
    /// More than one batch where one is due.
    #[error("{count} bytes follow the record batch; send one batch per partition and request")]
    BytesAfterBatch {
        /// How many.
        count: usize,
    },
    /// The control or the delete horizon bit, which only a broker sets.
    #[error("attributes {attributes:#06x} have a bit that only brokers set; clear bits 5 and 6")]
    BrokerAttributes {
        /// The field as found.
        attributes: i16,
    },
    /// A codec number without a meaning.
    #[error("compression codec {codec} is unknown; use none, gzip, snappy, lz4 or zstd")]
    Codec {
        /// Bits 0-2 of the attributes.
        codec: u8,
    },
    /// No records, or not as many as the offsets span.
    #[error("record count {count} and last offset delta {last_offset_delta} do not fit together")]
    Count {
        /// Record count as found.
        count: i32,
        /// Last offset delta as found.
        last_offset_delta: i32,
    },
    /// A producer id without its epoch or sequence.
    #[error("producer {id} sent epoch {epoch} and sequence {sequence}; neither may be negative")]
    Producer {
        /// Producer id, 0 or more; or -1 in a transactional batch.
        id: i64,
        /// Producer epoch as found.
        epoch: i16,
        /// Base sequence as found.
        sequence: i32,
    },
    /// The records section is not what its codec makes.
    #[error("the records are not valid {codec}: {reason}")]
    Compressed {
        /// Codec of the batch.
        codec: Compression,
        /// In the words of the codec.
        reason: String,
    },
    /// The records section expands too far.
    #[error("the {codec} records expand to more than {limit} bytes; send smaller batches")]
    Expands {
        /// Codec of the batch.
        codec: Compression,
        /// Most plain bytes that are read.
        limit: usize,
    },
    /// The header announces more records than the plain bytes can hold.
    #[error("{count} records do not fit {plain_bytes} bytes")]
    CountBeyondBytes {
        /// Record count of the header.
        count: i32,
        /// Length of the plain records section.
        plain_bytes: usize,
    },
    /// A record is wrong.
    #[error("record {index} of the batch: {fault}")]
    Record {
        /// Which one, from 0.
        index: i32,
        /// What is wrong.
        fault: RecordFault,
    },
    /// Bytes are left after the last record.
    #[error("{count} bytes follow the last record of the batch")]
    BytesAfterRecords {
        /// How many.
        count: usize,
    },
}

impl Error {
    /// Whether the bytes were damaged on their way (sending or reading them again may help), and not made wrong.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Truncated { .. } | Self::Length { .. } | Self::Crc { .. })
    }
}

/// What can be wrong with one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// A number runs past the end of its record or takes too many bytes.
    #[error("a varint is cut off or too long")]
    Varint,
    /// The record's own length is negative or beyond the bytes left.
    #[error("its length {length} does not fit the {left} bytes left")]
    Length {
        /// As found.
        length: i32,
        /// Bytes left after the length.
        left: usize,
    },
    /// A key or value length is below -1 or beyond the record.
    #[error("a field of {length} bytes does not fit the {left} bytes left in the record")]
    Field {
        /// As found.
        length: i32,
        /// Bytes left in the record.
        left: usize,
    },
    /// The header count is negative or more than the bytes left can hold.
    #[error("{count} headers do not fit the {left} bytes left in the record")]
    HeaderCount {
        /// As found.
        count: i32,
        /// Bytes left in the record.
        left: usize,
    },
    /// A record without a key where compaction goes by it.
    #[error("it has no key, and the topic is compacted by key: give each record one")]
    NoKey,
    /// A header without a key.
    #[error("a header has no key")]
    HeaderKey,
    /// The record is longer than its parts.
    #[error("{count} bytes follow its last header")]
    BytesAfterHeaders {
        /// How many.
        count: usize,
    },
    /// Not the number of the record in its batch.
    #[error("its offset delta is {found} and not its place in the batch")]
    OffsetDelta {
        /// As found.
        found: i32,
    },
    /// Base timestamp and delta overflow.
    #[error("its timestamp delta {delta} leaves the range of timestamps")]
    Timestamp {
        /// As found.
        delta: i64,
    },
}

//! Making batches.

use super::batch::{HEADER_BYTES, set_crc};
use super::{BatchHeader, Compression, varint};

/// Gathers records and makes one batch of them.
///
/// ```
/// use tlog::record::{BatchBuilder, check_batch};
///
/// let mut builder = BatchBuilder::new(1_000);
/// builder.push(1_000, None, Some(b"value"), &[("name", b"header")]);
/// assert!(check_batch(&builder.build()).is_ok());
/// ```
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    base_timestamp: i64,
    max_timestamp: i64,
    compression: Compression,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    count: i32,
    /// A header's room, then the plain records.
    batch: Vec<u8>,
}

impl BatchBuilder {
    /// An empty one. `base_timestamp` in milliseconds since 1970: the deltas of the records are counted from it, so the first
    /// record's timestamp serves best.
    #[must_use]
    pub fn new(base_timestamp: i64) -> Self {
        Self {
            base_timestamp,
            max_timestamp: base_timestamp,
            compression: Compression::None,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            count: 0,
            batch: vec![0; HEADER_BYTES],
        }
    }

    /// Compresses the records with `compression`; not at all unless called.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Names the idempotent producer, its epoch, and the producer sequence of the first record.
    #[must_use]
    pub fn producer(mut self, id: i64, epoch: i16, sequence: i32) -> Self {
        self.producer_id = id;
        self.producer_epoch = epoch;
        self.base_sequence = sequence;
        self
    }

    /// Appends a record; `timestamp` in milliseconds since 1970. Header keys may repeat and keep their order.
    ///
    /// # Panics
    /// When the plain batch would outgrow the format's `i32` lengths: callers bound [`BatchBuilder::bytes`] far below.
    pub fn push(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, &[u8])],
    ) {
        let record = Fields {
            attributes: 0,
            timestamp_delta: timestamp.wrapping_sub(self.base_timestamp),
            offset_delta: self.count,
            key,
            value,
        };
        let headers = headers.iter().map(|(name, value)| (name.as_bytes(), Some(*value)));
        record.put(headers, &mut self.batch);
        self.max_timestamp =
            if self.count == 0 { timestamp } else { self.max_timestamp.max(timestamp) };
        self.count += 1;
    }

    /// Number of records so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is no record yet; such a batch passes no check.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch so far, before compression.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.batch.len()
    }

    /// The whole batch, with base offset 0 and leader epoch -1, its CRC set.
    ///
    /// # Panics
    /// When compression blew the records up beyond the format's `i32` length, which takes 2 GB of plain ones.
    #[must_use]
    pub fn build(self) -> Vec<u8> {
        let header = BatchHeader {
            base_offset: 0,
            batch_length: 0,
            leader_epoch: -1,
            magic: 2,
            crc: 0,
            attributes: i16::from(self.compression.id()),
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            record_count: self.count,
        };
        finish(header, self.compression, self.batch)
    }
}

/// Makes a batch of a header, whose length and CRC do not count, and its plain records, in front of which `batch` has
/// room for it.
///
/// # Panics
/// As [`BatchBuilder::build`].
pub(super) fn finish(header: BatchHeader, compression: Compression, batch: Vec<u8>) -> Vec<u8> {
    let mut batch = batch;
    if compression != Compression::None {
        let packed = compression.compress(batch.get(HEADER_BYTES..).unwrap_or_default());
        batch.truncate(HEADER_BYTES);
        batch.extend_from_slice(&packed);
    }
    let batch_length = i32::try_from(batch.len() - 12).expect("push keeps the length an i32");
    let mut head = Vec::with_capacity(HEADER_BYTES);
    head.extend_from_slice(&header.base_offset.to_be_bytes());
    head.extend_from_slice(&batch_length.to_be_bytes());
    head.extend_from_slice(&header.leader_epoch.to_be_bytes());
    head.push(2);
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&header.attributes.to_be_bytes());
    head.extend_from_slice(&header.last_offset_delta.to_be_bytes());
    head.extend_from_slice(&header.base_timestamp.to_be_bytes());
    head.extend_from_slice(&header.max_timestamp.to_be_bytes());
    head.extend_from_slice(&header.producer_id.to_be_bytes());
    head.extend_from_slice(&header.producer_epoch.to_be_bytes());
    head.extend_from_slice(&header.base_sequence.to_be_bytes());
    head.extend_from_slice(&header.record_count.to_be_bytes());
    batch
        .first_chunk_mut::<HEADER_BYTES>()
        .expect("the batch began with a header's room")
        .copy_from_slice(&head);
    set_crc(&mut batch);
    batch
}

/// A record but for its headers.
pub(super) struct Fields<'a> {
    pub(super) attributes: i8,
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i32,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
}

impl Fields<'_> {
    /// Appends the record to a batch.
    ///
    /// # Panics
    /// When the plain batch would outgrow the format's `i32` lengths.
    pub(super) fn put<'h>(
        &self,
        headers: impl ExactSizeIterator<Item = (&'h [u8], Option<&'h [u8]>)> + Clone,
        out: &mut Vec<u8>,
    ) {
        // The length stands in front of the record, so it is added up first.
        let field =
            |bytes: Option<&[u8]>| bytes.map_or(1, |b| varint::length(b.len() as i64) + b.len());
        let count = headers.len() as i64;
        let mut length = 1
            + varint::length(self.timestamp_delta)
            + varint::length(i64::from(self.offset_delta))
            + field(self.key)
            + field(self.value)
            + varint::length(count);
        for (name, value) in headers.clone() {
            length += field(Some(name)) + field(value);
        }
        let room = i32::MAX as usize - out.len();
        assert!(length + 10 <= room, "a record of {length} bytes does not fit the batch");

        varint::put_i64(out, length as i64);
        let start = out.len();
        out.push(self.attributes.cast_unsigned());
        varint::put_i64(out, self.timestamp_delta);
        varint::put_i32(out, self.offset_delta);
        put_field(out, self.key);
        put_field(out, self.value);
        varint::put_i64(out, count);
        for (name, value) in headers {
            put_field(out, Some(name));
            put_field(out, value);
        }
        assert_eq!(out.len() - start, length, "the length in front of the record is its own");
    }
}

fn put_field(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint::put_i32(out, -1),
        Some(bytes) => {
            varint::put_i64(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

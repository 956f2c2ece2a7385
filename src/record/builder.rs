//! Making batches.

use super::batch::{HEADER_BYTES, set_crc};
use super::{Compression, varint};

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
        let timestamp_delta = timestamp.wrapping_sub(self.base_timestamp);
        // The length stands in front of the record, so it is added up first.
        let field =
            |bytes: Option<&[u8]>| bytes.map_or(1, |b| varint::length(b.len() as i64) + b.len());
        let mut length = 1
            + varint::length(timestamp_delta)
            + varint::length(i64::from(self.count))
            + field(key)
            + field(value)
            + varint::length(headers.len() as i64);
        for (name, value) in headers {
            length += field(Some(name.as_bytes())) + field(Some(value));
        }
        let room = i32::MAX as usize - self.batch.len();
        assert!(length + 10 <= room, "a record of {length} bytes does not fit the batch");

        let out = &mut self.batch;
        varint::put_i64(out, length as i64);
        let start = out.len();
        out.push(0);
        varint::put_i64(out, timestamp_delta);
        varint::put_i32(out, self.count);
        put_field(out, key);
        put_field(out, value);
        varint::put_i64(out, headers.len() as i64);
        for (name, value) in headers {
            put_field(out, Some(name.as_bytes()));
            put_field(out, Some(value));
        }
        assert_eq!(out.len() - start, length, "the length in front of the record is its own");
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
        let mut batch = self.batch;
        if self.compression != Compression::None {
            let packed = self.compression.compress(batch.get(HEADER_BYTES..).unwrap_or_default());
            batch.truncate(HEADER_BYTES);
            batch.extend_from_slice(&packed);
        }
        let batch_length = i32::try_from(batch.len() - 12).expect("push keeps the length an i32");
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&0i64.to_be_bytes());
        header.extend_from_slice(&batch_length.to_be_bytes());
        header.extend_from_slice(&(-1i32).to_be_bytes());
        header.push(2);
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&i16::from(self.compression.id()).to_be_bytes());
        header.extend_from_slice(&(self.count - 1).to_be_bytes());
        header.extend_from_slice(&self.base_timestamp.to_be_bytes());
        header.extend_from_slice(&self.max_timestamp.to_be_bytes());
        header.extend_from_slice(&self.producer_id.to_be_bytes());
        header.extend_from_slice(&self.producer_epoch.to_be_bytes());
        header.extend_from_slice(&self.base_sequence.to_be_bytes());
        header.extend_from_slice(&self.count.to_be_bytes());
        batch
            .first_chunk_mut::<HEADER_BYTES>()
            .expect("the batch began with a header's room")
            .copy_from_slice(&header);
        set_crc(&mut batch);
        batch
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

//! The header of a batch: reading it, checking it, patching it.

use super::{Compression, Error};
use crate::types::limits::RECORD_BATCH_BYTES;
use crate::types::{LeaderEpoch, Offset};

/// Length of the header; the records section begins here.
pub const HEADER_BYTES: usize = 61;
/// Bytes before the part that `batch_length` counts.
const PREFIX_BYTES: usize = 12;
const LEADER_EPOCH_AT: usize = 12;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;

const CODEC_BITS: i16 = 0b111;
const LOG_APPEND_TIME_BIT: i16 = 1 << 3;
const TRANSACTIONAL_BIT: i16 = 1 << 4;
const CONTROL_BIT: i16 = 1 << 5;
pub(super) const DELETE_HORIZON_BIT: i16 = 1 << 6;

const _: () = assert!(RECORD_BATCH_BYTES <= i32::MAX as usize);

/// The fixed fields in front of the records. Drawn in [`crate::record`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record, or where it was before compaction.
    pub base_offset: Offset,
    /// Bytes from byte 12 to the end of the batch.
    pub batch_length: i32,
    /// Epoch in which the batch was appended; outside the CRC.
    pub leader_epoch: i32,
    /// Version of the format, always 2.
    pub magic: i8,
    /// CRC-32C of everything from byte 21 on.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: i16,
    /// Offset of the last record less `base_offset`.
    pub last_offset_delta: i32,
    /// Milliseconds since 1970 to which the records' deltas are added.
    pub base_timestamp: i64,
    /// Largest timestamp as the producer says, or the time of the append; in milliseconds since 1970.
    pub max_timestamp: i64,
    /// Idempotent producer, or -1.
    pub producer_id: i64,
    /// Epoch of that producer, or -1.
    pub producer_epoch: i16,
    /// Producer sequence of the first record, or -1.
    pub base_sequence: i32,
    /// Number of records; 0 where compaction removed all.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`, of which 61 must be there; the rest of the batch need not be.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Magic`], and [`Error::Length`] when the batch were shorter than its header or longer
    /// than any that is stored.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut fields = Fields(
            bytes
                .first_chunk::<HEADER_BYTES>()
                .ok_or(Error::Truncated { needed: HEADER_BYTES, found: bytes.len() })?,
        );
        let header = Self {
            base_offset: i64::from_be_bytes(fields.take()),
            batch_length: i32::from_be_bytes(fields.take()),
            leader_epoch: i32::from_be_bytes(fields.take()),
            magic: i8::from_be_bytes(fields.take()),
            crc: u32::from_be_bytes(fields.take()),
            attributes: i16::from_be_bytes(fields.take()),
            last_offset_delta: i32::from_be_bytes(fields.take()),
            base_timestamp: i64::from_be_bytes(fields.take()),
            max_timestamp: i64::from_be_bytes(fields.take()),
            producer_id: i64::from_be_bytes(fields.take()),
            producer_epoch: i16::from_be_bytes(fields.take()),
            base_sequence: i32::from_be_bytes(fields.take()),
            record_count: i32::from_be_bytes(fields.take()),
        };
        if header.magic != 2 {
            return Err(Error::Magic { magic: header.magic });
        }
        let range = HEADER_BYTES - PREFIX_BYTES..=RECORD_BATCH_BYTES - PREFIX_BYTES;
        if !usize::try_from(header.batch_length).is_ok_and(|length| range.contains(&length)) {
            return Err(Error::Length { batch_length: header.batch_length });
        }
        Ok(header)
    }

    /// Bytes of the whole batch.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        PREFIX_BYTES + usize::try_from(self.batch_length).unwrap_or(0)
    }

    /// Offset of the last record, or where it was before compaction.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Offset after the batch: the base offset of the next.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.last_offset().saturating_add(1)
    }

    /// The codec of the records section.
    ///
    /// # Errors
    /// [`Error::Codec`] for the numbers 5 to 7.
    pub fn compression(&self) -> Result<Compression, Error> {
        Compression::from_id((self.attributes & CODEC_BITS) as u8)
    }

    /// Whether `max_timestamp` is the time of the append and holds for every record.
    #[must_use]
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME_BIT != 0
    }

    /// Whether the batch belongs to a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether the batch holds a marker of the broker's and no data.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// When deletions of this batch may go, in milliseconds since 1970; none until compaction has met one.
    ///
    /// Source: Kafka's `DefaultRecordBatch.deleteHorizonMs` (KIP-534).
    #[must_use]
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON_BIT != 0).then_some(self.base_timestamp)
    }

    /// Whether nothing was kept of it but its offsets.
    #[must_use]
    pub fn is_gap(&self) -> bool {
        self.record_count == 0 && self.producer_id < 0 && !self.is_control()
    }

    /// Producer sequence of the last record; after `i32::MAX` comes 0. -1 without a producer.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return -1;
        }
        let sum = i64::from(self.base_sequence) + i64::from(self.last_offset_delta.max(0));
        let wrapped = sum % (i64::from(i32::MAX) + 1);
        i32::try_from(wrapped).expect("a remainder of 2^31 fits")
    }

    /// Timestamp of a record of this batch, in milliseconds since 1970.
    #[must_use]
    pub fn timestamp_of(&self, timestamp_delta: i64) -> i64 {
        if self.is_log_append_time() {
            self.max_timestamp
        } else {
            self.base_timestamp.saturating_add(timestamp_delta)
        }
    }
}

/// Takes big-endian fields off a header whose length was checked once.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) =
            self.0.split_first_chunk().expect("the fields of a header add up to its length");
        self.0 = rest;
        *field
    }
}

/// Whether the CRC stored in `batch` is that of its bytes. `batch` is one whole batch.
#[must_use]
pub fn crc_matches(batch: &[u8]) -> bool {
    stored_and_computed_crc(batch).is_some_and(|(stored, computed)| stored == computed)
}

fn stored_and_computed_crc(batch: &[u8]) -> Option<(u32, u32)> {
    let stored = batch.get(CRC_AT..)?.first_chunk()?;
    Some((u32::from_be_bytes(*stored), crc32c::crc32c(batch.get(ATTRIBUTES_AT..)?)))
}

/// Checks that `batch` is exactly one whole batch which a client may send: every check that needs no look at the records.
///
/// # Errors
/// All but those of [`super::check_records`]. Damage ([`Error::is_corrupt`]) is found before anything else of the header is
/// believed, save the magic, without which nothing has a place.
pub fn check_batch(batch: &[u8]) -> Result<BatchHeader, Error> {
    let header = BatchHeader::parse(batch)?;
    let needed = header.total_bytes();
    if batch.len() < needed {
        return Err(Error::Truncated { needed, found: batch.len() });
    }
    if batch.len() > needed {
        return Err(Error::BytesAfterBatch { count: batch.len() - needed });
    }
    let computed = crc32c::crc32c(batch.get(ATTRIBUTES_AT..).unwrap_or_default());
    if computed != header.crc {
        return Err(Error::Crc { stored: header.crc, computed });
    }
    if header.attributes & (CONTROL_BIT | DELETE_HORIZON_BIT) != 0 {
        return Err(Error::BrokerAttributes { attributes: header.attributes });
    }
    header.compression()?;
    if header.last_offset_delta < 0
        || header.record_count.checked_sub(1) != Some(header.last_offset_delta)
    {
        return Err(Error::Count {
            count: header.record_count,
            last_offset_delta: header.last_offset_delta,
        });
    }
    let named = header.producer_id >= 0;
    if (named && (header.producer_epoch < 0 || header.base_sequence < 0))
        || (!named && header.is_transactional())
    {
        return Err(Error::Producer {
            id: header.producer_id,
            epoch: header.producer_epoch,
            sequence: header.base_sequence,
        });
    }
    Ok(header)
}

/// Gives a whole batch its place in a partition. The CRC stays right: it does not cover these fields.
///
/// # Panics
/// When `batch` is shorter than a header.
pub fn assign(batch: &mut [u8], base_offset: Offset, epoch: LeaderEpoch) {
    patch(batch, 0, base_offset.to_be_bytes());
    patch(batch, LEADER_EPOCH_AT, epoch.0.to_be_bytes());
}

/// Makes `now_ms` the timestamp of every record of a whole batch, and renews the CRC: one pass over its bytes.
///
/// # Panics
/// When `batch` is shorter than a header.
pub fn set_log_append_time(batch: &mut [u8], now_ms: i64) {
    set_attributes(batch, |attributes| attributes | LOG_APPEND_TIME_BIT);
    patch(batch, MAX_TIMESTAMP_AT, now_ms.to_be_bytes());
    set_crc(batch);
}

/// Makes the producer's own timestamps count again where it set the bit that belongs to the broker, and renews the CRC. A
/// batch without the bit is left as it is.
///
/// # Panics
/// When `batch` is shorter than a header.
pub fn clear_log_append_time(batch: &mut [u8]) {
    if set_attributes(batch, |attributes| attributes & !LOG_APPEND_TIME_BIT) {
        set_crc(batch);
    }
}

/// Returns whether they changed.
fn set_attributes(batch: &mut [u8], change: impl FnOnce(i16) -> i16) -> bool {
    let field = batch.get(ATTRIBUTES_AT..).and_then(<[u8]>::first_chunk);
    let before = i16::from_be_bytes(*field.expect("a whole batch has its header"));
    let after = change(before);
    patch(batch, ATTRIBUTES_AT, after.to_be_bytes());
    before != after
}

/// Writes the CRC of a whole batch.
pub(super) fn set_crc(batch: &mut [u8]) {
    let crc = crc32c::crc32c(batch.get(ATTRIBUTES_AT..).unwrap_or_default());
    patch(batch, CRC_AT, crc.to_be_bytes());
}

fn patch<const N: usize>(batch: &mut [u8], at: usize, bytes: [u8; N]) {
    batch.get_mut(at..at + N).expect("a whole batch has its header").copy_from_slice(&bytes);
}

/// The batches of a run of whole ones, as a segment or a fetch has them. Nothing but lengths and magic is checked. After
/// an error there are no more.
#[derive(Debug, Clone)]
pub struct Batches<'a>(&'a [u8]);

impl<'a> Batches<'a> {
    /// Of `bytes`, which begin with a batch.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn step(&mut self) -> Result<(BatchHeader, &'a [u8]), Error> {
        let header = BatchHeader::parse(self.0)?;
        let needed = header.total_bytes();
        let (batch, rest) = self
            .0
            .split_at_checked(needed)
            .ok_or(Error::Truncated { needed, found: self.0.len() })?;
        self.0 = rest;
        Ok((header, batch))
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<(BatchHeader, &'a [u8]), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let item = self.step();
        if item.is_err() {
            self.0 = &[];
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests;

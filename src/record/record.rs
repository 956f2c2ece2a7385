//! The records of a batch: walking and checking their framing.

use std::borrow::Cow;

use super::varint::{take_i32, take_i64};
use super::{BatchHeader, Compression, Error, HEADER_BYTES, Place, RecordFault, expanded};
use crate::types::limits::DECOMPRESSED_BATCH_BYTES;

/// Shortest record: length, attributes, two deltas, two absent fields and a header count, of one byte each.
const LEAST_RECORD_BYTES: usize = 7;
/// Shortest header: an empty key and an absent value.
pub(super) const LEAST_HEADER_BYTES: usize = 2;

/// A record, borrowed from the plain records section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Unused by Kafka so far.
    pub attributes: i8,
    /// Milliseconds after the batch's base timestamp; see [`BatchHeader::timestamp_of`].
    pub timestamp_delta: i64,
    /// Offset less the batch's base offset.
    pub offset_delta: i32,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; absent in a deletion.
    pub value: Option<&'a [u8]>,
    /// The headers in their order.
    pub headers: Headers<'a>,
}

/// The headers of a record: key and value of each, in order, repeated keys included. Their framing was checked when the
/// record was read, so there is no error to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers<'a> {
    left: &'a [u8],
    count: usize,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        take_header(&mut self.left).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for Headers<'_> {}

fn take_header<'a>(input: &mut &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), RecordFault> {
    let key = take_field(input)?.ok_or(RecordFault::HeaderKey)?;
    Ok((key, take_field(input)?))
}

/// A length and so many bytes; -1 is absent.
fn take_field<'a>(input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, RecordFault> {
    let length = take_i32(input).ok_or(RecordFault::Varint)?;
    if length == -1 {
        return Ok(None);
    }
    let (field, rest) = usize::try_from(length)
        .ok()
        .and_then(|length| input.split_at_checked(length))
        .ok_or(RecordFault::Field { length, left: input.len() })?;
    *input = rest;
    Ok(Some(field))
}

/// Takes one record off the front of `input`, its headers walked, every byte of it accounted for.
fn take_record<'a>(input: &mut &'a [u8]) -> Result<Record<'a>, RecordFault> {
    let length = take_i32(input).ok_or(RecordFault::Varint)?;
    let (mut body, rest) = usize::try_from(length)
        .ok()
        .and_then(|length| input.split_at_checked(length))
        .ok_or(RecordFault::Length { length, left: input.len() })?;
    *input = rest;

    let (&attributes, after) = body.split_first().ok_or(RecordFault::Varint)?;
    body = after;
    let timestamp_delta = take_i64(&mut body).ok_or(RecordFault::Varint)?;
    let offset_delta = take_i32(&mut body).ok_or(RecordFault::Varint)?;
    let key = take_field(&mut body)?;
    let value = take_field(&mut body)?;
    let announced = take_i32(&mut body).ok_or(RecordFault::Varint)?;
    let count = usize::try_from(announced)
        .ok()
        .filter(|count| *count <= body.len() / LEAST_HEADER_BYTES)
        .ok_or(RecordFault::HeaderCount { count: announced, left: body.len() })?;
    let headers = Headers { left: body, count };
    for _ in 0..count {
        take_header(&mut body)?;
    }
    if !body.is_empty() {
        return Err(RecordFault::BytesAfterHeaders { count: body.len() });
    }
    Ok(Record {
        attributes: attributes.cast_signed(),
        timestamp_delta,
        offset_delta,
        key,
        value,
        headers,
    })
}

fn records_section(batch: &[u8]) -> Result<&[u8], Error> {
    batch.get(HEADER_BYTES..).ok_or(Error::Truncated { needed: HEADER_BYTES, found: batch.len() })
}

/// The plain records section of a whole batch: borrowed where it is not compressed.
///
/// # Errors
/// [`Error::Codec`], [`Error::Compressed`], [`Error::Expands`] beyond [`DECOMPRESSED_BATCH_BYTES`].
pub fn plain_records<'a>(batch: &'a [u8], header: &BatchHeader) -> Result<Cow<'a, [u8]>, Error> {
    let records = records_section(batch)?;
    match header.compression()? {
        Compression::None => Ok(Cow::Borrowed(records)),
        codec => codec.decompress(records, DECOMPRESSED_BATCH_BYTES).map(Cow::Owned),
    }
}

/// Walks the framing of all records of a batch that passed [`super::check_batch`]: as many as the header says, numbered from
/// 0 in order, each exactly as long as it says, nothing after them.
///
/// Cost: a pass over the records; a compressed batch is expanded (to [`DECOMPRESSED_BATCH_BYTES`] at most) a window at a
/// time.
///
/// # Errors
/// [`Error::Codec`], [`Error::Compressed`], [`Error::Expands`], [`Error::CountBeyondBytes`], [`Error::Record`],
/// [`Error::BytesAfterRecords`].
pub fn check_records(batch: &[u8], header: &BatchHeader) -> Result<(), Error> {
    let records = records_section(batch)?;
    match header.compression()? {
        Compression::None => check_plain(records, header),
        codec => codec.expand(records, DECOMPRESSED_BATCH_BYTES, |source| {
            expanded::check(codec, source, DECOMPRESSED_BATCH_BYTES, header)
        }),
    }
}

/// Tells `visit` number and place of each record of a batch. A compressed one is expanded a window at a time.
///
/// # Errors
/// Those of [`check_records`], but nothing is demanded of the deltas; and what `visit` finds.
pub fn visit_places(
    batch: &[u8],
    header: &BatchHeader,
    mut visit: impl FnMut(i32, Place) -> Result<(), RecordFault>,
) -> Result<(), Error> {
    let records = records_section(batch)?;
    match header.compression()? {
        Compression::None => {
            (0..).zip(Records::new(records, header)).try_for_each(|(index, it)| {
                let Record { offset_delta, timestamp_delta, key, .. } = it?;
                let place = Place { offset_delta, timestamp_delta, has_key: key.is_some() };
                visit(index, place).map_err(|fault| Error::Record { index, fault })
            })
        }
        codec => codec.expand(records, DECOMPRESSED_BATCH_BYTES, |source| {
            expanded::walk(codec, source, DECOMPRESSED_BATCH_BYTES, header, visit)
        }),
    }
}

/// Checks that every record of a batch that passed [`check_records`] has a key.
///
/// # Errors
/// [`Error::Record`] of the first that has none, and those of [`visit_places`].
pub fn check_keys(batch: &[u8], header: &BatchHeader) -> Result<(), Error> {
    visit_places(batch, header, |_, place| place.has_key.then_some(()).ok_or(RecordFault::NoKey))
}

/// [`check_records`] of a plain records section.
pub(super) fn check_plain(plain: &[u8], header: &BatchHeader) -> Result<(), Error> {
    let fits = usize::try_from(header.record_count)
        .is_ok_and(|count| count <= plain.len() / LEAST_RECORD_BYTES);
    if !fits {
        return Err(Error::CountBeyondBytes {
            count: header.record_count,
            plain_bytes: plain.len(),
        });
    }
    for (record, index) in Records::new(plain, header).zip(0..) {
        let record = record?;
        check_place(header, index, record.offset_delta, record.timestamp_delta)
            .map_err(|fault| Error::Record { index, fault })?;
    }
    Ok(())
}

/// What the record `index` of a batch must say of its place and time.
pub(super) fn check_place(
    header: &BatchHeader,
    index: i32,
    offset_delta: i32,
    timestamp_delta: i64,
) -> Result<(), RecordFault> {
    if offset_delta != index {
        return Err(RecordFault::OffsetDelta { found: offset_delta });
    }
    match header.base_timestamp.checked_add(timestamp_delta) {
        Some(_) => Ok(()),
        None => Err(RecordFault::Timestamp { delta: timestamp_delta }),
    }
}

/// The records of a plain records section, as many as the header says; bytes after them are an error. Offset deltas are as
/// found, so gaps of compaction are fine. After an error there are no more.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    plain: &'a [u8],
    /// Of the next record.
    index: i32,
    count: i32,
}

impl<'a> Records<'a> {
    /// Of `plain`, which [`plain_records`] gave for the batch of `header`.
    #[must_use]
    pub fn new(plain: &'a [u8], header: &BatchHeader) -> Self {
        Self { plain, index: 0, count: header.record_count }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index >= self.count {
            // Said once: what is left is dropped with the saying.
            let count = std::mem::take(&mut self.plain).len();
            return (count > 0).then_some(Err(Error::BytesAfterRecords { count }));
        }
        let index = self.index;
        self.index += 1;
        let item = take_record(&mut self.plain).map_err(|fault| Error::Record { index, fault });
        if item.is_err() {
            self.plain = &[];
            self.index = self.count;
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests;

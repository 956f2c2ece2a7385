//! The walk over the records of a compressed batch while it expands: a window of the plain bytes is all that is held.
//!
//! A client chooses how far its batch expands, so the whole of it must not be in memory only to be checked. The faults are
//! those of the walk over plain bytes in `record`, which is the definition.

use std::io::{self, Read};

use super::record::{LEAST_HEADER_BYTES, check_place};
use super::varint::{take_i32, take_i64};
use super::{BatchHeader, Compression, Error, RecordFault};

/// Plain bytes held at a time.
const WINDOW_BYTES: usize = 32 * 1024;
/// Most bytes of a number.
const VARLONG_BYTES: usize = 10;

/// Checks the records that `source` gives, to its very end.
///
/// # Errors
/// As `check_records` has them; beyond `limit` plain bytes [`Error::Expands`].
pub(super) fn check(
    codec: Compression,
    source: &mut dyn Read,
    limit: usize,
    header: &BatchHeader,
) -> Result<(), Error> {
    walk(codec, source, limit, header, |index, place| {
        check_place(header, index, place.offset_delta, place.timestamp_delta)
    })
}

/// What a walk tells of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// From the base offset of its batch.
    pub offset_delta: i32,
    /// From the base timestamp of its batch.
    pub timestamp_delta: i64,
    /// Whether it has a key.
    pub has_key: bool,
}

/// Walks the records that `source` gives, to its very end: `visit` is told the number and the place of each.
///
/// # Errors
/// Of [`check`], but those that it has of places.
pub(super) fn walk(
    codec: Compression,
    source: &mut dyn Read,
    limit: usize,
    header: &BatchHeader,
    mut visit: impl FnMut(i32, Place) -> Result<(), RecordFault>,
) -> Result<(), Error> {
    let mut plain =
        Plain { codec, source, window: vec![0; WINDOW_BYTES], at: 0, end: 0, given: 0, limit };
    for index in 0..header.record_count {
        if !plain.has_more()? {
            let plain_bytes = plain.position();
            return Err(Error::CountBeyondBytes { count: header.record_count, plain_bytes });
        }
        let place = check_record(&mut plain);
        match place.and_then(|place| Ok(visit(index, place)?)) {
            Ok(()) => {}
            Err(Stop::Fault(fault)) => return Err(Error::Record { index, fault }),
            Err(Stop::Source(error)) => return Err(error),
        }
    }
    match plain.skip(usize::MAX)? {
        0 => Ok(()),
        count => Err(Error::BytesAfterRecords { count }),
    }
}

/// Why the walk ends within a record.
enum Stop {
    Fault(RecordFault),
    Source(Error),
}

impl From<RecordFault> for Stop {
    fn from(fault: RecordFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Source(error)
    }
}

/// Passes a record.
fn check_record(plain: &mut Plain<'_>) -> Result<Place, Stop> {
    let length = take_i32(&mut plain.number(usize::MAX)?.bytes()).ok_or(RecordFault::Varint)?;
    let Ok(bytes) = usize::try_from(length) else {
        return Err(RecordFault::Length { length, left: 0 }.into());
    };
    let mut body = Body { plain, length, left: bytes };
    if body.skip(1)? != 1 {
        return Err(RecordFault::Varint.into());
    }
    let timestamp_delta = body.i64()?;
    let offset_delta = body.i32()?;
    let has_key = body.field()?;
    body.field()?;
    let announced = body.i32()?;
    let count = usize::try_from(announced)
        .ok()
        .filter(|count| *count <= body.left / LEAST_HEADER_BYTES)
        .ok_or(RecordFault::HeaderCount { count: announced, left: body.left })?;
    for _ in 0..count {
        if !body.field()? {
            return Err(RecordFault::HeaderKey.into());
        }
        body.field()?;
    }
    if body.left > 0 {
        return Err(RecordFault::BytesAfterHeaders { count: body.left }.into());
    }
    Ok(Place { offset_delta, timestamp_delta, has_key })
}

/// What is left of a record.
struct Body<'a, 'b> {
    plain: &'a mut Plain<'b>,
    /// As the record has it.
    length: i32,
    left: usize,
}

impl Body<'_, '_> {
    fn number(&mut self) -> Result<Number, Stop> {
        let number = self.plain.number(self.left)?;
        self.left -= number.length;
        Ok(number)
    }

    fn i32(&mut self) -> Result<i32, Stop> {
        Ok(take_i32(&mut self.number()?.bytes()).ok_or(RecordFault::Varint)?)
    }

    fn i64(&mut self) -> Result<i64, Stop> {
        Ok(take_i64(&mut self.number()?.bytes()).ok_or(RecordFault::Varint)?)
    }

    /// Passes a length and so many bytes; whether it is not absent.
    fn field(&mut self) -> Result<bool, Stop> {
        let length = self.i32()?;
        if length == -1 {
            return Ok(false);
        }
        let bytes = usize::try_from(length)
            .ok()
            .filter(|bytes| *bytes <= self.left)
            .ok_or(RecordFault::Field { length, left: self.left })?;
        self.skip(bytes)?;
        Ok(true)
    }

    /// Passes so many bytes; those of the record at most.
    fn skip(&mut self, count: usize) -> Result<usize, Stop> {
        let wanted = count.min(self.left);
        let skipped = self.plain.skip(wanted)?;
        self.left -= skipped;
        if skipped < wanted {
            // The record is longer than what there is.
            return Err(RecordFault::Length { length: self.length, left: 0 }.into());
        }
        Ok(skipped)
    }
}

/// The bytes of a varint, ended or not.
struct Number {
    buffer: [u8; VARLONG_BYTES],
    length: usize,
}

impl Number {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

/// The plain bytes as they come.
struct Plain<'a> {
    codec: Compression,
    source: &'a mut dyn Read,
    window: Vec<u8>,
    /// The next byte of the window, and its end.
    at: usize,
    end: usize,
    /// Bytes that the source gave.
    given: usize,
    limit: usize,
}

impl Plain<'_> {
    /// Plain bytes before the next one.
    fn position(&self) -> usize {
        self.given - (self.end - self.at)
    }

    /// Whether there is another byte; it is in the window then.
    fn has_more(&mut self) -> Result<bool, Error> {
        while self.at == self.end {
            match self.source.read(&mut self.window) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.given += count;
                    if self.given > self.limit {
                        return Err(Error::Expands { codec: self.codec, limit: self.limit });
                    }
                    (self.at, self.end) = (0, count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.codec.failure(error)),
            }
        }
        Ok(true)
    }

    /// Passes so many bytes, fewer at the end.
    fn skip(&mut self, count: usize) -> Result<usize, Error> {
        let mut left = count;
        while left > 0 && self.has_more()? {
            let step = left.min(self.end - self.at);
            self.at += step;
            left -= step;
        }
        Ok(count - left)
    }

    /// Takes bytes up to the first without the sign of more to come: `most`, the longest number, or what there is.
    fn number(&mut self, most: usize) -> Result<Number, Error> {
        let mut number = Number { buffer: [0; VARLONG_BYTES], length: 0 };
        for place in number.buffer.iter_mut().take(most) {
            if !self.has_more()? {
                break;
            }
            *place = self.window.get(self.at).copied().unwrap_or_default();
            self.at += 1;
            number.length += 1;
            if *place < 0x80 {
                break;
            }
        }
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::check_plain;
    use super::super::{BatchBuilder, HEADER_BYTES, check_batch, check_records};
    use super::*;
    use crate::types::limits::DECOMPRESSED_BATCH_BYTES;

    /// Gives a few bytes at a time, so that every place is once at the end of a window.
    struct Dripping<'a>(&'a [u8], usize);

    impl Read for Dripping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let room = buffer.len().min(self.1);
            self.0.read(&mut buffer[..room])
        }
    }

    fn walked(plain: &[u8], header: &BatchHeader, step: usize) -> Result<(), Error> {
        check(Compression::Gzip, &mut Dripping(plain, step), 1 << 20, header)
    }

    fn sample() -> (BatchHeader, Vec<u8>) {
        let mut builder = BatchBuilder::new(1_000);
        builder.push(1_000, Some(b"key"), Some(&[7; 200]), &[("a", b"1"), ("a", b"")]);
        builder.push(900, None, None, &[]);
        builder.push(5_000, Some(b""), Some(b"v"), &[("header", &[1; 70])]);
        let batch = builder.build();
        (check_batch(&batch).unwrap(), batch[HEADER_BYTES..].to_vec())
    }

    proptest! {
        #[test]
        fn it_refuses_what_the_walk_over_plain_bytes_refuses(
            changes in prop::collection::vec((0..400_usize, any::<u8>()), 0..3),
            cut in 0..40_usize,
            count in 0..6_i32,
            step in 1..50_usize,
        ) {
            let (mut header, mut plain) = sample();
            for (at, byte) in changes {
                if let Some(place) = plain.get_mut(at) {
                    *place = byte;
                }
            }
            if cut < 20 {
                plain.truncate(plain.len() - cut);
            }
            if count > 0 {
                header.record_count = count;
            }
            let found = walked(&plain, &header, step);
            let wanted = check_plain(&plain, &header);
            prop_assert_eq!(found.is_ok(), wanted.is_ok(), "{:?} and {:?}", found, wanted);
        }
    }

    #[test]
    fn good_records_pass_however_they_come() {
        let (header, plain) = sample();
        for step in 1..plain.len() {
            assert_eq!(walked(&plain, &header, step), Ok(()));
        }
    }

    #[test]
    fn what_follows_and_what_is_missing_is_counted() {
        let (mut header, mut plain) = sample();
        let whole = plain.len();
        plain.extend([0; 5]);
        let found = walked(&plain, &header, 3);
        assert_eq!(found, Err(Error::BytesAfterRecords { count: 5 }));
        plain.truncate(whole);
        header.record_count = 4;
        let found = walked(&plain, &header, 3);
        assert_eq!(found, Err(Error::CountBeyondBytes { count: 4, plain_bytes: whole }));
    }

    #[test]
    fn more_than_the_limit_is_not_looked_at() {
        let (header, plain) = sample();
        let found = check(Compression::Zstd, &mut &plain[..], plain.len() - 1, &header);
        let limit = plain.len() - 1;
        assert_eq!(found, Err(Error::Expands { codec: Compression::Zstd, limit }));
    }

    #[test]
    fn every_codec_is_walked_to_its_end_and_not_beyond_the_limit() {
        let codecs = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
        for codec in codecs {
            let value = vec![0; 300_000];
            let mut builder = BatchBuilder::new(0);
            builder.push(0, None, Some(&value), &[]);
            builder.push(0, None, Some(&value), &[]);
            let batch = builder.compression(codec).build();
            let header = check_batch(&batch).unwrap();
            assert_eq!(check_records(&batch, &header), Ok(()), "{codec}");

            let packed = &batch[HEADER_BYTES..];
            let limited =
                codec.expand(packed, 500_000, |source| check(codec, source, 500_000, &header));
            assert_eq!(limited, Err(Error::Expands { codec, limit: 500_000 }), "{codec}");
            let cut =
                codec.expand(&packed[..packed.len() - 1], DECOMPRESSED_BATCH_BYTES, |source| {
                    check(codec, source, DECOMPRESSED_BATCH_BYTES, &header)
                });
            assert!(cut.is_err(), "{codec}");
        }
    }
}

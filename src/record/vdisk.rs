//! The blocks of virtual disks, and how each stands in a record.
//!
//! ```text
//!  offset     equals the sequence while sequences never restarted
//!  timestamp  the client's stamp in ms, see `timestamp_ms`
//!  key        8 bytes BE: first byte on the vdisk
//!  value      the data; null for zeroes
//!  headers    seq   u64 BE
//!             op    u8
//!             hash  32 bytes, BLAKE2b-256 of the data, as sent
//!             ts    8 bytes BE, as sent
//!             size  u64 BE: bytes covered, where that is not the value's length
//!             index i64 BE: number of the block, where the client gave that
//! ```
//!
//! A Kafka producer may leave out every header but `size` of a null value; a reader derives the rest.

use bytes::Bytes;

use super::{BatchBuilder, Record};

/// Operation number of a write.
pub const OPERATION_WRITE: u8 = 1;
/// Operation number of a write of zeroes (older wire) or a delete (newer wire).
pub const OPERATION_ZERO: u8 = 2;

/// Where a block lies on its vdisk, as its client said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In bytes (older wire).
    Bytes {
        /// First byte.
        offset: u64,
        /// Bytes covered. Not checked against the length of the data.
        size: u64,
    },
    /// As number of a block (newer wire); the vdisk's block size gives the bytes.
    Index(i64),
}

/// One write of a vdisk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Number of the write, given by the client.
    pub sequence: u64,
    /// Where it goes.
    pub place: Place,
    /// [`OPERATION_WRITE`], [`OPERATION_ZERO`], or a number stored as it is.
    pub operation: u8,
    /// BLAKE2b-256 of `data`, as sent.
    pub hash: [u8; 32],
    /// The client's clock in a unit of its own choice, 64 bits as sent.
    pub timestamp: u64,
    /// What is written; empty for zeroes.
    pub data: Bytes,
}

/// A place that is on no vdisk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// A block number below 0.
    #[error("its index {index} is negative")]
    NegativeIndex {
        /// As sent.
        index: i64,
    },
    /// Beyond what offsets of a file can name.
    #[error("it ends above 2^63 - 1")]
    TooFar,
}

impl Block {
    /// First byte on the vdisk and bytes covered.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn extent(&self, block_size: u64) -> Result<(u64, u64), PlaceError> {
        let data_bytes = self.data.len() as u64;
        let (start, bytes) = match self.place {
            Place::Bytes { offset, size } => (offset, size.max(data_bytes)),
            Place::Index(index) => {
                let index =
                    u64::try_from(index).map_err(|_| PlaceError::NegativeIndex { index })?;
                let start = index.checked_mul(block_size).ok_or(PlaceError::TooFar)?;
                let zeroes = self.operation == OPERATION_ZERO;
                (start, if zeroes { block_size.max(data_bytes) } else { data_bytes })
            }
        };
        let end = start.checked_add(bytes).ok_or(PlaceError::TooFar)?;
        i64::try_from(end).map_err(|_| PlaceError::TooFar)?;
        Ok((start, bytes))
    }

    /// The value of its record: none for zeroes, whose data, if a client sent any, is not part of the disk.
    fn value(&self) -> Option<&[u8]> {
        (self.operation != OPERATION_ZERO).then_some(&self.data[..])
    }
}

/// The unit of the clients' stamps on one vdisk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StampUnit {
    /// Judged by size: below 10^11 seconds, below 10^14 milliseconds, below 10^17 microseconds, else nanoseconds. Each
    /// bound is some thousand years after 1970 in its own unit and in 1973 in the next finer one.
    BySize,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Nanoseconds.
    Nanoseconds,
}

/// A client's stamp as Kafka's timestamp: milliseconds since 1970. `arrival_ms` where the stamp is 0 or no such time.
#[must_use]
pub fn timestamp_ms(stamp: u64, unit: StampUnit, arrival_ms: i64) -> i64 {
    let Ok(stamp) = i64::try_from(stamp) else { return arrival_ms };
    if stamp == 0 {
        return arrival_ms;
    }
    let unit = match unit {
        StampUnit::BySize if stamp < 100_000_000_000 => StampUnit::Seconds,
        StampUnit::BySize if stamp < 100_000_000_000_000 => StampUnit::Milliseconds,
        StampUnit::BySize if stamp < 100_000_000_000_000_000 => StampUnit::Microseconds,
        StampUnit::BySize => StampUnit::Nanoseconds,
        fixed => fixed,
    };
    match unit {
        StampUnit::Seconds => stamp.checked_mul(1000).unwrap_or(arrival_ms),
        StampUnit::Milliseconds => stamp,
        StampUnit::Microseconds => stamp / 1000,
        StampUnit::BySize | StampUnit::Nanoseconds => stamp / 1_000_000,
    }
}

/// Appends a block to a batch.
///
/// # Errors
/// [`PlaceError`]; nothing was appended then.
pub fn push_block(
    builder: &mut BatchBuilder,
    block: &Block,
    block_size: u64,
    timestamp_ms: i64,
) -> Result<(), PlaceError> {
    let (start, covered) = block.extent(block_size)?;
    let value = block.value();
    let sequence = block.sequence.to_be_bytes();
    let stamp = block.timestamp.to_be_bytes();
    let operation = [block.operation];
    let mut headers: Vec<(&str, &[u8])> = Vec::with_capacity(6);
    headers.push(("seq", &sequence));
    headers.push(("op", &operation));
    headers.push(("hash", &block.hash));
    headers.push(("ts", &stamp));
    let size = match block.place {
        Place::Bytes { size, .. } => size,
        Place::Index(_) => covered,
    }
    .to_be_bytes();
    if value.map(|value| value.len() as u64) != Some(u64::from_be_bytes(size)) {
        headers.push(("size", &size));
    }
    let index = match block.place {
        Place::Index(index) => Some(index.to_be_bytes()),
        Place::Bytes { .. } => None,
    };
    if let Some(index) = &index {
        headers.push(("index", index));
    }
    builder.push(timestamp_ms, Some(&start.to_be_bytes()), value, &headers);
    Ok(())
}

/// A record that is no block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotABlock {
    /// The key is not an offset.
    #[error("the key has {bytes} bytes: 8 are needed, the byte offset on the vdisk, big-endian")]
    Key {
        /// Its length.
        bytes: usize,
    },
    /// A header of the wrong length.
    #[error("header `{name}` has {bytes} bytes, {needed} are needed")]
    Header {
        /// Which one.
        name: &'static str,
        /// Its length.
        bytes: usize,
        /// The right one.
        needed: usize,
    },
    /// Zeroes of unknown length.
    #[error("a null value needs header `size`, the bytes to be zeroed")]
    NoSize,
    /// On no vdisk.
    #[error("it ends above 2^63 - 1")]
    TooFar,
}

/// A block as a record holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlock<'a> {
    /// First byte on the vdisk.
    pub start: u64,
    /// Bytes covered: those of the data, or zeroes.
    pub size: u64,
    /// The data; none for zeroes.
    pub data: Option<&'a [u8]>,
    /// The client's number; where absent, the run table gives it.
    pub sequence: Option<u64>,
    /// As sent, or as the value says.
    pub operation: u8,
    /// BLAKE2b-256 of the data, as sent.
    pub hash: Option<[u8; 32]>,
    /// The client's stamp, as sent; where absent, the record's timestamp is it.
    pub stamp: Option<u64>,
    /// Number of the block, where the client gave that.
    pub index: Option<i64>,
}

impl<'a> StoredBlock<'a> {
    /// Reads a record of a vdisk topic. Unknown headers are left alone; of a repeated one the last counts.
    ///
    /// # Errors
    /// [`NotABlock`].
    pub fn parse(record: &Record<'a>) -> Result<Self, NotABlock> {
        let key = record.key.unwrap_or_default();
        let start =
            u64::from_be_bytes(key.try_into().map_err(|_| NotABlock::Key { bytes: key.len() })?);
        let mut block = Self {
            start,
            size: 0,
            data: record.value,
            sequence: None,
            operation: if record.value.is_some() { OPERATION_WRITE } else { OPERATION_ZERO },
            hash: None,
            stamp: None,
            index: None,
        };
        let mut size = record.value.map(|value| value.len() as u64);
        for (name, value) in record.headers.clone() {
            let value = value.unwrap_or_default();
            match name {
                b"seq" => block.sequence = Some(u64::from_be_bytes(fixed("seq", value)?)),
                b"op" => [block.operation] = fixed("op", value)?,
                b"hash" => block.hash = Some(fixed("hash", value)?),
                b"ts" => block.stamp = Some(u64::from_be_bytes(fixed("ts", value)?)),
                b"size" => size = Some(u64::from_be_bytes(fixed("size", value)?)),
                b"index" => block.index = Some(i64::from_be_bytes(fixed("index", value)?)),
                _ => {}
            }
        }
        block.size = size.ok_or(NotABlock::NoSize)?;
        let end = start.checked_add(block.size).ok_or(NotABlock::TooFar)?;
        i64::try_from(end).map_err(|_| NotABlock::TooFar)?;
        Ok(block)
    }

    /// Where it lies, as the client said it.
    #[must_use]
    pub fn place(&self) -> Place {
        match self.index {
            Some(index) => Place::Index(index),
            None => Place::Bytes { offset: self.start, size: self.size },
        }
    }
}

fn fixed<const N: usize>(name: &'static str, value: &[u8]) -> Result<[u8; N], NotABlock> {
    value.try_into().map_err(|_| NotABlock::Header { name, bytes: value.len(), needed: N })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchHeader, Records, check_batch, plain_records};

    fn block(place: Place, operation: u8, data: &'static [u8]) -> Block {
        let data = Bytes::from_static(data);
        Block { sequence: 7, place, operation, hash: [9; 32], timestamp: 1_500_541_200, data }
    }

    /// The record of one block, handed to `look`.
    fn stored<T>(block: &Block, look: impl FnOnce(&Record<'_>) -> T) -> T {
        let mut builder = BatchBuilder::new(5);
        push_block(&mut builder, block, 4096, 5).unwrap();
        let batch = builder.build();
        let header: BatchHeader = check_batch(&batch).unwrap();
        let plain = plain_records(&batch, &header).unwrap();
        let record = Records::new(&plain, &header).next().unwrap().unwrap();
        look(&record)
    }

    fn header_names(block: &Block) -> Vec<String> {
        stored(block, |record| {
            record
                .headers
                .clone()
                .map(|(name, _)| String::from_utf8(name.to_vec()).unwrap())
                .collect()
        })
    }

    #[test]
    fn a_block_comes_back_from_its_record() {
        let places = [
            Place::Bytes { offset: 8192, size: 4 },
            Place::Bytes { offset: 8192, size: 8192 },
            Place::Index(3),
        ];
        for place in places {
            let written = block(place, OPERATION_WRITE, b"data");
            stored(&written, |record| {
                let read = StoredBlock::parse(record).unwrap();
                assert_eq!(read.data, Some(&b"data"[..]));
                assert_eq!(read.place(), place);
                assert_eq!(read.sequence, Some(7));
                assert_eq!(read.operation, OPERATION_WRITE);
                assert_eq!(read.hash, Some([9; 32]));
                assert_eq!(read.stamp, Some(1_500_541_200));
            });
        }
    }

    #[test]
    fn the_key_is_the_byte_offset_and_zeroes_have_a_size() {
        stored(&block(Place::Index(3), OPERATION_ZERO, b""), |record| {
            assert_eq!(record.key, Some(&(3 * 4096_u64).to_be_bytes()[..]));
            assert_eq!(record.value, None);
            assert_eq!(StoredBlock::parse(record).unwrap().size, 4096);
        });
        let zeroes = block(Place::Bytes { offset: 1, size: 9 }, OPERATION_ZERO, b"");
        stored(&zeroes, |record| assert_eq!(StoredBlock::parse(record).unwrap().size, 9));
    }

    #[test]
    fn size_and_index_stand_only_where_they_say_something() {
        let plain = block(Place::Bytes { offset: 0, size: 4 }, OPERATION_WRITE, b"data");
        assert_eq!(header_names(&plain), ["seq", "op", "hash", "ts"]);
        let longer = block(Place::Bytes { offset: 0, size: 8 }, OPERATION_WRITE, b"data");
        assert_eq!(header_names(&longer), ["seq", "op", "hash", "ts", "size"]);
        let index = block(Place::Index(0), OPERATION_WRITE, b"data");
        assert_eq!(header_names(&index), ["seq", "op", "hash", "ts", "index"]);
    }

    #[test]
    fn places_beyond_every_disk_are_refused() {
        let extent = |place| block(place, OPERATION_WRITE, b"data").extent(4096);
        assert_eq!(extent(Place::Index(-1)), Err(PlaceError::NegativeIndex { index: -1 }));
        assert_eq!(extent(Place::Index(i64::MAX)), Err(PlaceError::TooFar));
        let last = i64::MAX.cast_unsigned() - 4;
        assert!(extent(Place::Bytes { offset: last, size: 0 }).is_ok());
        assert_eq!(extent(Place::Bytes { offset: last + 1, size: 0 }), Err(PlaceError::TooFar));
        assert_eq!(extent(Place::Bytes { offset: 1, size: u64::MAX }), Err(PlaceError::TooFar));
    }

    #[test]
    fn the_unit_of_a_stamp_is_judged_by_its_size_unless_fixed() {
        let ms = |stamp| timestamp_ms(stamp, StampUnit::BySize, 77);
        assert_eq!(ms(1_500_541_200), 1_500_541_200_000);
        assert_eq!(ms(1_500_541_200_123), 1_500_541_200_123);
        assert_eq!(ms(1_500_541_200_123_456), 1_500_541_200_123);
        assert_eq!(ms(1_521_709_000_000_000_001), 1_521_709_000_000);
        assert_eq!(ms(0), 77);
        assert_eq!(ms(u64::MAX), 77);
        assert_eq!(timestamp_ms(5_000_000, StampUnit::Nanoseconds, 77), 5);
        assert_eq!(timestamp_ms(i64::MAX.cast_unsigned(), StampUnit::Seconds, 77), 77);
    }

    #[test]
    fn records_of_other_shapes_are_named() {
        let parse = |key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, &[u8])]| {
            let mut builder = BatchBuilder::new(5);
            builder.push(5, key, value, headers);
            let batch = builder.build();
            let header = check_batch(&batch).unwrap();
            let plain = plain_records(&batch, &header).unwrap();
            let record = Records::new(&plain, &header).next().unwrap().unwrap();
            StoredBlock::parse(&record).map(|block| block.operation)
        };
        assert_eq!(parse(None, Some(b"x"), &[]), Err(NotABlock::Key { bytes: 0 }));
        assert_eq!(parse(Some(&[0; 8]), Some(b"x"), &[]), Ok(OPERATION_WRITE));
        assert_eq!(parse(Some(&[0; 8]), None, &[]), Err(NotABlock::NoSize));
        let size: (&str, &[u8]) = ("size", &[0, 0, 0, 0, 0, 0, 2, 0]);
        assert_eq!(parse(Some(&[0; 8]), None, &[size]), Ok(OPERATION_ZERO));
        assert_eq!(
            parse(Some(&[0; 8]), Some(b"x"), &[("hash", b"short")]),
            Err(NotABlock::Header { name: "hash", bytes: 5, needed: 32 })
        );
        assert_eq!(parse(Some(&[255; 8]), Some(b"x"), &[]), Err(NotABlock::TooFar));
    }
}

//! Raw snappy, expanded as it is read.
//!
//! ```text
//!   varint length of the plain bytes | elements
//!   element: tag, bits 0-1
//!     0 literal   bits 2-7: length - 1; 60..63: the length - 1 stands in the 1..4 bytes behind | the bytes
//!     1 copy      bits 2-4: length - 4, bits 5-7: bits 8-10 of the offset | u8 low offset
//!     2 copy      bits 2-7: length - 1 | u16 offset
//!     3 copy      bits 2-7: length - 1 | u32 offset                            all little-endian
//! ```
//!
//! The crate that clients' writers share expands a stream in one piece, up to 22 times what came in; here as much is
//! kept as a copy may reach back. Writers cut their input into blocks of 64 KiB and no copy leaves its block, so one that
//! reaches farther back than [`HISTORY_BYTES`] is refused.
//!
//! Source: "Snappy compressed format description" of the snappy project.

use std::io::{self, Read};

/// How far back a copy may reach: a writer's block.
const HISTORY_BYTES: usize = 64 * 1024;
/// Expanded at a time.
const PIECE_BYTES: usize = 32 * 1024;
/// Longest copy, by which a piece may be exceeded.
const COPY_BYTES: usize = 64;

/// One raw stream.
pub(super) struct RawSnappy<'a> {
    packed: &'a [u8],
    /// Announced, and not made yet.
    to_come: usize,
    /// Of the literal at hand, not copied yet.
    literal: usize,
    /// What was made last: history, then what was not read yet.
    plain: Vec<u8>,
    /// How much of it was read.
    at: usize,
}

impl<'a> RawSnappy<'a> {
    /// A stream of `packed` and the length that it announces, for which no memory is taken; `None` without one.
    pub(super) fn new(packed: &'a [u8]) -> Option<(Self, usize)> {
        let mut length = 0u64;
        for (index, &byte) in packed.iter().take(5).enumerate() {
            length |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                let to_come = usize::try_from(u32::try_from(length).ok()?).ok()?;
                let packed = packed.get(index + 1..)?;
                let stream = Self { packed, to_come, literal: 0, plain: Vec::new(), at: 0 };
                return Some((stream, to_come));
            }
        }
        None
    }

    /// Makes about a piece more; nothing at the end.
    fn expand(&mut self) -> Result<(), &'static str> {
        let kept_from = self.at.min(self.plain.len().saturating_sub(HISTORY_BYTES));
        self.plain.drain(..kept_from);
        self.at -= kept_from;
        let enough = self.plain.len() + PIECE_BYTES;
        while self.plain.len() < enough && (self.literal > 0 || !self.packed.is_empty()) {
            if self.literal == 0 {
                self.element()?;
            }
            let count = self.literal.min(enough.saturating_sub(self.plain.len()));
            let (bytes, rest) = self
                .packed
                .split_at_checked(count)
                .ok_or("a literal is longer than the bytes left")?;
            self.count(count)?;
            self.plain.extend_from_slice(bytes);
            self.packed = rest;
            self.literal -= count;
        }
        let at_end = self.packed.is_empty() && self.literal == 0;
        if at_end && self.to_come > 0 {
            return Err("it ends before the length that it announces");
        }
        Ok(())
    }

    /// Begins a literal, or carries a copy out.
    fn element(&mut self) -> Result<(), &'static str> {
        let tag = self.number_of(1)?;
        let high = tag >> 2;
        match tag & 3 {
            0 => {
                let length = if high < 60 { high } else { self.number_of(high - 59)? };
                self.literal = length + 1;
                Ok(())
            }
            1 => {
                let offset = self.number_of(1)? | (high >> 3) << 8;
                self.copy(offset, (high & 7) + 4)
            }
            2 => {
                let offset = self.number_of(2)?;
                self.copy(offset, high + 1)
            }
            _ => {
                let offset = self.number_of(4)?;
                self.copy(offset, high + 1)
            }
        }
    }

    fn copy(&mut self, offset: usize, length: usize) -> Result<(), &'static str> {
        debug_assert!(length <= COPY_BYTES);
        let from = self.plain.len().checked_sub(offset).filter(|_| offset > 0);
        let from = from.ok_or("a copy reaches farther back than 64 KiB, or than the beginning")?;
        self.count(length)?;
        if offset >= length {
            self.plain.extend_from_within(from..from + length);
        } else {
            // It overlaps what it makes: a run that repeats the last `offset` bytes.
            for index in from..from + length {
                let byte = self.plain.get(index).copied().unwrap_or_default();
                self.plain.push(byte);
            }
        }
        Ok(())
    }

    fn count(&mut self, made: usize) -> Result<(), &'static str> {
        let left = self.to_come.checked_sub(made);
        self.to_come = left.ok_or("it makes more bytes than it announces")?;
        Ok(())
    }

    fn number_of(&mut self, bytes: usize) -> Result<usize, &'static str> {
        usize::try_from(self.number(bytes)?).map_err(|_| "a number is too large")
    }

    fn number(&mut self, bytes: usize) -> Result<u32, &'static str> {
        let (number, rest) =
            self.packed.split_at_checked(bytes).ok_or("it is cut off in an element")?;
        self.packed = rest;
        Ok(number.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte)))
    }
}

impl Read for RawSnappy<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.plain.len() {
            self.expand().map_err(io::Error::other)?;
        }
        let mut left = self.plain.get(self.at..).unwrap_or_default();
        let count = left.read(buffer)?;
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expand(packed: &[u8]) -> Result<Vec<u8>, String> {
        let (mut stream, _) = RawSnappy::new(packed).ok_or("no length")?;
        let mut plain = Vec::new();
        let mut buffer = [0; 1000];
        loop {
            let read = stream.read(&mut buffer).map_err(|error| error.to_string())?;
            let most = HISTORY_BYTES + 2 * PIECE_BYTES + COPY_BYTES;
            assert!(stream.plain.len() <= most, "{} bytes kept", stream.plain.len());
            match read {
                0 => return Ok(plain),
                read => plain.extend_from_slice(&buffer[..read]),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_the_writers_make_is_read(
            piece in prop::collection::vec(any::<u8>(), 0..5000),
            noise in prop::collection::vec(any::<u8>(), 0..5000),
            times in 0usize..60,
        ) {
            let plain = [piece.repeat(times), noise, piece].concat();
            let packed = snap::raw::Encoder::new().compress_vec(&plain).unwrap();
            prop_assert_eq!(expand(&packed).unwrap(), plain);
        }

        #[test]
        fn any_bytes_give_what_the_crate_gives(
            head in 0u8..120,
            bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let packed = [&[head][..], &bytes].concat();
            let theirs = snap::raw::Decoder::new().decompress_vec(&packed).ok();
            prop_assert_eq!(expand(&packed).ok(), theirs);
        }
    }

    #[test]
    fn all_kinds_of_elements_are_read() {
        // A literal with its length in two bytes, then a copy of each kind; the last one overlaps itself.
        let literal: Vec<u8> = (0..=255).cycle().take(3000).map(|byte: u8| byte).collect();
        let mut packed = vec![0xce, 0x17, 61 << 2, 0xb7, 0x0b];
        packed.extend_from_slice(&literal);
        packed.extend_from_slice(&[1 | 3 << 2 | 4 << 5, 0x01]);
        packed.extend_from_slice(&[2 | 4 << 2, 0xe8, 0x03]);
        packed.extend_from_slice(&[3 | 9 << 2, 0x03, 0, 0, 0]);
        let ours = expand(&packed).unwrap();
        assert_eq!(ours.len(), 3000 + 7 + 5 + 10);
        assert_eq!(snap::raw::Decoder::new().decompress_vec(&packed).unwrap(), ours);
    }

    #[test]
    fn a_copy_beyond_the_history_is_refused_and_one_at_its_edge_is_not() {
        let stream = |offset: u32| {
            let length = 200_000 - 1;
            let mut packed = vec![0xc4, 0x9a, 0x0c, 62 << 2];
            packed.extend_from_slice(&u32::to_le_bytes(length)[..3]);
            packed.extend((0..200_000u32).map(|index| (index % 251) as u8));
            packed.push(3 | 3 << 2);
            packed.extend_from_slice(&offset.to_le_bytes());
            packed
        };
        assert_eq!(expand(&stream(HISTORY_BYTES as u32)).unwrap().len(), 200_004);
        assert!(expand(&stream(150_000)).unwrap_err().contains("64 KiB"));
        assert!(expand(&stream(0)).unwrap_err().contains("beginning"));
    }

    #[test]
    fn lengths_are_held_to() {
        assert!(RawSnappy::new(&[]).is_none());
        assert!(RawSnappy::new(&[0x80; 4]).is_none());
        assert!(RawSnappy::new(&[0xff, 0xff, 0xff, 0xff, 0x10]).is_none());
        assert_eq!(expand(&[0]).unwrap(), b"");
        assert!(expand(&[2, 0, b'x']).unwrap_err().contains("announces"));
        assert!(expand(&[0, 0, b'x']).unwrap_err().contains("more bytes"));
        assert!(expand(&[5, 4 << 2, b'x']).unwrap_err().contains("literal"));
    }
}

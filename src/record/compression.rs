//! The codecs of record batches. Whatever expands does so through a limit on its output.
//!
//! Each codec as clients write it:
//! * gzip: one or several members.
//! * snappy: xerial blocks (Java: 16 bytes of magic and versions, then `i32 length | raw snappy` repeated) or one raw
//!   stream (librdkafka and others). Told apart by the magic, which no raw stream begins with.
//! * lz4: one frame of the frame format. A missing end mark or bytes after it are refused, because readers of some
//!   clients stop at either.
//! * zstd: one or several frames, content size not needed.

use std::fmt;
use std::io::{self, Read, Write};

use super::Error;
use super::snappy::RawSnappy;
use crate::types::limits::ZSTD_WINDOW_LOG;

const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// Version 1, readable since version 1.
const XERIAL_VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];
/// Plain bytes per block as Java's writer cuts them.
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;

/// Codec of a records section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Plain.
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy, framed by xerial's blocks or raw.
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    /// RFC 8878.
    Zstd,
}

/// As Kafka's `compression.type` spells it.
impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

impl Compression {
    /// The codec of a number of the attributes' bits 0-2.
    ///
    /// # Errors
    /// [`Error::Codec`] above 4.
    pub fn from_id(id: u8) -> Result<Self, Error> {
        Ok(match id {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            codec => return Err(Error::Codec { codec }),
        })
    }

    /// Its number in the attributes.
    #[must_use]
    pub fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// Compresses `plain` at the codec's default level.
    #[must_use]
    pub fn compress(self, plain: &[u8]) -> Vec<u8> {
        match self {
            Self::None => Ok(plain.to_vec()),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), <_>::default());
                encoder.write_all(plain).and_then(|()| encoder.finish())
            }
            Self::Snappy => compress_xerial(plain).map_err(io::Error::from),
            Self::Lz4 => {
                // Java's reader knows independent blocks only, which are the default; 64 KiB is its default too.
                let info = lz4_flex::frame::FrameInfo::new()
                    .block_size(lz4_flex::frame::BlockSize::Max64KB)
                    .block_mode(lz4_flex::frame::BlockMode::Independent);
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
                encoder.write_all(plain).and_then(|()| encoder.finish().map_err(io::Error::from))
            }
            Self::Zstd => zstd::stream::encode_all(plain, 0),
        }
        .expect("an encoder into memory has no other failure")
    }

    /// Expands `packed` to at most `limit` bytes, in memory that grows with the output.
    ///
    /// # Errors
    /// [`Error::Compressed`], [`Error::Expands`].
    pub fn decompress(self, packed: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
        self.expand(packed, limit, |source| {
            let mut plain = Vec::new();
            // One byte more than allowed tells an overflow from a fit.
            source
                .take(limit as u64 + 1)
                .read_to_end(&mut plain)
                .map_err(|error| self.failure(error))?;
            if plain.len() > limit {
                return Err(Error::Expands { codec: self, limit });
            }
            Ok(plain)
        })
    }

    /// Gives the plain bytes to `taker` as they come, without holding them all. The taker counts them against the
    /// limit, turns what `read` fails with into an error by [`Compression::failure`], and reads to the end where it
    /// succeeds.
    ///
    /// # Errors
    /// The taker's, and [`Error::Compressed`].
    pub(super) fn expand<T>(
        self,
        packed: &[u8],
        limit: usize,
        taker: impl FnOnce(&mut dyn Read) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match self {
            Self::None => taker(&mut { packed }),
            Self::Gzip => taker(&mut flate2::bufread::MultiGzDecoder::new(packed)),
            Self::Snappy => taker(&mut SnappyBlocks::new(packed, limit)?),
            Self::Lz4 => {
                let mut input = EndWatch { left: packed, ran_dry: false };
                let taken = taker(&mut lz4_flex::frame::FrameDecoder::new(&mut input))?;
                if input.ran_dry {
                    return Err(self.wrong(&"the frame has no end mark"));
                }
                if !input.left.is_empty() {
                    return Err(self.wrong(&"bytes follow the frame"));
                }
                Ok(taken)
            }
            Self::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(packed).map_err(|e| self.wrong(&e))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|e| self.wrong(&e))?;
                taker(&mut decoder)
            }
        }
    }

    /// What a read of the plain bytes failed with: an error of ours that came through it, or the codec's own.
    pub(super) fn failure(self, error: io::Error) -> Error {
        error.downcast::<Error>().unwrap_or_else(|error| self.wrong(&error))
    }

    fn wrong(self, reason: &dyn fmt::Display) -> Error {
        Error::Compressed { codec: self, reason: reason.to_string() }
    }
}

/// The blocks of xerial's framing one after the other, or a raw stream as the only one.
struct SnappyBlocks<'a> {
    packed: &'a [u8],
    framed: bool,
    limit: usize,
    /// The block at hand.
    block: Option<RawSnappy<'a>>,
}

impl<'a> SnappyBlocks<'a> {
    fn new(packed: &'a [u8], limit: usize) -> Result<Self, Error> {
        let (packed, framed) = match packed.strip_prefix(&XERIAL_MAGIC) {
            None => (packed, false),
            Some(rest) => {
                let blocks = rest.get(XERIAL_VERSIONS.len()..);
                (blocks.ok_or_else(|| Self::wrong(&"cut off in its header"))?, true)
            }
        };
        Ok(Self { packed, framed, limit, block: None })
    }

    fn wrong(reason: &dyn fmt::Display) -> Error {
        Compression::Snappy.wrong(reason)
    }

    fn take_block(&mut self) -> Result<&'a [u8], Error> {
        if !self.framed {
            return Ok(std::mem::take(&mut self.packed));
        }
        let (block, rest) = self
            .packed
            .split_first_chunk()
            .and_then(|(length, rest)| {
                rest.split_at_checked(usize::try_from(i32::from_be_bytes(*length)).ok()?)
            })
            .ok_or_else(|| Self::wrong(&"a block is longer than the bytes left"))?;
        self.packed = rest;
        Ok(block)
    }

    /// Begins the next block, unless it announces more than all may make.
    fn next_block(&mut self) -> Result<(), Error> {
        let block = RawSnappy::new(self.take_block()?);
        let (block, announced) =
            block.ok_or_else(|| Self::wrong(&"a block announces no length"))?;
        if announced > self.limit {
            return Err(Error::Expands { codec: Compression::Snappy, limit: self.limit });
        }
        self.block = Some(block);
        Ok(())
    }
}

impl Read for SnappyBlocks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(block) = &mut self.block {
                match block.read(buffer)? {
                    0 if !buffer.is_empty() => self.block = None,
                    read => return Ok(read),
                }
            } else if self.packed.is_empty() {
                return Ok(0);
            } else {
                self.next_block().map_err(io::Error::other)?;
            }
        }
    }
}

fn compress_xerial(plain: &[u8]) -> Result<Vec<u8>, snap::Error> {
    let mut out = [XERIAL_MAGIC, XERIAL_VERSIONS].concat();
    let mut encoder = snap::raw::Encoder::new();
    for block in plain.chunks(XERIAL_BLOCK_BYTES) {
        let packed = encoder.compress_vec(block)?;
        let length =
            u32::try_from(packed.len()).expect("a block of 32 KiB grows by a sixth at most");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&packed);
    }
    Ok(out)
}

/// Remembers whether the decoder asked for more than there was: the lz4 crate takes that for a proper end.
struct EndWatch<'a> {
    left: &'a [u8],
    ran_dry: bool,
}

impl Read for EndWatch<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() && !buffer.is_empty() {
            self.ran_dry = true;
        }
        self.left.read(buffer)
    }
}

#[cfg(test)]
mod tests;

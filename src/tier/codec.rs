//! Reading and writing the Cap'n Proto frames of `schema/tier.capnp`, within bounds.

use capnp::message::{Builder, HeapAllocator, Reader, ReaderOptions};
use capnp::serialize::{BufferSegments, read_message_from_flat_slice, write_message_to_words};

use super::error::Malformed;
use crate::types::limits::CAPNP_NESTING;

/// A frame that stands in a slice.
pub(super) type Frame<'a> = Reader<BufferSegments<&'a [u8]>>;

/// The bytes of a frame: segment table and segments.
pub(super) fn finish(message: &Builder<HeapAllocator>) -> Vec<u8> {
    write_message_to_words(message)
}

/// Reads exactly `bytes` as a frame. The caller has bounded their length.
pub(super) fn read<'a>(bytes: &'a [u8], what: &'static str) -> Result<Frame<'a>, Malformed> {
    let mut options = ReaderOptions::new();
    // Each word may be visited a few times and no more: pointers that all lead to one large list end here.
    options.traversal_limit_in_words(Some(bytes.len() / 2 + 64)).nesting_limit(CAPNP_NESTING);
    let mut rest = bytes;
    let frame = read_message_from_flat_slice(&mut rest, options)?;
    if !rest.is_empty() {
        let expected = bytes.len() - rest.len();
        return Err(Malformed::Length { what, found: bytes.len(), expected });
    }
    Ok(frame)
}

/// Exactly `N` bytes.
pub(super) fn fixed<const N: usize>(data: &[u8], what: &'static str) -> Result<[u8; N], Malformed> {
    data.try_into().map_err(|_| Malformed::Length { what, found: data.len(), expected: N })
}

/// A text.
pub(super) fn text(text: capnp::text::Reader<'_>, what: &'static str) -> Result<String, Malformed> {
    text.to_string().map_err(|_| Malformed::Text { what })
}

/// A quantity within its limit.
pub(super) fn within(found: u64, limit: usize, what: &'static str) -> Result<usize, Malformed> {
    let limit_u64 = limit as u64;
    let too_large = Malformed::TooLarge { what, found, limit: limit_u64 };
    usize::try_from(found).ok().filter(|found| *found <= limit).ok_or(too_large)
}

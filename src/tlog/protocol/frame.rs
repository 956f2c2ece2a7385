//! Cap'n Proto stream frames out of a growing buffer.

use bytes::{Bytes, BytesMut};
use capnp::message::ReaderSegments;

use crate::types::limits::{TLOG_FRAME_SEGMENTS, TLOG_MESSAGE_BYTES};

/// A frame that no valid client sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// More segments than accepted.
    #[error("frame of {segments} segments, at most {limit} are accepted")]
    TooManySegments {
        /// As announced.
        segments: u64,
        /// The bound.
        limit: u32,
    },
    /// Longer than accepted.
    #[error("frame of {bytes} bytes, at most {limit} are accepted")]
    TooLong {
        /// As announced, without the frame's header.
        bytes: u64,
        /// The bound.
        limit: usize,
    },
}

/// One whole frame without its header. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    body: Bytes,
    /// Ends of the segments within `body`; empty when there is one segment, which is nearly always so.
    ends: Vec<usize>,
}

impl Frame {
    /// All segments, one after the other.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

impl ReaderSegments for Frame {
    fn get_segment(&self, id: u32) -> Option<&[u8]> {
        let id = usize::try_from(id).ok()?;
        if self.ends.is_empty() {
            return (id == 0).then_some(&self.body[..]);
        }
        let start = match id.checked_sub(1) {
            None => 0,
            Some(before) => *self.ends.get(before)?,
        };
        self.body.get(start..*self.ends.get(id)?)
    }

    fn len(&self) -> usize {
        self.ends.len().max(1)
    }
}

/// Takes the first frame out of `buffer`, if all of it is there; otherwise leaves the buffer as it is.
///
/// Reads nothing but the header until the whole frame is there, and reserves nothing.
///
/// # Errors
/// [`FrameError`] as soon as the header shows it; the stream cannot be read any further.
pub fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(count) = u32_at(buffer, 0) else { return Ok(None) };
    let segments = u64::from(count) + 1;
    if segments > u64::from(TLOG_FRAME_SEGMENTS) {
        return Err(FrameError::TooManySegments { segments, limit: TLOG_FRAME_SEGMENTS });
    }
    let segments = usize::try_from(segments).unwrap_or(usize::MAX);
    let header_bytes = (4 + 4 * segments).next_multiple_of(8);
    if buffer.len() < header_bytes {
        return Ok(None);
    }
    let mut bytes = 0_u64;
    for segment in 0..segments {
        let words = u32_at(buffer, 4 + 4 * segment).unwrap_or_default();
        bytes += 8 * u64::from(words);
    }
    let body_bytes = usize::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes <= TLOG_MESSAGE_BYTES)
        .ok_or(FrameError::TooLong { bytes, limit: TLOG_MESSAGE_BYTES })?;
    if buffer.len() - header_bytes < body_bytes {
        return Ok(None);
    }
    let header = buffer.split_to(header_bytes);
    let body = buffer.split_to(body_bytes).freeze();
    Ok(Some(Frame { body, ends: segment_ends(&header, segments) }))
}

/// A frame of one segment around `words`, whose length is a multiple of 8.
pub(super) fn put_header(out: &mut BytesMut, segments: &[&[u8]]) {
    let count = u32::try_from(segments.len() - 1).expect("messages of ours have one segment");
    out.extend_from_slice(&count.to_le_bytes());
    for segment in segments {
        let words = u32::try_from(segment.len() / 8).expect("messages of ours are below 64 MiB");
        out.extend_from_slice(&words.to_le_bytes());
    }
    if segments.len().is_multiple_of(2) {
        out.extend_from_slice(&[0; 4]);
    }
}

fn segment_ends(header: &[u8], segments: usize) -> Vec<usize> {
    if segments == 1 {
        return Vec::new();
    }
    let mut end = 0;
    (0..segments)
        .map(|segment| {
            let words = u32_at(header, 4 + 4 * segment).unwrap_or_default();
            end += 8 * usize::try_from(words).unwrap_or_default();
            end
        })
        .collect()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let (word, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(words: &[u32]) -> BytesMut {
        words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>().as_slice().into()
    }

    #[test]
    fn a_frame_is_taken_only_when_whole_and_leaves_the_rest() {
        let whole = buffer(&[0, 1, 7, 8, 99]);
        for cut in 0..16 {
            let mut part = BytesMut::from(&whole[..cut]);
            assert_eq!(take_frame(&mut part), Ok(None));
            assert_eq!(part.len(), cut);
        }
        let mut all = whole;
        let frame = take_frame(&mut all).unwrap().unwrap();
        assert_eq!(frame.body()[..], buffer(&[7, 8])[..]);
        assert_eq!(all, buffer(&[99]));
    }

    #[test]
    fn several_segments_keep_their_borders() {
        let mut bytes = buffer(&[2, 1, 0, 2, 1, 1, 2, 2, 3, 3]);
        let frame = take_frame(&mut bytes).unwrap().unwrap();
        assert_eq!(ReaderSegments::len(&frame), 3);
        assert_eq!(frame.get_segment(0), Some(&buffer(&[1, 1])[..]));
        assert_eq!(frame.get_segment(1), Some(&[][..]));
        assert_eq!(frame.get_segment(2), Some(&buffer(&[2, 2, 3, 3])[..]));
        assert_eq!(frame.get_segment(3), None);
        let mut padded = buffer(&[1, 1, 0, 0, 5, 5]);
        let frame = take_frame(&mut padded).unwrap().unwrap();
        assert_eq!(frame.get_segment(0), Some(&buffer(&[5, 5])[..]));
        assert!(padded.is_empty());
    }

    #[test]
    fn announced_sizes_are_refused_before_the_bytes_arrive() {
        assert!(matches!(
            take_frame(&mut buffer(&[u32::MAX])),
            Err(FrameError::TooManySegments { .. })
        ));
        assert!(matches!(
            take_frame(&mut buffer(&[0, 8 * 1024 * 1024 + 1])),
            Err(FrameError::TooLong { .. })
        ));
        assert!(matches!(
            take_frame(&mut buffer(&[1, u32::MAX, u32::MAX, 0])),
            Err(FrameError::TooLong { .. })
        ));
        assert_eq!(take_frame(&mut buffer(&[0, 8 * 1024 * 1024])), Ok(None));
    }
}

//! Frames off a byte stream, and the first bytes of a request.

use bytes::{Buf, Bytes, BytesMut};

use crate::types::limits::{
    KAFKA_PRODUCE_FRAME_BYTES, KAFKA_REQUEST_FRAME_BYTES, KAFKA_SMALL_FRAME_BYTES,
};

/// The size in front of a frame.
const SIZE_BYTES: usize = 4;
/// API key, version and correlation id; no request is shorter.
const PEEK_BYTES: usize = 8;
/// API key of the only request that carries data.
const PRODUCE: i16 = 0;
/// Room for reading when there is nothing to go by: a usual request.
const LEAST_ROOM_BYTES: usize = 8 * 1024;

const _: () = assert!(KAFKA_REQUEST_FRAME_BYTES <= KAFKA_PRODUCE_FRAME_BYTES);

/// Why a stream is not a Kafka client's. It cannot be read any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// An HTTP request.
    #[error("HTTP on a Kafka listener; use a Kafka client here, and the admin address for HTTP")]
    Http,
    /// A TLS handshake.
    #[error("TLS on a plaintext Kafka listener; set the client's security.protocol to PLAINTEXT")]
    Tls,
    /// A negative size.
    #[error("frame size {size} is negative; the peer does not speak Kafka's protocol")]
    Negative {
        /// As found.
        size: i32,
    },
    /// A size without room for a request header.
    #[error("a frame of {size} bytes has no room for a request header")]
    TooShort {
        /// As found.
        size: usize,
    },
    /// A size above the limit for this request.
    #[error("a frame of {size} bytes exceeds the limit of {limit}; send smaller requests")]
    TooLarge {
        /// As found.
        size: usize,
        /// Most that this request may have.
        limit: usize,
    },
}

/// What names a request and its answer. Read before anything is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestPeek {
    /// Which request.
    pub api_key: i16,
    /// Version of it.
    pub api_version: i16,
    /// Returned in the response.
    pub correlation_id: i32,
}

/// Reads the first 8 bytes of a frame (without its size).
///
/// # Errors
/// [`FrameError::TooShort`]. Frames of [`FrameReader`] are long enough.
pub fn peek(frame: &[u8]) -> Result<RequestPeek, FrameError> {
    let mut fixed: &[u8] =
        frame.first_chunk::<PEEK_BYTES>().ok_or(FrameError::TooShort { size: frame.len() })?;
    Ok(RequestPeek {
        api_key: fixed.get_i16(),
        api_version: fixed.get_i16(),
        correlation_id: fixed.get_i32(),
    })
}

/// The length of a frame, from its four bytes of size. `api_key` is that of the frame once it has arrived; without it only
/// what no request may have is refused.
///
/// # Errors
/// All of [`FrameError`].
pub fn frame_length(prefix: [u8; 4], api_key: Option<i16>) -> Result<usize, FrameError> {
    let size = i32::from_be_bytes(prefix);
    let length = usize::try_from(size).map_err(|_| FrameError::Negative { size })?;
    if length < PEEK_BYTES {
        return Err(FrameError::TooShort { size: length });
    }
    let limit = match api_key {
        None | Some(PRODUCE) => KAFKA_PRODUCE_FRAME_BYTES,
        Some(_) => KAFKA_REQUEST_FRAME_BYTES,
    };
    if length <= limit {
        return Ok(length);
    }
    // What other protocols begin with is a size beyond every limit.
    match &prefix {
        b"GET " | b"POST" | b"PUT " | b"HEAD" | b"OPTI" | b"PRI " => Err(FrameError::Http),
        [0x16, 0x03, ..] => Err(FrameError::Tls),
        _ => Err(FrameError::TooLarge { size: length, limit }),
    }
}

/// Cuts request frames off a stream. The caller reads into a buffer and asks for frames until there is none:
///
/// ```text
/// loop { while let Some(frame) = reader.next(&mut buffer)? { … }
///        buffer.reserve(reader.room(&buffer)); read some more into the buffer; }
/// ```
#[derive(Debug, Default)]
pub struct FrameReader {
    /// Bytes that the frame at the front of the buffer takes with its size, once that is known.
    wanted: Option<usize>,
}

impl FrameReader {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next whole frame (without its size) off the front of `buffer`, or none when more must be read. A slice of the
    /// buffer's memory, not a copy; a frame above 64 KiB takes that memory with it, so that it is freed with the frame.
    ///
    /// # Errors
    /// [`FrameError`]: the stream must be closed. It is found with the first bytes, before the frame arrives.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let Some((prefix, rest)) = buffer.split_first_chunk::<SIZE_BYTES>() else {
            self.wanted = None;
            return Ok(None);
        };
        let api_key = rest.first_chunk().map(|key| i16::from_be_bytes(*key));
        let length = frame_length(*prefix, api_key)?;
        if rest.len() < length {
            self.wanted = Some(SIZE_BYTES + length);
            return Ok(None);
        }
        self.wanted = None;
        buffer.advance(SIZE_BYTES);
        let frame = buffer.split_to(length).freeze();
        if length > KAFKA_SMALL_FRAME_BYTES {
            *buffer = BytesMut::from(&buffer[..]);
        }
        Ok(Some(frame))
    }

    /// Bytes of room to make before the next read: what the frame still lacks, but not more than has arrived of it, so that
    /// memory follows what was sent and not what was announced.
    #[must_use]
    pub fn room(&self, buffer: &BytesMut) -> usize {
        let lacking = self.wanted.unwrap_or(0).saturating_sub(buffer.len());
        lacking.min(buffer.len()).max(LEAST_ROOM_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(body: &[u8]) -> Vec<u8> {
        [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
    }

    proptest! {
        #[test]
        fn frames_come_whole_however_the_stream_is_cut(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 8..60), 0..6),
            steps in prop::collection::vec(1usize..40, 1..20),
        ) {
            let stream: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
            let (mut buffer, mut reader, mut frames) = (BytesMut::new(), FrameReader::new(), vec![]);
            let mut rest = stream.as_slice();
            for step in steps.iter().cycle() {
                while let Some(frame) = reader.next(&mut buffer).unwrap() {
                    prop_assert!(peek(&frame).is_ok());
                    frames.push(frame.to_vec());
                }
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*step).min(rest.len()));
                buffer.extend_from_slice(now);
                rest = later;
            }
            prop_assert_eq!(frames, bodies);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(bytes.as_slice());
            let _ = peek(&bytes);
            let _ = FrameReader::new().next(&mut buffer);
        }
    }

    #[test]
    fn other_protocols_are_named() {
        for (bytes, error) in [
            (&b"GET / HTTP/1.1\r\n"[..], FrameError::Http),
            (b"PRI * HTTP/2.0", FrameError::Http),
            (&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01], FrameError::Tls),
            (&[0xff, 0xff, 0xff, 0xff], FrameError::Negative { size: -1 }),
            (&[0, 0, 0, 7], FrameError::TooShort { size: 7 }),
        ] {
            assert_eq!(FrameReader::new().next(&mut BytesMut::from(bytes)), Err(error));
        }
    }

    #[test]
    fn produce_alone_may_be_large() {
        let size = |bytes: usize| u32::try_from(bytes).unwrap().to_be_bytes();
        let above = KAFKA_REQUEST_FRAME_BYTES + 1;
        assert_eq!(frame_length(size(above), None), Ok(above));
        assert_eq!(frame_length(size(above), Some(0)), Ok(above));
        assert_eq!(frame_length(size(above - 1), Some(3)), Ok(above - 1));
        let refused = Err(FrameError::TooLarge { size: above, limit: KAFKA_REQUEST_FRAME_BYTES });
        assert_eq!(frame_length(size(above), Some(3)), refused);
        let most = KAFKA_PRODUCE_FRAME_BYTES;
        assert_eq!(frame_length(size(most), Some(0)), Ok(most));
        let refused = FrameError::TooLarge { size: most + 1, limit: most };
        assert_eq!(frame_length(size(most + 1), None), Err(refused));
        // The key decides as soon as it has arrived.
        let mut start = BytesMut::from(&[&size(above)[..], &[0, 3]].concat()[..]);
        assert!(FrameReader::new().next(&mut start).is_err());
    }

    #[test]
    fn room_follows_what_was_sent_and_not_what_was_announced() {
        let mut reader = FrameReader::new();
        let announced = u32::try_from(KAFKA_PRODUCE_FRAME_BYTES).unwrap().to_be_bytes();
        let mut buffer = BytesMut::from(&announced[..]);
        assert_eq!(reader.next(&mut buffer), Ok(None));
        assert_eq!(reader.room(&buffer), LEAST_ROOM_BYTES);
        buffer.resize(50_000, 0);
        assert_eq!(reader.next(&mut buffer), Ok(None));
        assert_eq!(reader.room(&buffer), 50_000);
    }

    #[test]
    fn the_memory_of_a_long_frame_does_not_stay_with_the_buffer() {
        let stream = [framed(&[0; 1 << 20]), framed(&[1; 9])].concat();
        let (mut buffer, mut reader) = (BytesMut::from(&stream[..]), FrameReader::new());
        let long = reader.next(&mut buffer).unwrap().unwrap();
        drop(long);
        buffer.reserve(LEAST_ROOM_BYTES);
        assert!(buffer.capacity() < 1 << 16, "{} bytes stay", buffer.capacity());
        assert_eq!(reader.next(&mut buffer).unwrap().unwrap()[..], [1; 9]);
    }

    #[test]
    fn a_peek_needs_eight_bytes() {
        let peeked = peek(&[0, 18, 0, 3, 0, 0, 1, 0, 9]).unwrap();
        let expected = RequestPeek { api_key: 18, api_version: 3, correlation_id: 256 };
        assert_eq!(peeked, expected);
        assert_eq!(peek(&[0; 7]), Err(FrameError::TooShort { size: 7 }));
    }
}

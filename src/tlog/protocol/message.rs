//! Messages of the TLog wire as owned values.

use bytes::{Bytes, BytesMut};
use capnp::message::{Builder, HeapAllocator, Reader, ReaderOptions};
use capnp::traits::{FromPointerReader, IntoInternalStructReader};

use super::frame::{Frame, put_header};
use super::tlog_capnp as wire;
use crate::record::vdisk::{Block, Place};
use crate::types::limits::{CAPNP_NESTING, TLOG_MESSAGE_BYTES};

/// Version word of the older family: 1.1.0-alpha as major, minor, patch, stage.
pub const VERSION_A: u32 = 0x0101_0008;
/// Version word of the newer family: 1.1.0 as major, minor, patch.
pub const VERSION_B: u32 = 0x0001_0100;

/// Type byte before a block of the typed wires.
pub const TYPE_BLOCK: u8 = 1;
/// Type byte before a force flush at a sequence.
pub const TYPE_FORCE_FLUSH: u8 = 2;
/// Type byte before a wait for the slave sync.
pub const TYPE_WAIT_SLAVE_SYNC: u8 = 3;

/// Bytes of a message without what it carries: root pointer, the largest pair of structs, rounding.
const ENVELOPE_WORDS: usize = 16;

/// A frame whose content is no message of this wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The encoding is broken.
    #[error("unreadable message: {reason}")]
    Unreadable {
        /// The decoder's words.
        reason: String,
    },
    /// A union variant that does not exist.
    #[error("unknown message of tag {tag}")]
    UnknownMessage {
        /// As sent.
        tag: u16,
    },
    /// A hash of another length than 32 bytes.
    #[error("block {sequence} has a hash of {bytes} bytes, 32 are needed")]
    HashLength {
        /// The block's sequence.
        sequence: u64,
        /// As sent.
        bytes: usize,
    },
    /// A response status that does not exist.
    #[error("unknown status {status}")]
    UnknownStatus {
        /// As sent.
        status: i8,
    },
}

impl From<capnp::Error> for DecodeError {
    fn from(error: capnp::Error) -> Self {
        Self::Unreadable { reason: error.to_string() }
    }
}

/// The two families of handshakes; each has its own numbering of versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// The client names its first sequence. Also the first two steps of the union wire.
    A,
    /// The server reports the last flushed sequence.
    B,
}

/// Form of the messages after the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Blocks alone, places in bytes.
    Bare,
    /// A type byte before each message, places in bytes.
    Typed,
    /// A type byte before each message, places as block numbers.
    TypedIndex,
    /// A union of all messages, places as block numbers.
    Union,
}

/// First message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeRequest {
    /// By the size of the request's root.
    pub family: Family,
    /// The client's version, numbered by its family.
    pub version: u32,
    /// The vdisk; none where the field cannot be read or is not UTF-8.
    pub vdisk_id: Option<String>,
    /// First sequence that the client will send (family A; else 0).
    pub first_sequence: u64,
    /// Whether sequences start over (family A; else false).
    pub reset: bool,
}

/// The server's answer to a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandshakeResponse {
    /// Decides the version word and whether the last two fields are sent.
    pub family: Family,
    /// What came of it.
    pub status: HandshakeStatus,
    /// Highest sequence that is shipped, 0 if none.
    pub last_flushed_sequence: u64,
    /// Whether the client must wait for [`Status::Ready`] before it sends.
    pub wait_tlog_ready: bool,
}

/// Status of a handshake response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum HandshakeStatus {
    /// Attached.
    Ok = 1,
    /// The request could not be read.
    InvalidRequest = -1,
    /// The client is too old.
    InvalidVersion = -2,
    /// No vdisk can have this id.
    InvalidVdiskId = -3,
    /// The server cannot serve this vdisk now.
    Internal = -4,
    /// The vdisk has a client.
    AttachFailed = -5,
}

impl HandshakeStatus {
    const ALL: [Self; 6] = [
        Self::Ok,
        Self::InvalidRequest,
        Self::InvalidVersion,
        Self::InvalidVdiskId,
        Self::Internal,
        Self::AttachFailed,
    ];
}

/// Status of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum Status {
    /// The vdisk failed; what it held unshipped must be sent again.
    FlushFailed = -2,
    /// Never sent by any server; known for clients.
    ReceiveFailed = -1,
    /// The listed sequence is durable.
    Received = 1,
    /// The listed sequences are shipped.
    Flushed = 2,
    /// A force flush was taken note of.
    ForceFlushReceived = 3,
    /// A wait for the slave sync ended.
    WaitSlaveSyncDone = 4,
    /// The server ends the connection.
    Disconnected = 5,
    /// The client may send now; lists the last flushed sequence.
    Ready = 6,
}

impl Status {
    const ALL: [Self; 8] = [
        Self::FlushFailed,
        Self::ReceiveFailed,
        Self::Received,
        Self::Flushed,
        Self::ForceFlushReceived,
        Self::WaitSlaveSyncDone,
        Self::Disconnected,
        Self::Ready,
    ];
}

/// What a server sends after the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// What happened.
    pub status: Status,
    /// To which sequences, ascending.
    pub sequences: Vec<u64>,
}

/// What a client sends after the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    /// A write.
    Block(Block),
    /// Ship everything up to this sequence now.
    ForceFlush(u64),
    /// Answer when the slave has what is shipped.
    WaitSlaveSync,
    /// The client leaves (union wire).
    Disconnect,
}

fn open(frame: &Frame) -> Reader<&Frame> {
    let mut options = ReaderOptions::new();
    // Twice: a getter called on two paths counts twice against it.
    options.traversal_limit_in_words(Some(2 * TLOG_MESSAGE_BYTES / 8)).nesting_limit(CAPNP_NESTING);
    Reader::new(frame, options)
}

/// Data words and pointers of a struct as sent.
fn shape<'a>(root: impl IntoInternalStructReader<'a> + Copy) -> (usize, u32) {
    let words = capnp::raw::get_struct_data_section(root).len() / 8;
    (words, capnp::raw::get_struct_pointer_section(root).len())
}

fn root<'a, T: FromPointerReader<'a>>(reader: &'a Reader<&Frame>) -> Result<T, DecodeError> {
    Ok(reader.get_root()?)
}

/// Bytes of the frame without a copy, unless a short part would hold a long frame in memory.
fn part(frame: &Frame, part: &[u8]) -> Bytes {
    if part.len() < frame.body().len() / 2 {
        Bytes::copy_from_slice(part)
    } else {
        frame.body().slice_ref(part)
    }
}

fn text(field: capnp::Result<capnp::text::Reader<'_>>) -> Option<String> {
    field.ok()?.to_string().ok()
}

impl HandshakeRequest {
    /// Reads a request of either family.
    ///
    /// # Errors
    /// Where the frame has no readable root; an unreadable vdisk id is no error here.
    pub fn decode(frame: &Frame) -> Result<Self, DecodeError> {
        let reader = open(frame);
        let request: wire::handshake_request::Reader<'_> = root(&reader)?;
        let (words, _) = shape(request);
        Ok(Self {
            family: if words >= 2 { Family::A } else { Family::B },
            version: request.get_version(),
            vdisk_id: text(request.get_vdisk_id()),
            first_sequence: request.get_first_sequence(),
            reset: request.get_reset(),
        })
    }

    /// Appends the request as a client of its family sends it.
    pub fn encode(&self, out: &mut BytesMut) {
        let id = self.vdisk_id.as_deref().unwrap_or_default();
        let mut message = builder(id.len());
        match self.family {
            Family::A => {
                let mut request = message.init_root::<wire::handshake_request::Builder<'_>>();
                request.set_version(self.version);
                request.set_vdisk_id(id);
                request.set_first_sequence(self.first_sequence);
                request.set_reset(self.reset);
            }
            Family::B => {
                let mut request = message.init_root::<wire::handshake_request_b::Builder<'_>>();
                request.set_version(self.version);
                request.set_vdisk_id(id);
            }
        }
        put(out, &message);
    }
}

impl HandshakeResponse {
    /// Reads a response of either family. The version word is for people and not kept.
    ///
    /// # Errors
    /// Where the frame cannot be read or has an unknown status.
    pub fn decode(frame: &Frame) -> Result<Self, DecodeError> {
        let reader = open(frame);
        let response: wire::handshake_response::Reader<'_> = root(&reader)?;
        let (words, _) = shape(response);
        let status = response.get_status();
        Ok(Self {
            family: if words >= 2 { Family::B } else { Family::A },
            status: HandshakeStatus::ALL
                .into_iter()
                .find(|known| *known as i8 == status)
                .ok_or(DecodeError::UnknownStatus { status })?,
            last_flushed_sequence: response.get_last_flushed_sequence(),
            wait_tlog_ready: response.get_wait_tlog_ready(),
        })
    }

    /// Appends the response as a server of the family sends it.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut message = builder(0);
        match self.family {
            Family::A => {
                let mut response = message.init_root::<wire::handshake_response_a::Builder<'_>>();
                response.set_version(VERSION_A);
                response.set_status(self.status as i8);
            }
            Family::B => {
                let mut response = message.init_root::<wire::handshake_response::Builder<'_>>();
                response.set_version(VERSION_B);
                response.set_status(self.status as i8);
                response.set_last_flushed_sequence(self.last_flushed_sequence);
                response.set_wait_tlog_ready(self.wait_tlog_ready);
            }
        }
        put(out, &message);
    }
}

impl Response {
    /// A response that names no sequence.
    #[must_use]
    pub fn of(status: Status) -> Self {
        Self { status, sequences: Vec::new() }
    }

    /// Reads a response; the layout is the same on every wire.
    ///
    /// # Errors
    /// Where the frame cannot be read or has an unknown status.
    pub fn decode(frame: &Frame) -> Result<Self, DecodeError> {
        let reader = open(frame);
        let response: wire::response::Reader<'_> = root(&reader)?;
        let status = response.get_status();
        let status = Status::ALL
            .into_iter()
            .find(|known| *known as i8 == status)
            .ok_or(DecodeError::UnknownStatus { status })?;
        let sequences = response.get_sequences()?;
        // A list of longer elements than ours is legal and may have none of their bytes: the frame bounds the count.
        let count = usize::try_from(sequences.len()).unwrap_or(usize::MAX);
        if count > frame.body().len() / 8 {
            return Err(DecodeError::Unreadable { reason: "list longer than its frame".into() });
        }
        Ok(Self { status, sequences: sequences.iter().collect() })
    }

    /// Appends the response.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut message = builder(8 * self.sequences.len());
        let mut response = message.init_root::<wire::response::Builder<'_>>();
        response.set_status(self.status as i8);
        let count = u32::try_from(self.sequences.len()).expect("a list has at most flush-size");
        let mut sequences = response.init_sequences(count);
        for (index, sequence) in (0..).zip(&self.sequences) {
            sequences.set(index, *sequence);
        }
        put(out, &message);
    }
}

impl ClientMessage {
    /// Reads a message after its type byte, which alone says what it is.
    ///
    /// # Errors
    /// Where the frame cannot be read or the type byte is not one of the three.
    pub fn decode_typed(kind: u8, frame: &Frame) -> Result<(Wire, Self), DecodeError> {
        let reader = open(frame);
        match kind {
            TYPE_BLOCK => {
                let block: wire::byte_block::Reader<'_> = root(&reader)?;
                if shape(block).0 >= 5 {
                    return Ok((Wire::Typed, Self::Block(byte_block(frame, block)?)));
                }
                let block = index_block(frame, root(&reader)?)?;
                Ok((Wire::TypedIndex, Self::Block(block)))
            }
            TYPE_FORCE_FLUSH => {
                let command: wire::command::Reader<'_> = root(&reader)?;
                Ok((Wire::Typed, Self::ForceFlush(command.get_sequence())))
            }
            TYPE_WAIT_SLAVE_SYNC => {
                // Read, so that a broken body ends the connection as any other does.
                let _: wire::command::Reader<'_> = root(&reader)?;
                Ok((Wire::Typed, Self::WaitSlaveSync))
            }
            tag => Err(DecodeError::UnknownMessage { tag: tag.into() }),
        }
    }

    /// Reads a message without a type byte from a client whose handshake was of family A: a bare block or a union
    /// message, told apart by the number of pointers.
    ///
    /// # Errors
    /// Where the frame cannot be read.
    pub fn decode_untyped(frame: &Frame) -> Result<(Wire, Self), DecodeError> {
        let reader = open(frame);
        let block: wire::byte_block::Reader<'_> = root(&reader)?;
        if shape(block).1 >= 2 {
            return Ok((Wire::Bare, Self::Block(byte_block(frame, block)?)));
        }
        Ok((Wire::Union, Self::decode_union(frame)?))
    }

    /// Reads a union message.
    ///
    /// # Errors
    /// Where the frame cannot be read or the message is unknown.
    pub fn decode_union(frame: &Frame) -> Result<Self, DecodeError> {
        use wire::client_message::Which;
        let reader = open(frame);
        let message: wire::client_message::Reader<'_> = root(&reader)?;
        match message.which() {
            Ok(Which::Block(block)) => Ok(Self::Block(index_block(frame, block?)?)),
            Ok(Which::ForceFlush(sequence)) => Ok(Self::ForceFlush(sequence)),
            Ok(Which::WaitSlaveSync(())) => Ok(Self::WaitSlaveSync),
            Ok(Which::Disconnect(())) => Ok(Self::Disconnect),
            Err(capnp::NotInSchema(tag)) => Err(DecodeError::UnknownMessage { tag }),
        }
    }

    /// Appends the message. False, and nothing appended, where this wire has no such message.
    ///
    /// A block whose place is given in the other way is converted by `block_size`.
    #[must_use]
    pub fn encode(&self, wire: Wire, block_size: u64, out: &mut BytesMut) -> bool {
        match (wire, self) {
            (Wire::Bare | Wire::Typed | Wire::TypedIndex, Self::Disconnect)
            | (Wire::Bare, Self::ForceFlush(_) | Self::WaitSlaveSync) => return false,
            (Wire::Bare, Self::Block(block)) => put_byte_block(out, block, block_size),
            (Wire::Typed, Self::Block(block)) => {
                out.extend_from_slice(&[TYPE_BLOCK]);
                put_byte_block(out, block, block_size);
            }
            (Wire::TypedIndex, Self::Block(block)) => {
                out.extend_from_slice(&[TYPE_BLOCK]);
                let mut message = builder(block.data.len());
                fill_index_block(message.init_root(), block, block_size);
                put(out, &message);
            }
            (Wire::Typed | Wire::TypedIndex, Self::ForceFlush(sequence)) => {
                put_command(out, TYPE_FORCE_FLUSH, *sequence);
            }
            (Wire::Typed | Wire::TypedIndex, Self::WaitSlaveSync) => {
                put_command(out, TYPE_WAIT_SLAVE_SYNC, 0);
            }
            (Wire::Union, message) => put_union(out, message, block_size),
        }
        true
    }
}

/// Reads the request of the second listener: the id of the vdisk that another server wants.
///
/// # Errors
/// Where the frame cannot be read.
pub fn decode_wait_request(frame: &Frame) -> Result<String, DecodeError> {
    let reader = open(frame);
    let request: wire::wait_request::Reader<'_> = root(&reader)?;
    text(request.get_vdisk_id())
        .ok_or_else(|| DecodeError::Unreadable { reason: "vdisk id is no text".into() })
}

/// Appends a request of the second listener.
pub fn encode_wait_request(vdisk_id: &str, out: &mut BytesMut) {
    let mut message = builder(vdisk_id.len());
    message.init_root::<wire::wait_request::Builder<'_>>().set_vdisk_id(vdisk_id);
    put(out, &message);
}

/// Reads the answer of the second listener: whether the other server has the vdisk open.
///
/// # Errors
/// Where the frame cannot be read.
pub fn decode_wait_response(frame: &Frame) -> Result<bool, DecodeError> {
    let reader = open(frame);
    let response: wire::wait_response::Reader<'_> = root(&reader)?;
    Ok(response.get_exists())
}

/// Appends an answer of the second listener.
pub fn encode_wait_response(exists: bool, out: &mut BytesMut) {
    let mut message = builder(0);
    message.init_root::<wire::wait_response::Builder<'_>>().set_exists(exists);
    put(out, &message);
}

fn hash_of(hash: &[u8], sequence: u64) -> Result<[u8; 32], DecodeError> {
    hash.try_into().map_err(|_| DecodeError::HashLength { sequence, bytes: hash.len() })
}

fn byte_block(frame: &Frame, block: wire::byte_block::Reader<'_>) -> Result<Block, DecodeError> {
    Ok(Block {
        sequence: block.get_sequence(),
        place: Place::Bytes { offset: block.get_offset(), size: block.get_size() },
        operation: block.get_operation(),
        hash: hash_of(block.get_hash()?, block.get_sequence())?,
        timestamp: block.get_timestamp(),
        data: part(frame, block.get_data()?),
    })
}

fn index_block(frame: &Frame, block: wire::index_block::Reader<'_>) -> Result<Block, DecodeError> {
    Ok(Block {
        sequence: block.get_sequence(),
        place: Place::Index(block.get_index()),
        operation: block.get_operation(),
        hash: hash_of(block.get_hash()?, block.get_sequence())?,
        timestamp: block.get_timestamp().cast_unsigned(),
        data: part(frame, block.get_data()?),
    })
}

fn put_byte_block(out: &mut BytesMut, block: &Block, block_size: u64) {
    let mut message = builder(block.data.len());
    let mut body = message.init_root::<wire::byte_block::Builder<'_>>();
    let (offset, size) = match block.place {
        Place::Bytes { offset, size } => (offset, size),
        Place::Index(index) => {
            let size = if block.data.is_empty() { block_size } else { block.data.len() as u64 };
            (index.cast_unsigned().saturating_mul(block_size), size)
        }
    };
    body.set_sequence(block.sequence);
    body.set_offset(offset);
    body.set_size(size);
    body.set_hash(&block.hash);
    if !block.data.is_empty() {
        body.set_data(&block.data);
    }
    body.set_timestamp(block.timestamp);
    body.set_operation(block.operation);
    put(out, &message);
}

fn fill_index_block(mut body: wire::index_block::Builder<'_>, block: &Block, block_size: u64) {
    let index = match block.place {
        Place::Index(index) => index,
        Place::Bytes { offset, .. } => (offset / block_size.max(1)).cast_signed(),
    };
    body.set_sequence(block.sequence);
    body.set_index(index);
    body.set_hash(&block.hash);
    if !block.data.is_empty() {
        body.set_data(&block.data);
    }
    body.set_timestamp(block.timestamp.cast_signed());
    body.set_operation(block.operation);
}

fn put_command(out: &mut BytesMut, kind: u8, sequence: u64) {
    let mut message = builder(0);
    let mut command = message.init_root::<wire::command::Builder<'_>>();
    command.set_type(kind);
    command.set_sequence(sequence);
    out.extend_from_slice(&[kind]);
    put(out, &message);
}

fn put_union(out: &mut BytesMut, client_message: &ClientMessage, block_size: u64) {
    let data_bytes = match client_message {
        ClientMessage::Block(block) => block.data.len(),
        _ => 0,
    };
    let mut message = builder(data_bytes);
    let mut union = message.init_root::<wire::client_message::Builder<'_>>();
    match client_message {
        ClientMessage::Block(block) => fill_index_block(union.init_block(), block, block_size),
        ClientMessage::ForceFlush(sequence) => union.set_force_flush(*sequence),
        ClientMessage::WaitSlaveSync => union.set_wait_slave_sync(()),
        ClientMessage::Disconnect => union.set_disconnect(()),
    }
    put(out, &message);
}

/// A builder with room for everything in its first segment.
fn builder(data_bytes: usize) -> Builder<HeapAllocator> {
    let words = u32::try_from(ENVELOPE_WORDS + data_bytes.div_ceil(8)).unwrap_or(u32::MAX);
    Builder::new(HeapAllocator::new().first_segment_words(words))
}

fn put(out: &mut BytesMut, message: &Builder<HeapAllocator>) {
    let segments = message.get_segments_for_output();
    put_header(out, &segments);
    for segment in segments.iter() {
        out.extend_from_slice(segment);
    }
}

#[cfg(test)]
mod tests;

//! One connection's conversation: bytes to events, answers to bytes. No sockets, no time, nothing about a vdisk's state.
//!
//! ```text
//!  Greeting --handshake--> Attaching --answer_handshake--> Open(form) --end--> Ended
//!     |                        |                              |
//!     +---- violation, refusal +------------------------------+-----> Ended
//! ```
//!
//! While attaching nothing is read out of the input: a client may send its first blocks before it is answered, and they
//! wait. The form of the messages is known from the handshake (family B) or from the first message (family A, see
//! `protocol`), and holds for the rest of the connection.

use bytes::BytesMut;

use super::protocol::frame::{Frame, FrameError, take_frame};
use super::protocol::message::{
    ClientMessage, DecodeError, Family, HandshakeRequest, HandshakeResponse, HandshakeStatus,
    Response, Status, VERSION_B, Wire,
};
use crate::record::vdisk::Block;
use crate::types::TopicName;

/// Lowest version of family A without its stage byte: 1.1.0, any stage. Stages rank live above all others only where
/// the rest is equal, and the lowest accepted is not live, so the byte never decides.
const LOWEST_VERSION_A: u32 = 0x01_01_00;

/// A handshake that this server can serve, as far as the request shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// Which rules of attaching hold.
    pub family: Family,
    /// The vdisk; its id is the topic's name.
    pub vdisk: TopicName,
    /// First sequence that the client will send (family A).
    pub first_sequence: u64,
    /// Whether sequences start over (family A).
    pub reset: bool,
}

/// What a client said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It wants to attach; [`Session::answer_handshake`] is due.
    Handshake(Handshake),
    /// A write. Its hash is not checked here.
    Block(Block),
    /// Everything up to a sequence is wanted on the shard servers.
    ForceFlush(u64),
    /// It waits for the slave sync.
    WaitSlaveSync,
    /// It leaves.
    Disconnect,
}

/// Why a connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The first message is no handshake.
    #[error("unreadable handshake")]
    UnreadableHandshake(#[source] HandshakeFault),
    /// The client is too old.
    #[error("client version {version:#010x} is too old: 1.1.0 or later is needed")]
    OldVersion {
        /// As sent.
        version: u32,
        /// Whose numbering it is.
        family: Family,
    },
    /// The id is no topic's name.
    #[error(
        "`{id}` cannot name a vdisk: 1 to 249 characters of [a-zA-Z0-9._-] are needed, not starting with `__`"
    )]
    InvalidVdiskId {
        /// As sent, cut to 64 characters.
        id: String,
        /// Whose response is due.
        family: Family,
    },
    /// A frame that is not acceptable.
    #[error("message cannot be read")]
    Frame(#[from] FrameError),
    /// A frame that is no message.
    #[error("message cannot be understood")]
    Message(#[from] DecodeError),
    /// A first byte that begins no message of any wire.
    #[error("unknown message type {kind}: this client's wire is not served")]
    UnknownType {
        /// As sent.
        kind: u8,
    },
    /// A client that began with one form of messages and goes on with another.
    #[error("a message of another wire than the first one")]
    MixedWires,
}

/// What is wrong with the first message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeFault {
    /// The frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Its content.
    #[error(transparent)]
    Message(#[from] DecodeError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Attaching(Family),
    /// Attached; family A before its first message has no form yet.
    Open(Family, Option<Form>),
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Typed,
    Bare,
    Union,
}

/// One connection's conversation.
#[derive(Debug)]
pub struct Session {
    input: BytesMut,
    state: State,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// Before the handshake.
    #[must_use]
    pub fn new() -> Self {
        Self { input: BytesMut::new(), state: State::Greeting }
    }

    /// Where received bytes are appended.
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// The next thing the client said; none where more bytes are needed, or the handshake's answer is due.
    ///
    /// # Errors
    /// [`Violation`]: the conversation is over, and [`Session::end`] says what the client is told.
    pub fn next_event(&mut self) -> Result<Option<Event>, Violation> {
        match self.state {
            State::Greeting => self.greet(),
            State::Attaching(_) | State::Ended => Ok(None),
            State::Open(family, form) => self.next_message(family, form),
        }
    }

    fn greet(&mut self) -> Result<Option<Event>, Violation> {
        let unreadable = |fault| Violation::UnreadableHandshake(fault);
        let Some(frame) = take_frame(&mut self.input).map_err(|error| unreadable(error.into()))?
        else {
            return Ok(None);
        };
        let request = HandshakeRequest::decode(&frame).map_err(|error| unreadable(error.into()))?;
        let HandshakeRequest { family, version, vdisk_id, first_sequence, reset } = request;
        let accepted = match family {
            Family::A => version >> 8 >= LOWEST_VERSION_A,
            Family::B => version >= VERSION_B,
        };
        if !accepted {
            return Err(Violation::OldVersion { version, family });
        }
        let id = vdisk_id.unwrap_or_default();
        let vdisk =
            TopicName::new(&id).ok().filter(|name| !name.is_internal()).ok_or_else(|| {
                Violation::InvalidVdiskId { id: id.chars().take(64).collect(), family }
            })?;
        self.state = State::Attaching(family);
        Ok(Some(Event::Handshake(Handshake { family, vdisk, first_sequence, reset })))
    }

    /// Answers the handshake. The conversation goes on where `status` is OK, and is over otherwise.
    ///
    /// `last_flushed_sequence` is seen by family B alone.
    pub fn answer_handshake(
        &mut self,
        status: HandshakeStatus,
        last_flushed_sequence: u64,
        out: &mut BytesMut,
    ) {
        let State::Attaching(family) = self.state else { return };
        self.state = match (status, family) {
            (HandshakeStatus::Ok, Family::A) => State::Open(family, None),
            (HandshakeStatus::Ok, Family::B) => State::Open(family, Some(Form::Union)),
            _ => State::Ended,
        };
        let response =
            HandshakeResponse { family, status, last_flushed_sequence, wait_tlog_ready: false };
        response.encode(out);
    }

    /// Appends a response for an attached client.
    pub fn respond(&self, response: &Response, out: &mut BytesMut) {
        if matches!(self.state, State::Open(..)) {
            response.encode(out);
        }
    }

    /// Ends the conversation and appends what this client is told before its socket closes: the refusal of a handshake,
    /// or *disconnected* where its wire has that status.
    pub fn end(&mut self, why: Option<&Violation>, out: &mut BytesMut) {
        let state = std::mem::replace(&mut self.state, State::Ended);
        match state {
            State::Greeting => {
                let Some((family, status)) = why.and_then(refusal) else { return };
                // Both are as the original answers: the flag means nothing in a refusal.
                let wait_tlog_ready = true;
                HandshakeResponse { family, status, last_flushed_sequence: 0, wait_tlog_ready }
                    .encode(out);
            }
            State::Open(Family::B, _) => Response::of(Status::Disconnected).encode(out),
            State::Attaching(_) | State::Open(Family::A, _) | State::Ended => {}
        }
    }

    /// Answers a disconnect message: every client that can send it knows the answer.
    pub fn end_by_client(&mut self, out: &mut BytesMut) {
        if let State::Open(..) = std::mem::replace(&mut self.state, State::Ended) {
            Response::of(Status::Disconnected).encode(out);
        }
    }

    fn next_message(
        &mut self,
        family: Family,
        form: Option<Form>,
    ) -> Result<Option<Event>, Violation> {
        let Some(first) = self.input.first().copied() else { return Ok(None) };
        let message = match form {
            Some(Form::Union) if family == Family::B => {
                let Some(frame) = take_frame(&mut self.input)? else { return Ok(None) };
                ClientMessage::decode_union(&frame)?
            }
            Some(Form::Typed) | None if first != 0 => {
                let Some(message) = self.take_typed(first)? else { return Ok(None) };
                self.state = State::Open(family, Some(Form::Typed));
                message
            }
            // A zero is no type byte, and the first byte of every frame of one segment.
            Some(Form::Typed) => return Err(Violation::MixedWires),
            None | Some(Form::Bare | Form::Union) => {
                let Some(frame) = take_frame(&mut self.input)? else { return Ok(None) };
                let (found, message) = untyped(&frame)?;
                if form.is_some_and(|form| form != found) {
                    return Err(Violation::MixedWires);
                }
                self.state = State::Open(family, Some(found));
                message
            }
        };
        Ok(Some(match message {
            ClientMessage::Block(block) => Event::Block(block),
            ClientMessage::ForceFlush(sequence) => Event::ForceFlush(sequence),
            ClientMessage::WaitSlaveSync => Event::WaitSlaveSync,
            ClientMessage::Disconnect => Event::Disconnect,
        }))
    }

    /// A message behind a type byte; the input is left as it is where the message is not whole.
    fn take_typed(&mut self, kind: u8) -> Result<Option<ClientMessage>, Violation> {
        if !(1..=3).contains(&kind) {
            return Err(Violation::UnknownType { kind });
        }
        let mut rest = self.input.split_off(1);
        let taken = take_frame(&mut rest);
        let frame = match taken {
            Ok(Some(frame)) => frame,
            other => {
                // The two parts still lie side by side, so this joins them without a copy.
                self.input.unsplit(rest);
                return other.map(|_| None).map_err(Violation::from);
            }
        };
        self.input = rest;
        let (_, message) = ClientMessage::decode_typed(kind, &frame)?;
        Ok(Some(message))
    }
}

fn untyped(frame: &Frame) -> Result<(Form, ClientMessage), DecodeError> {
    let (wire, message) = ClientMessage::decode_untyped(frame)?;
    let form = match wire {
        Wire::Bare => Form::Bare,
        Wire::Typed | Wire::TypedIndex => Form::Typed,
        Wire::Union => Form::Union,
    };
    Ok((form, message))
}

/// The answer to a handshake that is refused before a vdisk is looked for. Only the newer family ever answered what it
/// could not read, so that form is used there.
fn refusal(why: &Violation) -> Option<(Family, HandshakeStatus)> {
    match why {
        Violation::UnreadableHandshake(_) => Some((Family::B, HandshakeStatus::InvalidRequest)),
        Violation::OldVersion { family, .. } => Some((*family, HandshakeStatus::InvalidVersion)),
        Violation::InvalidVdiskId { family, .. } => {
            Some((*family, HandshakeStatus::InvalidVdiskId))
        }
        Violation::Frame(_)
        | Violation::Message(_)
        | Violation::UnknownType { .. }
        | Violation::MixedWires => None,
    }
}

#[cfg(test)]
mod tests;

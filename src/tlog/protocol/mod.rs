//! Bytes of the TLog wire, both directions.
//!
//! Every message is one Cap'n Proto stream frame, unpacked:
//!
//! ```text
//!  u32 LE  segments - 1      (0 from every client of the original)
//!  u32 LE  words of segment, once per segment
//!  zero bytes up to a multiple of 8
//!  the segments; the root pointer is the first word of the first one
//! ```
//!
//! The client speaks first, with a handshake request; the server answers; then messages and responses flow freely.
//!
//! | wire | client messages | block's root | told apart by |
//! |---|---|---|---|
//! | A0 | bare blocks | 5 data words, 2 pointers | first byte after the handshake is 0, root as named |
//! | A, typed | one type byte, then the frame | 5 data words, 2 pointers | first byte 1, 2 or 3 |
//! | A' , typed | the same | 4 data words, 2 pointers | the block's root |
//! | B0, B1 | union messages | 2 data words, 1 pointer | handshake as A; first byte 0, root as named |
//! | B | union messages | 2 data words, 1 pointer | handshake of one data word |
//!
//! Three wires that lived for nine days (31 May to 8 June 2017) gave the type bytes other meanings, cannot be told from
//! the later ones, and are left out.
//!
//! Encoding gives the very bytes of the original: one segment, empty data as a null pointer, an empty list of sequences
//! as a pointer to a list of no elements, pointers filled in the order of the schema. Decoding takes any valid encoding:
//! several segments, far pointers, structs shorter or longer than known.
//!
//! Bounds are checked before memory is taken: a reader's buffer grows with what was received, never with what a header
//! announces. See [`crate::types::limits`].

pub mod frame;
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::pedantic, unused_qualifications, dead_code, reason = "generated code")]
#[path = "generated.rs"]
mod tlog_capnp;
pub mod message;

pub use frame::{Frame, FrameError, take_frame};
pub use message::{
    ClientMessage, DecodeError, Family, HandshakeRequest, HandshakeResponse, HandshakeStatus,
    Response, Status, VERSION_A, VERSION_B, Wire,
};

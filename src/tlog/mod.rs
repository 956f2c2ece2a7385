//! The TLog front end: block writers of both wire eras on one port.
//!
//! ```text
//!  socket -> connection.rs -> session.rs -> broker::vdisks (orders by sequence, appends)
//!            moves bytes,      bytes to        |
//!            checks hashes     events          v
//!  socket <- connection.rs <- session.rs <- responses: received when committed, flushed when shipped
//! ```
//!
//! * [`protocol`]: the bytes. No IO, no time; the client library uses the same code in the other direction.
//! * [`session`]: what one connection has said so far: era, handshake, messages. Decides nothing about a vdisk.
//! * [`status`]: every fault a client can see and the number it sees.
//! * [`connection`]: sockets, deadlines, hash checks, bounded queues; [`listener`] accepts them.
//!
//! What a vdisk accepts, and when it answers, is decided below, in `broker/vdisk`.
//!
//! Invariants: nothing is answered *received* before it is committed, nothing *flushed* before it is shipped; a client
//! that does not read its responses loses its connection and never delays its vdisk.

pub mod connection;
pub mod listener;
pub mod protocol;
#[cfg(test)]
mod replay;
pub mod session;
pub mod status;
#[cfg(test)]
mod vectors;

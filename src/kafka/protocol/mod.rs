//! Kafka's wire without IO: frames and the guard. The messages themselves come from the crate `kafka-protocol`.
//!
//! ```text
//! request:  size i32 | api key i16 | version i16 | correlation id i32 | client id (i16 length) | [tags] | body
//!                    |<---------- peek ---------------------------->|                          ^^^^^^
//!                    |<---------------------------- size bytes ----------------------->|  header v2 only
//! ```
//!
//! Header v2 belongs to the *flexible* versions of a request, which also write strings, bytes and arrays with a
//! varint of their length plus one, and end each struct with a section of tagged fields. The client id keeps its
//! two-byte length in either header.
//!
//! Why there is a guard: the crate passes array counts of the wire to `Vec::with_capacity`, so that four bytes from a
//! stranger end the process, and no handler can catch a failed allocation. The guard walks every request beforehand
//! by a table of the fields of each request that is served. Invariants of a request that it let through, which the
//! decoder relies on:
//! * every count times the element's least encoded size, and every length, was within the bytes left;
//! * null stands only where the schema has it;
//! * varints take at most 5 bytes and 32 bits, and a tagged field is exactly as long as it says;
//! * the decoded form takes at most [`crate::types::limits::KAFKA_DECODED_REQUEST_BYTES`] beside the frame.
//!
//! What the guard does not look at: UTF-8, ranges of numbers, record batches, what follows the body (some clients
//! leave bytes there).
//!
//! Where to look next: [`FrameReader`] and [`peek`] in `frame`, [`guard`], the table in `requests` (a row per field; to
//! serve another request is to add its rows there), the kinds of rows in `schema`.

mod frame;
pub mod guard;
mod requests;
mod schema;

pub use frame::{FrameError, FrameReader, RequestPeek, frame_length, peek};

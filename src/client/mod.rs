//! The client library: what a program, or the command `tlog`, needs to talk to a server, and nothing of the server.
//!
//! ```text
//!  TlogClient ── commands, window ──> its task ── frames ──> server (first of the list that answers)
//!                                        │  ^
//!                                  ResendBuffer: what the server may still lose
//!
//!  KafkaClient ── one request at a time, one connection ──> broker
//!       └── whole batches ──> Player ── writes and zeroes ──> a BlockTarget: file, memory
//! ```
//!
//! * [`TlogClient`] sends the blocks of one vdisk over the newer wire. It gives each block its sequence and hash, keeps it
//!   until it is *flushed* (on the shard servers), and sends it again on every connection until then.
//! * [`ResendBuffer`] decides what is to be sent and when; no IO, no clock.
//! * [`KafkaClient`] asks one broker for the few things that tools need.
//! * [`Player`] turns the record batches of a vdisk topic back into the disk; no IO of its own.
//!
//! Invariants:
//! * `last flushed < every sequence in the buffer`; the buffer holds at most its window of blocks and bytes, so a server
//!   that does not ship makes [`TlogClient::send`] wait and takes no memory.
//! * A block is handed over as [`bytes::Bytes`], which nobody can change, and hashed before `send` returns.
//! * The player applies a record only after the checksum of its batch and the hash of its block were right, and offsets
//!   in order without a gap.
//!
//! Recovery: a connection that ends, for whatever reason, is made anew over the list of servers, with growing pauses. What the
//! server then reports as flushed is dropped from the buffer, and the rest is sent again in order of sequence. A server
//! that reports less than was flushed before, or more than was ever sent, has another log: that ends the client with an
//! error instead of mixing two disks.

mod connection;
mod error;
mod kafka;
mod player;
mod resend_buffer;
mod tlog;

pub use error::{Error, KafkaError};
pub use kafka::{Acks, Fetched, KafkaClient, PartitionInfo, TopicInfo, Which};
pub use player::{BlockTarget, Counts, Limit, PlayError, Played, Player, RunStart, RunTracker};
pub use resend_buffer::{ResendBuffer, Window};
pub use tlog::{Config, Progress, Response, Responses, TlogClient};

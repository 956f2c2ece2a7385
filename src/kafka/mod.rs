//! The Kafka front end: an unmodified Kafka client talks to this.
//!
//! ```text
//!  socket ──> connection: reader task ── frames, in order, bounded count and bytes ──> responder task ──> socket
//!                                                                                        │    ▲
//!                                              peek, version gate, guard, decode, start  ▼    │ encoded answers,
//!                                                                                     dispatch │ in request order
//!                                                                                        │    │
//!                                                                  api/<one file per key>▼    │
//!                                                                        broker (one domain operation)
//! ```
//!
//! * [`FrontEnd`] is made once per process and serves any number of listeners; each connection is two tasks.
//! * A request begins when every request before it on its connection is answered; only a Produce may begin while the
//!   Produces before it still wait for the disk. So a second Produce can be queued while the first one syncs and can
//!   never overtake it, and a client that pipelines "create topic, then list topics" sees its topic.
//! * Answers leave in request order. A Produce with `acks=0` has no answer; its failure closes the connection.
//! * The version table in `dispatch.rs` is the only one: routing, the version gate and ApiVersions read it.
//! * No frame reaches the decoder of the crate `kafka-protocol` before `protocol::guard` has counted it through: that
//!   decoder reserves memory by array counts which it has not checked.
//! * Wire codes are assigned in `error.rs` and nowhere else.
//! * Tagged fields are sent only when they differ from their default: librdkafka before 2.2 skips one byte too few of
//!   each tag.
//!
//! Memory: request frames above 64 KiB take their size from the broker's budget when that much has arrived and before the rest is
//! read; fetched data takes what it may read from a pool of its own, and gets smaller answers when it is short; other answers above
//! 64 KiB take theirs from a third pool before they are encoded. What an answer takes is held until its last byte is written,
//! for which there is a time. So neither slow senders nor slow readers add up to more than the configured budget. Encoding
//! copies: for as long as that takes, as many answers as there are cores are there twice.
//!
//! Nothing here survives a restart, so there is nothing to recover. Look next at `dispatch.rs` for how a request runs, at
//! `api/produce.rs` and `api/fetch.rs` for the two that matter, at `error.rs` for what a client sees of a failure.

mod api;
mod connection;
mod context;
mod dispatch;
mod error;
mod listener;
mod memory;
mod metrics;
pub mod protocol;
#[cfg(test)]
mod tests;

pub use context::{Advertised, Config, FrontEnd, Listener};

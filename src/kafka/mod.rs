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
//! Memory, each from a pool that all connections share; what is up to 64 KiB is not counted:
//!
//! | what | taken | given back | when it is short |
//! |---|---|---|---|
//! | a frame that arrives | by what has come of it | when it is complete and has the next two | waits, two frames go on |
//! | the decoded form | before it is decoded | when the answer is made; of a Fetch, when it has begun | waits |
//! | a frame | before it is decoded, of the broker's budget | as above | waits |
//! | fetched data, unless it stays in its file | before it is read | when the last byte is written | smaller answers |
//! | another answer | before it is encoded, of Metadata before it is built | as above | waits ten seconds, then closes |
//!
//! They are taken in this order, so nobody holds what another one needs while it waits for what that one has; a frame
//! arrives and an answer is taken at a least speed. So neither slow senders nor slow readers add up to more than the
//! configured budget and the two pools of fixed size in `types/limits.rs`. Encoding copies: for as long as that takes, as
//! many answers as there are cores are there twice.
//!
//! Fetched data of 64 KiB and more is not copied at all: a handler answers with ranges of segment files, whose batches the
//! log checked when they were written or first read, and the connection has the system send them (`gather.rs` shows why by
//! `sendfile`). Sealed segments and the active one alike: bytes below the high watermark never change, and a segment is cut by
//! recovery alone, before anything is served. A deleted file stays whole while a range holds it open.
//!
//! Nothing here survives a restart, so there is nothing to recover. Look next at `dispatch.rs` for how a request runs, at
//! `api/produce.rs` and `api/fetch.rs` for the two that matter, at `error.rs` for what a client sees of a failure.

mod api;
mod connection;
mod context;
mod dispatch;
mod error;
mod gather;
mod listener;
mod memory;
mod metrics;
pub mod protocol;
#[cfg(test)]
mod tests;

pub use context::{Advertised, Config, FrontEnd, Listener};

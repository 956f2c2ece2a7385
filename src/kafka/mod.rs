//! The Kafka front end.
//!
//! ```text
//! socket -> protocol::FrameReader -> protocol::guard -> kafka-protocol's decode -> the API's handler
//! ```
//!
//! A frame is cut off the stream without believing its announced size, walked by the guard without allocating, and only
//! then given to the crate that decodes messages, which reserves memory by the counts it finds.
//!
//! Where to look next: [`protocol`], which does no IO.

pub mod protocol;

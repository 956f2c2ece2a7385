//! Small types that every layer shares, and the hard limits.
//!
//! * [`Offset`] is a plain `i64`: arithmetic on offsets is everywhere, and the words of the field (`base_offset`,
//!   `high_watermark`, …) say which one is meant. Exclusive bounds are named in [`Watermarks`].
//! * Identities ([`TopicId`], [`ClusterId`], [`DataDirId`]) are 16 random bytes each, never zero, never reused.
//! * [`limits`] holds every bound on something fed from outside, with its reason.

mod ids;
pub mod limits;
mod names;
mod watermarks;
mod words;

pub use ids::{ClusterId, DataDirId, LeaderEpoch, ParseIdError, Sequence, TopicId, TopicPartition};
pub use names::{InvalidTopicName, TopicName};
pub use watermarks::Watermarks;
pub use words::in_words;

/// Number of a record in a partition, from 0 (vdisk topics: from 1).
pub type Offset = i64;

/// Number of a commit in the commit log of one data directory, from 1.
pub type CommitNumber = u64;

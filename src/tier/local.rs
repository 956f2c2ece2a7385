//! What the tier needs of the broker for one shipping partition, and what it tells it.

use std::fmt::Debug;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::log;
use crate::types::{CommitNumber, LeaderEpoch, Offset, Sequence, TopicPartition};

/// A stretch of the log that one commit appended. It begins here and ends where the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendMark {
    /// Its first offset.
    pub first_offset: Offset,
    /// The commit.
    pub commit: CommitNumber,
    /// Time of the append, ms since 1970.
    pub appended_ms: i64,
}

/// A run of consecutive sequences: offset `first_offset + i` has sequence `first_sequence + i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where it begins in the log.
    pub first_offset: Offset,
    /// The sequence of that record.
    pub first_sequence: Sequence,
}

/// A fragment about to be stored. A number has one set of bytes for ever, and this is what a retry needs to make them
/// again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Fragment number.
    pub number: u64,
    /// First offset, inclusive.
    pub first_offset: Offset,
    /// First offset behind it.
    pub end_offset: Offset,
    /// The header as it will stand in all shards, salt included.
    pub header: Bytes,
    /// Keyed digest of the plain body.
    pub digest: [u8; 32],
}

/// The newest fragment known to be on the shard servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Fragment number.
    pub number: u64,
    /// First offset behind it: the shipped offset.
    pub shipped: Offset,
    /// Hash of the keyed chain.
    pub hash: [u8; 32],
    /// Hash of the public chain.
    pub public_hash: [u8; 32],
}

/// Something about a partition's fragments that must survive a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Recorded before the first shard is put.
    Intended(Intent),
    /// The intended fragment and its manifest entry are stored.
    Shipped(Head),
    /// The number of an intended fragment is never used.
    Abandoned {
        /// The number.
        number: u64,
    },
    /// All shards of all fragments below were read back and verified.
    Completed {
        /// Exclusive bound.
        upto: Offset,
    },
}

/// How far the fragments of a compacted partition hold what its local log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InStep {
    /// As of this compaction pass.
    pub pass: u64,
    /// Exclusive bound, from the local start on.
    pub upto: Offset,
    /// No fragment begins below the local start, but those that are deleted.
    pub whole: bool,
}

/// The broker is stopping and records nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker is stopping")]
pub struct Stopping;

/// The broker's side of a shipping partition.
pub trait Local: Send + Sync + Debug {
    /// Identity.
    fn id(&self) -> TopicPartition;

    /// Whole committed batches of `[from, upto)` from local segments: about `max_bytes`, one batch at least. Blocking.
    ///
    /// # Errors
    /// Those of the local log.
    fn read(&self, from: Offset, upto: Offset, max_bytes: usize) -> Result<Bytes, log::Error>;

    /// The marks that cover `[from, upto)`, in order; the first may begin below `from`.
    fn marks(&self, from: Offset, upto: Offset) -> Vec<AppendMark>;

    /// Sequence runs of a vdisk, oldest first; none for plain topics.
    fn runs(&self) -> Vec<Run>;

    /// The epoch that the partition is written in now.
    fn epoch(&self) -> LeaderEpoch;

    /// Later batches are written in this epoch at least.
    fn raise_epoch(&self, at_least: LeaderEpoch);

    /// Makes a fact durable; [`Fact::Shipped`] and [`Fact::Completed`] also move the watermarks before the future
    /// resolves.
    fn record(&self, fact: Fact) -> BoxFuture<'static, Result<(), Stopping>>;

    /// The fragments were compared with the local log after a compaction pass, and sealed anew where they held more.
    fn in_step(&self, step: InStep);
}

/// Where the shipping of a partition stood when the broker started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShipState {
    /// A fragment that was being stored.
    pub intent: Option<Intent>,
    /// The newest one stored.
    pub head: Option<Head>,
    /// The highest number ever used or abandoned.
    pub last_number: Option<u64>,
    /// Exclusive bound of what is stored.
    pub shipped: Offset,
    /// Exclusive bound of what is stored and verified whole.
    pub complete: Offset,
}

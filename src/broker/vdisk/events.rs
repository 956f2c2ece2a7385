//! What a vdisk is told and what it answers: the words of its core.

use std::time::{Duration, Instant};

use crate::broker::Run;
use crate::record::vdisk::{Block, PlaceError};
use crate::types::limits::VDISK_BLOCK_BYTES;
use crate::types::{Offset, Sequence};

/// Number of a connection, never used twice.
pub type ConnectionId = u64;

/// What the server was told about every vdisk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Most sequences of one list of flushed ones.
    pub flush_size: usize,
    /// Oldest age of a block that is in no list.
    pub flush_time: Duration,
    /// Block size of a vdisk whose first block does not show it.
    pub default_block_size: u64,
}

/// A vdisk as its log shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VdiskState {
    /// The current run, unless no block ever came.
    pub run: Option<Run>,
    /// Log end; everything below is committed.
    pub end: Offset,
    /// All below is shipped.
    pub shipped: Offset,
    /// Fixed by the first block or by configuration.
    pub block_size: Option<u64>,
}

/// How a client attaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// Family A: the client names its first sequence.
    FirstSequence {
        /// As sent.
        first_sequence: u64,
        /// Whether sequences start over there.
        reset: bool,
    },
    /// Family B: the server names the last flushed one.
    LastFlushed,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client wants to write.
    Attach {
        /// Its connection.
        connection: ConnectionId,
        /// By which rules.
        attachment: Attachment,
    },
    /// A connection ended.
    Detach {
        /// Which one.
        connection: ConnectionId,
    },
    /// Writes, in order of arrival, hashes checked against the data.
    Blocks {
        /// From whom.
        connection: ConnectionId,
        /// What.
        blocks: Vec<Block>,
    },
    /// Ship everything up to a sequence.
    ForceFlush {
        /// From whom.
        connection: ConnectionId,
        /// Which sequence.
        sequence: u64,
    },
    /// Answer when the slave has everything.
    WaitSlaveSync {
        /// From whom.
        connection: ConnectionId,
    },
    /// All below is committed.
    Committed {
        /// Exclusive.
        upto: Offset,
    },
    /// The partition takes nothing any more.
    AppendFailed,
    /// All below is shipped.
    Shipped {
        /// Exclusive.
        upto: Offset,
    },
    /// The answer to [`Effect::LookupHashes`].
    Hashes(Lookup),
    /// Time went by.
    Tick,
}

/// What was found at an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The hashes of the records in a range of offsets, the one asked for among them. Compaction took away those that are
    /// not named.
    Found {
        /// Beginning of the range.
        first_offset: Offset,
        /// Its end, exclusive.
        next_offset: Offset,
        /// By offset, rising.
        hashes: Vec<(Offset, [u8; 32])>,
    },
    /// Retention took the record away.
    Gone,
    /// It cannot be read now.
    Failed,
}

impl Lookup {
    /// None where nothing is known of the offset, and then none where its record is gone.
    pub(super) fn hash_at(&self, offset: Offset) -> Option<Option<[u8; 32]>> {
        let Self::Found { first_offset, next_offset, hashes } = self else { return None };
        if !(*first_offset..*next_offset).contains(&offset) {
            return None;
        }
        let at = hashes.binary_search_by_key(&offset, |(offset, _)| *offset).ok();
        Some(at.and_then(|at| hashes.get(at)).map(|(_, hash)| *hash))
    }
}

/// An answer to the attached client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The block of this sequence is committed.
    Received(u64),
    /// These are shipped, ascending.
    Flushed(Vec<u64>),
    /// A force flush was taken note of.
    ForceFlushReceived,
    /// The wait is over.
    WaitSlaveSyncDone,
    /// The vdisk failed; what is unanswered must be sent again, elsewhere or later.
    FlushFailed,
}

/// Why an attach was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Family B: there is a writer.
    #[error("the vdisk has a connected client")]
    Busy,
    /// What is received could not be shipped in time.
    #[error("the shard servers did not take what is unshipped within 30 s")]
    NotShipped,
    /// A first sequence that leaves no room.
    #[error("a first sequence above 2^62")]
    FirstSequence,
    /// A newer client of family A came.
    #[error("a newer client took the vdisk over")]
    Superseded,
    /// The partition takes nothing any more.
    #[error("the log takes no writes")]
    Failed,
}

/// Why an attached connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// A newer client of family A came.
    #[error("a newer client took the vdisk over")]
    Superseded,
    /// Another write than the stored one under the same sequence.
    #[error(
        "sequence {sequence} was sent before with other content: two clients write this vdisk, or its client lost its place; reconnect with reset to number from the start"
    )]
    Conflict {
        /// The sequence.
        sequence: u64,
    },
    /// A sequence below the current run's first one.
    #[error(
        "sequence {sequence} is before the first one of this run: reconnect and name the right first sequence, or reset"
    )]
    BeforeRun {
        /// The sequence.
        sequence: u64,
    },
    /// Not on any vdisk.
    #[error("block {sequence} lies nowhere: {why}")]
    Place {
        /// The sequence.
        sequence: u64,
        /// What is wrong with it.
        why: PlaceError,
    },
    /// Data that fits no record batch.
    #[error("block {sequence} has {bytes} bytes, at most {VDISK_BLOCK_BYTES} are stored")]
    TooLong {
        /// The sequence.
        sequence: u64,
        /// Its data.
        bytes: usize,
    },
    /// The partition takes nothing any more.
    #[error("the log takes no writes")]
    Failed,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The attach is done. Durable before it is told: every [`Effect::StartRun`] before.
    Attached {
        /// Who.
        connection: ConnectionId,
        /// Highest sequence received, all of which is shipped; 0 if none. For family B.
        last_flushed: u64,
    },
    /// The attach is refused.
    Refused {
        /// Who.
        connection: ConnectionId,
        /// Why.
        refusal: Refusal,
    },
    /// Tell the client.
    Answer {
        /// Whom.
        connection: ConnectionId,
        /// What.
        answer: Answer,
    },
    /// End the connection, after the answers before.
    Close {
        /// Which one.
        connection: ConnectionId,
        /// Why.
        reason: CloseReason,
    },
    /// The next append begins a run.
    StartRun {
        /// Its first sequence.
        first_sequence: Sequence,
    },
    /// The vdisk's block size is known now, for ever.
    SetBlockSize {
        /// In bytes.
        bytes: u64,
    },
    /// Append these as one record batch.
    Append {
        /// Offset that the first one gets.
        first_offset: Offset,
        /// In order, at least one.
        blocks: Vec<Block>,
        /// For the records' keys.
        block_size: u64,
    },
    /// Ship everything below as soon as possible.
    RequestShip {
        /// Exclusive.
        upto: Offset,
    },
    /// Read the hashes of the batch that holds this offset; one such effect at a time.
    LookupHashes {
        /// Of the record.
        offset: Offset,
    },
    /// A [`Event::Tick`] is due then; replaces the one before.
    WakeAt(Instant),
}

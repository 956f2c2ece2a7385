//! What can go wrong, one enum for each operation, so that a front end never matches a case that cannot occur.

use crate::log::{self, ProducerError};
use crate::record;
use crate::types::{Offset, TopicName};

use super::topic_config::OptionError;

/// Why a batch was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The bytes are not what the producer made.
    #[error("the record batch arrived damaged")]
    Corrupt(#[source] record::Error),
    /// The batch or one of its records is not as the format wants it.
    #[error("the record batch is not valid")]
    InvalidRecord(#[source] record::Error),
    /// Longer than the topic takes.
    #[error("a record batch of {bytes} bytes: the topic takes {limit} (option max.message.bytes)")]
    TooLarge {
        /// As received.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// An older incarnation of the producer.
    #[error("a newer producer has taken over this producer id")]
    InvalidProducerEpoch,
    /// Nobody was ever given this id.
    #[error("producer id {producer_id} was never handed out: ask for one (InitProducerId)")]
    UnknownProducerId {
        /// The id.
        producer_id: i64,
    },
    /// A batch before this one is missing, or this one is too old to tell whether it is there.
    #[error("the producer's sequence does not continue what the partition holds")]
    OutOfOrderSequence,
    /// Part of a transaction.
    #[error("transactions are not served")]
    Transactional,
    /// A vdisk's log takes blocks from its TLog client only.
    #[error("topic `{topic}` is the log of a vdisk, which is written by its TLog client")]
    VdiskTopic {
        /// The topic.
        topic: TopicName,
    },
    /// The topic was deleted.
    #[error("the topic was deleted")]
    Deleted,
    /// The disk has no room but the reserve for deletions.
    #[error("the disk of the data directory is full: free some space or inodes, or delete topics")]
    DiskFull,
    /// The commit log is as long as it may be.
    #[error(
        "the commit log is as long as it may be, and no checkpoint can be written: the server's log says why"
    )]
    NoCheckpoint,
    /// The local log has reached its limit.
    #[error(
        "segments and commit log take nearly all of the {limit_bytes} bytes of -local-log-limit: delete records or topics, shorten their retention, or raise it"
    )]
    LocalLogFull {
        /// The limit.
        limit_bytes: u64,
    },
    /// Its directory could not be opened at the start.
    #[error(
        "the partition is offline until its files are mended and the broker starts again: {why}"
    )]
    Offline {
        /// What is wrong with it.
        why: String,
    },
    /// More waits for its sync than the memory budget allows.
    #[error("too much waits for the disk: try again")]
    Busy,
    /// The broker stops; the batch may or may not be there after the restart.
    #[error("the broker is stopping")]
    Stopping,
}

impl AppendError {
    /// A batch whose header or checksum is refused.
    pub(super) fn from_header(error: record::Error) -> Self {
        if error.is_corrupt() { Self::Corrupt(error) } else { Self::InvalidRecord(error) }
    }
}

impl From<ProducerError> for AppendError {
    fn from(error: ProducerError) -> Self {
        match error {
            ProducerError::InvalidEpoch { .. } => Self::InvalidProducerEpoch,
            ProducerError::OutOfOrder { .. } => Self::OutOfOrderSequence,
        }
    }
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not an offset of the partition.
    #[error("offset {requested} is not in the log, which reaches from {start} to {end}")]
    OutOfRange {
        /// As asked for.
        requested: Offset,
        /// First offset.
        start: Offset,
        /// High watermark.
        end: Offset,
    },
    /// Bytes at rest are not what was written; they are not handed out.
    #[error("offsets {first} to {last} are damaged: {what}")]
    Damaged {
        /// First offset that cannot be read.
        first: Offset,
        /// Last one.
        last: Offset,
        /// What does not fit.
        what: String,
    },
    /// Its directory could not be opened at the start.
    #[error(
        "the partition is offline until its files are mended and the broker starts again: {why}"
    )]
    Offline {
        /// What is wrong with it.
        why: String,
    },
    /// The local disk failed.
    #[error("the local log cannot be read")]
    Storage(#[source] log::Error),
    /// The record lies on shard servers that do not give it now.
    #[error("the record lies on the shard servers, and they do not give it: {why}")]
    Unavailable {
        /// What they said.
        why: String,
    },
    /// The topic was deleted.
    #[error("the topic was deleted")]
    Deleted,
    /// The broker stops.
    #[error("the broker is stopping")]
    Stopping,
}

impl From<log::Error> for ReadError {
    fn from(error: log::Error) -> Self {
        match error {
            log::Error::OutOfRange { requested, start, end } => {
                Self::OutOfRange { requested, start, end }
            }
            log::Error::Damaged { from, to, fault, .. } => {
                Self::Damaged { first: from, last: to - 1, what: fault.to_string() }
            }
            other => Self::Storage(other),
        }
    }
}

/// Why a topic was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateTopicError {
    /// Not a topic name.
    #[error(transparent)]
    InvalidName(#[from] crate::types::InvalidTopicName),
    /// Names with two underscores in front are for internal topics.
    #[error("topic names starting with `__` are for internal topics")]
    ReservedName,
    /// It is there.
    #[error("topic `{name}` exists")]
    Exists {
        /// The name.
        name: String,
    },
    /// A name that metrics could not tell from another's.
    #[error("topic `{name}` differs from the existing `{other}` in `.` and `_` only")]
    Collides {
        /// As asked for.
        name: String,
        /// The other topic.
        other: TopicName,
    },
    /// Not a count of partitions.
    #[error("{partitions} partitions: {expected}")]
    InvalidPartitions {
        /// As asked for.
        partitions: i32,
        /// What is possible.
        expected: String,
    },
    /// Not an option, or not its value.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The disk has no room but the reserve for deletions, or no inodes for what its partitions will write.
    #[error("the disk of the data directory is full: free some space or inodes, or delete topics")]
    DiskFull,
    /// What an older topic of that name left behind cannot be taken away.
    #[error("the directory of the topic cannot be made ready")]
    Storage(#[source] log::Error),
    /// A vdisk's topic record must be on the shard servers first.
    #[error("a new vdisk must be known to the shard servers first, and they do not answer: {why}")]
    ShardServers {
        /// What they said.
        why: String,
    },
    /// The broker stops; the topic may or may not be there after the restart.
    #[error("the broker is stopping")]
    Stopping,
}

/// Why a name is no vdisk's.
#[derive(Debug, thiserror::Error)]
pub enum VdiskTopicError {
    /// A topic that was not made for a vdisk and is not empty, or has several partitions, or is internal.
    #[error(
        "topic `{topic}` is not the log of a vdisk: give the vdisk another id, or delete the topic"
    )]
    NotAVdisk {
        /// The topic.
        topic: String,
    },
    /// It was not created.
    #[error(transparent)]
    Create(#[from] CreateTopicError),
    /// The empty plain topic in its place was not taken away.
    #[error(transparent)]
    Delete(#[from] DeleteTopicError),
}

/// Why a vdisk's block size was not set.
#[derive(Debug, thiserror::Error)]
pub enum BlockSizeError {
    /// No such vdisk.
    #[error("no such vdisk")]
    Unknown,
    /// It has one, for ever.
    #[error("the vdisk has blocks of {bytes} bytes already")]
    Set {
        /// In bytes.
        bytes: u32,
    },
    /// The broker stops; it may be set after the restart.
    #[error("the broker is stopping")]
    Stopping,
}

/// Why a topic was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteTopicError {
    /// No such topic.
    #[error("no such topic")]
    Unknown,
    /// It is a disk.
    #[error(
        "topic `{topic}` is the log of a vdisk: set its option tlog.vdisk.deletable=true first"
    )]
    Vdisk {
        /// The topic.
        topic: TopicName,
    },
    /// Deletions are remembered until the shard servers know of them, and no more can be.
    #[error(
        "{owed} deleted topics are not known to the shard servers yet: start those that are away, then delete again"
    )]
    ShardServers {
        /// How many.
        owed: usize,
    },
    /// The broker stops; the topic may or may not be there after the restart.
    #[error("the broker is stopping")]
    Stopping,
}

/// Why records were not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteRecordsError {
    /// The topic was deleted.
    #[error("the topic was deleted")]
    Deleted,
    /// Its directory could not be opened at the start.
    #[error(
        "the partition is offline until its files are mended and the broker starts again: {why}"
    )]
    Offline {
        /// What is wrong with it.
        why: String,
    },
    /// Not an offset up to which there is anything.
    #[error("offset {requested} is not in the log, which ends at {end}")]
    OutOfRange {
        /// As asked for.
        requested: Offset,
        /// The high watermark.
        end: Offset,
    },
    /// Its records go by key.
    #[error(
        "topic `{topic}` is compacted: its records are deleted by a later one of the same key without a value"
    )]
    Compacted {
        /// The topic.
        topic: TopicName,
    },
    /// It is a disk.
    #[error(
        "topic `{topic}` is the log of a vdisk, and without its beginning the disk cannot be restored: set its option tlog.vdisk.deletable=true first"
    )]
    Vdisk {
        /// The topic.
        topic: TopicName,
    },
    /// What is deleted must have left for the tier before, so that its fragments continue each other.
    #[error(
        "the records up to offset {requested} are not on the shard servers yet, which are complete up to {complete}: try again when they are"
    )]
    NotShipped {
        /// As asked for.
        requested: Offset,
        /// The complete offset.
        complete: Offset,
    },
    /// The broker stops; the records may or may not be there after the restart.
    #[error("the broker is stopping")]
    Stopping,
}

/// Why no producer id was given out.
#[derive(Debug, thiserror::Error)]
pub enum ProducerIdError {
    /// All were handed out.
    #[error(
        "there are no more producer ids: the highest one found on the shard servers leaves none above it"
    )]
    Exhausted,
    /// The broker stops.
    #[error("the broker is stopping")]
    Stopping,
}

/// Why a data directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file system failed.
    #[error("cannot {op} `{path}`")]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The file that says what the directory is cannot be understood.
    #[error("`{path}` is not the format file of a data directory ({what}): give another -data-dir")]
    Format {
        /// The file.
        path: String,
        /// What does not fit.
        what: String,
    },
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] super::checkpoint::CheckpointError),
    /// The commit log.
    #[error("the commit log cannot be read")]
    Wal(#[from] crate::wal::Error),
    /// A partition's local log.
    #[error("the local log of topic `{topic}` cannot be opened")]
    Log {
        /// The topic.
        topic: TopicName,
        /// Why.
        source: log::Error,
    },
    /// What the commit log says does not fit together.
    #[error(transparent)]
    Apply(#[from] super::catalogue::ApplyError),
    /// An entry of the commit log that this release does not know.
    #[error(
        "commit {commit} holds an entry of kind {kind} that this release does not know ({what}): start the release that wrote it"
    )]
    UnknownEntry {
        /// The commit.
        commit: u64,
        /// Its kind.
        kind: u8,
        /// What does not fit.
        what: String,
    },
    /// The master key is another than the one that the topics were made with.
    #[error(
        "topic `{topic}` was made with another master key than -priv-key gives, which is not the key of this data directory: give that one by -priv-key"
    )]
    WrongKey {
        /// One of them.
        topic: TopicName,
    },
    /// The data directory belongs to another cluster than the shard servers.
    #[error(
        "the data directory belongs to cluster {local}, the shard servers to {servers}: give the servers of its own cluster, or an empty -data-dir to adopt theirs"
    )]
    OtherCluster {
        /// The data directory's.
        local: crate::types::ClusterId,
        /// The servers'.
        servers: crate::types::ClusterId,
    },
}

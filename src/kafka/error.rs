//! Every failure that a Kafka client can see, and its code. The only place that assigns codes.
//!
//! A code that clients retry is preferred to `UNKNOWN_SERVER_ERROR` when the cause is temporary. There are no wildcard
//! arms: a new variant in a layer below asks for its code here.

use std::fmt;

use kafka_protocol::error::{ParseResponseErrorCode as _, ResponseError as Code};

use crate::broker::{
    AppendError, CreateTopicError, DeleteRecordsError, DeleteTopicError, OptionError,
    ProducerIdError, ReadError,
};
use crate::types::limits;

/// A code as it stands on the wire; 0 is success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ErrorCode(i16);

impl ErrorCode {
    /// No error.
    pub const NONE: Self = Self(0);

    /// The number on the wire.
    pub fn wire(self) -> i16 {
        self.0
    }

    /// A code that an answer of ours carries.
    pub fn of_wire(wire: i16) -> Self {
        Self(wire)
    }

    /// Whether it is any but [`ErrorCode::NONE`].
    pub fn is_error(self) -> bool {
        self != Self::NONE
    }
}

impl From<Code> for ErrorCode {
    fn from(code: Code) -> Self {
        Self(code.code())
    }
}

/// Kafka's name of the code, `none` for 0.
impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.err() {
            None => f.write_str("none"),
            Some(code) => code.fmt(f),
        }
    }
}

/// A failure that has a code.
pub trait Failure: std::error::Error {
    /// Its code.
    fn code(&self) -> ErrorCode;
}

/// What this front end itself refuses, before or instead of asking the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A bug of ours.
    #[error("the answer could not be encoded")]
    Internal,
    /// ApiVersions in a version we do not know.
    #[error("this version of ApiVersions is not served")]
    UnknownApiVersions,
    /// A client that names its software with characters outside KIP-511.
    #[error(
        "the software name and version take letters, digits, `.` and `-`, and begin and end with a letter or digit"
    )]
    SoftwareName,
    /// No topic of that name, or no such partition in it.
    #[error("this server has no such topic or partition")]
    UnknownTopicOrPartition,
    /// Its files could not be opened at the start.
    #[error("the partition is offline until its files are mended and the server starts again")]
    PartitionOffline,
    /// No topic of that id.
    #[error("this server has no topic of that id")]
    UnknownTopicId,
    /// Not a legal name.
    #[error("a topic name has 1 to 249 characters of [a-zA-Z0-9._-] and is not `.` or `..`")]
    TopicName,
    /// A topic named by neither name nor id, or by both.
    #[error("a topic is named either by its name or by its id")]
    NameOrId,
    /// Slow readers have all the memory for answers.
    #[error("too many long answers are being read slowly; ask again, for less at once")]
    NoAnswerMemory,
    /// More topics to create than one request may name.
    #[error(
        "more than {} topics in one request; create them in several",
        limits::KAFKA_CREATED_TOPICS
    )]
    TooManyTopics,
    /// The same thing twice in a request.
    #[error("named twice in one request")]
    Duplicate,
    /// Not 0, 1 or -1.
    #[error("acks must be 0, 1 or -1")]
    Acks,
    /// No batch, or several, for one partition.
    #[error("exactly one record batch per partition is needed")]
    NotOneBatch,
    /// zstd from a client whose request version knows no zstd.
    #[error("zstd needs version 7 of Produce")]
    ZstdTooEarly,
    /// A transactional producer.
    #[error("transactions are not served")]
    NoTransactions,
    /// An incremental fetch of a session that we never opened.
    #[error("this server keeps no fetch sessions")]
    NoFetchSession,
    /// The client knows an older leader than we are.
    #[error("the leader epoch in the request is older than the partition's")]
    OldEpoch,
    /// The client knows a newer leader than we are.
    #[error("the leader epoch in the request is newer than the partition's")]
    NewEpoch,
    /// An offset outside the log.
    #[error("the offset is outside the log")]
    OffsetOutOfRange,
    /// A special timestamp that the request's version does not have.
    #[error("this special timestamp is not part of the request's version")]
    SpecialTimestamp,
    /// Groups and transactions have no coordinator here.
    #[error("this server coordinates no groups and no transactions")]
    NoCoordinator,
    /// An empty transactional id.
    #[error("a transactional id must not be empty")]
    EmptyTransactionalId,
    /// Partition count given together with an assignment.
    #[error("with a manual assignment, partition count and replication factor must be -1")]
    CountAndAssignment,
    /// Assignment of replicas that this server cannot have.
    #[error("a manual assignment names the partitions 0, 1, 2, … and this broker once for each")]
    Assignment,
    /// Replication factor 0 or below -1.
    #[error("the replication factor must be at least 1, or -1 for the default")]
    ReplicationFactor,
}

impl Failure for Refusal {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Internal => Code::UnknownServerError,
            Self::UnknownApiVersions | Self::SpecialTimestamp => Code::UnsupportedVersion,
            Self::UnknownTopicOrPartition => Code::UnknownTopicOrPartition,
            Self::PartitionOffline => Code::KafkaStorageError,
            Self::UnknownTopicId => Code::UnknownTopicId,
            Self::TopicName => Code::InvalidTopicException,
            Self::SoftwareName
            | Self::NameOrId
            | Self::Duplicate
            | Self::EmptyTransactionalId
            | Self::CountAndAssignment => Code::InvalidRequest,
            Self::NoAnswerMemory => Code::RequestTimedOut,
            Self::TooManyTopics => Code::PolicyViolation,
            Self::Acks => Code::InvalidRequiredAcks,
            Self::NotOneBatch => Code::InvalidRecord,
            Self::ZstdTooEarly => Code::UnsupportedCompressionType,
            Self::NoTransactions => Code::InvalidTxnState,
            Self::NoFetchSession => Code::FetchSessionIdNotFound,
            Self::OldEpoch => Code::FencedLeaderEpoch,
            Self::NewEpoch => Code::UnknownLeaderEpoch,
            Self::OffsetOutOfRange => Code::OffsetOutOfRange,
            Self::NoCoordinator => Code::CoordinatorNotAvailable,
            Self::Assignment => Code::InvalidReplicaAssignment,
            Self::ReplicationFactor => Code::InvalidReplicationFactor,
        }
        .into()
    }
}

impl Failure for AppendError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Corrupt(_) => Code::CorruptMessage,
            Self::InvalidRecord(_) => Code::InvalidRecord,
            Self::TooLarge { .. } => Code::MessageTooLarge,
            Self::InvalidProducerEpoch => Code::InvalidProducerEpoch,
            Self::UnknownProducerId { .. } => Code::UnknownProducerId,
            Self::OutOfOrderSequence => Code::OutOfOrderSequenceNumber,
            Self::Transactional => Code::InvalidTxnState,
            Self::VdiskTopic { .. } => Code::PolicyViolation,
            Self::Deleted => Code::UnknownTopicOrPartition,
            // Not NOT_LEADER_OR_FOLLOWER: clients take that as "was not written", and it may have been.
            Self::Busy | Self::Stopping => Code::RequestTimedOut,
            Self::DiskFull
            | Self::NoCheckpoint
            | Self::LocalLogFull { .. }
            | Self::Offline { .. } => Code::KafkaStorageError,
        }
        .into()
    }
}

impl Failure for ReadError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::OutOfRange { .. } => Code::OffsetOutOfRange,
            Self::Damaged { .. } | Self::Offline { .. } | Self::Storage(_) => {
                Code::KafkaStorageError
            }
            // Retried after a refresh of the metadata, which is what a shard server that comes back needs.
            Self::Unavailable { .. } => Code::ReplicaNotAvailable,
            Self::Deleted => Code::UnknownTopicOrPartition,
            Self::Stopping => Code::NotLeaderOrFollower,
        }
        .into()
    }
}

impl Failure for CreateTopicError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidName(_) | Self::ReservedName | Self::Collides { .. } => {
                Code::InvalidTopicException
            }
            Self::Exists { .. } => Code::TopicAlreadyExists,
            Self::InvalidPartitions { .. } => Code::InvalidPartitions,
            Self::Option(OptionError::Unknown { .. } | OptionError::Invalid { .. }) => {
                Code::InvalidConfig
            }
            Self::DiskFull | Self::Storage(_) => Code::KafkaStorageError,
            Self::ShardServers { .. } | Self::Stopping => Code::RequestTimedOut,
        }
        .into()
    }
}

impl Failure for DeleteTopicError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Unknown => Code::UnknownTopicOrPartition,
            Self::Vdisk { .. } => Code::PolicyViolation,
            Self::ShardServers { .. } | Self::Stopping => Code::RequestTimedOut,
        }
        .into()
    }
}

impl Failure for DeleteRecordsError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Deleted => Code::UnknownTopicOrPartition,
            Self::OutOfRange { .. } => Code::OffsetOutOfRange,
            Self::Offline { .. } => Code::KafkaStorageError,
            Self::Compacted { .. } | Self::Vdisk { .. } => Code::PolicyViolation,
            Self::NotShipped { .. } | Self::Stopping => Code::RequestTimedOut,
        }
        .into()
    }
}

impl Failure for ProducerIdError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Stopping => Code::CoordinatorNotAvailable,
            Self::Exhausted => Code::UnknownServerError,
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;
    use crate::types::{TopicName, in_words};

    const REFUSALS: [(Refusal, i16); 25] = [
        (Refusal::Internal, -1),
        (Refusal::UnknownApiVersions, 35),
        (Refusal::SoftwareName, 42),
        (Refusal::UnknownTopicOrPartition, 3),
        (Refusal::UnknownTopicId, 100),
        (Refusal::PartitionOffline, 56),
        (Refusal::TopicName, 17),
        (Refusal::NameOrId, 42),
        (Refusal::NoAnswerMemory, 7),
        (Refusal::TooManyTopics, 44),
        (Refusal::Duplicate, 42),
        (Refusal::Acks, 21),
        (Refusal::NotOneBatch, 87),
        (Refusal::ZstdTooEarly, 76),
        (Refusal::NoTransactions, 48),
        (Refusal::NoFetchSession, 70),
        (Refusal::OldEpoch, 74),
        (Refusal::NewEpoch, 75),
        (Refusal::OffsetOutOfRange, 1),
        (Refusal::SpecialTimestamp, 35),
        (Refusal::NoCoordinator, 15),
        (Refusal::EmptyTransactionalId, 42),
        (Refusal::CountAndAssignment, 42),
        (Refusal::Assignment, 39),
        (Refusal::ReplicationFactor, 38),
    ];

    fn check(failure: &dyn Failure, code: i16, retried: bool) {
        assert_eq!(failure.code().wire(), code, "{failure}");
        let known = code.err().map(|code| code.is_retriable());
        assert_eq!(known, Some(retried), "{failure}");
        assert!(!in_words(failure).ends_with('.'), "{failure}");
    }

    #[test]
    fn refusals() {
        for (refusal, code) in REFUSALS {
            check(&refusal, code, [3, 56, 100, 70, 74, 75, 15, 7].contains(&code));
        }
    }

    #[test]
    fn failures_of_an_append() {
        let magic = || record::Error::Magic { magic: 1 };
        let topic = TopicName::new("t").unwrap();
        check(&AppendError::Corrupt(magic()), 2, true);
        check(&AppendError::InvalidRecord(magic()), 87, false);
        check(&AppendError::TooLarge { bytes: 2, limit: 1 }, 10, false);
        check(&AppendError::InvalidProducerEpoch, 47, false);
        check(&AppendError::UnknownProducerId { producer_id: i64::MAX }, 59, false);
        check(&AppendError::OutOfOrderSequence, 45, false);
        check(&AppendError::Transactional, 48, false);
        check(&AppendError::VdiskTopic { topic }, 44, false);
        check(&AppendError::Deleted, 3, true);
        check(&AppendError::DiskFull, 56, true);
        check(&AppendError::NoCheckpoint, 56, true);
        check(&AppendError::LocalLogFull { limit_bytes: 1 }, 56, true);
        check(&AppendError::Offline { why: "x".to_owned() }, 56, true);
        check(&AppendError::Busy, 7, true);
        check(&AppendError::Stopping, 7, true);
        assert!(in_words(&AppendError::InvalidRecord(magic())).contains("magic 1"));
    }

    /// `Storage`, here and below, holds an error of a layer that a front end does not name; its arm is that of damage
    /// here, and its own below.
    #[test]
    fn failures_of_a_read() {
        check(&ReadError::OutOfRange { requested: 3, start: 0, end: 2 }, 1, false);
        check(&ReadError::Damaged { first: 0, last: 1, what: String::new() }, 56, true);
        check(&ReadError::Offline { why: "x".to_owned() }, 56, true);
        check(&ReadError::Unavailable { why: String::new() }, 9, true);
        check(&ReadError::Deleted, 3, true);
        check(&ReadError::Stopping, 6, true);
    }

    #[test]
    fn failures_around_topics() {
        let name = || "t".to_owned();
        let topic = || TopicName::new("t").unwrap();
        let unknown = || OptionError::Unknown { key: name() };
        let invalid = || OptionError::Invalid { key: name(), value: name(), expected: "x" };
        let bad = TopicName::new("").unwrap_err();
        check(&CreateTopicError::InvalidName(bad), 17, false);
        check(&CreateTopicError::ReservedName, 17, false);
        check(&CreateTopicError::DiskFull, 56, true);
        check(&CreateTopicError::Exists { name: name() }, 36, false);
        check(&CreateTopicError::Collides { name: name(), other: topic() }, 17, false);
        check(&CreateTopicError::InvalidPartitions { partitions: 0, expected: name() }, 37, false);
        check(&CreateTopicError::Option(unknown()), 40, false);
        check(&CreateTopicError::Option(invalid()), 40, false);
        check(&CreateTopicError::ShardServers { why: name() }, 7, true);
        check(&CreateTopicError::Stopping, 7, true);
        check(&DeleteTopicError::Unknown, 3, true);
        check(&DeleteTopicError::Vdisk { topic: topic() }, 44, false);
        check(&DeleteTopicError::ShardServers { owed: 1 }, 7, true);
        check(&DeleteTopicError::Stopping, 7, true);
        check(&DeleteRecordsError::Deleted, 3, true);
        check(&DeleteRecordsError::OutOfRange { requested: 9, end: 1 }, 1, false);
        check(&DeleteRecordsError::Offline { why: name() }, 56, true);
        check(&DeleteRecordsError::Compacted { topic: topic() }, 44, false);
        check(&DeleteRecordsError::Vdisk { topic: topic() }, 44, false);
        check(&DeleteRecordsError::NotShipped { requested: 9, complete: 1 }, 7, true);
        check(&DeleteRecordsError::Stopping, 7, true);
        check(&ProducerIdError::Stopping, 15, true);
    }

    #[test]
    fn codes_are_shown_by_name() {
        assert_eq!(ErrorCode::NONE.to_string(), "none");
        assert_eq!(Refusal::Acks.code().to_string(), "InvalidRequiredAcks");
    }
}

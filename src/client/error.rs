//! What a client can fail with.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;

use crate::record;
use crate::tlog::protocol::{DecodeError, FrameError, HandshakeStatus};

/// Why a TLog client cannot go on, or did not start. Cheap to clone: the task that met it and every later caller share it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No server was named.
    #[error("no server is named; give at least one HOST:PORT")]
    NoServer,
    /// An address that is no address, does not answer, or a connection that broke.
    #[error("cannot {op} {server}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// With whom.
        server: String,
        /// As the system gives it.
        source: Arc<io::Error>,
    },
    /// Something took longer than it may.
    #[error("{server} did not {op} within {} s", waited.as_secs())]
    Timeout {
        /// What was waited for.
        op: &'static str,
        /// Whom.
        server: String,
        /// How long.
        waited: Duration,
    },
    /// The server ended the connection.
    #[error("{server} closed the connection")]
    Closed {
        /// Which one.
        server: String,
    },
    /// The handshake was answered with a refusal.
    #[error("{server} refuses vdisk `{vdisk}`: {}", refusal(*status))]
    Refused {
        /// Which one.
        server: String,
        /// As asked for.
        vdisk: String,
        /// The answer.
        status: HandshakeStatus,
    },
    /// What came is not a TLog server's.
    #[error("{server} does not answer as a TLog server; is it the TLog port?")]
    Frame {
        /// Which one.
        server: String,
        /// What is wrong.
        source: FrameError,
    },
    /// What came cannot be read.
    #[error("{server} sent a message that cannot be read")]
    Decode {
        /// Which one.
        server: String,
        /// What is wrong.
        source: DecodeError,
    },
    /// The server has lost what it or another said to be flushed.
    #[error(
        "{server} reports {reported} as last flushed sequence, but {flushed} was flushed: \
         it serves another log of this vdisk, use the server that has it"
    )]
    Forgot {
        /// Which one.
        server: String,
        /// Of the handshake.
        reported: u64,
        /// As known here.
        flushed: u64,
    },
    /// Somebody else writes this vdisk.
    #[error(
        "{server} reports {reported} as last flushed sequence, but only {sent} were sent: \
         another client writes this vdisk, stop it and connect anew"
    )]
    OtherWriter {
        /// Which one.
        server: String,
        /// Of the handshake.
        reported: u64,
        /// The last one given out here.
        sent: u64,
    },
    /// The log has something else under sequences that were compared.
    #[error(
        "{server} closed the connection {attempts} times over blocks that vdisk `{vdisk}` should have already: its log has \
         other data there"
    )]
    Differs {
        /// Which one.
        server: String,
        /// As asked for.
        vdisk: String,
        /// Connections that ended so.
        attempts: u32,
    },
    /// A block that no server could take.
    #[error("a block of {bytes} bytes does not fit a message; {limit} are the most")]
    BlockTooLarge {
        /// Its length.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// A negative block number.
    #[error("block number {index} is negative")]
    NegativeIndex {
        /// As given.
        index: i64,
    },
    /// The servers stayed away longer than was agreed.
    #[error("no server took the connection for {} s", waited.as_secs())]
    GaveUp {
        /// How long.
        waited: Duration,
        /// What the last one said.
        source: Box<Error>,
    },
    /// The client was closed, or its task ended.
    #[error("the client is closed")]
    ClientClosed,
}

impl Error {
    pub(super) fn io(op: &'static str, server: &str) -> impl FnOnce(io::Error) -> Self {
        let server = server.to_owned();
        move |source| Self::Io { op, server, source: Arc::new(source) }
    }

    /// Whether trying the same server again makes no sense: it said no, and not "not now".
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(
                status,
                HandshakeStatus::InvalidRequest
                    | HandshakeStatus::InvalidVersion
                    | HandshakeStatus::InvalidVdiskId
            ),
            Self::Forgot { .. } | Self::OtherWriter { .. } | Self::NoServer => true,
            Self::Differs { .. } => true,
            Self::BlockTooLarge { .. } | Self::NegativeIndex { .. } | Self::GaveUp { .. } => true,
            Self::ClientClosed => true,
            Self::Io { .. } | Self::Timeout { .. } | Self::Closed { .. } => false,
            Self::Frame { .. } | Self::Decode { .. } => false,
        }
    }
}

fn refusal(status: HandshakeStatus) -> &'static str {
    match status {
        HandshakeStatus::Ok => "it does not",
        HandshakeStatus::InvalidRequest => "it could not read the request; is it a TLog server?",
        HandshakeStatus::InvalidVersion => "it wants a newer client",
        HandshakeStatus::InvalidVdiskId => {
            "no vdisk can have this id; 1 to 249 of a-z A-Z 0-9 . _ - are needed, and a topic of that name \
             must not hold other data"
        }
        HandshakeStatus::Internal => {
            "it cannot serve the vdisk now; its log says why, and shard servers that are away are the usual cause"
        }
        HandshakeStatus::AttachFailed => "another client is attached to it",
    }
}

/// Why a broker's answer is none.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// The connection failed.
    #[error("cannot {op} {broker}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// With whom.
        broker: String,
        /// As the system gives it.
        source: io::Error,
    },
    /// Something took longer than it may.
    #[error("{broker} did not {op} within {} s", waited.as_secs())]
    Timeout {
        /// What was waited for.
        op: &'static str,
        /// Whom.
        broker: String,
        /// How long.
        waited: Duration,
    },
    /// An answer longer than asked for, or none of Kafka's.
    #[error(
        "{broker} announces an answer of {bytes} bytes, {limit} are the most; is it the Kafka port?"
    )]
    TooLarge {
        /// Which one.
        broker: String,
        /// As announced.
        bytes: i64,
        /// The bound.
        limit: usize,
    },
    /// An answer that cannot be read, or that answers something else.
    #[error("{broker} answered {api} in a way that cannot be read: {reason}")]
    Unreadable {
        /// Which one.
        broker: String,
        /// The request.
        api: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The broker does not serve a request in a version known here.
    #[error("{broker} does not serve {api} in a version known here")]
    Unsupported {
        /// Which one.
        broker: String,
        /// The request.
        api: &'static str,
    },
    /// There is no such topic or partition.
    #[error("there is no partition {partition} of topic `{topic}`")]
    UnknownPartition {
        /// The name.
        topic: String,
        /// The index.
        partition: i32,
    },
    /// The offset is not in the log.
    #[error("offset {offset} is not in the log of `{topic}`")]
    OffsetOutOfRange {
        /// The name.
        topic: String,
        /// As asked for.
        offset: i64,
    },
    /// Any other error code.
    #[error("the broker answered {api} for `{topic}` with error {code} ({name})")]
    Code {
        /// The request.
        api: &'static str,
        /// Of which topic.
        topic: String,
        /// Kafka's number.
        code: i16,
        /// Kafka's name.
        name: String,
    },
    /// Batches that are none.
    #[error("the broker sent damaged batches of `{topic}`")]
    Damaged {
        /// The name.
        topic: String,
        /// What is wrong.
        source: record::Error,
    },
}

impl KafkaError {
    /// Whether asking again, on a new connection, may go well: the broker is away, starts, stops, or cannot reach its
    /// shard servers. A damaged log stays so, although Kafka's own clients ask for it again.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Io { .. } | Self::Timeout { .. } => true,
            Self::Code { code, .. } => ResponseError::try_from_code(*code)
                .is_some_and(|code| code.is_retriable() && code != ResponseError::CorruptMessage),
            Self::TooLarge { .. }
            | Self::Unreadable { .. }
            | Self::Unsupported { .. }
            | Self::UnknownPartition { .. }
            | Self::OffsetOutOfRange { .. }
            | Self::Damaged { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_pass_are_worth_another_try_and_damage_is_not() {
        let is_retriable = |code| {
            let (topic, name) = ("disk".to_owned(), String::new());
            KafkaError::Code { api: "Fetch", topic, code, name }.is_retriable()
        };
        // Shard servers away, server stopping, coordinator loading.
        assert!(is_retriable(9) && is_retriable(6) && is_retriable(14));
        // Corrupt message, authorization, a number of nobody's.
        assert!(!is_retriable(2) && !is_retriable(29) && !is_retriable(4711));
    }
}

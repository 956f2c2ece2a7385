//! Every fault and answer that a client can see, and the number it sees.
//!
//! The clients of the original end their whole process on a status they do not know, so nothing is added to the
//! numbers of the wire.

use super::protocol::message::{HandshakeStatus, Response, Status};
use crate::broker::vdisk::{Answer, Refusal};
use crate::broker::vdisks::AttachError;
use crate::broker::{CreateTopicError, DeleteTopicError, VdiskTopicError};

/// The handshake status of a refused attach.
#[must_use]
pub fn of_refusal(refusal: Refusal) -> HandshakeStatus {
    match refusal {
        Refusal::Busy => HandshakeStatus::AttachFailed,
        Refusal::FirstSequence => HandshakeStatus::InvalidRequest,
        Refusal::NotShipped | Refusal::Superseded | Refusal::Failed => HandshakeStatus::Internal,
    }
}

/// The handshake status of an attach that failed.
#[must_use]
pub fn of_attach_error(error: &AttachError) -> HandshakeStatus {
    match error {
        AttachError::Refused(refusal) => of_refusal(*refusal),
        AttachError::Offline { .. } => HandshakeStatus::Internal,
        AttachError::Topic(VdiskTopicError::NotAVdisk { .. }) => HandshakeStatus::InvalidVdiskId,
        AttachError::Topic(VdiskTopicError::Create(error)) => of_create_error(error),
        AttachError::Topic(VdiskTopicError::Delete(error)) => match error {
            DeleteTopicError::Unknown
            | DeleteTopicError::Vdisk { .. }
            | DeleteTopicError::ShardServers { .. }
            | DeleteTopicError::Stopping => HandshakeStatus::Internal,
        },
    }
}

fn of_create_error(error: &CreateTopicError) -> HandshakeStatus {
    match error {
        CreateTopicError::InvalidName(_)
        | CreateTopicError::ReservedName
        | CreateTopicError::Collides { .. } => HandshakeStatus::InvalidVdiskId,
        CreateTopicError::Exists { .. }
        | CreateTopicError::InvalidPartitions { .. }
        | CreateTopicError::Option(_)
        | CreateTopicError::DiskFull
        | CreateTopicError::Storage(_)
        | CreateTopicError::ShardServers { .. }
        | CreateTopicError::Stopping => HandshakeStatus::Internal,
    }
}

/// The response that carries an answer.
#[must_use]
pub fn of_answer(answer: Answer) -> Response {
    match answer {
        Answer::Received(sequence) => {
            Response { status: Status::Received, sequences: vec![sequence] }
        }
        Answer::Flushed(sequences) => Response { status: Status::Flushed, sequences },
        Answer::ForceFlushReceived => Response::of(Status::ForceFlushReceived),
        Answer::WaitSlaveSyncDone => Response::of(Status::WaitSlaveSyncDone),
        Answer::FlushFailed => Response::of(Status::FlushFailed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_number() {
        let seen = |refusal| of_refusal(refusal) as i8;
        assert_eq!(seen(Refusal::Busy), -5);
        assert_eq!(seen(Refusal::FirstSequence), -1);
        assert_eq!(seen(Refusal::NotShipped), -4);
        assert_eq!(seen(Refusal::Superseded), -4);
        assert_eq!(seen(Refusal::Failed), -4);
    }
}

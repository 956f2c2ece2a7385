//! Every fault and answer that a client can see, and the number it sees.
//!
//! The clients of the original end their whole process on a status they do not know, so nothing is added to the
//! numbers of the wire.

use super::protocol::message::{HandshakeStatus, Response, Status};
use crate::broker::vdisk::{Answer, Refusal};

/// The handshake status of a refused attach.
#[must_use]
pub fn of_refusal(refusal: Refusal) -> HandshakeStatus {
    match refusal {
        Refusal::Busy => HandshakeStatus::AttachFailed,
        Refusal::FirstSequence => HandshakeStatus::InvalidRequest,
        Refusal::NotShipped | Refusal::Superseded | Refusal::Failed => HandshakeStatus::Internal,
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

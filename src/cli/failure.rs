//! How a command ends when it does not succeed.

use std::error::Error as StdError;

use crate::client::{Error as TlogError, KafkaError, PlayError};
use crate::tier::{FetchError, OpenError};
use crate::types::in_words;

/// The exit code, see the module page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    Error = 1,
    Damaged = 2,
    NotFound = 10,
    Locked = 11,
    WrongKey = 12,
    Usage = 64,
    Config = 78,
}

/// An exit code and what to tell the person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Of an error and all its sources, in one line.
    pub(super) fn of(exit: Exit, error: &dyn StdError) -> Self {
        Self { exit, message: in_words(error) }
    }

    /// Says what was done when it happened.
    pub(super) fn context(mut self, doing: &str) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

/// An error of the file system, with what was done to which path.
pub(super) fn file_failure(
    op: &'static str,
    path: &std::path::Path,
) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::new(Exit::Error, format!("cannot {op} {path}: {error}"))
}

impl From<TlogError> for Failure {
    fn from(error: TlogError) -> Self {
        Self::of(Exit::Error, &error)
    }
}

/// Kafka's CORRUPT_MESSAGE.
const CORRUPT_MESSAGE: i16 = 2;

impl From<KafkaError> for Failure {
    fn from(error: KafkaError) -> Self {
        let exit = match &error {
            KafkaError::UnknownPartition { .. } => Exit::NotFound,
            KafkaError::Damaged { .. } | KafkaError::Code { code: CORRUPT_MESSAGE, .. } => {
                Exit::Damaged
            }
            KafkaError::Io { .. }
            | KafkaError::Timeout { .. }
            | KafkaError::TooLarge { .. }
            | KafkaError::Unreadable { .. }
            | KafkaError::Unsupported { .. }
            | KafkaError::OffsetOutOfRange { .. }
            | KafkaError::Code { .. } => Exit::Error,
        };
        Self::of(exit, &error)
    }
}

impl From<PlayError> for Failure {
    fn from(error: PlayError) -> Self {
        Self::of(if error.is_damage() { Exit::Damaged } else { Exit::Error }, &error)
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let exit = match error {
            FetchError::Damaged { .. } => Exit::Damaged,
            FetchError::Unavailable { .. } => Exit::Error,
        };
        Self::of(exit, &error)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let exit = match error {
            OpenError::WrongKey(_) => Exit::WrongKey,
            OpenError::Config(_)
            | OpenError::Refused { .. }
            | OpenError::OtherCluster { .. }
            | OpenError::SeveralClusters { .. } => Exit::Config,
            OpenError::Stopped => Exit::Error,
        };
        Self::of(exit, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_its_causes_and_keeps_its_code() {
        let target =
            PlayError::Target { offset: 7, source: std::io::ErrorKind::StorageFull.into() };
        let failure = Failure::from(target);
        assert_eq!(failure.exit, Exit::Error);
        assert!(failure.message.contains("offset 7") && failure.message.contains(": "));
        let damaged = Failure::from(PlayError::Hash { offset: 3 }).context("restoring");
        assert_eq!((damaged.exit, damaged.exit as u8), (Exit::Damaged, 2));
        assert!(damaged.message.starts_with("restoring: "));
    }
}

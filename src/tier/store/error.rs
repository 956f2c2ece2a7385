//! What may go wrong at a shard server.

use std::time::Duration;

use super::{Fence, ShardName};

/// A failed operation of a store. Every variant names the server.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection, or it broke, or the directory cannot be read or written. The outcome is unknown; the same
    /// operation may be sent again.
    #[error("shard server {server} cannot be reached")]
    Unreachable {
        /// Address or path.
        server: String,
        /// What the system or the connection said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time. The outcome is unknown; the same operation may be sent again.
    #[error("shard server {server} did not answer {operation} within {} ms", after.as_millis())]
    Timeout {
        /// Address or path.
        server: String,
        /// What was asked.
        operation: &'static str,
        /// How long the answer was awaited.
        after: Duration,
    },
    /// Another writer owns the partition now. Sending again does not help.
    #[error("shard server {server} refused a write: {fence} has taken the partition")]
    Fenced {
        /// Address or path.
        server: String,
        /// Who has it.
        fence: Fence,
    },
    /// The name holds other bytes: two seals went under one name.
    #[error("shard server {server} holds other bytes as shard {name}")]
    Conflict {
        /// Address or path.
        server: String,
        /// Which shard.
        name: ShardName,
    },
    /// The server is there and does not do it: out of memory or space, read-only, locked, poisoned.
    #[error("shard server {server} refused: {reason}")]
    Refused {
        /// Address or path.
        server: String,
        /// Why, with the cure where one is known.
        reason: String,
    },
    /// Another process has the directory.
    #[error(
        "another process uses shard directory {server}; stop it, or name another with -storage-dir"
    )]
    Locked {
        /// Path.
        server: String,
    },
    /// What the server holds is none of ours, or damaged.
    #[error("shard server {server} holds damaged data: {what}")]
    Corrupt {
        /// Address or path.
        server: String,
        /// Key or file, and what is wrong with it.
        what: String,
    },
    /// A value beyond its bound; nothing was sent, or nothing was taken into memory.
    #[error("shard server {server}: {what} of {bytes} bytes, {limit} are allowed")]
    TooLarge {
        /// Address or path.
        server: String,
        /// Which value.
        what: &'static str,
        /// Its length.
        bytes: u64,
        /// Its bound.
        limit: u64,
    },
}

impl StoreError {
    /// Whether the same operation, sent again later, may succeed without anybody's help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Refused { .. }
            | Self::Locked { .. } => true,
            Self::Fenced { .. }
            | Self::Conflict { .. }
            | Self::Corrupt { .. }
            | Self::TooLarge { .. } => false,
        }
    }
}

/// Refuses a value above its bound.
pub(super) fn bounded(
    server: &str,
    what: &'static str,
    bytes: usize,
    limit: usize,
) -> Result<(), StoreError> {
    if bytes <= limit {
        return Ok(());
    }
    let (bytes, limit) = (bytes as u64, limit as u64);
    Err(StoreError::TooLarge { server: server.to_owned(), what, bytes, limit })
}

/// Refuses a listing that has grown above what memory is given for one.
pub(super) fn bounded_listing(server: &str, bytes: u64) -> Result<(), StoreError> {
    let limit = crate::types::limits::TIER_LISTING_BYTES;
    if bytes <= limit {
        return Ok(());
    }
    Err(StoreError::TooLarge { server: server.to_owned(), what: "a listing", bytes, limit })
}

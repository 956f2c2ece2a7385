//! The blocks of virtual disks, and how each stands in a record.

use bytes::Bytes;

/// Operation number of a write.
pub const OPERATION_WRITE: u8 = 1;
/// Operation number of a write of zeroes (older wire) or a delete (newer wire).
pub const OPERATION_ZERO: u8 = 2;

/// Where a block lies on its vdisk, as its client said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In bytes (older wire).
    Bytes {
        /// First byte.
        offset: u64,
        /// Bytes covered. Not checked against the length of the data.
        size: u64,
    },
    /// As number of a block (newer wire); the vdisk's block size gives the bytes.
    Index(i64),
}

/// One write of a vdisk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Number of the write, given by the client.
    pub sequence: u64,
    /// Where it goes.
    pub place: Place,
    /// [`OPERATION_WRITE`], [`OPERATION_ZERO`], or a number stored as it is.
    pub operation: u8,
    /// BLAKE2b-256 of `data`, as sent.
    pub hash: [u8; 32],
    /// The client's clock in a unit of its own choice, 64 bits as sent.
    pub timestamp: u64,
    /// What is written; empty for zeroes.
    pub data: Bytes,
}

//! The checkpoint file: the catalogue as of a commit, below which the commit log is no longer needed.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::catalogue::Catalogue;
use crate::disk::{Disk, is_no_room};
use crate::types::CommitNumber;

const MAGIC: &[u8; 4] = b"TLCK";
/// 2 has the deleted topics that the shard servers are still to be told of.
const FORMAT: u16 = 2;
const HEADER_BYTES: usize = 14;
/// Room for some hundred thousand partitions.
const LARGEST_BYTES: u64 = 1 << 30;
/// CRC behind the content.
const TAIL_BYTES: u64 = 4;

/// What a checkpoint holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The last commit that it covers.
    pub commit: CommitNumber,
    /// Whether the broker stopped by itself right behind that commit.
    pub clean: bool,
    /// The state as of that commit. All segments are synced up to the ends that it names.
    pub catalogue: Catalogue,
}

/// A checkpoint that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system failed.
    #[error("cannot {op} the checkpoint")]
    Io {
        /// What was tried.
        op: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// It would not be read again.
    #[error("a checkpoint of {bytes} bytes is above the limit of {LARGEST_BYTES}: delete topics")]
    TooLarge {
        /// What it would take.
        bytes: usize,
    },
    /// The bytes are not what was written.
    #[error(
        "the checkpoint `meta/checkpoint` is damaged ({what}): restore the file from a copy, or rebuild with an empty data directory from the shard servers"
    )]
    Damaged {
        /// What does not fit.
        what: String,
    },
    /// A newer release wrote it.
    #[error(
        "the checkpoint has format {found}, this release knows {FORMAT}: start the release that wrote it"
    )]
    Newer {
        /// Its format.
        found: u16,
    },
}

impl CheckpointError {
    /// Whether the disk is full, and nothing else is wrong.
    pub(super) fn is_no_room(&self) -> bool {
        matches!(self, Self::Io { op: "write", source } if is_no_room(source))
    }
}

impl Checkpoint {
    /// Writes the file whole: magic, format, length u64, JSON text, CRC-32C of everything before; little-endian.
    /// Durable on return.
    ///
    /// # Errors
    /// [`CheckpointError::Io`]; the old checkpoint then still stands, or the new one does.
    pub fn write(&self, disk: &dyn Disk, path: &Path) -> Result<(), CheckpointError> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        serde_json::to_writer(&mut bytes, self)
            .map_err(|error| CheckpointError::Io { op: "encode", source: error.into() })?;
        if bytes.len() as u64 > LARGEST_BYTES {
            return Err(CheckpointError::TooLarge { bytes: bytes.len() });
        }
        let length = (bytes.len() - HEADER_BYTES) as u64;
        bytes[6..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        disk.replace(path, &bytes).map_err(|source| CheckpointError::Io { op: "write", source })
    }

    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Self>, CheckpointError> {
        if !disk.exists(path) {
            return Ok(None);
        }
        let bytes = disk
            .read_all(path, LARGEST_BYTES + TAIL_BYTES)
            .map_err(|source| CheckpointError::Io { op: "read", source })?;
        Self::decode(&bytes).map(Some)
    }

    fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let damaged = |what: &str| CheckpointError::Damaged { what: what.to_owned() };
        let (content, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| damaged("too short"))?;
        let (magic, rest) = content.split_first_chunk::<4>().ok_or_else(|| damaged("too short"))?;
        let (format, rest) = rest.split_first_chunk::<2>().ok_or_else(|| damaged("too short"))?;
        let (length, json) = rest.split_first_chunk::<8>().ok_or_else(|| damaged("too short"))?;
        if magic != MAGIC {
            return Err(damaged("wrong magic"));
        }
        if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
            return Err(damaged("wrong checksum"));
        }
        let format = u16::from_le_bytes(*format);
        if format > FORMAT {
            return Err(CheckpointError::Newer { found: format });
        }
        if u64::from_le_bytes(*length) != json.len() as u64 {
            return Err(damaged("wrong length"));
        }
        serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FileDisk;

    #[test]
    fn a_checkpoint_of_format_1_opens() {
        let old = Checkpoint::decode(include_bytes!("testdata/checkpoint-v1")).unwrap();
        let names: Vec<&str> = old.catalogue.topics.values().map(|t| t.name.as_str()).collect();
        assert_eq!((old.commit, names), (8, vec!["disk-1", "plain-1"]));
        assert!(old.catalogue.deleted.is_empty());
    }

    #[test]
    fn a_checkpoint_survives_its_file_and_every_flipped_bit_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        assert_eq!(Checkpoint::read(&FileDisk, &path).unwrap(), None);
        let checkpoint = Checkpoint { commit: 7, clean: true, catalogue: Catalogue::default() };
        checkpoint.write(&FileDisk, &path).unwrap();
        assert_eq!(Checkpoint::read(&FileDisk, &path).unwrap(), Some(checkpoint));
        let bytes = std::fs::read(&path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Checkpoint::decode(&flipped).is_err(), "bit {bit}");
        }
    }
}

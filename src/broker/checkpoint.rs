//! The checkpoint: the catalogue as of a commit, below which the commit log is no longer needed.
//!
//! It is written twice, one file after the other, since nothing else on the disk says what it says. The commit log is
//! freed behind both, so the second one can always be started from, whichever of the two it is.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::catalogue::Catalogue;
use crate::disk::{Disk, is_no_room};
use crate::types::{CommitNumber, in_words};

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
        "the checkpoint `meta/checkpoint` is damaged ({what}), and so is the second one, `meta/checkpoint.copy`: restore one of the files from a copy, or rebuild with an empty data directory from the shard servers"
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
    /// Writes both files whole: magic, format, length u64, JSON text, CRC-32C of everything before; little-endian.
    /// Durable on return.
    ///
    /// # Errors
    /// [`CheckpointError::Io`]; either file then has the old checkpoint or the new one.
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
        for path in [path, &copy_of(path)] {
            let written = disk.replace(path, &bytes);
            written.map_err(|source| CheckpointError::Io { op: "write", source })?;
        }
        Ok(())
    }

    /// Reads the checkpoint, from its second file where the first is not there or damaged; `None` when there is none.
    ///
    /// # Errors
    /// [`CheckpointError`], of the first file.
    pub fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Self>, CheckpointError> {
        let first = Self::read_file(disk, path);
        if matches!(first, Ok(Some(_)) | Err(CheckpointError::Newer { .. })) {
            return first;
        }
        let second = match (&first, Self::read_file(disk, &copy_of(path))) {
            (_, Ok(Some(second))) => second,
            // There was one.
            (Ok(None), Err(error)) => return Err(error),
            _ => return first,
        };
        let why = first.err().map_or("it is not there".to_owned(), |error| in_words(&error));
        tracing::warn!(
            path = %path.display(),
            why,
            "the checkpoint is read from its copy, which says the same; the next one is written to both: look at the disk"
        );
        Ok(Some(second))
    }

    /// Whether there is a checkpoint, sound or not.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn is_there(disk: &dyn Disk, path: &Path) -> io::Result<bool> {
        Ok(disk.exists(path)? || disk.exists(&copy_of(path))?)
    }

    /// Reads one of the two files; `None` when it is not there.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn read_file(disk: &dyn Disk, path: &Path) -> Result<Option<Self>, CheckpointError> {
        match disk.read_all(path, LARGEST_BYTES + TAIL_BYTES) {
            Ok(bytes) => Self::decode(&bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CheckpointError::Io { op: "read", source }),
        }
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

/// The second file of a checkpoint.
#[must_use]
pub fn copy_of(path: &Path) -> PathBuf {
    path.with_extension("copy")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::broker::{PartitionState, TopicState};
    use crate::disk::FileDisk;
    use crate::log::ProducerRoom;
    use crate::record::BatchHeader;
    use crate::types::{LeaderEpoch, TopicId, TopicName, limits};

    #[test]
    fn a_checkpoint_of_format_1_opens() {
        let old = Checkpoint::decode(include_bytes!("testdata/checkpoint-v1")).unwrap();
        let names: Vec<&str> = old.catalogue.topics.values().map(|t| t.name.as_str()).collect();
        assert_eq!((old.commit, names), (8, vec!["disk-1", "plain-1"]));
        assert!(old.catalogue.deleted.is_empty());
    }

    /// Bytes of a checkpoint of one topic with so many partitions, each with so many producers that sent all that is kept of
    /// them, with the longest numbers.
    fn bytes_of(partitions: usize, producers: i64) -> usize {
        let mut partition = PartitionState::empty(i64::MAX, LeaderEpoch(i32::MAX), u64::MAX, false);
        let room = ProducerRoom::new(usize::MAX, 0);
        for producer_id in 0..producers {
            let producer_id = limits::PRODUCER_IDS - 1 - producer_id;
            for _ in 0..limits::PRODUCER_BATCHES + 1 {
                let header = BatchHeader {
                    base_offset: i64::MAX,
                    batch_length: 100,
                    leader_epoch: 0,
                    magic: 2,
                    crc: 0,
                    attributes: 0,
                    last_offset_delta: 0,
                    base_timestamp: 0,
                    max_timestamp: i64::MIN,
                    producer_id,
                    producer_epoch: i16::MIN,
                    base_sequence: i32::MAX,
                    record_count: 1,
                };
                partition.producers.apply(&header, i64::MAX, &room);
            }
        }
        let topic = TopicState {
            id: TopicId([1; 16]),
            name: TopicName::new(&"t".repeat(200)).unwrap(),
            revision: u64::MAX,
            options: BTreeMap::new(),
            sealed_secret: "00".repeat(100),
            partitions: vec![partition; partitions],
        };
        let catalogue = Catalogue::of(i64::MAX, [(topic.id, topic)].into());
        let checkpoint = Checkpoint { commit: u64::MAX, clean: false, catalogue };
        serde_json::to_vec(&checkpoint).unwrap().len()
    }

    #[test]
    fn all_producers_that_are_remembered_fit_a_checkpoint() {
        let producer = bytes_of(1, 11) - bytes_of(1, 10);
        let partition = bytes_of(11, 0) - bytes_of(10, 0);
        println!("{producer} bytes per producer, {partition} per partition");
        assert!(producer > 500, "{producer}");
        // Each partition in a topic of its own.
        let partitions = limits::BROKER_PARTITIONS * (partition + bytes_of(1, 0));
        let producers = (limits::PRODUCERS + limits::BROKER_PARTITIONS) * producer;
        let bytes = (partitions + producers) as u64;
        // The other half is for what else a partition has: epochs, runs, marks.
        assert!(bytes < LARGEST_BYTES / 2, "{bytes}");
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

    #[test]
    fn either_of_the_two_files_will_do_and_none_of_them_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        let copy = copy_of(&path);
        let checkpoint = Checkpoint { commit: 7, clean: true, catalogue: Catalogue::default() };
        checkpoint.write(&FileDisk, &path).unwrap();
        for (one, other) in [(&path, &copy), (&copy, &path)] {
            std::fs::remove_file(one).unwrap();
            assert!(Checkpoint::is_there(&FileDisk, &path).unwrap());
            assert_eq!(Checkpoint::read(&FileDisk, &path).unwrap().as_ref(), Some(&checkpoint));
            std::fs::write(one, b"rot").unwrap();
            assert_eq!(Checkpoint::read(&FileDisk, &path).unwrap().as_ref(), Some(&checkpoint));
            std::fs::copy(other, one).unwrap();
        }
        std::fs::write(&path, b"rot").unwrap();
        std::fs::write(&copy, b"rot").unwrap();
        let error = Checkpoint::read(&FileDisk, &path).unwrap_err();
        assert!(matches!(error, CheckpointError::Damaged { .. }), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(Checkpoint::read(&FileDisk, &path).is_err(), "there was one");
        // A newer release wrote it: nothing older counts.
        checkpoint.write(&FileDisk, &path).unwrap();
        let mut newer = std::fs::read(&path).unwrap();
        newer[4] = 200;
        let end = newer.len() - 4;
        let crc = crc32c::crc32c(&newer[..end]);
        newer[end..].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, newer).unwrap();
        let error = Checkpoint::read(&FileDisk, &path).unwrap_err();
        assert!(matches!(error, CheckpointError::Newer { found: 200 }), "{error}");
    }
}

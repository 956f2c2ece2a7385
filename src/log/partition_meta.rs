//! `partition.meta`: whose directory this is. Names of topics return after deletion, ids never do.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Error, MetaFault};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::types::{TopicId, TopicPartition};

const MAGIC: [u8; 8] = *b"TLOGPART";
const FORMAT: u32 = 1;
const BODY_BYTES: usize = 32;
const FILE_BYTES: usize = BODY_BYTES + 4;

/// What the file of a directory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meta {
    Of(TopicPartition),
    Unknown(MetaFault),
}

/// Path of the file in `dir`.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("partition.meta")
}

fn encode(id: TopicPartition) -> [u8; FILE_BYTES] {
    let mut file = [0; FILE_BYTES];
    file[..8].copy_from_slice(&MAGIC);
    file[8..12].copy_from_slice(&FORMAT.to_be_bytes());
    file[12..28].copy_from_slice(id.topic.as_bytes());
    file[28..32].copy_from_slice(&id.partition.to_be_bytes());
    let crc = crc32c::crc32c(&file[..BODY_BYTES]);
    file[BODY_BYTES..].copy_from_slice(&crc.to_be_bytes());
    file
}

fn decode(file: &[u8]) -> Meta {
    let decoded = || {
        let (magic, rest) = file.split_first_chunk::<8>()?;
        let (format, rest) = rest.split_first_chunk::<4>()?;
        if *magic != MAGIC {
            return None;
        }
        let format = u32::from_be_bytes(*format);
        if format > FORMAT {
            return Some(Meta::Unknown(MetaFault::Newer(format)));
        }
        let (topic, rest) = rest.split_first_chunk::<16>()?;
        let (partition, rest) = rest.split_first_chunk::<4>()?;
        let crc: [u8; 4] = rest.try_into().ok()?;
        if u32::from_be_bytes(crc) != crc32c::crc32c(file.get(..BODY_BYTES)?) {
            return None;
        }
        let (topic, partition) = (TopicId(*topic), i32::from_be_bytes(*partition));
        Some(Meta::Of(TopicPartition { topic, partition }))
    };
    decoded().unwrap_or(Meta::Unknown(MetaFault::Damaged))
}

/// Reads the file of `dir`.
pub(super) fn read(disk: &dyn Disk, dir: &Path) -> Result<Meta, Error> {
    let path = path(dir);
    match disk.read_all(&path, 4096) {
        Ok(bytes) => Ok(decode(&bytes)),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Ok(Meta::Unknown(MetaFault::Damaged))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Meta::Unknown(MetaFault::Absent)),
        Err(error) => Err(Error::io("read", &path)(error)),
    }
}

/// Writes the file into a new directory, unsynced.
pub(super) fn create(
    disk: &dyn Disk,
    dir: &Path,
    id: TopicPartition,
) -> Result<Arc<dyn DiskFile>, Error> {
    let path = path(dir);
    let file = match disk.open(&path, OpenMode::CreateNew) {
        // By an attempt before this one, which found no room for its content.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            disk.open(&path, OpenMode::Write).map_err(Error::io("open", &path))?
        }
        other => other.map_err(Error::io("create", &path))?,
    };
    file.write_all_at(&encode(id), 0).map_err(Error::io("write", &path))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_format_1_stay_readable() {
        let id = TopicPartition { topic: TopicId([0xab; 16]), partition: 7 };
        let mut kept = b"TLOGPART\0\0\0\x01".to_vec();
        kept.extend([0xab; 16]);
        kept.extend([0, 0, 0, 7]);
        kept.extend(crc32c::crc32c(&kept).to_be_bytes());
        assert_eq!(encode(id).as_slice(), kept);
        assert_eq!(decode(&kept), Meta::Of(id));
    }

    #[test]
    fn damaged_short_and_newer_files_are_not_believed() {
        let id = TopicPartition { topic: TopicId([1; 16]), partition: 0 };
        let good = encode(id);
        for length in 0..good.len() {
            assert_eq!(decode(&good[..length]), Meta::Unknown(MetaFault::Damaged));
        }
        for at in (0..8).chain(12..good.len()) {
            let mut bad = good;
            bad[at] ^= 1;
            assert_eq!(decode(&bad), Meta::Unknown(MetaFault::Damaged), "byte {at}");
        }
        let mut newer = good;
        newer[11] = 9;
        assert_eq!(decode(&newer), Meta::Unknown(MetaFault::Newer(9)));
    }
}

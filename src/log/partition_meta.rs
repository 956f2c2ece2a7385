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
/// Magic, format, topic id, partition, checksum.
const FIELDS: [std::ops::Range<usize>; 5] = [0..8, 8..12, 12..28, 28..32, 32..FILE_BYTES];

/// What the file of a directory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meta {
    Of(TopicPartition),
    Unknown(MetaFault),
}

/// Whose directory it is, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It is not there, or nothing of a log is in it.
    Nobody,
    /// As the directory itself says.
    Partition(TopicPartition),
    /// There are segments, and nothing says whose.
    Unknown,
}

/// Looks whose directory `dir` is.
///
/// # Errors
/// [`Error::Io`].
pub fn owner_of(disk: &dyn Disk, dir: &Path) -> Result<Owner, Error> {
    let names = match disk.list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Owner::Nobody),
        Err(error) => return Err(Error::io("list", dir)(error)),
    };
    match read(disk, dir)? {
        Meta::Of(id) => Ok(Owner::Partition(id)),
        Meta::Unknown(_) if names.iter().any(|name| name.ends_with(".log")) => Ok(Owner::Unknown),
        Meta::Unknown(_) => Ok(Owner::Nobody),
    }
}

/// Removes a partition's directory, what says whose it is last: where this is cut short, that can still be told. Not durable.
///
/// # Errors
/// [`Error::Io`]; any part may then be gone.
pub fn remove_dir(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    let names = match disk.list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("list", dir)(error)),
    };
    let last = path(dir);
    for file in names.iter().map(|name| dir.join(name)).filter(|file| *file != last) {
        disk.remove_file(&file).map_err(Error::io("remove", &file))?;
    }
    disk.remove_dir_all(dir).map_err(Error::io("remove", dir))
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

/// Writes the file anew where it is surely that of `id` and damaged in one of its fields alone: the others, the checksum
/// among them, say all that the one did. Whether it is.
///
/// # Errors
/// [`Error::Io`] where it cannot be read. That it cannot be written is only logged: what it says is known all the same.
pub(super) fn restore(disk: &dyn Disk, dir: &Path, id: TopicPartition) -> Result<bool, Error> {
    let (path, right) = (path(dir), encode(id));
    let found = match disk.read_all(&path, FILE_BYTES as u64) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::NotFound) => {
            return Ok(false);
        }
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    if !differs_in_one_field(&found, &right) {
        return Ok(false);
    }
    match disk.replace(&path, &right) {
        Ok(()) => {
            tracing::warn!(path = %path.display(), "a damaged file was put right from what the checkpoint says of its partition; look at the disk");
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a damaged file could not be put right; what it should say is known");
        }
    }
    Ok(true)
}

fn differs_in_one_field(found: &[u8], right: &[u8; FILE_BYTES]) -> bool {
    let differs =
        |field: &std::ops::Range<usize>| found.get(field.clone()) != right.get(field.clone());
    found.len() == FILE_BYTES && FIELDS.iter().filter(|field| differs(field)).count() <= 1
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
    fn one_wrong_field_is_told_from_the_others_and_no_other_file_is_taken_for_it() {
        let id = |topic, partition| TopicPartition { topic: TopicId([topic; 16]), partition };
        let right = encode(id(1, 0));
        for field in FIELDS {
            let mut bad = right;
            bad[field].fill(0x5a);
            assert!(differs_in_one_field(&bad, &right));
        }
        let mut two = right;
        (two[3], two[13]) = (0, 0);
        let others = [encode(id(1, 1)), encode(id(2, 0)), two, [0; FILE_BYTES]];
        assert!(others.iter().all(|other| !differs_in_one_field(other, &right)));
        assert!(!differs_in_one_field(&right[..FILE_BYTES - 1], &right));
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

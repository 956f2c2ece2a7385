//! `compaction.meta`: how far a log was compacted. Drawn in [`crate::log`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::Disk;
use crate::log::error::Error;
use crate::types::Offset;

const MAGIC: [u8; 8] = *b"TLOGCMPT";
const FORMAT: u32 = 1;
const BYTES: usize = 24;

/// The file in a partition's directory.
#[derive(Debug, Clone)]
pub struct Position {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Position {
    pub(in crate::log) fn of(disk: &Arc<dyn Disk>, dir: &Path) -> Self {
        Self { disk: Arc::clone(disk), path: dir.join("compaction.meta") }
    }

    /// The offset below which everything was compacted; 0 where there is no file that can be believed: then the next pass
    /// begins at the front, which costs time and changes nothing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(&self) -> Result<Offset, Error> {
        match self.disk.read_all(&self.path, BYTES as u64) {
            Ok(bytes) => Ok(decode(&bytes).unwrap_or(0)),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) =>
            {
                Ok(0)
            }
            Err(error) => Err(Error::io("read", &self.path)(error)),
        }
    }

    /// Durable on return. What a pass left is to be in place before: a deletion below may go with the next one.
    ///
    /// # Errors
    /// [`Error::Io`]; the old position then still stands, or the new one does.
    pub fn write(&self, clean_upto: Offset) -> Result<(), Error> {
        self.disk.replace(&self.path, &encode(clean_upto)).map_err(Error::io("write", &self.path))
    }
}

fn encode(clean_upto: Offset) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT.to_be_bytes());
    bytes.extend(clean_upto.to_be_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
    bytes
}

/// None for what is damaged, and for another format.
fn decode(bytes: &[u8]) -> Option<Offset> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    let (format, offset) = body.strip_prefix(&MAGIC)?.split_first_chunk::<4>()?;
    let offset = i64::from_be_bytes(offset.try_into().ok()?);
    let is_right = crc32c::crc32c(body) == u32::from_be_bytes(*crc)
        && u32::from_be_bytes(*format) == FORMAT
        && offset >= 0;
    is_right.then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FileDisk;

    #[test]
    fn the_bytes_of_format_1_stay_readable_and_wrong_ones_count_as_none() {
        let temp = tempfile::tempdir().unwrap();
        let disk = Arc::new(FileDisk) as Arc<dyn Disk>;
        let position = Position::of(&disk, temp.path());
        assert_eq!(position.read().unwrap(), 0);
        position.write(7).unwrap();
        position.write(0x0102).unwrap();
        assert_eq!(position.read().unwrap(), 0x0102);
        let bytes = disk.read_all(&position.path, 100).unwrap();
        let mut kept = b"TLOGCMPT\0\0\0\x01\0\0\0\0\0\0\x01\x02".to_vec();
        kept.extend(crc32c::crc32c(&kept).to_be_bytes());
        assert_eq!(bytes, kept);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            disk.replace(&position.path, &flipped).unwrap();
            assert_eq!(position.read().unwrap(), 0, "bit {bit}");
        }
        disk.replace(&position.path, &[0; 30]).unwrap();
        assert_eq!(position.read().unwrap(), 0);
    }
}

//! Small files that are replaced as a whole: magic, format, length and CRC around their content.

use std::io;
use std::path::Path;

use crate::disk::Disk;

/// Newer formats are refused.
pub(super) const FORMAT: u16 = 1;

const HEADER_BYTES: usize = 16;

/// What is wrong with a framed file.
#[derive(Debug)]
pub(super) enum Damage {
    Io(io::Error),
    /// Nobody knows what the file holds on disk.
    Sync(io::Error),
    Corrupt(String),
}

/// Puts `content` in place of the file at `path`, durably.
pub(super) fn write(
    disk: &dyn Disk,
    path: &Path,
    magic: [u8; 4],
    content: &[u8],
) -> io::Result<()> {
    disk.replace(path, &encode(magic, content)?)
}

/// Content of the file at `path`, `None` when there is no such file.
pub(super) fn read(
    disk: &dyn Disk,
    path: &Path,
    magic: [u8; 4],
    limit: usize,
) -> Result<Option<Vec<u8>>, Damage> {
    match disk.read_all(path, (HEADER_BYTES + limit) as u64) {
        Ok(bytes) => decode(magic, bytes).map(Some).map_err(Damage::Corrupt),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(Damage::Corrupt(error.to_string()))
        }
        Err(error) => Err(Damage::Io(error)),
    }
}

fn encode(magic: [u8; 4], content: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(content.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + content.len());
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(content).to_le_bytes());
    bytes.extend_from_slice(content);
    Ok(bytes)
}

fn decode(magic: [u8; 4], mut bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let header = bytes.first_chunk::<HEADER_BYTES>().ok_or("shorter than its header")?;
    let [m0, m1, m2, m3, f0, f1, z0, z1, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    if [m0, m1, m2, m3] != magic {
        return Err("it does not begin as a file of its kind".to_owned());
    }
    check_format(u16::from_le_bytes([f0, f1]))?;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let crc = u32::from_le_bytes([c0, c1, c2, c3]);
    let content = bytes.split_off(HEADER_BYTES);
    if [z0, z1] != [0; 2] || content.len() != length || crc32c::crc32c(&content) != crc {
        return Err("its checksum does not fit its content".to_owned());
    }
    Ok(content)
}

/// Refuses formats that this program does not know.
pub(super) fn check_format(format: u16) -> Result<(), String> {
    if format == FORMAT {
        return Ok(());
    }
    Err(format!("it has format {format} and this program knows {FORMAT}; use a newer program"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_survives_and_every_flipped_bit_is_seen() {
        let whole = encode(*b"TEST", b"content").unwrap();
        assert_eq!(decode(*b"TEST", whole.clone()), Ok(b"content".to_vec()));
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(*b"TEST", flipped).is_err(), "bit {bit}");
        }
        for cut in 0..whole.len() {
            assert!(decode(*b"TEST", whole[..cut].to_vec()).is_err());
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let mut whole = encode(*b"TEST", b"").unwrap();
        whole[4] = 2;
        assert!(decode(*b"TEST", whole).unwrap_err().contains("use a newer program"));
    }
}

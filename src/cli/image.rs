//! A disk image being rebuilt: a sparse file under another name until it is whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::failure::{Exit, Failure, file_failure};
use crate::client::BlockTarget;
use crate::disk::{Disk as _, FileDisk};

static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// The file `OUT.partial`, which becomes `OUT` by [`Image::finish`].
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    out: PathBuf,
    partial: PathBuf,
    /// Nothing was written at or above.
    written_end: u64,
    /// Whether the file system can free a range.
    can_punch: bool,
}

impl Image {
    /// An empty one; what an earlier attempt left is dropped.
    pub(super) fn create(out: &Path) -> Result<Self, Failure> {
        let mut partial = out.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        check_regular(&partial)?;
        let file = File::create(&partial).map_err(file_failure("create", &partial))?;
        Ok(Self { file, out: out.to_owned(), partial, written_end: 0, can_punch: true })
    }

    /// Where it is until it is whole.
    pub(super) fn partial(&self) -> &Path {
        &self.partial
    }

    /// Gives it its length and its name, durably.
    pub(super) fn finish(self, size: u64) -> Result<(), Failure> {
        self.file
            .set_len(size)
            .and_then(|()| self.file.sync_all())
            .map_err(file_failure("finish", &self.partial))?;
        let dir = match self.out.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        FileDisk
            .rename(&self.partial, &self.out)
            .and_then(|()| FileDisk.sync_dir(dir))
            .map_err(file_failure("rename to", &self.out))
    }

    /// Removes it; what stands under its final name stays.
    pub(super) fn discard(self) -> Result<(), Failure> {
        std::fs::remove_file(&self.partial).map_err(file_failure("remove", &self.partial))
    }

    fn write_zeroes(&self, mut start: u64, end: u64) -> io::Result<()> {
        while start < end {
            let bytes = ZEROES.len().min(usize::try_from(end - start).unwrap_or(usize::MAX));
            self.file.write_all_at(&ZEROES[..bytes], start)?;
            start += bytes as u64;
        }
        Ok(())
    }
}

impl BlockTarget for Image {
    fn write_at(&mut self, start: u64, data: &[u8]) -> io::Result<()> {
        if is_zero(data) {
            return self.zero_at(start, data.len() as u64);
        }
        self.file.write_all_at(data, start)?;
        self.written_end = self.written_end.max(start.saturating_add(data.len() as u64));
        Ok(())
    }

    fn zero_at(&mut self, start: u64, bytes: u64) -> io::Result<()> {
        // What was never written is a hole already.
        let end = start.saturating_add(bytes).min(self.written_end);
        if start >= end {
            return Ok(());
        }
        if self.can_punch {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match fallocate(&self.file, flags, start, end - start) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::OPNOTSUPP) => self.can_punch = false,
                Err(error) => return Err(error.into()),
            }
        }
        self.write_zeroes(start, end)
    }
}

/// Whether all bytes are 0.
pub(super) fn is_zero(data: &[u8]) -> bool {
    let (words, rest) = data.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Bytes with an optional unit: `10G`, `512 MiB`.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => 64,
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1_u64.checked_shl(shift)?))
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(|| {
            format!("`{text}` is no size: bytes are needed, or K, M, G or T behind them")
        })
}

/// Refuses to write over what is there, and to replace what is no file: a device would become one.
pub(super) fn check_free(out: &Path, force: bool) -> Result<(), Failure> {
    check_regular(out)?;
    if !force && out.exists() {
        let message = format!("{} exists; give --force to replace it", out.display());
        return Err(Failure::new(Exit::Error, message));
    }
    Ok(())
}

/// Refuses what is there and no regular file: a directory, a device, a link.
fn check_regular(path: &Path) -> Result<(), Failure> {
    match path.symlink_metadata() {
        Ok(found) if !found.is_file() => {
            let message = format!(
                "{} is no regular file: name a file to restore to; for a device, copy that file there afterwards",
                path.display()
            );
            Err(Failure::new(Exit::Error, message))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(file_failure("look at", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn an_image_appears_whole_and_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("disk.img");
        for can_punch in [true, false] {
            let mut image = Image::create(&out).unwrap();
            image.can_punch = can_punch;
            image.write_at(1 << 20, &[7; 8192]).unwrap();
            image.write_at(4 << 20, &[0; 4096]).unwrap();
            image.zero_at((1 << 20) + 100, 4096).unwrap();
            image.zero_at(8 << 20, 1 << 40).unwrap();
            assert!(can_punch || !image.can_punch);
            assert!(image.partial().exists());
            image.finish(16 << 20).unwrap();
            let bytes = std::fs::read(&out).unwrap();
            assert_eq!(bytes.len(), 16 << 20);
            let mut expected = vec![0; 16 << 20];
            expected[1 << 20..(1 << 20) + 8192].fill(7);
            expected[(1 << 20) + 100..(1 << 20) + 4196].fill(0);
            assert!(bytes == expected);
            assert!(out.metadata().unwrap().blocks() * 512 < 1 << 20);
            assert!(check_free(&out, false).is_err());
            check_free(&out, true).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_regular_file_is_not_replaced_even_by_force() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/nowhere", &link).unwrap();
        for path in [Path::new("/dev/null"), dir.path(), &link] {
            let refused = check_free(path, true).unwrap_err();
            assert!(refused.message.contains("no regular file"), "{}", refused.message);
        }
        let out = dir.path().join("out");
        std::fs::create_dir(dir.path().join("out.partial")).unwrap();
        assert!(Image::create(&out).unwrap_err().message.contains("no regular file"));
    }

    #[test]
    fn a_discarded_image_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("disk.img");
        std::fs::write(&out, b"good").unwrap();
        let mut image = Image::create(&out).unwrap();
        image.write_at(0, &[7; 512]).unwrap();
        image.discard().unwrap();
        assert_eq!(std::fs::read(&out).unwrap(), b"good");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn zeroes_are_seen_at_every_length() {
        for length in [0, 1, 15, 16, 17, 4096] {
            let mut data = vec![0; length];
            assert!(is_zero(&data));
            if let Some(last) = data.last_mut() {
                *last = 1;
                assert!(!is_zero(&data));
            }
        }
    }

    #[test]
    fn sizes_as_people_write_them() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("10G"), Ok(10 << 30));
        assert_eq!(parse_bytes("512 MiB"), Ok(512 << 20));
        for text in ["", "G", "-1", "10X", "99999999999999999999", "9999999T"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}

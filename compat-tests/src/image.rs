//! Disk images for vdisks.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::random::Random;
use crate::tools::{Tool, run};

/// Bytes of a block.
const BLOCK: usize = 4096;
/// A generated file is shorter.
const FILE_BYTES: u64 = 4 << 20;
/// What of the project goes into an image.
const SOURCES: [&str; 6] =
    ["README.md", "Cargo.lock", "src", "docker", "compat-tests/src", "compat-tests/vectors"];

/// An image in a file, and what the log of a vdisk with its content must look like.
#[derive(Debug, Clone)]
pub struct DiskImage {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Blocks of 4,096 bytes that are not zero. A shorter last one counts.
    pub written_blocks: u64,
    /// Whether the last block is zero, and whole.
    pub ends_in_zeroes: bool,
    /// Of the whole file.
    pub sha256: [u8; 32],
}

impl DiskImage {
    /// Makes an ext4 image of `mebibytes` in `dir`, with the project's sources and at least `content` bytes of generated
    /// files.
    ///
    /// # Errors
    /// When mke2fs is not installed or fails.
    pub fn ext4(dir: &Path, mebibytes: u64, content: u64, random: &mut Random) -> Result<Self> {
        let files = dir.join("files");
        std::fs::create_dir_all(files.join("generated"))?;
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let sources = SOURCES.map(|source| root.join(source));
        run(Command::new("cp").arg("-R").args(sources).arg(&files), b"")?;
        let mut left = content;
        let mut number = 0;
        while left > 0 {
            let length = (random.below(FILE_BYTES) + 1).min(left);
            let content = random.bytes(usize::try_from(length)?);
            std::fs::write(files.join(format!("generated/{number}")), content)?;
            left -= length;
            number += 1;
        }
        let path = dir.join("disk.img");
        let mut mke2fs = Tool::Mke2fs.command()?;
        mke2fs.args(["-q", "-F", "-t", "ext4", "-d"]).arg(&files).arg(&path);
        run(mke2fs.arg(format!("{mebibytes}M")), b"")?;
        std::fs::remove_dir_all(&files)?;
        Self::of(&path)
    }

    /// Looks at what is in a file.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn of(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let (mut written_blocks, mut ends_in_zeroes) = (0, false);
        let mut hash = Sha256::new();
        let mut chunk = vec![0; 1024 * BLOCK];
        loop {
            let read = read_full(&mut file, &mut chunk)?;
            if read == 0 {
                break;
            }
            hash.update(&chunk[..read]);
            for block in chunk[..read].chunks(BLOCK) {
                ends_in_zeroes = block == [0; BLOCK];
                written_blocks += u64::from(!ends_in_zeroes);
            }
        }
        let sha256 = hash.finalize().into();
        Ok(Self { path: path.to_owned(), bytes, written_blocks, ends_in_zeroes, sha256 })
    }

    /// The same with the last block changed, in a file beside it.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn with_last_block(&self, name: &str, content: &[u8; BLOCK]) -> Result<Self> {
        let path = self.copy(name)?;
        let last = self.bytes.checked_sub(BLOCK as u64).context("an image has a block")?;
        File::options().write(true).open(&path)?.write_all_at(content, last)?;
        Self::of(&path)
    }

    /// The same with something behind it, in a file beside it.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn followed_by(&self, name: &str, content: &[u8]) -> Result<Self> {
        let path = self.copy(name)?;
        File::options().write(true).open(&path)?.write_all_at(content, self.bytes)?;
        Self::of(&path)
    }

    fn copy(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.with_file_name(name);
        std::fs::copy(&self.path, &path)?;
        Ok(path)
    }

    /// How many records the log of a fresh import has.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.written_blocks + u64::from(self.ends_in_zeroes)
    }

    /// Asks e2fsck whether the file system is sound.
    ///
    /// # Errors
    /// With its words when it is not.
    pub fn check(&self) -> Result<()> {
        run(Tool::E2fsck.command()?.arg("-fn").arg(&self.path), b"").map(drop)
    }
}

/// Fills `chunk` as far as the file reaches.
fn read_full(file: &mut File, chunk: &mut [u8]) -> Result<usize> {
    let mut read = 0;
    while read < chunk.len() {
        match file.read(&mut chunk[read..])? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

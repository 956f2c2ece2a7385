//! A directory of files that an input damages.

use std::path::{Path, PathBuf};

/// Names and contents, in order.
pub type Files = Vec<(String, Vec<u8>)>;

/// A directory that is in memory where the system has that: what is written to it is synced thousands of times.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The files of a directory.
pub fn read(dir: &Path) -> Files {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap());
    let mut files: Files = files
        .map(|file| {
            let name = file.file_name().into_string().unwrap();
            (name, std::fs::read(file.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// What an input makes of a sample.
pub struct Damaged {
    /// From 0 to 127, for whatever the target wants.
    pub how: u8,
    pub files: Files,
    /// A whole file was replaced: it may be right in itself, and another.
    pub replaced: bool,
    /// How many bytes were changed at most.
    pub edits: usize,
}

/// An input is a byte with seven bits of `how`. Behind it come edits (three bytes for the place, one to be mixed in) or, where
/// the eighth bit is set, which file is replaced and its bytes.
pub fn damage(sample: &Files, input: &[u8]) -> Option<Damaged> {
    let (how, input) = input.split_first()?;
    let (mut files, count) = (sample.clone(), sample.len());
    let replaced = how & 0x80 != 0;
    let mut edits = 0;
    if !replaced {
        for edit in input.chunks_exact(4) {
            let place = u32::from_be_bytes([0, edit[0], edit[1], edit[2]]) as usize;
            let (_, bytes) = &mut files[place % count];
            let at = place / count % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= edit[3];
                edits += 1;
            }
        }
    } else if let Some((file, input)) = input.split_first() {
        files[usize::from(*file) % count].1 = input.to_vec();
    }
    Some(Damaged { how: how & 0x7f, files, replaced, edits })
}

/// Puts the files into a directory of their own.
pub fn write(dir: &Path, files: &Files) -> PathBuf {
    let dir = dir.join("damaged-0");
    std::fs::remove_dir_all(&dir).ok();
    std::fs::create_dir(&dir).unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    dir
}

//! What an operator may choose.

/// How the commit log keeps its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// A commit that would make its file longer than this goes to a new one; bytes. A commit that is longer by itself
    /// gets a file of its own. Default: 64 MiB.
    pub file_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { file_bytes: 64 * 1024 * 1024 }
    }
}

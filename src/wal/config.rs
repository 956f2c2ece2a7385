//! What an operator may choose.

/// How the commit log keeps its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// A commit that would make its file longer than this goes to another one; bytes. A commit that is longer by
    /// itself gets a file of its own. Default: 64 MiB.
    pub file_bytes: u64,
    /// Files of up to `file_bytes` that may wait for their use, beside those that hold commits; 0: none. Default: 6,
    /// which is what a checkpoint frees at once (256 MiB, four files) and two for what is written until the next one
    /// frees more. With fewer each round would begin with growing files.
    pub spare_files: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { file_bytes: 64 * 1024 * 1024, spare_files: 6 }
    }
}

//! A shard server that is a directory, the embedded default. Its layout is drawn on the page of the folder above.
//!
//! ```text
//! store.rs      the calls of a store, run on blocking threads, a few at a time
//! blocking.rs   what they do: fence check, files, errors
//! partition.rs  what is remembered of a partition: locks, subdirectories, joined directory syncs
//! ```
//!
//! A put holds its partition's fence for reading until it is done, so that none lands behind a fence that rose
//! meanwhile. A shard is written under a temporary name, synced and renamed; the sync of its directory is shared with
//! the puts beside it. A shard that would take the last room of the data directory's file system is refused: it is sent again
//! when there is more. What a former process left visible but unsynced is synced before anything is concluded from it.

mod blocking;
mod partition;
mod store;

pub use store::DirectoryStore;

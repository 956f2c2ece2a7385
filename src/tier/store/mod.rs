//! The door to one shard server. A store knows bytes and fences; what the bytes mean, and whether they are genuine, is
//! the business of the layers above.
//!
//! # What every store keeps
//!
//! `P` is `<topic id, 32 hex digits>-<partition>`; `N` is a fragment number as 16 hex digits. The names are those of the
//! redis store; the others hold the same things.
//!
//! ```text
//! t1:meta               hash   field `record`: what set_cluster_meta stored first, and never anything else
//! t1:topics             hash   topic id (32 hex) -> topic record
//! t1:P:f                hash   fence: `epoch` (decimal), `dir` (32 hex), `at` (ms since 1970), `by` (address)
//! t1:P:m                hash   N -> manifest entry
//! t1:P:h                list   newest first, at most 5: N of the head record, then its bytes
//! t1:P:s:N:G:I          string the shard; generation G and index I in decimal
//! ```
//!
//! Nothing has a time to live. Nothing is found by SCAN: topic records give every `P`, the manifest gives every `N`.
//!
//! # The directory store
//!
//! ```text
//! <root>/lock                    flock: one process at a time
//! <root>/id                      framed: 16 random bytes, written once; the server's run id
//! <root>/meta                    framed: the cluster record
//! <root>/topics/<topic id>       framed: a topic record
//! <root>/p/<P>/fence             framed: epoch i32 | data directory id 16 | raised at i64 | address
//! <root>/p/<P>/manifest          append-only, see below
//! <root>/p/<P>/s/<B>/N:G:I       the shard's bytes as they are; B = number / 4096 as 13 hex digits
//! <root>/p/<P>/s/<B>/N:G:I.tmp   a shard being written; removed when the subdirectory is next opened for writing
//!
//! framed     magic, 4 bytes | format u16 | 0 u16 | length u32 | CRC-32C of the content u32 | content
//! manifest   "TLSM" | format u16 | 0 u16 | 0 u64, then a record per put:
//!            "TLSR" | CRC-32C u32 of all that follows | head u32 (0 or 1) | entry length u32 | head length u32 |
//!            number u64 | head number u64 | entry | head
//! ```
//!
//! All integers are little-endian. Among entries of one number the last one stands, as in a hash; of the heads the five
//! last stand, as in the list. Each record is synced before the next is written, so a bad one at the end is a torn write
//! that nobody was told of, and is cut; a bad one with a sound one behind it is damage, and the partition answers
//! `Corrupt` until it is repaired.
//!
//! # What a put promises
//!
//! * **The fence is checked with every put, in one step with it**: refused when the writer's current epoch is below the
//!   fence, or equal to it under another data directory. A put above the fence raises it (`at` 0 and `by` empty: a fence
//!   lost with a server comes back that way; only a claim knows its time and address).
//! * **A shard never changes under its name**: absent, it is stored; the same bytes again are a success; other bytes are
//!   `Conflict`.
//! * **Every operation may be sent again** with the same arguments. After `Timeout` or `Unreachable` the outcome is
//!   unknown, and sending again settles it.
//! * Durable on return as far as the server is: a directory has synced file and directory entry, redis follows its
//!   own `appendfsync`, memory forgets.
//! * A head is taken when its number is above the newest one's; others change nothing.
//!
//! # A server that is away
//!
//! Making a store does no IO. A server that is down, or a directory that cannot be opened, is an error of each operation;
//! it works as soon as the server does. After a failed sync a directory store refuses every write until it is opened
//! anew, since the page cache may show what the disk does not have.
//!
//! [`audit`] judges what servers report of themselves; [`addresses`] reads `-storage-addresses`. `conformance` is the
//! suite that every store passes; `faulty` wraps a store for the tests of the layers above.

pub mod addresses;
pub mod audit;
mod directory;
mod error;
mod framed;
mod manifest_file;
mod memory;
mod read_only;
mod redis;
mod shard_store;

#[cfg(test)]
mod conformance;
#[cfg(test)]
pub mod faulty;
#[cfg(test)]
pub mod redis_process;

pub use directory::DirectoryStore;
pub use error::StoreError;
pub use memory::MemoryStore;
pub use read_only::ReadOnlyStore;
pub use redis::{RedisConfig, RedisStore};
pub use shard_store::{
    Fence, HEADS, Head, Numbered, Persistence, Reply, Role, ServerReport, ShardName, ShardStore,
    Standing, Writer,
};

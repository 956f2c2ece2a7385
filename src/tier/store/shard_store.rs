//! What every shard server can do.

use std::fmt;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::StoreError;
use crate::types::{DataDirId, LeaderEpoch, TopicId, TopicPartition};

/// Head records that are kept per partition.
pub const HEADS: usize = 5;

/// The answer of a store, awaited.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A fragment number and the bytes stored under it.
pub type Numbered = (u64, Bytes);

/// A head record and the fragment number that orders it.
pub type Head = (u64, Bytes);

/// Who writes: its epoch of the partition as of now (not that of the records), and its data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    /// The writer's current epoch of the partition.
    pub epoch: LeaderEpoch,
    /// The writer's data directory.
    pub data_dir: DataDirId,
}

/// How a writer stands to a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Below it, or equal under another data directory: refused.
    Fenced,
    /// It is the fence's own.
    Owner,
    /// Above it, or there is none: the fence rises.
    Above,
}

impl Writer {
    /// Compares with the fence that stands.
    #[must_use]
    pub fn against(&self, fence: Option<&Fence>) -> Standing {
        match fence {
            None => Standing::Above,
            Some(fence) if self.epoch > fence.epoch => Standing::Above,
            Some(fence) if self.epoch == fence.epoch && self.data_dir == fence.data_dir => {
                Standing::Owner
            }
            Some(_) => Standing::Fenced,
        }
    }
}

/// The epoch below which a partition's writes are refused, and who raised it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Writers below are refused, and others at it.
    pub epoch: LeaderEpoch,
    /// Whose it is.
    pub data_dir: DataDirId,
    /// When a claim raised it, in milliseconds since 1970 by the claimer's clock; 0 when a put did.
    pub raised_at_ms: i64,
    /// Where the claimer listens; empty when a put raised it. At most
    /// [`TIER_ADDRESS_BYTES`](crate::types::limits::TIER_ADDRESS_BYTES).
    pub address: String,
}

impl Fence {
    /// The fence that a put above the old one leaves.
    #[must_use]
    pub fn raised_by_put(writer: Writer) -> Self {
        Self {
            epoch: writer.epoch,
            data_dir: writer.data_dir,
            raised_at_ms: 0,
            address: String::new(),
        }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "data directory {} at epoch {}", self.data_dir, self.epoch)?;
        if !self.address.is_empty() {
            write!(f, " ({}, at {} ms)", self.address, self.raised_at_ms)?;
        }
        Ok(())
    }
}

/// Name of a shard. Displayed as its key: `t1:P:s:<number, 16 hex>:<generation>:<index>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardName {
    /// Whose fragment.
    pub partition: TopicPartition,
    /// Number of the fragment.
    pub number: u64,
    /// Counts the seals of the fragment under new keys.
    pub generation: u32,
    /// Place among the fragment's shards, data shards first.
    pub index: u8,
}

impl fmt::Display for ShardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, number, generation, index } = self;
        write!(f, "t1:{partition}:s:{number:016x}:{generation}:{index}")
    }
}

/// Whether a server takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It does.
    Primary,
    /// It follows another server.
    Replica,
}

/// What a server does so that it holds its data after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Persistence {
    /// Every put is synced before it is answered.
    Synced,
    /// Nothing at all.
    None,
    /// As redis is configured.
    Redis {
        /// `aof_enabled`.
        append_only_file: bool,
        /// Whether snapshots are configured; absent where the server does not let it be asked.
        snapshots: Option<bool>,
        /// Which of the last writes of file or snapshot failed, by the name of its INFO field; empty when none.
        failed: Vec<String>,
    },
}

/// What a server says of itself, for the [audit](super::audit).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReport {
    /// The same behind two names: one server under both. A new one under the same name: restarted or replaced.
    pub run_id: String,
    /// What happens at the memory limit; absent for a store that evicts nothing.
    pub eviction_policy: Option<String>,
    /// Whether it takes writes.
    pub role: Role,
    /// Still reading its files after a start.
    pub loading: bool,
    /// Part of a redis cluster.
    pub cluster_enabled: bool,
    /// What survives a restart.
    pub persistence: Persistence,
    /// Bytes in use, where known.
    pub used_bytes: Option<u64>,
    /// Bytes that may be used, where there is a limit.
    pub max_bytes: Option<u64>,
}

/// One shard server. The module page says what a put promises; every operation may be sent again.
///
/// # Errors
/// Every operation: [`StoreError::Unreachable`], [`StoreError::Timeout`], [`StoreError::Refused`] and
/// [`StoreError::Corrupt`]; what is particular to one is said there.
///
/// # Cancel safety
/// A dropped future leaves the outcome unknown, as a timeout does. Nothing is left half done.
pub trait ShardStore: Send + Sync + fmt::Debug {
    /// Address or path, for messages and as the server's name.
    fn name(&self) -> &str;

    /// Asks what the server says of itself.
    fn inspect(&self) -> Reply<'_, ServerReport>;

    /// The cluster record, if one was set.
    fn cluster_meta(&self) -> Reply<'_, Option<Bytes>>;

    /// Sets the cluster record unless there is one, and returns the one that stands. At most
    /// [`TIER_RECORD_BYTES`](crate::types::limits::TIER_RECORD_BYTES).
    fn set_cluster_meta(&self, record: Bytes) -> Reply<'_, Bytes>;

    /// Sets a topic's record, in place of an older one. At most
    /// [`TIER_RECORD_BYTES`](crate::types::limits::TIER_RECORD_BYTES).
    fn put_topic(&self, topic: TopicId, record: Bytes) -> Reply<'_, ()>;

    /// All topic records, by topic id.
    fn topics(&self) -> Reply<'_, Vec<(TopicId, Bytes)>>;

    /// The partition's fence, if one was ever raised.
    fn fence(&self, partition: TopicPartition) -> Reply<'_, Option<Fence>>;

    /// Raises the fence to the writer. Nothing changes when it is the writer's already.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when a higher epoch stands, or the same one of another data directory.
    fn raise_fence(
        &self,
        partition: TopicPartition,
        writer: Writer,
        now_ms: i64,
        address: String,
    ) -> Reply<'_, ()>;

    /// Stores a shard. At most [`TIER_SHARD_BYTES`](crate::types::limits::TIER_SHARD_BYTES).
    ///
    /// # Errors
    /// [`StoreError::Fenced`]; [`StoreError::Conflict`] when the name holds other bytes.
    fn put_shard(&self, name: ShardName, writer: Writer, shard: Bytes) -> Reply<'_, ()>;

    /// The shard's bytes as stored, if there are any.
    fn get_shard(&self, name: ShardName) -> Reply<'_, Option<Bytes>>;

    /// Removes a shard, if there is one. Its entry says before that it goes, which is where the fence is checked.
    fn remove_shard(&self, name: ShardName) -> Reply<'_, ()>;

    /// Stores a manifest entry in place of an older one of the same number, and with it a head record, which is taken
    /// when its number is above the newest head's. Both at most
    /// [`TIER_RECORD_BYTES`](crate::types::limits::TIER_RECORD_BYTES).
    ///
    /// # Errors
    /// [`StoreError::Fenced`].
    fn put_entry(
        &self,
        partition: TopicPartition,
        writer: Writer,
        number: u64,
        entry: Bytes,
        head: Option<Head>,
    ) -> Reply<'_, ()>;

    /// All manifest entries, by number.
    fn entries(&self, partition: TopicPartition) -> Reply<'_, Vec<Numbered>>;

    /// The head records, newest first, [`HEADS`] at most.
    fn heads(&self, partition: TopicPartition) -> Reply<'_, Vec<Head>>;

    /// Removes everything of a deleted topic's partition: shards of the generations below `generations` of every
    /// number in the manifest, then fence, heads and manifest. Broken off, it is finished by sending it again.
    fn remove_partition(&self, partition: TopicPartition, generations: u32) -> Reply<'_, ()>;
}

/// Takes a head into the list, newest first, as the module page says.
pub(super) fn take_head(heads: &mut Vec<Head>, head: Head) -> bool {
    if heads.first().is_some_and(|(newest, _)| head.0 <= *newest) {
        return false;
    }
    heads.insert(0, head);
    heads.truncate(HEADS);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(epoch: i32, dir: u8) -> Fence {
        Fence::raised_by_put(writer(epoch, dir))
    }

    fn writer(epoch: i32, dir: u8) -> Writer {
        Writer { epoch: LeaderEpoch(epoch), data_dir: DataDirId([dir; 16]) }
    }

    #[test]
    fn the_epoch_decides_and_then_the_data_directory() {
        assert_eq!(writer(0, 1).against(None), Standing::Above);
        assert_eq!(writer(4, 1).against(Some(&fence(5, 1))), Standing::Fenced);
        assert_eq!(writer(5, 2).against(Some(&fence(5, 1))), Standing::Fenced);
        assert_eq!(writer(5, 1).against(Some(&fence(5, 1))), Standing::Owner);
        assert_eq!(writer(6, 2).against(Some(&fence(5, 1))), Standing::Above);
    }

    #[test]
    fn a_shard_is_named_by_its_key() {
        let partition = TopicPartition { topic: TopicId([0xab; 16]), partition: 3 };
        let name = ShardName { partition, number: 255, generation: 1, index: 5 };
        let topic = "ab".repeat(16);
        assert_eq!(name.to_string(), format!("t1:{topic}-3:s:00000000000000ff:1:5"));
    }

    #[test]
    fn five_heads_are_kept_and_older_ones_are_not_taken() {
        let mut heads = Vec::new();
        for number in [1, 2, 3, 3, 2, 4, 5, 6, 7] {
            take_head(&mut heads, (number, Bytes::new()));
        }
        assert_eq!(heads.iter().map(|head| head.0).collect::<Vec<_>>(), [7, 6, 5, 4, 3]);
    }
}

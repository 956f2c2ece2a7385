//! Names of keys on a shard server. `P` stands for `<topic id>-<partition>`: topic ids are never reused, names may be.

use crate::types::{DataDirId, TopicPartition};

/// The cluster's identity, set once.
pub const META: &str = "t1:meta";

/// Hash of all topic records by topic id.
pub const TOPICS: &str = "t1:topics";

/// The fence of a partition.
#[must_use]
pub fn fence(partition: TopicPartition) -> String {
    format!("t1:{partition}:f")
}

/// The beat of a broker.
#[must_use]
pub fn beat(data_dir: DataDirId) -> String {
    format!("t1:b:{data_dir}")
}

/// Hash of the manifest entries of a partition by number, see [`number`].
#[must_use]
pub fn manifest(partition: TopicPartition) -> String {
    format!("t1:{partition}:m")
}

/// List of the newest head records of a partition, newest first.
#[must_use]
pub fn heads(partition: TopicPartition) -> String {
    format!("t1:{partition}:h")
}

/// The field of a fragment's number in the hash of entries: 16 hexadecimal digits, so that they sort.
#[must_use]
pub fn number(number: u64) -> String {
    format!("{number:016x}")
}

/// A shard. Generation and index are decimal.
#[must_use]
pub fn shard(partition: TopicPartition, number: u64, generation: u32, index: u8) -> String {
    format!("t1:{partition}:s:{number:016x}:{generation}:{index}")
}

//! What exists and who may write: composes the local log with the tier.
//!
//! ```text
//!   front ends ──append──▶ Partition ──queue──▶ Committer ──one write, one sync──▶ commit log
//!                             │  turn: producer      │ Applier
//!                             │  check, offset       ├──▶ segments (page cache) ──▶ high watermark ──▶ answers, readers
//!                             ▼                      └──▶ Catalogue ──now and then──▶ checkpoint, commit log files freed
//!                          Fetch: local segments, below the local start the tier
//! ```
//!
//! **Where truth lies.** The commit log is the truth above the last checkpoint, checkpoint and segments below it.
//! `catalogue` is the one state machine over commit log entries; the committer feeds it live and `recovery` feeds
//! it at a start, so that the two cannot drift apart.
//!
//! **Invariants.**
//! * `log_start <= local_start <= complete <= shipped <= high_watermark <= log_end`, checked at every move.
//! * The order of a partition is fixed in its turn (one short lock), where offsets are handed out and the batch is
//!   queued; nothing is handed out that is not queued.
//! * A batch is visible when its commit is synced and its segment has it; the high watermark says so.
//! * Nothing is answered before it is durable. A failed write or sync of the commit log ends the process.
//! * A topic's deletion is durable before a file of it is unlinked, and replay never brings it back: entries name the
//!   topic's id. What the tier keeps of it is removed behind the answer; the catalogue remembers the topic until so many
//!   shard servers have its mark that no rebuild brings it back.
//!
//! * Damage of local data that is shipped is read from the tier and put right; other damage is an error that names its
//!   offsets, and what lies around it is served (`reading.rs`).
//! * Records are deleted by an event, too: log start or local start is durable before a segment is unlinked, and recovery
//!   unlinks again what a crash or replay brought back. `retention` says what goes when, `local_log` how much may stay.
//!
//! **A full disk.** Batches and topics are refused while there is room for what was taken in already; what still meets a
//! full disk (commits of deletions and of shipping, segments, indexes, checkpoints, recovery) uses the reserve piece by
//! piece, and when that is used up it waits, unanswered, while reads go on. It recovers by itself. `room.rs` decides,
//! `disk_room.rs` looks and waits, `disk/reserve.rs` holds the room. Want of room that meets a sync is a failed sync.
//!
//! **Compaction.** `cleaner` picks the dirtiest partition that is due; `partition/compaction` says what of it may be
//! compacted (sealed, below the checkpoint, the high watermark and, where it ships, the complete offset) and has
//! `log/compaction` do it.
//!
//! **Scrubbing.** `scrubber` reads sealed segments again in the background, at a bounded rate; what it finds goes the way of
//! what a reader finds.
//!
//! **Recovery.** See `recovery`: cut at the checkpoint, write again what the commit log holds above, sync, new
//! checkpoint, then serve. A partition that cannot be opened is offline: its clients get an error, its files stay as they
//! are, retention, compaction and shipping leave it alone, and what the commit log had of it is kept `aside` until a start
//! can open it.
//!
//! ```text
//! <data-dir>/format.json                   format, identity, cluster            data_dir.rs
//! <data-dir>/meta/checkpoint, .copy        magic TLCK | format u16 | length u64 | JSON | CRC-32C      checkpoint.rs
//! <data-dir>/commitlog/…                   see wal/
//! <data-dir>/left/<topic>-<n>/             of a deleted topic, where it is not certain that the files were its own
//! <data-dir>/reserve/00 … 15               blocks without meaning, 1 % of the file system, 8 to 288 MiB in all
//! <data-dir>/<topic>-<partition>/…         see log/
//! <data-dir>/aside/<topic id>-<partition>/…    what an offline partition is still to get                  aside.rs
//! ```
//!
//! Commit log entries: kind 1, whole record batches of a partition; kind 2, a catalogue event as JSON text; kind 3, the
//! time of the commit (ms since 1970, i64 little-endian).
//!
//! To add a topic option: a row in `topic_config.rs`. A durable fact: a variant of `catalogue::Event` and its line in
//! `apply`. A failure that clients can see: a variant in `error.rs`; the compiler then asks each front end for its code.

mod adopt;
mod applier;
mod aside;
mod broker;
mod catalogue;
mod checkpoint;
mod cleaner;
mod committer;
mod config;
mod data_dir;
mod disk_room;
mod epochs;
mod error;
mod local_log;
mod metrics;
mod partition;
mod reading;
mod recovery;
mod retention;
mod room;
mod scrubber;
mod shipping;
mod topic_config;
mod topics;
mod unshipped;
pub mod vdisk;
pub mod vdisks;

pub use broker::{Adopted, Broker, NewTopic, TopicPlan};
pub use catalogue::{
    AppendMark, ApplyError, Catalogue, DeletedTopic, DeletionReason, EpochStart, Event,
    FragmentHead, FragmentIntent, PartitionState, Run, TopicState,
};
pub use checkpoint::{Checkpoint, CheckpointError, copy_of as checkpoint_copy};
pub use committer::Stopped;
pub use config::Config;
pub use data_dir::DataDir;
pub use disk_room::DiskStatus;
pub use epochs::EpochEnd;
pub use error::{
    AppendError, BlockSizeError, CreateTopicError, DeleteRecordsError, DeleteTopicError, OpenError,
    ProducerIdError, ReadError, VdiskTopicError,
};
pub use local_log::LocalLogUse;
pub use metrics::Metrics;
pub use partition::{AppendResult, Origin, Partition, TimestampedOffset};
pub use reading::{Data, FileRange, ReadWithin};
pub use room::{Look as DiskLook, State as DiskState};
pub use scrubber::ScrubConfig;
pub use topic_config::{
    OptionError, TimestampType, TimestampUnit, TopicOptions, check_option, effective,
};
pub use topics::Topic;

#[cfg(test)]
mod proof;
#[cfg(test)]
mod tests;

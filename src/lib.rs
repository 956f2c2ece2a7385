//! TLog: a Kafka-wire-compatible broker that keeps the transaction logs of virtual disks.
//!
//! # The map
//!
//! Layers are modules; dependencies point down, never sideways, and `tidy.rs` fails the tests on any other edge.
//!
//! ```text
//!  bin ─▶ server (start, stop, config, telemetry)          cli, inspect (operators)      client (library)
//!           │                                                 │                             │
//!           ├─▶ kafka   tlog   admin     front ends           │                             ├─▶ kafka::protocol
//!           │      │      │                                   │                             ├─▶ tlog::protocol
//!           ├──────┴──────┴─▶ broker     topics, partitions, committer, recovery, vdisks    └─▶ record
//!           │                   ├─▶ tier   fragments, shard stores, shipping, rebuilding
//!           │                   ├─▶ log    one partition's segments
//!           │                   └─▶ wal    the commit log of all partitions
//!           └─▶ record (batches as bytes) ─▶ types, clock, task, disk
//! ```
//!
//! | folder | holds | start reading at |
//! |---|---|---|
//! | [`types`] | identities, watermarks, every hard limit | `limits.rs` |
//! | [`disk`] | the one door to files, real and simulated | `mod.rs` |
//! | [`record`] | Kafka's record batches as bytes: check, walk, build; the record of a vdisk | `batch.rs` |
//! | [`wal`] | the commit log: one write, one sync for everything | `mod.rs` draws the frame |
//! | [`log`] | segments in Kafka's file format, indexes, idempotent producers | `log.rs` |
//! | [`tier`] | aggregation, erasure code, encryption, manifest, shard stores | `mod.rs` draws every format |
//! | [`broker`] | what exists and who may write | `partition.rs`, `committer.rs` |
//! | [`kafka`] | the Kafka front end; `protocol/` has no IO | `dispatch.rs` |
//! | [`tlog`] | the TLog front end; `protocol/` has no IO | `session.rs` |
//! | [`admin`] | `/livez`, `/readyz`, `/metrics`, the status page | `service.rs` |
//! | [`config`], [`server`], [`telemetry`] | options, start and stop, logs | `options.rs`, `run.rs` |
//! | [`client`] | library: TLog client, player, small Kafka client | `tlog.rs` |
//! | [`cli`], [`inspect`] | the command `tlog`, one file a subcommand; offline checks | `mod.rs` |
//!
//! # Four walks
//!
//! * **Produce**: `kafka/connection` frames → `protocol/guard` counts → `dispatch` decodes → `api/produce` →
//!   `broker/partition` (producer check, offset) → `committer` → `wal` (one write, one sync) → `applier` → `log` (segment)
//!   → high watermark → the answer. Behind it `tier/shipper` → aggregation → fragment (erasure code, then encryption) →
//!   placement → store → manifest → shipped offset → all shards read back → complete offset.
//! * **TLog block**: `tlog/connection` → `session` → `broker/vdisk` (order by sequence) → partition, then as above. The
//!   append answers *received*; the shipped offset, as `vdisk` sees it move, answers *flushed*.
//! * **Fetch**: `api/fetch` → partition → `log` reader, or below the local start `tier` (manifest → store → fragment
//!   opens).
//! * **Start**: `server` locks the data directory, binds, then `broker/recovery` (checkpoint, commit log over the
//!   segments) or, with an empty data directory, `tier` rebuilds from the shard servers; only then is anyone accepted.
//!
//! # To add
//!
//! | what | where |
//! |---|---|
//! | a Kafka API key or version | `kafka/api/<name>.rs`, one line in `kafka/dispatch.rs`, its rows in `kafka/protocol/requests.rs` |
//! | a TLog message | `tlog/schema`, `tlog/protocol`, then `tlog/session.rs` |
//! | a shard store | `tier/store/<name>`; it passes `conformance.rs` |
//! | an option of the server | a row in `config/options.rs` |
//! | an option of a topic | a row in `broker/topic_config.rs` |
//! | a metric | a field and an event-named method in that layer's `metrics.rs` |
//! | a failure that clients can see | a variant in the layer's `error.rs`; the compiler asks each front end for its code |
//! | a stored field or file | the drawing in that `mod.rs`, a new format number, a kept sample of the old bytes |
//!
//! # Deliberately absent
//!
//! Replication between brokers (redundancy comes from the shards), a second copy of any state beside the log, memory
//! maps of anything that is still written, timers of writing and shipping while idle (what
//! looks after old data, retention and compaction, does look now and then), and every API of Kafka that is not served:
//! those are not advertised, for a stub is taken as a promise.

pub mod admin;
pub mod broker;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod disk;
pub mod inspect;
pub mod kafka;
pub mod log;
pub mod record;
pub mod server;
pub mod task;
pub mod telemetry;
pub mod tier;
pub mod tlog;
pub mod types;
pub mod wal;

#[cfg(test)]
mod tidy;

//! TLog: a Kafka-wire-compatible broker that keeps the transaction logs of virtual disks.

pub mod disk;
pub mod record;
pub mod task;
pub mod types;

//! TLog: a Kafka-wire-compatible broker that keeps the transaction logs of virtual disks.

pub mod admin;
pub mod broker;
pub mod clock;
pub mod config;
pub mod disk;
pub mod kafka;
pub mod log;
pub mod record;
pub mod server;
pub mod task;
pub mod telemetry;
pub mod tlog;
pub mod types;
pub mod wal;

#[cfg(test)]
mod tidy;

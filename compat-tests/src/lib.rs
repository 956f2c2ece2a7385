//! Real processes for tests: the server itself, redis servers, clients that others wrote.
//!
//! * [`Server`] starts a `tlogserver` on free ports, reads where it listens, and ends or restarts it.
//! * [`Redis`] is a redis server of the test's own.
//! * [`run`] and [`Tool`] run a client with an input and a deadline; [`tlog_command`] is the project's own.
//! * [`DiskImage`] is an ext4 image of real files, and what its log must look like.
//! * [`vdisk`] is a client of the TLog wire that does one thing at a time.
//! * [`kafka`] says to a server what no proper client says; [`Random`] makes repeatable choices.
//! * [`wait_until`] waits for a condition. Nothing else waits; a deadline that passes is a failure with the log.
//!
//! Everything a test starts ends with it, also when it panics. All sockets are on 127.0.0.1.

mod image;
pub mod kafka;
mod random;
mod redis;
mod server;
mod tools;
pub mod vdisk;
mod wait;

pub use image::DiskImage;
pub use kafka::kafka_answers;
pub use random::Random;
pub use redis::Redis;
pub use server::{Server, tlog_command};
pub use tools::{Tool, free_port, http_get, run, run_up_to};
pub use vdisk::TlogSocket;
pub use wait::{DEADLINE, wait_until, wait_up_to};

/// A directory that is removed with the value.
///
/// # Panics
/// When the system gives none.
#[must_use]
pub fn temporary_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("tlog-test-").tempdir().expect("a temporary directory")
}

/// Whether the long mode (`compat-tests/run --long`) is on.
#[must_use]
pub fn is_long() -> bool {
    std::env::var_os("TLOG_TEST_LONG").is_some()
}

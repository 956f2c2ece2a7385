//! The command `tlog`: everything a person or an operator does, one file per subcommand.
//!
//! ```text
//!  import   image ──> TlogClient ──> server                     restore  broker ── KafkaClient ─┐
//!                                                                        shards ── tier ────────┴─> Player ──> image
//!  verify   data directory, or shards: everything is read and checked, parity too; nothing is written
//!  bench    Kafka and TLog writes beside what loopback and disk can at best do
//!  topics   what a broker holds
//! ```
//!
//! Exit codes, the same for every subcommand:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | an error; the message says what to do |
//! | 2 | data is damaged, or shards are missing; the message names where |
//! | 10 | what was asked for does not exist |
//! | 11 | locked by another process |
//! | 12 | wrong key |
//! | 64 | the command line is wrong |
//! | 78 | the configuration is refused |
//!
//! Messages for people go to standard error, results to standard output. Long work shows a bar on a terminal, and a line
//! every 10 seconds elsewhere. Whoever stops reading ends no work. A file that is made appears under its name only when it
//! is whole; one that would be empty because nothing lies within the given bounds does not replace another.
//!
//! Where to look next: `args` (the command line), `run` (from arguments to exit code), then the subcommand's file.

mod args;
mod bench;
mod failure;
mod image;
mod import;
mod output;
mod progress;
mod restore;
mod run;
mod shards;
mod source;
mod time;
mod topics;
mod verify;

pub use run::main;

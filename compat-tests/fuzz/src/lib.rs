//! What is done with each input of a fuzz target, and what must hold then.
//!
//! `targets/` hands them what libFuzzer makes up; `compat-tests/tests/fuzz_bodies.rs` compiles the same code and hands them
//! some thousand seeded inputs with each run of the tests.

pub mod commit_log;
pub mod kafka_request;
pub mod record_batch;
pub mod sample;
pub mod segment;

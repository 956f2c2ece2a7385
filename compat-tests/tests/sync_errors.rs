//! The real server, whose calls to the system fail: `strace` has them answer with an error, and does not carry them out.
//!
//! The next call succeeds again, which is what a server that tries once more would believe. Where nothing can be traced (no
//! strace, or a container without `SYS_PTRACE`) these tests say so and do nothing; the same is then shown by the simulated
//! disk alone, in `src/broker/proof/failing.rs`.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use compat_tests::kafka::{Batch, KafkaSocket, code};
use compat_tests::{Random, Server, is_long, temporary_dir};
use rustix::process::Signal;

const TOPIC: &str = "injected";

/// What the server exits with when the disk fails it.
const DISK_FAILED: i32 = 74;

/// Whether processes can be traced here.
fn can_trace() -> bool {
    let mut probe = Command::new("strace");
    probe.args(["-f", "-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    let can = probe.status().is_ok_and(|status| status.success());
    if !can {
        println!("skipped: strace is missing or may not trace");
    }
    can
}

/// A server whose calls are answered by `inject`, as strace takes it; of files below `only` alone, where given.
fn spawn(dir: &Path, inject: &str, only: Option<&Path>) -> Result<Server> {
    let inject = format!("inject={inject}");
    // The tracer is no parent: exit code and process id are the server's own.
    let mut wrapper = vec!["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
    if let Some(path) = only {
        wrapper.extend(["-P", path.to_str().context("a path in UTF-8")?]);
    }
    Server::spawn_under(&wrapper, dir, &[])
}

fn value(number: usize) -> Vec<u8> {
    format!("value {number} {}", "x".repeat(number % 7 * 300)).into_bytes()
}

/// Produces one after another, at most `count`, until one is not acknowledged; gives how many were.
fn produce(server: &mut Server, count: usize) -> Result<usize> {
    let mut socket = KafkaSocket::connect(&server.address("kafka")?)?;
    socket.look_at(TOPIC)?;
    for number in 0..count {
        let batch = Batch::of_one(&value(number)).done();
        match socket.produce(TOPIC, 0, &batch) {
            Ok((code::NONE, offset)) => ensure!(offset == number as i64, "{number} is at {offset}"),
            Ok(_) | Err(_) => return Ok(number),
        }
    }
    Ok(count)
}

/// All of `acknowledged` is there, and at most the one behind it that nobody was told of.
fn check(server: &mut Server, acknowledged: usize) -> Result<()> {
    let mut socket = KafkaSocket::connect(&server.address("kafka")?)?;
    socket.look_at(TOPIC)?;
    let (mut number, mut end) = (0, 1);
    while (number as i64) < end {
        let (code, high_watermark, bytes) = socket.fetch(TOPIC, 0, number as i64)?;
        ensure!(code == code::NONE, "code {code} at {number}");
        end = high_watermark;
        // The batches come as they were sent but for their first 16 bytes, which are the server's to fill.
        let sent = Batch::of_one(&value(number)).done();
        if end > number as i64 {
            ensure!(bytes.get(16..sent.len()) == sent.get(16..), "{number} is another one");
            number += 1;
        }
    }
    let most = acknowledged + 1;
    ensure!((acknowledged..=most).contains(&number), "{number} of {acknowledged} are there");
    Ok(())
}

/// The log names the file and the cause.
fn names(server: &Server, path: &str) -> Result<()> {
    let log = server.log();
    let named = |line: &&String| line.contains(path) && line.contains("os error 5");
    let line = log.iter().filter(|line| line.contains("ERROR")).find(named);
    line.map(drop)
        .with_context(|| format!("no error names {path} and the cause:\n{}", log.join("\n")))
}

#[test]
fn a_failed_commit_ends_the_server_and_nothing_acknowledged_is_lost() -> Result<()> {
    if !can_trace() {
        return Ok(());
    }
    let mut random = Random::from_environment();
    for _ in 0..if is_long() { 30 } else { 3 } {
        let dir = temporary_dir();
        // A commit is one `pwritev2` with RWF_DSYNC of the committer's thread, the first one creates the topic. Calls are
        // counted thread by thread.
        let number = 2 + random.below(20);
        let inject = format!("pwritev2:error=EIO:when={number}");
        println!("{inject}");
        let mut server = spawn(dir.path(), &inject, None)?;
        server.wait_ready()?;
        let acknowledged = produce(&mut server, 40)?;
        ensure!(acknowledged as u64 <= number - 2, "{acknowledged} acknowledged");
        let status = server.wait_exit()?;
        ensure!(status.code() == Some(DISK_FAILED), "{status}");
        names(&server, "/commitlog/")?;
        server.restart()?;
        check(&mut server, acknowledged)?;
    }
    Ok(())
}

/// That is all it shows: the page cache keeps what the failed call did not write. What a disk that dropped it has after
/// that is shown by `after_a_failed_call_nothing_is_acknowledged_that_is_not_there` of `src/broker/proof/failing.rs`.
#[test]
fn a_failed_sync_of_a_segment_fails_the_stop_and_is_named() -> Result<()> {
    if !can_trace() {
        return Ok(());
    }
    let dir = temporary_dir();
    let segment = dir.path().join(format!("{TOPIC}-0/00000000000000000000.log"));
    let mut server = spawn(dir.path(), "fdatasync:error=EIO", Some(&segment))?;
    server.wait_ready()?;
    let acknowledged = produce(&mut server, 10)?;
    ensure!(acknowledged == 10, "{acknowledged}: no append waits for a segment's sync");
    // The checkpoint of a stop syncs it.
    server.signal(Signal::TERM)?;
    let status = server.wait_exit()?;
    ensure!(!status.success(), "{status}");
    names(&server, "00000000000000000000.log")?;
    server.restart()?;
    check(&mut server, acknowledged)
}

#[test]
fn a_start_whose_checkpoint_cannot_be_synced_is_refused_and_loses_nothing() -> Result<()> {
    if !can_trace() {
        return Ok(());
    }
    let dir = temporary_dir();
    let mut server = Server::start(dir.path(), &[])?;
    let acknowledged = produce(&mut server, 10)?;
    server.kill()?;
    for call in ["fdatasync", "rename"] {
        let checkpoint = dir.path().join("meta/checkpoint.tmp");
        let inject = format!("{call}:error=EIO");
        let mut refused = spawn(dir.path(), &inject, Some(&checkpoint))?;
        let status = refused.wait_exit()?;
        ensure!(!status.success(), "{call}: {status}");
        ensure!(refused.log().join("\n").contains("checkpoint"), "{:?}", refused.log());
    }
    server.restart()?;
    check(&mut server, acknowledged)
}

#[test]
fn interrupted_calls_are_made_again_and_nobody_notices() -> Result<()> {
    if !can_trace() {
        return Ok(());
    }
    let dir = temporary_dir();
    let inject = "pwritev2,pwrite64,fdatasync,fsync:error=EINTR:when=2+2";
    let mut server = spawn(dir.path(), inject, None)?;
    server.wait_ready()?;
    let acknowledged = produce(&mut server, 20)?;
    ensure!(acknowledged == 20, "{acknowledged}");
    check(&mut server, acknowledged)?;
    let status = server.terminate()?;
    ensure!(status.success(), "{status}");
    server.restart()?;
    check(&mut server, acknowledged)
}

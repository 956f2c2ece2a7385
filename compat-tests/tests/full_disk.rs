//! A disk that is really full: a small file system of the test's own, which it fills to the last byte.
//!
//! The file system is a tmpfs in a mount namespace, for which nobody needs rights where user namespaces are allowed. Where
//! they are not, the same claims are held against the simulated disk alone (`src/broker/tests/full.rs`), and this test
//! says so; `compat-tests/run` counts that as skipped.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use compat_tests::kafka::{Batch, Fields, KafkaSocket, code};
use compat_tests::{Server, temporary_dir, wait_until};

/// Set for the run inside of the namespace: where the small file system is.
const SMALL: &str = "FULL_DISK_TEST_DIR";
const STORAGE_ERROR: i16 = 56;
const UNKNOWN_TOPIC: i16 = 3;

#[test]
fn a_full_disk_refuses_what_grows_serves_the_rest_and_recovers_by_itself() -> Result<()> {
    if let Some(dir) = std::env::var_os(SMALL) {
        return scenario(Path::new(&dir));
    }
    let dir = temporary_dir();
    let server = PathBuf::from(Server::command()?.get_program());
    // What it leaves beside the file system tells a system that refuses from a test that fails.
    let script = "touch \"$0.entered\"; mount -t tmpfs -o size=96m tmpfs \"$0\" || exit 99; \
                  touch \"$0.mounted\"; exec \"$@\"";
    let beside = |end: &str| dir.path().with_extension(end);

    let status = Command::new("unshare")
        .args(["-Urm", "sh", "-c", script])
        .arg(dir.path())
        .arg(std::env::current_exe()?)
        .args(["--exact", "a_full_disk_refuses_what_grows_serves_the_rest_and_recovers_by_itself"])
        .arg("--nocapture")
        .env(SMALL, dir.path())
        .env("TLOG_SERVER_BIN", server)
        .stdin(Stdio::null())
        .status();
    let [entered, mounted] = ["entered", "mounted"].map(|end| {
        let there = beside(end).exists();
        std::fs::remove_file(beside(end)).ok();
        there
    });
    let why = match status {
        Err(error) if error.kind() == ErrorKind::NotFound => "there is no unshare",
        Err(error) => return Err(error.into()),
        Ok(status) if status.success() => return Ok(()),
        Ok(_) if mounted => bail!("it failed on the small file system, see above"),
        Ok(status) if status.code() == Some(99) => "nothing may be mounted",
        // By unshare itself, before it ran anything.
        Ok(status) if !entered && status.code() == Some(1) => "there are no user namespaces",
        Ok(status) => bail!("no small file system, for no known reason: {status}"),
    };
    println!("skipped, held against the simulated disk alone: {why}");
    Ok(())
}

/// Everything that others could write is written. More than one file: what is released is taken, too.
fn fill(dir: &Path) -> Result<()> {
    let mut file =
        OpenOptions::new().create(true).append(true).open(dir.join("others")).context("others")?;
    for size in [1 << 20, 4096] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    Ok(())
}

/// So that none is left from others' writes.
fn empty(dir: &Path) -> Result<()> {
    Ok(std::fs::remove_file(dir.join("others"))?)
}

fn connect(server: &mut Server) -> Result<KafkaSocket> {
    KafkaSocket::connect(&server.address("kafka")?)
}

fn produce(server: &mut Server, topic: &str, value: &[u8]) -> Result<i16> {
    Ok(connect(server)?.produce(topic, 0, &Batch::of_one(value).done())?.0)
}

fn until_produced(server: &mut Server, topic: &str, value: &[u8]) -> Result<()> {
    connect(server)?.look_at(topic)?;
    wait_until(&format!("a batch in {topic}"), || {
        Ok((produce(server, topic, value)? == code::NONE).then_some(()))
    })
}

fn delete(server: &mut Server, topic: &str) -> Result<i16> {
    let body = Fields::new().i32(1).text(topic).i32(10_000).done();
    let answer = connect(server)?.ask(20, 1, &body)?;
    let code = answer.last_chunk::<2>().context("a short answer")?;
    Ok(i16::from_be_bytes(*code))
}

/// `kept` has the values so far, and nothing else.
fn check_kept(server: &mut Server, values: &[&[u8]]) -> Result<()> {
    let (code, watermark, _) = connect(server)?.fetch("kept", 0, 0)?;
    ensure!((code, watermark) == (code::NONE, i64::try_from(values.len())?), "{code} {watermark}");
    for (offset, value) in (0..).zip(values) {
        let (_, _, records) = connect(server)?.fetch("kept", 0, offset)?;
        ensure!(records.windows(value.len()).any(|part| part == *value), "offset {offset}");
    }
    Ok(())
}

fn until_said(server: &mut Server, is_full: bool) -> Result<String> {
    wait_until("what /readyz says of the disk", || {
        let body = server.admin("/readyz")?.1;
        Ok((body.contains("disk full") == is_full).then_some(body))
    })
}

fn scenario(dir: &Path) -> Result<()> {
    let data = dir.join("data");
    let mut server = Server::start(&data, &["-stop-timeout=2s"])?;
    until_produced(&mut server, "kept", b"before")?;
    until_produced(&mut server, "gone", &[1; 900_000])?;
    until_said(&mut server, false)?;

    fill(dir)?;
    refuses_and_serves(&mut server, &data)?;
    ensure!(delete(&mut server, "gone")? == code::NONE, "a deletion");
    let gone = |dir: &Path| -> Result<Option<()>> { Ok((!dir.exists()).then_some(())) };
    wait_until("its files to go", || gone(&data.join("gone-0")))?;
    fill(dir)?;

    // The stop needs room, and so does the next start, clean or not.
    ensure!(server.terminate()?.code() == Some(0), "{:?}", server.log());
    fill(dir)?;
    server.restart()?;
    until_said(&mut server, true)?;
    check_kept(&mut server, &[b"before"])?;
    ensure!(produce(&mut server, "kept", b"refused")? == STORAGE_ERROR, "a start forgot");
    server.kill()?;
    fill(dir)?;
    server.restart()?;
    check_kept(&mut server, &[b"before"])?;

    empty(dir)?;
    until_said(&mut server, false)?;
    until_produced(&mut server, "kept", b"after")?;
    check_kept(&mut server, &[b"before", b"after"])?;
    without_its_reserve(&mut server, dir)
}

fn refuses_and_serves(server: &mut Server, data: &Path) -> Result<()> {
    ensure!(produce(server, "kept", b"refused")? == STORAGE_ERROR, "a full disk takes batches");
    connect(server)?.look_at("new")?;
    ensure!(produce(server, "new", b"refused")? == UNKNOWN_TOPIC, "a full disk takes topics");
    check_kept(server, &[b"before"])?;
    let said = until_said(server, true)?;
    for part in [&*data.display().to_string(), "bytes", "free", "delete topics"] {
        ensure!(said.contains(part), "{part} is not in {said}");
    }
    let metrics = server.admin("/metrics")?.1;
    for line in ["tlog_disk_full 1\n", "tlog_disk_free_bytes ", "tlog_ship_lag_bytes 0\n"] {
        ensure!(metrics.contains(line), "{line} is not in {metrics}");
    }
    ensure!(!metrics.contains("tlog_log_appends_refused_disk_full_total 0\n"), "{metrics}");
    let said = server.log().iter().filter(|line| line.contains("disk full")).count();
    ensure!(said == 1, "said {said} times");
    Ok(())
}

/// Others have taken what is released of the reserve, too.
fn without_its_reserve(server: &mut Server, dir: &Path) -> Result<()> {
    let reserve = dir.join("data/reserve");
    let pieces = || -> Result<Vec<PathBuf>> {
        std::fs::read_dir(&reserve)?.map(|entry| Ok(entry?.path())).collect()
    };
    wait_until("the reserve", || Ok((pieces()?.len() == 16).then_some(())))?;
    for piece in pieces()? {
        ensure!(File::open(&piece)?.metadata()?.len() > 0, "an empty piece");
        std::fs::remove_file(piece)?;
    }
    fill(dir)?;
    check_kept(server, &[b"before", b"after"])?;
    ensure!(server.terminate()?.code() == Some(0), "{:?}", server.log());
    empty(dir)?;
    server.restart()?;
    until_produced(server, "kept", b"again")?;
    check_kept(server, &[b"before", b"after", b"again"])
}

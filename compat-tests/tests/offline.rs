//! A partition whose files cannot be opened: the server starts without it, says so, and has all of it back once the file is.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use compat_tests::kafka::{Batch, Fields, KafkaSocket, code};
use compat_tests::{Server, temporary_dir, tlog_command, wait_until};

const STORAGE_ERROR: i16 = 56;

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

/// Error code of the latest offset of partition 0.
fn latest(server: &mut Server, topic: &str) -> Result<i16> {
    let body = Fields::new().i32(-1).i32(1).text(topic).i32(1).i32(0).i64(-1).done();
    let answer = connect(server)?.ask(2, 1, &body)?;
    // Count of topics, name, count of partitions, index.
    let at = 4 + 2 + topic.len() + 4 + 4;
    let code = answer.get(at..at + 2).context("a short answer")?;
    Ok(i16::from_be_bytes(code.try_into()?))
}

/// Error code of partition 0 in the metadata.
fn told(server: &mut Server, topic: &str) -> Result<i16> {
    let answer = connect(server)?.ask(3, 1, &Fields::new().i32(1).text(topic).done())?;
    let name = answer.windows(topic.len()).position(|part| part == topic.as_bytes());
    // Behind the name: whether it is internal, count of partitions.
    let at = name.context("the topic is not in the answer")? + topic.len() + 1 + 4;
    let code = answer.get(at..at + 2).context("a short answer")?;
    Ok(i16::from_be_bytes(code.try_into()?))
}

fn codes(server: &mut Server, topic: &str) -> Result<[i16; 4]> {
    let fetched = connect(server)?.fetch(topic, 0, 0)?.0;
    let produced = produce(server, topic, b"more")?;
    Ok([told(server, topic)?, latest(server, topic)?, fetched, produced])
}

fn is_offline(server: &mut Server, data: &Path) -> Result<()> {
    ensure!(codes(server, "bad")? == [STORAGE_ERROR; 4], "{:?}", codes(server, "bad")?);
    ensure!(codes(server, "good")? == [code::NONE; 4], "{:?}", codes(server, "good")?);
    let (status, ready) = server.admin("/readyz")?;
    ensure!(status == 200 && ready.contains("offline partitions"), "{ready}");
    ensure!(ready.contains("bad-0/partition.meta"), "{ready}");
    let metrics = server.admin("/metrics")?.1;
    ensure!(metrics.contains("broker_offline_partitions 1"), "{metrics}");
    let log = server.log().join("\n");
    ensure!(log.contains("bad-0/partition.meta") && log.contains("is offline"), "{log}");
    ensure!(std::fs::read(data.join("bad-0/partition.meta"))? == [0; 36], "it was changed");
    Ok(())
}

/// Whether the files of a server that is stopped are sound, and what `tlog verify` says of them.
fn verify(data: &Path) -> Result<(bool, String)> {
    let verified = tlog_command()?.args(["verify", "--data-dir"]).arg(data).output()?;
    let said = [verified.stdout, verified.stderr].concat();
    Ok((verified.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn a_partition_that_cannot_be_opened_is_offline_alone_and_comes_back_whole() -> Result<()> {
    let dir = temporary_dir();
    let data = dir.path().join("data");
    let mut server = Server::start(&data, &["-stop-timeout=2s"])?;
    for topic in ["bad", "good"] {
        until_produced(&mut server, topic, b"below the checkpoint")?;
    }
    ensure!(server.terminate()?.success(), "{:?}", server.log());
    server.restart()?;
    until_produced(&mut server, "bad", b"above the checkpoint")?;
    server.kill()?;

    let meta = data.join("bad-0/partition.meta");
    let right = std::fs::read(&meta)?;
    std::fs::write(&meta, [0; 36])?;
    server.restart()?;
    is_offline(&mut server, &data)?;
    ensure!(server.terminate()?.success(), "{:?}", server.log());
    server.restart()?;
    is_offline(&mut server, &data)?;
    server.kill()?;

    let (is_sound, said) = verify(&data)?;
    ensure!(!is_sound && said.contains("bad-0/partition.meta"), "{said}");
    std::fs::write(&meta, right)?;
    let (is_sound, said) = verify(&data)?;
    ensure!(is_sound, "with what is kept aside: {said}");
    server.restart()?;
    for (offset, value) in [(0, "below the checkpoint"), (1, "above the checkpoint")] {
        let (code, watermark, records) = connect(&mut server)?.fetch("bad", 0, offset)?;
        ensure!((code, watermark) == (code::NONE, 2), "{code} {watermark}");
        ensure!(records.windows(value.len()).any(|part| part == value.as_bytes()), "{offset}");
    }
    ensure!(codes(&mut server, "bad")? == [code::NONE; 4], "{:?}", codes(&mut server, "bad")?);
    ensure!(server.terminate()?.success(), "{:?}", server.log());
    let (is_sound, said) = verify(&data)?;
    ensure!(is_sound && !data.join("aside").read_dir()?.any(|_| true), "{said}");
    Ok(())
}

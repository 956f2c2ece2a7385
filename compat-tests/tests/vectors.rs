//! The recorded conversations of the original, replayed against the real server: every answer is compared field by field
//! with the recorded one.
//!
//! The place of status 3 among the answers is free. Where a recorded answer is a defect of the original the right one is
//! demanded, and each such place says so. What is not served yet is listed in [`NOT_SERVED`]; a recording that is neither
//! replayed nor listed fails the test.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bytes::BytesMut;
use compat_tests::vdisk::block;
use compat_tests::{Redis, Server, TlogSocket, temporary_dir, wait_until};
use serde_json::Value;
use tlog::tlog::protocol::{
    ClientMessage, Family, Frame, HandshakeRequest, HandshakeResponse, Response, Status, VERSION_A,
    VERSION_B, take_frame,
};

/// Recordings of features that later releases bring, each with its feature.
const NOT_SERVED: &[(&str, &str)] = &[
    ("b-coord-handshake-not-ready", "a server that waits for another one"),
    ("b-wait-tlog-absent", "the second listener"),
    ("b-wait-tlog-exists", "the second listener"),
];

struct Vectors {
    dir: PathBuf,
    index: Value,
    replayed: RefCell<BTreeSet<String>>,
}

impl Vectors {
    fn load() -> Result<Self> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/tlog");
        let index = serde_json::from_slice(&std::fs::read(dir.join("index.json"))?)?;
        Ok(Self { dir, index, replayed: RefCell::default() })
    }

    /// What the client said.
    fn said(&self, name: &str) -> Result<Vec<u8>> {
        self.replayed.borrow_mut().insert(name.to_owned());
        Ok(std::fs::read(self.dir.join(format!("{name}.c2s.bin")))?)
    }

    /// The same on the oldest wire, which has no type bytes and knows no commands.
    fn said_bare(&self, name: &str) -> Result<Vec<u8>> {
        let mut typed = BytesMut::from(&self.said(name)?[..]);
        let mut bare = Vec::new();
        while !typed.is_empty() {
            let kind = typed.split_to(1)[0];
            let before = typed.clone();
            take_frame(&mut typed)?.context("whole frames")?;
            if kind == 1 {
                bare.extend_from_slice(&before[..before.len() - typed.len()]);
            }
        }
        Ok(bare)
    }

    /// What the server answered: decoded fields of each message.
    fn answered(&self, name: &str) -> Result<Vec<Value>> {
        let messages = self.index[format!("{name}.s2c.bin")]["messages"].as_array();
        messages.cloned().with_context(|| format!("{name} has no recorded answer"))
    }
}

fn handshake(family: Family, vdisk: &str) -> Vec<u8> {
    let version = if family == Family::A { VERSION_A } else { VERSION_B };
    let vdisk_id = Some(vdisk.to_owned());
    let request = HandshakeRequest { family, version, vdisk_id, first_sequence: 0, reset: false };
    let mut bytes = BytesMut::new();
    request.encode(&mut bytes);
    bytes.to_vec()
}

/// A handshake answer as the index has one.
fn shown_handshake(frame: &Frame) -> Result<Value> {
    let answer = HandshakeResponse::decode(frame)?;
    let word = frame.body().get(8..12).context("a short answer")?;
    let version = u32::from_le_bytes(word.try_into()?);
    let mut shown = serde_json::json!({ "version": version, "status": answer.status as i8 });
    if answer.family == Family::B {
        shown["last_flushed_sequence"] = answer.last_flushed_sequence.into();
        shown["wait_tlog_ready"] = answer.wait_tlog_ready.into();
    }
    Ok(shown)
}

/// The fields of the recorded handshake answer that mean something.
fn recorded_handshake(vectors: &Vectors, name: &str) -> Result<Value> {
    let [message] = &vectors.answered(name)?[..] else { anyhow::bail!("{name}: one message") };
    let mut kept = message.clone();
    let fields = kept.as_object_mut().context("fields")?;
    fields.retain(|key, _| {
        ["version", "status", "last_flushed_sequence", "wait_tlog_ready"].contains(&key.as_str())
    });
    Ok(kept)
}

type Answer = (i64, Vec<u64>);

fn recorded_answers(vectors: &Vectors, name: &str) -> Result<Vec<Answer>> {
    let answer = |message: &Value| -> Result<Answer> {
        let sequences = message["sequences"].as_array().context("sequences")?;
        let sequences = sequences.iter().map(|s| s.as_u64().context("a number"));
        Ok((message["status"].as_i64().context("status")?, sequences.collect::<Result<_>>()?))
    };
    vectors.answered(name)?.iter().map(answer).collect()
}

fn is_free(answer: &Answer) -> bool {
    answer.0 == Status::ForceFlushReceived as i64
}

/// Reads as many answers as expected and compares them; status 3 may stand anywhere among them.
fn expect(client: &mut TlogSocket, expected: &[Answer], name: &str) -> Result<()> {
    let mut got = Vec::new();
    for _ in expected {
        let Response { status, sequences } = client
            .response()
            .with_context(|| format!("{name}: {expected:?}, until now {got:?}"))?;
        got.push((i64::from(status as i8), sequences));
    }
    let fixed = |all: &[Answer]| -> Vec<Answer> {
        all.iter().filter(|answer| !is_free(answer)).cloned().collect()
    };
    let free =
        |all: &[Answer]| -> Vec<Answer> { all.iter().filter(|a| is_free(a)).cloned().collect() };
    ensure!(fixed(&got) == fixed(expected), "{name}: {got:?} instead of {expected:?}");
    ensure!(free(&got) == free(expected), "{name}: {got:?} instead of {expected:?}");
    Ok(())
}

/// Connects, sends the recorded handshake and compares the answer; `corrected` says what is right where the recording is not.
fn greet(
    server: &mut Server,
    vectors: &Vectors,
    name: &str,
    corrected: impl FnOnce(&mut Value),
) -> Result<TlogSocket> {
    let mut client = TlogSocket::connect(&server.address("tlog")?)?;
    client.say(&vectors.said(name)?)?;
    let answer = shown_handshake(&client.frame()?.with_context(|| format!("{name}: closed"))?)?;
    let mut expected = recorded_handshake(vectors, name)?;
    corrected(&mut expected);
    ensure!(answer == expected, "{name}: {answer} instead of {expected}");
    Ok(client)
}

fn as_recorded(_: &mut Value) {}

/// Attaches to a vdisk of the test's own, for recordings that begin after the handshake.
fn attach(server: &mut Server, family: Family, vdisk: &str) -> Result<TlogSocket> {
    let mut client = TlogSocket::connect(&server.address("tlog")?)?;
    client.say(&handshake(family, vdisk))?;
    let answer = shown_handshake(&client.frame()?.context("closed")?)?;
    ensure!(answer["status"] == 1, "{vdisk}: {answer}");
    Ok(client)
}

fn replay(client: &mut TlogSocket, vectors: &Vectors, names: &[&str]) -> Result<()> {
    for name in names {
        client.say(&vectors.said(name)?)?;
        expect(client, &recorded_answers(vectors, name)?, name)?;
    }
    Ok(())
}

/// Nothing more is under way: the next answer is the one to a question asked now.
fn expect_silence(client: &mut TlogSocket, question: &[u8]) -> Result<()> {
    client.say(question)?;
    expect(client, &[(Status::WaitSlaveSyncDone as i64, vec![])], "an answer too many before it")
}

fn expect_close(client: &mut TlogSocket, name: &str) -> Result<()> {
    match client.frame()? {
        None => Ok(()),
        Some(frame) => {
            anyhow::bail!("{name}: {:?} instead of a closed connection", Response::decode(&frame))
        }
    }
}

fn older_family(server: &mut Server, vectors: &Vectors) -> Result<()> {
    let question = vectors.said("a-wait-slave-sync")?;
    let mut client = greet(server, vectors, "a-handshake-ok", as_recorded)?;
    replay(&mut client, vectors, &["a-block-1"])?;
    // The original also says that it is flushed, which it is not: received alone is right.
    let name = "a-block-duplicate-unflushed";
    client.say(&vectors.said(name)?)?;
    expect(&mut client, &recorded_answers(vectors, name)?[..1], name)?;
    let names = [
        "a-block-writezeroes",
        "a-force-flush-now",
        "a-block-duplicate-flushed",
        "a-force-flush-at-seq",
        "a-wait-slave-sync",
    ];
    replay(&mut client, vectors, &names)?;
    expect_silence(&mut client, &question)?;
    drop(client);
    // After a reset the client's first sequence is taken as it said.
    let mut client = greet(server, vectors, "a-handshake-reset-first", as_recorded)?;
    let mut bytes = BytesMut::new();
    ensure!(block(77, 3, &[1; 4096]).encode(tlog::tlog::protocol::Wire::Typed, 4096, &mut bytes));
    client.say(&bytes)?;
    expect(&mut client, &[(1, vec![77])], "after a reset")?;
    expect_silence(&mut client, &question)?;

    for name in ["a-flush-25", "a-out-of-order"] {
        let mut client = attach(server, Family::A, &format!("disk-{name}"))?;
        replay(&mut client, vectors, &[name])?;
        expect_silence(&mut client, &question)?;
    }
    for name in ["a-handshake-head-version", "a-handshake-old-version"] {
        let mut client = greet(server, vectors, name, as_recorded)?;
        expect_close(&mut client, name)?;
    }
    let name = "a-block-bad-hash";
    let mut client = attach(server, Family::A, "disk-a-bad-hash")?;
    client.say(&vectors.said(name)?)?;
    expect_close(&mut client, name)
}

/// The oldest wire: the same blocks without type bytes. It has no commands, so nothing flushes but a full list.
fn oldest_wire(server: &mut Server, vectors: &Vectors) -> Result<()> {
    let mut client = attach(server, Family::A, "bare-1")?;
    for (name, kept) in
        [("a-block-1", 1), ("a-block-duplicate-unflushed", 1), ("a-block-writezeroes", 1)]
    {
        client.say(&vectors.said_bare(name)?)?;
        expect(&mut client, &recorded_answers(vectors, name)?[..kept], name)?;
    }
    let mut client = attach(server, Family::A, "bare-2")?;
    client.say(&vectors.said_bare("a-flush-25")?)?;
    expect(&mut client, &recorded_answers(vectors, "a-flush-25")?, "a-flush-25, bare")?;
    let mut client = attach(server, Family::A, "bare-3")?;
    client.say(&vectors.said_bare("a-out-of-order")?)?;
    let received = &recorded_answers(vectors, "a-out-of-order")?[..3];
    expect(&mut client, received, "a-out-of-order, bare")?;
    let mut client = attach(server, Family::A, "bare-4")?;
    client.say(&vectors.said_bare("a-block-bad-hash")?)?;
    expect_close(&mut client, "a-block-bad-hash, bare")
}

fn newer_family(server: &mut Server, vectors: &Vectors) -> Result<()> {
    let question = vectors.said("b-wait-slave-sync")?;
    let mut client = greet(server, vectors, "b-handshake-ok", as_recorded)?;
    let names = ["b-block-1", "b-block-duplicate", "b-block-delete", "b-force-flush-now"];
    replay(&mut client, vectors, &names)?;
    // The second one was recorded with a slave, whose absence is answered alike.
    let names = ["b-force-flush-at-seq", "b-wait-slave-sync", "b-wait-slave-sync-real"];
    replay(&mut client, vectors, &names)?;
    expect_silence(&mut client, &question)?;
    // The original has a status for this, -5, and sends -4 in its place.
    let busy = |expected: &mut Value| {
        expected["status"] = (-5).into();
    };
    let mut second = greet(server, vectors, "b-handshake-busy-vdisk", busy)?;
    expect_close(&mut second, "b-handshake-busy-vdisk")?;
    replay(&mut client, vectors, &["b-disconnect"])?;
    expect_close(&mut client, "b-disconnect")?;
    // The original reports 0 here, having lost its place.
    let resumed = |expected: &mut Value| expected["last_flushed_sequence"] = 5.into();
    greet(server, vectors, "b-handshake-resume-after-partial", resumed)?;

    let mut client = attach(server, Family::B, "vdisk-b9")?;
    replay(&mut client, vectors, &["b-flush-25"])?;
    expect_silence(&mut client, &question)?;
    client.send(&ClientMessage::Disconnect)?;
    expect(&mut client, &[(5, vec![])], "disconnect")?;
    greet(server, vectors, "b-handshake-resume-25", as_recorded)?;

    let mut client = attach(server, Family::B, "disk-gap")?;
    replay(&mut client, vectors, &["b-gap-resend"])?;
    expect_silence(&mut client, &question)?;

    let name = "b-block-bad-hash";
    let mut client = attach(server, Family::B, "disk-bad-hash")?;
    replay(&mut client, vectors, &[name])?;
    expect_close(&mut client, name)?;

    for name in ["b-handshake-garbage", "b-handshake-old-version"] {
        let mut client = greet(server, vectors, name, as_recorded)?;
        expect_close(&mut client, name)?;
    }
    // There is no list of vdisks that one could be missing from: it is made.
    let made = |expected: &mut Value| {
        expected["status"] = 1.into();
        expected["wait_tlog_ready"] = false.into();
    };
    greet(server, vectors, "b-handshake-unknown-vdisk", made).map(drop)
}

#[test]
fn recorded_conversations_are_answered_as_they_were() -> Result<()> {
    let vectors = Vectors::load()?;
    let dir = temporary_dir();
    let mut server = Server::start(dir.path(), &[])?;
    older_family(&mut server, &vectors)?;
    oldest_wire(&mut server, &vectors)?;
    newer_family(&mut server, &vectors)?;

    // The others are replayed by the test below.
    let elsewhere = ["a-flush-failed", "b-flush-failed"];
    for entry in std::fs::read_dir(&vectors.dir)? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        let Some(name) = file.strip_suffix(".c2s.bin") else { continue };
        let known = vectors.replayed.borrow().contains(name)
            || elsewhere.contains(&name)
            || NOT_SERVED.iter().any(|(listed, _)| *listed == name);
        ensure!(known, "{name} is not replayed");
    }
    Ok(())
}

/// The original gives its client up (status -2) when it cannot ship. Here the block stays in the local log: the same
/// messages are answered as far as they can be, and the flush is told when the shard servers are back.
#[test]
fn a_flush_without_shard_servers_waits_for_them_instead_of_failing() -> Result<()> {
    let vectors = Vectors::load()?;
    let dir = temporary_dir();
    let mut servers = Redis::start_many(dir.path(), 6)?;
    let addresses: Vec<String> = servers.iter().map(Redis::address).collect();
    let storage = format!("-storage-addresses={}", addresses.join(","));
    let key = "-priv-key=0123456789abcdef0123456789abcdee";
    let mut server = Server::start(&dir.path().join("data"), &[&storage, key])?;
    let mut clients = Vec::new();
    for (family, name) in [(Family::A, "a-flush-failed"), (Family::B, "b-flush-failed")] {
        clients.push((attach(&mut server, family, &format!("disk-{name}"))?, family, name));
    }
    servers.iter_mut().try_for_each(Redis::kill)?;
    for (client, _, name) in &mut clients {
        client.say(&vectors.said(name)?)?;
        expect(client, &recorded_answers(&vectors, name)?[..2], name)?;
    }
    wait_until("servers that are down at /readyz", || {
        let (_, body) = server.admin("/readyz")?;
        Ok(addresses.iter().all(|address| body.contains(address.as_str())).then_some(()))
    })?;
    for (client, family, _) in &mut clients {
        let name = if *family == Family::A { "a-wait-slave-sync" } else { "b-wait-slave-sync" };
        expect_silence(client, &vectors.said(name)?)?;
    }
    servers.iter_mut().try_for_each(Redis::restart)?;
    for (client, family, name) in &mut clients {
        let sequence = u64::from(*family == Family::B);
        expect(client, &[(Status::Flushed as i64, vec![sequence])], name)?;
    }
    Ok(())
}

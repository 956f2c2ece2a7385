//! Batches with a valid CRC whose content is not what it says: refused, and nobody else notices.

use anyhow::{Result, ensure};
use compat_tests::kafka::{Batch, Fields, KafkaSocket, code, record};
use compat_tests::{Server, Tool, run, temporary_dir};

/// A record of the parts given, with the right length in front.
fn of(body: Fields) -> Vec<u8> {
    Fields::new().field(Some(&body.done())).done()
}

/// Attributes, timestamp delta and offset delta of the first record.
fn begun() -> Fields {
    Fields::new().i8(0).varint(0).varint(0)
}

/// Two good records.
fn two() -> Vec<u8> {
    [record(0, Some(b"k"), Some(b"v")), record(1, None, None)].concat()
}

fn lies() -> Vec<(&'static str, Batch)> {
    let honest = Batch::new(2, two());
    let with = |records: Vec<u8>| Batch::new(1, records);
    let header = |count: i64| begun().varint(-1).varint(-1).varint(count);
    vec![
        ("more records than there are", Batch { count: 3, last_offset_delta: 2, ..honest.clone() }),
        (
            "fewer records than there are",
            Batch { count: 1, last_offset_delta: 0, ..honest.clone() },
        ),
        ("a count without its offsets", Batch { last_offset_delta: 7, ..honest.clone() }),
        ("offsets beyond the count", Batch { count: 1, ..honest.clone() }),
        (
            "no record",
            Batch { count: 0, last_offset_delta: -1, records: Vec::new(), ..honest.clone() },
        ),
        ("a negative count", Batch { count: -1, last_offset_delta: -2, ..honest.clone() }),
        ("two thousand million records", Batch::new(i32::MAX, two())),
        ("a control batch", Batch { attributes: 0x20, ..honest.clone() }),
        ("an unknown codec", Batch { attributes: 5, ..honest.clone() }),
        ("plain records called gzip", honest.clone().codec(1)),
        ("plain records called snappy", honest.clone().codec(2)),
        ("plain records called lz4", honest.clone().codec(3)),
        ("plain records called zstd", honest.clone().codec(4)),
        ("a producer without an epoch", Batch { producer: (5, -1, 0), ..honest.clone() }),
        ("a record beyond the batch", with(Fields::new().varint(1000).raw(&two()).done())),
        ("a record of negative length", with(Fields::new().varint(-5).raw(&two()).done())),
        ("a length that never ends", with(vec![0xff; 40])),
        ("a key beyond the record", with(of(begun().varint(50).raw(b"k").varint(-1).varint(0)))),
        ("a key of length -2", with(of(begun().varint(-2).varint(-1).varint(0)))),
        ("a value beyond the record", with(of(begun().varint(-1).varint(1 << 30).raw(b"v")))),
        ("a thousand million headers", with(of(header(1 << 30)))),
        ("a negative count of headers", with(of(header(-1)))),
        ("a header without a key", with(of(header(1).varint(-1).varint(-1)))),
        ("a header beyond the record", with(of(header(1).varint(3).raw(b"abc").varint(9)))),
        ("bytes behind the headers", with(of(header(0).raw(b"more")))),
        ("an offset that is not its place", with(record(1, None, Some(b"v")))),
        (
            "the same offset twice",
            Batch::new(2, [record(0, None, None), record(0, None, None)].concat()),
        ),
        ("bytes behind the records", with([record(0, None, None), b"xyz".to_vec()].concat())),
    ]
}

#[test]
fn a_lying_batch_is_refused_and_poisons_no_topic() -> Result<()> {
    let dir = temporary_dir();
    let mut server = Server::spawn(dir.path(), &[])?;
    let mut socket = KafkaSocket::connect(&server.address("kafka")?)?;
    socket.look_at("lies")?;
    let mut expected = String::new();
    for (number, (what, lie)) in (0..).zip(lies()) {
        let (code, offset) = socket.produce("lies", 0, &lie.done())?;
        ensure!(code == code::INVALID_RECORD, "{what}: code {code}, offset {offset}");
        let truth = format!("after {what}");
        let answer = socket.produce("lies", 0, &Batch::of_one(truth.as_bytes()).done())?;
        ensure!(answer == (code::NONE, number), "{what}: then {answer:?}");
        expected += &format!("{number} {truth}\n");
    }
    let mut flipped = Batch::of_one(b"damaged").done();
    *flipped.last_mut().expect("a batch has bytes") ^= 1;
    ensure!(socket.produce("lies", 0, &flipped)?.0 == code::CORRUPT_MESSAGE);
    let huge = Batch::of_one(&vec![0; 1_100_000]).done();
    ensure!(socket.produce("lies", 0, &huge)?.0 == code::MESSAGE_TOO_LARGE);

    let bootstrap = server.bootstrap()?;
    let read = |bootstrap: &str| -> Result<String> {
        let mut kcat = Tool::Kcat.command()?;
        kcat.args(["-b", bootstrap, "-C", "-t", "lies", "-o", "beginning", "-e", "-q"]);
        Ok(String::from_utf8(run(kcat.args(["-f", "%o %s\n"]), b"")?.stdout)?)
    };
    assert_eq!(read(&bootstrap)?, expected);
    server.kill()?;
    server.respawn()?;
    server.address("kafka")?;
    assert_eq!(read(&bootstrap)?, expected, "after kill -9");
    Ok(())
}

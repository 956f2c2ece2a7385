//! The fuzz targets, without a fuzzer: some thousand damaged samples each. `compat-tests/run --long` lets libFuzzer look for
//! more.

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use compat_tests::{Random, is_long};
use fuzz::{commit_log, kafka_request, record_batch, segment};
use tlog::record::{BatchBuilder, Compression};

fn inputs(short: usize) -> usize {
    if is_long() { 20 * short } else { short }
}

/// For [`fuzz::sample::damage`]: no edit to a few, mostly; now and then many, or a file replaced by noise.
fn damage(random: &mut Random, most: u64) -> Vec<u8> {
    let mut input = vec![random.below(most) as u8];
    match random.below(16) {
        0 => {
            input[0] |= 0x80;
            let count = random.index(300);
            input.extend(random.bytes(1 + count));
        }
        1 => {
            let edits = random.index(60);
            input.extend(random.bytes(4 * edits));
        }
        edits => {
            for _ in 0..edits % 5 {
                input.extend(random.bytes(3));
                // A bit, or any of the byte.
                let bits = 1 << random.below(8);
                input.push(if random.below(2) == 0 { bits } else { random.below(256) as u8 });
            }
        }
    }
    input
}

#[test]
fn a_damaged_commit_log_is_refused_or_right() {
    let mut random = Random::from_environment();
    let (mut opened, mut commits) = (0, 0);
    for _ in 0..inputs(3000) {
        let input = damage(&mut random, 9);
        if let Some(read) = commit_log::run(&input) {
            opened += 1;
            commits += read;
        }
    }
    println!("{opened} opened, {commits} commits");
    assert!(opened > 300 && commits > 1000, "{opened} {commits}");
}

#[test]
fn of_a_damaged_segment_what_is_read_is_right() {
    let mut random = Random::from_environment();
    let (mut opened, mut batches) = (0, 0);
    for _ in 0..inputs(3000) {
        let input = damage(&mut random, 21);
        if let Some(read) = segment::run(&input) {
            opened += 1;
            batches += read;
        }
    }
    println!("{opened} opened, {batches} batches");
    assert!(opened > 1000 && batches > 5000, "{opened} {batches}");
}

#[test]
fn damaged_batches_of_every_codec_are_refused_or_walked() {
    let mut random = Random::from_environment();
    let codecs = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];
    let mut records = 0;
    for _ in 0..inputs(10_000) {
        let mut input = Vec::new();
        for _ in 0..1 + random.below(3) {
            let codec = codecs[random.index(codecs.len())];
            let mut builder = BatchBuilder::new(1_000).compression(codec);
            for _ in 0..1 + random.below(5) {
                let value = vec![random.below(256) as u8; random.index(200)];
                builder.push(1_000, Some(b"key"), Some(&value), &[("name", b"header")]);
            }
            input.extend(builder.build());
        }
        for _ in 0..random.below(5) {
            let at = random.index(input.len());
            input[at] ^= 1 << random.below(8);
        }
        records += record_batch::run(&input);
    }
    println!("{records} records");
    assert!(records > 10_000, "{records}");
}

#[test]
fn the_decoder_takes_what_the_guard_lets_through() {
    const KEYS: [u8; 11] = [0, 1, 2, 3, 10, 18, 19, 20, 21, 22, 23];
    // What counts and lengths are made of, and what they never should be.
    const BYTES: [u8; 8] = [0, 0, 0, 1, 1, 2, 3, 0xff];
    let mut random = Random::from_environment();
    let mut taken = 0;
    for _ in 0..inputs(100_000) {
        let key = KEYS[random.index(KEYS.len())];
        let mut input = vec![0, key, 0, random.below(14) as u8, 0, 0, 0, 1];
        let count = random.index(60);
        input.extend((0..count).map(|_| BYTES[random.index(BYTES.len())]));
        taken += usize::from(kafka_request::run(&input));
    }
    println!("{taken} taken");
    assert!(taken > 1000, "{taken}");
}

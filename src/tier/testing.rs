//! Fixed keys, batches and fragments for the tests of this folder. The kept samples are made of them: never change them.

use bytes::Bytes;

use super::body::{
    AbortedTransaction, Body, BodyBatch, JournalState, ProducerBatch, ProducerState, TrailerParts,
};
use super::encryption::{KeyRing, MasterKey, TopicSecret};
use super::fragment::{Draft, OpenContext, SealedFragment, seal};
use super::header::SequenceRange;
use super::records::{EntryState, ManifestEntry};
use crate::record::{self, BatchBuilder};
use crate::types::{ClusterId, DataDirId, LeaderEpoch, Sequence, TopicId, TopicPartition};

pub(super) const CLUSTER: ClusterId = ClusterId([0xc1; 16]);
pub(super) const PARTITION: TopicPartition =
    TopicPartition { topic: TopicId([0x70; 16]), partition: 3 };

pub(super) fn key(first: u8) -> MasterKey {
    MasterKey::new(std::array::from_fn(|i| first.wrapping_add(i as u8))).unwrap()
}

pub(super) fn keys() -> KeyRing {
    KeyRing::new(7, key(1))
}

pub(super) fn secret() -> TopicSecret {
    TopicSecret::new([0x5e; 32])
}

pub(super) fn context<'a>(keys: &'a KeyRing, secret: &'a TopicSecret) -> OpenContext<'a> {
    OpenContext { cluster: CLUSTER, partition: PARTITION, secret, keys }
}

pub(super) fn batch(base: i64, epoch: i32, values: &[&[u8]]) -> Bytes {
    let mut builder = BatchBuilder::new(1_700_000_000_000 + base).producer(4_000, 1, 0);
    for (i, value) in (0..).zip(values) {
        let key = (base + i).to_be_bytes();
        let timestamp = 1_700_000_000_000 + base + i;
        builder.push(timestamp, Some(&key), Some(value), &[("op", &[1])]);
    }
    let mut bytes = builder.build();
    record::assign(&mut bytes, base, LeaderEpoch(epoch));
    bytes.into()
}

pub(super) fn batches(first: i64, epoch: i32) -> Vec<BodyBatch> {
    vec![
        BodyBatch { bytes: batch(first, epoch, &[b"one", b"two"]), commit: 90 },
        BodyBatch { bytes: batch(first + 2, epoch, &[&[0xab; 300]]), commit: 90 },
        BodyBatch { bytes: batch(first + 3, epoch, &[b"four", b"five"]), commit: 500 },
    ]
}

pub(super) fn parts() -> TrailerParts {
    let batch = |first_offset| ProducerBatch {
        first_sequence: 0,
        last_sequence: 1,
        first_offset,
        timestamp_ms: 1_700_000_000_000,
    };
    TrailerParts {
        aborted: Some(vec![AbortedTransaction {
            producer_id: 4_000,
            first_offset: 60,
            last_offset: 99,
            last_stable_offset: 100,
        }]),
        producers: Some(vec![ProducerState {
            id: 4_000,
            epoch: 1,
            batches: vec![batch(100), batch(103)],
        }]),
        full: true,
        journal: Some(JournalState {
            segment_first_byte: 1 << 40,
            sha1_state: vec![9; 28],
            registers: vec![("author".to_owned(), "w1".to_owned())],
        }),
    }
}

pub(super) fn draft(number: u64) -> Draft {
    Draft {
        timestamp_ns: 1_700_000_000_123_456_789,
        vdisk_id: "vdisk-1".to_owned(),
        previous_hash: [0x11; 32],
        previous_public_hash: [0x22; 32],
        cluster: CLUSTER,
        data_dir: DataDirId([0xdd; 16]),
        topic: "vdisk-1".to_owned(),
        partition: PARTITION,
        sequences: Some(SequenceRange { first: Sequence(100), last: Sequence(104) }),
        journal_bytes: (0, 0),
        append_ms: (1_700_000_000_100, 1_700_000_000_104),
        last_stable_offset: 105,
        number,
        generation: 0,
        base_nonce: super::DEFAULT_NONCE,
        parity_shards: 2,
    }
}

pub(super) fn body(first: i64, epoch: i32) -> Body {
    Body::build(&batches(first, epoch), parts(), 4).unwrap()
}

pub(super) fn sealed(draft: &Draft, first: i64, epoch: i32) -> SealedFragment {
    seal(draft, &body(first, epoch), &secret(), &keys(), [0x0f; 32]).unwrap()
}

pub(super) fn fragment() -> SealedFragment {
    sealed(&draft(21), 100, 5)
}

pub(super) fn servers(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("10.0.0.{i}:6379")).collect()
}

pub(super) fn entry(sealed: &SealedFragment) -> ManifestEntry {
    sealed.entry(servers(sealed.shards.len()), EntryState::Shipped)
}

pub(super) fn from_hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

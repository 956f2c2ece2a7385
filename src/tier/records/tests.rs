use proptest::prelude::*;

use super::super::testing::{CLUSTER, PARTITION, entry, fragment, from_hex, key, keys, secret};
use super::*;

fn topic() -> TopicRecord {
    let id = PARTITION.topic;
    TopicRecord {
        revision: 3,
        id,
        name: TopicName::new("vdisk-1").unwrap(),
        partitions: 1,
        options: vec![
            ("tlog.vdisk".to_owned(), "true".to_owned()),
            ("tlog.block.size".to_owned(), "4096".to_owned()),
        ],
        secret: Some(keys().wrap(&secret(), CLUSTER, id, [9; 12])),
        deleted: false,
        shredded: false,
    }
}

fn head() -> HeadRecord {
    HeadRecord {
        epoch: LeaderEpoch(6),
        number: 21,
        shipped_offset: 105,
        hash: [1; 32],
        public_hash: [2; 32],
        abandoned: vec![17, 19],
    }
}

fn full_entry() -> ManifestEntry {
    let mut entry = entry(&fragment());
    entry.revision = 2;
    entry.state = EntryState::Complete;
    entry.replaced = vec![([3; 32], [4; 32])];
    entry
}

#[test]
fn records_come_back() {
    let keys = keys();
    let (topic, entry, head) = (topic(), full_entry(), head());
    let bytes = topic.encode(&keys).unwrap();
    assert_eq!(TopicRecord::decode(&bytes, topic.id, &keys).unwrap(), topic);
    assert_eq!(record_kid(&bytes).unwrap(), 7);
    let shredded = TopicRecord { secret: None, deleted: true, shredded: true, ..topic };
    let bytes = shredded.encode(&keys).unwrap();
    assert_eq!(TopicRecord::decode(&bytes, shredded.id, &keys).unwrap(), shredded);
    let bytes = entry.encode(PARTITION, &keys).unwrap();
    assert_eq!(ManifestEntry::decode(&bytes, PARTITION, 21, &keys).unwrap(), entry);
    assert_eq!(record_kid(&bytes).unwrap(), 7);
    let plain = ManifestEntry { sequences: None, highest_producer_id: -1, ..entry };
    let bytes = plain.encode(PARTITION, &keys).unwrap();
    assert_eq!(ManifestEntry::decode(&bytes, PARTITION, 21, &keys).unwrap(), plain);
    let bytes = head.encode(PARTITION, &keys).unwrap();
    assert_eq!(HeadRecord::decode(&bytes, PARTITION, &keys).unwrap(), head);
    assert_eq!(record_kid(&bytes).unwrap(), 7);
    let meta = ClusterMeta::new(CLUSTER);
    assert_eq!(ClusterMeta::decode(&meta.encode()).unwrap(), meta);
}

type Refuses<'a> = &'a dyn Fn(&[u8]) -> bool;

#[test]
fn every_changed_byte_is_refused() {
    let keys = keys();
    let (topic, entry) = (topic(), full_entry());
    let topics = topic.encode(&keys).unwrap();
    let entries = entry.encode(PARTITION, &keys).unwrap();
    let heads = head().encode(PARTITION, &keys).unwrap();
    let meta = ClusterMeta::new(CLUSTER).encode();
    let all: [(&[u8], Refuses<'_>); 4] = [
        (&topics, &|bytes| TopicRecord::decode(bytes, topic.id, &keys).is_err()),
        (&entries, &|bytes| ManifestEntry::decode(bytes, PARTITION, 21, &keys).is_err()),
        (&heads, &|bytes| HeadRecord::decode(bytes, PARTITION, &keys).is_err()),
        (&meta, &|bytes| ClusterMeta::decode(bytes).is_err()),
    ];
    for (good, is_refused) in all {
        assert!(!is_refused(good));
        for at in 0..good.len() {
            let mut changed = good.to_vec();
            changed[at] ^= 1 << (at % 8);
            assert!(is_refused(&changed), "byte {at}");
        }
        for length in 0..good.len() {
            assert!(is_refused(&good[..length]), "{length} bytes");
        }
        assert!(is_refused(&[good, b"x"].concat()));
    }
}

#[test]
fn a_record_moved_elsewhere_is_refused() {
    let keys = keys();
    let other = TopicPartition { partition: 4, ..PARTITION };
    let bytes = full_entry().encode(PARTITION, &keys).unwrap();
    let moved = ManifestEntry::decode(&bytes, other, 21, &keys);
    assert!(matches!(moved, Err(RecordError::Unauthentic { .. })), "{moved:?}");
    let moved = ManifestEntry::decode(&bytes, PARTITION, 22, &keys);
    assert!(matches!(moved, Err(RecordError::Misplaced { field: "number", .. })), "{moved:?}");
    let as_head = HeadRecord::decode(&bytes, PARTITION, &keys);
    assert!(matches!(as_head, Err(RecordError::Malformed(Malformed::Range { .. }))));
    let bytes = topic().encode(&keys).unwrap();
    let moved = TopicRecord::decode(&bytes, TopicId([1; 16]), &keys);
    assert!(matches!(moved, Err(RecordError::Misplaced { field: "topic id", .. })), "{moved:?}");
    let bytes = head().encode(PARTITION, &keys).unwrap();
    let moved = HeadRecord::decode(&bytes, other, &keys);
    assert!(matches!(moved, Err(RecordError::Unauthentic { .. })), "{moved:?}");
}

#[test]
fn a_wrong_key_is_told_from_a_forgery() {
    let bytes = head().encode(PARTITION, &keys()).unwrap();
    let of = |keys: &KeyRing, bytes: &[u8]| HeadRecord::decode(bytes, PARTITION, keys).unwrap_err();
    let wrong = of(&KeyRing::new(7, key(2)), &bytes);
    assert!(matches!(wrong, RecordError::WrongKey(WrongKey::Other { kid: 7 })), "{wrong:?}");
    let absent = of(&KeyRing::new(8, key(1)), &bytes);
    assert!(matches!(absent, RecordError::WrongKey(WrongKey::Absent { kid: 7 })), "{absent:?}");
    let mut changed = bytes.clone();
    changed[PREFIX_BYTES + 20] ^= 1;
    assert!(matches!(of(&keys(), &changed), RecordError::Unauthentic { .. }));
    // The number of the key is under the MAC, too.
    let mut ring = keys();
    ring.add(8, key(1)).unwrap();
    let mut changed = bytes;
    changed[8] = 8;
    assert!(matches!(of(&ring, &changed), RecordError::Unauthentic { .. }));
}

#[test]
fn what_cannot_be_is_not_written() {
    let keys = keys();
    let mut entry = full_entry();
    entry.servers.pop();
    assert!(matches!(entry.encode(PARTITION, &keys), Err(Malformed::Length { .. })));
    let backwards = HeadRecord { abandoned: vec![3, 2], ..head() };
    assert!(backwards.encode(PARTITION, &keys).is_err());
    let none = TopicRecord { partitions: 0, ..topic() };
    assert!(none.encode(&keys).is_err());
    let many = TopicRecord { options: vec![(String::new(), String::new()); 257], ..topic() };
    assert!(matches!(many.encode(&keys), Err(Malformed::TooLarge { .. })));
}

#[test]
fn a_newer_cluster_is_refused_with_words() {
    let newer = ClusterMeta { format: 2, ..ClusterMeta::new(CLUSTER) };
    let found = ClusterMeta::decode(&newer.encode()).unwrap_err();
    assert!(found.to_string().contains("newer"), "{found}");
}

/// Kept samples of format 1.
#[test]
fn kept_records_are_made_again_and_read() {
    let keys = keys();
    let (topic, entry, head, meta) = (topic(), full_entry(), head(), ClusterMeta::new(CLUSTER));
    let samples: [(&[u8], Vec<u8>); 4] = [
        (include_bytes!("../testdata/topic-v1.record"), topic.encode(&keys).unwrap()),
        (include_bytes!("../testdata/entry-v1.record"), entry.encode(PARTITION, &keys).unwrap()),
        (include_bytes!("../testdata/head-v1.record"), head.encode(PARTITION, &keys).unwrap()),
        (include_bytes!("../testdata/meta-v1.record"), meta.encode()),
    ];
    for (sample, made) in &samples {
        assert!(*sample == made.as_slice(), "the stored form has changed");
    }
    assert_eq!(TopicRecord::decode(samples[0].0, topic.id, &keys).unwrap(), topic);
    assert_eq!(ManifestEntry::decode(samples[1].0, PARTITION, 21, &keys).unwrap(), entry);
    assert_eq!(HeadRecord::decode(samples[2].0, PARTITION, &keys).unwrap(), head);
    assert_eq!(ClusterMeta::decode(samples[3].0).unwrap(), meta);
}

/// Computed by a separate program in another language from the drawing in `tier/mod.rs`, over the kept fragment.
#[test]
fn the_hashes_in_an_entry_are_those_computed_elsewhere() {
    let entry = full_entry();
    assert_eq!(entry.hash.to_vec(), from_hex(HASH_ELSEWHERE));
    assert_eq!(entry.public_hash.to_vec(), from_hex(PUBLIC_HASH_ELSEWHERE));
}

const HASH_ELSEWHERE: &str = "3deb606c51c467d51273b0a63d417dc793f60bd73cc2161b5097de495281f995";
const PUBLIC_HASH_ELSEWHERE: &str =
    "ef1e06b4e147d1997b707a4e9177a33b6b20ecec7675d6464eff9d5ad72d926e";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn no_content_makes_a_reader_panic(
        at in 0usize..700, bytes in prop::collection::vec(any::<u8>(), 0..100), cut in 0usize..900,
    ) {
        let keys = keys();
        let mut content = full_entry().encode(PARTITION, &keys).unwrap();
        content.truncate(content.len() - MAC_BYTES);
        content.drain(..PREFIX_BYTES);
        content.iter_mut().skip(at).zip(&bytes).for_each(|(place, byte)| *place = *byte);
        content.truncate(cut);
        for content in [&content, &bytes] {
            let _ = ManifestEntry::read(content);
            let _ = TopicRecord::read(content);
            let _ = HeadRecord::read(content);
            let _ = ManifestEntry::decode(content, PARTITION, 21, &keys);
        }
    }
}

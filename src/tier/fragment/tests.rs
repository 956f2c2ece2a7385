use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::body::TrailerParts;
use super::super::error::WrongKey;
use super::super::testing::{
    PARTITION, batches, body, context, draft, entry, fragment, key, keys, parts, sealed, secret,
};
use super::*;
use crate::types::TopicId;

fn some(sealed: &SealedFragment) -> Vec<Option<Bytes>> {
    sealed.shards.iter().cloned().map(Some).collect()
}

fn plain() -> Vec<u8> {
    batches(100, 5).iter().flat_map(|batch| batch.bytes.to_vec()).collect()
}

/// The shard with its checksum made to fit, as somebody with bad intent would.
fn with_good_crc(mut shard: Vec<u8>) -> Vec<u8> {
    let end = shard.len() - CRC_BYTES;
    let crc = crc32c::crc32c(&shard[..end]);
    shard[end..].copy_from_slice(&crc.to_le_bytes());
    shard
}

/// Shard 0 under another header, its checksum made to fit.
fn with_header(change: impl FnOnce(&mut FragmentHeader)) -> Vec<u8> {
    let sealed = fragment();
    let mut header = sealed.header.clone();
    change(&mut header);
    let header = header.encode().unwrap();
    let rest = &sealed.shards[0][PREFIX_BYTES + sealed.header_bytes.len()..];
    let shard_bytes = (rest.len() - TAG_BYTES - CRC_BYTES) as u32;
    with_good_crc([&prefix(0, header.len() as u32, shard_bytes)[..], &header, rest].concat())
}

/// Made once: sealing takes a while without optimisation.
static ENTRY: LazyLock<ManifestEntry> = LazyLock::new(|| entry(&fragment()));
static KEYS: LazyLock<KeyRing> = LazyLock::new(keys);

fn open(shard: &[u8], index: u8) -> Result<OpenedShard, ShardError> {
    open_shard(shard, index, &Wanted::Entry(&ENTRY), &context(&KEYS, &secret()))
}

fn refused(shard: &[u8], index: u8) -> ShardError {
    open(shard, index).map(|_| ()).expect_err("refused")
}

#[test]
fn all_shards_open_and_give_the_batches_back() {
    let sealed = fragment();
    let (entry, keys, secret) = (entry(&sealed), keys(), secret());
    let opened =
        open_fragment(&some(&sealed), &Wanted::Entry(&entry), &context(&keys, &secret)).unwrap();
    assert_eq!(opened.batches, plain());
    assert_eq!(opened.header, sealed.header);
    assert_eq!(opened.header_bytes, sealed.header_bytes);
    assert_eq!(opened.trailer.commits, Some(vec![90, 90, 500]));
    assert_eq!(opened.trailer.producers, parts().producers);
    assert_eq!(opened.trailer.journal, parts().journal);
    assert!(opened.faults.is_empty());
    let lengths: Vec<u64> = sealed.shards.iter().map(|shard| shard.len() as u64).collect();
    assert_eq!(lengths, [entry.object_bytes(); 6]);
}

#[test]
fn a_header_says_what_it_was_given() {
    let header = fragment().header;
    assert_eq!((header.size, header.first_offset, header.last_offset), (5, 100, 104));
    assert_eq!((header.first_commit, header.last_commit), (90, 500));
    assert_eq!((header.aborted_count, header.full, header.kid), (1, true, 7));
    assert_eq!((header.data_shards, header.parity_shards), (4, 2));
    assert_eq!(header.shard_bytes(), 1024);
    assert_eq!(FragmentHeader::decode(&fragment().header_bytes).unwrap(), header);
    let without = FragmentHeader { sequences: None, ..header };
    assert_eq!(FragmentHeader::decode(&without.encode().unwrap()).unwrap(), without);
}

/// A name, the damaged shard, and whether an error is the right one.
type Damage = (&'static str, Option<Bytes>, fn(&ShardError) -> bool);

/// Every way in which a test damages a shard, and what it must be called.
fn damages() -> Vec<Damage> {
    let good = fragment();
    let shard = |of: &SealedFragment| Some(of.shards[0].clone());
    let mut rotten = good.shards[0].to_vec();
    rotten[900] ^= 4;
    let mut forged = good.shards[0].to_vec();
    forged[900] ^= 4;
    let other_topic = TopicPartition { topic: TopicId([9; 16]), ..PARTITION };
    let misplaced: fn(&ShardError) -> bool = |e| matches!(e, ShardError::Misplaced { .. });
    vec![
        ("missing", None, |e| *e == ShardError::Missing),
        ("empty", Some(Bytes::new()), |e| *e == ShardError::Rotten),
        ("rotten", Some(rotten.into()), |e| *e == ShardError::Rotten),
        ("truncated", Some(good.shards[0].slice(..700)), |e| *e == ShardError::Rotten),
        ("forged", Some(with_good_crc(forged).into()), |e| *e == ShardError::Forged),
        (
            "other vdisk",
            shard(&sealed(&Draft { partition: other_topic, ..draft(21) }, 100, 5)),
            misplaced,
        ),
        ("other number", shard(&sealed(&draft(22), 100, 5)), misplaced),
        ("other offsets", shard(&sealed(&draft(21), 200, 5)), misplaced),
        ("older epoch", shard(&sealed(&draft(21), 100, 4)), misplaced),
        (
            "other generation",
            shard(&sealed(&Draft { generation: 1, ..draft(21) }, 100, 5)),
            misplaced,
        ),
        (
            "other seal",
            shard(&{ seal(&draft(21), &body(100, 5), &secret(), &keys(), [0xee; 32]).unwrap() }),
            misplaced,
        ),
    ]
}

#[test]
fn each_kind_of_damage_has_its_name() {
    for (name, shard, is_right) in damages().into_iter().skip(1) {
        let found = refused(&shard.unwrap(), 0);
        assert!(is_right(&found), "{name}: {found}");
    }
    // A sound shard in the place of another index.
    let shards = fragment().shards;
    assert_eq!(refused(&shards[1], 0), ShardError::Misplaced { field: "index" });
    assert_eq!(refused(&shards[0], 5), ShardError::Misplaced { field: "index" });
}

#[test]
fn any_two_of_six_may_be_lost_in_any_way() {
    let sealed = fragment();
    let (entry, keys, secret) = (entry(&sealed), keys(), secret());
    let context = context(&keys, &secret);
    for (name, damaged, _) in damages() {
        for a in 0..6 {
            for b in a..6 {
                let mut shards = some(&sealed);
                shards[a] = damaged.clone();
                shards[b] = damaged.clone();
                let opened = open_fragment(&shards, &Wanted::Entry(&entry), &context)
                    .unwrap_or_else(|error| panic!("{name} {a} {b}: {error}"));
                assert_eq!(opened.batches, plain(), "{name} {a} {b}");
                if b == a + 1 {
                    let made = repair(&opened, &entry, &context).unwrap();
                    assert_eq!(made, sealed.shards, "{name} {a} {b}");
                }
            }
        }
    }
}

#[test]
fn three_of_six_lost_is_a_clean_error() {
    let sealed = fragment();
    let (entry, keys, secret) = (entry(&sealed), keys(), secret());
    for (name, damaged, _) in damages() {
        let mut shards = some(&sealed);
        shards[1..4].fill(damaged.clone());
        let found = open_fragment(&shards, &Wanted::Entry(&entry), &context(&keys, &secret));
        let Err(FragmentError::TooFewShards { good: 3, needed: 4, faults }) = found else {
            panic!("{name}: {found:?}");
        };
        assert_eq!(faults.0.iter().map(|fault| fault.index).collect::<Vec<_>>(), [1, 2, 3]);
    }
    let short = open_fragment(&[], &Wanted::Entry(&entry), &context(&keys, &secret));
    assert!(matches!(short, Err(FragmentError::TooFewShards { good: 0, .. })));
}

#[test]
fn every_flipped_byte_is_refused() {
    let sealed = fragment();
    let shard = &sealed.shards[0];
    let text_at = PREFIX_BYTES + sealed.header_bytes.len();
    let tag_end = shard.len() - CRC_BYTES;
    for at in 0..tag_end {
        let mut changed = shard.to_vec();
        changed[at] ^= 1 << (at % 8);
        assert_eq!(refused(&changed, 0), ShardError::Rotten, "byte {at}");
        let found = refused(&with_good_crc(changed), 0);
        let is_right = match at {
            _ if at >= text_at => found == ShardError::Forged,
            _ => found != ShardError::Rotten && found != ShardError::Missing,
        };
        assert!(is_right, "byte {at}: {found}");
    }
    // The checksum itself: the content is right, and the shard wants repair.
    for at in tag_end..shard.len() {
        let mut changed = shard.to_vec();
        changed[at] ^= 1;
        assert!(!open(&changed, 0).unwrap().checksum_fits);
    }
    for length in 0..shard.len() {
        assert_eq!(refused(&shard[..length], 0), ShardError::Rotten, "{length} bytes");
    }
    assert_eq!(refused(&[shard, &b"x"[..]].concat(), 0), ShardError::Rotten);
}

#[test]
fn a_changed_header_is_refused_with_the_right_class() {
    let misplaced = |field| ShardError::Misplaced { field };
    let wrong_key = |kid| ShardError::WrongKey(WrongKey::Other { kid });
    let of = |change: fn(&mut FragmentHeader)| refused(&with_header(change), 0);
    assert_eq!(of(|h| h.number += 1), misplaced("number"));
    assert_eq!(of(|h| h.generation += 1), misplaced("generation"));
    assert_eq!(of(|h| h.partition.partition += 1), misplaced("partition"));
    assert_eq!(of(|h| h.cluster.0[0] ^= 1), misplaced("cluster"));
    assert_eq!(of(|h| h.leader_epoch.0 += 1), misplaced("leader epoch"));
    assert_eq!(of(|h| h.first_offset -= 1), misplaced("first offset"));
    assert_eq!(of(|h| h.last_offset += 1), misplaced("last offset"));
    assert_eq!(of(|h| h.kid = 8), misplaced("key id"));
    assert_eq!(of(|h| h.parity_shards = 3), misplaced("number of parity shards"));
    assert_eq!(of(|h| h.previous_hash[0] ^= 1), misplaced("previous hash"));
    assert_eq!(of(|h| h.key_fingerprint[0] ^= 1), wrong_key(7));
    let forged: [fn(&mut FragmentHeader); 9] = [
        |h| h.previous_public_hash[0] ^= 1,
        |h| h.salt[0] ^= 1,
        |h| h.base_nonce[11] ^= 1,
        |h| h.compression = 1,
        |h| h.timestamp_ns += 1,
        |h| h.vdisk_id.push('x'),
        |h| h.size += 1,
        |h| h.last_stable_offset += 1,
        |h| h.data_dir.0[0] ^= 1,
    ];
    for change in forged {
        assert_eq!(of(change), ShardError::Forged);
    }
    assert!(open(&with_header(|_| ()), 0).is_ok(), "the unchanged header passes");
}

#[test]
fn a_changed_prefix_is_refused_with_the_right_class() {
    let shards = fragment().shards;
    let changed = |shard: usize, at: usize, byte: u8| {
        let mut bytes = shards[shard].to_vec();
        bytes[at] = byte;
        with_good_crc(bytes)
    };
    let unsupported = |what, found| ShardError::Unsupported { what, found };
    assert_eq!(refused(&changed(0, 0, b'X'), 0), ShardError::Misplaced { field: "magic" });
    assert_eq!(refused(&changed(0, 4, 2), 0), unsupported("format", 2));
    assert_eq!(refused(&changed(0, 6, 2), 0), unsupported("suite", 2));
    assert_eq!(refused(&changed(0, 6, 0), 0), unsupported("suite", 0));
    assert_eq!(refused(&changed(0, 7, 1), 0), ShardError::Misplaced { field: "index" });
    // Shard 1 dressed up as shard 0.
    assert_eq!(refused(&changed(1, 7, 0), 0), ShardError::Forged);
    assert_eq!(refused(&changed(0, 11, 0xff), 0), ShardError::Forged, "header length");
    assert_eq!(refused(&changed(0, 15, 0xff), 0), ShardError::Forged, "shard length");
}

#[test]
fn another_key_or_secret_opens_nothing() {
    let sealed = fragment();
    let (entry, secret) = (entry(&sealed), secret());
    let of = |keys: &KeyRing, secret: &TopicSecret| {
        open_shard(&sealed.shards[0], 0, &Wanted::Entry(&entry), &context(keys, secret)).err()
    };
    let wrong = |error| Some(ShardError::WrongKey(error));
    assert_eq!(of(&KeyRing::new(7, key(2)), &secret), wrong(WrongKey::Other { kid: 7 }));
    assert_eq!(of(&KeyRing::new(8, key(1)), &secret), wrong(WrongKey::Absent { kid: 7 }));
    assert_eq!(of(&keys(), &TopicSecret::new([1; 32])), Some(ShardError::Forged));
    // Every key of the ring opens, whichever is active.
    let mut ring = KeyRing::new(8, key(2));
    ring.add(7, key(1)).unwrap();
    assert_eq!(of(&ring, &secret), None);
}

#[test]
fn a_retry_from_the_intent_gives_the_same_bytes_or_none() {
    let first = fragment();
    let again = |body: &Body, keys: &KeyRing| {
        reseal(first.header_bytes.clone(), &first.digest, body, &secret(), keys)
    };
    let mut rotated = keys();
    rotated.add(8, key(2)).unwrap();
    rotated.activate(8).unwrap();
    for ring in [keys(), rotated] {
        let second = again(&body(100, 5), &ring).unwrap();
        assert_eq!(second.shards, first.shards);
        assert_eq!((second.hash, second.public_hash), (first.hash, first.public_hash));
    }
    let other_parts = Body::build(&batches(100, 5), TrailerParts::default(), 4).unwrap();
    let other_code = Body::build(&batches(100, 5), parts(), 2).unwrap();
    for other in [body(200, 5), body(100, 6), other_parts, other_code] {
        assert!(matches!(again(&other, &keys()), Err(SealError::Changed { .. })));
    }
    let wrong = again(&body(100, 5), &KeyRing::new(7, key(2)));
    assert!(matches!(wrong, Err(SealError::WrongKey(WrongKey::Other { kid: 7 }))));
}

#[test]
fn a_stuck_random_source_never_gives_two_messages_one_salt() {
    let seals = [
        fragment(),
        sealed(&draft(22), 100, 5),
        sealed(&draft(21), 200, 5),
        sealed(&draft(21), 100, 6),
        sealed(&Draft { generation: 1, ..draft(21) }, 100, 5),
        sealed(&Draft { timestamp_ns: 1, ..draft(21) }, 100, 5),
    ];
    for (i, a) in seals.iter().enumerate() {
        for b in seals.iter().skip(i + 1) {
            assert_ne!(a.header.salt, b.header.salt);
        }
    }
    assert_eq!(fragment().shards, seals[0].shards, "the same everything gives the same");
}

#[test]
fn repair_gives_out_nothing_that_the_manifest_does_not_name() {
    let sealed = fragment();
    let (mut entry, keys, secret) = (entry(&sealed), keys(), secret());
    let context = context(&keys, &secret);
    let opened = open_fragment(&some(&sealed), &Wanted::Entry(&entry), &context).unwrap();
    entry.tags[3][0] ^= 1;
    let found = repair(&opened, &entry, &context);
    assert!(matches!(found, Err(FragmentError::NotTheSame { index: 3 })), "{found:?}");
}

/// Sealed rightly, around a body that is wrong: what a tag cannot see.
fn sealed_around(change: impl FnOnce(&mut FragmentHeader, &mut Vec<u8>)) -> SealedFragment {
    let (mut header, mut body) = (fragment().header, body(100, 5));
    change(&mut header, &mut body.bytes);
    let bytes = Bytes::from(header.encode().unwrap());
    make(header, bytes, [0; 32], &body.bytes, body.facts, &secret(), &keys()).unwrap()
}

#[test]
fn wrong_content_under_a_good_seal_is_refused() {
    let of = |sealed: SealedFragment| {
        let (keys, secret) = (keys(), secret());
        open_fragment(&some(&sealed), &Wanted::Entry(&entry(&sealed)), &context(&keys, &secret))
            .err()
            .unwrap()
    };
    let first = batches(100, 5)[0].bytes.len();
    let trailer_at = plain().len();
    let body = |error| matches!(error, FragmentError::Body(_));
    assert!(body(of(sealed_around(|_, bytes| bytes[70] ^= 1))), "a record");
    assert!(body(of(sealed_around(|_, bytes| bytes[first + 7] ^= 1))), "an offset");
    assert!(body(of(sealed_around(|_, bytes| bytes[first + 15] ^= 1))), "an epoch");
    assert!(body(of(sealed_around(|_, bytes| bytes[trailer_at + 20] ^= 1))), "the trailer");
    assert!(body(of(sealed_around(|_, bytes| bytes[trailer_at + 4] = 2))), "the trailer's format");
    assert!(body(of(sealed_around(|_, bytes| *bytes.last_mut().unwrap() = 1))), "the padding");
    assert!(body(of(sealed_around(|header, _| header.last_offset += 1))), "the range");
    assert!(body(of(sealed_around(|header, _| header.size += 1))), "the count");
    assert!(body(of(sealed_around(|header, _| header.batch_lengths.swap(0, 1)))), "the lengths");
    let compressed = of(sealed_around(|header, _| header.compression = 3));
    assert!(matches!(compressed, FragmentError::Compression { found: 3 }));
}

#[test]
fn without_an_entry_shards_with_equal_headers_go_together() {
    let (first, keys, secret) = (fragment(), keys(), secret());
    let other = seal(&draft(21), &body(200, 5), &secret, &keys, [0xee; 32]).unwrap();
    let wanted = Wanted::Name { number: 21, generation: 0, shards: 6 };
    let mut shards = some(&first);
    shards[1] = Some(other.shards[1].clone());
    shards[4] = Some(other.shards[4].clone());
    let opened = open_fragment(&shards, &wanted, &context(&keys, &secret)).unwrap();
    assert_eq!(opened.batches, plain());
    // Three of each are six good shards and no fragment.
    shards[5] = Some(other.shards[5].clone());
    let found = open_fragment(&shards, &wanted, &context(&keys, &secret));
    assert!(matches!(found, Err(FragmentError::TooFewShards { good: 3, needed: 4, .. })));
}

#[test]
fn the_chain_hashes_cover_header_and_tags() {
    let sealed = fragment();
    assert_eq!(public_hash(&sealed.header_bytes, &sealed.tags), sealed.public_hash);
    let mut tags = sealed.tags.clone();
    tags.swap(0, 1);
    assert_ne!(public_hash(&sealed.header_bytes, &tags), sealed.public_hash);
    let keyed = |keys: KeyRing| keys.chain_hash(7, &sealed.header_bytes, &sealed.tags).unwrap();
    assert_eq!(keyed(keys()), sealed.hash);
    assert_ne!(keyed(KeyRing::new(7, key(2))), sealed.hash);
}

/// The kept samples: fragments that were written stay readable, and the same input still gives their bytes.
const SAMPLES: [&[u8]; 6] = [
    include_bytes!("../testdata/fragment-v1.0.shard"),
    include_bytes!("../testdata/fragment-v1.1.shard"),
    include_bytes!("../testdata/fragment-v1.2.shard"),
    include_bytes!("../testdata/fragment-v1.3.shard"),
    include_bytes!("../testdata/fragment-v1.4.shard"),
    include_bytes!("../testdata/fragment-v1.5.shard"),
];

#[test]
fn the_kept_samples_are_made_again_byte_for_byte() {
    let sealed = fragment();
    for (sample, made) in SAMPLES.iter().zip(&sealed.shards) {
        assert!(*sample == made.as_ref(), "the stored form has changed");
    }
}

#[test]
fn the_kept_samples_open() {
    let (keys, secret) = (keys(), secret());
    let shards: Vec<_> = SAMPLES.iter().map(|s| Some(Bytes::from_static(s))).collect();
    let wanted = Wanted::Name { number: 21, generation: 0, shards: 6 };
    let opened = open_fragment(&shards[2..], &wanted, &context(&keys, &secret));
    assert!(opened.is_err(), "shards in the wrong places");
    let mut lost = shards;
    lost[..2].fill(None);
    let opened = open_fragment(&lost, &wanted, &context(&keys, &secret)).unwrap();
    assert_eq!(opened.batches, plain());
    assert_eq!(opened.trailer.aborted, parts().aborted);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn no_bytes_make_the_reader_panic(
        at in 0usize..1_600, bytes in prop::collection::vec(any::<u8>(), 0..60), cut in 0usize..1_700,
    ) {
        let mut shard = fragment().shards[0].to_vec();
        for (place, byte) in shard.iter_mut().skip(at).zip(&bytes) {
            *place = *byte;
        }
        shard.truncate(cut.max(24));
        let _ = open(&with_good_crc(shard), 0);
        let _ = open(&bytes, 0);
        let _ = FragmentHeader::decode(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_shape_comes_back(data in 1u8..=16, parity in 0u8..=8, first in 0i64..1_000) {
        let body = Body::build(&batches(first, 2), parts(), data).unwrap();
        let draft = Draft { parity_shards: parity, ..draft(1) };
        let (keys, secret) = (keys(), secret());
        let sealed = seal(&draft, &body, &secret, &keys, [1; 32]).unwrap();
        let entry = entry(&sealed);
        let mut shards = some(&sealed);
        shards[..usize::from(parity)].fill(None);
        let opened = open_fragment(&shards, &Wanted::Entry(&entry), &context(&keys, &secret));
        let expected: Vec<u8> = batches(first, 2).iter().flat_map(|b| b.bytes.to_vec()).collect();
        prop_assert_eq!(opened.unwrap().batches, expected);
    }
}

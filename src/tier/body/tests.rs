use proptest::prelude::*;

use super::super::testing::{batch, batches, body, parts};
use super::*;

fn build(batches: &[BodyBatch]) -> Result<Body, BodyError> {
    Body::build(batches, TrailerParts::default(), 4)
}

#[test]
fn a_body_is_batches_trailer_and_zeros_to_a_multiple_of_k_kib() {
    let body = body(100, 5);
    let all: Vec<u8> = batches(100, 5).iter().flat_map(|batch| batch.bytes.to_vec()).collect();
    assert_eq!(body.bytes[..all.len()], all);
    assert_eq!(body.bytes[all.len()..all.len() + 4], *b"TLTR");
    assert_eq!(body.bytes.len() % 4096, 0);
    assert!(body.bytes[body.body_bytes..].iter().all(|byte| *byte == 0));
    let facts = body.facts();
    assert_eq!((facts.first_offset, facts.last_offset, facts.records), (100, 104, 5));
    assert_eq!((facts.leader_epoch, facts.highest_producer_id), (LeaderEpoch(5), 4_000));
    assert_eq!(facts.min_timestamp_ms, 1_700_000_000_100);
    assert_eq!(facts.max_timestamp_ms, 1_700_000_000_104);
    assert_eq!(body.commits(), (90, 500));
}

#[test]
fn what_a_reader_would_refuse_is_not_built() {
    assert!(matches!(build(&[]), Err(BodyError::Empty)));
    let good = batches(100, 5);

    let mut gap = good.clone();
    gap.remove(1);
    assert!(matches!(build(&gap), Err(BodyError::Gap { found: 103, expected: 102 })));

    let mut epoch = good.clone();
    epoch[2].bytes = batch(103, 6, &[b"four"]);
    assert!(matches!(build(&epoch), Err(BodyError::Epoch { found: 6, expected: 5, .. })));

    let mut commits = good.clone();
    commits[2].commit = 89;
    assert!(matches!(build(&commits), Err(BodyError::Commits { found: 89, before: 90 })));

    let mut rotten = good.clone();
    let mut bytes = rotten[1].bytes.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    rotten[1].bytes = bytes.into();
    assert!(matches!(build(&rotten), Err(BodyError::BatchCrc { offset: 102 })));

    let mut short = good.clone();
    short[0].bytes = short[0].bytes.slice(..70);
    assert!(matches!(build(&short), Err(BodyError::BatchLength { position: 0, .. })));

    let mut two = good.clone();
    two[0].bytes = [two[0].bytes.clone(), two[1].bytes.clone()].concat().into();
    assert!(matches!(build(&two), Err(BodyError::BatchLength { position: 0, .. })));

    let mut cut = good;
    cut[0].bytes = cut[0].bytes.slice(..20);
    assert!(matches!(build(&cut), Err(BodyError::Batch { position: 0, .. })));
}

fn header(first_commit: u64, batches: usize) -> FragmentHeader {
    let mut header = super::super::testing::fragment().header;
    header.first_commit = first_commit;
    header.batch_lengths = vec![61; batches];
    header
}

#[test]
fn all_parts_of_a_trailer_come_back() {
    let parts = parts();
    let trailer = Trailer {
        commits: Some(vec![90, 90, 500]),
        aborted: parts.aborted,
        producers: parts.producers,
        journal: parts.journal,
    };
    let bytes = trailer.encode().unwrap();
    assert_eq!(Trailer::decode(&bytes, &header(90, 3)).unwrap(), trailer);
}

#[test]
fn absent_parts_are_no_failure() {
    let bytes = Trailer::default().encode().unwrap();
    assert_eq!(Trailer::decode(&bytes, &header(1, 3)).unwrap(), Trailer::default());
}

#[test]
fn every_changed_byte_of_a_trailer_is_noticed() {
    let commits = Some(vec![90, 91, 500]);
    let bytes = Trailer { commits, ..Trailer::default() }.encode().unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(Trailer::decode(&changed, &header(90, 3)).is_err(), "byte {at}");
        assert!(Trailer::decode(&bytes[..at], &header(90, 3)).is_err(), "cut at {at}");
    }
}

#[test]
fn commit_numbers_need_one_varint_per_batch() {
    let encoded = encode_commits(&[5, 5, 132, u64::MAX]);
    assert_eq!(decode_commits(&encoded, 5, 4).unwrap(), [5, 5, 132, u64::MAX]);
    assert!(decode_commits(&encoded, 5, 3).is_err());
    assert!(decode_commits(&encoded, 6, 4).is_err(), "beyond the largest");
    assert!(decode_commits(&[0x80], 0, 1).is_err(), "cut off");
    assert!(decode_commits(&[0xff; 10], 0, 1).is_err(), "too long");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_ascending_commits_come_back(mut commits in prop::collection::vec(any::<u64>(), 1..50)) {
        commits.sort_unstable();
        let encoded = encode_commits(&commits);
        prop_assert_eq!(decode_commits(&encoded, commits[0], commits.len()).unwrap(), commits);
    }

    #[test]
    fn no_bytes_make_the_trailer_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Trailer::decode(&bytes, &header(0, 1));
        let mut sound = b"TLTR\x01\0\0\0".to_vec();
        sound.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        sound.extend_from_slice(&bytes);
        sound.extend_from_slice(&crc32c::crc32c(&sound).to_le_bytes());
        let _ = Trailer::decode(&sound, &header(0, 1));
    }
}

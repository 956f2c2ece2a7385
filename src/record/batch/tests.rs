use proptest::prelude::*;

use super::super::{BatchBuilder, Records, check_records, plain_records};
use super::*;

const CODECS: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

#[derive(Debug, Clone)]
struct Sample {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let field = move || prop::option::of(bytes());
    let headers = prop::collection::vec(("[a-c]{0,3}", bytes()), 0..4);
    let sample = (0i64..1 << 50, field(), field(), headers)
        .prop_map(|(timestamp, key, value, headers)| Sample { timestamp, key, value, headers });
    prop::collection::vec(sample, 1..12)
}

fn build(samples: &[Sample], codec: Compression) -> Vec<u8> {
    let mut builder = BatchBuilder::new(1_000).compression(codec).producer(5, 1, 9);
    for sample in samples {
        let headers: Vec<_> =
            sample.headers.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
        builder.push(sample.timestamp, sample.key.as_deref(), sample.value.as_deref(), &headers);
    }
    assert_eq!(builder.len(), samples.len());
    builder.build()
}

fn plain_batch() -> Vec<u8> {
    let mut builder = BatchBuilder::new(7);
    builder.push(7, Some(b"k"), Some(b"v"), &[]);
    builder.push(9, None, None, &[("a", b"1"), ("a", b"2")]);
    builder.build()
}

/// `batch` with `bytes` at `at`, its CRC renewed.
fn with(mut batch: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    set_crc(&mut batch);
    batch
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_built_is_read_back(samples in samples(), codec in prop::sample::select(&CODECS)) {
        let batch = build(&samples, codec);
        let header = check_batch(&batch).unwrap();
        check_records(&batch, &header).unwrap();
        prop_assert_eq!(header.compression().unwrap(), codec);
        prop_assert_eq!(header.record_count as usize, samples.len());
        prop_assert_eq!(header.max_timestamp, samples.iter().map(|s| s.timestamp).max().unwrap());
        prop_assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (5, 1, 9));
        let plain = plain_records(&batch, &header).unwrap();
        for (record, sample) in Records::new(&plain, &header).zip(&samples) {
            let record = record.unwrap();
            prop_assert_eq!(header.timestamp_of(record.timestamp_delta), sample.timestamp);
            prop_assert_eq!(record.key, sample.key.as_deref());
            prop_assert_eq!(record.value, sample.value.as_deref());
            let headers: Vec<_> = record
                .headers
                .map(|(k, v)| (String::from_utf8(k.to_vec()).unwrap(), v.unwrap().to_vec()))
                .collect();
            prop_assert_eq!(&headers, &sample.headers);
        }
        prop_assert_eq!(Records::new(&plain, &header).count(), samples.len());
    }

    #[test]
    fn one_flipped_bit_behind_the_crc_is_found(
        samples in samples(),
        codec in prop::sample::select(&CODECS),
        place: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let mut batch = build(&samples, codec);
        let at = CRC_AT + place.index(batch.len() - CRC_AT);
        batch[at] ^= 1 << bit;
        prop_assert!(!crc_matches(&batch));
        let error = check_batch(&batch).unwrap_err();
        let is_crc = matches!(error, Error::Crc { .. });
        prop_assert!(is_crc, "{}", error);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        codec in 0u8..8,
        honest: bool,
    ) {
        let mut batch = bytes;
        if honest && batch.len() >= HEADER_BYTES {
            // Past the header checks, so that the rest is reached.
            let length = (batch.len() - PREFIX_BYTES) as i32;
            batch[8..12].copy_from_slice(&length.to_be_bytes());
            batch[16] = 2;
            batch[21..23].copy_from_slice(&i16::from(codec).to_be_bytes());
            batch[23..27].copy_from_slice(&2i32.to_be_bytes());
            batch[57..61].copy_from_slice(&3i32.to_be_bytes());
            set_crc(&mut batch);
        }
        let _ = crc_matches(&batch);
        let _ = check_batch(&batch);
        for item in Batches::new(&batch) {
            let Ok((header, batch)) = item else { continue };
            let _ = (header.last_offset(), header.next_offset(), header.last_sequence());
            let _ = check_records(batch, &header);
        }
    }

    #[test]
    fn a_damaged_records_section_never_panics(
        samples in samples(),
        codec in prop::sample::select(&CODECS),
        place: prop::sample::Index,
        byte: u8,
    ) {
        let mut batch = build(&samples, codec);
        let at = HEADER_BYTES + place.index(batch.len() - HEADER_BYTES);
        batch[at] = byte;
        set_crc(&mut batch);
        let header = check_batch(&batch).unwrap();
        if check_records(&batch, &header).is_ok() {
            let plain = plain_records(&batch, &header).unwrap();
            prop_assert!(Records::new(&plain, &header).all(|record| record.is_ok()));
        }
    }
}

#[test]
fn assigned_fields_are_outside_the_crc() {
    let mut batch = plain_batch();
    assign(&mut batch, 1 << 40, LeaderEpoch(17));
    let header = check_batch(&batch).unwrap();
    assert_eq!((header.base_offset, header.leader_epoch), (1 << 40, 17));
    assert_eq!((header.last_offset(), header.next_offset()), ((1 << 40) + 1, (1 << 40) + 2));
}

#[test]
fn log_append_time_holds_for_every_record_until_cleared() {
    let original = plain_batch();
    let mut batch = original.clone();
    clear_log_append_time(&mut batch);
    assert_eq!(batch, original);

    set_log_append_time(&mut batch, 5_000);
    let header = check_batch(&batch).unwrap();
    assert!(header.is_log_append_time());
    assert_eq!(header.timestamp_of(2), 5_000);

    clear_log_append_time(&mut batch);
    let header = check_batch(&batch).unwrap();
    assert!(!header.is_log_append_time());
    assert_eq!(header.timestamp_of(2), 9);
}

#[test]
fn sequences_wrap_to_zero() {
    let mut builder = BatchBuilder::new(0).producer(1, 0, i32::MAX);
    builder.push(0, None, None, &[]);
    assert_eq!(check_batch(&builder.clone().build()).unwrap().last_sequence(), i32::MAX);
    builder.push(0, None, None, &[]);
    assert_eq!(check_batch(&builder.build()).unwrap().last_sequence(), 0);
    assert_eq!(check_batch(&plain_batch()).unwrap().last_sequence(), -1);
}

#[test]
fn what_only_brokers_write_is_refused_from_clients() {
    for bit in [CONTROL_BIT, DELETE_HORIZON_BIT] {
        let batch = with(plain_batch(), ATTRIBUTES_AT, &bit.to_be_bytes());
        assert_eq!(check_batch(&batch), Err(Error::BrokerAttributes { attributes: bit }));
    }
    for codec in 5..8u8 {
        let batch = with(plain_batch(), ATTRIBUTES_AT, &i16::from(codec).to_be_bytes());
        assert_eq!(check_batch(&batch), Err(Error::Codec { codec }));
    }
    let control = with(plain_batch(), ATTRIBUTES_AT, &CONTROL_BIT.to_be_bytes());
    assert!(BatchHeader::parse(&control).unwrap().is_control());
}

#[test]
fn counts_and_producers_must_make_sense() {
    for (delta, count) in [(-1, 0), (1, 1), (0, 2), (-1, i32::MIN), (i32::MAX, i32::MIN)] {
        let batch = with(plain_batch(), 23, &i32::to_be_bytes(delta));
        let batch = with(batch, 57, &i32::to_be_bytes(count));
        let found = check_batch(&batch);
        assert_eq!(found, Err(Error::Count { count, last_offset_delta: delta }), "{delta} {count}");
    }
    let producer = |id: i64, epoch: i16, sequence: i32| {
        let mut builder = BatchBuilder::new(0).producer(id, epoch, sequence);
        builder.push(0, None, None, &[]);
        builder.build()
    };
    assert!(check_batch(&producer(0, 0, 0)).is_ok());
    for (epoch, sequence) in [(-1, 0), (0, -1)] {
        let found = check_batch(&producer(3, epoch, sequence));
        assert_eq!(found, Err(Error::Producer { id: 3, epoch, sequence }));
    }
    let transactional = with(plain_batch(), ATTRIBUTES_AT, &TRANSACTIONAL_BIT.to_be_bytes());
    assert!(matches!(check_batch(&transactional), Err(Error::Producer { id: -1, .. })));
}

#[test]
fn one_whole_batch_is_due() {
    let batch = plain_batch();
    assert!(check_batch(&[]).unwrap_err().is_corrupt());
    assert!(check_batch(&batch[..60]).unwrap_err().is_corrupt());
    assert!(check_batch(&batch[..batch.len() - 1]).unwrap_err().is_corrupt());
    let two = [batch.clone(), batch.clone()].concat();
    assert_eq!(check_batch(&two), Err(Error::BytesAfterBatch { count: batch.len() }));
    assert_eq!(Batches::new(&two).filter(Result::is_ok).count(), 2);
    let cut: Vec<_> = Batches::new(&two[..two.len() - 1]).collect();
    assert!(cut[0].is_ok() && cut[1].is_err() && cut.len() == 2);
    for length in [48, -1, i32::MIN, i32::MAX] {
        let wrong = with(batch.clone(), 8, &i32::to_be_bytes(length));
        assert_eq!(check_batch(&wrong), Err(Error::Length { batch_length: length }));
    }
    for magic in [0, 1, 3] {
        let old = with(batch.clone(), 16, &[magic]);
        assert_eq!(check_batch(&old), Err(Error::Magic { magic: magic.cast_signed() }));
    }
}

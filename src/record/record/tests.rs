use super::super::varint::put_i32;
use super::super::{BatchBuilder, check_batch};
use super::*;

/// A batch of `count` records in the header and `plain` as its records section.
fn batch_of(count: i32, plain: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(0);
    builder.push(0, None, None, &[]);
    let mut batch = builder.build();
    batch.truncate(HEADER_BYTES);
    batch.extend_from_slice(plain);
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    super::super::batch::set_crc(&mut batch);
    batch
}

fn check(count: i32, plain: &[u8]) -> Result<(), Error> {
    let batch = batch_of(count, plain);
    check_records(&batch, &check_batch(&batch)?)
}

/// A record with this body behind its length.
fn framed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_i32(&mut out, body.len() as i32);
    out.extend_from_slice(body);
    out
}

/// The fault found in a single record with this body.
fn fault(body: &[u8]) -> RecordFault {
    match check(1, &framed(body)) {
        Err(Error::Record { index: 0, fault }) => fault,
        other => panic!("{other:?}"),
    }
}

// attributes, timestamp delta, offset delta, key -1, value -1, no headers
const SMALLEST: [u8; 6] = [0, 0, 0, 1, 1, 0];

#[test]
fn the_smallest_record_passes() {
    assert_eq!(framed(&SMALLEST).len(), LEAST_RECORD_BYTES);
    assert_eq!(check(1, &framed(&SMALLEST)), Ok(()));
}

#[test]
fn the_count_must_be_that_of_the_header() {
    let one = framed(&SMALLEST);
    assert_eq!(check(2, &one), Err(Error::CountBeyondBytes { count: 2, plain_bytes: 7 }));
    assert!(matches!(check(i32::MAX, &one), Err(Error::CountBeyondBytes { .. })));
    let two = [one.clone(), framed(&[0, 0, 2, 1, 1, 0])].concat();
    assert_eq!(check(2, &two), Ok(()));
    assert_eq!(check(1, &two), Err(Error::BytesAfterRecords { count: 7 }));
}

#[test]
fn offset_deltas_count_from_zero() {
    assert_eq!(fault(&[0, 0, 2, 1, 1, 0]), RecordFault::OffsetDelta { found: 1 });
    assert_eq!(fault(&[0, 0, 1, 1, 1, 0]), RecordFault::OffsetDelta { found: -1 });
    let repeated = [framed(&SMALLEST), framed(&SMALLEST)].concat();
    let fault = RecordFault::OffsetDelta { found: 0 };
    assert_eq!(check(2, &repeated), Err(Error::Record { index: 1, fault }));
}

#[test]
fn lengths_must_fit_exactly() {
    // Announces 7 bytes where 6 are left.
    let mut long = framed(&SMALLEST);
    long[0] = 14;
    let fault_found = RecordFault::Length { length: 7, left: 6 };
    assert_eq!(check(1, &long), Err(Error::Record { index: 0, fault: fault_found }));
    long[0] = 1;
    let fault_found = RecordFault::Length { length: -1, left: 6 };
    assert_eq!(check(1, &long), Err(Error::Record { index: 0, fault: fault_found }));

    assert_eq!(fault(&[0, 0, 0, 1, 1, 0, 9]), RecordFault::BytesAfterHeaders { count: 1 });
    assert_eq!(fault(&[0, 0, 0, 8, 1, 0]), RecordFault::Field { length: 4, left: 2 });
    assert_eq!(fault(&[0, 0, 0, 3, 1, 0]), RecordFault::Field { length: -2, left: 2 });
    assert_eq!(fault(&[0, 0, 0, 1, 1, 0x80]), RecordFault::Varint);
    assert_eq!(fault(&[0, 0, 0, 1, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 0]), RecordFault::Varint);
}

#[test]
fn header_counts_are_bounded_by_the_bytes_left() {
    assert_eq!(fault(&[0, 0, 0, 1, 1, 1]), RecordFault::HeaderCount { count: -1, left: 0 });
    assert_eq!(fault(&[0, 0, 0, 1, 1, 4, 0, 1, 0]), RecordFault::HeaderCount { count: 2, left: 3 });
    let most = [0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0];
    assert_eq!(fault(&most), RecordFault::HeaderCount { count: i32::MAX, left: 2 });
    assert_eq!(fault(&[0, 0, 0, 1, 1, 2, 1, 1]), RecordFault::HeaderKey);
    assert_eq!(check(1, &framed(&[0, 0, 0, 1, 1, 2, 0, 1])), Ok(()));
}

#[test]
fn timestamps_stay_in_range() {
    let mut builder = BatchBuilder::new(i64::MAX);
    builder.push(i64::MAX, None, None, &[]);
    builder.push(i64::MIN, None, None, &[]);
    let batch = builder.build();
    let found = check_records(&batch, &check_batch(&batch).unwrap());
    let fault = RecordFault::Timestamp { delta: 1 };
    assert_eq!(found, Err(Error::Record { index: 1, fault }));
}

#[test]
fn repeated_header_keys_keep_their_order() {
    let mut builder = BatchBuilder::new(0);
    builder.push(0, None, None, &[("a", b"1"), ("b", b""), ("a", b"2")]);
    let batch = builder.build();
    let header = check_batch(&batch).unwrap();
    let plain = plain_records(&batch, &header).unwrap();
    let record = Records::new(&plain, &header).next().unwrap().unwrap();
    assert_eq!(record.headers.len(), 3);
    let found: Vec<_> = record.headers.collect();
    assert_eq!(found, [(&b"a"[..], Some(&b"1"[..])), (b"b", Some(b"")), (b"a", Some(b"2"))]);
}

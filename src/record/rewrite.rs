//! What compaction leaves of a batch. Drawn in [`crate::record`].

use super::batch::DELETE_HORIZON_BIT;
use super::builder::{Fields, finish};
use super::{BatchHeader, Compression, Error, HEADER_BYTES, Record, Records};
use crate::types::Offset;
use crate::types::limits::RECORD_BATCH_BYTES;

/// What is left of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remains {
    /// All of it, as it is.
    Unchanged,
    /// This batch, with one record at least.
    Batch(Vec<u8>),
    /// No record.
    Nothing,
}

/// Leaves those records of a whole batch of which `keep` says so. `plain` is what [`super::plain_records`] gave for it. With
/// a `horizon_ms` the batch gets that as its delete horizon, unless it has one.
///
/// A batch that would outgrow what is stored (its deltas are longer, or it compresses worse) is left as it is.
///
/// # Errors
/// [`Error::Codec`], [`Error::Record`], [`Error::BytesAfterRecords`].
pub fn retain(
    header: &BatchHeader,
    plain: &[u8],
    horizon_ms: Option<i64>,
    mut keep: impl FnMut(&Record<'_>) -> bool,
) -> Result<Remains, Error> {
    let compression = header.compression()?;
    let mut kept = Vec::new();
    for record in Records::new(plain, header) {
        let record = record?;
        if keep(&record) {
            kept.push(record);
        }
    }
    if kept.is_empty() {
        return Ok(Remains::Nothing);
    }
    let all = i32::try_from(kept.len()) == Ok(header.record_count);
    let horizon_ms = horizon_ms.filter(|_| header.delete_horizon_ms().is_none());
    if all && horizon_ms.is_none() {
        return Ok(Remains::Unchanged);
    }
    // A stamp too far from the horizon for an i64: then the batch keeps its deletions for ever.
    let rebased = horizon_ms.and_then(|horizon_ms| rebase(header, horizon_ms, &kept));
    if all && rebased.is_none() {
        return Ok(Remains::Unchanged);
    }
    let horizon_bit = if rebased.is_some() { DELETE_HORIZON_BIT } else { 0 };
    let (base_timestamp, deltas) = rebased.unwrap_or_else(|| {
        (header.base_timestamp, kept.iter().map(|record| record.timestamp_delta).collect())
    });
    let mut batch = vec![0; HEADER_BYTES];
    for (record, timestamp_delta) in kept.iter().zip(deltas) {
        let Record { attributes, offset_delta, key, value, .. } = *record;
        let fields = Fields { attributes, timestamp_delta, offset_delta, key, value };
        fields.put(record.headers.clone(), &mut batch);
    }
    let highest = kept.iter().map(|record| header.timestamp_of(record.timestamp_delta)).max();
    let new = BatchHeader {
        attributes: header.attributes | horizon_bit,
        base_timestamp,
        max_timestamp: highest.unwrap_or(header.max_timestamp),
        record_count: i32::try_from(kept.len()).unwrap_or(header.record_count),
        ..*header
    };
    let batch = finish(new, compression, batch);
    if batch.len() > RECORD_BATCH_BYTES {
        return Ok(Remains::Unchanged);
    }
    Ok(Remains::Batch(batch))
}

/// The deltas of the records from another base timestamp.
fn rebase(header: &BatchHeader, base: i64, kept: &[Record<'_>]) -> Option<(i64, Vec<i64>)> {
    let delta = |record: &Record<'_>| {
        header.base_timestamp.checked_add(record.timestamp_delta)?.checked_sub(base)
    };
    Some((base, kept.iter().map(delta).collect::<Option<_>>()?))
}

/// A batch without records that keeps the offsets and the producer of `header`.
#[must_use]
pub fn emptied(header: &BatchHeader) -> Vec<u8> {
    let empty = BatchHeader {
        attributes: header.attributes & !(DELETE_HORIZON_BIT | 0b111),
        base_timestamp: -1,
        max_timestamp: -1,
        record_count: 0,
        ..*header
    };
    finish(empty, Compression::None, vec![0; HEADER_BYTES])
}

/// A batch without records and without a producer in place of the offsets from `first` up to `next`, exclusive, which were
/// written in `leader_epoch`.
///
/// # Panics
/// Unless `first < next <= first + 2^31`.
#[must_use]
pub fn gap(first: Offset, next: Offset, leader_epoch: i32) -> Vec<u8> {
    let last_offset_delta =
        i32::try_from(next - first - 1).ok().filter(|delta| *delta >= 0).expect("callers bound it");
    let empty = BatchHeader {
        base_offset: first,
        batch_length: 0,
        leader_epoch,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta,
        base_timestamp: -1,
        max_timestamp: -1,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: 0,
    };
    finish(empty, Compression::None, vec![0; HEADER_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, assign, crc_matches, plain_records, set_log_append_time};
    use crate::types::LeaderEpoch;

    const CODECS: [Compression; 5] = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];

    fn sample(codec: Compression) -> Vec<u8> {
        let mut builder = BatchBuilder::new(1_000).compression(codec).producer(9, 2, 40);
        builder.push(1_000, Some(b"a"), Some(b"1"), &[("n", b"v"), ("n", b"")]);
        builder.push(7_000, Some(b"b"), None, &[]);
        builder.push(3_000, Some(b"c"), Some(&[7; 100]), &[]);
        let mut batch = builder.build();
        assign(&mut batch, 100, LeaderEpoch(6));
        batch
    }

    type Owned = (i32, i64, Option<Vec<u8>>, Option<Vec<u8>>, usize);

    fn owned(batch: &[u8]) -> (BatchHeader, Vec<Owned>) {
        assert!(crc_matches(batch));
        let header = BatchHeader::parse(batch).unwrap();
        assert_eq!(header.total_bytes(), batch.len());
        let plain = plain_records(batch, &header).unwrap();
        let records = Records::new(&plain, &header).map(|record| {
            let record = record.unwrap();
            (
                record.offset_delta,
                header.timestamp_of(record.timestamp_delta),
                record.key.map(<[u8]>::to_vec),
                record.value.map(<[u8]>::to_vec),
                record.headers.count(),
            )
        });
        (header, records.collect())
    }

    fn retained(batch: &[u8], horizon_ms: Option<i64>, keep: &[i32]) -> Remains {
        let header = BatchHeader::parse(batch).unwrap();
        let plain = plain_records(batch, &header).unwrap();
        retain(&header, &plain, horizon_ms, |record| keep.contains(&record.offset_delta)).unwrap()
    }

    #[test]
    fn what_stays_of_a_batch_keeps_its_place_its_time_and_its_producer() {
        for codec in CODECS {
            let batch = sample(codec);
            let (before, records) = owned(&batch);
            assert_eq!(retained(&batch, None, &[0, 1, 2]), Remains::Unchanged);
            assert_eq!(retained(&batch, None, &[]), Remains::Nothing);
            for horizon_ms in [None, Some(123_456)] {
                let Remains::Batch(left) = retained(&batch, horizon_ms, &[0, 2]) else { panic!() };
                let (after, kept) = owned(&left);
                assert_eq!(kept, [records[0].clone(), records[2].clone()], "{codec}");
                assert_eq!(after.delete_horizon_ms(), horizon_ms);
                assert_eq!(after.compression(), Ok(codec));
                let unchanged = |h: &BatchHeader| {
                    let producer = (h.producer_id, h.producer_epoch, h.base_sequence);
                    (h.base_offset, h.last_offset_delta, h.leader_epoch, producer)
                };
                assert_eq!(unchanged(&after), unchanged(&before));
                assert_eq!((after.max_timestamp, after.record_count), (3_000, 2));
            }
        }
    }

    #[test]
    fn a_horizon_is_set_once_and_moves_no_timestamp() {
        let batch = sample(Compression::Zstd);
        let (_, records) = owned(&batch);
        let Remains::Batch(first) = retained(&batch, Some(50_000), &[0, 1, 2]) else { panic!() };
        let (header, kept) = owned(&first);
        assert_eq!((header.delete_horizon_ms(), &kept), (Some(50_000), &records));
        assert_eq!(retained(&first, Some(90_000), &[0, 1, 2]), Remains::Unchanged);
        let Remains::Batch(second) = retained(&first, Some(90_000), &[1]) else { panic!() };
        let (header, kept) = owned(&second);
        assert_eq!((header.delete_horizon_ms(), &kept[0]), (Some(50_000), &records[1]));
        // No delta reaches from here to there.
        let mut far = BatchBuilder::new(i64::MIN);
        far.push(i64::MIN, Some(b"k"), None, &[]);
        far.push(0, Some(b"k"), None, &[]);
        let far = far.build();
        assert_eq!(retained(&far, Some(1), &[0, 1]), Remains::Unchanged);
        let Remains::Batch(left) = retained(&far, Some(1), &[0]) else { panic!() };
        assert_eq!(owned(&left).0.delete_horizon_ms(), None);
    }

    #[test]
    fn the_time_of_the_append_stays() {
        let mut batch = sample(Compression::None);
        set_log_append_time(&mut batch, 77_000);
        let Remains::Batch(left) = retained(&batch, Some(50_000), &[0]) else { panic!() };
        let (header, kept) = owned(&left);
        assert_eq!((header.max_timestamp, kept[0].1), (77_000, 77_000));
        assert!(header.is_log_append_time());
    }

    #[test]
    fn empty_batches_keep_their_offsets() {
        let header = BatchHeader::parse(&sample(Compression::Lz4)).unwrap();
        let (empty, records) = owned(&emptied(&header));
        assert!(records.is_empty() && !empty.is_gap());
        assert_eq!((empty.base_offset, empty.next_offset()), (100, 103));
        assert_eq!((empty.producer_id, empty.last_sequence()), (9, header.last_sequence()));
        let (gap, records) = owned(&gap(5, 1_000_000, 3));
        assert!(records.is_empty() && gap.is_gap());
        assert_eq!((gap.base_offset, gap.next_offset(), gap.leader_epoch), (5, 1_000_000, 3));
    }
}

use super::*;
use crate::record::{BatchBuilder, assign};
use crate::types::LeaderEpoch;

fn gap(first: Offset, next: Offset) -> (BatchHeader, Bytes) {
    let bytes = Bytes::from(record::gap(first, next, 3));
    (BatchHeader::parse(&bytes).unwrap(), bytes)
}

#[test]
fn a_gap_is_cut_at_the_bounds_of_a_fragment_and_a_batch_with_records_never() {
    let (header, bytes) = gap(10, 30);
    for (range, piece) in [
        ((0, 40), (10, 30)),
        ((10, 30), (10, 30)),
        ((0, 11), (10, 11)),
        ((15, 20), (15, 20)),
        ((29, 31), (29, 30)),
    ] {
        let found = cut(&header, &bytes, range).unwrap();
        assert!(record::crc_matches(&found));
        let found = BatchHeader::parse(&found).unwrap();
        assert_eq!((found.base_offset, found.next_offset()), piece, "{range:?}");
        assert!(found.is_gap() && found.leader_epoch == 3);
    }
    assert_eq!(cut(&header, &bytes, (30, 40)), None);
    assert_eq!(cut(&header, &bytes, (0, 10)), None);
    let mut builder = BatchBuilder::new(1);
    (0..3).for_each(|_| builder.push(1, None, Some(b"v"), &[]));
    let mut batch = builder.build();
    assign(&mut batch, 10, LeaderEpoch(3));
    let (header, batch) = (BatchHeader::parse(&batch).unwrap(), Bytes::from(batch));
    assert_eq!(cut(&header, &batch, (10, 13)), Some(batch.clone()));
    assert_eq!(cut(&header, &batch, (11, 13)), None);
    assert_eq!(cut(&header, &batch, (10, 12)), None);
}

use proptest::prelude::*;

use super::*;

fn header(id: i64, epoch: i16, first: i32, count: i32, base_offset: Offset) -> BatchHeader {
    BatchHeader {
        base_offset,
        batch_length: 100,
        leader_epoch: 0,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta: count - 1,
        base_timestamp: 0,
        max_timestamp: base_offset * 10,
        producer_id: id,
        producer_epoch: epoch,
        base_sequence: first,
        record_count: count,
    }
}

/// Checks, and applies what is to be appended.
fn take(states: &mut ProducerStates, header: &BatchHeader) -> Result<Verdict, ProducerError> {
    let verdict = states.check(header);
    if verdict == Ok(Verdict::Append) {
        states.apply(header, 0, &ProducerRoom::default());
    }
    verdict
}

#[test]
fn a_resent_batch_gets_its_first_answer() {
    let mut states = ProducerStates::default();
    for i in 0..7 {
        assert_eq!(take(&mut states, &header(1, 0, i * 2, 2, i64::from(i))), Ok(Verdict::Append));
    }
    for i in 2..7 {
        let (base_offset, timestamp) = (i64::from(i), i64::from(i) * 10);
        let again = states.check(&header(1, 0, i * 2, 2, 99));
        assert_eq!(again, Ok(Verdict::Duplicate { base_offset, timestamp }));
    }
    // Older than the five, another length, a gap.
    for (first, count) in [(2, 2), (12, 1), (15, 1), (13, 2)] {
        let refused = states.check(&header(1, 0, first, count, 99));
        let expected = ProducerError::OutOfOrder { producer_id: 1, got: first, expected: 14 };
        assert_eq!(refused, Err(expected));
    }
}

#[test]
fn sequences_wrap_to_zero() {
    let mut states = ProducerStates::default();
    let last = i32::MAX;
    assert_eq!(take(&mut states, &header(1, 0, last - 1, 1, 0)), Ok(Verdict::Append));
    assert_eq!(take(&mut states, &header(1, 0, last, 3, 1)), Ok(Verdict::Append));
    assert_eq!(take(&mut states, &header(1, 0, 2, 1, 4)), Ok(Verdict::Append));
    let again = states.check(&header(1, 0, last, 3, 9));
    assert_eq!(again, Ok(Verdict::Duplicate { base_offset: 1, timestamp: 10 }));
    let mut states = ProducerStates::default();
    states.apply(&header(1, 0, last, 1, 0), 0, &ProducerRoom::default());
    assert_eq!(states.check(&header(1, 0, 0, 1, 1)), Ok(Verdict::Append));
}

#[test]
fn epochs_fence_and_begin_at_zero() {
    let mut states = ProducerStates::default();
    assert_eq!(take(&mut states, &header(1, 3, 700, 1, 0)), Ok(Verdict::Append));
    let older = states.check(&header(1, 2, 701, 1, 1));
    assert_eq!(older, Err(ProducerError::InvalidEpoch { producer_id: 1, got: 2, known: 3 }));
    let expected = ProducerError::OutOfOrder { producer_id: 1, got: 701, expected: 0 };
    assert_eq!(states.check(&header(1, 4, 701, 1, 1)), Err(expected));
    assert_eq!(take(&mut states, &header(1, 4, 0, 1, 1)), Ok(Verdict::Append));
    // The batch of the older epoch is no duplicate any more.
    let fenced = ProducerError::InvalidEpoch { producer_id: 1, got: 3, known: 4 };
    assert_eq!(states.check(&header(1, 3, 700, 1, 1)), Err(fenced));
}

#[test]
fn the_longest_unused_producer_makes_room() {
    let room = ProducerRoom::default();
    let mut states = ProducerStates::default();
    for id in 0..PARTITION_PRODUCERS as i64 {
        states.apply(&header(id, 0, 0, 1, id), id, &room);
    }
    states.apply(&header(0, 0, 1, 1, 90_000), 50_000, &room);
    states.apply(&header(70_000, 0, 0, 1, 90_001), 50_001, &room);
    assert_eq!(states.len(), PARTITION_PRODUCERS);
    assert!(matches!(states.check(&header(0, 0, 9, 1, 0)), Err(ProducerError::OutOfOrder { .. })));
    assert_eq!(states.check(&header(1, 0, 9, 1, 0)), Ok(Verdict::Append));
    assert_eq!(states.expire(50_001, 1, &room), PARTITION_PRODUCERS - 2);
    assert_eq!(ProducerStates::restore(states.snapshot()), states);
    assert_eq!(states.expire(60_000, 100, &room), 2);
    assert!(states.is_empty());
    assert_eq!(room.taken(), 0);
}

#[test]
fn all_partitions_together_keep_no_more_producers_than_there_is_room_for() {
    let room = ProducerRoom::new(10, 0);
    let mut partitions = vec![ProducerStates::default(); 30];
    for id in 0..600i64 {
        let states = &mut partitions[id as usize * 7 % 30];
        let first = header(id, 0, 0, 1, id);
        states.apply(&first, id, &room);
        // It is known from here on, whoever made room.
        let again = Verdict::Duplicate { base_offset: id, timestamp: id * 10 };
        assert_eq!(states.check(&first), Ok(again));
        let counted = partitions.iter().map(ProducerStates::counted).sum::<usize>();
        assert_eq!(room.taken(), counted);
        assert!(counted <= 10);
    }
    // Each has the one that wrote last there, whatever the others hold.
    assert_eq!(partitions.iter().map(ProducerStates::len).sum::<usize>(), 40);
    let known = partitions.iter().flat_map(|states| states.newest_batches().into_keys());
    assert_eq!(known.filter(|id| *id >= 570).count(), 30);
    // One that is known displaces none.
    let states = partitions.iter_mut().max_by_key(|states| states.len()).unwrap();
    let (len, id) = (states.len(), *states.newest_batches().keys().max().unwrap());
    states.apply(&header(id, 0, 1, 1, 700), 700, &room);
    assert_eq!((states.len(), room.taken()), (len, 10));
}

#[test]
fn producers_that_expire_or_are_gone_give_their_room_back() {
    let room = ProducerRoom::new(6, 0);
    let mut partitions = vec![ProducerStates::default(); 2];
    let fill = |states: &mut ProducerStates, now_ms| {
        for id in 0..9 {
            states.apply(&header(id, 0, 0, 1, id), now_ms + id, &room);
        }
        states.len()
    };
    assert_eq!(fill(&mut partitions[0], 0), 7);
    assert_eq!(fill(&mut partitions[1], 0), 1);
    // Those that wrote at 2 to 4.
    assert_eq!(partitions[0].expire(105, 100, &room), 3);
    assert_eq!(room.taken(), 3);
    assert_eq!(fill(&mut partitions[1], 100), 4);
    partitions[0].clear(&room);
    assert_eq!(room.taken(), 3);
    assert!(partitions[0].is_empty());
    assert_eq!(partitions[1].expire(1_000, 0, &room), 4);
    assert_eq!(room.taken(), 0);
    assert_eq!(partitions[1].expire(1_000, 0, &room), 0);
    assert_eq!(fill(&mut partitions[1], 0), 7);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Against a model that keeps the whole history of every producer; with a restart in between.
    #[test]
    fn producers_are_judged_as_by_their_whole_history(
        start in prop_oneof![Just(0i32), Just(i32::MAX - 6)],
        steps in proptest::collection::vec((0i64..3, 0i16..3, 0i32..12, 1i32..4), 1..80),
        restart_at in 0usize..80,
    ) {
        let wrap = |sequence: i64| (sequence % (i64::from(i32::MAX) + 1)) as i32;
        let mut states = ProducerStates::default();
        let mut history: Vec<(i64, i16, i32, i32, Offset)> = Vec::new();
        for (i, (id, epoch, back, count)) in steps.into_iter().enumerate() {
            if i == restart_at {
                let stored = serde_json::to_string(&states.snapshot()).unwrap();
                states = ProducerStates::restore(serde_json::from_str(&stored).unwrap());
            }
            let own: Vec<_> = history.iter().filter(|batch| batch.0 == id).collect();
            let next = own.last().map_or(start, |batch| wrap(i64::from(batch.2) + i64::from(batch.3)));
            // Mostly near what is next, now and then a fresh epoch's zero.
            let first = match back {
                0..=5 => next,
                6 => 0,
                _ => wrap((i64::from(next) - i64::from(back - 8)).max(0)),
            };
            let header = header(id, epoch, first, count, i as i64);
            let expected = match own.last() {
                None => Ok(Verdict::Append),
                Some(last) if epoch < last.1 => Err(()),
                Some(last) if epoch > last.1 => if first == 0 { Ok(Verdict::Append) } else { Err(()) },
                Some(last) => {
                    let cached = own.iter().rev().take(5).take_while(|batch| batch.1 == last.1);
                    let same = cached.clone().find(|batch| (batch.2, batch.3) == (first, count));
                    match same {
                        Some(batch) => Ok(Verdict::Duplicate { base_offset: batch.4, timestamp: batch.4 * 10 }),
                        None if first == next => Ok(Verdict::Append),
                        None => Err(()),
                    }
                }
            };
            let verdict = take(&mut states, &header);
            prop_assert_eq!(verdict.map_err(|_| ()), expected);
            if verdict == Ok(Verdict::Append) {
                history.push((id, epoch, first, count, i as i64));
            }
        }
    }
}

use super::*;

fn topic(id: u8, partitions: usize) -> TopicState {
    TopicState {
        id: TopicId([id; 16]),
        name: TopicName::new(&format!("t{id}")).unwrap(),
        revision: 0,
        options: BTreeMap::new(),
        sealed_secret: String::new(),
        partitions: vec![PartitionState::empty(0, LeaderEpoch(0), 0, false); partitions],
    }
}

fn catalogue(most: usize) -> Catalogue {
    let mut catalogue = Catalogue::default();
    for (id, partitions) in [(1, 20), (2, 5)] {
        catalogue.apply(Event::TopicCreated(topic(id, partitions))).unwrap();
    }
    catalogue.bound_producers(most);
    catalogue
}

/// One record of a producer at the end of a partition.
fn append(catalogue: &mut Catalogue, topic: u8, partition: i32, producer_id: i64, now_ms: i64) {
    let id = TopicPartition { topic: TopicId([topic; 16]), partition };
    let header = BatchHeader {
        base_offset: catalogue.partition(id).unwrap().log_end,
        batch_length: 100,
        leader_epoch: 0,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta: 0,
        base_timestamp: now_ms,
        max_timestamp: now_ms,
        producer_id,
        producer_epoch: 0,
        base_sequence: 0,
        record_count: 1,
    };
    catalogue.apply_batch(id, &header, 1, now_ms).unwrap();
}

fn known(catalogue: &Catalogue) -> usize {
    let partitions = catalogue.topics.values().flat_map(|topic| &topic.partitions);
    partitions.map(|partition| partition.producers.len()).sum()
}

fn loaded(catalogue: &Catalogue) -> Catalogue {
    let text = serde_json::to_string(catalogue).unwrap();
    assert!(!text.contains("room"), "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn made_up_producers_do_not_fill_the_memory() {
    let mut catalogue = catalogue(100);
    for id in 0..2_000i64 {
        append(&mut catalogue, 1, (id % 20) as i32, id, id);
    }
    assert_eq!((known(&catalogue), catalogue.producer_room().taken()), (120, 100));
    // Another topic's partitions remember their last one all the same.
    for id in 2_000..2_010 {
        append(&mut catalogue, 2, (id % 5) as i32, id, id);
    }
    assert_eq!((known(&catalogue), catalogue.producer_room().taken()), (125, 100));
}

#[test]
fn producers_are_counted_again_when_a_catalogue_is_loaded() {
    let mut live = catalogue(limits::PRODUCERS);
    for id in 0..300i64 {
        append(&mut live, 1, (id % 17) as i32, id, id);
    }
    assert_eq!(live.producer_room().taken(), 300 - 17);
    assert_eq!(loaded(&live), live);
    // At the bound what runs and what was loaded go on alike, and nothing is lost by loading.
    live.bound_producers(100);
    for id in 300..900i64 {
        append(&mut live, 1, (id * id % 20) as i32, id, id);
        if id % 100 == 0 {
            let mut again = loaded(&live);
            again.bound_producers(100);
            assert_eq!(again, live);
            live = again;
        }
    }
    assert_eq!(live.producer_room().taken(), 100);
}

#[test]
fn what_an_earlier_release_left_is_cut_alike_everywhere() {
    let mut old = catalogue(limits::PRODUCERS);
    for id in 0..200 {
        append(&mut old, 1, 0, id, id);
        append(&mut old, 1, 1, id, id);
    }
    (0..5).for_each(|id| append(&mut old, 1, 2, id, id));
    let mut cut = loaded(&old);
    cut.bound_producers(64);
    assert_eq!(cut.producer_room(), &ProducerRoom::new(64, 64));
    let partitions = &cut.topics[&TopicId([1; 16])].partitions;
    let lens: Vec<usize> = partitions[..4].iter().map(|it| it.producers.len()).collect();
    assert_eq!(lens, [31, 31, 5, 0]);
    assert!(partitions[0].producers.newest_batches().keys().all(|id| *id >= 169));
    // Without any room each keeps its last one.
    cut.bound_producers(0);
    assert_eq!((known(&cut), cut.producer_room().taken()), (3, 0));
}

#[test]
fn deleted_topics_and_expired_producers_give_room_back() {
    let mut catalogue = catalogue(50);
    for id in 0..200i64 {
        append(&mut catalogue, 1, (id % 20) as i32, id, id);
    }
    append(&mut catalogue, 2, 0, 1, 1_000);
    append(&mut catalogue, 2, 0, 2, 1_000);
    assert_eq!(known(&catalogue), 71);
    catalogue.apply(Event::TopicDeleted { topic: TopicId([1; 16]) }).unwrap();
    assert_eq!((known(&catalogue), catalogue.producer_room().taken()), (1, 0));
    (3..99).for_each(|id| append(&mut catalogue, 2, 0, id, 2_000 + id));
    assert_eq!((known(&catalogue), catalogue.producer_room().taken()), (51, 50));
    // All but the last ten.
    catalogue.expire_producers(2_089 + PRODUCER_AGE_MS);
    assert_eq!((known(&catalogue), catalogue.producer_room().taken()), (10, 9));
    catalogue.expire_producers(9_000 + PRODUCER_AGE_MS);
    assert_eq!((known(&catalogue), catalogue.producer_room().taken()), (0, 0));
    assert_eq!(loaded(&catalogue).producer_room().taken(), 0);
}

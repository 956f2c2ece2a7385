use super::super::proof::scenario::open;
use super::super::{Data, NewTopic, ReadWithin};
use super::*;
use crate::disk::sim::SimDisk;
use crate::record::BatchBuilder;

fn batch(timestamp: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(timestamp);
    builder.push(timestamp, None, Some(b"value"), &[]);
    builder.build()
}

/// As between a batch's way to its segment and the move of the high watermark; on a bulk path for longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_segment_has_above_the_high_watermark_is_not_shown() {
    let broker = open(&SimDisk::new()).unwrap();
    let plain = NewTopic { name: "t".to_owned(), partitions: 1, options: Vec::new() };
    let topic = broker.create_topic(plain).await.unwrap();
    let partition = topic.partition(0).unwrap();
    partition.append(batch(1_000).into(), Origin::Kafka).unwrap().await.unwrap();
    let shown = partition.read(0, 10_000).await.unwrap();
    let mut early = batch(2_000);
    record::assign(&mut early, 1, partition.leader_epoch());
    partition.log.write().unwrap().append(&early, 0).unwrap();
    partition.set_log_end(2);
    assert_eq!(partition.read(0, 10_000).await.unwrap(), shown);
    assert_eq!(partition.read(1, 10_000).await.unwrap(), Bytes::new());
    assert!(matches!(
        partition.read_within(1, 1).await,
        Ok(ReadWithin::Data(Data::Bytes(none))) if none.is_empty()
    ));
    assert!(matches!(
        partition.read(2, 10_000).await,
        Err(ReadError::OutOfRange { requested: 2, start: 0, end: 1 })
    ));
    assert_eq!(partition.offset_for_timestamp(1_500).await.unwrap(), None);
    assert_eq!(partition.max_timestamp().await.unwrap().unwrap().timestamp_ms, 1_000);
    assert_eq!(partition.epoch_end(partition.leader_epoch()).unwrap().end, 1);
    let marks = partition.watermarks();
    assert_eq!((marks.high_watermark, marks.log_end), (1, 2));
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_id_that_leaves_none_above_it_is_refused() {
    let broker = open(&SimDisk::new()).unwrap();
    let plain = NewTopic { name: "t".to_owned(), partitions: 1, options: Vec::new() };
    let topic = broker.create_topic(plain).await.unwrap();
    let partition = topic.partition(0).unwrap();
    let batch = |producer| {
        let mut builder = BatchBuilder::new(1).producer(producer, 0, 0);
        builder.push(1, None, Some(b"value"), &[]);
        builder.build().into()
    };
    for producer in [limits::PRODUCER_IDS, i64::MAX] {
        let refused = partition.append(batch(producer), Origin::Kafka).err().unwrap();
        assert!(matches!(refused, AppendError::UnknownProducerId { .. }), "{refused}");
    }
    let last = partition.append(batch(limits::PRODUCER_IDS - 1), Origin::Kafka);
    assert_eq!(last.unwrap().await.unwrap().base_offset, 0);
    broker.stop();
}

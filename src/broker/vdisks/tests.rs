use std::path::PathBuf;

use prometheus_client::registry::Registry;

use super::*;
use crate::broker::{Adopted, DataDir, Metrics};
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::record::vdisk::Place;
use crate::types::ClusterId;

fn start(disk: &SimDisk) -> Arc<Broker> {
    let path = PathBuf::from("/data");
    let disk = Arc::new(disk.clone()) as Arc<dyn Disk>;
    let mut data_dir = DataDir::open(disk, &path, [5; 16]).unwrap();
    let cluster = ClusterId::from_random([1; 16]);
    data_dir.settle(cluster).unwrap();
    let metrics = Metrics::new(&mut Registry::default());
    let mut config = crate::broker::Config::new(path);
    config.keep_reserve = false;
    Broker::open(config, &data_dir, Adopted::default(), cluster, None, metrics).unwrap()
}

fn open(broker: &Arc<Broker>, stop: &CancellationToken) -> Arc<Vdisks> {
    let config =
        Config { flush_size: 3, flush_time: Duration::from_secs(25), default_block_size: 4096 };
    Vdisks::new(Arc::clone(broker), config, 1 << 20, stop.clone())
}

fn name() -> TopicName {
    TopicName::new("disk-1").unwrap()
}

fn block(sequence: u64, content: u8) -> Block {
    Block {
        sequence,
        place: Place::Bytes { offset: sequence * 512, size: 512 },
        operation: 1,
        hash: [content; 32],
        timestamp: 1_500_541_200,
        data: vec![content; 512].into(),
    }
}

async fn attach(vdisks: &Arc<Vdisks>, attachment: Attachment) -> Result<(Writer, u64), Refusal> {
    let Attaching { attached, writer } = vdisks.attach(&name(), attachment).await.unwrap();
    attached.await.unwrap().map(|last_flushed| (writer, last_flushed))
}

fn by_first(first_sequence: u64) -> Attachment {
    Attachment::FirstSequence { first_sequence, reset: false }
}

async fn send(vdisks: &Vdisks, writer: &Writer, blocks: Vec<Block>) {
    let permit = vdisks.broker().reserve(1000).await;
    assert!(writer.send(Input::Blocks(blocks, permit)).await);
}

/// The next `count` answers.
async fn answers(writer: &mut Writer, count: usize) -> Vec<Answer> {
    let mut found = Vec::new();
    while found.len() < count {
        match writer.outbox.recv().await.unwrap() {
            Outbound::Answers(answers) => found.extend(answers),
            Outbound::Close(reason) => panic!("{reason}"),
        }
    }
    found
}

fn received(sequences: std::ops::Range<u64>) -> Vec<Answer> {
    sequences.map(Answer::Received).collect()
}

fn partition(broker: &Broker) -> Arc<Partition> {
    Arc::clone(broker.topic("disk-1").unwrap().partition(0).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_records_at_the_offset_of_their_sequence() {
    let broker = start(&SimDisk::new());
    let vdisks = open(&broker, &CancellationToken::new());
    let (mut writer, _) = attach(&vdisks, by_first(10)).await.unwrap();
    send(&vdisks, &writer, (10..14).map(|sequence| block(sequence, 1)).collect()).await;
    assert_eq!(answers(&mut writer, 4).await, received(10..14));

    let partition = partition(&broker);
    assert_eq!(partition.options().block_size, Some(512));
    assert_eq!(partition.watermarks().log_start, 10);
    let bytes = partition.read(10, 1 << 20).await.unwrap();
    let mut next = 10;
    for batch in Batches::new(&bytes) {
        let (header, batch) = batch.unwrap();
        let plain = plain_records(batch, &header).unwrap();
        for record in Records::new(&plain, &header) {
            let record = record.unwrap();
            let stored = StoredBlock::parse(&record).unwrap();
            assert_eq!(header.base_offset + i64::from(record.offset_delta), next);
            assert_eq!(stored.sequence, Some(next.cast_unsigned()));
            assert_eq!(stored.start, next.cast_unsigned() * 512);
            assert_eq!(header.timestamp_of(record.timestamp_delta), 1_500_541_200_000);
            next += 1;
        }
    }
    assert_eq!(next, 14);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_follows_the_shipped_offset() {
    let broker = start(&SimDisk::new());
    let vdisks = open(&broker, &CancellationToken::new());
    let (mut writer, last_flushed) = attach(&vdisks, Attachment::LastFlushed).await.unwrap();
    assert_eq!(last_flushed, 0);
    send(&vdisks, &writer, (1..5).map(|sequence| block(sequence, 1)).collect()).await;
    assert_eq!(answers(&mut writer, 4).await, received(1..5));
    partition(&broker).move_watermarks(|marks| marks.shipped = 5);
    assert_eq!(answers(&mut writer, 1).await, [Answer::Flushed(vec![1, 2, 3])]);
    assert!(writer.send(Input::ForceFlush(4)).await);
    assert_eq!(
        answers(&mut writer, 2).await,
        [Answer::ForceFlushReceived, Answer::Flushed(vec![4])]
    );
    assert_eq!(attach(&vdisks, Attachment::LastFlushed).await.unwrap_err(), Refusal::Busy);
    writer.detach().await;
    assert_eq!(attach(&vdisks, Attachment::LastFlushed).await.unwrap().1, 4);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_runs_and_block_size_survive_a_restart() {
    let disk = SimDisk::new();
    let broker = start(&disk);
    let stop = CancellationToken::new();
    let vdisks = open(&broker, &stop);
    let (mut writer, _) = attach(&vdisks, by_first(0)).await.unwrap();
    send(&vdisks, &writer, vec![block(0, 1), block(1, 2)]).await;
    assert_eq!(answers(&mut writer, 2).await, received(0..2));
    stop.cancel();
    while writer.outbox.recv().await.is_some() {}
    broker.stop();
    drop((vdisks, broker));

    let broker = start(&disk);
    let vdisks = open(&broker, &CancellationToken::new());
    let (mut writer, _) = attach(&vdisks, by_first(1)).await.unwrap();
    send(&vdisks, &writer, vec![block(1, 2), block(2, 3)]).await;
    let mut both = answers(&mut writer, 2).await;
    both.sort_by_key(|answer| format!("{answer:?}"));
    assert_eq!(both, received(1..3), "a duplicate read from the log, and the next one");
    assert_eq!(partition(&broker).options().block_size, Some(512));
    send(&vdisks, &writer, vec![block(0, 99)]).await;
    let outbound = writer.outbox.recv().await.unwrap();
    let Outbound::Close(CloseReason::Conflict { sequence: 0 }) = outbound else {
        panic!("{outbound:?}");
    };
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_of_the_older_family_evicts_the_one_before() {
    let broker = start(&SimDisk::new());
    let vdisks = open(&broker, &CancellationToken::new());
    let (mut first, _) = attach(&vdisks, by_first(0)).await.unwrap();
    let (mut second, _) = attach(&vdisks, by_first(0)).await.unwrap();
    let outbound = first.outbox.recv().await.unwrap();
    assert!(matches!(outbound, Outbound::Close(CloseReason::Superseded)), "{outbound:?}");
    send(&vdisks, &second, vec![block(0, 1)]).await;
    assert_eq!(answers(&mut second, 1).await, received(0..1));
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_client_loses_its_place_and_the_vdisk_goes_on() {
    let broker = start(&SimDisk::new());
    let vdisks = open(&broker, &CancellationToken::new());
    let (writer, _) = attach(&vdisks, by_first(0)).await.unwrap();
    // Each is answered by itself, and none is read.
    for _ in 0..=OUTBOX {
        assert!(writer.send(Input::WaitSlaveSync).await);
    }
    let (_next, _) = attach(&vdisks, Attachment::LastFlushed).await.unwrap();
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_topics_are_no_vdisks() {
    let broker = start(&SimDisk::new());
    let vdisks = open(&broker, &CancellationToken::new());
    let request =
        crate::broker::NewTopic { name: "disk-1".to_owned(), partitions: 2, options: Vec::new() };
    broker.create_topic(request).await.unwrap();
    let refused = vdisks.attach(&name(), by_first(0)).await;
    assert!(matches!(refused, Err(AttachError::Topic(VdiskTopicError::NotAVdisk { .. }))));
    let refused = vdisks.attach(&name(), by_first(u64::MAX)).await;
    assert!(matches!(refused, Err(AttachError::Refused(Refusal::FirstSequence))));
    broker.stop();
}
